"""`python -m spk.runtime ARCH…` builds the bundled Python, where the cache lacks it, and prints the archive's path."""

from __future__ import annotations

import argparse
import sys

from spk.runtime import ARCHITECTURES, BuildError, archive


def main() -> int:
    """Build what the command line names.

    Returns
    -------
    int
        The exit code: 1 if something could not be built.
    """
    parser = argparse.ArgumentParser(prog="python -m spk.runtime", description=__doc__)
    parser.add_argument("architectures", nargs="+", choices=ARCHITECTURES, metavar="ARCH")
    try:
        for arch in parser.parse_args().architectures:
            print(archive(arch), flush=True)
    except BuildError as error:
        print(f"spk.runtime: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
