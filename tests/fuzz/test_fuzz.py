"""A few damaged files for each reader; `python -m tests.fuzz` reads 100,000 of each."""

import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.damages import deflated
from tests.fuzz.targets import MAKERS, attempt, make_target

N_INPUTS = {"manifest": 60, "clinical": 60, "dicom": 150, "masks": 60, "images": 200}


@pytest.fixture(scope="module", params=list(MAKERS))
def reader(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    target = make_target(request.param, folder)
    for name in target.valid:
        (folder / name).unlink(missing_ok=True)
    return request.param, target, folder


def test_a_valid_file_is_read(reader):
    _, target, folder = reader
    for file, content in target.valid.items():
        (folder / file).write_bytes(content)
        if file == "deflated.dcm":
            (folder / file).write_bytes(deflated(content))
        assert target.read(folder / file) is not False, file
        (folder / file).unlink()


@pytest.mark.parametrize("share", [0.1, pytest.param(1, marks=pytest.mark.slow)])
def test_damaged_files_are_read_or_refused_in_words(reader, share):
    name, target, folder = reader

    @settings(max_examples=int(share * N_INPUTS.get(name, 300)), deadline=None, database=None, derandomize=True,
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
        ("parameters", "labels={x}; rm -rf"),
        ("settings", "horizons_years: 2020-13-45"),
    ],
)
def test_what_was_found_before(name, content, tmp_path):
    target = make_target(name, tmp_path)
    path = tmp_path / next(iter(target.valid))
    path.write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(target.allowed):
        target.read(path)


def test_a_slice_whose_place_is_no_number(tmp_path):
    target = make_target("dicom", tmp_path)
    path = tmp_path / "plain.dcm"
    path.write_bytes(target.valid["plain.dcm"].replace(b"-50.0\\-40.0", b"nan  \\-40.0"))
    assert target.read(path) is False


def test_damage_changes_most_files(reader):
    _, target, _ = reader
    for content in target.valid.values():
        assert sum(target.damage(content, random.Random(seed)) != content for seed in range(100)) > 80
