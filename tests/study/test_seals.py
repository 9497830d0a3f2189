"""A run is believed by its maker alone: content, place and key, whatever times and sizes say."""

import hashlib
import hmac
import json
import os
import shutil
import stat
from concurrent.futures import ThreadPoolExecutor
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sscct_lib.study import seals
from sscct_lib.study.files import NoRoomError, atomic
from sscct_lib.study.folder import StudyError
from sscct_lib.study.recovery import refuse_strange, set_aside


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Return a run of a study in which four files were written."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.delenv(seals.KEY_VARIABLE, raising=False)
    (tmp_path / "study.yaml").write_text("")
    run = tmp_path / "runs" / "main"
    for name in ("tables/cohort.parquet", "images/a.nii.gz", "images/b.nii.gz", "models/deep/a.safetensors"):
        with atomic(run / name) as partial:
            partial.write_text(f"content of {name}")
    return run


def test_what_was_written_is_believed_and_nothing_else(run):
    assert seals.unsealed(run) == []
    (run / "models" / "stranger.skops").write_text("x")
    (run / "logs").mkdir()
    (run / "logs" / "said.log").write_text("x")
    (run / "images" / ".partial-1-c.nii.gz").write_text("x")
    assert seals.unsealed(run) == ["models/stranger.skops"]
    assert seals.unsealed(run, "tables") == []


@pytest.mark.parametrize("name", ["tables/cohort.parquet", "images/a.nii.gz"])
def test_same_size_and_times_help_nobody(run, name):
    path = run / name
    before = path.stat()
    path.write_text(path.read_text().replace("content", "forgery"))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size
    assert seals.unsealed(run) == [name]


def test_a_file_in_the_place_of_another_is_not_believed(run):
    shutil.copy2(run / "images" / "b.nii.gz", run / "images" / "a.nii.gz")
    assert seals.unsealed(run) == ["images/a.nii.gz"]


def test_what_lies_behind_a_linked_folder_is_not_believed(run, tmp_path, study_of, manifest_frame):
    study = study_of(manifest_frame)
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "clinical.skops").write_text("x")
    (run / "models" / "tabular").symlink_to(tmp_path / "theirs")
    assert seals.unsealed(run) == ["models/tabular"]
    with pytest.raises(StudyError, match=r"1 file\(s\) of runs/main are damaged, or not as you made them"):
        refuse_strange(study)
    set_aside(study)
    assert not (run / "models" / "tabular").exists()
    assert (tmp_path / "theirs" / "clinical.skops").is_file()


def test_a_copy_of_a_study_is_believed_and_then_not_read_again(run, tmp_path, monkeypatch):
    copy = tmp_path / "copy" / "runs" / "main"
    shutil.copytree(run, copy)
    shutil.copy(tmp_path / "study.yaml", tmp_path / "copy")
    assert seals.unsealed(copy) == []
    (copy / "tables" / "cohort.parquet").unlink()  # tables are read each time
    monkeypatch.setattr(seals, "checksum", lambda path: pytest.fail(f"{path} was read again"))
    assert seals.unsealed(copy) == []


def test_another_key_makes_all_of_it_strange(run, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "other"))
    assert len(seals.unsealed(run)) == 4


def test_people_may_share_a_key(run, tmp_path, monkeypatch):
    monkeypatch.setenv(seals.KEY_VARIABLE, str(tmp_path / "config" / "sscct" / "seal.key"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "other"))
    assert seals.unsealed(run) == []


@pytest.mark.parametrize("change", ["name", "digest", "times", "mark", "none", "not JSON"])
def test_a_seal_cannot_be_changed(run, change):
    ledger = run / seals.LEDGER
    line = next(line for line in ledger.read_bytes().splitlines() if b"images/a" in line)
    others = [other for other in ledger.read_bytes().splitlines() if other != line]
    mark, _, said = line.partition(b" ")
    name, digest, *times = json.loads(said)
    (run / name).write_text("forged")
    forged = hashlib.sha256(b"forged").hexdigest()
    line = {
        "name": line.replace(b"images/a", b"images/c"),
        "digest": line.replace(digest.encode(), forged.encode()),
        "times": line.replace(str(times[1]).encode(), str((run / name).stat().st_mtime_ns).encode()),
        "mark": hmac.digest(b"", json.dumps([name, forged, *times]).encode(), "sha256").hex().encode() + b" " + said,
        "none": b"",
        "not JSON": mark + b" {",
    }[change]
    ledger.write_bytes(b"\n".join([*others, line]))
    assert seals.unsealed(run) == ["images/a.nii.gz"]


def test_a_line_that_a_kill_cut_short_costs_itself_alone(run):
    ledger = run / seals.LEDGER
    ledger.write_bytes(ledger.read_bytes()[:-20])
    with atomic(run / "images" / "c.nii.gz") as partial:
        partial.write_text("c")
    assert seals.unsealed(run) == ["models/deep/a.safetensors"]


def test_processes_that_write_at_once_lose_no_seal(run):
    def write(number):
        with atomic(run / "records" / "images" / f"{number}.json") as partial:
            partial.write_text(str(number))
        return seals.unsealed(run)

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(write, range(80))) == [[]] * 80


def test_a_study_inside_a_folder_that_is_called_runs_is_no_run(tmp_path):
    study = tmp_path / "runs" / "mine"
    with atomic(study / "study.yaml") as partial:
        partial.write_text("")
    assert [path.name for path in study.iterdir()] == ["study.yaml"]


