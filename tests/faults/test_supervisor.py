"""The supervisor of the NAS package: what it keeps running, what it waits for, and how it ends."""

import configparser
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from unittest.mock import Mock

import pytest
from pydicom.uid import generate_uid

from angiovault import jsonfile
from angiovault.dsm import running
from angiovault.dsm.panel import PanelOnDemand
from angiovault.dsm.paths import Nas
from angiovault.dsm.shares import Place
from angiovault.dsm.supervisor import Supervisor
from angiovault.reloading import Loading
from faults import instances
from harness import synology
from harness.dcmtk import echoscu, findscu, storescu
from harness.processes import Background, program
from harness.synology import Supervised
from harness.upper_layer import RawPeer, data_set
from harness.waiting import wait_until


@pytest.fixture
def nas() -> Iterator[Nas]:
    root = synology.short_folder()
    yield synology.make(root)
    shutil.rmtree(root)


@pytest.fixture
def start(nas: Nas, servers: ExitStack) -> Callable[..., Supervised]:
    """Start the supervisor with the parameters of `Supervised`."""

    def started(settings: str = "", **parameters: object) -> Supervised:
        return servers.enter_context(Supervised(nas, settings, **parameters))  # type: ignore[arg-type]

    return started


def _setting(nas: Nas, name: str) -> str:
    parser = configparser.ConfigParser(interpolation=None)
    parser.read(nas.settings)
    return parser.get("archive", name, fallback="")


def _is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX"


def _in_share(nas: Nas) -> list[str]:
    return sorted(path.name for path in (nas.root / "volume1/angiography").iterdir())


def test_the_first_start_finds_the_share_and_makes_the_archive(nas: Nas, start: Callable[..., Supervised]) -> None:
    synology.share(nas)
    supervisor = start()
    said = supervisor.wait_for("running")
    assert said["pid"] == supervisor.pid
    assert said["message"]
    assert said["message_zh"]
    echoscu(supervisor.peer).ok()
    assert _setting(nas, "storage") == str(nas.share_link / "archive")
    marker = (nas.root / "volume1/angiography/archive/.angiovault/archive.json").read_text()
    assert len(_setting(nas, "archive-id")) == 32
    assert _setting(nas, "archive-id") in marker
    health = supervisor.health()
    assert health["pid"] == supervisor.service
    assert (health["ae_title"], health["bind"], health["port"]) == ("ANGIOVAULT", "127.0.0.1", supervisor.port)
    assert (health["tls_port"], health["problems"]) == (0, {})
    for path in (nas.health, nas.state):
        assert path.stat().st_mode & 0o077 == 0
    assert running.supervisor(nas) == supervisor.pid

    service = supervisor.service
    began = time.monotonic()
    supervisor.stop()
    assert time.monotonic() - began < 10
    assert not _is_alive(service)
    assert running.supervisor(nas) == 0
    assert running.state(nas) == {"state": "stopped"}
    assert not nas.health.exists()
    assert "Traceback" not in supervisor.log_text()


def test_a_crashed_service_is_started_again_each_time_a_little_later(
    nas: Nas, start: Callable[..., Supervised]
) -> None:
    synology.share(nas)
    supervisor = start()
    pauses = []
    for count in range(1, 4):
        supervisor.wait_for("running")
        service = supervisor.service
        os.kill(service, signal.SIGKILL)
        began = time.monotonic()
        wait_until(lambda service=service: supervisor.service not in (0, service), "a new service")
        pauses.append(time.monotonic() - began)
        assert supervisor.state()["restarts"] == count
    assert pauses[0] > 0.9
    assert pauses[1] > 1.9
    assert pauses[2] > 3.9
    supervisor.wait_for("running")
    echoscu(supervisor.peer).ok()
    assert "SIGKILL" in supervisor.log_text()


def test_a_killed_supervisor_takes_the_service_along(nas: Nas, start: Callable[..., Supervised]) -> None:
    synology.share(nas)
    supervisor = start()
    supervisor.wait_for("running")
    service, log = supervisor.service, supervisor.background
    os.kill(supervisor.pid, signal.SIGKILL)
    wait_until(lambda: not _is_alive(service), "the service to die with the supervisor")
    wait_until(log.group_is_gone, "all its processes to be gone")
    assert running.supervisor(nas) == 0
    assert running.health(nas) == {}
    supervisor.kill()
    supervisor.start()
    supervisor.wait_for("running")
    echoscu(supervisor.peer).ok()


