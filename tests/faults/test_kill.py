"""`kill -9` at random moments: a few tries; `python -m tests.faults.kill` makes many, of all stages."""

import pytest

from tests.faults.kill import STUDY, Row, try_all, try_stage

pytestmark = pytest.mark.slow

TRIES = {"demo": 1, "ingest": 1, "images": 2, "lungs": 2, "workflow": 1}
TWO_SHARDS = STUDY.replace("n_patients: 12", "n_patients: 12, n_scans: 12")


def test_what_was_killed_goes_on_to_the_same_results(tmp_path):
    rows = []

    def attempt(folder, stage, how):
        rows.append(try_stage(folder, stage, how, TRIES[stage]))

    try_all(tmp_path, set(TRIES), attempt, TWO_SHARDS)
    assert rows == [Row(stage, tries) for stage, tries in TRIES.items()]


def test_a_result_that_differs_is_seen(tmp_path):
    """The comparison itself: a stage that goes on from half a result is wrong."""
    from tests.faults.kill import forked

    (tmp_path / "before").mkdir()
    (tmp_path / "before" / "study.yaml").write_text("title: x\n")

    def appends(study, seconds):
        def work():
            import time

            for _ in range(5):
                with (study.folder / "lines.txt").open("a") as file:
                    file.write("x\n")
                time.sleep(0.1)

        return forked(work, seconds)

    row = try_stage(tmp_path / "before", "appends", appends, 3)
    assert row.tries == 3
    assert row.wrong > 0
