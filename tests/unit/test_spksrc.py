"""The recipe for spksrc agrees with the package we build ourselves, and does what its README says.

spksrc itself is not here: of its files, stand-ins hold what the recipe uses.
"""

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from spk import spksrc, wheels, wizard
from spk.product import PACKAGE, package_version
from spk.spksrc.__main__ import USER, prepare

ROOT = Path(__file__).parents[2]
RECIPE = Path(spksrc.__file__).parent
SETUP = RECIPE / "src" / "service-setup.sh"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
INFO = dict(re.findall(r'^(\w+)="(.*)"$', (ROOT / "INFO.template").read_text(encoding="utf-8"), re.MULTILINE))
MAKEFILE = dict(re.findall(r"^(\w+) = (.*)$", (RECIPE / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))

# What spksrc's installers and start-stop-status call when a package defines it.
HOOKS = {f"{kind}_{when}{step}" for kind in ("validate", "service") for when in ("pre", "post")
         for step in ("inst", "uninst", "upgrade", "start", "stop")}  # fmt: skip

COMMON_MK = """
version_ge = $(shell printf '%s\\n%s\\n' $(2) $(1) | sort -C -V && echo 1)
32bit_ARCHS = armv7 evansport qoriq
SRM_ARCHS = cypress
ARMv8_ARCHS = aarch64 rtd1296
"""
META_MK = """
STAGING_DIR = staging
all: $(POST_STRIP_TARGET)
	@echo 'group=$(SYSTEM_GROUP) unsupported=$(UNSUPPORTED_ARCHS)'
	@echo package=\\"$(SPK_NAME)\\" depends=\\"$(subst ",,$(SPK_DEPENDS))\\"
"""


def pins(name: str) -> dict[str, str]:
    text = (RECIPE / "src" / name).read_text(encoding="utf-8")
    return dict(re.findall(r"^([A-Za-z0-9._-]+)==([^\s\\]+)", text, re.MULTILINE))


# --- Agreement ------------------------------------------------------------------------------------------------------


def test_names_and_versions_are_ours() -> None:
    assert MAKEFILE["SPK_NAME"] == PACKAGE == INFO["package"]
    assert f"{MAKEFILE['SPK_VERS']}-{int(MAKEFILE['SPK_REV']):04}" == package_version()
    assert MAKEFILE["SPK_DEPENDS"].replace("\\", "").strip('"') == INFO["install_dep_packages"]
    assert MAKEFILE["DISPLAY_NAME"] == INFO["displayname"]
    for ending in ("", "_chs", "_cht"):
        assert MAKEFILE[f"DESCRIPTION{ending.upper()}"] == INFO[f"description{ending}"]
    assert MAKEFILE["DSM_UI_DIR"] == INFO["dsmuidir"]
    assert MAKEFILE["DSM_APP_NAME"] == INFO["dsmappname"]
    assert MAKEFILE["LICENSE"] == PROJECT["project"]["license"]


def test_on_dsm6_it_joins_the_group_that_our_own_package_joins() -> None:
    assert MAKEFILE["SYSTEM_GROUP"] == json.loads((ROOT / "conf" / "privilege-dsm6").read_text())["join-groupname"]
    assert "join-groupname" not in json.loads((ROOT / "conf" / "privilege-dsm7").read_text())


def test_the_requirements_are_the_pinned_ones() -> None:
    pure, binary = pins("requirements-pure.txt"), pins("requirements-binary.txt")
    ours = {pin.name: pin for pin in wheels.pins((ROOT / "requirements" / "runtime.txt").read_text(encoding="utf-8"))}
    assert {**pure, **binary} == {name: pin.version for name, pin in ours.items()}
    assert pure.keys() & binary.keys() == set()
    for pin in wheels.pins((RECIPE / "src" / "requirements-binary.txt").read_text(encoding="utf-8")):
        assert pin.hashes == ours[pin.name].hashes
    needed = {re.split(r"[<>=~! ]", line)[0].lower() for line in PROJECT["project"]["dependencies"]}
    assert needed <= {name.lower() for name in {**pure, **binary}}


def test_their_python_is_one_of_ours() -> None:
    version = re.sub(r"^python(\d)(\d+)$", r"\1.\2", MAKEFILE["PYTHON_PACKAGE"])
    assert f"Programming Language :: Python :: {version}" in PROJECT["project"]["classifiers"]
    assert f"--python-version {version} " in (RECIPE / "Makefile").read_text(encoding="utf-8")
    assert f"/var/packages/{MAKEFILE['PYTHON_PACKAGE']}/target/bin" in SETUP.read_text(encoding="utf-8")


def test_the_service_setup_is_posix_shell_with_hooks_that_spksrc_calls() -> None:
    functions = set(re.findall(r"^(\w+) \(\)$", SETUP.read_text(encoding="utf-8"), re.MULTILINE))
    assert {name for name in functions if name.startswith(("service_", "validate_"))} <= HOOKS
    assert {"service_postinst", "service_preuninst"} <= functions
    for shell in (["dash"], ["bash", "--posix"]):
        subprocess.run([*shell, "-n", SETUP], check=True)


# --- The recipe in a checkout ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    checkout = tmp_path_factory.mktemp("spksrc")
    (checkout / "mk").mkdir()
    (checkout / "mk" / "spksrc.common.mk").write_text(COMMON_MK)
    (checkout / "mk" / "spksrc.spk-meta.mk").write_text(META_MK)
    old = checkout / "spk" / PACKAGE
    (old / "work-x64-7.1").mkdir(parents=True)
    (old / "src").mkdir()
    (old / "src" / "old").touch()
    assert prepare(checkout) == old
    return old


def test_a_recipe_is_written_anew_and_work_folders_stay(recipe: Path) -> None:
    assert (recipe / "work-x64-7.1").is_dir()
    assert not (recipe / "src" / "old").exists()


def test_another_folder_is_refused(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-m", "spk.spksrc", tmp_path], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (1, f"spk.spksrc: {tmp_path} is no checkout of spksrc\n")
    assert list(tmp_path.iterdir()) == []


def test_the_files_that_the_makefile_names_are_there(recipe: Path) -> None:
    for name in ("SPK_ICON", "SERVICE_SETUP", "CONF_DIR", "WIZARDS_DIR", "WHEELS"):
        assert (recipe / MAKEFILE[name]).exists(), name
    assert {path.name: path.read_bytes() for path in (recipe / "src" / "wizard").iterdir()} == wizard.files()
    (wheel,) = (recipe / "src" / "wheel").iterdir()
    assert wheel.name == f"{PACKAGE}-{MAKEFILE['SPK_VERS']}-py3-none-any.whl"


def test_only_the_user_differs_from_our_own_files(recipe: Path) -> None:
    ours = (ROOT / "conf" / "resource").read_text(encoding="utf-8")
    theirs = (recipe / "src" / "conf" / "resource").read_text(encoding="utf-8")
    assert json.loads(theirs) == json.loads(ours.replace(f'["{PACKAGE}"]', f'["{USER}"]')) != json.loads(ours)
    door = (recipe / "src" / "target-dsm6" / "ui" / "index.cgi").read_text(encoding="utf-8")
    ours = (ROOT / "ui" / "index.cgi").read_text(encoding="utf-8")
    assert set(door.splitlines()) ^ set(ours.splitlines()) == {f'USER = "{PACKAGE}"', f'USER = "{USER}"'}


@pytest.mark.parametrize(
    ("arch", "version", "machine", "group"),
    [("x64", "7.1", "x86_64", ""), ("aarch64", "7.2", "aarch64", ""), ("aarch64", "6.2.4", "aarch64", "system")],
)
def test_the_makefile_stages_all(
    recipe: Path, tmp_path: Path, arch: str, version: str, machine: str, group: str
) -> None:
    (python := tmp_path / "python3").write_text('#!/bin/sh\necho "asked: $*"\n')
    python.chmod(0o755)
    staging = tmp_path / "staging"
    done = subprocess.run(
        ["make", "-C", recipe, f"ARCH={arch}", f"TCVERSION={version}", f"STAGING_DIR={staging}"],
        env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"group={group} unsupported=armv7 evansport qoriq cypress\n" in done.stdout
    assert f'package="{PACKAGE}" depends="{INFO["install_dep_packages"]}"\n' in done.stdout
    assert re.search(rf"^asked: -m pip download .*--platform manylinux2014_{machine} ", done.stdout, re.MULTILINE)
    wanted = {"bin/angiovault", "conf/angiovault.sc", "conf/logrotate.conf", "ui/config", "ui/index.cgi"}
    assert wanted <= {str(path.relative_to(staging)) for path in staging.rglob("*")}
    assert os.access(staging / "bin" / "angiovault", os.X_OK)
    assert os.access(staging / "ui" / "index.cgi", os.X_OK)
    generation = version[0]
    logrotate = (ROOT / "conf" / f"logrotate-dsm{generation}").read_bytes()
    assert (staging / "conf" / "logrotate.conf").read_bytes() == logrotate
    assert len(list((staging / "share" / "angiovault").glob("angiovault-*.whl"))) == 1


# --- The service setup, sourced as by spksrc's installer ------------------------------------------------------------

INSTALLER = """
set -e
install_python_virtualenv () { mkdir -p "${SYNOPKG_PKGDEST}/env/bin"; }
install_python_wheels () { echo "wheels $*"; }
. "$1"
"$2"
"""

COMMAND = """#!/bin/sh
here=$(dirname "$0")/..
case "$*" in
    "dsm show port") echo 4242 ;;
    *) id -un >"$here/user"; env -0 >"$here/environment"; echo "did $*" ;;
esac
"""


@pytest.mark.root
@pytest.mark.parametrize("shell", [["dash"], ["bash", "--posix"]], ids=["dash", "bash"])
@pytest.mark.parametrize("user", ["root", "nobody"])
def test_the_service_setup_installs_and_uninstalls(recipe: Path, tmp_path: Path, shell: list[str], user: str) -> None:
    target, etc, log = tmp_path / "target", tmp_path / "etc", tmp_path / "messages"
    tmp_path.chmod(0o755)
    subprocess.run(["cp", "-R", recipe / "src" / "target-dsm7", target], check=True)
    (target / "bin" / "angiovault").write_text(COMMAND)
    (target / "share" / "angiovault").mkdir(parents=True)
    (target / "share" / "angiovault" / "angiovault-1-py3-none-any.whl").touch()
    (tmp_path / "bin").mkdir()
    pip = tmp_path / "bin" / "python3"
    pip.write_text(
        f'#!/bin/sh\n[ "$1 $2" = "-m pip" ] && echo "pip $*" || exec {Path(sys.base_prefix)}/bin/python3 "$@"\n'
    )
    pip.chmod(0o755)
    etc.mkdir()
    (etc / "angiovault.ini").write_text("[dicom]\n")
    subprocess.run(["chown", "-R", "nobody", target, etc if user == "nobody" else target], check=True)
    log.touch()
    log.chmod(0o666)
    # Every folder above has to let the user through.
    outside = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"] if user == "nobody" else []

    def call(function: str, status: str) -> str:
        done = subprocess.run(
            ["unshare", "--mount", "sh", "-c", 'mount --bind "$1" /mnt && cd / && shift && exec "$@"', "sh", tmp_path,
             *outside, *shell, "-c", INSTALLER, "sh", "/mnt/service-setup", function],
            env={
                "PATH": "/mnt/bin:/usr/bin:/bin",
                "SYNOPKG_PKGDEST": "/mnt/target",
                "SYNOPKG_PKG_STATUS": status,
                "SYNOPKG_TEMP_LOGFILE": "/mnt/messages",
                "INST_ETC": "/mnt/etc",
                "EFF_USER": "nobody",
                "wizard_db_root_password": "a 'b' \"c\" $d 密码",
            },
            capture_output=True,
            text=True,
            check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    (tmp_path / "service-setup").write_bytes(SETUP.read_bytes())
    said = call("service_postinst", "INSTALL")
    assert "wheels --no-index\n" in said
    assert "pip install --no-index --no-deps" in said
    assert "/angiovault-1-py3-none-any.whl" in said
    assert (target / "python").readlink() == Path("env")
    assert log.read_text() == "did dsm install\n"
    assert (target / "user").read_text() == "nobody\n"
    assert (etc / "angiovault.ini").owner() == etc.owner() == "nobody"
    values = (target / "environment").read_bytes().decode().split("\0")
    assert "wizard_db_root_password=a 'b' \"c\" $d 密码" in values
    assert 'dst.ports="4242/tcp"\n' in (target / "conf" / "angiovault.sc").read_text()
    call("service_preuninst", "UPGRADE")
    assert log.read_text() == "did dsm install\n"
    call("service_preuninst", "UNINSTALL")
    assert log.read_text() == "did dsm install\ndid dsm uninstall\n"
