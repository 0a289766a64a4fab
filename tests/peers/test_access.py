"""C-ECHO, and who may do what: the settings as callers meet them, and what an administrator sees of refused ones."""

import json
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydicom.data import get_testdata_file

from harness import part10
from harness.dcmtk import echoscu, findscu, getscu, movescu, storescu
from harness.processes import environment, program
from harness.service import Service
from harness.upper_layer import (
    COMMITMENT,
    CT_IMAGE,
    EXPLICIT,
    IMPLICIT,
    STUDY_ROOT_FIND,
    STUDY_ROOT_GET,
    STUDY_ROOT_MOVE,
    VERIFICATION,
    RawPeer,
    data_set,
    item,
    user_information,
)
from harness.waiting import wait_until

ServiceFactory = Callable[..., Service]

CT = Path(str(get_testdata_file("CT_small.dcm", download=False)))
CLASSES = {
    "echo": VERIFICATION,
    "store": CT_IMAGE,
    "find": STUDY_ROOT_FIND,
    "move": STUDY_ROOT_MOVE,
    "get": STUDY_ROOT_GET,
    "commit": COMMITMENT,
}


def allowed(service: Service, calling: str) -> list[str]:
    """Return the operations whose presentation contexts are accepted."""
    with RawPeer(service.peer) as peer:
        answers = peer.associate([(uid, [IMPLICIT]) for uid in CLASSES.values()], calling=calling.encode())
        peer.release()
    assert {result for result, _ in answers.values()} <= {0, 1}
    return [name for name, (result, _) in zip(CLASSES, answers.values(), strict=True) if result == 0]


def refusals(service: Service) -> list[dict[str, Any]]:
    """Return what `status --json` says of refusals."""
    found: list[dict[str, Any]] = json.loads(service.cli("status", "--json").stdout)["refusals"]
    return found


# ---- C-ECHO


def test_echoscu(service: ServiceFactory) -> None:
    running = service()
    echoscu(running.peer, "--repeat", "5").ok()
    running.wait_for_log("association of ECHOSCU@127.0.0.1 with ANGIOVAULT: 5 echo; released")


def test_gdcmscu(service: ServiceFactory) -> None:
    running = service()
    # This program crashes at its end, whoever has answered: what it said on the way counts.
    subprocess.run(
        [program("gdcmscu"), "--echo", "127.0.0.1", str(running.peer.port), "--call", "ANGIOVAULT"],
        capture_output=True,
        timeout=60,
        env=environment(),
    )
    running.wait_for_log("association of GDCMSCU@127.0.0.1 with ANGIOVAULT: 1 echo; released")


def test_pynetdicoms_echoscu(service: ServiceFactory) -> None:
    running = service()
    arguments = [sys.executable, "-m", "pynetdicom", "echoscu", "127.0.0.1", str(running.peer.port), "--repeat", "3"]
    subprocess.run(arguments, check=True, capture_output=True, timeout=60)
    running.wait_for_log("association of ECHOSCU@127.0.0.1 with ANY-SCP: 3 echo; released")


# ---- unknown devices


def test_refuse_rejects_unknown_devices_and_remembers_them(service: ServiceFactory) -> None:
    running = service(unknown_devices="refuse")
    assert echoscu(running.peer, calling="STRANGER").rejected == (
        "Rejected Permanent",
        "Calling AE Title Not Recognized",
    )
    running.wait_for_log(
        "WARNING rejected association from STRANGER@127.0.0.1 to ANGIOVAULT: "
        "calling AE title not recognised: not a configured device"
    )
    (seen,) = wait_until(lambda: refusals(running), "the refusal in the status")
    assert (seen["calling"], seen["address"], seen["called"]) == ("STRANGER", "127.0.0.1", "ANGIOVAULT")
    assert seen["reason"] == "calling AE title not recognised: not a configured device"
    assert "refused: STRANGER@127.0.0.1 to ANGIOVAULT" in running.cli("device", "list").stdout
    running.env["LC_ALL"] = "zh_CN.UTF-8"
    assert "不是已添加的设备" in running.cli("device", "list").stdout
    assert "不是已添加的设备" in running.cli("status", check=False).stdout
    assert part10.collect(running.storage) == {}


