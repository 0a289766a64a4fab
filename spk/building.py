"""Puts the files together. package.tgz is kept until something that goes into it changes."""

from __future__ import annotations

import fcntl
import hashlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from spk import info, members, payload, runtime, wizard
from spk.cache import digest
from spk.product import BUILD_FOLDER, EPOCH, ROOT, Generation, Processor, Release
from spk.tarballs import Entry, pack, read_folder

MIB = 1 << 20


def build(releases: Sequence[Release], out: Path) -> list[Path]:
    """Write the files of releases into a folder, saying what is done, and return them.

    Raises
    ------
    FetchError, LicenceError, OSError, ValueError, subprocess.CalledProcessError
        If a part is missing or not as it must be.
    """
    written = []
    out.mkdir(parents=True, exist_ok=True)
    BUILD_FOLDER.mkdir(parents=True, exist_ok=True)
    for processor in dict.fromkeys(release.processor for release in releases):
        mine = [release for release in releases if release.processor == processor]
        with (BUILD_FOLDER / f"{processor.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # tests that run side by side need not do the same work twice
            kept = _package_tgz(processor, [release.generation for release in mine])
        for release in mine:
            path = out / release.file_name
            _write(path, _spk(release, kept[release.generation].read_bytes()))
            print(f"{path}: {path.stat().st_size / MIB:.1f} MiB", flush=True)
            written.append(path)
    return written


def _spk(release: Release, package_tgz: bytes) -> bytes:
    template = (ROOT / "INFO.template").read_text(encoding="utf-8")
    made = {
        members.INFO: [Entry("", info.make(template, release, package_tgz))],
        members.PACKAGE_TGZ: [Entry("", package_tgz)],
        members.WIZARD: [Entry(name, data) for name, data in sorted(wizard.files().items())],
    }
    return pack(members.entries(members.SPK, release.generation, ROOT, made))


def _package_tgz(processor: Processor, generations: Sequence[Generation]) -> dict[Generation, Path]:
    """Return package.tgz for each generation, made anew only if what is kept was made of other sources."""
    kept = {wanted: BUILD_FOLDER / f"package-{processor.name}-dsm{wanted.number}.tgz" for wanted in generations}
    sources = {generation: _sources_digest(processor, generation) for generation in generations}
    stale = [generation for generation in generations if not _is_made_of(kept[generation], sources[generation])]
    if not stale:
        return kept
    print(f"making the payload for {processor.name} ...", flush=True)
    with tempfile.TemporaryDirectory(dir=BUILD_FOLDER) as name:
        staged = payload.stage(processor, Path(name))
        made = {
            members.PYTHON: read_folder(staged / "python"),
            members.LICENCES: read_folder(staged / "licences"),
        }
        for generation in stale:
            tar = pack(sorted(members.entries(members.TARGET, generation, ROOT, made), key=lambda entry: entry.name))
            path = kept[generation]
            path.with_suffix(".sources").unlink(missing_ok=True)
            _write(path, payload.gzip(tar, payload.build_python(Path(name))))
            _write(path.with_suffix(".sources"), sources[generation].encode("ascii"))
    return kept


def _is_made_of(path: Path, sources: str) -> bool:
    said = path.with_suffix(".sources")
    return path.exists() and said.exists() and said.read_text(encoding="ascii") == sources


def _sources_digest(processor: Processor, generation: Generation) -> str:
    """Return a digest of everything that package.tgz is made of."""
    result = hashlib.sha256(str(EPOCH).encode("ascii"))
    for name in sorted({processor.runtime, payload.BUILD_MACHINE}):
        result.update(digest(runtime.archive(name)).encode("ascii"))
    for path in _sources(generation):
        result.update(f"\n{path.relative_to(ROOT)} {path.stat().st_mode:o} {digest(path)}".encode())
    return result.hexdigest()


def _sources(generation: Generation) -> Iterator[Path]:
    yield from members.sources(members.TARGET, generation, ROOT).values()
    for name in ("LICENSE", "README.md", "pyproject.toml", "requirements/runtime.txt"):
        yield ROOT / name
    yield from sorted((ROOT / "spk").glob("*.py"))
    yield from sorted((ROOT / "spk" / "licences").glob("*/*"))
    for path in sorted((ROOT / "src").rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts and ".egg-info" not in path.parent.name:
            yield path


def _write(path: Path, data: bytes) -> None:
    """Write a file so that it is whole or not there; one that is the same already keeps its time."""
    if path.exists() and path.read_bytes() == data:
        return
    unfinished = path.with_name(f"{path.name}.{os.getpid()}")
    unfinished.write_bytes(data)
    unfinished.replace(path)
