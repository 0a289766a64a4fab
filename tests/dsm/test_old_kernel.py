"""DSM 6.1 on Linux 3.10: every system call that came later is answered ENOSYS, and uname says 3.10.105."""

from collections.abc import Callable

from dsm.generations import DSM6
from dsm.nas import Nas
from harness.waiting import wait_until


def test_linux_3_10(make_nas: Callable[..., Nas]) -> None:
    nas = make_nas(DSM6)
    nas.stage.write("/etc/ld.so.preload", "/.stage/lib/old_uname.so\n")
    nas.stage.old_kernel = True
    assert nas.stage.run(["uname", "-r"]).stdout == "3.10.105\n"
    nas.install_ready(nas.previous_spk)
    nas.send(20)
    (service,) = nas.services()
    assert "Seccomp:\t2" in nas.stage.read(f"/proc/{service.pid}/status")
    nas.stage.signal(service.pid, "KILL")
    wait_until(lambda: nas.services() not in ([], [service]), "another service")
    nas.wait_until_answers()
    outcome = nas.center.upgrade(nas.spk)
    assert outcome.ok, nas.explain(outcome)
    nas.wait_until_answers()
    nas.command("verify")
    nas.assert_all_kept()
    assert nas.center.uninstall().ok
