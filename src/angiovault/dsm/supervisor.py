"""The process that keeps the service running on a NAS: one of it, one thread, no matter what is wrong.

DSM does not start a program again that has crashed, and removes the icon of a package whose start fails. So this
process always starts, waits for what is missing (settings that can be used, the shared folder), runs
`angiovault serve`, runs it again when it ends, and says in ``supervisor.json`` how things are.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import signal
import subprocess
import sys
import time
from datetime import UTC, date, datetime
from typing import Any, Final

from angiovault import config, jsonfile, reloading
from angiovault.config import Config
from angiovault.dsm import common_log, running, settings, shares
from angiovault.dsm.notifications import Notifier
from angiovault.dsm.panel import PanelOnDemand
from angiovault.dsm.paths import Nas
from angiovault.dsm.shares import Place
from angiovault.dsm.texts import CHINESE, ENGLISH, Problem, Text
from angiovault.inifile import ConfigError
from angiovault.network import setcap_command, try_to_listen
from angiovault.reloading import Loading
from angiovault.signals import Signals

log = logging.getLogger(__name__)

_TICK: Final = 2.0
_LONGEST_PAUSE: Final = 60.0
_LASTED: Final = 300.0
"""Seconds of running after which an end counts as the first."""
_SHARE_PAUSE: Final = 4.0
_PROBE_PAUSE: Final = 30.0
_STOP_SECONDS: Final = 14.0
"""Seconds for the service to stop, which gives its associations ten; the stop script waits for 20."""
_ANSWER_SECONDS: Final = 12.0
"""Seconds in which the service has to read settings when it is told to; it may be waiting for the database."""
_BACKUP_HOUR: Final = 2

_STATE_OF: Final = {
    "needs_set_up": "needs-set-up",
    "configuration": "configuration",
    "port_taken": "port",
    "port_privileged": "port",
    "share_missing": "share-missing",
    "share_locked": "share-missing",
    "archive_missing": "share-missing",
    "second_missing": "share-missing",
    "share_denied": "share-denied",
    "running": "running",
    "starting": "starting",
    "stopping": "stopping",
}
"""Text → state; every other text is one of "failing"."""


def supervise(nas: Nas) -> int:
    """Run the supervisor until SIGTERM or SIGINT; return the exit code."""
    nas.var.mkdir(mode=0o700, parents=True, exist_ok=True)
    held = running.hold(nas)
    if held is None:
        sys.stderr.write("angiovault: the supervisor is running already\n")
        return 0
    common_log.write_to(nas)
    with Signals(signal.SIGUSR1, signal.SIGCHLD) as signals:
        try:
            running.forget(nas)  # what one that was killed has left
            nas.health.unlink(missing_ok=True)
            running.write_pid(nas)
            log.info("the supervisor runs")
            Supervisor(nas, signals).run()
        finally:
            running.forget(nas)
    log.info("the supervisor has ended")
    return 0


class Supervisor:
    """Keeps the service running.

    Parameters
    ----------
    nas : Nas
        The NAS.
    signals : Signals
        What tells it to stop and to reload.
    """

    def __init__(self, nas: Nas, signals: Signals) -> None:
        self._nas = nas
        self._signals = signals
        self._notifier = Notifier(nas)
        self._panel = PanelOnDemand(nas)
        self._since = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        self._child: subprocess.Popen[bytes] | None = None
        self._config = Config()
        self._place: Place | None = None
        self._trouble: Text | None = None  # why there is no child
        self._share: Text | None = None  # what is wrong with the shared folder, with or without a child
        self._probe_at = 0.0
        self._started = 0.0
        self._before: dict[str, Any] | None = None  # what the service said before it was to read the settings again
        self._answer_due = 0.0
        self._log_size = 0
        self._next_try = 0.0
        self._failures = 0
        self._restarts = 0
        self._seen: tuple[int, int, int] | None = None
        self._backed_up: date | None = None
        self._said: dict[str, Any] = {}
        self._written: dict[str, Any] = {}

    def run(self) -> None:
        """Work until told to stop."""
        while not self._signals.stop:
            try:
                if self._signals.restart or self._signals.reload:
                    self._take_up()
                if self._signals.stop:
                    break
                self._step()
                self._panel.reap()
            except Exception:  # nobody starts this process again: whatever it is, the service goes on
                log.exception("the supervisor met something unexpected")
            # The next start is not waited for in full: the settings may be corrected before.
            pause = _TICK if self._child else min(_TICK, self._next_try - time.monotonic())
            pause = 0.0 if self._signals.restart else pause
            if self._signals.wait(pause, self._panel.waits_for):
                self._panel.start()
        self._say(Text("stopping"))
        self._panel.close()
        self._stop_child()

    def _take_up(self) -> None:
        """Have the settings taken up as they are now: by the service that runs if it can, else by a new one.

        One that runs says in its health file when it has to begin anew for them; see `_hear`.
        """
        restart, self._signals.restart, self._signals.reload = self._signals.restart, False, False
        self._failures, self._next_try, self._backed_up = 0, 0.0, None
        before = self._health()  # before it is asked: it may answer at once
        child = self._child if before and common_log.is_in_place(self._nas) else None
        if not restart and child is not None and reloading.ask(child.pid):
            log.info("the service reads the settings again")
            self._before, self._answer_due = before, time.monotonic() + _ANSWER_SECONDS
            return
        self._stop_child()
        common_log.write_to(self._nas)  # which may have been taken away
        log.info("the settings are read again")

    def _hear(self, said: dict[str, Any]) -> None:
        """Take what the service says to settings that it was to read: it may have to begin anew for them, or hang."""
        if self._before is not None and reloading.is_news(self._before, said):
            self._before = None
        if self._before is not None and time.monotonic() > self._answer_due:
            log.warning("the service does not read the settings, and begins anew")
            self._signals.restart = True
        if Loading.of(said).restart:
            self._signals.restart = True

    def _step(self) -> None:
        """Do what is due."""
        self._reap()
        if self._child is not None:
            self._watch()
        elif time.monotonic() >= self._next_try or settings.signature(self._nas.settings) != self._seen:
            self._try_to_start()
        said = self._health()
        self._hear(said)
        self._say(self._how_it_is(said))
        problems = dict(said.get("problems", {}))
        if self._share is not None:
            problems["storage"] = str(self._share)
        self._notifier.update(problems)
        self._back_up()

    # ---- starting

    def _try_to_start(self) -> None:
        seen, self._seen = self._seen, settings.signature(self._nas.settings)
        if seen != self._seen:
            self._failures = 0
        try:
            known = settings.read(self._nas)
            self._config = known.config
            self._settle(known)
            self._start()
        except ConfigError as error:
            self._share = None
            self._fail(Text("configuration", reason=str(error)))
        except Problem as problem:
            self._share = self._trouble = problem.text
            self._next_try = time.monotonic() + _SHARE_PAUSE
        except OSError as error:
            self._fail(Text("failing", reason=str(error)))
        self._seen = settings.signature(self._nas.settings)  # we may have written it

    def _settle(self, known: settings.Settings) -> None:
        """Find the archive, or make the first one, and keep in the settings where it is.

        An archive that is known and not there is no reason not to run: the service says A700 until it comes.
        """
        archive_id = known.config.archive_id
        try:
            place = shares.find(self._nas, known.storage, archive_id)
        except Problem as problem:
            if not (archive_id and known.storage):
                raise
            self._place = Place(known.storage, archive_id, known.config.second_storage)
            self._share = problem.text
            return
        if place is None:
            storage = known.storage or shares.folders(self._nas)[0] / shares.ARCHIVE
            with_storage = config.load(self._nas.settings, {"storage": str(storage)})
            place = shares.create(storage, with_storage)
            log.info("made the archive %s in %s", place.archive_id, place.storage)
        elif not archive_id:  # an earlier installation's: its devices are wanted as much as its images
            for text in settings.take_over(self._nas, place.storage):
                log.info("%s", text)
            self._config = settings.read(self._nas).config
        if (place.storage, place.archive_id) != (known.storage, archive_id):
            config.save(self._nas.settings, {"storage": str(place.storage), "archive-id": place.archive_id})
            log.info("the archive %s is in %s", place.archive_id, place.storage)
        self._place, self._share = settings.find_second(self._nas, place, self._config.second_storage)
        if self._share is None:
            self._probe()

    def _probe(self) -> None:
        """Find out whether we may write to the storage."""
        assert self._place is not None
        self._probe_at = time.monotonic() + _PROBE_PAUSE
        try:
            shares.probe(self._place.storage)
            if self._place.second is not None and self._place.second.is_dir():  # else the service is about to make it
                shares.probe(self._place.second)
        except Problem as problem:
            self._share = problem.text
        else:
            self._share = None

    def _start(self) -> None:
        self._nas.health.unlink(missing_ok=True)
        arguments = ["serve", "--config", str(self._nas.settings), "--health-file", str(self._nas.health)]
        # In `child` the process asks to die with us.
        command = [sys.executable, "-I", "-m", "angiovault.dsm.child", str(os.getpid()), *arguments]
        self._log_size = common_log.size()
        self._child = subprocess.Popen(command, cwd="/")  # noqa: S603 - no shell, and nothing of it is from outside
        self._started = time.monotonic()
        self._trouble = None
        log.info("the service runs as process %d", self._child.pid)

    # ---- watching

    def _watch(self) -> None:
        """Look at the shared folder: one `stat`, unless something is wrong with it."""
        assert self._place is not None
        now = time.monotonic()
        if now - self._started >= _LASTED:
            self._failures = 0
        if shares.is_there(self._place):
            if self._share is not None and now >= self._probe_at:
                self._probe()
            return
        if self._share is not None and now < self._probe_at:
            return
        self._probe_at = now + _SHARE_PAUSE
        try:
            found = shares.find(self._nas, self._place.storage, self._place.archive_id)
            if found is not None and self._place.second is not None:
                found = shares.find_second(self._nas, found, [self._place.second])
        except Problem as problem:
            self._share = problem.text
        else:
            if found not in (None, self._place):  # a shared folder is elsewhere now
                self._signals.restart = True

    def _reap(self) -> None:
        """Notice that the service has ended, and plan its next start."""
        if self._child is None or self._child.poll() is None:
            return
        code, self._child, self._before = self._child.returncode, None, None
        self._restarts += 1
        if time.monotonic() - self._started >= _LASTED:
            self._failures = 0
        reason = common_log.last_words(self._nas, self._log_size) if code > 0 else ""
        problem = _port_problem(self._config) if code > 0 else None
        if problem is None and reason:
            problem = Text("failing", reason=reason)
        if problem is None:
            problem = Text("crashed", reason=signal.Signals(-code).name if code < 0 else f"exit code {code}")
        log.error("%s", problem)
        self._fail(problem)

    def _fail(self, problem: Text) -> None:
        """Try again later, each time a little later."""
        self._trouble = problem
        self._next_try = time.monotonic() + min(_LONGEST_PAUSE, 2.0**self._failures)
        self._failures = min(self._failures + 1, 10)

    # ---- stopping

    def _stop_child(self) -> None:
        """End the service: in order if it does so in time."""
        if self._child is None:
            return
        self._child.terminate()
        deadline = time.monotonic() + _STOP_SECONDS
        while self._child.poll() is None and time.monotonic() < deadline:
            self._signals.wait(deadline - time.monotonic())
        if self._child.poll() is None:
            log.warning("the service does not end, and is killed")
            self._child.kill()
        self._child.wait()
        self._child, self._before = None, None
        with contextlib.suppress(OSError):  # what it says is not believed without its process
            self._nas.health.unlink(missing_ok=True)

    # ---- saying

    def _health(self) -> dict[str, Any]:
        said = jsonfile.read(self._nas.health) if self._child is not None else {}
        return said if self._child is not None and said.get("pid") == self._child.pid else {}

    def _how_it_is(self, health: dict[str, Any]) -> Text:
        if self._trouble is not None:
            return self._trouble
        if self._share is not None:
            return self._share
        if not health:
            return Text("starting")
        url = self._config.index_url
        if url.engine == "mysql" and not url.password:
            return Text("needs_set_up")
        return Text("running")

    def _say(self, text: Text) -> None:
        """Write ``supervisor.json`` if there is anything new."""
        said = {
            "pid": os.getpid(),
            "since": self._since,
            "state": _STATE_OF.get(text.key, "failing"),
            "message": text.in_language(ENGLISH),
            "message_zh": text.in_language(CHINESE),
            "restarts": self._restarts,
            "service": self._child.pid if self._child is not None else 0,
        }
        new, self._said = said != self._said, said
        if said["state"] != self._written.get("state") and new:
            log.info("state %s: %s", said["state"], said["message"])
        if said == self._written:
            return
        try:
            jsonfile.write(self._nas.state, said)
            self._written = said
        except OSError as error:
            if new:
                log.warning("the state cannot be written: %s", error)

    def _back_up(self) -> None:
        """Copy the settings beside the images, when the service has started and every night."""
        now = datetime.now()
        due = self._backed_up is None or (self._backed_up != now.date() and now.hour >= _BACKUP_HOUR)
        if not due or self._place is None or self._share is not None or self._child is None:
            return
        self._backed_up = now.date()
        try:
            # A shared folder that was brought back from a backup meanwhile holds the copy that is wanted.
            if shares.marker_of(self._place.storage) == self._place.archive_id:
                settings.back_up(self._nas, self._place.storage)
        except (ConfigError, OSError, ValueError, Problem) as error:
            log.warning("the settings are not copied: %s", error)


def _port_problem(settled: Config) -> Text | None:
    """Return why the port cannot be had, None when it can; asked when the service has ended, so that we may try."""
    for port in filter(None, (settled.port, settled.tls_port)):
        try:
            try_to_listen(settled.bind, port)
        except PermissionError:
            return Text("port_privileged", port=port, command=setcap_command())
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return Text("port_taken", port=port)
    return None
