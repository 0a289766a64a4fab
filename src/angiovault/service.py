"""The running archive: puts the parts together, starts them, keeps them going, and stops them in order."""

from __future__ import annotations

import contextlib
import gc
import logging
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

from angiovault import logs
from angiovault.archive import contacts, refusals
from angiovault.archive.archive import Archive
from angiovault.archive.conversion.converter import Converter
from angiovault.archive.index import IndexUnavailable
from angiovault.archive.reindexing import reindex
from angiovault.archive.scrubbing import Scrubber
from angiovault.archive.store import StorageError
from angiovault.archive.trash import finish_interrupted
from angiovault.config import Config
from angiovault.devices import DeviceBook
from angiovault.dimse import commitment, file_limit, messages, past, query, retrieve, storage, verification
from angiovault.dimse.association import Association
from angiovault.dimse.conversation import Handler
from angiovault.dimse.listeners import CannotListen, Opening
from angiovault.dimse.messages import Message
from angiovault.dimse.receivers import Receivers, useful_count
from angiovault.dimse.receiving import Receiving
from angiovault.dimse.scu import Limits
from angiovault.dimse.server import Server, Terms
from angiovault.health import Health
from angiovault.live_settings import LiveSettings
from angiovault.opening import StartError, archive_of, only_one
from angiovault.signals import Signals
from angiovault.tls_context import CannotUseCertificate, tls_context

log = logging.getLogger(__name__)

_STOP_SECONDS: Final = 10.0
_LOOK_SECONDS: Final = 2.0
_SETTLE_SECONDS: Final = 1.0
_REST_SECONDS: Final = 5.0
_TRASH_SECONDS: Final = 60.0
_QUIET_SECONDS: Final = 1.0


def serve(config: Config, config_file: Path | None, load: Callable[[], Config]) -> None:
    """Run the archive until SIGTERM or SIGINT.

    Parameters
    ----------
    config : Config
        The settings.
    config_file : Path, optional
        The file that the devices stand in.
    load : Callable
        Reads the settings again, at SIGHUP; may raise ConfigError.

    Raises
    ------
    StartError, SchemaTooNew, WrongArchive
        When it cannot start.
    """
    file_limit.make_room_for(config.max_associations)  # also for the processes that are forked
    with Receivers(useful_count(), lambda: _Receiving(config)) as receivers:  # before there is any thread
        _serve(config, config_file, load, receivers)


def _serve(config: Config, config_file: Path | None, load: Callable[[], Config], receivers: Receivers) -> None:
    archive = archive_of(config)
    archive.settle_others = receivers.settle
    receivers.on_loss = lambda: _look_after_lost(archive)
    with Signals() as asked, contextlib.ExitStack() as stack:
        held = _Held(archive, stack)
        held.try_to_hold(starting=True)
        service = Service(config, archive, DeviceBook(config_file), receivers)
        port = service.start()
        if archive.index.ready:  # else each of them would say once more what is missing
            receivers.prepare()
        service.settle()
        live = LiveSettings(config, load, service.use)
        health = service.health(live)
        gc.freeze()  # what is there now stays: looking through all of it now and then would stop every association
        print(f"ready: {config.ae_title}@{config.bind}:{port}", flush=True)
        print(_how_to(config, port), flush=True)
        while not asked.stop:
            if asked.reload:
                asked.reload = False  # before reading, so that a signal that comes meanwhile counts
                live.read_again()
                if health is not None:
                    health.tell(live.config, service.port, live.loading)
            if not held.is_held:
                held.try_to_hold()
            receivers.look()
            busy = service.look_after()
            if health is not None:
                health.look()
            asked.wait(0 if busy else _LOOK_SECONDS)
        log.info("stopping")
        service.stop()
        if health is not None:
            health.close()
    log.info("stopped")


def _look_after_lost(archive: Archive) -> None:
    """Settle what a process acknowledged that is gone, and remove what it had not received whole."""
    archive.recover()
    archive.store.incoming.remove_unfinished("dead")


def _storing(archive: Archive) -> Handler:
    """Return the service that takes instances in; what came is settled when the association has ended."""
    rest = partial(archive.rest, _REST_SECONDS)

    def on_store(association: Association, message: Message) -> None:
        association.at_end = rest
        storage.answer(association, message, archive)

    return on_store