def test_a_program_with_capabilities_dies_with_the_supervisor_too(tmp_path: Path) -> None:
    """The wish is uttered by the running program: the kernel forgets it when such a program is executed."""
    script = (
        "import os, subprocess, sys\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import sys, time; from angiovault.dsm import child; "
        "child.die_with(int(sys.argv[1])); print(1, flush=True); time.sleep(600)', str(os.getpid())], "
        "stdout=subprocess.PIPE)\n"
        "child.stdout.read(1)\nprint(child.pid, flush=True)\nsys.stdin.read()\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    parent.kill()
    parent.communicate()
    wait_until(lambda: not _is_alive(child), "the child to die")


def test_who_has_no_such_parent_does_not_begin() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "angiovault.dsm.child", "1", "--version"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (1, "")


def test_two_supervisors_make_one_service(nas: Nas, start: Callable[..., Supervised]) -> None:
    synology.share(nas)
    supervisor = start()
    supervisor.wait_for("running")
    service = supervisor.service
    second = synology.command(nas, "supervise")
    assert second.returncode == 0
    assert "running already" in second.stderr
    assert running.supervisor(nas) == supervisor.pid
    assert supervisor.service == service


def test_a_stale_pid_file_is_not_taken_for_another_process(nas: Nas, start: Callable[..., Supervised]) -> None:
    synology.share(nas)
    stat = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    nas.pid.write_text(f"{os.getpid()} {stat[19]} {boot}\n")
    assert running.supervisor(nas) == os.getpid()
    for line in (
        f"{os.getpid()} {int(stat[19]) + 1} {boot}",  # another process has the number now
        f"{os.getpid()} {stat[19]} {boot[:-1]}x",  # from before a restart of the NAS
        f"{2**22 + 1} 1 {boot}",
        "",
        "nonsense",
    ):
        nas.pid.write_text(f"{line}\n")
        assert running.supervisor(nas) == 0
        assert not running.reload(nas)
    supervisor = start()
    supervisor.wait_for("running")
    assert running.supervisor(nas) == supervisor.pid


def test_settings_that_cannot_be_used_are_waited_for(nas: Nas, start: Callable[..., Supervised]) -> None:
    synology.share(nas)
    nas.settings.write_text("[dicom]\nport = many\n")
    supervisor = start()
    said = supervisor.wait_for("configuration")
    assert "port: 'many' is not allowed" in said["message"]
    assert "'many'" in said["message_zh"]
    assert supervisor.service == 0
    supervisor.write_settings("\n[device ]\nhost = nowhere\n")
    wait_until(lambda: "no name for a device" in supervisor.state()["message"], "the next mistake to be said")
    supervisor.write_settings()
    supervisor.wait_for("running")
    echoscu(supervisor.peer).ok()


def test_there_may_be_no_settings_at_first(nas: Nas, start: Callable[..., Supervised]) -> None:
    synology.share(nas)
    supervisor = Supervised(nas)
    nas.settings.unlink()
    with supervisor:
        assert "there is no such configuration file" in supervisor.wait_for("configuration")["message"]
        supervisor.write_settings()
        supervisor.wait_for("running")


def test_a_share_that_comes_late_is_waited_for_and_never_made(nas: Nas, start: Callable[..., Supervised]) -> None:
    supervisor = start()
    said = supervisor.wait_for("share-missing")
    assert "angiography" in said["message"]
    assert "angiography" in said["message_zh"]
    assert os.listdir(nas.root / "volume1") == ["@appstore"]
    synology.share(nas)
    supervisor.wait_for("running")
    echoscu(supervisor.peer).ok()


@pytest.mark.parametrize("mount_point", ["there", "not there"])
def test_a_share_that_goes_away_is_no_new_archive(
    mount_point: str, nas: Nas, start: Callable[..., Supervised], tmp_path: Path
) -> None:
    folder = synology.share(nas)
    supervisor = start()
    supervisor.wait_for("running")
    service = supervisor.service
    assert storescu(supervisor.peer, [instances.make(tmp_path / "sent")], "-xe").statuses == [0]
    folder.rename(nas.root / "away")
    if mount_point == "there":
        folder.mkdir()
    said = supervisor.wait_for("share-missing")
    assert _setting(nas, "archive-id") in said["message"] or "not there" in said["message"]
    wait_until(lambda: "storage" in supervisor.health()["problems"], "the service to see it too")
    assert storescu(supervisor.peer, [instances.make(tmp_path / "sent", number=2)], "-xe").statuses == [0xA700]
    supervisor.stop()
    supervisor.start()  # and as little after a restart
    supervisor.wait_for("share-missing")
    wait_until(lambda: echoscu(supervisor.peer).returncode == 0, "the service to answer")
    assert storescu(supervisor.peer, [instances.make(tmp_path / "sent", number=2)], "-xe").statuses == [0xA700]
    assert service != supervisor.service
    if mount_point == "there":
        assert _in_share(nas) == []
        folder.rmdir()
    assert not folder.exists()
    (nas.root / "away").rename(folder)
    supervisor.wait_for("running")
    wait_until(lambda: "storage" not in supervisor.health()["problems"], "the service to see it too")
    assert storescu(supervisor.peer, [instances.make(tmp_path / "sent", number=2)], "-xe").statuses == [0]
    assert "Traceback" not in supervisor.log_text()


def test_an_encrypted_share_is_not_written_under(nas: Nas, start: Callable[..., Supervised]) -> None:
    folder = synology.share(nas)
    secret = nas.root / "volume1/@angiography@"
    secret.mkdir()
    supervisor = start()
    assert "encrypted and not mounted" in supervisor.wait_for("share-missing")["message"]
    assert list(folder.iterdir()) == []
    secret.rmdir()
    supervisor.wait_for("running")


def test_a_share_that_moves_to_another_volume_is_followed(nas: Nas, start: Callable[..., Supervised]) -> None:
    nas.share_link.parent.rmdir()  # as on DSM 6, which has no link
    folder = synology.share(nas)
    supervisor = start()
    supervisor.wait_for("running")
    assert _setting(nas, "storage") == str(folder / "archive")
    (nas.root / "volume2").mkdir()
    service = supervisor.service
    folder.rename(nas.root / "volume2/angiography")
    wait_until(lambda: _setting(nas, "storage") == f"{nas.root}/volume2/angiography/archive", "the new place")
    wait_until(lambda: supervisor.service not in (0, service), "another service")
    supervisor.wait_for("running")
    echoscu(supervisor.peer).ok()


@pytest.mark.root
def test_a_share_that_refuses_us_is_asked_for_by_name(nas: Nas, start: Callable[..., Supervised]) -> None:
    """Without its capabilities even root is a user like any other."""
    folder = synology.share(nas)
    os.chown(folder, 65534, 65534)
    supervisor = start(prefix=[program("setpriv"), "--inh-caps=-all", "--bounding-set=-all"])
    said = supervisor.wait_for("share-denied")
    for words in ("grant the internal user angiovault read/write", "System internal user", str(folder.name)):
        assert words in said["message"]
    assert "系统内部用户" in said["message_zh"]
    assert _in_share(nas) == []
    assert folder.stat().st_mode & 0o777 == 0o755
    os.chown(folder, 0, 0)
    supervisor.wait_for("running")
    echoscu(supervisor.peer).ok()
    # Taken away while it runs: not to be looked into any more.
    os.chown(folder, 65534, 65534)
    folder.chmod(0o700)
    supervisor.wait_for("share-denied")
    assert _is_alive(supervisor.service)
    folder.chmod(0o777)
    supervisor.wait_for("running", seconds=40)


def test_a_port_that_is_taken(nas: Nas, start: Callable[..., Supervised]) -> None:
    synology.share(nas)
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        supervisor = Supervised(nas)
        supervisor.port = other.getsockname()[1]
        supervisor.write_settings()
        with supervisor:
            said = supervisor.wait_for("port")
            assert str(supervisor.port) in said["message"]
            other.close()
            supervisor.wait_for("running", seconds=40)
            echoscu(supervisor.peer).ok()


@pytest.mark.root
def test_a_port_for_root(nas: Nas, start: Callable[..., Supervised]) -> None:
    if int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text()) <= 104:
        pytest.skip("this system has no ports for root only")
    synology.share(nas)
    supervisor = Supervised(nas, prefix=[program("setpriv"), "--inh-caps=-all", "--bounding-set=-all"])
    supervisor.write_settings(port=104)
    with supervisor:
        said = supervisor.wait_for("port")
        assert f"setcap cap_net_bind_service=+ep {Path(sys.executable).resolve()}" in said["message"]
        assert "104" in said["message_zh"]
        supervisor.write_settings()
        supervisor.wait_for("running")


