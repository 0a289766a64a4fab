"""`python -m angiovault.dsm`: the command `angiovault` on a NAS.

Whatever root calls runs as the package's user: files that root left in the shared folder the service could not use.
"""

import sys

from angiovault.dsm import commands


def main() -> int:
    """Run the command line."""
    arguments = sys.argv[1:]
    return commands.main(arguments[1:]) if arguments[:1] == ["dsm"] else commands.general(arguments)


if __name__ == "__main__":
    sys.exit(main())