class _Receiving(Receiving):
    """The archive as a process has it that receives beside the one that listens."""

    def __init__(self, config: Config) -> None:
        self._archive = archive_of(config)
        self._lock = threading.Lock()

    def handlers(self) -> dict[int, Handler]:
        with self._lock:
            if not self._archive.is_open:
                try:
                    self._archive.open(create=False)
                except IndexUnavailable as error:
                    raise StorageError(str(error)) from error
        return {messages.C_ECHO_RQ: verification.answer, messages.C_STORE_RQ: _storing(self._archive)}

    def use(self, config: Config) -> None:
        logs.set_level(config.log_level)
        file_limit.make_room_for(config.max_associations)
        self._archive.store.min_free = config.min_free_space << 20

    def settle(self) -> None:
        self._archive.settler.wait()

    def close(self) -> None:
        self._archive.close()


class _Held:
    """The storage, taken for this process as soon as it is there."""

    def __init__(self, archive: Archive, stack: contextlib.ExitStack) -> None:
        self._archive = archive
        self._stack = stack
        self._said = ""
        self._locked = False
        self.is_held = False

    def try_to_hold(self, starting: bool = False) -> None:
        """Lock and open the storage.

        A storage that is not there is no reason not to run: the service answers A700 until it comes. An index that
        belongs to something else is one when `starting`.
        """
        try:
            self._archive.open(hold=self._lock, alone=True)
        except (StorageError, IndexUnavailable) as error:
            if starting and isinstance(error, IndexUnavailable):
                raise
            if str(error) != self._said:
                log.error("%s", error)
            self._said = str(error)
        else:
            self.is_held = True
            finish_interrupted(self._archive)

    def _lock(self) -> None:
        if not self._locked:
            self._stack.enter_context(only_one(self._archive))
            self._locked = True
        try:
            self._archive.store.incoming.remove_unfinished()
        except StorageError as error:
            log.warning("%s", error)


def _how_to(config: Config, port: int) -> str:
    host = "127.0.0.1" if config.bind in ("0.0.0.0", "::") else config.bind  # noqa: S104
    peer = f"-aec {config.ae_title} {host} {port}"
    return (
        f"send a study:   storescu +sd +r {peer} FOLDER\n"
        f"find it:        findscu -S -k QueryRetrieveLevel=STUDY -k PatientName='*' -k StudyInstanceUID {peer}\n"
        f"get it back:    getscu -S -k QueryRetrieveLevel=STUDY -k StudyInstanceUID=UID +B -od OUT {peer}"
    )


