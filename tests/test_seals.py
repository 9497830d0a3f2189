import pytest

from sscct_lib.seals import remove_unless_sealed, seal


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    (tmp_path / "kept" / "inner").mkdir(parents=True)
    (tmp_path / "kept" / "environment.pickle").write_bytes(b"\x80\x04.")
    (tmp_path / "kept" / "inner" / "a.doctree").write_bytes(b"a")
    return tmp_path / "kept"


def test_what_its_user_sealed_is_kept(folder):
    seal(folder)
    assert not remove_unless_sealed(folder)
    assert folder.is_dir()


@pytest.mark.parametrize("change", ["content", "name", "more", "less", "no seal", "empty seal"])
def test_anything_else_is_removed(folder, change):
    seal(folder)
    mark = folder.with_name("kept.seal")
    {
        "content": lambda: (folder / "environment.pickle").write_bytes(b"\x80\x05."),
        "name": lambda: (folder / "inner" / "a.doctree").rename(folder / "inner" / "b.doctree"),
        "more": lambda: (folder / "inner" / "b.doctree").write_bytes(b""),
        "less": lambda: (folder / "inner" / "a.doctree").unlink(),
        "no seal": mark.unlink,
        "empty seal": lambda: mark.write_text(""),
    }[change]()
    assert remove_unless_sealed(folder)
    assert not folder.exists()
    assert not mark.exists()


def test_a_seal_of_another_user_is_not_believed(folder, tmp_path, monkeypatch):
    seal(folder)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "other"))
    assert remove_unless_sealed(folder)


def test_a_link_is_removed_and_not_followed(folder, tmp_path):
    seal(folder)
    (tmp_path / "link").symlink_to(folder)
    assert remove_unless_sealed(tmp_path / "link")
    assert (folder / "environment.pickle").is_file()
    assert not remove_unless_sealed(tmp_path / "missing")


def test_the_key_is_its_owners_alone(folder, tmp_path):
    seal(folder)
    assert (tmp_path / "config" / "sscct" / "seal.key").stat().st_mode & 0o777 == 0o600
