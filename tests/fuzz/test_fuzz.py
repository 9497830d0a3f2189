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


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("clinical", "patient_id,last_contact_date,event_observed\na,2018-01-01,1,1,1\n"),
        ("clinical", "patient_id,last_contact_date,event_observed\na,b,2018-01-01,5\n"),
        ("decisions", "scan_id,verdict,who,when,why\na1,pass,AB,2024-01-01,\udc80\n"),
        ("parameters", "01_cohort.labels={x}; rm -rf"),
        ("settings", "horizons_years: 2020-13-45"),
    ],
)
def test_what_was_found_before(name, content, tmp_path):
    target = make_target(name, tmp_path)
    path = tmp_path / next(iter(target.valid))
    path.write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(target.allowed):
        target.read(path)


def test_geometry_that_is_no_number(tmp_path):
    target = make_target("dicom", tmp_path)
    for path in tmp_path.iterdir():
        path.unlink()
    assert attempt(target, tmp_path, 13973) == "refused"


def test_damage_changes_most_files():
    import random

    content = bytes(range(256)) * 4
    assert sum(damage(content, random.Random(seed)) != content for seed in range(100)) > 90
