"""A few damaged files for each reader; `python -m tests.fuzz` reads 100,000 of each."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.targets import MAKERS, attempt, damage, make_target

N_INPUTS = {"manifest": 60, "clinical": 60, "dicom": 150, "images": 200}


@pytest.fixture(scope="module", params=list(MAKERS))
def reader(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    target = make_target(request.param, folder)
    for name in target.valid:
        (folder / name).unlink(missing_ok=True)
    return request.param, target, folder


def test_a_valid_file_is_read(reader):
    name, target, folder = reader
    for file, content in target.valid.items():
        (folder / file).write_bytes(content)
        if name != "dicom":  # one slice is no scan, and no mask
            target.read(folder / file)
        (folder / file).unlink()


def test_damaged_files_are_read_or_refused_in_words(reader):
    name, target, folder = reader

    @settings(max_examples=N_INPUTS.get(name, 300), deadline=None, database=None, derandomize=True,
              suppress_health_check=list(HealthCheck))  # fmt: skip
    @given(seed=st.integers(0, 2**32))
    def damaged(seed):
        assert attempt(target, folder, seed) in ("read", "refused")

    damaged()


def test_damage_changes_most_files():
    import random

    content = bytes(range(256)) * 4
    assert sum(damage(content, random.Random(seed)) != content for seed in range(100)) > 90
