"""The copy of the settings beside the images, and what is taken from it on a new NAS."""

from pathlib import Path

import pytest

from angiovault.dsm import settings
from angiovault.dsm.paths import Nas
from angiovault.inifile import read_file
from harness import synology

FULL = """[dicom]
ae-title = HYBRID-OR
port = 11113
unknown-devices = refuse
[archive]
storage = /volume1/angiography/archive
archive-id = 0123456789abcdef0123456789abcdef
index = mysql://angio%40vault:p%40ss%3Aw0rd!@/angiovault?unix_socket=/run/mysqld/mysqld10.sock
[log]
log-level = debug
[device zeego]
ae-title = ZEEGO
host = 192.168.1.20
port = 104
"""


@pytest.fixture
def nas(tmp_path: Path) -> Nas:
    nas = synology.make(tmp_path)
    nas.settings.write_text(FULL, encoding="utf-8")
    return nas


@pytest.fixture
def storage(nas: Nas) -> Path:
    storage = synology.share(nas) / "archive"
    (storage / ".angiovault").mkdir(parents=True)
    return storage


def test_settings_without_a_storage_have_none(nas: Nas) -> None:
    assert settings.read(nas).storage == Path("/volume1/angiography/archive")
    nas.settings.write_text("")
    assert settings.read(nas).storage is None


def test_the_copy_holds_everything_but_the_password(nas: Nas, storage: Path) -> None:
    copy = settings.back_up(nas, storage)
    text = copy.read_text(encoding="utf-8")
    assert "mysql://angio%40vault@/angiovault?unix_socket=/run/mysqld/mysqld10.sock" in text
    assert "w0rd" not in text
    assert "w0rd" in nas.settings.read_text()
    parser = read_file(copy)
    assert parser.get("device zeego", "host") == "192.168.1.20"
    assert parser.get("dicom", "port") == "11113"
    assert copy.stat().st_mode & 0o077 == 0


def test_a_copy_that_is_up_to_date_is_not_written(nas: Nas, storage: Path) -> None:
    copy = settings.back_up(nas, storage)
    before = settings.signature(copy)
    settings.back_up(nas, storage)
    assert settings.signature(copy) == before
    nas.settings.write_text(FULL.replace("zeego", "artis"), encoding="utf-8")
    settings.back_up(nas, storage)
    assert read_file(copy).sections()[-1] == "device artis"
    assert not read_file(copy).has_section("device zeego")


@pytest.mark.parametrize(
    ("index", "shown"),
    [
        ("", ""),
        ("sqlite:////volume1/index", "sqlite:////volume1/index"),
        ("mysql://u:p@host:3306/d", "mysql://u@host:3306/d"),
        ("mysql://u@/d?unix_socket=/s", "mysql://u@/d?unix_socket=/s"),
    ],
)
def test_every_kind_of_index(nas: Nas, storage: Path, index: str, shown: str) -> None:
    nas.settings.write_text(f"[archive]\nindex = {index}\n")
    assert read_file(settings.back_up(nas, storage)).get("archive", "index") == shown


def test_no_folder_is_made_where_the_archive_is_away(nas: Nas) -> None:
    with pytest.raises(FileNotFoundError):
        settings.back_up(nas, nas.root / "volume1/angiography/archive")
    assert not (nas.root / "volume1/angiography").exists()


def test_on_a_new_nas_everything_comes_back(nas: Nas, storage: Path) -> None:
    settings.back_up(nas, storage)
    nas.settings.write_text("[archive]\nindex = mysql://a@/b?unix_socket=/c\n")
    said = [str(text) for text in settings.restore(nas, storage)]
    assert said == [
        "Taken from the copy: ae-title, port, unknown-devices, log-level.",
        "Taken from the copy: device zeego.",
    ]
    parser = read_file(nas.settings)
    assert parser.get("dicom", "ae-title") == "HYBRID-OR"
    assert parser.get("archive", "index") == "mysql://a@/b?unix_socket=/c"
    assert not parser.has_option("archive", "storage")
    assert not parser.has_option("archive", "archive-id")
    assert list(settings.restore(nas, storage)) == []  # once more


def test_what_is_set_stays(nas: Nas, storage: Path) -> None:
    settings.back_up(nas, storage)
    nas.settings.write_text(
        "[dicom]\nae-title = NEW\nport = 11112\n[device ZEEGO]\nae-title = OTHER\nhost = 10.0.0.1\n"
    )
    list(settings.restore(nas, storage))
    parser = read_file(nas.settings)
    assert parser.get("dicom", "ae-title") == "NEW"
    assert parser.get("dicom", "port") == "11113"  # which was only the default
    assert parser.get("device ZEEGO", "host") == "10.0.0.1"
    assert not parser.has_section("device zeego")


def test_what_cannot_be_used_is_said_and_left_out(nas: Nas, storage: Path) -> None:
    copy = settings.back_up(nas, storage)
    text = copy.read_text(encoding="utf-8").replace("port = 11113", "port = many").replace("host = 192", "host = /192")
    copy.write_text(text + "[tls]\ntls-port = 2762\ntls-certificate = cert.pem\ntls-key = key.pem\n")
    nas.settings.write_text("")
    said = "\n".join(str(line) for line in settings.restore(nas, storage))
    assert "Not taken from the copy: port: " in said
    assert "Not taken from the copy: device zeego: " in said
    assert "Not taken from the copy: tls-port: cert.pem, key.pem" in said
    assert settings.read(nas).config.ae_title == "HYBRID-OR"
    for name in ("cert.pem", "key.pem"):
        (nas.etc / name).touch()
    list(settings.restore(nas, storage))
    assert settings.read(nas).config.tls_port == 2762


def test_an_earlier_installations_settings_are_taken_over(nas: Nas, storage: Path) -> None:
    """They go on with the archive, before the new one's settings are copied in their place."""
    assert settings.take_over(nas, storage) == []  # there is no copy
    settings.back_up(nas, storage)
    nas.settings.write_text("[dicom]\nartim-timeout = 5\n")
    assert settings.take_over(nas, storage)
    settings.back_up(nas, storage)
    now = settings.read(nas).config
    assert (now.ae_title, now.port, now.artim_timeout) == ("HYBRID-OR", 11113, 5)
    assert read_file(nas.settings).has_section("device zeego")


def test_a_copy_that_cannot_be_read_is_not_written_over(nas: Nas, storage: Path) -> None:
    copy = settings.back_up(nas, storage)
    copy.write_text("no settings at all")
    (said,) = settings.take_over(nas, storage)
    assert said.key == "setting_not_restored"
    settings.back_up(nas, storage)
    assert copy.with_suffix(".unreadable").read_text() == "no settings at all"
    assert "HYBRID-OR" in copy.read_text()


def test_without_a_copy_nothing_changes(nas: Nas, storage: Path) -> None:
    assert [text.key for text in settings.restore(nas, storage)] == ["no_copy"]
    assert nas.settings.read_text(encoding="utf-8") == FULL