@pytest.mark.parametrize(
    ("policy", "operations"),
    [("echo", ["echo"]), ("store", ["echo", "store"]), (None, ["echo", "store"]), ("all", list(CLASSES))],
)
def test_what_unknown_devices_may_not_do_is_refused_as_a_presentation_context(
    service: ServiceFactory, policy: str | None, operations: list[str]
) -> None:
    running = service(unknown_devices=policy)
    assert allowed(running, "STRANGER") == operations
    echoscu(running.peer).ok()
    stored = storescu(running.peer, [CT])
    keys = ["QueryRetrieveLevel=STUDY", "StudyInstanceUID=1.2.3"]
    found = findscu(running.peer, keys)
    if "store" in operations:
        assert stored.ok().statuses == [0]
    else:
        assert "No Acceptable Presentation Contexts" in stored.log
        assert stored.statuses == []
    if "find" in operations:
        assert found.ok().final.status == 0
        assert getscu(running.peer, keys, running.folder / "got").ok().final.status == 0
        assert movescu(running.peer, "NOBODY", keys).final.status == 0xA801
    else:
        assert "No Acceptable Presentation Contexts" in found.log
    refused = [name for name in CLASSES if name not in operations]
    for name in refused:
        assert f"a caller that is no configured device may not {name}" in running.log_text()
    if refused:
        words = wait_until(
            lambda: [each["reason"] for each in refusals(running) if each["calling"] == "STRANGER"],
            "the refused contexts in the status",
        )
        assert len(words) == len(refused)


# ---- configured devices


def config(*sections: str) -> str:
    return "\n".join(["[dicom]", "unknown-devices = refuse", *sections, ""])


def device(name: str, ae_title: str, host: str, allow: str) -> str:
    return f"[device {name}]\nae-title = {ae_title}\nhost = {host}\nallow = {allow}\n"


def test_a_device_is_known_by_title_and_address_and_may_do_what_it_is_allowed(service: ServiceFactory) -> None:
    running = service(
        config=config(
            device("DSA room", "ARTIS", "127.0.0.1", "echo, store, commit"),
            device("workstation", "XWP", "127.0.0.0/8", "find, move, get"),
            device("elsewhere", "FAR", "192.0.2.7", "all"),
            device("switched off", "OFF", "127.0.0.1", "none"),
        )
    )
    assert allowed(running, "ARTIS") == ["echo", "store", "commit"]
    assert allowed(running, "XWP") == ["find", "move", "get"]
    assert echoscu(running.peer, calling="FAR").rejected == ("Rejected Permanent", "Calling AE Title Not Recognized")
    assert echoscu(running.peer, calling="OFF").rejected == ("Rejected Permanent", "Calling AE Title Not Recognized")
    log = running.log_text()
    assert "refused a presentation context of XWP@127.0.0.1 (workstation): CT Image Storage" in log
    assert "the device 'workstation' may not store" in log
    assert (
        "rejected association from OFF@127.0.0.1 (switched off) to ANGIOVAULT: "
        "calling AE title not recognised: device 'switched off' may do nothing" in log
    )


def test_a_change_of_devices_is_in_force_at_once(service: ServiceFactory) -> None:
    running = service(config=config())
    assert echoscu(running.peer, calling="ARTIS").rejected is not None
    running.cli(
        "device", "add", "DSA room", "--ae-title", "ARTIS", "--host", "127.0.0.1", "--allow", "echo,store"
    )  # fmt: skip
    assert allowed(running, "ARTIS") == ["echo", "store"]
    assert "DSA room: ARTIS at 127.0.0.1; may echo store" in running.cli("device", "list").stdout
    running.cli("device", "remove", "DSA room")
    assert echoscu(running.peer, calling="ARTIS").rejected is not None
    assert running.config_file is not None
    running.config_file.write_text(config(device("by hand", "ARTIS", "127.0.0.1", "echo")), encoding="utf-8")
    assert allowed(running, "ARTIS") == ["echo"]
    running.config_file.write_text(config("[device broken]"), encoding="utf-8")
    assert allowed(running, "ARTIS") == ["echo"]
    assert "The devices stay as they were" in running.log_text()


