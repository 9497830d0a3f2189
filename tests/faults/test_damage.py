"""What is damaged, lost or full is named; nothing that was finished is lost, and nothing stale is kept."""

import json
import os
import resource
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest

from sscct_lib.cli.app import run_shard
from sscct_lib.cohort.manifest import read_manifest
from sscct_lib.images import prepare
from sscct_lib.lungs.segment import load_lungs
from sscct_lib.study.files import NoRoomError, atomic, remove_partials
from sscct_lib.study.folder import StudyError
from sscct_lib.study.recovery import LockedError, alone, set_aside
from sscct_lib.study.results import process
from sscct_lib.study.schemas import IMAGES
from sscct_lib.study.tables import read_table, write_table
from tests.tiny_study import sscct


@pytest.fixture
def study(study_of, manifest_frame, write_image):
    """Return a study of four scans, with one shard read."""
    study = study_of(manifest_frame)
    rng = np.random.default_rng(0)
    for name in manifest_frame["image"]:
        write_image(study.folder / name, rng.normal(-500, 300, (12, 12, 12)))
    run_shard(study, read_manifest(study), "images", 0)
    return study


def flip(path, place=-40):
    content = bytearray(path.read_bytes())
    content[place] ^= 64
    path.write_bytes(content)


class TestImages:
    def test_a_finished_run_is_sound(self, study):
        assert set_aside(study) == []

    @pytest.mark.parametrize("damage", ["gone", "empty"])
    def test_a_result_that_is_gone_or_empty_is_named_and_made_again(self, study, damage):
        before = study.image("a2").read_bytes()
        study.image("a2").unlink() if damage == "gone" else study.image("a2").write_bytes(b"")
        *_, line = set_aside(study)
        assert "runs/main/shards/images_0000.csv: the files of 1 scan(s) are gone, a2 among them" in line
        run_shard(study, read_manifest(study), "images", 0)
        assert study.image("a2").read_bytes() == before
        assert set_aside(study) == []

    @pytest.mark.parametrize("damage", ["flipped", "truncated"])
    def test_a_damaged_result_stops_its_reader_and_is_made_again(self, study, damage):
        path, before = study.image("b1"), study.image("b1").read_bytes()
        path.write_bytes(before[:-200]) if damage == "truncated" else flip(path)
        with pytest.raises(StudyError, match=r"images/b1\.nii\.gz .* the next `sscct run` makes it again"):
            load_lungs(study, "b1")
        assert len(set_aside(study)) == 1
        run_shard(study, read_manifest(study), "images", 0)
        assert path.read_bytes() == before

    def test_what_a_killed_process_left_is_hidden_and_goes_with_a_later_run(self, study, monkeypatch):
        def killed(*args, **options):
            os.kill(os.getpid(), signal.SIGKILL)

        folder = study.image("a1").parent
        study.image("a1").unlink()
        child = os.fork()
        if child == 0:
            monkeypatch.setattr(prepare.igzip, "compress", killed)
            run_shard(study, read_manifest(study), "images", 0)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
        left = [path for path in folder.iterdir() if path.name.startswith(".")]
        assert len(left) >= 1
        assert {path.name for path in folder.iterdir()} - {path.name for path in left} == {
            f"{name}.nii.gz" for name in ("a2", "b1", "c1")
        }
        for path in left:
            os.utime(path, (time.time() - 2 * 3600,) * 2)
        remove_partials(study.folder)
        run_shard(study, read_manifest(study), "images", 0)
        assert sorted(path.name for path in folder.iterdir()) == [f"{name}.nii.gz" for name in ("a1", "a2", "b1", "c1")]

    def test_a_source_that_changed_after_listing_is_set_aside_by_its_checksum(self, study_of, manifest_frame, study):
        flip(study.folder / "scans" / "a1.nii.gz")
        listed = manifest_frame.assign(sha256=["0" * 64, "", "", ""])
        table = run_shard(study_of(listed), read_manifest(study_of(listed)), "images", 0).set_index("scan_id")
        assert table.loc["a1", "status"] == "failed"
        assert "the manifest says 000000000000" in table.loc["a1", "reason"]
        assert (table.drop("a1")["status"] == "ok").all()


class TestTables:
    def test_every_flipped_bit_of_a_table_is_found(self, study):
        frame = prepare.prepare_scans(study, pd.read_csv(study.manifest_path))
        path = study.table("images")
        write_table(frame, study, "images", IMAGES)
        whole = path.read_bytes()
        for place in np.linspace(4, len(whole) - 5, 60).astype(int):
            path.write_bytes(whole)
            flip(path, place)
            try:
                kept = read_table(study, "images", IMAGES)
            except StudyError:
                continue
            pd.testing.assert_frame_equal(kept, frame)  # the bit means nothing

    def test_a_damaged_table_is_set_aside_under_a_name_of_its_own(self, study):
        frame = prepare.prepare_scans(study, pd.read_csv(study.manifest_path))
        for _ in range(2):
            write_table(frame, study, "images", IMAGES)
            study.table("images").write_bytes(study.table("images").read_bytes()[:300])
            (line,) = set_aside(study)
            assert "tables/images.parquet: damaged, or not as you made it" in line
            assert not study.table("images").exists()
        assert sorted(path.name for path in (study.run / "damaged").iterdir()) == ["images.parquet", "images.parquet.1"]

    @pytest.mark.parametrize("name", ["notebooks/01_cohort.ipynb", "shards/lungs_0000.csv"])
    def test_other_results_that_were_cut_short(self, study, name):
        path = study.run / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("")
        (line,) = set_aside(study)
        assert name in line
        assert not path.exists()

    def test_a_record_whose_numbers_changed_is_not_believed(self, study):
        path = study.run / "records" / "images" / "a1.json"
        record = json.loads(path.read_text())
        path.write_text(path.read_text().replace('"size": "12 12 12"', '"size": "12 12 13"'))
        run_shard(study, read_manifest(study), "images", 0)
        assert json.loads(path.read_text()) == record


