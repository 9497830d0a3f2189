import os

import pandas as pd
import pytest

from sscct_lib import scans
from sscct_lib.files import atomic
from sscct_lib.scans import ScanError, code_files, process, shard


@pytest.fixture
def study(study_of, manifest_frame):
    return study_of(manifest_frame)


ROWS = pd.DataFrame({"scan_id": ["a1", "a2", "b1"], "patient_id": ["a", "a", "b"], "value": [1, 2, 3]})


class Doubling:
    """Doubles a value, fails as told, and counts its calls."""

    def __init__(self, bad=(), broken=()):
        self.bad, self.broken, self.calls = bad, broken, []

    def __call__(self, study, row):
        self.calls.append(row["scan_id"])
        if row["scan_id"] in self.bad:
            raise ScanError("found nothing; expected something")
        if row["scan_id"] in self.broken:
            raise MemoryError("too large")
        return {"double": row["value"] * 2}


def run(study, function, rows=ROWS, settings="s", files=()):
    return process(study, "cohort", function, rows, settings, lambda row: list(files))


def test_results_come_in_order_and_finished_ones_are_kept(study):
    function = Doubling()
    first = run(study, function)
    second = run(study, function)
    assert first["double"].tolist() == [2, 4, 6]
    pd.testing.assert_frame_equal(first, second)
    assert function.calls == ["a1", "a2", "b1"]


def test_a_bad_scan_is_set_aside_and_the_rest_go_on(study):
    function = Doubling(bad=["a2"])
    result = run(study, function)
    assert result["status"].tolist() == ["ok", "failed", "ok"]
    assert result["reason"].tolist() == ["", "found nothing; expected something", ""]
    run(study, function)
    assert len(function.calls) == 3, "a verdict on the data is final until the data change"


def test_an_unexpected_failure_is_tried_again(study):
    function = Doubling(broken=["a2"])
    assert run(study, function)["reason"].tolist()[1] == "unexpected MemoryError: too large"
    function.broken = ()
    assert run(study, function)["status"].tolist() == ["ok"] * 3
    assert function.calls == ["a1", "a2", "b1", "a2"]


def test_changed_settings_rows_files_or_code_make_results_again(study, tmp_path, monkeypatch):
    function = Doubling()
    file = tmp_path / "x"
    run(study, function, files=[file])
    run(study, function, settings="t", files=[file])
    assert len(function.calls) == 6
    run(study, function, rows=ROWS.assign(value=[1, 2, 9]), settings="t", files=[file])
    assert function.calls[6:] == ["b1"]
    file.write_text("now there")
    run(study, function, settings="t", files=[file])
    assert len(function.calls) == 10
    monkeypatch.setattr(scans, "code_hash", lambda module: "edited")
    run(study, function, settings="t", files=[file])
    assert len(function.calls) == 13


def test_a_damaged_record_is_made_again(study):
    function = Doubling()
    run(study, function)
    record = study.run / "records" / "cohort" / "a2.json"
    record.write_text(record.read_text()[:20])
    assert run(study, function)["double"].tolist() == [2, 4, 6]
    assert function.calls[3:] == ["a2"]


def test_a_removed_output_is_made_again(study, tmp_path):
    function, made = Doubling(bad=["b1"]), tmp_path / "made"

    def outputs(row):
        return [made / row["scan_id"]]

    made.mkdir()
    for scan_id in ("a1", "a2"):
        (made / scan_id).write_text("made")
    process(study, "cohort", function, ROWS, "o", lambda row: [], outputs=outputs)
    (made / "a1").unlink()
    process(study, "cohort", function, ROWS, "o", lambda row: [], outputs=outputs)
    assert function.calls[3:] == ["a1"]


@pytest.mark.filterwarnings("error::UserWarning")  # a warning would stand in the book
def test_workers_give_the_same_table(study):
    parallel = process(study, "cohort", Doubling(), ROWS, "p", lambda row: [], n_jobs=2)
    pd.testing.assert_frame_equal(parallel, run(study, Doubling()))


def test_code_files_follow_imports():
    names = {path.stem for path in code_files("cohort")}
    assert {"cohort", "study", "schemas"} <= names
    assert "cli" not in names


def test_shards_tile_the_manifest():
    parts = [shard(ROWS, index, 2) for index in range(2)]
    pd.testing.assert_frame_equal(pd.concat(parts), ROWS)


def test_what_a_killed_process_left_is_removed_later(tmp_path):
    old, fresh, other = (
        tmp_path / f".partial-0000000{i}-{name}" for i, name in enumerate(("a[1].csv", "a[1].csv", "b.csv"))
    )
    for path in (old, fresh, other):
        path.write_text("half")
    os.utime(old, (0, 0))
    os.utime(other, (0, 0))
    with atomic(tmp_path / "a[1].csv") as partial:
        partial.write_text("whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([fresh.name, other.name, "a[1].csv"])


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("old")

    def interrupted():
        with atomic(path) as partial:
            partial.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
