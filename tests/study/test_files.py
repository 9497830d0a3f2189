"""A copied folder holds the same files, and the rights that the umask gives."""

import os
import stat

import pytest

from sscct_lib.study.files import copy_folder


@pytest.mark.parametrize(("umask", "allowed"), [(0o077, 0o700), (0o027, 0o750)])
def test_copies_have_the_rights_of_the_umask_and_left_out_names_stay_behind(tmp_path, umask, allowed):
    origin = tmp_path / "origin"
    for name in ("a.html", "inner/b.txt", "inner/c.map", "skipped/d.txt"):
        (origin / name).parent.mkdir(parents=True, exist_ok=True)
        (origin / name).write_text(name)
        (origin / name).chmod(0o666)
    for folder in (origin, origin / "inner"):
        folder.chmod(0o777)
    before = os.umask(umask)
    try:
        copy_folder(origin, tmp_path / "copy", ("*.map", "skipped"))
        copy_folder(origin, tmp_path / "copy", ("*.map", "skipped"))
    finally:
        os.umask(before)
    copied = {path.relative_to(tmp_path / "copy").as_posix() for path in (tmp_path / "copy").rglob("*")}
    assert copied == {"a.html", "inner", "inner/b.txt"}
    assert (tmp_path / "copy" / "inner" / "b.txt").read_text() == "inner/b.txt"
    for path in (tmp_path / "copy", *(tmp_path / "copy").rglob("*")):
        assert stat.S_IMODE(path.stat().st_mode) & ~allowed == 0