def test_the_called_ae_title_is_checked_when_that_is_wanted(service: ServiceFactory) -> None:
    running = service(config="[dicom]\ncheck-called-ae-title = yes\n", ae_title="PACS")
    echoscu(running.peer).ok()
    with RawPeer(running.peer) as peer:
        peer.associate(called=b"  PACS  ")
        assert peer.echo() == 0
        peer.release()
    wrong = type(running.peer)(running.peer.host, running.peer.port, "OTHER")
    assert echoscu(wrong).rejected == ("Rejected Permanent", "Called AE Title Not Recognized")
    assert "calls 'OTHER', this archive is 'PACS'" in running.log_text()


def test_a_flood_of_titles_is_remembered_within_bounds(service: ServiceFactory) -> None:
    running = service(unknown_devices="refuse")
    for number in range(300):
        with RawPeer(running.peer) as peer, pytest.raises(AssertionError, match="PDU type 3"):
            peer.associate(calling=f"GUESS{number}".encode())
    last = wait_until(
        lambda: [each for each in refusals(running) if each["calling"] == "GUESS299"], "the last guess in the status"
    )
    assert last[0]["times"] == 1
    assert len(refusals(running)) <= 1000


# ---- titles, addresses


def test_titles_of_any_bytes_store(service: ServiceFactory) -> None:
    """What a device calls itself may be written into files, rows and log lines, whatever it is."""
    running = service()
    titles = {
        b"SIXTEEN_LETTERS_": "SIXTEEN_LETTERS_",
        b"NULS" + bytes(12): "NULS",
        b"                ": "",
        "MÜLLER".encode("latin-1"): "M?LLER",
        b"EVIL\r\nTITLE": "EVIL??TITLE",
        b"'; DROP TABLE x;": "'; DROP TABLE x;",
    }
    for number, title in enumerate(titles):
        with RawPeer(running.peer) as peer:
            peer.associate(calling=title, called=title)
            assert peer.store(f"1.2.{number}", data_set(f"1.2.{number}")) == 0
            peer.release()
    kept = part10.collect(running.settled())
    assert len(kept) == len(titles)
    for number, readable in enumerate(titles.values()):
        assert str(kept[f"1.2.{number}"][0].meta.get("SourceApplicationEntityTitle", "")).strip() == readable
        running.wait_for_log(f"association of {readable}@127.0.0.1 with {readable}: 1 stored")
    assert "Traceback" not in running.log_text()


def has_ipv6() -> bool:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")
def test_all_addresses_of_both_kinds_are_listened_on(service: ServiceFactory) -> None:
    text = config(device("four", "FOUR", "127.0.0.1", "echo"), device("six", "SIX", "::1", "echo"))
    running = service(config=text, options=["--bind", "::"])
    address = ("127.0.0.1", running.peer.port)
    for title, host in (("FOUR", "127.0.0.1"), ("SIX", "::1")):
        with RawPeer(running.peer, connection=socket.create_connection((host, address[1]))) as peer:
            peer.associate([(VERIFICATION, [IMPLICIT])], calling=title.encode())
            assert peer.echo() == 0
            peer.release()
        running.wait_for_log(f"association of {title}@{host} ({title.lower()})")


# ---- what the standard lets a requestor propose


def test_proposals_that_the_archive_has_no_use_for_do_no_harm(service: ServiceFactory) -> None:
    running = service()
    user_identity = item(0x58, b"\2\1\0\4user\0\6secret")  # type 2, an answer is wanted
    window = item(0x53, b"\0\5\0\5")
    unknown = item(0x5F, b"of a later edition") + item(0x01, b"")
    with RawPeer(running.peer) as peer:
        peer.associate(
            [(VERIFICATION, [IMPLICIT]), (CT_IMAGE, [EXPLICIT])],
            information=user_information(more=user_identity + window + unknown),
        )
        assert peer.echo() == 0
        assert peer.store("1.2.9", data_set("1.2.9")) == 0
        peer.release()
