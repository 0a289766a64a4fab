"""Devices in the configuration file and what they may do."""

import argparse
import ipaddress
import logging
import os
import socket
import threading
from pathlib import Path

import pytest

from angiovault import config
from angiovault.config import UnknownDevices
from angiovault.devices import DEVICE_SETTINGS, EVERYTHING, Address, Device, DeviceBook, Operation, allowed, resolve
from angiovault.inifile import ConfigError

ARTIS = "[device DSA room 1]\nae-title = ARTIS1\nhost = 10.1.2.3\nport = 104\n"
CONSOLE = "[device 工作站]\nae-title = XWP\nhost = 10.1.0.0/16, fd00::/8, xwp.local\nallow = echo, FIND,move\n"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "angiovault.ini"


def book_of(path: Path, text: str) -> DeviceBook:
    path.write_text(text, encoding="utf-8")
    return DeviceBook(path, resolver=lambda host: frozenset())


def names_in(book: DeviceBook) -> list[str]:
    return [device.name for device in book.all()]


def test_devices_are_read_in_order_with_their_defaults(path: Path) -> None:
    book = book_of(path, f"[dicom]\nport = 1\n{ARTIS}{CONSOLE}")
    artis, console = book.all()
    assert artis == Device("DSA room 1", "ARTIS1", ("10.1.2.3",), 104, EVERYTHING, "auto")
    assert artis.destination == ("10.1.2.3", 104)
    assert console.name == "工作站"
    assert console.hosts == ("10.1.0.0/16", "fd00::/8", "xwp.local")
    assert console.allow == {Operation.ECHO, Operation.FIND, Operation.MOVE}
    assert console.port is None
    assert console.destination is None
    assert config.load(path).port == 1


def test_a_device_is_called_at_its_first_host_that_is_no_network() -> None:
    texts = {"ae-title": "A", "host": "10.0.0.0/8, ct.local, 10.0.0.7", "port": "104"}
    assert Device.from_text("a", texts).destination == ("ct.local", 104)
    assert Device.from_text("a", texts | {"host": "10.0.0.0/8"}).destination is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [("gb18030", "GB18030"), ("ISO 2022 ir 58", "ISO 2022 IR 58"), ("ISO_IR 192", "ISO_IR 192"), ("auto", "auto")],
)
def test_character_sets(text: str, expected: str) -> None:
    texts = {"ae-title": "A", "host": "a", "character-set": text}
    assert Device.from_text("a", texts).character_set == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [("all", EVERYTHING), ("none", frozenset()), ("Store ,commit", {Operation.STORE, Operation.COMMIT})],
)
def test_allowed_operations(text: str, expected: frozenset[Operation]) -> None:
    device = Device.from_text("a", {"ae-title": "A", "host": "a", "allow": text})
    assert device.allow == expected
    assert Device.from_text("a", device.as_text()) == device
    for policy in UnknownDevices:
        assert allowed(device, policy) == expected


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        (UnknownDevices.REFUSE, frozenset()),
        (UnknownDevices.ECHO, {Operation.ECHO}),
        (UnknownDevices.STORE, {Operation.ECHO, Operation.STORE}),
        (UnknownDevices.ALL, EVERYTHING),
    ],
)
def test_what_unknown_callers_may_do(policy: UnknownDevices, expected: frozenset[Operation]) -> None:
    assert allowed(None, policy) == expected


def test_devices_have_flags_that_make_the_same_device() -> None:
    parser = argparse.ArgumentParser(prog="angiovault device add")
    config.add_flags(parser, DEVICE_SETTINGS)
    assert "--host HOSTS" in parser.format_help()
    words = ["--ae-title", "ARTIS1", "--host", "10.1.2.3", "--port", "104", "--allow", "store,echo"]
    given = config.flag_values(parser.parse_args(words), DEVICE_SETTINGS)
    expected = Device("a", "ARTIS1", ("10.1.2.3",), 104, frozenset({Operation.ECHO, Operation.STORE}))
    assert Device.from_text("a", given) == expected


