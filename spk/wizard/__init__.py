"""The pages that Package Center shows before it installs or uninstalls: JSON of version 1, which DSM 6 and 7 read.

Each key becomes an environment variable of the scripts, which check every value again: a silent installation shows no
page. The checks here are JavaScript for the browsers of DSM 6's time.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from spk.wizard.texts import LANGUAGES

AE_TITLE: Final = "/^$|^(?=.*[^ ])[ -\\[\\]-~]{1,16}$/"
PORT: Final = "/^$|^(?:[1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])$/"

EXISTING_FIELDS: Final = ("wizard_db_name", "wizard_db_user", "wizard_db_password")

Texts = Mapping[str, str]
Item = dict[str, Any]


def files() -> dict[str, bytes]:
    """Make the files of WIZARD_UIFILES: name to content, for every language."""
    made = {}
    for ending, texts in LANGUAGES.items():
        made[f"install_uifile{ending}"] = _file(texts["install title"], _install_items(texts))
        made[f"uninstall_uifile{ending}"] = _file(texts["uninstall title"], _uninstall_items(texts))
    return made


def _file(title: str, items: list[Item]) -> bytes:
    page = {"step_title": title, "invalid_next_disabled_v2": True, "items": items}
    return (json.dumps([page], ensure_ascii=False, indent=2) + "\n").encode()


def _install_items(texts: Texts) -> list[Item]:
    return [
        {"desc": texts["install intro"]},
        _fields("textfield", _checked("wizard_ae_title", texts, "ae title", AE_TITLE)),
        _fields("textfield", _checked("wizard_port", texts, "port", PORT)),
        {"desc": texts["port note"]},
        _fields(
            "singleselect",
            _choice("wizard_db_create", texts["create"], ["wizard_db_root_password"], default=True),
            _choice("wizard_db_existing", texts["existing"], EXISTING_FIELDS),
            _choice("wizard_db_later", texts["later"], []),
            desc=texts["database"],
        ),
        _fields("password", _root_password(texts), desc=texts["root"]),
        _fields(
            "textfield",
            _needed("wizard_db_name", texts["database name"], texts),
            _needed("wizard_db_user", texts["user"], texts),
            desc=texts["account"],
        ),
        _fields("password", _needed("wizard_db_password", texts["password"], texts)),
    ]


def _uninstall_items(texts: Texts) -> list[Item]:
    return [
        {"desc": texts["uninstall intro"]},
        _fields(
            "multiselect",
            _choice("wizard_delete_settings", texts["delete settings"], []),
            _choice("wizard_drop_database", texts["drop database"], ["wizard_db_root_password"]),
        ),
        _fields("password", _root_password(texts), desc=texts["drop root"]),
    ]


def _fields(kind: str, *subitems: Item, desc: str = "") -> Item:
    return {"type": kind, **({"desc": desc} if desc else {}), "subitems": list(subitems)}


def _root_password(texts: Texts) -> Item:
    return {"key": "wizard_db_root_password", "desc": texts["root password"]}


def _checked(key: str, texts: Texts, name: str, expression: str) -> Item:
    """Make a text field that may be empty, and else must match a regular expression."""
    return {
        "key": key,
        "desc": texts[name],
        "emptyText": texts[f"{name} hint"],
        "validator": {"allowBlank": True, "regex": {"expr": expression, "errorText": texts[f"{name} wrong"]}},
    }


def _choice(key: str, desc: str, fields: Sequence[str], *, default: bool = False) -> Item:
    """Make a radio button or check box; `fields` can be filled in only while it is chosen."""
    item: Item = {"key": key, "desc": desc, "defaultValue": default}
    if fields:
        # Called with the new value, the box itself and the page. No field is disabled from the start: if a DSM did not
        # call this, nobody could fill it in.
        enable = f"""{{
    var keys = {json.dumps(list(fields))};
    for (var i = 0; i < keys.length; i++) {{
        var field = arguments[2].getComponent(keys[i]);
        if (field) {{ field.setDisabled(!arguments[0]); }}
    }}
    return true;
}}"""
        item["validator"] = {"fn": enable}
    return item


def _needed(key: str, desc: str, texts: Texts) -> Item:
    """Make a field that must be filled in when the existing database was chosen."""
    check = f"""{{
    var chosen = arguments[2].getComponent("wizard_db_existing");
    if (chosen && chosen.checked && arguments[0] === "") {{ return {json.dumps(texts["needed"])}; }}
    return true;
}}"""
    return {"key": key, "desc": desc, "validator": {"fn": check}}
