"""The wizard's pages: what Package Center may read, and their JavaScript, run by a browser on a model of its form."""

import html
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from harness.processes import program
from spk import wizard

ROOT = Path(__file__).parents[2]
FILES = wizard.files()
ENGLISH, CHINESE = wizard.LANGUAGES[""], wizard.LANGUAGES["_chs"]
INSTALL = ["install_uifile", "install_uifile_chs", "install_uifile_cht"]
UNINSTALL = ["uninstall_uifile", "uninstall_uifile_chs", "uninstall_uifile_cht"]
INSTALL_KEYS = {
    "wizard_ae_title",
    "wizard_port",
    "wizard_db_create",
    "wizard_db_existing",
    "wizard_db_later",
    "wizard_db_root_password",
    "wizard_db_name",
    "wizard_db_user",
    "wizard_db_password",
}
UNINSTALL_KEYS = {"wizard_delete_settings", "wizard_drop_database", "wizard_db_root_password"}
EXISTING = ["wizard_db_name", "wizard_db_user", "wizard_db_password"]

# A form as in Package Center: fields by key, validators called with (value, field, page), disabled fields not asked.
MODEL = """
function Page(file) {
    var page = this;
    page.fields = {};
    page.getComponent = function (key) { return page.fields[key]; };
    JSON.parse(file)[0].items.forEach(function (item) {
        (item.subitems || []).forEach(function (given) {
            var box = item.type === "singleselect" || item.type === "multiselect";
            var field = page.fields[given.key] = {
                group: item.type === "singleselect" ? item : null, box: box, validator: given.validator || {},
                checked: given.defaultValue === true, text: given.defaultValue || "", disabled: Boolean(given.disabled),
                setDisabled: function (off) { field.disabled = off; },
                getValue: function () { return box ? field.checked : field.text; }
            };
        });
    });
    page.set = function (key, value) {
        var field = page.fields[key];
        if (field.group) {
            for (var name in page.fields) {
                if (page.fields[name].group === field.group) { page.fields[name].checked = false; }
            }
        }
        if (field.box) { field.checked = value; } else { field.text = value; }
    };
    page.errors = function () {
        var found = {};
        for (var turn = 0; turn < 2; turn++) {  // the second time all boxes have been asked
            found = {};
            for (var key in page.fields) {
                var field = page.fields[key], validator = field.validator, answer = true;
                if (field.disabled) { continue; }
                if (validator.fn) { answer = new Function(validator.fn).call(field, field.getValue(), field, page); }
                if (answer === true && validator.regex && !eval(validator.regex.expr).test(field.text)) {
                    answer = validator.regex.errorText;
                }
                if (answer !== true) { found[key] = answer; }
            }
        }
        return found;
    };
    page.disabled = function () {
        return Object.keys(page.fields).filter(function (key) { return page.fields[key].disabled; });
    };
}
"""


