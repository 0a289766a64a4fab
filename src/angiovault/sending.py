"""Sending stored instances to a device, the same for the commands and for the jobs; see `work`."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from angiovault.archive.archive import Archive
from angiovault.archive.conversion.converter import Converter
from angiovault.archive.finding.selection import StoredInstance
from angiovault.config import Config
from angiovault.devices import DeviceBook
from angiovault.dimse import retrieve
from angiovault.dimse.scu import Destination, Limits
from angiovault.work import FAILED, Counts, Report


@dataclass
class _Sendings(retrieve.Progress):
    """The counts of a retrieval that also tell what was counted last."""

    last: tuple[str, bool] = ("", False)
    """SOP Instance UID, and whether it failed."""

    def count(self, sop_instance_uid: str, failed: bool, warning: bool = False) -> None:
        super().count(sop_instance_uid, failed, warning)
        self.last = sop_instance_uid, failed


def send(
    archive: Archive,
    devices: DeviceBook,
    config: Config,
    destination: Destination,
    wanted: Sequence[StoredInstance],
    counts: Counts,
    report: Report,
    sent: Callable[[StoredInstance], None] = lambda _instance: None,
) -> None:
    """Send instances to a device; `sent` is told of each that the device has taken.

    What does not arrive is counted and said, and no reason to raise.
    """
    by_uid = {instance.sop_instance_uid: instance for instance in wanted}
    tally = _Sendings(len(wanted))
    with Converter(archive.store.private / "incoming") as converter:
        services = retrieve.Services(archive, devices, converter, Limits.of(config))
        with contextlib.closing(retrieve.send(destination, wanted, services, tally, {})) as problems:
            for problem in problems:
                uid, failed = tally.last
                counts[FAILED if failed else "sent"] += 1
                if problem:
                    report.say(problem)
                if not failed:
                    sent(by_uid[uid])
                report.advance(1, 0 if failed else by_uid[uid].size)
