"""What a device has sent gets its place a moment after the device has gone."""

from pathlib import Path

from harness.waiting import wait_until


def settled(storage: Path, every: float = 0.02) -> Path:
    """Return a folder of an archive when what was acknowledged has its place in it and no association is open."""
    incoming = storage / ".angiovault" / "incoming"
    wait_until(lambda: not list(incoming.iterdir()), f"{incoming} to be empty", every=every)
    return storage
