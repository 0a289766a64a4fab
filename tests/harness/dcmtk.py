"""DCMTK's command line programs: the SCUs as functions, `storescp` as a receiver in the background."""

import re
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import pydicom
from pydicom import uid

from harness import part10
from harness.part10 import Part10
from harness.processes import Argument, Background, Server, environment, free_port, program


@dataclass(frozen=True)
class Peer:
    """Where a DICOM application listens."""

    host: str
    port: int
    ae_title: str

    def __str__(self) -> str:
        return f"{self.ae_title}@{self.host}:{self.port}"


@dataclass(frozen=True)
class Message:
    """One DIMSE message from a debug log: its type (`C-STORE RSP`), direction and the fields DCMTK shows."""

    kind: str
    incoming: bool
    fields: Mapping[str, str]

    @property
    def status(self) -> int:
        """The status of a response (PS3.7 C)."""
        return int(self.fields["DIMSE Status"].split(":")[0], 16)

    def count(self, name: str) -> int | None:
        """Return a number of sub-operations: `Remaining`, `Completed`, `Failed` or `Warning`; None when absent."""
        value = self.fields.get(f"{name} Suboperations", "none")
        return None if value == "none" else int(value)


@dataclass(frozen=True)
class Result:
    """What a program did: exit code, its whole debug log and the messages in it."""

    returncode: int
    log: str
    messages: Sequence[Message]
    data_sets: Sequence[pydicom.FileDataset] = field(default=())
    """findscu: the identifiers of the pending responses, in order."""
    received: Mapping[str, Part10] = field(default_factory=dict)
    """getscu: what it received, by SOP Instance UID."""

    @property
    def responses(self) -> list[Message]:
        """The responses the peer sent."""
        return [message for message in self.messages if message.incoming and message.kind.endswith(" RSP")]

    @property
    def statuses(self) -> list[int]:
        """The status of each response the peer sent, in order."""
        return [response.status for response in self.responses]

    @property
    def final(self) -> Message:
        """The last response the peer sent."""
        assert self.responses, f"no response came:\n{self.log}"
        return self.responses[-1]

    @property
    def rejected(self) -> tuple[str, str] | None:
        """Result and reason of an association that was refused, in DCMTK's words; None when it was accepted."""
        match = re.search(r"Result: (.+?), Source: .+\n.*Reason: (.+)", self.log)
        return (match[1].strip(), match[2].strip()) if match else None

    def ok(self) -> Self:
        """Return the result itself if the program exited with 0; else fail and show its log."""
        assert self.returncode == 0, f"exit code {self.returncode}:\n{self.log[-8000:]}"
        return self


PROPOSE = {
    uid.ImplicitVRLittleEndian: "-xi",
    uid.ExplicitVRLittleEndian: "-xe",
    uid.ExplicitVRBigEndian: "-xb",
    uid.DeflatedExplicitVRLittleEndian: "-xd",
    uid.JPEGBaseline8Bit: "-xy",
    uid.JPEGExtended12Bit: "-xx",
    uid.JPEGLosslessSV1: "-xs",
    uid.JPEG2000Lossless: "-xv",
    uid.JPEG2000: "-xw",
    uid.JPEGLSLossless: "-xt",
    uid.JPEGLSNearLossless: "-xu",
    uid.MPEG2MPML: "-xm",
    uid.MPEG2MPHL: "-xh",
    uid.MPEG4HP41: "-xn",
    uid.MPEG4HP41BD: "-xl",
    uid.MPEG4HP422D: "-x2",
    uid.MPEG4HP423D: "-x3",
    uid.MPEG4HP42STEREO: "-xo",
    uid.HEVCMP51: "-x4",
    uid.HEVCM10P51: "-x5",
    uid.RLELossless: "-xr",
}
"""The option by which storescu proposes a transfer syntax; a leading `+` makes storescp and getscu prefer it."""


def prefer(transfer_syntax: str) -> str:
    """Return the option by which storescp and getscu prefer a transfer syntax."""
    option = PROPOSE[uid.UID(transfer_syntax)]
    return "+" + option[1:]


_MESSAGE = re.compile(r"D: =+ (INCOMING|OUTGOING) DIMSE MESSAGE =+\n(.*?)D: =+ END DIMSE MESSAGE =+\n", re.DOTALL)
_FIELD = re.compile(r"^D: ([A-Z][^:\n]*?) *: (.*)$", re.MULTILINE)


def messages(log: str) -> list[Message]:
    """Return the DIMSE messages of a DCMTK debug log (option `-d`)."""
    found = []
    for direction, text in _MESSAGE.findall(log):
        fields = {name: value.strip() for name, value in _FIELD.findall(text)}
        found.append(Message(fields["Message Type"], direction == "INCOMING", fields))
    return found


