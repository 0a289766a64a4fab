"""A NAS with the package on it: what the scenarios say and ask."""

import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pydicom
from pydicom.uid import generate_uid

from dsm.generations import Generation
from dsm.mariadb10 import ROOT_PASSWORD, MariaDB10
from dsm.package_center import Outcome, PackageCenter
from dsm.spk_file import Spk
from dsm.stage import Process, Stage
from faults import instances
from harness.dcmtk import Peer, echoscu, findscu, getscu, storescu
from harness.waiting import wait_until

PACKAGE = "angiovault"
SETTINGS = f"/var/packages/{PACKAGE}/etc/angiovault.ini"
SHARE = "/volume1/angiography"
MODALITY = "MODALITY"
"""The AE title of the device that may do everything."""

CREATE_DATABASE = {"wizard_db_create": "true", "wizard_db_existing": "false", "wizard_db_later": "false"}
USE_DATABASE = {"wizard_db_create": "false", "wizard_db_existing": "true", "wizard_db_later": "false"}
LATER = {"wizard_db_create": "false", "wizard_db_existing": "false", "wizard_db_later": "true"}


@dataclass(frozen=True)
class Packages:
    """The files to install: today's and the one before, for DSM 6 and 7."""

    now: Mapping[int, Spk]
    before: Mapping[int, Spk]


