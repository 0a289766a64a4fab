"""What differs between DSM 6.1 and DSM 7.2, as far as a package meets it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Generation:
    """One version of DSM."""

    major: int
    minor: int
    build: int
    arch: str
    path: str
    """PATH of the package's scripts."""
    folders: dict[str, str]
    """Name of the link in /var/packages/X -> where it leads; %V is the volume, %P the package."""

    @property
    def at_least_7(self) -> bool:
        return self.major >= 7

    def __str__(self) -> str:
        return f"dsm{self.major}.{self.minor}"


DSM6 = Generation(
    6,
    1,
    15284,
    "apollolake",
    "/sbin:/bin:/usr/sbin:/usr/bin:/usr/syno/sbin:/usr/syno/bin:/usr/local/sbin:/usr/local/bin",
    {"target": "%V/@appstore/%P", "etc": "/usr/syno/etc/packages/%P"},
)
DSM7 = Generation(
    7,
    2,
    72806,
    "geminilake",
    "/usr/bin:/bin:/usr/sbin:/sbin",
    {
        "target": "%V/@appstore/%P",
        "etc": "%V/@appconf/%P",
        "var": "%V/@appdata/%P",
        "tmp": "%V/@apptemp/%P",
        "home": "%V/@apphome/%P",
    },
)
