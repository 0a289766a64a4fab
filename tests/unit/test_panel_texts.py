"""The panel's words: both tables say the same, and everything that is said has words."""

import re
from importlib import resources

import pytest

from angiovault.archive.commitments import DELIVERED, GIVEN_UP, WAITING
from angiovault.config import SETTINGS
from angiovault.devices import CHARACTER_SETS, DEVICE_SETTINGS, Operation
from angiovault.dimse import endings
from angiovault.jobs.book import ACTIVE, AGAIN, DONE, KINDS
from angiovault.panel.pages import PAGES
from angiovault.panel.rules import rule_of
from angiovault.panel.settings_form import FIELDS
from angiovault.panel.texts import TABLES, language

ENDINGS = {value for name, value in vars(endings).items() if name.isupper()}
PANEL = resources.files("angiovault.panel")
_PLACEHOLDER = re.compile(r"\{(\w+)\}")
# A key in single or double quotes after t(, said(, Refused(…, or `key = …`.
_USED_IN_JS = re.compile(r"""\bt\(\s*"([a-z][a-z0-9.-]*)\"""")
_USED_IN_PYTHON = re.compile(r'"((?:refused|wrong|apply|echo|database)\.[a-z0-9.-]+)"')


def sources(suffix: str) -> dict[str, str]:
    folders = [PANEL, PANEL / "pages", PANEL / "static"]
    return {
        item.name: item.read_text(encoding="utf-8")
        for folder in folders
        for item in folder.iterdir()
        if item.name.endswith(suffix) and not item.name.startswith("texts")
    }


def test_both_languages_have_the_same_keys_and_placeholders() -> None:
    english, chinese = TABLES["en"], TABLES["zh"]
    assert list(english) == list(chinese)
    for key, text in english.items():
        assert sorted(set(_PLACEHOLDER.findall(text))) == sorted(set(_PLACEHOLDER.findall(chinese[key]))), key


def test_chinese_is_chinese() -> None:
    same = {"title", "other-language", "comma", "colon", "index.mariadb", "charset.ISO_IR 192"}
    for key, text in TABLES["zh"].items():
        if key not in same:
            assert re.search(r"[\u4e00-\u9fff]", text), key


def test_everything_that_is_said_has_words() -> None:
    used = {key for text in sources(".js").values() for key in _USED_IN_JS.findall(text)}
    used |= {key for text in sources(".py").values() for key in _USED_IN_PYTHON.findall(text)}
    used |= {f"page.{page.name}" for page in PAGES}
    used |= {f"setting.{name}" for name in FIELDS}
    used |= {f"device.{row.name}" for row in DEVICE_SETTINGS} | {f"help.device.{row.name}" for row in DEVICE_SETTINGS}
    used |= {f"operation.{operation}" for operation in Operation} | {f"charset.{name}" for name in CHARACTER_SETS}
    used |= {f"wrong.{rule_of(row.kind)['kind']}" for row in SETTINGS if row.name in FIELDS}
    used |= {f"wrong.{rule_of(row.kind)['kind']}" for row in DEVICE_SETTINGS}
    states = "well problems starting stopping stopped needs-set-up share-missing share-denied configuration port"
    used |= {f"state.{name}{end}" for name in [*states.split(), "failing", "unknown"] for end in ("", ".do")}
    used |= {f"job.kind.{kind}" for kind in KINDS} | {"job.kind.import-move"}
    used |= {f"job.state.{state}" for state in (*ACTIVE, *AGAIN, DONE)}
    counts = "stored duplicate conflict done-before skipped failed indexed sound damaged missing sent"
    used |= {f"job.count.{name}" for name in counts.split()}
    parts = ("button", "title", "text", "start")
    used |= {f"{kind}.{part}" for kind in ("import", "verify", "reindex") for part in parts}
    used |= {f"commitment.state.{state.replace(' ', '-')}" for state in (WAITING, DELIVERED, GIVEN_UP)}
    used |= {f"problem.{kind}" for kind in ("storage", "disk", "database", "commitment", "archive", "settings")}
    used |= {f"contact.{operation}" for operation in Operation} | {"contact.rejected"}
    used |= {f"ending.{word}" for word in ENDINGS - {endings.RELEASED}}
    assert used - set(TABLES["en"]) == set()


def test_every_field_has_help() -> None:
    for table in TABLES.values():
        assert not [name for name in FIELDS if f"help.{name}" not in table]
        assert not [row.name for row in DEVICE_SETTINGS if f"help.device.{row.name}" not in table]


def test_no_words_are_there_for_nothing() -> None:
    text = "".join(sources(".js").values()) + "".join(sources(".py").values())
    families = r"job|import|verify|reindex|commitment|state|problem|setting|help|operation|charset|unknown|level|"
    families += r"wrong|tally|device|page|index|help\.device|ending|contact"
    for key in TABLES["en"]:
        assert f'"{key}"' in text or re.match(rf"({families})\.", key), f"nobody says {key}"


@pytest.mark.parametrize(
    ("chosen", "nas", "accepted", "expected"),
    [
        ("chs", "enu", "en", "zh"),
        ("zh", "", "en", "zh"),
        ("enu", "chs", "zh", "en"),
        ("", "cht", "en", "zh"),
        ("", "def", "zh-CN,zh;q=0.9", "zh"),
        ("", "ger", "zh", "en"),
        ("", "", "de, zh", "en"),
        ("<x>", "", "", "en"),
    ],
)
def test_the_language_is_chosen_first_here_then_by_the_nas_then_by_the_browser(
    chosen: str, nas: str, accepted: str, expected: str
) -> None:
    assert language(chosen, nas, accepted) == expected


def test_no_script_puts_data_into_the_page_as_html() -> None:
    for name, text in sources(".js").items():
        for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", 'setTimeout("'):
            assert word not in text, name
