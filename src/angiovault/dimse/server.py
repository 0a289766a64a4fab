"""The application entity as acceptor: listens, negotiates, and hands each message to its service.

One thread serves one connection. Nothing polls: an idle association costs a blocked thread and no processor time.
"""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import socket
import ssl
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from angiovault.config import Config
from angiovault.devices import DeviceBook
from angiovault.dimse import endings, file_limit, negotiation
from angiovault.dimse.acceptance import Verdict, judge
from angiovault.dimse.association import Association
from angiovault.dimse.conversation import FAILURE, STOPPED, Ending, Handler, converse
from angiovault.dimse.endings import AssociationEnded, ConnectionLost, ProtocolError, TimedOut
from angiovault.dimse.listeners import Listeners, Opening
from angiovault.dimse.negotiation import Proposal
from angiovault.dimse.receivers import Receivers
from angiovault.dimse.tls import TlsConnection
from angiovault.dimse.wire import A_ASSOCIATE_RQ, Wire
from angiovault.reasons import Reason

log = logging.getLogger(__name__)

Refused = Callable[[str, str, str, Reason], None]
"""Called with address, calling AE title, called AE title and reason of a refusal."""
Ended = Callable[[Association, str], None]
"""Called with an association that has ended and how, as one word of `endings`; also with one that is rejected."""

_MAY_BE_EVICTED_AFTER: Final = 30.0
_UNEXPECTED_PDU: Final = 2
_LOCAL_LIMIT_EXCEEDED: Final = (2, 3, 2)


@dataclass(frozen=True, slots=True)
class Terms:
    """By what an association is served from its beginning to its end.

    Attributes
    ----------
    config : Config
        The settings that were in force when it began.
    handlers : Mapping[int, Handler]
        Command Field -> service that answers such a request.
    """

    config: Config
    handlers: Mapping[int, Handler]


class _Connection:
    """A connection, the terms it came under, and how far it has come."""

    def __init__(self, connection: socket.socket, peer: str, terms: Terms) -> None:
        self.socket: socket.socket | TlsConnection = connection
        self.peer = peer
        self.handlers = terms.handlers
        self.config = terms.config
        self.since = time.monotonic()
        self.association: Association | None = None
        self.is_cut = False

    def artim_left(self) -> float:
        """Return the seconds left for the association to be requested, always some."""
        return max(0.01, self.since + self.config.artim_timeout - time.monotonic())

    def silence(self) -> float:
        """Return for how many seconds the association has been idle, 0 when it is not."""
        return 0.0 if self.association is None else self.association.silence

    @property
    def goes_on(self) -> bool:
        """Whether it has an association that has not ended and is not being ended."""
        return self.association is not None and not self.association.has_ended and not self.is_cut

    def cut(self, why: str) -> None:
        """End it from another thread; the one that serves it wakes up and closes."""
        self.is_cut = True
        if self.association is None:
            with contextlib.suppress(OSError):
                self.socket.shutdown(socket.SHUT_RDWR)
        elif not self.association.has_ended:
            self.association.wire.interrupt(why)

    def close(self) -> None:
        self.socket.close()


