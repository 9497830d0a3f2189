"""Small studies on disk for the tests."""

import os
from collections import Counter
from pathlib import Path

# Tests side by side keep the processors busy: none starts more workers or threads of its own, which would wait for each
# other. Said before numpy is imported, whose algebra asks but once; jobs of Snakemake set the number of theirs.
os.environ |= {"LOKY_MAX_CPU_COUNT": "1", "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"} | os.environ

from sscct_lib.study.code import cache_folder

# Where commands keep compiled code: what a test compiles is not compiled again by the processes that others start.
os.environ.setdefault("NUMBA_CACHE_DIR", str(cache_folder() / "numba"))

import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk
from hypothesis import settings

from sscct_lib.study.disclosure import protect
from sscct_lib.study.folder import Study, load_study
from sscct_lib.study.recovery import alone
from sscct_lib.study.settings import DisclosureSettings
from tests import tiny_study

# No deadline, since a busy machine is no fault of the code. Where `CI` is set, the same examples each time: a change is
# judged there, and chance finds its faults elsewhere.
settings.register_profile("sscct", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("sscct")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the largest file that needs the finished study; other processes do slow ones that need none meanwhile.

    The others that need it follow, few long tests before many short ones. Files of quick tests alone come last, so that
    the processes end together.
    """
    needing = Counter(item.path for item in items if "finished" in getattr(item, "fixturenames", ()))
    first = needing.most_common(1)[0][0] if needing else None
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    # Before all, what watches the peak of memory: not every kernel forgets the higher one that other tests had.
    watching = {item for item in items if "little_memory" in getattr(item, "fixturenames", ())}
    items.sort(key=lambda item: (item not in watching, item.path != first, item.path not in slow, needing[item.path]))


@pytest.fixture(autouse=True)
def shown_as_usual() -> None:
    """Let no test show smaller counts because one before it opened a study that does."""
    protect(DisclosureSettings().minimum)


@pytest.fixture
def manifest_frame() -> pd.DataFrame:
    """Return a valid manifest of three patients with four scans, as text."""
    return pd.DataFrame(
        {
            "scan_id": ["a1", "a2", "b1", "c1"],
            "patient_id": ["a", "a", "b", "c"],
            "scan_date": ["2015-01-01", "2016-01-01", "2014-05-05", "2017-03-01"],
            "image": [f"scans/{name}.nii.gz" for name in ("a1", "a2", "b1", "c1")],
            "last_contact_date": ["2018-01-01", "2018-01-01", "2020-05-05", "2017-09-01"],
            "event_observed": ["1", "1", "0", "0"],
            "age_years": ["50", "51", "60.5", ""],
            "sex": ["female", "female", "male", "female"],
        }
    )


@pytest.fixture
def study_of(tmp_path: Path):
    """Return a function that writes a study folder with a manifest and gives the study."""

    def make(manifest: pd.DataFrame, settings: str = "title: test\ncohort: {n_folds: 2}\n") -> Study:
        (tmp_path / "study.yaml").write_text(settings)
        manifest.to_csv(tmp_path / "data_manifest.csv", index=False)
        return load_study(tmp_path)

    return make


@pytest.fixture
def write_image():
    """Return a function that writes an array [z, y, x] as an int16 NIfTI file."""

    def write(path: Path, array: np.ndarray, spacing_mm: float = 4.0) -> Path:
        image = sitk.GetImageFromArray(array.astype(np.int16))
        image.SetSpacing((spacing_mm,) * 3)
        path.parent.mkdir(parents=True, exist_ok=True)
        sitk.WriteImage(image, str(path))
        return path

    return write


@pytest.fixture(scope="session")
def finished(tmp_path_factory, worker_id: str) -> Study:
    """Run the tiny study end to end, once for all tests and all of their processes; no test may change it."""
    own = tmp_path_factory.getbasetemp()
    shared = (own if worker_id == "master" else own.parent) / "tiny"
    with alone(shared / "lock", wait=True):
        if not (shared / "done").is_file():
            tiny_study.finish(shared / "study")
            (shared / "done").touch()
    return load_study(shared / "study")


@pytest.fixture
def copied(finished: Study, tmp_path: Path) -> Study:
    """Copy the finished study, with file times, for tests that change it."""
    return tiny_study.copy(finished, tmp_path / "copy")


@pytest.fixture
def little_memory():
    """Fail where a test takes 150 MB more, at any moment, than the process had before it."""
    reset = Path("/proc/self/clear_refs")
    if not reset.exists():
        pytest.skip("the peak of memory is measured on Linux alone")
    reset.write_text("5")  # forgets the peak so far
    before = _memory_mb("VmRSS")
    yield
    assert _memory_mb("VmHWM") - before < 150


def _memory_mb(name: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 1024
