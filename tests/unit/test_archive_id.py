"""With the setting archive-id only that archive is the archive, and none is ever made."""

from pathlib import Path

import pytest

from angiovault import cli
from angiovault.archive.archive import Archive
from angiovault.archive.store import NotMounted, Store
from angiovault.config import Config, load
from angiovault.indexurl import IndexURL
from angiovault.inifile import ConfigError

OTHER = "0123456789abcdef" * 2


@pytest.fixture
def made(tmp_path: Path) -> str:
    """The id of an archive in the folder `archive`."""
    return Store(tmp_path / "archive").create()


def _index(tmp_path: Path, engine: str) -> IndexURL:
    """Return an empty index, or one that cannot be asked."""
    if engine == "sqlite":
        return IndexURL("sqlite", path=tmp_path / "index")
    return IndexURL("mysql", user="u", password="p", database="d", unix_socket=str(tmp_path / "no socket"))


@pytest.mark.parametrize("engine", ["sqlite", "mysql"])
def test_a_folder_without_the_archive_is_not_mounted(tmp_path: Path, engine: str) -> None:
    for storage in (tmp_path / "empty", tmp_path / "missing"):
        archive = Archive(storage, _index(tmp_path, engine), expected_id=OTHER)
        (tmp_path / "empty").mkdir(exist_ok=True)
        with pytest.raises(NotMounted, match="is the volume or shared folder mounted"):
            archive.open(create=True)
        with pytest.raises(NotMounted, match="no other is made"):
            archive.store.create()
    assert list((tmp_path / "empty").iterdir()) == []
    assert not (tmp_path / "missing").exists()


@pytest.mark.parametrize("engine", ["sqlite", "mysql"])
def test_another_archive_is_not_mounted(tmp_path: Path, engine: str, made: str) -> None:
    archive = Archive(tmp_path / "archive", _index(tmp_path, engine), expected_id=OTHER)
    with pytest.raises(NotMounted, match=f"holds archive {made} instead of {OTHER}"):
        archive.open()
    with pytest.raises(NotMounted):
        archive.check()
    assert not (tmp_path / "index").exists()


@pytest.mark.parametrize("engine", ["sqlite", "mysql"])
def test_the_archive_itself_is_opened(tmp_path: Path, engine: str, made: str) -> None:
    archive = Archive(tmp_path / "archive", _index(tmp_path, engine), expected_id=made)
    archive.open()
    archive.check()
    archive.close()


def test_the_setting(tmp_path: Path) -> None:
    assert Config().archive_id == ""
    file = tmp_path / "angiovault.ini"
    file.write_text(f"[archive]\narchive-id = {OTHER.upper()}\n")
    assert load(file).archive_id == OTHER
    for wrong in ("nonsense", OTHER[:-1], OTHER + "0", "g" * 32):
        file.write_text(f"[archive]\narchive-id = {wrong}\n")
        with pytest.raises(ConfigError, match="32 hexadecimal digits"):
            load(file)


def test_every_command_obeys(tmp_path: Path, made: str, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "angiovault.ini"
    text = f"[archive]\nstorage = archive\narchive-id = {OTHER}\n"
    file.write_text(text)
    (tmp_path / "sent").mkdir()
    for command in (["verify"], ["reindex"], ["status"], ["import", str(tmp_path / "sent")]):
        assert cli.main([*command, "--config", str(file)]) == 1
        said = capsys.readouterr()
        assert f"instead of {OTHER}" in said.out + said.err
    file.write_text(text.replace(OTHER, made))
    assert cli.main(["import", str(tmp_path / "sent"), "--config", str(file)]) == 0
    assert cli.main(["verify", "--config", str(file)]) == 0
