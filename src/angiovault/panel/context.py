"""What the pages share: the place, the archive of the settings, the tasks."""

from __future__ import annotations

import logging
import threading

from angiovault.archive.archive import Archive
from angiovault.config import Config
from angiovault.devices import DeviceBook
from angiovault.jobs.book import Book
from angiovault.jobs.line import Line
from angiovault.opening import archive_of, store_of
from angiovault.panel.place import Place
from angiovault.panel.tasks import Tasks

log = logging.getLogger(__name__)


class Context:
    """The panel's own state; it holds nothing that is not in files, but for tasks and for the line of jobs."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.tasks = Tasks()
        self.applying = threading.Lock()
        """Held while changed settings are being applied."""
        self.jobs = Line(place.settings, self._job_book)
        self._lock = threading.Lock()
        self._archive: Archive | None = None
        self._made_of: Config | None = None

    def archive(self, config: Config) -> Archive:
        """Return the archive of the settings, made anew when they have changed; not opened."""
        with self._lock:
            if self._archive is None or config != self._made_of:
                if self._archive is not None:
                    self._archive.index.close()
                self._archive, self._made_of = archive_of(config), config
            return self._archive

    def _job_book(self) -> Book:
        return Book(store_of(self.place.config()))

    def devices(self) -> DeviceBook:
        """Return the devices of the settings.

        Raises
        ------
        ConfigError
            When the file cannot be used.
        """
        return DeviceBook(self.place.settings)

    def note(self, user: str, what: str) -> None:
        """Log what somebody changed."""
        log.info("panel: %s %s", user, what)
