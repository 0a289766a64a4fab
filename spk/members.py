"""Everything that is in the package, in one place: name there, where it comes from, mode.

A source is a path in the repository, with the DSM generation's number or icon size filled in, or one of the parts that
the builder makes. A name that ends in * stands for all files of the source folder or part.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from spk.product import Generation
from spk.tarballs import Entry

INFO, PACKAGE_TGZ, WIZARD = "<INFO>", "<package.tgz>", "<wizard>"
PYTHON, LICENCES = "<python>", "<licences>"
"""Parts that are made: see building.py and payload.py."""

SPK: Final = (
    ("INFO", INFO, 0o644),
    ("PACKAGE_ICON.PNG", "ui/images/angiovault_{icon}.png", 0o644),
    ("PACKAGE_ICON_256.PNG", "ui/images/angiovault_256.png", 0o644),
    ("WIZARD_UIFILES/*", WIZARD, 0o644),
    ("conf/privilege", "conf/privilege-dsm{generation}", 0o644),
    ("conf/resource", "conf/resource", 0o644),
    ("package.tgz", PACKAGE_TGZ, 0o644),
    ("scripts/common", "scripts/common", 0o755),
    ("scripts/preinst", "scripts/preinst", 0o755),
    ("scripts/postinst", "scripts/postinst", 0o755),
    ("scripts/preuninst", "scripts/preuninst", 0o755),
    ("scripts/postuninst", "scripts/postuninst", 0o755),
    ("scripts/preupgrade", "scripts/preupgrade", 0o755),
    ("scripts/postupgrade", "scripts/postupgrade", 0o755),
    ("scripts/start-stop-status", "scripts/start-stop-status", 0o755),
)
"""The .spk file: what Package Center reads."""

TARGET: Final = (
    ("bin/angiovault", "bin/angiovault", 0o755),
    ("conf/angiovault.sc", "conf/angiovault.sc", 0o644),
    ("conf/logrotate.conf", "conf/logrotate-dsm{generation}", 0o644),
    ("licences/*", LICENCES, 0o644),
    ("python/*", PYTHON, None),  # each file with the mode that it has in the runtime and in the wheels
    ("ui/config", "ui/config", 0o644),
    ("ui/images/*", "ui/images/*", 0o644),
    ("ui/index.cgi", "ui/index.cgi", 0o755),
    ("ui/stub.css", "ui/stub.css", 0o644),
    ("ui/stub.js", "ui/stub.js", 0o644),
    ("ui/token.js", "ui/token.js", 0o644),
    ("ui/texts/chs/strings", "ui/texts/chs/strings", 0o644),
    ("ui/texts/enu/strings", "ui/texts/enu/strings", 0o644),
)
"""package.tgz: what lies in target/ on the NAS."""

Lines = tuple[tuple[str, str, int | None], ...]


def sources(lines: Lines, generation: Generation, root: Path) -> dict[str, Path]:
    """Return name in the package -> file in the repository, of the lines that are not made."""
    found: dict[str, Path] = {}
    for name, source, _ in lines:
        if source.startswith("<"):
            continue
        path = root / source.format(generation=generation.number, icon=generation.icon)
        if not name.endswith("*"):
            found[name] = path
            continue
        for file in sorted(path.parent.iterdir()):
            if file.is_file() and not file.name.startswith("."):
                found[name.removesuffix("*") + file.name] = file
    return found


def entries(lines: Lines, generation: Generation, root: Path, made: Mapping[str, list[Entry]]) -> list[Entry]:
    """Return the members with their content, in the order of the list.

    Raises
    ------
    OSError
        If a file of the list is missing in the repository.
    KeyError
        If a part was not made.
    """
    result: list[Entry] = []
    for line in lines:
        name, source, mode = line
        if source.startswith("<"):
            inside = name.removesuffix("*")
            result += [
                Entry(inside + entry.name, entry.data, entry.mode if mode is None else mode, entry.link)
                for entry in made[source]
            ]
        else:
            result += [
                Entry(member, path.read_bytes(), 0o644 if mode is None else mode)
                for member, path in sources((line,), generation, root).items()
            ]
    return result