def test_an_index_beside_the_images_is_made_anew(nas: Nas, start: Callable[..., Supervised], tmp_path: Path) -> None:
    folder = synology.share(nas)
    supervisor = start("index =\n")
    supervisor.wait_for("running")
    paths = [instances.make(tmp_path / "sent", number=number) for number in range(3)]
    assert storescu(supervisor.peer, paths, "-xe").statuses == [0] * 3
    supervisor.stop()
    for path in folder.glob("archive.index.sqlite3*"):
        path.unlink()
    done = synology.command(nas, "restore")  # without a service, and with one
    assert "rebuilt from 3 files; 0 could not" in done.stdout, done.stderr
    supervisor.start()
    supervisor.wait_for("running")
    done = synology.command(nas, "restore")
    assert done.returncode == 0, done.stderr
    supervisor.wait_for("running")
    answer = findscu(supervisor.peer, ["QueryRetrieveLevel=STUDY", "StudyInstanceUID"])
    assert len(answer.data_sets) == 3


def test_a_hang_up_takes_the_settings_over(nas: Nas, start: Callable[..., Supervised]) -> None:
    """By the service that runs, under its associations; by a new one where the settings need that."""
    synology.share(nas)
    supervisor = start()
    supervisor.wait_for("running")
    old, uid = supervisor.service, generate_uid()
    with RawPeer(supervisor.peer) as sender:
        sender.associate()
        for _ in range(2):
            supervisor.port = synology.free_port()
            lines = nas.settings.read_text().splitlines()
            nas.settings.write_text("\n".join(f"port = {supervisor.port}" if "port" in x else x for x in lines))
            assert running.reload(nas)
            assert supervisor.health()["port"] == supervisor.port
            assert sender.echo() == 0
        echoscu(supervisor.peer).ok()
        assert sender.store(uid, data_set(uid)) == 0
        sender.release()
    assert supervisor.service == supervisor.health()["pid"] == old
    # Another index is another start.
    text = nas.settings.read_text().replace("[archive]", f"[archive]\nindex = sqlite:///{nas.root}/other.sqlite3")
    nas.settings.write_text(text)
    assert running.reload(nas)
    wait_until(lambda: supervisor.service not in (0, old), "another service")
    supervisor.wait_for("running")
    wait_until(lambda: findscu(supervisor.peer, [f"SOPInstanceUID={uid}", "QueryRetrieveLevel=IMAGE"]).data_sets, "it")
    service = supervisor.service
    assert running.restart(nas)
    assert supervisor.service != service
    supervisor.wait_for("running")
    echoscu(supervisor.peer).ok()
    assert supervisor.state()["restarts"] == 0


