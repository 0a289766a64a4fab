"""The application entity as acceptor: listens, negotiates, and hands each message to its service.

One thread serves one connection. Nothing polls: an idle association costs a blocked thread and no processor time.
"""

from __future__ import annotations

import logging
import socket
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from typing import Final

from angiovault.config import Config
from angiovault.devices import DeviceBook
from angiovault.dimse import messages, negotiation, sop_classes
from angiovault.dimse.acceptance import judge
from angiovault.dimse.association import Association
from angiovault.dimse.wire import (
    A_ASSOCIATE_RQ,
    AssociationEnded,
    ConnectionLost,
    Message,
    ProtocolError,
    Released,
    TimedOut,
    Wire,
)

log = logging.getLogger(__name__)

Handler = Callable[[Association, Message], None]
Refused = Callable[[str, str, str, str], None]
"""Called with address, calling AE title, called AE title and reason of a refusal."""

_BACKLOG: Final = 256
_MAY_BE_EVICTED_AFTER: Final = 30.0
_UNEXPECTED_PDU: Final = 2


class Server:
    """Accepts associations and serves them.

    Parameters
    ----------
    config : Config
        The settings in force.
    devices : DeviceBook
        The configured devices.
    handlers : Mapping[int, Handler]
        Command Field -> service that answers such a request.
    on_refusal : Refused
        Is told who was refused and why.
    """

    def __init__(
        self, config: Config, devices: DeviceBook, handlers: Mapping[int, Handler], on_refusal: Refused
    ) -> None:
        self._config = config
        self._devices = devices
        self._handlers = handlers
        self._on_refusal = on_refusal
        self._lock = threading.Lock()
        self._listeners: list[socket.socket] = []
        self._connections: dict[threading.Thread, Association | Wire] = {}
        self._stopping = False

    # ---- listening

    def listen(self, address: str, port: int, tls: ssl.SSLContext | None = None) -> int:
        """Listen on an address and return the port; connections are served from now on.

        Raises
        ------
        OSError
            When the address or port cannot be had.
        """
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        listener = socket.create_server((address, port), family=family, backlog=_BACKLOG)
        self._listeners.append(listener)
        threading.Thread(target=self._accept, args=(listener, tls), name="listener", daemon=True).start()
        return int(listener.getsockname()[1])

    def _accept(self, listener: socket.socket, tls: ssl.SSLContext | None) -> None:
        while not self._stopping:
            try:
                connection, address = listener.accept()
            except OSError as error:
                if self._stopping:
                    return
                log.error("cannot accept a connection: %s", error)  # for example out of file descriptors
                time.sleep(0.1)
                continue
            thread = threading.Thread(
                target=self._serve, args=(connection, address[0], tls), name=f"peer {address[0]}", daemon=True
            )
            try:
                thread.start()
            except RuntimeError as error:
                log.error("cannot start a thread for %s: %s", address[0], error)
                connection.close()

    def stop(self, timeout: float) -> bool:
        """Stop listening, end idle associations, and wait for messages that are being answered.

        Returns
        -------
        bool
            Whether all was finished within `timeout` seconds.
        """
        self._stopping = True
        for listener in self._listeners:
            listener.close()
        with self._lock:
            open_now = list(self._connections.items())
        for _, connection in open_now:
            if isinstance(connection, Wire):
                connection.close()
            elif not connection.busy:
                connection.wire.abort()
        deadline = time.monotonic() + timeout
        for thread, _ in open_now:
            thread.join(max(0.0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread, _ in open_now)

    def associations(self) -> list[Association]:
        """Return the associations that are open now."""
        with self._lock:
            return [item for item in self._connections.values() if isinstance(item, Association)]

    # ---- one connection

    def _serve(self, connection: socket.socket, peer: str, tls: ssl.SSLContext | None) -> None:
        wire: Wire | None = None
        me = threading.current_thread()
        try:
            if tls is not None:
                connection.settimeout(self._config.artim_timeout)
                connection = tls.wrap_socket(connection, server_side=True)
            wire = Wire(connection, self._config.max_pdu, self._config.artim_timeout)
            with self._lock:
                self._connections[me] = wire
            association = self._establish(wire, peer)
            if association is not None:
                with self._lock:
                    self._connections[me] = association
                self._converse(association)
        except (ssl.SSLError, OSError) as error:
            log.warning("TLS with %s failed: %s", peer, error)
        except Exception:
            log.exception("serving %s failed", peer)
            if wire is not None:
                wire.abort()
        finally:
            with self._lock:
                self._connections.pop(me, None)
            (wire or connection).close()

    def _establish(self, wire: Wire, peer: str) -> Association | None:
        """Negotiate; None when there is to be no association."""
        config = self._config
        try:
            wire.wait(config.artim_timeout)
        except ConnectionLost:
            log.debug("%s connected and left without a word", peer)  # a health check
            return None
        except TimedOut:
            log.warning("%s connected and asked for nothing within %d s", peer, config.artim_timeout)
            wire.close()
            return None
        try:
            kind, encoded = wire.read_pdu()
            if kind != A_ASSOCIATE_RQ:
                raise ProtocolError(f"PDU of type {kind} where an association request is due", _UNEXPECTED_PDU)
            proposal = negotiation.decode_request(encoded)
            if self._full():
                self._refuse(wire, peer, proposal, (2, 3, 2), f"{config.max_associations} associations are open already")
                return None
            device = self._devices.find_caller(proposal.calling, peer)
            verdict = judge(proposal, device, config)
            if verdict.reject:
                self._refuse(wire, peer, proposal, verdict.reject, verdict.why)
                return None
            wire.peer_max_pdu = proposal.max_pdu
            wire.network_timeout = config.network_timeout
            wire.send(negotiation.encode_accept(proposal, verdict.contexts, verdict.extended, config.max_pdu))
        except ProtocolError as error:
            log.warning("connection from %s aborted: %s", peer, error)
            wire.abort(error.reason)
            return None
        except AssociationEnded as error:
            log.warning("connection from %s ended during negotiation: %s", peer, error)
            return None
        association = Association(
            wire, peer, proposal.calling, proposal.called, verdict.contexts, device, verdict.extended
        )
        for refused in verdict.refused:
            log.warning("refused a presentation context of %s: %s", association, refused)
            self._on_refusal(peer, proposal.calling, proposal.called, refused)
        log.debug(
            "association from %s to %s, %s, %d of %d contexts accepted",
            association, proposal.called, proposal.implementation, len(association.contexts), len(proposal.contexts),
        )  # fmt: skip
        return association

    def _refuse(
        self, wire: Wire, peer: str, proposal: negotiation.Proposal, code: tuple[int, int, int], why: str
    ) -> None:
        log.warning(
            "rejected association from %s@%s to %s: %s (%s)",
            proposal.calling, peer, proposal.called, why, negotiation.REJECTIONS[code],
        )  # fmt: skip
        self._on_refusal(peer, proposal.calling, proposal.called, f"{negotiation.REJECTIONS[code]}: {why}")
        wire.send(negotiation.encode_reject(*code))
        try:  # the requestor closes (PS3.8 9.2.3, AR-... Sta13); do not cut off our answer
            wire.wait(self._config.artim_timeout)
        except AssociationEnded:
            pass
        wire.close()

    def _full(self) -> bool:
        """Return whether there is no room for one more; the association idle the longest makes room if it may."""
        with self._lock:
            if len(self._connections) <= self._config.max_associations:
                return False
            idle = [
                item
                for item in self._connections.values()
                if isinstance(item, Association)
                and not item.busy
                and time.monotonic() - item.idle_since > _MAY_BE_EVICTED_AFTER
            ]
        if not idle:
            return True
        longest = min(idle, key=lambda item: item.idle_since)
        log.warning("ended the idle association of %s to make room for another", longest)
        longest.wire.abort()
        return False

    # ---- one association

    def _converse(self, association: Association) -> None:
        began = time.monotonic()
        ending = "stopped"
        try:
            while not self._stopping:
                message = association.receive(self._config.idle_timeout)
                try:
                    self._dispatch(association, message)
                finally:
                    association.busy = False
            association.wire.abort()
        except Released as end:
            ending = str(end)
        except TimedOut as end:
            ending = f"ended: {end}"
            association.wire.abort()
        except ProtocolError as end:
            ending = f"aborted: {end}"
            association.wire.abort(end.reason)
        except AssociationEnded as end:
            ending = str(end)
        except Exception:
            ending = "aborted by an internal error"
            association.wire.abort()
            raise
        finally:
            tally = ", ".join(f"{count} {what}" for what, count in association.tally.items()) or "nothing asked"
            level = logging.INFO if ending in ("released", "stopped") else logging.WARNING
            log.log(
                level,
                "association of %s with %s: %s; %s after %.1f s",
                association, association.called, tally, ending, time.monotonic() - began,
            )  # fmt: skip

    def _dispatch(self, association: Association, message: Message) -> None:
        association.context_of(message)
        field = message.command.field
        if field == messages.C_CANCEL_RQ or field & messages.RESPONSE:
            message.drain()  # too late, or the answer to a notification of ours
            if field & messages.RESPONSE:
                association.take_response(message.command)
            return
        handler = self._handlers.get(field)
        if handler is None or not _fits(field, association.context_of(message).abstract_syntax):
            message.drain()
            log.warning("%s asked for operation %04X in a context that has none such", association, field)
            association.respond(message, messages.UNRECOGNISED_OPERATION)
            return
        handler(association, message)
        message.drain()


_CLASSES: Final[Mapping[int, Callable[[str], bool]]] = {
    messages.C_ECHO_RQ: lambda uid: uid == sop_classes.VERIFICATION,
    messages.C_STORE_RQ: sop_classes.is_storage,
    messages.C_FIND_RQ: sop_classes.FIND.__contains__,
    messages.C_MOVE_RQ: sop_classes.MOVE.__contains__,
    messages.C_GET_RQ: sop_classes.GET.__contains__,
    messages.N_ACTION_RQ: lambda uid: uid == sop_classes.STORAGE_COMMITMENT_PUSH,
}


def _fits(field: int, abstract_syntax: str) -> bool:
    """Return whether a request belongs into a presentation context of this class."""
    return field in _CLASSES and _CLASSES[field](abstract_syntax)
