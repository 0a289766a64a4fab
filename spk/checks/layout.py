"""What Package Center looks at before anything runs: the archives, INFO, conf, scripts, wizard, icons, bytecode."""

from __future__ import annotations

import hashlib
import json
import re
import struct
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath
from typing import Any, Final

from spk.checks.opening import Member, Package
from spk.product import PACKAGE

REQUIRED_KEYS: Final = ("package", "version", "os_min_ver", "description", "arch", "maintainer", "displayname")
SCRIPTS: Final = (
    *("preinst", "postinst", "preuninst", "postuninst", "preupgrade", "postupgrade"),
    "start-stop-status",
)
_REQUIRED: Final = (
    "INFO",
    "package.tgz",
    "PACKAGE_ICON.PNG",
    "PACKAGE_ICON_256.PNG",
    "conf/privilege",
    "conf/resource",
)
_FILE, _FOLDER, _LINK = "0", "5", "2"
_WIZARD_NAME: Final = re.compile(r"(install|upgrade|uninstall)_uifile(_[a-z]{3})?(\.sh)?")
_DIFFERS: Final = "conf/logrotate.conf"
"""The one file of the payload that depends on the generation: the log lies elsewhere."""
_ICON_SIZES: Final = (16, 24, 32, 48, 64, 72, 256)
_PNG: Final = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"
_UNCHECKED_HASH: Final = 1


def archives(package: Package) -> Iterator[str]:
    """Yield what is wrong with the two tar files themselves."""
    for name, kind in package.kinds:
        if kind not in (_FILE, _FOLDER, _LINK):
            yield f"{name} has a header of type {kind!r}: an extension (PaxHeader, GNU) that not every reader takes"
    for name, member in [*package.outer.items(), *package.target.items()]:
        header, path = member.header, PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or path.name.startswith("._") or name.startswith("./"):
            yield f"{name} is no name for a member"
        if header.mode & (0o7000 if header.issym() else 0o7022):
            yield f"{name} has mode {header.mode:o}"
        if (header.uid, header.gid, header.uname, header.gname) != (0, 0, "root", "root"):
            yield f"{name} is not root's"
        if header.issym() and not _stays_inside(path, header.linkname):
            yield f"{name} is a link that leaves the package: {header.linkname}"


def _stays_inside(path: PurePosixPath, link: str) -> bool:
    depth = len(path.parent.parts)
    for part in PurePosixPath(link).parts:
        depth += -1 if part == ".." else 1
        if depth < 0 or part == "/":
            return False
    return True


def info(package: Package) -> Iterator[str]:
    """Yield what is wrong with INFO."""
    values = package.info
    for key in REQUIRED_KEYS:
        if not values.get(key):
            yield f"INFO: {key} is missing"
    if not re.fullmatch(r"\d+(\.\d+)*-\d{4,}", values.get("version", "")):
        yield f"INFO: version {values.get('version')} is not feature-build"
    if values.get("package") != PACKAGE:
        yield f"INFO: package is {values.get('package')}, {PACKAGE} is its name for ever"
    if values.get("checksum") != hashlib.md5(package.outer["package.tgz"].data, usedforsecurity=False).hexdigest():
        yield "INFO: checksum is not that of package.tgz"
    if values.get("os_max_ver", "") != package.generation.os_max_ver:
        yield f"INFO: os_max_ver is {values.get('os_max_ver')}"
    if not values.get("extractsize", "").isdecimal():
        yield "INFO: extractsize is no number of KiB"
    if "adminport" in values:
        yield "INFO: adminport would make Package Center check a port that is not ours"
    name = f"{PACKAGE}-{values.get('version')}-{package.processor.name}-dsm{package.generation.number}.spk"
    if package.path.name != name:
        yield f"INFO says that the file is {name}"
    yield from _desktop(package)


def _desktop(package: Package) -> Iterator[str]:
    config = _json(package.target, f"{package.info.get('dsmuidir')}/config")
    if not isinstance(config, dict):
        yield "INFO: in dsmuidir is no valid config"
        return
    names = {name for part in config.values() if isinstance(part, dict) for name in part}
    if set(package.info.get("dsmappname", "").split()) != names:
        yield f"INFO: dsmappname is {package.info.get('dsmappname')}, ui/config has {' '.join(sorted(names))}"


def members(package: Package) -> Iterator[str]:
    """Yield what is missing or not as Package Center takes it."""
    for name in (*_REQUIRED, *(f"scripts/{script}" for script in SCRIPTS)):
        if name not in package.outer:
            yield f"{name} is missing"
    for name, member in package.outer.items():
        if name.startswith("scripts/") and member.header.mode != 0o755:
            yield f"{name} has mode {member.header.mode:o}, not 755"
    yield from _icons(package)
    yield from _privilege(package)
    yield from _resource(package)
    yield from _wizard(package)


