"""Storage Commitment Push Model as SCP (PS3.4 annex J): the archive takes over the responsibility, truly.

A request is queued durably and answered; a worker reads every instance again, and reports on the association that asked
if it is still open, else on a new one, for days if need be. A requestor that is not a configured device with a port can
only be told on its own association.
"""

from __future__ import annotations

import logging
import re
import struct
import threading
import time
from collections.abc import Callable
from io import BytesIO
from typing import Final

from pydicom.filereader import read_dataset

from angiovault.archive import commitments, elements
from angiovault.archive.archive import Archive
from angiovault.archive.commitments import DuplicateTransaction, Item, Judgement, Request
from angiovault.archive.elements import Element, Tree
from angiovault.archive.index import Index, IndexUnavailable
from angiovault.archive.store import StorageError
from angiovault.config import Config
from angiovault.devices import DeviceBook
from angiovault.dimse import messages, sop_classes
from angiovault.dimse.association import Association
from angiovault.dimse.endings import AssociationEnded, CannotAssociate
from angiovault.dimse.messages import Message
from angiovault.dimse.negotiation import Context, ProposedContext
from angiovault.dimse.scu import Destination, Limits, associate, response_status

log = logging.getLogger(__name__)

_REQUEST: Final = 1
_ALL_COMMITTED: Final = 1
_FAILURES_EXIST: Final = 2
_LONGEST_REQUEST: Final = 16 << 20
"""Most bytes of a request: room for 150,000 instances."""

_RETRIEVE_AE_TITLE: Final = 0x00080054
_REFERENCED_SOP_CLASS_UID: Final = 0x00081150
_REFERENCED_SOP_INSTANCE_UID: Final = 0x00081155
_TRANSACTION_UID: Final = 0x00081195
_FAILURE_REASON: Final = 0x00081197
_FAILED_SOP_SEQUENCE: Final = 0x00081198
_REFERENCED_SOP_SEQUENCE: Final = 0x00081199
_ITEM_HEADER: Final = 8
"""Bytes before the content of an item, which is encoded as a data set is."""

_UID: Final = re.compile(r"[0-9A-Za-z.]{1,64}")
"""A UID (PS3.5 9.1), or what some devices take for one."""
_FAILURES_LOGGED: Final = 10
"""Instances of one request that are named in the log when they cannot be promised."""
_RETRY_WHEN_AWAY: Final = 10.0
_LOOK_EVERY: Final = 5.0
_LOOK_AGAIN: Final = 0.1
_SECONDS_AN_INSTANCE: Final = 0.001
"""What a requestor is granted to read its report, in addition to the time that is configured."""
_QUIET: Final = 0.3
"""Seconds without a message after which a requestor is taken to wait: one that goes on, or leaves, is not disturbed."""
_LEFT_ALONE: Final = 60.0
"""Seconds for which a device that cannot be reached is not called again for the next request of its."""


def answer(association: Association, message: Message, archive: Archive, worker: Worker) -> None:
    """Answer an N-ACTION request: queue it."""
    status, comment = _accept(association, message, archive)
    message.drain()
    if status != messages.SUCCESS:
        log.warning("refused a storage commitment request of %s with status %04X: %s", association, status, comment)
    association.respond(message, status, comment=comment)
    if status == messages.SUCCESS:
        association.tally["commitment requests"] += 1
        worker.wake()


def _accept(association: Association, message: Message, archive: Archive) -> tuple[int, str]:
    if message.command.number(messages.ACTION_TYPE_ID, 0) != _REQUEST:
        return messages.NO_SUCH_ACTION, "the only action is 1, Request Storage Commitment"
    context = association.context_of(message)
    encoded = message.data(_LONGEST_REQUEST)
    try:
        transaction_uid, items = read_request(encoded, context.transfer_syntax == sop_classes.IMPLICIT_VR_LE)
    except Exception as error:  # noqa: BLE001 (pydicom raises whatever its parts do on malformed bytes)
        return messages.INVALID_ARGUMENT, f"the request cannot be understood: {error}"
    try:
        commitments.accept(
            archive.ready_index(), transaction_uid, association.calling, association.called, association.peer, items
        )
    except DuplicateTransaction as error:
        return messages.DUPLICATE_TRANSACTION_UID, str(error)
    except (IndexUnavailable, StorageError) as error:
        return messages.RESOURCE_LIMITATION, str(error)
    return messages.SUCCESS, ""


def read_request(encoded: bytes, implicit: bool) -> tuple[str, list[Item]]:
    """Return Transaction UID and instances of a request (PS3.4 table J.3-1).

    Raises
    ------
    ValueError
        When one of them is missing or no UID.
    """
    dataset = read_dataset(BytesIO(encoded), is_implicit_VR=implicit, is_little_endian=True)
    transaction_uid = str(dataset.get("TransactionUID") or "")
    items = [
        (str(item.get("ReferencedSOPClassUID") or ""), str(item.get("ReferencedSOPInstanceUID") or ""))
        for item in dataset.get("ReferencedSOPSequence") or ()
    ]
    if not _UID.fullmatch(transaction_uid):
        raise ValueError("no Transaction UID (0008,1195)")
    if not items or not all(_UID.fullmatch(uid) for item in items for uid in item):
        raise ValueError("no Referenced SOP Sequence (0008,1199), or an item without class or instance UID")
    return transaction_uid, items