@dataclass
class Nas:
    """A stage, its Package Center and its database server."""

    stage: Stage
    center: PackageCenter
    mariadb: MariaDB10
    packages: Packages
    folder: Path
    """For the files that a test sends."""
    sent: dict[str, str] = field(default_factory=dict)
    """SOP Instance UID -> digest of all that was acknowledged."""
    studies: list[str] = field(default_factory=list)

    @property
    def generation(self) -> Generation:
        return self.stage.generation

    @property
    def spk(self) -> Spk:
        """The file for this DSM."""
        return self.packages.now[self.generation.major]

    @property
    def previous_spk(self) -> Spk:
        return self.packages.before[self.generation.major]

    @property
    def var(self) -> str:
        return f"/var/packages/{PACKAGE}/{'var' if self.generation.at_least_7 else 'target/var'}"

    # --- Installing --------------------------------------------------------------------------------------------------

    def install(self, spk: Spk | None = None, *, start: bool = True, **answers: str) -> Outcome:
        """Install with a new database, or with `answers` over that; it must succeed."""
        wizard = {**CREATE_DATABASE, "wizard_db_root_password": ROOT_PASSWORD, **answers}
        outcome = self.center.install(spk or self.spk, wizard, start=start)
        assert outcome.ok, self.explain(outcome)
        return outcome

    def install_ready(self, spk: Spk | None = None, **answers: str) -> Outcome:
        """Install with a new database, wait until the service runs, and let one device do everything."""
        outcome = self.install(spk, **answers)
        self.wait_until_answers()
        self.add_device()
        return outcome

    def explain(self, outcome: Outcome) -> str:
        """Say all there is to say of something that went wrong."""
        return "\n".join(
            [
                *(f"{script} exited with {code}" for script, code in outcome.codes.items() if code),
                f"messages:\n{outcome.text}",
                f"log of the scripts:\n{self.stage.read(f'/var/log/packages/{PACKAGE}.log')[-4000:]}",
                self.log()[-4000:],
            ]
        )

    # --- The service -------------------------------------------------------------------------------------------------

    def command(
        self, *arguments: str, user: str = PACKAGE, stdin: str = "", check: bool = True, timeout: float = 60
    ) -> str:
        """Run the command `angiovault` as it lies in the PATH of the NAS, and return what it printed."""
        command = [f"/usr/local/bin/{PACKAGE}", *arguments]
        done = self.stage.run(command, user=user, stdin=stdin, check=check, timeout=timeout)
        return done.stdout + done.stderr

    def add_device(self, name: str = "modality", ae_title: str = MODALITY, port: int | None = None) -> None:
        """Write a device into the settings, which the running service reads by itself."""
        with self.stage.host(SETTINGS).open("a+", encoding="utf-8") as file:
            file.seek(0)
            if f"[device {name}]" in file.read():
                return  # kept from an earlier installation
            file.write(f"\n[device {name}]\nae-title = {ae_title}\nhost = 127.0.0.1\nport = {port or ''}\n")

    def log(self) -> str:
        path = f"{self.var}/angiovault.log"
        return self.stage.read(path) if self.stage.exists(path) else ""

    def supervisor(self) -> dict[str, Any]:
        """Return what the supervisor says of itself; nothing when it has not said anything."""
        return self._json("supervisor.json")

    def health(self) -> dict[str, Any]:
        return self._json("health.json")

    def _json(self, name: str) -> dict[str, Any]:
        path = f"{self.var}/{name}"
        found = json.loads(self.stage.read(path)) if self.stage.exists(path) else {}
        assert isinstance(found, dict)
        return found

    def wait_for(self, state: str, *, seconds: float = 20, answering: bool = True) -> dict[str, Any]:
        """Wait until the supervisor is in a state, and return what it says; when it runs, the service must answer."""
        try:
            wait_until(lambda: self.supervisor().get("state") == state, f"the state {state}", seconds=seconds)
        except AssertionError as error:
            raise AssertionError(f"{error}; {self.supervisor()}\n{self.log()[-6000:]}") from None
        if answering and state in ("running", "needs-set-up"):
            self.wait_until_answers()
        return self.supervisor()

    def wait_until_answers(self, *, seconds: float = 20) -> None:
        """Wait until the service answers, which is a little before the supervisor says so."""
        try:
            wait_until(lambda: self.health() and echoscu(self.peer).returncode == 0, "an answer", seconds=seconds)
        except AssertionError as error:
            raise AssertionError(f"{error}; {self.supervisor()}\n{self.log()[-6000:]}") from None

    @property
    def peer(self) -> Peer:
        health = self.health()
        return Peer("127.0.0.1", int(health.get("port", 11112)), str(health.get("ae_title", "ANGIOVAULT")))

    def supervisors(self) -> list[Process]:
        return [process for process in self.stage.processes(PACKAGE) if "dsm supervise" in process.command]

    def services(self) -> list[Process]:
        """Return the `serve` processes that a supervisor started (their own children left out)."""
        parents = {process.pid for process in self.supervisors()} | {1}
        running = self.stage.processes(PACKAGE)
        return [process for process in running if " serve " in process.command and process.parent in parents]

    # --- Images ------------------------------------------------------------------------------------------------------

    def send(self, count: int = 2, *, name: str = "Keep^Safe") -> str:
        """Send some images of one new study, all of which must be acknowledged; return the study's UID."""
        study = generate_uid()
        paths = [
            instances.make(self.folder / f"sent-{study[-12:]}", study=study, number=number, name=name)
            for number in range(count)
        ]
        result = self.store(paths)
        assert result == [0] * count, f"statuses {result}\n{self.log()[-4000:]}"
        self.sent |= instances.digests(paths)
        self.studies.append(study)
        return study

    def store(self, paths: Sequence[Path]) -> list[int]:
        return storescu(self.peer, paths, "-xe", calling=MODALITY).statuses

    def statuses_of_sending(self) -> list[int]:
        """Send one image and return the answer, whatever it is."""
        return self.store([instances.make(self.folder / "tried")])

    def find(self, *keys: str | bytes) -> list[pydicom.FileDataset] | None:
        """Return the studies that a query finds; None when the archive cannot tell now, or does not answer."""
        result = findscu(self.peer, ["QueryRetrieveLevel=STUDY", "StudyInstanceUID", *keys], calling=MODALITY)
        if not result.responses or result.final.status == 0xA700:
            return None
        assert result.final.status == 0, result.log
        return list(result.data_sets)

    def wait_until_found(self, studies: Sequence[str] | None = None, *, seconds: float = 20) -> None:
        """Wait until every study that was sent, or these, is found."""
        wanted = set(self.studies if studies is None else studies)

        def all_found() -> bool:
            found = self.find()
            return found is not None and wanted <= {str(data_set.StudyInstanceUID) for data_set in found}

        try:
            wait_until(all_found, "all studies to be found", seconds=seconds)
        except AssertionError as error:
            raise AssertionError(f"{error}; {self.supervisor()} {self.health()}\n{self.log()[-6000:]}") from None

    def assert_all_kept(self) -> None:
        """Check that all that was ever sent is found and comes back with the same bytes."""
        self.wait_until_found()
        back: dict[str, str] = {}
        for study in self.studies:
            keys = ["QueryRetrieveLevel=STUDY", f"StudyInstanceUID={study}"]
            folder = self.folder / f"back-{secrets.token_hex(4)}"
            result = getscu(self.peer, keys, folder, calling=MODALITY).ok()
            back |= {uid: file.sha256() for uid, file in result.received.items()}
        assert back == self.sent

    # --- What happens to a NAS ---------------------------------------------------------------------------------------

    def lose_power(self) -> None:
        self.stage.kill_all()
        self.center.running = False

    def boot(self) -> Outcome:
        outcome = self.center.boot()
        assert outcome.ok, self.explain(outcome)
        return outcome

    def setting(self, name: str) -> str | None:
        """Return a setting as it stands in the file."""
        for line in self.stage.read(SETTINGS).splitlines():
            key, equals, value = line.partition("=")
            if equals and key.strip() == name:
                return value.strip()
        return None

    def set(self, name: str, value: str) -> None:
        """Change a setting that is in the file already, by hand."""
        lines = self.stage.read(SETTINGS).splitlines()
        assert self.setting(name) is not None, name
        changed = [f"{name} = {value}" if line.partition("=")[0].strip() == name else line for line in lines]
        self.stage.host(SETTINGS).write_text("\n".join(changed) + "\n", encoding="utf-8")
