"""The licences of everything in the package: collected, complete, and none of them the GPL."""

from __future__ import annotations

import re
import tarfile
import zipfile
from email import message_from_bytes
from pathlib import Path
from typing import Final

from spk import cache
from spk.product import PACKAGE, ROOT

GDCM_SOURCE: Final = (
    "https://files.pythonhosted.org/packages/96/58/11400a36acc50c79f7caa95c43a7ee8298c1a9283534a6832c6ed272f0af/"
    "python_gdcm-3.0.26.tar.gz",
    "19430b63c6fb114900c05e2753684815ead60186b3072d8791eec83507fa91e2",
)
"""python-gdcm's wheel holds the licence of its packaging only; GDCM's own, and those inside GDCM, are in its source."""
GDCM_PARTS: Final = {
    "gdcm": ("Copyright.txt", "README.Copyright.txt", "Source/DataDictionary/COPYRIGHT.dicom3tools"),
    "gdcm-charls": ("Utilities/gdcmcharls/License.txt",),
    "gdcm-expat": ("Utilities/gdcmexpat/COPYING",),
    "gdcm-jpeg": ("Utilities/gdcmjpeg/README", "Utilities/gdcmjpeg/COPYRIGHT.dcmtk"),
    "gdcm-md5": ("Utilities/gdcmmd5/COPYING",),
    "gdcm-openjpeg": ("Utilities/gdcmopenjpeg/LICENSE",),
    "gdcm-socketxx": ("Utilities/socketxx/COPYING",),
    "gdcm-uuid": ("Utilities/gdcmuuid/COPYING",),
    "gdcm-zlib": ("Utilities/gdcmzlib/COPYING",),
}
COMMITTED: Final = ROOT / "spk" / "licences"
"""Of what comes in a wheel without its licence: the OpenSSL that GDCM is linked with."""

_GPL: Final = re.compile(
    r"GNU (?:[A-Z]+ )?GENERAL PUBLIC LICENSE\s+Version \d"
    r"|under\s+the\s+terms\s+of\s+the\s+GNU\s+(?:\w+\s+)?General\s+Public\s+License"
)
_LINKING_ALLOWED: Final = (
    # What the compiler adds to every program.
    "GCC RUNTIME LIBRARY EXCEPTION",
    # The notices inside glibc: it is linked at run time, and its start-up code may be linked without conditions.
    "various files in the GNU C Library distribution",
)


class LicenceError(RuntimeError):
    """A part may not be shipped, or nothing says that it may."""


def collect(wheels: list[Path], into: Path) -> None:
    """Add the licences of the wheels, of what is inside them, and ours, to those of the runtime in `into`.

    Raises
    ------
    LicenceError
        If one is missing, or does not go with this product's.
    """
    for wheel in wheels:
        _of_wheel(wheel, into)
    with tarfile.open(cache.fetch(*GDCM_SOURCE)) as source:
        top = source.next()
        root = top.name.split("/")[0] if top else ""
        for part, names in GDCM_PARTS.items():
            for name in names:
                member = source.extractfile(f"{root}/gdcm_src/{name}")
                if member is None:
                    raise LicenceError(f"{part}: {name} is no file in GDCM's source")
                _put(into / part / Path(name).name, member.read())
    for path in sorted(COMMITTED.glob("*/*")):
        _put(into / path.parent.name / path.name, path.read_bytes())
    _put(into / PACKAGE / "LICENSE", (ROOT / "LICENSE").read_bytes())
    refuse_gpl(into)


def _of_wheel(wheel: Path, into: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        metadata = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        about = message_from_bytes(archive.read(metadata))
        said = " ".join(text for key, text in about.items() if key in ("License", "License-Expression", "Classifier"))
        if "GPL" in said or "General Public" in said:
            raise LicenceError(f"{about['Name']} is under the GPL")
        folder = metadata.removesuffix("METADATA")
        names = [name for name in archive.namelist() if _is_licence(name, folder)]
        if not names:
            raise LicenceError(f"{wheel.name} brings no licence")
        for name in names:
            _put(into / about["Name"].lower() / Path(name).name, archive.read(name))


def _is_licence(name: str, folder: str) -> bool:
    file = name.removeprefix(folder).removeprefix("licenses/")
    return name.startswith(folder) and "/" not in file and bool(re.match("(?i)licen[cs]e|copying|notice", file))


def _put(path: Path, text: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text)


def refuse_gpl(folder: Path) -> None:
    """Look through the collected licences, one folder for each part.

    Raises
    ------
    LicenceError
        If there is none, an empty one, or the GNU (Lesser) GPL without an exception for what is linked with it.
    """
    parts = sorted(path for path in folder.iterdir() if path.is_dir())
    for part in parts:
        texts = [path.read_text(encoding="utf-8", errors="replace") for path in part.rglob("*") if path.is_file()]
        if not any(text.strip() for text in texts):
            raise LicenceError(f"{part.name} brings no licence")
        said = " ".join(" ".join(texts).split())
        if any(_GPL.search(text) for text in texts) and not any(words in said for words in _LINKING_ALLOWED):
            raise LicenceError(f"{part.name} is under the GPL")
    if not parts:
        raise LicenceError(f"no licences in {folder}")
