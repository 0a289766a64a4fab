"""Jobs of the settings panel, asked for and watched over HTTP, each in a process of its own."""

from pathlib import Path
from typing import Any

from angiovault.archive.finding.selection import Selection, instances
from angiovault.config import load
from angiovault.opening import open_archive
from harness.instances import instance, write
from harness.panel import Client
from harness.waiting import wait_until

ACTIVE = ("waiting", "running")


def start(client: Client, kind: str, **parameters: Any) -> str:
    """Start a job and return its id."""
    reply = client.post("/api/jobs", {"kind": kind, **parameters})
    assert reply.status == 200, reply
    return str(reply.json["job"])


def look(client: Client, number: str) -> Any:
    return client.get(f"/api/jobs/{number}")


def wait_for(client: Client, number: str, *states: str, seconds: float = 60) -> Any:
    """Wait until a job has one of the states, or has ended, and return it; another end fails the test."""

    def looked() -> Any:
        found = look(client, number)
        return found if found["state"] in states or found["state"] not in ACTIVE else None

    found = wait_until(looked, f"job {number} to be {states}", seconds=seconds)
    assert found["state"] in states, found
    return found


def wait_for_progress(client: Client, number: str, items: int = 1) -> Any:
    """Wait until a job has done some of its work, and return it; one that has ended fails the test."""

    def looked() -> Any:
        found = look(client, number)
        assert found["state"] in ACTIVE, found
        return found if found["items"] >= items else None

    return wait_until(looked, f"job {number} to get on", seconds=60)


def files(folder: Path, number: int, study: str = "1.2.3", size: int = 0) -> list[str]:
    """Write instances of a study as files, with `size` further bytes in each, and return their UIDs."""
    folder.mkdir(parents=True, exist_ok=True)
    more: dict[str, bytes | str | int] = {"EncapsulatedDocument": bytes(size)} if size else {}
    made = [instance(study, number=each, **more) for each in range(1, number + 1)]
    for each, values in enumerate(made):
        write(values, folder / f"{each:05}.dcm")
    return [str(values["SOPInstanceUID"]) for values in made]


def stored(settings: Path, study: str = "1.2.3", *, in_order: bool = True) -> list[str]:
    """Return the UIDs of the instances that the index has of a study, each as often as it has it.

    Unless something was killed, there are no more files than these.
    """
    archive = open_archive(load(settings))
    try:
        found = instances(archive.ready_index(), Selection(study_uids=[study]))
        assert all((archive.store.root / each.path).is_file() for each in found)
        assert not in_order or len(list(archive.store.instance_files())) == len(found)
        return sorted(each.sop_instance_uid for each in found)
    finally:
        archive.close()
