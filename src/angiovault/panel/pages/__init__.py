"""The pages, in the order of their tabs: each has a module here and a script in `static`, and stands in this list."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from angiovault.panel.context import Context
from angiovault.panel.pages import devices, jobs, log, overview, service, studies
from angiovault.panel.web import Route


@dataclass(frozen=True)
class Page:
    """A page: its name (`page.NAME` is its title among the texts), its script, and what makes its routes."""

    name: str
    script: str
    routes: Callable[[Context], list[Route]]


PAGES: Final = (
    Page("overview", "overview.js", overview.routes),
    Page("service", "service.js", service.routes),
    Page("devices", "devices.js", devices.routes),
    Page("studies", "studies.js", studies.routes),
    Page("jobs", "jobs.js", jobs.routes),
    Page("log", "log.js", log.routes),
)
