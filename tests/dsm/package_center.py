"""Package Center's part: it plays installation, start, upgrade and removal of a package on a stage.

Order, users and environment are those of Synology's developer guide; where nobody could tell how DSM behaves, an option
of `Habits` says which way it is played.
"""

import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from dsm.spk_file import Refused, Spk
from dsm.stage import WEB, Stage

_UI = f"{WEB}/3rdparty"


@dataclass(frozen=True)
class Habits:
    """What is uncertain about DSM."""

    chown_after_postinst: bool = False
    """DSM 6: whether the program's files get their owner before or after postinst runs."""
    prestart_at_boot: bool = True
    """Documented for DSM 7; whether DSM 6 does it too is not."""
    settings_survive: bool = True
    """DSM 6: whether /var/packages/X/etc stays when the package is removed."""
    old_scripts_on_new_system: bool = True
    """Whether the scripts of a DSM 6 file run once more when DSM 7 replaces it."""


@dataclass
class Outcome:
    """What the administrator gets to see."""

    ok: bool = True
    messages: list[str] = field(default_factory=list)
    codes: dict[str, int] = field(default_factory=dict)
    """Script, with its verb, to exit code."""

    @property
    def text(self) -> str:
        return "\n".join(self.messages)


class _Aborted(Exception):
    pass


