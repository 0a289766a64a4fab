"""The sentences for the administrator: both languages say the same, with the same values."""

import re
from pathlib import Path
from string import Formatter

import pytest

from angiovault.dsm.texts import CHINESE, ENGLISH, TEXTS, Problem, Text, language_of

SOURCES = Path(__file__).parents[2] / "src" / "angiovault"


def _values(text: str) -> set[str]:
    return {name for _, name, _, _ in Formatter().parse(text) if name is not None}


@pytest.mark.parametrize("key", TEXTS)
def test_both_languages_have_the_same_values(key: str) -> None:
    english, chinese = TEXTS[key]
    assert english.strip() == english
    assert _values(english) == _values(chinese)
    assert english.isascii() or "“" in english
    assert re.search("[\u4e00-\u9fff]", chinese)


def test_every_text_is_used_and_every_used_one_is_there() -> None:
    source = "".join(path.read_text() for path in (SOURCES / "dsm").glob("*.py") if path.name != "texts.py")
    used = set(re.findall(r'(?:Text|Problem)\(\s*"([a-z_]+)"', source))
    made_up = {
        f"notify_{kind}_{part}" for kind in ("disk", "storage", "database", "commitment") for part in ("title", "text")
    }
    used |= made_up | {"stopped"}
    assert used == set(TEXTS)


def test_a_text_may_hold_another_one_and_braces() -> None:
    text = Text("database_not_dropped", database="x{y}", reason=Text("password_missing"))
    assert text.in_language(ENGLISH) == "The database x{y} was not removed: No password was given."
    assert text.in_language(CHINESE).endswith("没有输入密码。")
    assert str(Problem("password_missing")) == "No password was given."
    assert Text("running") == Text("running")
    assert Text("share_locked", folder=1) != Text("share_locked", folder=2)


def test_languages() -> None:
    assert [language_of(name) for name in ("chs", "cht", "enu", "ger", "")] == [CHINESE, CHINESE, 0, 0, ENGLISH]


def test_who_may_not_write_is_told_where_to_change_that() -> None:
    english, chinese = TEXTS["share_denied"]
    assert "grant the internal user angiovault read/write" in english
    for words in ("Control Panel", "Shared Folder", "Edit", "Permissions", "System internal user"):
        assert words in english
    for words in ("控制面板", "共享文件夹", "编辑", "权限", "系统内部用户", "angiovault"):
        assert words in chinese
