"""pynetdicom as sender, requestor and receiver of encoded data sets: on this side nothing is decoded or encoded."""

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filewriter import write_file_meta_info
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE, _config, build_role, evt, register_uid
from pynetdicom.presentation import PresentationContext, build_context
from pynetdicom.service_class import StorageServiceClass

from harness.dcmtk import Peer
from harness.processes import free_port

_config.STORE_SEND_CHUNKED_DATASET = True

PATIENT_ROOT = "1.2.840.10008.5.1.4.1.2.1."
STUDY_ROOT = "1.2.840.10008.5.1.4.1.2.2."
_MOVE, _GET = "2", "3"
_MOST_CONTEXTS = 128


@dataclass(frozen=True)
class Instance:
    """A SOP instance as its bytes: what a sender sends, or a receiver got."""

    sop_class: str
    sop_instance: str
    transfer_syntax: str
    data_set: bytes = field(repr=False)

    def write(self, path: Path) -> Path:
        """Write a Part 10 file with exactly these bytes as its data set (PS3.10 7.1)."""
        meta = FileMetaDataset()
        meta.FileMetaInformationVersion = b"\0\1"
        meta.MediaStorageSOPClassUID = UID(self.sop_class)
        meta.MediaStorageSOPInstanceUID = UID(self.sop_instance)
        meta.TransferSyntaxUID = UID(self.transfer_syntax)
        meta.ImplementationClassUID = UID("1.2.3.4")
        head = BytesIO()
        write_file_meta_info(head, meta)
        path.write_bytes(bytes(128) + b"DICM" + head.getvalue() + self.data_set)
        return path


@dataclass
class Retrieval:
    """What a C-GET or C-MOVE gave: the responses and, for C-GET, the instances in the order they came."""

    responses: list[Dataset] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    received: list[Instance] = field(default_factory=list)

    @property
    def statuses(self) -> list[int]:
        return [int(response.get("Status", -1)) for response in self.responses]

    def counts(self, position: int) -> tuple[int | None, ...]:
        """Return the numbers of remaining, completed, failed and warning sub-operations of one response."""
        response = self.responses[position]
        return tuple(
            response.get(f"NumberOf{kind}Suboperations") for kind in ("Remaining", "Completed", "Failed", "Warning")
        )


def contexts_of(pairs: Iterable[tuple[str, str]]) -> list[PresentationContext]:
    """Return a presentation context for each pair of SOP class and transfer syntax."""
    return [build_context(sop_class, [syntax]) for sop_class, syntax in dict.fromkeys(pairs)]


def send(peer: Peer, paths: Sequence[Path], pairs: Sequence[tuple[str, str]], calling: str = "EXACT") -> list[int]:
    """Send Part 10 files, of which `pairs` are the SOP classes and transfer syntaxes, and return the statuses."""
    statuses = []
    contexts = contexts_of(pairs)
    for start in range(0, len(contexts), _MOST_CONTEXTS):
        part = contexts[start : start + _MOST_CONTEXTS]
        accepted = {(str(item.abstract_syntax), str(item.transfer_syntax[0])) for item in part}
        assoc = AE(calling).associate(peer.host, peer.port, part, ae_title=peer.ae_title)
        assert assoc.is_established
        for path, pair in zip(paths, pairs, strict=True):
            if pair in accepted:
                statuses.append(int(assoc.send_c_store(path).get("Status", -1)))
        assoc.release()
    return statuses


def get(
    peer: Peer,
    keys: Mapping[str, str],
    contexts: Sequence[PresentationContext],
    *,
    model: str = STUDY_ROOT,
    cancel_after: int | None = None,
    on_store: Callable[[Any], int] = lambda event: 0,
    role: bool = True,
    syntax: str = ImplicitVRLittleEndian,
) -> Retrieval:
    """Send a C-GET and take what comes in these contexts, cancelling after some pending responses if so told."""
    result = Retrieval()

    def store(event: Any) -> int:
        result.received.append(_instance(event))
        return on_store(event)

    classes = dict.fromkeys(str(context.abstract_syntax) for context in contexts)
    assoc = AE("EXACT").associate(
        peer.host,
        peer.port,
        [build_context(model + _GET, [syntax]), *contexts],
        ae_title=peer.ae_title,
        ext_neg=[build_role(sop_class, scp_role=True) for sop_class in classes] if role else [],
        evt_handlers=[(evt.EVT_C_STORE, store)],
    )
    assert assoc.is_established
    responses = assoc.send_c_get(_identifier(keys), model + _GET)
    _follow(assoc, responses, result, model + _GET, cancel_after)
    return result


