"""Start, stop, status, reboot and crash, by the package's own start-stop-status."""

import re
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from pydicom.uid import generate_uid

from dsm.generations import DSM6, DSM7
from dsm.nas import LATER, PACKAGE, SHARE, Nas
from dsm.package_center import Habits
from faults import instances
from harness.dcmtk import StoreSCP, echoscu
from harness.processes import program
from harness.upper_layer import RawPeer, data_set
from harness.waiting import wait_until

RUNNING, CRASHED, STOPPED = 0, 1, 3
_START_SECONDS = 3
_STOP_SECONDS = 20


def test_start_stop_and_status(each_nas: Nas) -> None:
    nas = each_nas
    nas.install_ready()
    assert nas.center.status() == RUNNING
    began = time.monotonic()
    assert nas.center.stop().codes == {"prestop": 0, "stop": 0}
    assert time.monotonic() - began < _STOP_SECONDS
    assert not nas.stage.processes(PACKAGE)
    assert nas.center.status() == STOPPED
    assert nas.center.stop().codes["stop"] == 0  # once more
    began = time.monotonic()
    assert nas.center.start().ok
    assert time.monotonic() - began < _START_SECONDS
    nas.wait_until_answers()
    assert nas.center.start().ok  # two starts make one service
    assert (len(nas.supervisors()), len(nas.services())) == (1, 1)
    nas.send()
    nas.assert_all_kept()
    assert nas.center.stop().ok
    with ThreadPoolExecutor(2) as pool:  # two starts at the same time
        assert [code for code, _ in pool.map(lambda _: nas.center.verb("start"), range(2))] == [0, 0]
    nas.wait_until_answers()
    assert (len(nas.supervisors()), len(nas.services())) == (1, 1)
    assert nas.center.verb("log") == (0, f"{nas.var}/angiovault.log")
    for verb in ("prestart", "prestop", "nonsense", ""):
        assert nas.center.verb(verb)[0] == 0


@pytest.mark.parametrize("prestart", [True, False], ids=["prestart", "no prestart"])
def test_power_cut_and_boot(prestart: bool, make_nas: Callable[..., Nas]) -> None:
    nas = make_nas(DSM7 if prestart else DSM6, Habits(prestart_at_boot=prestart))
    nas.install_ready()
    nas.send()
    nas.lose_power()
    assert nas.center.status() == CRASHED
    nas.boot()
    nas.wait_until_answers()
    nas.send()
    nas.assert_all_kept()


def test_proper_shutdown_and_boot(nas: Nas) -> None:
    nas.install_ready()
    nas.send()
    codes = [nas.center.verb(verb)[0] for verb in ("prestop", "stop")]  # at shutdown the status is empty
    assert codes == [0, 0]
    nas.lose_power()
    assert nas.center.status() == STOPPED
    nas.boot()
    nas.wait_until_answers()
    nas.assert_all_kept()


def test_a_crashed_service_is_started_again(nas: Nas) -> None:
    nas.install_ready()
    nas.send()
    (service,) = nas.services()
    nas.stage.signal(service.pid, "KILL")
    wait_until(lambda: nas.services() not in ([], [service]), "another service")
    nas.wait_for("running")
    assert nas.center.status() == RUNNING
    assert nas.supervisor()["restarts"] >= 1
    nas.send()
    nas.assert_all_kept()


def test_a_killed_supervisor_takes_the_service_along(nas: Nas) -> None:
    """Nothing is left that nobody watches; Package Center shows a crash, and its button starts one service."""
    nas.install_ready()
    (supervisor,) = nas.supervisors()
    nas.stage.signal(supervisor.pid, "KILL")
    wait_until(lambda: not nas.stage.processes(PACKAGE), "the service to end with its supervisor")
    assert nas.center.status() == CRASHED
    assert nas.center.start().ok
    nas.wait_until_answers()
    assert (len(nas.supervisors()), len(nas.services())) == (1, 1)
    nas.send()
    nas.assert_all_kept()