def test_the_key_is_its_owners_alone(run, tmp_path):
    key = tmp_path / "config" / "sscct" / "seal.key"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert stat.S_IMODE(key.parent.stat().st_mode) == 0o700
    assert len(key.read_bytes()) == seals.KEY_BYTES
    key.chmod(0o644)
    with pytest.raises(OSError, match="chmod 600"):
        seals.user_key()
    key.chmod(0o600)
    key.write_bytes(b"short")
    with pytest.raises(OSError, match="has 5 bytes; expected a key of 32"):
        seals.user_key()
    key.write_bytes(b"the seals of our registry, since 2004")
    with pytest.raises(OSError, match=r"is a sentence, and could be guessed.*: remove it, and a random key is made"):
        seals.user_key()


@pytest.mark.parametrize("has_links", [True, False])
def test_a_secret_is_written_whole_and_never_replaced(tmp_path, monkeypatch, has_links):
    def refuse(*_: object) -> None:
        raise OSError("no links here")

    if not has_links:
        monkeypatch.setattr(os, "link", refuse)
    seals.write_secret(tmp_path / "keys" / "a.key", b"first")
    with pytest.raises(FileExistsError):
        seals.write_secret(tmp_path / "keys" / "a.key", b"second")
    assert [(path.name, path.read_bytes()) for path in (tmp_path / "keys").iterdir()] == [("a.key", b"first")]
    assert stat.S_IMODE((tmp_path / "keys" / "a.key").stat().st_mode) == 0o600


def test_no_place_for_a_key_is_said(run, monkeypatch, study_of, manifest_frame):
    study = study_of(manifest_frame)
    monkeypatch.setenv("XDG_CONFIG_HOME", "/dev/null/none")
    with pytest.raises(NoRoomError, match=seals.KEY_VARIABLE), atomic(study.run / "tables" / "x.parquet") as partial:
        partial.write_text("x")
    (study.run / "tables").mkdir(parents=True, exist_ok=True)
    (study.run / "tables" / "x.parquet").write_text("x")
    with pytest.raises(StudyError, match="let SSCCT_KEY name a file that you may write"):
        refuse_strange(study)


class TestRuns:
    @pytest.fixture
    def study(self, study_of, manifest_frame):
        study = study_of(manifest_frame)
        names = (
            "tables/cohort.parquet",
            "models/tabular/a.skops",
            "models/deep/a.json",
            "provenance/03_radiomics.json",
        )
        for name in (*names, "provenance/04_deep_models.json"):
            with atomic(study.run / name) as partial:
                partial.write_text(name)
        return study

    def test_what_is_strange_is_set_aside_with_the_record_that_vouched_for_it(self, study):
        (study.run / "models" / "tabular" / "a.skops").write_text("forged")
        (study.run / "models" / "tabular" / "b.skops").write_text("forged")
        with pytest.raises(StudyError, match=r"^2 file\(s\) of runs/main are damaged, or not as you made them, models"):
            refuse_strange(study)
        (line,) = set_aside(study)
        assert line.startswith(
            "runs/main/models/tabular/a.skops: damaged, or not as you made it. Set aside in damaged/"
        )
        assert line.endswith("with 1 more of models/.")
        assert not list((study.run / "models" / "tabular").iterdir())
        assert [path.name for path in (study.run / "provenance").iterdir()] == ["04_deep_models.json"]
        refuse_strange(study)
        assert set_aside(study) == []

    def test_a_run_of_somebody_else_is_refused_whole_and_left_as_it_is(self, study, monkeypatch, tmp_path):
        monkeypatch.setenv(seals.KEY_VARIABLE, str(tmp_path / "key"))
        before = sorted(study.run.rglob("*"))
        for look in (refuse_strange, set_aside):
            with pytest.raises(StudyError, match=r"runs/main was not made by you, or not with this key.*sscct adopt"):
                look(study)
        assert sorted(study.run.rglob("*")) == before

    def test_risks_that_people_give_need_no_seal(self, study):
        path = study.table("predictions/elsewhere")
        path.parent.mkdir()
        path.write_text("x")
        refuse_strange(study)

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may read anything")
    def test_a_table_that_cannot_be_read_for_a_moment_stays(self, study):
        study.table("cohort").chmod(0)
        with pytest.raises(StudyError, match=r"cohort\.parquet cannot be looked at: Permission denied"):
            set_aside(study)
        study.table("cohort").chmod(0o600)
        assert set_aside(study) == []


@given(st.integers(0, 2**64))
def test_random_keys_are_good_however_they_are_written(seed):
    random = Random(seed)
    content = random.randbytes(32)
    for key in (content, content.hex().encode(), content.hex().upper().encode(), random.randbytes(16).hex().encode()):
        assert seals.weakness(key) == ""


GUESSED = {
    "the quick brown fox jumps over the lazy dog": "is a sentence",
    "Schlüssel für die Studie der Lungen in Basel": "is a sentence",
    "1 2 3 4 5 6 7 8 9 0 a b c d e f g h i": "is a sentence",
    "correct-horse-battery-staple-and-more": "is made of words",
    "CorrectHorseBatteryStapleAndMoreWords": "is made of words",
    "CORRECT_HORSE_BATTERY_STAPLE_AND_MORE": "is made of words",
    "the_key_of_our_study_is_for_us_all": "is made of words",
    "p4ssw0rdp4ssw0rdp4ssw0rdp4ssw0rd": "repeats itself",
    "aaaaaaaaaaaaaaaabbbbbbbbbbbbbbbb": "repeats itself",
    "abababbabaabbababbababababbaabab": "repeats itself",
    "zyxwvutsrq0123456789ABCDEFGHIJKL": "goes through the alphabet",
    "ABC123DEF456GHI789JKL012MNO345PQR678": "goes through the alphabet",
    "83920174659201836475019283746501": "is too short",
}


@pytest.mark.parametrize("key", GUESSED)
def test_what_people_think_of_is_no_key(key):
    assert GUESSED[key] in seals.weakness(key.encode())