# --- Who calls ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ae_title", "address", "expected"),
    [
        ("ARTIS1", "10.1.2.3", "DSA room 1"),
        ("ARTIS1  ", "10.1.2.3", "DSA room 1"),
        (" ARTIS1", "::ffff:10.1.2.3", "DSA room 1"),
        ("ARTIS1", "10.1.2.4", None),
        ("artis1", "10.1.2.3", None),
        ("ARTIS", "10.1.2.3", None),
        ("", "10.1.2.3", None),
        ("XWP", "10.1.255.255", "工作站"),
        ("XWP", "10.2.0.0", None),
        ("XWP", "fd12::1%eth0", "工作站"),
        ("XWP", "fe80::1", None),
        ("XWP", "::ffff:10.1.9.9", "工作站"),
        ("ARTIS1", "fd12::1", None),
    ],
)
def test_a_caller_is_known_by_ae_title_and_address(
    path: Path, ae_title: str, address: str, expected: str | None
) -> None:
    found = book_of(path, ARTIS + CONSOLE).find_caller(ae_title, address)
    assert (found and found.name) == expected


def test_an_ae_title_may_be_shared_if_one_only_is_a_destination(path: Path) -> None:
    book = book_of(path, "[device b]\nae-title = X\nhost = 10.0.0.2\n[device a]\nae-title=X\nhost=10.0.0.1\nport=104\n")
    for name, address in (("a", "10.0.0.1"), ("b", "10.0.0.2")):
        found = book.find_caller("X", address)
        assert found is not None
        assert found.name == name
    destination = book.by_ae_title("X ")
    assert destination is not None
    assert destination.name == "a"
    with pytest.raises(ConfigError, match="AE title X is that of the device 'a' too; only one of them may have a port"):
        book.add(Device("c", "X", ("10.0.0.3",), 104))


def test_devices_are_found_by_name_and_ae_title(path: Path) -> None:
    book = book_of(path, ARTIS + CONSOLE)
    assert book.by_name("dsa ROOM 1") is book.by_ae_title("ARTIS1") is book.all()[0]
    assert book.by_name("工作站") is book.by_ae_title("XWP")
    assert book.by_name("x") is None
    assert book.by_ae_title("dsa room 1") is None


class Names:
    """A name service and a clock that a test turns by hand."""

    def __init__(self) -> None:
        self.time = 0.0
        self.asked: list[str] = []
        self.known: dict[str, str] = {}

    def resolve(self, host: str) -> frozenset[Address]:
        self.asked.append(host)
        if host not in self.known:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return frozenset({ipaddress.ip_address(self.known[host])})