@pytest.fixture
def play(tmp_path: Path) -> Any:
    """Play steps on a page: each is [key, value]; returns what is wrong and what is disabled after each."""

    def run(name: str, steps: list[tuple[str, object]]) -> list[dict[str, Any]]:
        document = tmp_path / "page.html"
        script = f"""{MODEL}
            var page = new Page({json.dumps(FILES[name].decode())}), steps = {json.dumps(steps)};
            var results = [{{errors: page.errors(), disabled: page.disabled()}}];
            steps.forEach(function (step) {{
                page.set(step[0], step[1]);
                results.push({{errors: page.errors(), disabled: page.disabled()}});
            }});
            document.getElementById("results").textContent = JSON.stringify(results);"""
        document.write_text(
            f'<!DOCTYPE html><meta charset="utf-8"><pre id="results"></pre><script>{script}</script>', encoding="utf-8"
        )
        browser = [program("chromium"), "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        done = subprocess.run(
            [*browser, f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", document.as_uri()],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        found = re.search(r'<pre id="results">(.*?)</pre>', done.stdout, re.DOTALL)
        assert found, done.stdout + done.stderr
        assert found[1], "the script has failed"
        results: list[dict[str, Any]] = json.loads(html.unescape(found[1]))
        return results

    return run


def keys(name: str) -> list[str]:
    return [
        field["key"] for page in json.loads(FILES[name]) for item in page["items"] for field in item.get("subitems", [])
    ]


def test_every_file_is_there_in_every_language() -> None:
    assert sorted(FILES) == sorted(INSTALL + UNINSTALL)
    assert FILES["install_uifile_chs"] == FILES["install_uifile_cht"] != FILES["install_uifile"]


def test_the_languages_have_the_same_sentences() -> None:
    assert list(ENGLISH) == list(CHINESE)
    assert all(texts.values() for texts in wizard.LANGUAGES.values())
    assert all(re.search(r"[一-鿿]", text) for name, text in CHINESE.items() if name != "install title")
    assert not any(re.search(r"[一-鿿]", text) for text in ENGLISH.values())


def test_every_sentence_is_used() -> None:
    shown = "".join(
        json.dumps(json.loads(FILES[name]), ensure_ascii=False) for name in ("install_uifile", "uninstall_uifile")
    )
    assert [name for name, text in ENGLISH.items() if text not in shown] == []


@pytest.mark.parametrize("name", sorted(FILES))
def test_the_structure_is_package_centers(name: str) -> None:
    (page,) = json.loads(FILES[name])
    assert page["step_title"]
    for item in page["items"]:
        assert item.keys() <= {"type", "desc", "subitems"}
        assert item.get("type") in {None, "textfield", "password", "singleselect", "multiselect"}
        assert ("type" in item) == ("subitems" in item)
        for field in item.get("subitems", []):
            assert field.keys() <= {"key", "desc", "defaultValue", "emptyText", "validator"}
            assert field.get("validator", {}).keys() <= {"allowBlank", "regex", "fn"}


@pytest.mark.parametrize(("names", "expected"), [(INSTALL, INSTALL_KEYS), (UNINSTALL, UNINSTALL_KEYS)])
def test_the_keys_are_those_of_the_scripts(names: list[str], expected: set[str]) -> None:
    for name in names:
        assert len(keys(name)) == len(expected)
        assert set(keys(name)) == expected


def test_no_answer_goes_into_the_resource_file() -> None:
    # DSM would fill it in there, passwords too, and an upgrade or silent installation would find it empty.
    assert "wizard" not in (ROOT / "conf" / "resource").read_text(encoding="utf-8")


def test_the_settings_and_the_database_are_kept_unless_asked_for() -> None:
    (page,) = json.loads(FILES["uninstall_uifile"])
    boxes = [item for item in page["items"] if item.get("type") == "multiselect"]
    assert [field["defaultValue"] for item in boxes for field in item["subitems"]] == [False, False]


@pytest.mark.parametrize("name", INSTALL)
def test_the_defaults_can_be_accepted(play: Any, name: str) -> None:
    (start,) = play(name, [])
    assert start == {"errors": {}, "disabled": EXISTING}


def test_the_fields_follow_the_choice(play: Any) -> None:
    _, existing, name, user, complete, later, create = play(
        "install_uifile_chs",
        [
            ("wizard_db_existing", True),
            ("wizard_db_name", "影像 '\"$x"),
            ("wizard_db_user", "me"),
            ("wizard_db_password", "#\\ '\""),
            ("wizard_db_later", True),
            ("wizard_db_create", True),
        ],
    )
    assert existing == {"errors": dict.fromkeys(EXISTING, CHINESE["needed"]), "disabled": ["wizard_db_root_password"]}
    assert list(name["errors"]) == EXISTING[1:]
    assert list(user["errors"]) == EXISTING[2:]
    assert complete["errors"] == {}
    assert later == {"errors": {}, "disabled": ["wizard_db_root_password", *EXISTING]}
    assert create == {"errors": {}, "disabled": EXISTING}


def test_dropping_the_database_enables_the_root_password(play: Any) -> None:
    start, settings, database, kept = play(
        "uninstall_uifile",
        [("wizard_delete_settings", True), ("wizard_drop_database", True), ("wizard_drop_database", False)],
    )
    for step, disabled in ((start, True), (settings, True), (database, False), (kept, True)):
        assert step == {"errors": {}, "disabled": ["wizard_db_root_password"] if disabled else []}


TITLES = {
    **dict.fromkeys(["", "A", "ANGIO VAULT", "16 CHARACTERS!!!", " !\"#$%&'()*+,-./", "09:;<=>?@[]^_`~"], True),
    **dict.fromkeys(["SEVENTEEN LETTERS", "BACK\\SLASH", "   ", "血管", "A\tB", "Ä", "A\x7f"], False),
}
PORTS = {
    **dict.fromkeys(["", "1", "104", "11112", "59999", "64999", "65499", "65529", "65535"], True),
    **dict.fromkeys(["0", "65536", "65540", "65600", "66000", "70000", "100000"], False),
    **dict.fromkeys(["011112", "11112 ", "1e3", "-1", "1.5", "१"], False),
}


@pytest.mark.parametrize(
    ("key", "values", "sentence"),
    [("wizard_ae_title", TITLES, "ae title wrong"), ("wizard_port", PORTS, "port wrong")],
)
def test_values_are_checked_as_the_scripts_do(play: Any, key: str, values: dict[str, bool], sentence: str) -> None:
    results = play("install_uifile", [(key, value) for value in values])[1:]
    for (value, good), result in zip(values.items(), results, strict=True):
        assert result["errors"] == ({} if good else {key: ENGLISH[sentence]}), value
