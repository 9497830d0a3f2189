"""`kill -9` at random moments: a few tries; `python -m tests.faults.kill` makes many, of all stages."""

import pytest

from tests.faults.kill import attempt_run, attempt_scans, make_study, try_stage

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return make_study(tmp_path_factory.mktemp("kill") / "study")


@pytest.mark.parametrize("stage", ["images", "lungs"])
def test_a_killed_shard_goes_on_where_it_was(study, stage):
    from sscct_lib.stages import run_shard

    row = try_stage(study.folder, stage, attempt_scans, 3)
    assert (row.tries, row.lost, row.wrong) == (3, 0, 0)
    run_shard(study, stage, 0)


def test_a_killed_workflow_is_not_locked_and_gives_the_same_tables(study):
    row = try_stage(study.folder, "01_cohort", attempt_run, 1, seed=1)
    assert (row.tries, row.lost, row.wrong) == (1, 0, 0)