class Server:
    """Accepts associations and serves them.

    Parameters
    ----------
    devices : DeviceBook
        The configured devices.
    on_refusal : Refused
        Is told who was refused and why.
    on_end : Ended
        Is told of each association that has ended.
    receivers : Receivers, optional
        Other processes that serve associations which only store.
    """

    def __init__(
        self, devices: DeviceBook, on_refusal: Refused, on_end: Ended, receivers: Receivers | None = None
    ) -> None:
        self._devices = devices
        self._on_refusal = on_refusal
        self._on_end = on_end
        self._lock = threading.Lock()
        self._listeners = Listeners(self._take, lambda: self._make_room_for_newcomers(0))
        self._connections: dict[_Connection, threading.Thread] = {}
        self._receivers = receivers
        self._terms: Terms | None = None
        self._most = self._most_newcomers = 0
        self._stopped = threading.Event()

    # ---- listening

    def serve(self, terms: Terms, openings: Sequence[Opening]) -> tuple[int, ...]:
        """Listen there and nowhere else, and serve who comes from now on by these terms; return the ports.

        Associations that run go on, by the terms and through the port that they began with.

        Raises
        ------
        CannotListen
            When an address or port cannot be had; then everything is as it was.
        """

        def use() -> None:
            self._most, self._most_newcomers = file_limit.make_room_for(terms.config.max_associations)
            self._terms = terms

        return self._listeners.change(openings, use)

    def _take(self, connection: socket.socket, address: str, tls: ssl.SSLContext | None) -> None:
        assert self._terms is not None, "there are terms before there are listeners"
        self._start(_Connection(connection, _plain_address(address), self._terms), tls)

    def _start(self, connection: _Connection, tls: ssl.SSLContext | None) -> None:
        self._make_room_for_newcomers(self._most_newcomers - 1)
        thread = threading.Thread(
            target=self._serve, args=(connection, tls), name=f"peer {connection.peer}", daemon=True
        )
        with self._lock:
            self._connections[connection] = thread
        try:
            thread.start()
        except RuntimeError as error:
            log.error("cannot start a thread for %s: %s", connection.peer, error)
            with self._lock:
                del self._connections[connection]
            connection.close()

    def _make_room_for_newcomers(self, most: int) -> None:
        """End the connections that have waited the longest without an association, until `most` are left."""
        with self._lock:
            newcomers = [item for item in self._connections if item.association is None and not item.is_cut]
        for oldest in sorted(newcomers, key=lambda item: item.since)[: max(0, len(newcomers) - most)]:
            log.warning(
                "ended a connection from %s without an association after %.1f s: there are too many such",
                oldest.peer, time.monotonic() - oldest.since,
            )  # fmt: skip
            oldest.cut("")

    def stop(self, timeout: float) -> bool:
        """Stop listening, end idle associations, and wait for messages that are being answered.

        Returns
        -------
        bool
            Whether all was finished within `timeout` seconds.
        """
        self._stopped.set()
        self._listeners.close()
        if self._receivers is not None:
            self._receivers.stop()
        with self._lock:
            open_now = dict(self._connections)
        for connection in open_now:
            if connection.association is None or not connection.association.busy:
                connection.cut(STOPPED)
        deadline = time.monotonic() + timeout
        for thread in open_now.values():
            thread.join(max(0.0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in open_now.values())

    def associations(self) -> list[Association]:
        """Return the associations that are open now."""
        with self._lock:
            return [item.association for item in self._connections if item.association is not None]

    # ---- one connection

    def _serve(self, connection: _Connection, tls: ssl.SSLContext | None) -> None:
        try:
            if tls is not None and not self._secure(connection, tls):
                return
            wire = Wire(connection.socket, connection.config.max_pdu, connection.config.artim_timeout)
            association = self._establish(connection, wire)
            if association is not None:
                self._converse(connection, association)
        except Exception:
            log.exception("serving %s failed", connection.peer)
        finally:
            with self._lock:
                del self._connections[connection]
            connection.close()

    def _secure(self, connection: _Connection, tls: ssl.SSLContext) -> bool:
        """Make it a TLS connection; return whether that worked."""
        assert isinstance(connection.socket, socket.socket)
        try:
            connection.socket.settimeout(connection.config.artim_timeout)
            if not connection.socket.recv(1, socket.MSG_PEEK):
                raise ConnectionResetError
        except (ConnectionError, TimeoutError) as error:
            self._log_silence(connection, isinstance(error, TimeoutError))
            return False
        try:
            connection.socket = secured = TlsConnection(connection.socket, tls)
            secured.handshake(connection.artim_left())
        except OSError as error:
            log.warning("refused TLS with %s: %s", connection.peer, error)
            self._on_refusal(connection.peer, "", "", Reason.of("tls", error=error))
            return False
        return True

    def _log_silence(self, connection: _Connection, timed_out: bool) -> None:
        if timed_out:
            log.warning("%s connected and asked for nothing in %d s", connection.peer, connection.config.artim_timeout)
        else:
            log.debug("%s connected and left without a word", connection.peer)  # a health check

    def _establish(self, connection: _Connection, wire: Wire) -> Association | None:
        """Negotiate; None when there is to be no association."""
        try:
            wire.wait(connection.artim_left())
        except (ConnectionLost, TimedOut) as error:
            self._log_silence(connection, isinstance(error, TimedOut))
            return None
        try:
            kind, encoded = wire.read_pdu(timeout=connection.artim_left())
            if kind != A_ASSOCIATE_RQ:
                raise ProtocolError(f"PDU of type {kind} where an association request is due", _UNEXPECTED_PDU)
            return self._answer(connection, wire, negotiation.decode_request(encoded))
        except ProtocolError as error:
            log.warning("connection from %s aborted: %s", connection.peer, error)
            wire.abort(error.reason)
        except AssociationEnded as error:
            log.warning("connection from %s ended during negotiation: %s", connection.peer, error)
        return None

    def _answer(self, connection: _Connection, wire: Wire, proposal: Proposal) -> Association | None:
        """Accept or reject a proposal."""
        config, peer = connection.config, connection.peer
        device = self._devices.find_caller(proposal.calling, peer)
        verdict = judge(proposal, device, config)
        wire.peer_max_pdu = proposal.max_pdu
        wire.network_timeout = config.network_timeout
        association = Association(
            wire, peer, proposal.calling, proposal.called, verdict.contexts, device, verdict.extended
        )
        association.busy = True  # nobody else may send before the answer
        if verdict.reject is None and not self._admit(connection, association):
            verdict = Verdict(_LOCAL_LIMIT_EXCEEDED, Reason.of("too-many", most=self._most))
        if verdict.reject is not None:
            self._reject(association, verdict, config.artim_timeout)
            return None
        wire.send(negotiation.encode_accept(proposal, verdict.contexts, verdict.extended, config.max_pdu))
        association.busy = False
        for refused in verdict.refused:
            log.warning("refused a presentation context of %s: %s", association, refused)
            self._on_refusal(peer, proposal.calling, proposal.called, refused)
        log.debug(
            "association from %s to %s, %s, %d of %d contexts accepted",
            association, proposal.called, proposal.implementation, len(association.contexts), len(proposal.contexts),
        )  # fmt: skip
        return association

    def _reject(self, association: Association, verdict: Verdict, artim_timeout: float) -> None:
        assert verdict.reject is not None
        assert verdict.why is not None
        log.warning("rejected association from %s to %s: %s", association, association.called, verdict.why)
        self._on_refusal(association.peer, association.calling, association.called, verdict.why)
        if association.device is not None:  # who else was rejected is known by the refusals
            self._on_end(association, endings.REJECTED)
        association.wire.send(negotiation.encode_reject(*verdict.reject))
        association.wire.leave_to_peer(artim_timeout)  # PS3.8 9.2.3, Sta13

    def _admit(self, connection: _Connection, association: Association) -> bool:
        """Return whether there is room for one more; the association idle the longest makes room if it may."""
        longest = None
        with self._lock:
            others = [item for item in self._connections if item.goes_on]
            if len(others) >= self._most:
                longest = max(others, key=_Connection.silence)
                if longest.silence() <= _MAY_BE_EVICTED_AFTER:
                    return False
                longest.is_cut = True
            connection.association = association
        if longest is not None:
            longest.cut("ended after a long silence to make room for another association")
        return True

    # ---- one association

    def _have_served(self, connection: _Connection, association: Association) -> Ending | None:
        if self._receivers is None:
            return None
        return self._receivers.serve(association, connection.config, len(self.associations()))

    def _converse(self, connection: _Connection, association: Association) -> None:
        """Serve an association, or have it served by another process, and note how it ended."""
        began, ending = time.monotonic(), FAILURE
        try:
            ending = self._have_served(connection, association) or converse(
                association, connection.handlers, connection.config, self._stopped.is_set
            )
        finally:
            tally = ", ".join(f"{count} {what}" for what, count in association.tally.items()) or "nothing asked"
            log.log(
                logging.INFO if ending.in_order else logging.WARNING,
                "association of %s with %s: %s; %s after %.1f s",
                association, association.called, tally, ending.text, time.monotonic() - began,
            )  # fmt: skip
            self._on_end(association, ending.word)


def _plain_address(text: str) -> str:
    """Return an address as sockets give it without its zone, and IPv4 as such even on an IPv6 socket."""
    address = ipaddress.ip_address(text.partition("%")[0])
    return str((isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped) or address)