def move(
    peer: Peer,
    destination: str,
    keys: Mapping[str, str],
    *,
    model: str = STUDY_ROOT,
    cancel_after: int | None = None,
    syntax: str = ImplicitVRLittleEndian,
    calling: str = "EXACT",
) -> Retrieval:
    """Send a C-MOVE, cancelling after some pending responses if so told."""
    result = Retrieval()
    assoc = AE(calling).associate(
        peer.host, peer.port, [build_context(model + _MOVE, [syntax])], ae_title=peer.ae_title
    )
    assert assoc.is_established
    responses = assoc.send_c_move(_identifier(keys), destination, model + _MOVE)
    _follow(assoc, responses, result, model + _MOVE, cancel_after)
    return result


def _identifier(keys: Mapping[str, str]) -> Dataset:
    identifier = Dataset()
    for keyword, value in keys.items():
        setattr(identifier, keyword, value)
    return identifier


def _follow(assoc: Any, responses: Any, result: Retrieval, model: str, cancel_after: int | None) -> None:
    for status, identifier in responses:
        result.responses.append(status)
        if identifier is not None:
            listed = identifier.get("FailedSOPInstanceUIDList") or []
            result.failed = [listed] if isinstance(listed, str) else list(listed)
        if len(result.responses) == cancel_after:
            assoc.send_c_cancel(1, query_model=model)
    assoc.release()


def _instance(event: Any) -> Instance:
    request = event.request
    return Instance(
        str(request.AffectedSOPClassUID),
        str(request.AffectedSOPInstanceUID),
        str(event.context.transfer_syntax),
        request.DataSet.getvalue(),
    )


class Receiver:
    """A Storage SCP in a thread, keeping the bytes as they came.

    Parameters
    ----------
    ae_title
        Its AE title.
    accepts
        Pairs of SOP class and transfer syntax that it accepts.
    max_pdu
        Longest PDU it announces.
    on_store
        Called with each event; returns the status to answer, or aborts the association.
    port
        Where it listens, a free port if 0.
    """

    def __init__(
        self,
        ae_title: str,
        accepts: Iterable[tuple[str, str]],
        *,
        max_pdu: int = 16382,
        on_store: Callable[[Any], int] = lambda event: 0,
        port: int = 0,
    ) -> None:
        self.peer = Peer("127.0.0.1", port or free_port(), ae_title)
        self.received: list[Instance] = []
        self.originators: list[tuple[str | None, int | None]] = []
        self.associations = 0
        self._on_store = on_store
        self._lock = threading.Lock()
        self._ae = AE(ae_title)
        self._ae.maximum_pdu_size = max_pdu
        for sop_class, syntax in dict.fromkeys(accepts):
            accept_private(sop_class)
            self._ae.add_supported_context(sop_class, syntax)
        self._server: Any = None

    def _store(self, event: Any) -> int:
        with self._lock:
            self.received.append(_instance(event))
            request = event.request
            self.originators.append((request.MoveOriginatorApplicationEntityTitle, request.MoveOriginatorMessageID))
        return self._on_store(event)

    def _accepted(self, _event: Any) -> None:
        with self._lock:
            self.associations += 1

    def bind(self, event: Any, handler: Callable[[Any], None]) -> None:
        """Have pynetdicom call `handler` at an event of associations to come."""
        self._server.bind(event, handler)

    def __enter__(self) -> Self:
        handlers = [(evt.EVT_C_STORE, self._store), (evt.EVT_ACCEPTED, self._accepted)]
        self._server = self._ae.start_server((self.peer.host, self.peer.port), block=False, evt_handlers=handlers)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()


_registered: set[str] = set()


def accept_private(sop_class: str) -> None:
    """Let pynetdicom take instances of a private SOP class for what they are: of the storage service."""
    if UID(sop_class).is_private and sop_class not in _registered:
        _registered.add(sop_class)
        register_uid(sop_class, f"PrivateStorage{len(_registered)}", StorageServiceClass)


UNCOMPRESSED = (str(ExplicitVRLittleEndian), str(ImplicitVRLittleEndian))
