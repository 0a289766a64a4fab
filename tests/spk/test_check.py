"""`python -m spk check` passes what was built, and does not pass what was tampered with."""

import gzip
import io
import subprocess
import sys
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest

from spk import info
from spk.checks.opening import open_package
from spk.product import ROOT, Release
from spk.tarballs import Entry, pack

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
TEMPLATE = (ROOT / "INFO.template").read_text(encoding="utf-8")


def check(*files: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "spk", "check", *map(str, files)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_what_was_built_passes(intel_spk: Path) -> None:
    done = check(intel_spk)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "everything is as it must be" in done.stdout
    assert done.stdout.count("ok ") >= 13
    assert "angiovault --version" in done.stdout


def test_arm64_files_pass_under_qemu(arm_spk: Path) -> None:
    done = check(arm_spk)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "every codec" in done.stdout


def with_payload(path: Path, to: Path, name: str, data: bytes) -> Path:
    """Write an .spk file anew with one file of its payload changed, and an INFO that agrees."""
    package = open_package(path)
    members = package.target | {name: replace(package.target[name], data=data)}
    with io.BytesIO() as inner:
        with tarfile.open(fileobj=inner, mode="w", format=tarfile.USTAR_FORMAT) as tar:
            for member in members.values():
                member.header.size = len(member.data)
                tar.addfile(member.header, io.BytesIO(member.data))
        package_tgz = gzip.compress(inner.getvalue(), 1)
    release = Release(package.processor, package.generation, package.info["version"])
    changed = {"package.tgz": package_tgz, "INFO": info.make(TEMPLATE, release, package_tgz)}
    outer = [
        Entry(name, changed.get(name, member.data), member.header.mode)
        for name, member in package.outer.items()
        if member.header.isreg()
    ]
    to.mkdir()
    result = to / path.name
    result.write_bytes(pack(outer))
    return result


def test_a_program_of_this_machine_does_not_pass(intel_spk: Path, tmp_path: Path) -> None:
    system = Path("/bin/true").resolve().read_bytes()
    done = check(with_payload(intel_spk, tmp_path / "wrong", "python/bin/python3", system))
    assert done.returncode == 1
    assert "python/bin/python3: it needs GLIBC_2." in done.stdout
    assert "do not come from glibc" in done.stdout


def test_a_wrong_checksum_does_not_pass(intel_spk: Path, tmp_path: Path) -> None:
    wrong = tmp_path / intel_spk.name
    data = intel_spk.read_bytes()
    at = data.index(b'checksum="') + len(b'checksum="')
    wrong.write_bytes(data[:at] + (b"1" if data[at : at + 1] == b"0" else b"0") + data[at + 1 :])
    done = check(wrong)
    assert done.returncode == 1
    assert "checksum is not that of package.tgz" in done.stdout


def test_what_looks_right_and_does_not_work_does_not_pass(intel_spk: Path, tmp_path: Path) -> None:
    libraries = "python/lib/python3.13/site-packages/_gdcm"
    wrong = open_package(intel_spk).target[f"{libraries}/libgdcmjpeg8.so.3.0"].data
    done = check(with_payload(intel_spk, tmp_path / "wrong", f"{libraries}/libgdcmjpeg16.so.3.0", wrong))
    assert done.returncode == 1
    assert "ok     every ELF file" in done.stdout
    assert "NOT OK every codec" in done.stdout


def test_every_file_of_the_service_is_in_the_package(intel_spk: Path) -> None:
    packed = {name.partition("site-packages/")[2] for name in open_package(intel_spk).target}
    source = ROOT / "src"
    files = [path for path in (source / "angiovault").rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert {path.relative_to(source).as_posix() for path in files} <= packed
