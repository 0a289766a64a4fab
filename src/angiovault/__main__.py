"""`python -m angiovault`: the command `angiovault`."""

import sys


def main() -> int:
    """Run the command line; what is Synology's starts without the weight of the archive."""
    if sys.argv[1:2] == ["dsm"]:
        from angiovault.dsm.commands import main as dsm

        return dsm(sys.argv[2:])
    from angiovault.cli import main as cli

    return cli()


if __name__ == "__main__":
    sys.exit(main())