def test_a_hang_up_that_comes_too_early_or_without_a_log_begins_anew(
    nas: Nas, start: Callable[..., Supervised]
) -> None:
    synology.share(nas)
    supervisor = start()
    wait_until(lambda: supervisor.service, "a service that is only starting")
    supervisor.hang_up()
    supervisor.wait_for("running")
    service = supervisor.service
    nas.log.unlink()
    supervisor.hang_up()
    wait_until(lambda: supervisor.service not in (0, service), "a service with a log")
    supervisor.wait_for("running")
    assert "the service runs as process" in supervisor.log_text()
    assert supervisor.state()["restarts"] == 0
    echoscu(supervisor.peer).ok()


def test_without_a_database_images_are_stored(nas: Nas, start: Callable[..., Supervised], tmp_path: Path) -> None:
    synology.share(nas)
    supervisor = start(f"index = mysql://angiovault@/angiovault?unix_socket={nas.socket}\n")
    assert "not set up" in supervisor.wait_for("needs-set-up")["message"]
    assert storescu(supervisor.peer, [instances.make(tmp_path / "sent")], "-xe").statuses == [0]
    problem = wait_until(lambda: supervisor.health()["problems"].get("database"), "the problem to be said")
    assert "not set up yet" in problem


@pytest.mark.slow
def test_a_service_that_hangs_is_killed_before_the_script_gives_up(nas: Nas, start: Callable[..., Supervised]) -> None:
    synology.share(nas)
    supervisor = start()
    supervisor.wait_for("running")
    service = supervisor.service
    os.kill(service, signal.SIGSTOP)
    began = time.monotonic()
    supervisor.background.stop(seconds=19)
    assert 13 < time.monotonic() - began < 18
    assert not _is_alive(service)