def _icons(package: Package) -> Iterator[str]:
    sizes = {"PACKAGE_ICON.PNG": package.generation.icon, "PACKAGE_ICON_256.PNG": 256}
    for name, size in sizes.items():
        if name in package.outer and png_size(package.outer[name].data) != (size, size):
            yield f"{name} is no PNG of {size} by {size} pixels"
    for size in _ICON_SIZES:
        name = f"ui/images/{PACKAGE}_{size}.png"
        if name not in package.target or png_size(package.target[name].data) != (size, size):
            yield f"{name} is no PNG of {size} by {size} pixels"


def png_size(data: bytes) -> tuple[int, int] | None:
    """Return width and height of a PNG file, None if it is none."""
    return struct.unpack_from(">LL", data, len(_PNG)) if data.startswith(_PNG) and len(data) >= 24 else None


def _json(archive: dict[str, Member], name: str) -> Any:
    """Return the content of a JSON file, None if it is missing or broken."""
    try:
        return json.loads(archive[name].data)
    except (KeyError, ValueError):
        return None


def _privilege(package: Package) -> Iterator[str]:
    privilege = _json(package.outer, "conf/privilege")
    if not isinstance(privilege, dict):
        yield "conf/privilege is not valid JSON"
        return
    if privilege.get("defaults") != {"run-as": "package"}:
        yield "conf/privilege: the service must not run as root"
    if not privilege.get("username") == privilege.get("groupname") == PACKAGE:
        yield f"conf/privilege: user and group are {PACKAGE} for ever (error 313 otherwise)"
    if package.generation.number == 7 and privilege.keys() - {"defaults", "username", "groupname"}:
        yield "conf/privilege: DSM 7 lets an unsigned package ask for nothing more (error 319)"


def _resource(package: Package) -> Iterator[str]:
    resource = _json(package.outer, "conf/resource")
    if not isinstance(resource, dict):
        yield "conf/resource is not valid JSON"
        return
    if "{{" in json.dumps(resource):
        yield "conf/resource: a variable of the wizard breaks upgrades and silent installation"
    named = [
        resource.get("port-config", {}).get("protocol-file", ""),
        resource.get("syslog-config", {}).get("logrotate-relpath", ""),
        *resource.get("usr-local-linker", {}).get("bin", [""]),
    ]
    for path in named:
        if path not in package.target:
            yield f"conf/resource: {path or 'a worker'} is not in the package"
    for share in resource.get("data-share", {}).get("shares", []):
        if share.get("permission", {}).get("rw") != [PACKAGE]:
            yield f"conf/resource: the share {share.get('name')} is not given to {PACKAGE}"


def _wizard(package: Package) -> Iterator[str]:
    files = {name: name.removeprefix("WIZARD_UIFILES/") for name in package.outer if name.startswith("WIZARD_UIFILES/")}
    if "install_uifile" not in files.values():
        yield "WIZARD_UIFILES/install_uifile is missing"
    for name, file in files.items():
        if not _WIZARD_NAME.fullmatch(file):
            yield f"{name} is no name of a wizard"
        elif not file.endswith(".sh"):
            steps = _json(package.outer, name)
            if not isinstance(steps, list) or not all({"step_title", "items"} <= set(step) for step in steps):
                yield f"{name} is no valid list of steps"


def bytecode(package: Package) -> Iterator[str]:
    """Yield modules that would be compiled at every start, or whose bytecode may go stale."""
    for name in package.target:
        path = PurePosixPath(name)
        if path.suffix == ".py" and name.startswith("python/"):
            compiled = str(path.parent / "__pycache__" / f"{path.stem}.cpython-313.pyc")
            if compiled not in package.target:
                yield f"{name} is not compiled"
            elif int.from_bytes(package.target[compiled].data[4:8], "little") != _UNCHECKED_HASH:  # PEP 552
                yield f"{compiled} would be compared with its source"
        elif path.suffix == ".pyc" and str(path.parent.parent / f"{path.name.split('.')[0]}.py") not in package.target:
            yield f"{name} has no source"


def same_payload(packages: Sequence[Package]) -> Iterator[str]:
    """Yield files that differ between the generations of DSM though they must not."""
    for one in packages:
        for other in packages:
            if one.processor == other.processor and one.generation.number < other.generation.number:
                for name in sorted(one.target.keys() | other.target.keys()):
                    mine, theirs = one.target.get(name), other.target.get(name)
                    if name != _DIFFERS and (mine and mine.data) != (theirs and theirs.data):
                        yield f"{one.processor.name}: {name} differs"
