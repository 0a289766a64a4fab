"""Put the recipe into a checkout of spksrc, with all that it takes from this repository: see README.md."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from spk import members, wheels, wizard
from spk.product import GENERATIONS, PACKAGE, ROOT, Generation

HERE: Final = Path(__file__).resolve().parent
USER: Final = f"sc-{PACKAGE}"
"""The package's user there: spksrc puts sc- before every package's name."""


def prepare(checkout: Path) -> Path:
    """Write `spk/angiovault` anew in a checkout of spksrc, but for the work folders of earlier builds; return it.

    Raises
    ------
    FileNotFoundError
        If `checkout` is none.
    """
    if not (checkout / "mk" / "spksrc.spk-meta.mk").is_file():
        raise FileNotFoundError(f"{checkout} is no checkout of spksrc")
    recipe = checkout / "spk" / PACKAGE
    source = recipe / "src"
    shutil.rmtree(source, ignore_errors=True)
    shutil.copytree(HERE / "src", source)
    for name in ("Makefile", "PLIST"):
        shutil.copy2(HERE / name, recipe / name)
    shutil.copyfile(ROOT / "ui" / "images" / f"{PACKAGE}_256.png", source / f"{PACKAGE}.png")
    with tempfile.TemporaryDirectory() as folder:
        wheel = wheels.own_wheel(Path(folder))
        shutil.copyfile(wheel, _made(source / "wheel") / wheel.name)
    for name, data in wizard.files().items():
        (_made(source / "wizard") / name).write_bytes(data)
    (_made(source / "conf") / "resource").write_text(_resource(), encoding="utf-8")
    for generation in GENERATIONS:
        _write_target(source / f"target-dsm{generation.number}", generation)
    return recipe


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _resource() -> str:
    """Return conf/resource, with the shared folder given to their user."""
    resource = json.loads((ROOT / "conf" / "resource").read_text(encoding="utf-8"))
    for share in resource["data-share"]["shares"]:
        share["permission"] = {"rw": [USER]}
    return json.dumps(resource, indent=4) + "\n"


def _write_target(target: Path, generation: Generation) -> None:
    """Write what our own package has in target/, but for Python."""
    modes = {name: mode for name, _, mode in members.TARGET}
    for name, file in members.sources(members.TARGET, generation, ROOT).items():
        copy = _made((target / name).parent) / Path(name).name
        shutil.copyfile(file, copy)
        copy.chmod(modes.get(name) or 0o644)
    _give_panel(target / "ui" / "index.cgi")


def _give_panel(program: Path) -> None:
    """Name their user in the panel's door, which becomes it where DSM 6 starts it as root.

    Raises
    ------
    ValueError
        If the line is not there.
    """
    text = program.read_text(encoding="utf-8")
    line = f'\nUSER = "{PACKAGE}"\n'
    if text.count(line) != 1:
        raise ValueError(f"{program}: the line that names the user has changed")
    program.write_text(text.replace(line, f'\nUSER = "{USER}"\n'), encoding="utf-8")


def main(arguments: list[str]) -> int:
    """Run the command line and return the exit code."""
    if len(arguments) != 1:
        print("usage: python -m spk.spksrc CHECKOUT-OF-SPKSRC", file=sys.stderr)
        return 2
    try:
        recipe = prepare(Path(arguments[0]))
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        print(f"spk.spksrc: {error}", file=sys.stderr)
        return 1
    print(f"{recipe}: now `make arch-x64-7.1` there, or any other architecture that its README names")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