def test_what_ends_the_service_again_and_again_is_said(nas: Nas, start: Callable[..., Supervised]) -> None:
    folder = synology.share(nas)
    supervisor = start()
    supervisor.wait_for("running")
    other = Background(
        [sys.executable, "-c", "import fcntl, os, sys, time; f = os.open(sys.argv[1], os.O_RDONLY); "
         "fcntl.flock(f, fcntl.LOCK_EX); time.sleep(600)", folder / "archive/.angiovault/lock"],
        log=nas.root / "other.log",
    )  # fmt: skip
    try:
        os.kill(supervisor.service, signal.SIGKILL)
        said = supervisor.wait_for("failing")
        wait_until(lambda: "is using the storage" in supervisor.state()["message"], "the reason to be said")
        assert said["message_zh"]
    finally:
        other.kill()
    supervisor.wait_for("running", seconds=60)


def test_the_settings_are_copied_beside_the_images(nas: Nas, start: Callable[..., Supervised]) -> None:
    folder = synology.share(nas)
    secret = "S3cret!pass%2Fword"
    supervisor = start(f"index = mysql://angiovault:{secret}@/angiovault?unix_socket={nas.socket}\n")
    copy = folder / "archive/.angiovault/settings/angiovault.ini"
    # That database cannot be asked, so no archive is made; an administrator who has none yet makes the first one.
    assert "No archive is made" in supervisor.wait_for("failing")["message"]
    assert not copy.exists()
    supervisor.write_settings()
    supervisor.wait_for("running")
    wait_until(copy.exists, "the copy")
    text = nas.settings.read_text().replace("[archive]", f"[archive]\nindex = mysql://u:{secret}@/d?unix_socket=/s")
    nas.settings.write_text(text)
    supervisor.hang_up()
    wait_until(lambda: "mysql://u@/d?unix_socket=/s" in copy.read_text(), "the copy to be renewed")
    assert "S3cret" not in copy.read_text()
    assert copy.stat().st_mode & 0o077 == 0


def test_a_new_installation_goes_on_with_the_settings_of_the_old_one(
    nas: Nas, start: Callable[..., Supervised]
) -> None:
    folder = synology.share(nas)
    supervisor = start()
    supervisor.wait_for("running")
    copy = folder / "archive/.angiovault/settings/angiovault.ini"
    wait_until(copy.exists, "the copy")
    supervisor.stop()
    device = "[device zeego]\nae-title = ZEEGO\nhost = 192.168.1.20\n"
    copy.write_text(copy.read_text().replace("[dicom]", "[dicom]\nae-title = HYBRID-OR") + device)
    supervisor.write_settings("index =\n")  # as new: nothing is known of an archive
    supervisor.start()
    supervisor.wait_for("running")
    assert supervisor.health()["ae_title"] == "HYBRID-OR"
    assert "[device zeego]" in nas.settings.read_text()
    wait_until(lambda: "archive-id" in copy.read_text(), "the copy of the new one's settings")
    assert "HYBRID-OR" in copy.read_text()


def test_the_copy_of_another_nas_is_not_written_over(nas: Nas, tmp_path: Path) -> None:
    """The shared folder was brought back from a backup, onto a new NAS that runs already."""
    storage = synology.share(nas) / "archive"
    (storage / ".angiovault/settings").mkdir(parents=True)
    nas.settings.write_text("[dicom]\nae-title = NEW\n")
    copy, marker = storage / ".angiovault/settings/angiovault.ini", storage / ".angiovault/archive.json"
    copy.write_text("[dicom]\nae-title = OLD\n")
    supervisor = Supervisor(nas, Mock())
    supervisor._place = Place(storage, "ours")
    supervisor._child = Mock()
    for archive_id, title in (("theirs", "OLD"), ("ours", "NEW")):
        marker.write_text(json.dumps({"id": archive_id}))
        supervisor._backed_up = None
        supervisor._back_up()
        assert f"ae-title = {title}" in copy.read_text()
    supervisor._panel.close()