def _run(name: str, arguments: Sequence[Argument], *, timeout: float) -> Result:
    done = subprocess.run(
        [program(name), "-d", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=environment(),
        timeout=timeout,
        check=False,
    )
    log = done.stdout.decode("utf-8", errors="replace")
    return Result(done.returncode, log, messages(log))


def _address(peer: Peer, calling: str) -> list[Argument]:
    return ["-aet", calling, "-aec", peer.ae_title, peer.host, str(peer.port)]


def _keys(keys: Sequence[str | bytes]) -> list[Argument]:
    return [argument for key in keys for argument in ("-k", key)]


def echoscu(peer: Peer, *options: Argument, calling: str = "ECHOSCU", timeout: float = 60) -> Result:
    """Send a C-ECHO; this program shows no messages in its log, its exit code says whether the answer was success."""
    return _run("echoscu", [*options, *_address(peer, calling)], timeout=timeout)


def storescu(
    peer: Peer, paths: Sequence[Path], *options: Argument, calling: str = "STORESCU", timeout: float = 120
) -> Result:
    """Send files with C-STORE, in their own syntax if an option of `PROPOSE` says so, going on after a failure.

    Only the presentation contexts these files need are proposed. storescu decodes and encodes anew what it sends:
    for identity to the byte compare with what `StoreSCP` received from the same call.
    """
    return _run("storescu", ["-R", "-nh", *options, *_address(peer, calling), *paths], timeout=timeout)


def findscu(
    peer: Peer,
    keys: Sequence[str | bytes],
    *options: Argument,
    model: str = "-S",
    query: Path | None = None,
    calling: str = "FINDSCU",
    timeout: float = 60,
) -> Result:
    """Send a C-FIND with keys such as `PatientName=ZHANG*`, over those of a query file if there is one.

    `model` is `-P` (Patient Root), `-S` (Study Root) or `-O` (Patient/Study Only).
    """
    with tempfile.TemporaryDirectory() as folder:
        arguments = [model, "-X", "-od", folder, *options, *_keys(keys), *_address(peer, calling)]
        result = _run("findscu", [*arguments, *([query] if query else [])], timeout=timeout)
        data_sets = []
        for path in sorted(Path(folder).iterdir(), key=lambda path: int(re.sub(r"\D", "", path.stem))):
            data_sets.append(pydicom.dcmread(path, force=True))
    return Result(result.returncode, result.log, result.messages, data_sets=data_sets)


def movescu(
    peer: Peer,
    destination: str,
    keys: Sequence[str | bytes],
    *options: Argument,
    model: str = "-S",
    calling: str = "MOVESCU",
    timeout: float = 120,
) -> Result:
    """Send a C-MOVE to the AE title `destination`."""
    arguments = [model, "-aem", destination, *options, *_keys(keys), *_address(peer, calling)]
    return _run("movescu", arguments, timeout=timeout)


def getscu(
    peer: Peer,
    keys: Sequence[str | bytes],
    folder: Path,
    *options: Argument,
    model: str = "-S",
    calling: str = "GETSCU",
    timeout: float = 120,
) -> Result:
    """Send a C-GET and keep what comes in `folder`, bytes as received; `options` may `prefer` a syntax."""
    folder.mkdir(parents=True, exist_ok=True)
    arguments = [model, "+B", "-od", folder, *options, *_keys(keys), *_address(peer, calling)]
    result = _run("getscu", arguments, timeout=timeout)
    received = {key: files[0] for key, files in part10.collect(folder).items()}
    return Result(result.returncode, result.log, result.messages, received=received)


class StoreSCP(Server):
    """`storescp` in the background, keeping bytes as received and accepting any class.

    By default it accepts every transfer syntax it knows; options such as `prefer(...)` or `+xi` narrow that.
    """

    clean_exits = (-signal.SIGTERM,)  # it does not handle the signal

    def __init__(
        self, folder: Path, *, ae_title: str = "STORESCP", options: Sequence[Argument] = ("+xa",), port: int = 0
    ) -> None:
        super().__init__()
        self.folder = folder
        self.options = options
        self.peer = Peer("127.0.0.1", port or free_port(), ae_title)

    def start(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        arguments: list[Argument] = [program("storescp"), "-d", "-aet", self.peer.ae_title, "+B"]
        if "-xf" not in self.options:  # a file of the test's says what is accepted
            arguments.append("-pm")
        self._background = Background(
            [*arguments, *self.options, "-od", self.folder, str(self.peer.port)],
            log=self.folder.with_name(self.folder.name + ".log"),
        )
        self.background.wait_ready(self._answers)
        return self

    def _answers(self) -> bool:
        echo = echoscu(self.peer)
        return echo.returncode == 0 or echo.rejected is not None  # with `--refuse` it rejects everybody

    def received(self) -> dict[str, Part10]:
        """Return what has been received, by SOP Instance UID."""
        return {key: files[0] for key, files in part10.collect(self.folder).items()}