class PackageCenter:
    """Package Center of a stage, for one package."""

    def __init__(self, stage: Stage, habits: Habits | None = None) -> None:
        self.stage = stage
        self.habits = habits or Habits()
        self.spk: Spk | None = None
        """The file that is installed."""
        self.volume = "/volume1"
        self.running = False
        self._wizard: Mapping[str, str] = {}
        self._old_version = ""

    @property
    def installed(self) -> Spk:
        assert self.spk is not None, "nothing is installed"
        return self.spk

    @property
    def home(self) -> str:
        return f"/var/packages/{self.installed.name}"

    # --- What an administrator does ----------------------------------------------------------------------------------

    def install(
        self, spk: Spk, wizard: Mapping[str, str] | None = None, *, volume: str = "/volume1", start: bool = True
    ) -> Outcome:
        """Install a file by hand; `wizard` holds the answers, None is an installation without it (silent)."""
        spk.check(self.stage.generation)
        assert self.spk is None, "it is installed already"
        self._check_dependencies(spk)
        self._answers(spk, "install", wizard)
        outcome = Outcome()
        self.volume = volume
        new_user = f"\n{spk.user}:" not in self.stage.read("/etc/passwd")
        self.stage.add_user(spk.user, spk.group, self._more_groups(spk))
        try:
            with self._unpacked(spk) as temporary:
                self._script(outcome, "preinst", spk, "INSTALL", temporary, may_abort=True)
                self.spk = spk
                self._put_in_place(outcome, temporary, "INSTALL")
        except _Aborted:
            if new_user:
                self.stage.remove_user(spk.user, spk.group)
            outcome.ok = False
            return outcome
        if start and outcome.ok:
            self._enable_and_start(outcome, "INSTALL")
        return outcome

    def upgrade(self, spk: Spk, wizard: Mapping[str, str] | None = None) -> Outcome:
        """Install a newer file over the package: scripts of the old and the new file in the documented order."""
        spk.check(self.stage.generation)
        old = self.installed
        assert old.version != spk.version, "the build number must rise"
        self._answers(spk, "upgrade", wizard)
        outcome = Outcome()
        self._old_version = old.version
        ran = self.running
        if ran:
            self.stop(status="UPGRADE", outcome=outcome)
        scripts = f"{self.home}/scripts"
        old_scripts_run = not self._moving_from_6_to_7(old) or self.habits.old_scripts_on_new_system
        with self._unpacked(spk) as temporary:
            self._script(outcome, "preupgrade", spk, "UPGRADE", temporary)
            if old_scripts_run:
                self._script(outcome, "preuninst", old, "UPGRADE", temporary, folder=scripts)
            store = self.stage.host(f"{self.volume}/@appstore")
            (store / old.name).rename(store / ".old")
            if old_scripts_run:
                self._script(outcome, "postuninst", old, "UPGRADE", temporary, folder=scripts)
            self._remove(f"{self.volume}/@appstore/.old")
            self._script(outcome, "preinst", spk, "UPGRADE", temporary)
            self.spk = spk
            self._put_in_place(outcome, temporary, "UPGRADE")
            self._script(outcome, "postupgrade", spk, "UPGRADE", temporary, folder=scripts)
        if ran and outcome.ok:
            self._enable_and_start(outcome, "UPGRADE")
        self._old_version = ""
        return outcome

    def uninstall(self, wizard: Mapping[str, str] | None = None) -> Outcome:
        """Remove the package; `wizard` holds the answers, None is a removal without it."""
        spk, outcome = self.installed, Outcome()
        self._answers(spk, "uninstall", wizard)
        if self.running:
            self.stop(status="UNINSTALL", outcome=outcome)
        generation, stage = self.stage.generation, self.stage
        try:
            self._script(outcome, "preuninst", spk, "UNINSTALL", self.home, may_abort=True)
        except _Aborted:
            outcome.ok = False
            return outcome
        self._remove(f"{self.volume}/@appstore/{spk.name}")
        self._script(outcome, "postuninst", spk, "UNINSTALL", self.home)
        stage.host(f"/usr/local/etc/services.d/{spk.name}.sc").unlink(missing_ok=True)
        self._remove(self.home)
        if generation.at_least_7:
            self._remove(f"{self.volume}/@apptemp/{spk.name}")
        elif not self.habits.settings_survive:
            self._remove(f"/usr/syno/etc/packages/{spk.name}")
        stage.remove_user(spk.user, spk.group)
        self.spk = None
        return outcome

    def start(self, *, status: str = "START", outcome: Outcome | None = None) -> Outcome:
        """Start the package, as the button does: DSM creates the share anew where it is missing, then asks prestart."""
        outcome = outcome or Outcome()
        self._enable_and_start(outcome, status)
        return outcome

    def stop(self, *, status: str = "STOP", outcome: Outcome | None = None) -> Outcome:
        """Stop the package and take it out of the desktop."""
        outcome = outcome or Outcome()
        spk = self.installed
        if self._script(outcome, "prestop", spk, status, self.home):
            self._script(outcome, "stop", spk, status, self.home)
        self.running = False
        name = spk.name
        self._remove_link(f"{_UI}/{name}")
        self._remove_link(f"/usr/local/bin/{name}")
        self.stage.host(f"/usr/local/etc/logrotate.d/{name}").unlink(missing_ok=True)
        self.stage.host(f"{self.home}/enabled").unlink(missing_ok=True)
        return outcome

    def verb(self, verb: str) -> tuple[int, str]:
        """Run start-stop-status with a verb; return its exit code and what it printed."""
        outcome = Outcome()
        self._script(outcome, verb, self.installed, "", self.home)
        return outcome.codes[verb], outcome.text

    def status(self) -> int:
        return self.verb("status")[0]

    def boot(self) -> Outcome:
        """Start what was enabled: resources that belong to enabling are not touched, and the status is empty."""
        outcome = Outcome()
        if self.stage.exists(f"{self.home}/enabled"):
            self._start(outcome, "", self.habits.prestart_at_boot)
        return outcome

    # --- The steps ---------------------------------------------------------------------------------------------------

    def _check_dependencies(self, spk: Spk) -> None:
        for dependency in spk.info.get("install_dep_packages", "").split(":"):
            name = dependency.partition(">")[0]
            if name and not self.stage.exists(f"/var/packages/{name}/INFO"):
                raise Refused(f"needs {name}")

    def _answers(self, spk: Spk, wizard: str, answers: Mapping[str, str] | None) -> None:
        if unknown := (answers or {}).keys() - spk.wizard_keys(wizard):
            raise AssertionError(f"the {wizard} wizard does not ask for {sorted(unknown)}")
        self._wizard = answers or {}

    def _more_groups(self, spk: Spk) -> list[str]:
        found = spk.privilege.get("join-groupname", "")
        return [found] if isinstance(found, str) else list(found)

    def _moving_from_6_to_7(self, old: Spk) -> bool:
        return self.stage.generation.at_least_7 and "ctrl-script" in old.privilege

    @contextmanager
    def _unpacked(self, spk: Spk) -> Iterator[str]:
        """Unpack what the scripts need into the temporary folder, which is gone afterwards."""
        folder = f"{self.volume}/@tmp/synopkg/install.{secrets.token_hex(3)}"
        self.stage.host(folder).mkdir(parents=True)
        kept = f"{self.volume}/@tmp/upgrade"
        self.stage.host(kept).mkdir()
        self.stage.chown(kept, spk.user, group=spk.group)
        try:
            spk.extract_scripts(self.stage.host(folder))
            yield folder
        finally:
            self._remove(f"{self.volume}/@tmp")

    def _put_in_place(self, outcome: Outcome, temporary: str, status: str) -> None:
        """Unpack the program, make the package's folders, run postinst and the resource workers of that time."""
        spk, stage = self.installed, self.stage
        target = f"{self.volume}/@appstore/{spk.name}"
        stage.host(target).mkdir(parents=True)
        spk.unpack(stage.host(target))
        self._folders()
        for part in ("INFO", "scripts", "conf"):
            self._remove(f"{self.home}/{part}")
            stage.run(["cp", "-R", f"{temporary}/{part}", f"{self.home}/{part}"])
        late = self.habits.chown_after_postinst and not stage.generation.at_least_7
        if not late:
            stage.chown(target, spk.user, group=spk.group, recursive=True)
        self._script(outcome, "postinst", spk, status, temporary, folder=f"{self.home}/scripts")
        if late:
            stage.chown(target, spk.user, group=spk.group, recursive=True)
        self._port_config()

    def _folders(self) -> None:
        """Make /var/packages/X and the links in it; what lay in another generation's `etc` is carried over."""
        spk, stage = self.installed, self.stage
        stage.host(self.home).mkdir(exist_ok=True)
        for name, place in stage.generation.folders.items():
            folder = place.replace("%V", self.volume).replace("%P", spk.name)
            link = f"{self.home}/{name}"
            there = stage.host(link, follow=False)
            before = str(there.readlink()) if there.is_symlink() else ""
            if not stage.exists(folder):
                stage.host(folder).mkdir(parents=True)
                if stage.generation.at_least_7:
                    stage.chown(folder, spk.user, group=spk.group)
                    stage.host(folder).chmod(0o700 if name == "home" else 0o755)
            if before and before != folder:
                for path in list(stage.host(before).iterdir()):
                    path.rename(stage.host(folder) / path.name)
                stage.host(before).rmdir()
            stage.link(link, folder)

    def _port_config(self) -> None:
        relative = self.installed.resource["port-config"]["protocol-file"]
        entry = self.stage.read(f"{self.home}/target/{relative}")
        self.stage.write(f"/usr/local/etc/services.d/{PurePosixPath(relative).name}", entry)

    def _enable_and_start(self, outcome: Outcome, status: str) -> None:
        """Enable the package, which sets up its resources, and start it."""
        spk, stage, name = self.installed, self.stage, self.installed.name
        for share in spk.resource["data-share"]["shares"]:
            self._share(share["name"], share["permission"].get("rw", []))
        for path in spk.resource["usr-local-linker"].get("bin", []):
            stage.link(f"/usr/local/bin/{PurePosixPath(path).name}", f"{self.home}/target/{path}")
        stage.link(f"{_UI}/{name}", f"{self.home}/target/{spk.info['dsmuidir']}")
        rotation = spk.resource["syslog-config"]["logrotate-relpath"]
        stage.write(f"/usr/local/etc/logrotate.d/{name}", stage.read(f"{self.home}/target/{rotation}"))
        stage.write(f"{self.home}/enabled", "")
        self._start(outcome, status, with_prestart=True)

    def _start(self, outcome: Outcome, status: str, with_prestart: bool) -> None:
        spk = self.installed
        wanted = spk.info.get("precheckstartstop", "yes") == "yes" and with_prestart
        if wanted and not self._script(outcome, "prestart", spk, status, self.home):
            outcome.ok = False
            return
        self.running = self._script(outcome, "start", spk, status, self.home)
        outcome.ok = outcome.ok and self.running

    def _share(self, name: str, writers: list[str]) -> None:
        """Make a shared folder where it is missing, and let the writers in; a user who is not there is passed over.

        Synology's rights are access lists, which the package cannot change. Here they are the folder's group.
        """
        stage, user = self.stage, self.installed.user
        record = f"/.stage/shares/{name}"
        if not stage.exists(record):
            path = f"{self.volume}/{name}"
            stage.host(path).mkdir(mode=0o700)
            stage.write(record, f"{path}\n", mode=0o600)
        path = stage.read(record).strip()
        if user in writers and stage.exists(path):
            stage.run(["chgrp", self.installed.group, path])
            stage.run(["chmod", "770", path])
        if stage.generation.at_least_7:
            stage.link(f"{self.home}/shares/{name}", path)

    def _script(
        self,
        outcome: Outcome,
        action: str,
        spk: Spk,
        status: str,
        temporary: str,
        *,
        folder: str | None = None,
        may_abort: bool = False,
    ) -> bool:
        """Run a script, or start-stop-status with a verb, as its user; return whether it exited with 0."""
        stage = self.stage
        scripts = folder or f"{temporary}/scripts"
        installing = action.startswith(("pre", "post")) and action not in ("prestart", "prestop")
        command = [f"{scripts}/{action}"] if installing else [f"{scripts}/start-stop-status", action]
        user = spk.user if stage.generation.at_least_7 else spk.script_user(action)
        log = f"/tmp/synopkg.{secrets.token_hex(4)}"
        stage.write(log, "")
        stage.chown(log, user, group=stage.run(["id", "-gn", user]).stdout.strip())
        environment = self._environment(spk, status, temporary, log)
        if installing:
            environment |= self._wizard  # which start-stop-status never gets
        done = stage.run(command, user=user, env=environment, timeout=120, check=False)
        said = [text.strip() for text in (done.stdout, stage.read(log)) if text.strip()]
        stage.host(log).unlink()
        with stage.host(f"/var/log/packages/{spk.name}.log").open("a") as file:
            file.write(f"{action}: {done.stderr}")
        outcome.messages += said
        outcome.codes[action] = done.returncode
        if done.returncode != 0 and may_abort:
            raise _Aborted
        if done.returncode != 0 and installing:
            outcome.ok = False
        return done.returncode == 0

    def _environment(self, spk: Spk, status: str, temporary: str, log: str) -> dict[str, str]:
        generation = self.stage.generation
        environment = {
            "SYNOPKG_PKGNAME": spk.name,
            "SYNOPKG_PKGVER": spk.version,
            "SYNOPKG_OLD_PKGVER": self._old_version,
            "SYNOPKG_PKGDEST": f"{self.volume}/@appstore/{spk.name}",
            "SYNOPKG_PKGDEST_VOL": self.volume,
            "SYNOPKG_PKGPORT": "",
            "SYNOPKG_PKGINST_TEMP_DIR": temporary if "@tmp" in temporary else "",
            "SYNOPKG_TEMP_LOGFILE": log,
            "SYNOPKG_TEMP_UPGRADE_FOLDER": f"{self.volume}/@tmp/upgrade" if status == "UPGRADE" else "",
            "SYNOPKG_TEMP_SPKFILE": "",
            "SYNOPKG_DSM_LANGUAGE": self.stage.language,
            "SYNOPKG_DSM_VERSION_MAJOR": str(generation.major),
            "SYNOPKG_DSM_VERSION_MINOR": str(generation.minor),
            "SYNOPKG_DSM_VERSION_BUILD": str(generation.build),
            "SYNOPKG_DSM_ARCH": generation.arch,
            "SYNOPKG_PKG_STATUS": status,
            "SYNOPKG_USERNAME": "admin" if status else "",
        }
        if generation.at_least_7:
            environment |= {
                f"SYNOPKG_PKG{name.upper()}": f"{self.volume}/@app{place}/{spk.name}"
                for name, place in (("var", "data"), ("tmp", "temp"), ("home", "home"))
            }
        return environment

    def _remove(self, path: str) -> None:
        self.stage.run(["rm", "-rf", path])

    def _remove_link(self, path: str) -> None:
        self.stage.host(path, follow=False).unlink(missing_ok=True)