class Service:
    """The parts of a running archive."""

    def __init__(
        self, config: Config, archive: Archive, devices: DeviceBook, receivers: Receivers | None = None
    ) -> None:
        self._config = config
        self._archive = archive
        self._devices = devices
        self._converter = Converter(archive.store.private / "incoming")
        self._refusals, self._contacts = refusals.Book(archive), contacts.Book(archive)
        self._receivers = receivers
        self._server = Server(devices, self._refusals.note, self._on_end, receivers)
        self._commitment = commitment.Worker(archive, devices, config, self._server.associations)
        self._scrubber = Scrubber(archive, config.verify_every_days, config.verify_rate, self._is_busy)
        self._rebuilding: threading.Thread | None = None
        self._stopping = threading.Event()
        self._said = ""
        self._trash_at = time.monotonic() + _TRASH_SECONDS
        self.port = 0
        """The port that is listened on."""

    def _handlers(self, config: Config) -> dict[int, Handler]:
        archive, ae_title = self._archive, config.ae_title
        services = retrieve.Services(archive, self._devices, self._converter, Limits.of(config))

        def on_find(association: Association, message: Message) -> None:
            query.answer(association, message, archive, ae_title)

        def on_commitment(association: Association, message: Message) -> None:
            commitment.answer(association, message, archive, self._commitment)

        return {
            messages.C_ECHO_RQ: verification.answer,
            messages.C_STORE_RQ: _storing(archive),
            messages.C_FIND_RQ: on_find,
            messages.C_GET_RQ: lambda association, message: retrieve.answer_get(association, message, services),
            messages.C_MOVE_RQ: lambda association, message: retrieve.answer_move(association, message, services),
            messages.N_ACTION_RQ: on_commitment,
        }

    def _is_busy(self) -> bool:
        """Return whether a device was served within the last second."""
        return any(association.silence < _QUIET_SECONDS for association in self._server.associations())

    def _on_end(self, association: Association, how: str) -> None:
        self._contacts.note(past.ended(association, how))

    def start(self) -> int:
        """Listen, and return the port.

        Raises
        ------
        StartError
            When a port cannot be had, or a certificate cannot be used.
        """
        try:
            self._serve(self._config)
        except CannotUseCertificate as error:
            raise StartError(str(error)) from error
        except CannotListen as error:
            if isinstance(error.error, PermissionError):
                raise StartError(
                    f"port {error.opening.port} is for root only: choose one above 1023, for example 11112"
                ) from error
            raise StartError(f"{error}; is another program using it?") from error
        self._commitment.start()
        self._scrubber.start()
        return self.port

    def _serve(self, config: Config) -> None:
        """Listen and serve as the settings say, from now on.

        Raises
        ------
        CannotListen, CannotUseCertificate
            When that cannot be; everything is as it was then.
        """
        openings = [Opening(config.bind, config.port)]
        if config.tls_port:
            openings.append(Opening(config.bind, config.tls_port, tls_context(config)))
        self.port, *tls_ports = self._server.serve(Terms(config, self._handlers(config)), openings)
        for tls_port in tls_ports:
            log.info("TLS on port %d", tls_port)
        log.info("%s listens on %s:%d, storage %s", config.ae_title, config.bind, self.port, config.storage)

    def use(self, config: Config) -> None:
        """Go on with other settings; what runs is not disturbed.

        Raises
        ------
        CannotListen, CannotUseCertificate
            When a port cannot be had, or a certificate not be used; everything is as it was then.
        """
        self._serve(config)
        self._commitment.use(config)
        self._scrubber.change(config.verify_every_days, config.verify_rate)
        self._archive.store.min_free = config.min_free_space << 20
        if self._receivers is not None:
            self._receivers.use(config)

    def settle(self) -> None:
        """Begin to settle what was left and to rebuild an incomplete index, and wait a moment: it is soon done."""
        self._archive.rest(_SETTLE_SECONDS)
        self.look_after()
        if self._rebuilding is not None:
            self._rebuilding.join(_SETTLE_SECONDS)

    def health(self, live: LiveSettings) -> Health | None:
        """Return what writes the health file, None when there is to be none."""
        path = self._config.health_file
        if path is None:
            return None
        health = Health(path, self._archive, lambda: self._commitment.has_waiting)
        health.tell(live.config, self.port, live.loading)
        return health

    def look_after(self) -> bool:
        """Let the index catch up with what came while it was away; return whether there is more to do at once."""
        if time.monotonic() >= self._trash_at:
            self._trash_at = time.monotonic() + _TRASH_SECONDS
            finish_interrupted(self._archive)
        try:
            if self._archive.index.incomplete:
                self._rebuild()
            elif self._archive.behind:
                return self._archive.catch_up() > 0
        except (IndexUnavailable, StorageError) as error:
            self._say(f"the index cannot catch up: {error}")
        return False

    def _say(self, text: str) -> None:
        """Log a warning, once."""
        if text != self._said:
            log.warning("%s", text)
        self._said = text

    def _rebuild(self) -> None:
        """Make the index anew from the files, beside the running service."""
        if self._rebuilding is None or not self._rebuilding.is_alive():
            self._rebuilding = threading.Thread(target=self._reindex, name="reindex", daemon=True)
            self._rebuilding.start()

    def _reindex(self) -> None:
        count = 0
        try:
            for _ in reindex(self._archive, if_incomplete=True):
                if self._stopping.is_set():
                    return
                count += 1
                if count == 1:
                    log.warning("the index is incomplete and is rebuilt from the files")
        except (IndexUnavailable, StorageError) as error:
            self._say(f"the index cannot be rebuilt: {error}")
        else:
            if count:
                log.info("the index was rebuilt from %d files", count)

    def stop(self) -> None:
        """Finish what is running, at most ten seconds, and close everything."""
        deadline = time.monotonic() + _STOP_SECONDS
        self._stopping.set()
        if not self._server.stop(_STOP_SECONDS - 1):
            log.warning("some associations were cut off")
        self._commitment.stop(max(0.1, deadline - time.monotonic()))
        self._scrubber.stop()
        if self._rebuilding is not None:
            self._rebuilding.join(max(0.1, deadline - time.monotonic()))
        self._refusals.flush()
        self._contacts.flush()
        if self._receivers is not None:
            self._receivers.close(max(1.0, deadline - time.monotonic()))
        self._converter.close()
        self._archive.close()