class TestNoRoom:
    def test_a_full_disk_stops_the_stage_and_keeps_what_is_finished(self, study):
        """The limit on the size of a file stands for a disk that fills up."""
        study.image("c1").unlink()
        (study.run / "records" / "images" / "c1.json").unlink()
        (study.run / "shards" / "images_0000.csv").unlink()
        told, tell = os.pipe()
        child = os.fork()
        if child == 0:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
            done = sscct("shard", study.folder, "--index", "0", "--until", "01_cohort")
            os.write(tell, f"{type(done.exception).__name__} {done.exit_code}: {done.output}".encode())
            os._exit(0)
        os.close(tell)
        os.waitpid(child, 0)
        words = os.read(told, 10_000).decode()
        assert words.startswith("SystemExit 1: ")
        assert "c1.nii.gz cannot be written" in words
        assert "What is finished is kept" in words
        assert not study.image("c1").exists()
        assert study.image("b1").is_file()
        assert not (study.run / "shards" / "images_0000.csv").exists()
        assert [path.name for path in (study.run / "images").iterdir() if path.name.startswith((".", "tmp"))] == []
        assert (run_shard(study, read_manifest(study), "images", 0)["status"] == "ok").all()

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
    def test_a_folder_that_must_not_be_written_to(self, tmp_path):
        (tmp_path / "closed").mkdir(mode=0o500)
        refused = pytest.raises(NoRoomError, match=r"table\.csv cannot be written \(Permission denied\)")
        with refused, atomic(tmp_path / "closed" / "table.csv") as partial:
            partial.write_text("x")

    def test_a_worker_that_is_killed_for_memory_costs_no_finished_scan(self, study):
        def hungry(study, row):
            if row["scan_id"] == "b1" and not (study.folder / "again").exists():
                (study.folder / "again").touch()
                os.kill(os.getpid(), signal.SIGKILL)  # as the kernel does when memory ends
            return {"n": 1}

        rows = pd.DataFrame({"scan_id": ["a1", "b1"], "patient_id": ["a", "b"]})
        child = os.fork()
        if child == 0:
            process(study, "images", hungry, rows, "m", lambda row: [], folder=study.run / "records" / "m")
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
        assert (study.run / "records" / "m" / "a1.json").is_file()
        table = process(study, "images", hungry, rows, "m", lambda row: [], folder=study.run / "records" / "m")
        assert table["n"].tolist() == [1, 1]

    def test_memory_that_ends_inside_a_scan_is_no_verdict_on_it(self, study):
        def hungry(study, row):
            raise MemoryError("Unable to allocate 4 GiB")

        rows = pd.DataFrame({"scan_id": ["a1"], "patient_id": ["a"]})
        table = process(study, "images", hungry, rows, "m", lambda row: [], folder=study.run / "records" / "m")
        assert table["status"].tolist() == ["failed"]
        assert not (study.run / "records" / "m" / "a1.json").exists()


class TestTwoRuns:
    def test_the_second_is_refused_in_words_and_a_killed_first_leaves_no_lock(self, study):
        program = "import sys, time\nfrom pathlib import Path\nfrom sscct_lib.study.recovery import alone\n"
        program += "with alone(Path(sys.argv[1])):\n    print('held', flush=True)\n    time.sleep(60)\n"
        lock = study.folder / ".sscct.lock"
        with subprocess.Popen([sys.executable, "-c", program, lock], stdout=subprocess.PIPE, text=True) as holder:
            assert holder.stdout.readline() == "held\n"
            second = sscct("run", study.folder, "--until", "01_cohort")
            assert second.exit_code == 1
            assert f"Another run works on this study (process {holder.pid}, since" in second.output
            with pytest.raises(LockedError), alone(lock):
                pass
            holder.kill()
        with alone(lock):
            pass

    def test_waiting(self, tmp_path):
        program = "import sys, time\nfrom pathlib import Path\nfrom sscct_lib.study.recovery import alone\n"
        program += "with alone(Path(sys.argv[1])):\n    print('held', flush=True)\n    time.sleep(0.5)\n"
        command = [sys.executable, "-c", program, tmp_path / "lock"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
            assert holder.stdout.readline() == "held\n"
            start = time.monotonic()
            with alone(tmp_path / "lock", wait=True):
                assert time.monotonic() - start > 0.2


class TestClockAndPlace:
    @pytest.mark.parametrize("seconds", [-10 * 365 * 86400, 365 * 86400])
    def test_a_clock_that_jumps_changes_no_result(self, study, seconds):
        before = study.image("a1").read_bytes()
        for path in study.run.rglob("*"):
            os.utime(path, (time.time() + seconds,) * 2)
        assert set_aside(study) == []
        table = run_shard(study, read_manifest(study), "images", 0)
        assert (table["status"] == "ok").all()
        assert study.image("a1").read_bytes() == before

    def test_a_study_that_was_moved_keeps_its_results(self, study, tmp_path_factory, monkeypatch):
        from sscct_lib.study.folder import load_study

        place = tmp_path_factory.mktemp("elsewhere") / "moved"
        study.folder.rename(place)
        monkeypatch.setattr(prepare, "read_scan", lambda *_: pytest.fail("made again"))
        assert (run_shard(load_study(place), read_manifest(load_study(place)), "images", 0)["status"] == "ok").all()
        place.rename(study.folder)