@pytest.mark.parametrize("hanging", ["service", "supervisor"])
def test_stop_ends_what_hangs(hanging: str, nas: Nas) -> None:
    nas.install_ready()
    (process,) = nas.services() if hanging == "service" else nas.supervisors()
    nas.stage.signal(process.pid, "STOP")
    began = time.monotonic()
    assert nas.center.stop().codes["stop"] == 0
    assert time.monotonic() - began < _STOP_SECONDS + 8
    assert not nas.stage.processes(PACKAGE)
    assert nas.center.status() == STOPPED


def test_a_stale_pid_file_that_names_a_living_process(nas: Nas) -> None:
    """The number is another program's now: it is neither taken for the service nor stopped."""
    nas.install_ready()
    nas.lose_power()
    _, *rest = nas.stage.read(f"{nas.var}/supervisor.pid").split()
    sleep = ["sh", "-c", "sleep 1000 </dev/null >/dev/null 2>&1 & echo $!"]
    sleeper = nas.stage.run(sleep, user=PACKAGE).stdout.strip()
    nas.stage.host(f"{nas.var}/supervisor.pid").write_text(" ".join([sleeper, *rest]) + "\n")
    assert nas.center.status() == CRASHED
    assert nas.center.verb("stop")[0] == 0
    assert [process.pid for process in nas.stage.processes(PACKAGE)] == [int(sleeper)]
    nas.stage.host(f"{nas.var}/supervisor.pid").write_text(" ".join([sleeper, *rest]) + "\n")
    nas.boot()
    nas.wait_for("running")
    assert nas.center.stop().codes["stop"] == 0
    assert [process.pid for process in nas.stage.processes(PACKAGE)] == [int(sleeper)]


def test_a_damaged_pid_file(nas: Nas) -> None:
    nas.install(start=False, **LATER)
    nas.center.start()
    for content in ("", "\n", "1\n", "no number\n", "-1 0 x\n", "99999999999999999999 1 x\n"):
        nas.lose_power()
        nas.stage.host(f"{nas.var}/supervisor.pid").write_text(content)
        assert nas.center.status() == CRASHED, content
        assert nas.center.verb("stop")[0] == 0, content
        nas.stage.host(f"{nas.var}/supervisor.pid").write_text(content)
        assert nas.center.start().ok, content
        assert len(nas.supervisors()) == 1
        assert nas.center.status() == RUNNING, content


def test_a_bad_configuration_is_told_and_heals(nas: Nas) -> None:
    """DSM hides the icon of a package that did not start: so it starts, says what is wrong, and tries again."""
    nas.install_ready()
    nas.send()
    settings = nas.stage.host("/var/packages/angiovault/etc/angiovault.ini")
    good = settings.read_bytes()
    for bad in (b"port = none", b"[nonsense]\nx = 1", b"\xff\xfe"):
        assert nas.center.stop().ok
        settings.write_bytes(good + b"\n" + bad + b"\n")
        began = time.monotonic()
        started = nas.center.start()
        assert started.ok, nas.explain(started)
        assert time.monotonic() - began < _START_SECONDS
        said = nas.wait_for("configuration")
        assert said["message"]
        assert said["message_zh"]
        assert nas.center.status() == RUNNING
        settings.write_bytes(good)
        nas.wait_for("running")
    nas.assert_all_kept()


def test_a_port_that_another_program_has_meanwhile(nas: Nas) -> None:
    nas.install_ready()
    assert nas.center.stop().ok
    with StoreSCP(nas.folder / "other", ae_title="OTHER", port=11112):
        assert nas.center.start().ok
        assert "11112" in nas.wait_for("port")["message"]
    nas.wait_for("running", seconds=30)
    assert echoscu(nas.peer).returncode == 0