def test_host_names_are_resolved_when_needed_and_remembered_for_a_minute(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    names = Names()
    names.known["ct.local"] = "10.0.0.1"
    path.write_text("[device ct]\nae-title = CT\nhost = ct.local\n")
    book = DeviceBook(path, resolver=names.resolve, clock=lambda: names.time)
    assert book.find_caller("MR", "10.0.0.1") is None
    assert names.asked == []
    assert book.find_caller("CT", "10.0.0.1")
    names.time = 59
    assert book.find_caller("CT", "10.0.0.2") is None
    assert names.asked == ["ct.local"]
    names.known["ct.local"] = "10.0.0.2"
    names.time = 60
    assert book.find_caller("CT", "10.0.0.2")
    assert book.find_caller("CT", "10.0.0.1") is None
    assert len(names.asked) == 2
    # The name service fails: the last answer holds, and it is said once a minute, not once a call.
    names.known.clear()
    names.time = 120
    assert book.find_caller("CT", "10.0.0.2")
    assert book.find_caller("CT", "10.0.0.2")
    assert len(names.asked) == 3
    assert [record.getMessage() for record in caplog.records] == [
        "The host name ct.local of a device cannot be resolved: Name or service not known"
    ]


def test_the_systems_resolver() -> None:
    assert resolve("localhost") & {ipaddress.ip_address("127.0.0.1"), ipaddress.ip_address("::1")}
    with pytest.raises(OSError, match=r"."):
        resolve("no-such-host.invalid")


# --- Broken files ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[device a]\nhost = h\n", "[device a]: ae-title is missing; allowed: 1 to 16"),
        ("[device a]\nae-title = A\n", "[device a]: host is missing"),
        ("[device a]\nae-title = A\nhost =\n", "[device a] host: '' is not allowed"),
        ("[device a]\nae-title = A\nhost = h,\n", "'' is no host name"),
        ("[device a]\nae-title = A\nhost = 10.0.0.300\n", "'10.0.0.300' is no host name, IP address or network"),
        ("[device a]\nae-title = A\nhost = 10.0.0.0/33\n", "'10.0.0.0/33' is no host name"),
        ("[device a]\nae-title = A\nhost = 10.0.0.1/24\n", "did you mean 10.0.0.0/24?"),
        ("[device a]\nae-title = A\nhost = a b\n", "'a b' is no host name"),
        ("[device a]\nae-title = A\nhost = http://x\n", "'http://x' is no host name"),
        (f"[device a]\nae-title = A\nhost = {'a.' * 130}a\n", "is no host name"),
        ("[device a]\nae-title = TOO LONG AE TITLE\nhost = h\n", "ae-title: 'TOO LONG AE TITLE' is not allowed"),
        ("[device a]\nae-title = A\nhost = h\nport = 0\n", "port: '0' is not allowed; allowed: a whole number from 1"),
        ("[device a]\nae-title = A\nhost = h\nallow =\n", "allow: '' is not allowed"),
        ("[device a]\nae-title = A\nhost = h\nallow = all, echo\n", "allow: 'all, echo' is not allowed"),
        ("[device a]\nae-title = A\nhost = h\nallow = eco\n", "some of: echo, store, find, get, move, commit"),
        ("[device a]\nae-title = A\nhost = h\ncharacter-set = latin1\n", "one of: auto, GB18030, ISO 2022 IR 58"),
        ("[device a]\nae-title = A\nhost = h\nhosts = h\n", "no setting 'hosts' for devices; did you mean host?"),
        ("[device a]\nae-title = A\nhost = h\n[device  A]\nae-title = B\nhost = h\n", "there are two devices 'A'"),
        ("[device ]\nae-title = A\nhost = h\n", "'' is no name for a device"),
        ("[device -x]\nae-title = A\nhost = h\n", "'-x' is no name for a device"),
        ("[device a@b]\nae-title = A\nhost = h\n", "'a@b' is no name for a device"),
        ("[device a\x1b]\nae-title = A\nhost = h\n", "is no name for a device"),
        (f"[device {'a' * 65}]\nae-title = A\nhost = h\n", "is no name for a device"),
    ],
)
def test_a_broken_device_is_explained(path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        book_of(path, text)
    assert str(caught.value).startswith(str(path))
    assert message in str(caught.value)


def test_no_file_is_no_devices_until_there_is_one(path: Path) -> None:
    book = DeviceBook(path)
    assert book.all() == ()
    assert book.find_caller("A", "10.0.0.1") is None
    path.write_text(ARTIS)
    assert names_in(book) == ["DSA room 1"]
    nowhere = DeviceBook(None)
    assert nowhere.all() == ()
    with pytest.raises(ConfigError, match="no configuration file"):
        nowhere.add(Device("a", "A", ("h",)))


def test_a_changed_file_is_read_again_an_unchanged_one_is_not(path: Path) -> None:
    book = book_of(path, ARTIS)
    before = book.all()
    assert book.all() is before
    path.write_text(ARTIS + CONSOLE, encoding="utf-8")
    assert names_in(book) == ["DSA room 1", "工作站"]
    other = path.with_name("other")
    other.write_text(ARTIS.replace("ARTIS1", "ARTIS2"))  # the same size as the first
    other.replace(path)
    assert book.by_ae_title("ARTIS2")


@pytest.mark.parametrize("broken", ["[device a]\nport = 1\n", "no section", "\xff", None])
def test_a_file_broken_later_keeps_the_devices_and_is_logged_once(
    path: Path, broken: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    book = book_of(path, ARTIS)
    if broken is None:
        path.unlink()
    else:
        path.write_bytes(broken.encode("latin-1"))
    for _ in range(3):
        assert names_in(book) == ["DSA room 1"]
    [record] = caplog.records
    assert record.levelno == logging.ERROR
    assert str(path) in record.getMessage()
    path.write_text(CONSOLE, encoding="utf-8")
    assert names_in(book) == ["工作站"]
    assert len(caplog.records) == 1


# --- Adding and removing --------------------------------------------------------------------------------------------


def test_added_devices_are_in_the_file_and_in_force_everywhere(path: Path) -> None:
    book, other = DeviceBook(path), DeviceBook(path)
    devices = [
        Device("DSA 一", "ARTIS", ("10.0.0.1", "fd00::/8"), 104, frozenset({Operation.STORE}), "GB18030"),
        Device("viewer", "VIEW", ("viewer.local",)),
    ]
    for device in devices:
        book.add(device)
    assert list(book.all()) == list(other.all()) == devices
    assert path.stat().st_mode & 0o777 == 0o600
    book.remove("VIEWER")
    assert list(other.all()) == devices[:1]


def test_other_sections_stay_when_devices_come_and_go(path: Path) -> None:
    book = book_of(path, "[dicom]\nport = 104\n" + ARTIS)
    book.add(Device("ct", "CT", ("10.0.0.1",)))
    book.remove("DSA room 1")
    assert names_in(book) == ["ct"]
    assert config.load(path).port == 104


@pytest.mark.parametrize(
    ("device", "message"),
    [
        (Device("dsa ROOM 1", "OTHER", ("10.0.0.1",)), "there is a device 'dsa ROOM 1' already"),
        (Device("x]\n[device y", "A", ("10.0.0.1",)), "is no name for a device"),
        (Device("x", "A\nport = 1", ("10.0.0.1",)), "control character"),
        (Device("x", "A", ("10.0.0.1\n",)), "control character"),
        (Device("x", "A", ("no such host",)), "is no host name"),
        (Device("x", "A", ()), "is no host name"),
        (Device("x", "A", ("h",), 70000), "'70000' is not allowed"),
        (Device("x", "A", ("h",), 104, EVERYTHING, "klingon"), "'klingon' is not allowed"),
        (Device("x", "ARTIS1", ("h",), 104), "only one of them may have a port"),
    ],
)
def test_a_device_that_is_not_valid_is_not_added(path: Path, device: Device, message: str) -> None:
    book = book_of(path, ARTIS)
    before = path.read_bytes()
    with pytest.raises(ConfigError) as caught:
        book.add(device)
    assert message in str(caught.value)
    assert path.read_bytes() == before
    assert names_in(book) == ["DSA room 1"]


def test_removing_an_unknown_device_suggests_the_nearest(path: Path) -> None:
    book = book_of(path, ARTIS + CONSOLE)
    with pytest.raises(ConfigError, match=r"no device 'DSA room'; did you mean DSA room 1\?"):
        book.remove("DSA room")
    with pytest.raises(ConfigError, match=r"there is no device 'x'$"):
        DeviceBook(path.with_name("new.ini")).remove("x")
    assert os.listdir(path.parent) == [path.name]


def test_a_broken_device_can_be_removed(path: Path) -> None:
    book = book_of(path, ARTIS)
    path.write_text(ARTIS + "[device bad]\nport = x\n")
    with pytest.raises(ConfigError, match="ae-title is missing"):
        book.add(Device("ct", "CT", ("10.0.0.1",)))
    book.remove("bad")
    book.add(Device("ct", "CT", ("10.0.0.1",)))
    assert names_in(book) == ["DSA room 1", "ct"]


def test_many_threads_read_while_devices_are_added(path: Path) -> None:
    path.write_text(ARTIS)
    book = DeviceBook(path)
    done = threading.Event()
    counts: list[list[int]] = [[] for _ in range(4)]

    def watch(seen: list[int]) -> None:
        while not done.is_set():
            seen.append(len(book.all()) if book.find_caller("ARTIS1", "10.1.2.3") else -1)

    def add(start: int) -> None:
        for number in range(start, start + 5):
            DeviceBook(path).add(Device(f"d{number}", f"D{number}", ("10.0.0.1",), 104))

    watchers = [threading.Thread(target=watch, args=(seen,)) for seen in counts]
    writers = [threading.Thread(target=add, args=(start,)) for start in (0, 5, 10, 15)]
    for thread in watchers + writers:
        thread.start()
    for thread in writers:
        thread.join()
    done.set()
    for thread in watchers:
        thread.join()
    assert len(book.all()) == 21
    for seen in counts:
        assert seen[0] >= 1
        assert seen == sorted(seen)
