"""An .spk file as Package Center reads it, and what makes Package Center refuse it."""

import gzip
import hashlib
import json
import re
import subprocess
import tarfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, Any

from dsm.generations import Generation


class Refused(Exception):
    """Package Center does not take the file."""


@dataclass(frozen=True)
class Spk:
    """A package file; its members are read when they are asked for."""

    path: Path

    def __str__(self) -> str:
        return self.path.name

    @cached_property
    def members(self) -> dict[str, bytes]:
        """All files but package.tgz. An outer archive that is compressed is refused, as by DSM (error 263)."""
        with tarfile.open(self.path, "r:") as archive:
            return {
                member.name.removeprefix("./"): archive.extractfile(member).read()  # type: ignore[union-attr]
                for member in archive
                if member.isfile() and not member.name.endswith("package.tgz")
            }

    def extract_scripts(self, folder: Path) -> None:
        """Unpack everything but package.tgz, with the modes of the archive."""
        with tarfile.open(self.path, "r:") as archive:
            wanted = [member for member in archive if not member.name.endswith("package.tgz")]
            if hasattr(tarfile, "tar_filter"):  # from Python 3.11.4 on; before, it was what happens in any case
                archive.extraction_filter = tarfile.tar_filter
            archive.extractall(folder, wanted)

    @cached_property
    def _payload_tar(self) -> bytes:
        """The content of package.tgz, decompressed once for all installations of it."""
        with tarfile.open(self.path, "r:") as archive, self._payload(archive) as file:
            return gzip.decompress(file.read())

    def unpack(self, target: Path) -> None:
        """Unpack package.tgz."""
        subprocess.run(["tar", "-x", "-C", target], input=self._payload_tar, check=True)

    def _payload(self, archive: tarfile.TarFile) -> IO[bytes]:
        file = archive.extractfile("package.tgz")
        assert file is not None
        return file

    @cached_property
    def info(self) -> dict[str, str]:
        text = self.members["INFO"].decode()
        lines = [re.fullmatch(r'(\w+)="(.*)"', line) for line in text.splitlines()]
        assert all(lines), 'a line of INFO is not of the form key="value"'
        return {line[1]: line[2] for line in lines if line}

    @property
    def name(self) -> str:
        return self.info["package"]

    @property
    def version(self) -> str:
        return self.info["version"]

    @cached_property
    def privilege(self) -> dict[str, Any]:
        return self._json("conf/privilege")

    @cached_property
    def resource(self) -> dict[str, Any]:
        return self._json("conf/resource")

    def _json(self, member: str) -> dict[str, Any]:
        found = json.loads(self.members[member])
        assert isinstance(found, dict)
        return found

    @property
    def user(self) -> str:
        return str(self.privilege.get("username", self.name))

    @property
    def group(self) -> str:
        return str(self.privilege.get("groupname", self.name))

    def script_user(self, action: str) -> str:
        """Return who runs a script: `conf/privilege` says it, and DSM 7 allows the package user only."""
        for entry in self.privilege.get("ctrl-script", []):
            if entry["action"] == action:
                return "root" if entry["run-as"] == "root" else self.user
        return "root" if self.privilege["defaults"]["run-as"] == "root" else self.user

    def wizard_keys(self, wizard: str) -> set[str]:
        """Return the keys that the wizard `install`, `upgrade` or `uninstall` asks for, in any language."""
        keys = set()
        for member, content in self.members.items():
            if re.fullmatch(rf"WIZARD_UIFILES/{wizard}_uifile(_[a-z]{{3}})?", member):
                for step in json.loads(content):
                    for item in step.get("items", []):
                        keys |= {subitem["key"] for subitem in item.get("subitems", [])}
        return keys

    def check(self, generation: Generation, machine: str = "x86_64") -> None:
        """Refuse the file for the reasons Package Center has (Synology's developer guide)."""
        required = {"package", "version", "os_min_ver", "description", "arch", "maintainer"}
        if missing := required - self.info.keys():
            raise Refused(f"INFO lacks {missing}")
        if not {machine, "noarch", generation.arch} & set(self.info["arch"].split()):
            raise Refused("for another processor")
        here = (generation.major, generation.minor, generation.build)
        lowest, highest = (_version(self.info.get(key, "")) for key in ("os_min_ver", "os_max_ver"))
        if lowest and lowest > here:
            raise Refused("for a newer DSM")
        if highest and highest < here:
            raise Refused("for an older DSM")
        if generation.at_least_7:
            self._check_for_dsm7(lowest)

    def _check_for_dsm7(self, lowest: tuple[int, ...]) -> None:
        if lowest < (7, 0, 40000):
            raise Refused("not made for DSM 7")
        if self.privilege["defaults"]["run-as"] != "package" or {"ctrl-script", "executable"} & self.privilege.keys():
            raise Refused("invalid package privilege content (319)")
        if any("capabilities" in tool for tool in self.privilege.get("tool", [])):
            raise Refused("invalid package privilege content (319)")
        with tarfile.open(self.path, "r:") as archive, self._payload(archive) as file:
            digest = hashlib.file_digest(file, "md5").hexdigest()  # type: ignore[arg-type]
        if self.info.get("checksum") not in (None, digest):
            raise Refused("checksum")


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", text))