def encode_report(transaction_uid: str, result: tuple[Judgement, ...], retrieve_ae_title: str, implicit: bool) -> bytes:
    """Encode the data set of an N-EVENT-REPORT request (PS3.4 table J.3-2)."""
    safe: list[Tree] = []
    failed: list[Tree] = []
    for sop_class, uid, reason in result:
        item = {
            _REFERENCED_SOP_CLASS_UID: Element("UI", sop_class.encode()),
            _REFERENCED_SOP_INSTANCE_UID: Element("UI", uid.encode()),
        }
        if reason:
            item[_FAILURE_REASON] = Element("US", struct.pack("<H", reason))
        (failed if reason else safe).append(item)
    report = {_TRANSACTION_UID: Element("UI", transaction_uid.encode())}
    if safe:
        report[_RETRIEVE_AE_TITLE] = Element("AE", retrieve_ae_title.encode())
        report[_REFERENCED_SOP_SEQUENCE] = Element("SQ", b"", tuple(safe))
    if failed:
        report[_FAILED_SOP_SEQUENCE] = Element("SQ", b"", tuple(failed))
    return elements.encode_items([report], implicit)[_ITEM_HEADER:]


class Worker:
    """Makes and delivers the results, in a thread of its own.

    Parameters
    ----------
    archive, devices, config
        The archive, the configured devices, the settings in force.
    open_associations : Callable
        Returns the associations that are open now.
    """

    def __init__(
        self,
        archive: Archive,
        devices: DeviceBook,
        config: Config,
        open_associations: Callable[[], list[Association]],
    ) -> None:
        self._archive = archive
        self._devices = devices
        self._config = config
        self._open_associations = open_associations
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self.has_waiting = True
        """Whether requests were waiting when the queue was looked at last; true until it was looked at."""
        self._unreachable: dict[Destination, tuple[float, str]] = {}
        self._thread = threading.Thread(target=self._run, name="storage commitment", daemon=True)

    def start(self) -> None:
        """Begin to work, with what an earlier run left in the queue first."""
        self._thread.start()

    def use(self, config: Config) -> None:
        """Go on with other settings."""
        self._config = config

    def wake(self) -> None:
        """Tell that there is a new request."""
        self._unreachable.clear()
        self._wake.set()

    def stop(self, timeout: float) -> None:
        """Stop; what is not delivered stays in the queue."""
        self._stopping.set()
        self._wake.set()
        self._thread.join(timeout)

    def _run(self) -> None:
        begun, said = False, ""
        while not self._stopping.is_set():
            self._wake.clear()
            pause: float | None = _RETRY_WHEN_AWAY
            try:
                index = self._archive.ready_index()
                if not begun:
                    commitments.retry_all(index)
                    begun = True
                pause = self._work(index)
                self.has_waiting = pause is not None
                if pause is not None:  # somebody may ask, in another process, for one to be tried at once
                    pause = min(pause, _LOOK_EVERY)
                said = ""
            except (IndexUnavailable, StorageError) as error:
                if str(error) != said:
                    log.warning("storage commitment waits: %s", error)
                said = str(error)
            except Exception:
                log.exception("storage commitment failed, next try in %d s", _RETRY_WHEN_AWAY)
            self._wake.wait(pause)

    def _work(self, index: Index) -> float | None:
        """Work on what is due; return the seconds until there is more, None when nothing waits."""
        while not self._stopping.is_set():
            request = commitments.next_due(index)
            if request is None:
                break
            try:
                self._work_on(index, request)
            except (IndexUnavailable, StorageError):
                raise
            except Exception as error:  # one request must not keep the others from being worked on
                log.exception("storage commitment %s failed", request.transaction_uid)
                commitments.postpone(index, request, f"internal error: {error}", self._config.commitment_retry_days)
        return commitments.seconds_to_next(index)

    def _work_on(self, index: Index, request: Request) -> None:
        result = request.result
        if result is None:
            result = self._judge(request)
            if self._stopping.is_set():
                return
            if not commitments.keep_result(index, request, result):
                return  # cancelled meanwhile
        problem = self._deliver(request, result)
        who = f"{request.calling}@{request.address}"
        if not problem:
            commitments.delivered(index, request)
            failures = sum(1 for *_, reason in result if reason)
            log.info(
                "storage commitment %s reported to %s: %d instances safe, %d not",
                request.transaction_uid, who, len(result) - failures, failures,
            )  # fmt: skip
        elif self._stopping.is_set():
            return
        elif self._destination(request) is None and self._open_association(request) is None:
            commitments.give_up(index, request, problem)
            log.warning("storage commitment %s of %s given up: %s", request.transaction_uid, who, problem)
        elif commitments.postpone(index, request, problem, self._config.commitment_retry_days):
            log.warning("storage commitment %s of %s waits: %s", request.transaction_uid, who, problem)
        else:
            log.error("storage commitment %s of %s given up: %s", request.transaction_uid, who, problem)

    def _judge(self, request: Request) -> tuple[Judgement, ...]:
        """Judge the instances of a request; fewer than all when the service stops meanwhile."""
        result: list[Judgement] = []
        for sop_class, uid, reason in commitments.judge(self._archive, request.items):
            if self._stopping.is_set():
                break
            supported = sop_classes.is_storage(sop_class)
            result.append((sop_class, uid, reason if supported else messages.SOP_CLASS_NOT_SUPPORTED))
        for sop_class, uid, reason in [item for item in result if item[2]][:_FAILURES_LOGGED]:
            log.warning(
                "storage commitment %s of %s: %s of class %s cannot be promised, reason %04X",
                request.transaction_uid, request.calling, uid, sop_classes.name(sop_class), reason,
            )  # fmt: skip
        return tuple(result)

    def _destination(self, request: Request) -> Destination | None:
        device = self._devices.find_caller(request.calling, request.address)
        try:
            return Destination.of(device) if device else None
        except CannotAssociate:
            return None

    def _open_association(self, request: Request) -> Association | None:
        """Return an association of the requestor on which it can be told, if one is open."""
        for item in self._open_associations():
            same = (item.calling, item.peer) == (request.calling, request.address)
            if same and item.find_context(sop_classes.STORAGE_COMMITMENT_PUSH):
                return item
        return None

    def _deliver(self, request: Request, result: tuple[Judgement, ...]) -> str:
        """Report on the open association, else on a new one; return what went wrong, '' when it was taken."""
        if self._report_on_open_association(request, result):
            return ""
        destination = self._destination(request)
        if destination is None:
            return "the requestor took no report on its association, and is not a configured device with a port"
        until, problem = self._unreachable.get(destination, (0.0, ""))
        if time.monotonic() < until and not request.urgent:
            return problem
        try:
            return self._report_on_new_association(destination, request, result)
        except (CannotAssociate, AssociationEnded) as error:
            self._unreachable[destination] = (time.monotonic() + _LEFT_ALONE, str(error))
            return str(error)

    def _report_on_open_association(self, request: Request, result: tuple[Judgement, ...]) -> bool:
        deadline = time.monotonic() + self._config.commitment_delay
        while time.monotonic() < deadline:
            association = self._open_association(request)
            if association is None:
                return False
            if association.silence > _QUIET:
                return self._report_on(association, request, result)
            if self._stopping.wait(_LOOK_AGAIN):
                return False
        return False

    def _report_on(self, association: Association, request: Request, result: tuple[Judgement, ...]) -> bool:
        """Report on an association that another thread serves, which hands us the response."""
        context = association.find_context(sop_classes.STORAGE_COMMITMENT_PUSH)
        assert context is not None
        try:
            message_id = self._send_report(association, context, request, result)
        except AssociationEnded:
            return False
        deadline = time.monotonic() + self._config.commitment_delay + len(result) * _SECONDS_AN_INSTANCE
        status = None
        while status is None and time.monotonic() < deadline and not self._stopping.is_set():
            is_open = association in self._open_associations()
            status = association.wait_for_response(message_id, _LOOK_AGAIN if is_open else 0)
            if not is_open:
                break
        return status == messages.SUCCESS

    def _report_on_new_association(
        self, destination: Destination, request: Request, result: tuple[Judgement, ...]
    ) -> str:
        uid = sop_classes.STORAGE_COMMITMENT_PUSH
        proposed = ProposedContext(1, uid, (sop_classes.EXPLICIT_VR_LE, sop_classes.IMPLICIT_VR_LE))
        # The AE titles of the request, exchanged (PS3.4 J.3.3).
        limits = Limits(request.called or self._config.ae_title, self._config.max_pdu, self._config.network_timeout)
        with associate(destination, [proposed], limits, scp_roles=[uid]) as association:
            context = association.find_context(uid)
            if context is None:
                return f"{destination} accepts the association but not the storage commitment class"
            message_id = self._send_report(association, context, request, result)
            status = response_status(association, message_id, limits.network_timeout)
        return "" if status == messages.SUCCESS else f"{destination} answers the report with status {status:04X}"

    def _send_report(
        self, association: Association, context: Context, request: Request, result: tuple[Judgement, ...]
    ) -> int:
        failures = any(reason for *_, reason in result)
        implicit = context.transfer_syntax == sop_classes.IMPLICIT_VR_LE
        return association.request(
            context,
            {
                messages.COMMAND_FIELD: messages.N_EVENT_REPORT_RQ,
                messages.AFFECTED_SOP_CLASS_UID: sop_classes.STORAGE_COMMITMENT_PUSH,
                messages.AFFECTED_SOP_INSTANCE_UID: sop_classes.STORAGE_COMMITMENT_PUSH_INSTANCE,
                messages.EVENT_TYPE_ID: _FAILURES_EXIST if failures else _ALL_COMMITTED,
            },
            encode_report(request.transaction_uid, result, self._config.ae_title, implicit),
        )