@pytest.mark.parametrize("answers", [True, False])
def test_only_a_service_that_does_not_answer_a_reload_begins_anew(
    answers: bool, nas: Nas, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may answer while it is still being asked."""
    said = {"pid": os.getpid(), "settings": Loading(1, "a").as_json(), "problems": {}}
    jsonfile.write(nas.health, said)
    supervisor = Supervisor(nas, Mock(reload=True, restart=False))
    supervisor._child = Mock(pid=os.getpid())

    def ask(pid: int) -> bool:
        if answers:
            jsonfile.write(nas.health, {**said, "settings": Loading(2, "b").as_json()})
        return True

    monkeypatch.setattr("angiovault.reloading.ask", ask)
    monkeypatch.setattr("angiovault.dsm.common_log.is_in_place", lambda _: True)
    monkeypatch.setattr("angiovault.dsm.supervisor._ANSWER_SECONDS", -1.0)
    supervisor._take_up()
    supervisor._child.terminate.assert_not_called()
    supervisor._hear(supervisor._health())
    assert supervisor._signals.restart is not answers
    supervisor._panel.close()


def test_a_panel_that_cannot_listen_is_not_started_again_and_again(nas: Nas) -> None:
    (nas.panel / "in the way").mkdir(parents=True)
    panel = PanelOnDemand(nas)
    assert panel.waits_for is None
    panel.close()


def test_while_nothing_happens_the_disks_may_sleep(nas: Nas, start: Callable[..., Supervised], tmp_path: Path) -> None:
    synology.share(nas)
    trace = tmp_path / "trace"
    calls = "write,writev,pwrite64,fsync,fdatasync,rename,openat,unlink,mkdir"
    prefix = [program("strace"), "-f", "-D", "-yy", "-o", trace, "-e", f"trace={calls}"]
    supervisor = start(prefix=prefix)
    supervisor.wait_for("running")
    assert storescu(supervisor.peer, [instances.make(tmp_path / "sent")], "-xe").statuses == [0]
    wait_until(lambda: "scheduled check: " in supervisor.log_text(), "the scheduled check")
    index = nas.root / "volume1/angiography/archive.index.sqlite3"
    instances.wait_until_contact_is_noted(index)
    begin = len(trace.read_text())
    threading.Event().wait(10)  # nothing is to happen, so there is nothing to wait for
    done = trace.read_text()[begin:]
    assert "health.json" in done  # they are awake
    assert not re.findall(r".*(?:write|sync|rename|unlink|mkdir|O_WRONLY|O_RDWR|O_CREAT).*", done)


def _get(nas: Nas, path: str, user: str) -> tuple[int, str]:
    """Ask the panel as ui/index.cgi does."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(30)
        connection.connect(str(nas.panel))
        connection.sendall(f"GET {path} HTTP/1.0\r\nX-AngioVault-User: {user}\r\n\r\n".encode())
        with connection.makefile("rb") as answer:
            head, _, body = answer.read().decode().partition("\r\n\r\n")
    return int(head.split()[1]), body


def _panels(supervisor: int) -> list[int]:
    """Return the processes of panels that the supervisor has."""
    children = Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text().split()
    return [int(pid) for pid in children if b"\0panel\0" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def test_the_panel_is_there_when_it_is_asked_for(nas: Nas, start: Callable[..., Supervised]) -> None:
    """Also without a service, and again after it was killed; nobody else's program can ask for it."""
    nas.settings.write_text("[dicom]\nport = nonsense\n", encoding="utf-8")
    supervised = start()
    supervised.wait_for("configuration")
    assert nas.panel.stat().st_mode & 0o777 == 0o600
    assert _panels(supervised.pid) == []
    status, body = _get(nas, "/api/session", "admin")
    assert (status, json.loads(body)["user"]) == (200, "admin")
    (panel,) = _panels(supervised.pid)

    os.kill(panel, signal.SIGKILL)
    wait_until(lambda: _panels(supervised.pid) == [], "the supervisor to notice")
    assert _get(nas, "/api/session", "admin")[0] == 200
    (panel,) = _panels(supervised.pid)
    supervised.hang_up()  # the panel is what watches the service's new start: it stays
    assert _get(nas, "/api/session", "admin")[0] == 200
    assert _panels(supervised.pid) == [panel]

    supervised.stop()
    assert not Path(f"/proc/{panel}").exists()
    assert not nas.panel.exists()


def test_a_panel_that_nobody_asks_ends(nas: Nas) -> None:
    serve = """
import sys
from pathlib import Path
from angiovault.panel import serving
from angiovault.panel.place import Place
serving._IDLE_SECONDS = 1.5
serving.serve_inherited(Place(Path(sys.argv[1])), int(sys.argv[2]))
"""
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(nas.panel))
        listening.listen()
        command = [sys.executable, "-c", serve, str(nas.settings), str(listening.fileno())]
        panel = subprocess.Popen(command, pass_fds=[listening.fileno()])
        assert _get(nas, "/api/session", "admin")[0] == 200
        assert panel.wait(60) == 0
