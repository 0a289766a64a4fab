"""The panel's words: one table a language, and which one a person reads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from angiovault.panel.texts_en import ENGLISH
from angiovault.panel.texts_zh import CHINESE

TABLES: Final[Mapping[str, Mapping[str, str]]] = {"en": ENGLISH, "zh": CHINESE}
HTML_LANG: Final[Mapping[str, str]] = {"en": "en", "zh": "zh-Hans"}


def language(chosen: str, nas: str, accepted: str) -> str:
    """Return `en` or `zh`.

    Parameters
    ----------
    chosen : str
        The language asked for, as we or DSM name it; '' when nobody chose.
    nas : str
        DSM's language; '' or `def` leaves it to the browser, as DSM does.
    accepted : str
        The browser's Accept-Language.
    """
    for name in (chosen, nas):
        if name and name != "def":
            return "zh" if name.startswith(("zh", "chs", "cht")) else "en"
    return "zh" if accepted.strip().lower().startswith("zh") else "en"


def say(lang: str, message: Mapping[str, Any]) -> str:
    """Return a sentence in a language."""
    if "key" in message:
        return TABLES[lang][message["key"]].format(**message["values"])
    return str(message[lang])