def test_a_port_for_root_only(nas: Nas) -> None:
    outcome = nas.install(wizard_port="104")
    assert "104" in outcome.text
    said = nas.wait_for("port")["message"]
    assert "104" in said
    assert nas.center.status() == RUNNING

    # What it says is done, word for word, and taken up without a restart.
    command = re.search(r"`sudo setcap (\S+) (\S+)`", said)
    assert command
    subprocess.run([program("setcap"), command[1], nas.stage.host(command[2])], check=True)
    nas.wait_for("running", seconds=90)
    assert nas.peer.port == 104
    nas.add_device()
    nas.send()
    nas.assert_all_kept()
    # The loader is stricter with a program that has rights of its own; the codecs' libraries are found all the same.
    nas.stage.run([command[2], "-I", "-c", "import gdcm"], user=PACKAGE)
    # Nothing outlives the supervisor, rights or not.
    (service,) = nas.services()
    (supervisor,) = nas.supervisors()
    nas.stage.signal(supervisor.pid, "KILL")
    wait_until(lambda: service not in nas.services(), "the service to end with its supervisor")


def test_changed_settings_are_taken_up_at_once_when_told(nas: Nas) -> None:
    nas.install_ready(wizard_port="11113")
    (supervisor,), (service,) = nas.supervisors(), nas.services()
    with RawPeer(nas.peer) as console:
        console.associate()
        nas.set("port", "11114")
        nas.stage.signal(supervisor.pid, "HUP")
        wait_until(lambda: nas.health().get("port") == 11114, "the service on the new port")
        uid = generate_uid()
        assert console.store(uid, data_set(uid)) == 0  # what runs goes on
        console.release()
    nas.wait_for("running")
    assert (nas.supervisors(), nas.services()) == ([supervisor], [service])
    nas.send()
    nas.assert_all_kept()


def test_a_port_that_cannot_be_had_leaves_the_service_alone(nas: Nas) -> None:
    """Also when the port is for root only; once that is allowed the service begins anew for it."""
    nas.install_ready()
    (service,) = nas.services()
    angiovault = "/usr/local/bin/angiovault"
    with StoreSCP(nas.folder / "other", ae_title="OTHER", port=11115):
        done = nas.stage.run([angiovault, "dsm", "set", "--port", "11115"], check=False)
    assert done.returncode == 1
    assert "11115" in done.stderr
    assert nas.health()["port"] == 11112
    done = nas.stage.run([angiovault, "dsm", "set", "--port", "104"], check=False)
    assert done.returncode == 1
    assert nas.services() == [service]
    assert echoscu(nas.peer).returncode == 0
    python = nas.stage.run(["readlink", "-f", "/var/packages/angiovault/target/python/bin/python3"]).stdout.strip()
    subprocess.run([program("setcap"), "cap_net_bind_service=+ep", nas.stage.host(python)], check=True)
    nas.stage.run([angiovault, "dsm", "set", "--port", "104"])
    nas.wait_until_answers()
    assert (nas.health()["port"], nas.peer.port) == (104, 104)


def test_what_root_calls_runs_as_the_package_user(each_nas: Nas) -> None:
    """An import by root that left files of root's would be an archive that the service cannot use."""
    nas = each_nas
    nas.install_ready()
    nas.send()
    study = generate_uid()
    folder = nas.stage.host("/volume1/old pacs")
    folder.mkdir(mode=0o755)
    for number in range(2):
        instances.make(folder, study=study, number=number)
    angiovault = "/usr/local/bin/angiovault"
    assert "2 stored" in nas.stage.run([angiovault, "import", "/volume1/old pacs"]).stdout
    nas.wait_until_found([*nas.studies, study])
    nas.stage.run([angiovault, "dsm", "set", "--ae-title", "CATHLAB"])
    nas.wait_for("running")
    assert nas.health()["ae_title"] == "CATHLAB"
    owners = nas.stage.run(["find", SHARE, "/var/packages/angiovault/etc/", "!", "-user", PACKAGE, "!", "-path", SHARE])
    assert owners.stdout == ""
    visitor = nas.stage.run([angiovault, "status"], user="visitor", check=False)
    assert visitor.returncode != 0
    assert "sudo" in visitor.stderr
