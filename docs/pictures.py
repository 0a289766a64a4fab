"""Draw the wizard's page for the guides, from the very file that Package Center gets.

    .venv/bin/python docs/pictures.py

DSM itself is not at hand, so this shows which fields there are and what they say, not how DSM's theme draws them. Needs
Chromium and a font with Chinese characters (fonts-noto-cjk or fonts-wqy-microhei).
"""

import html
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from spk.wizard import files  # noqa: E402 - found through the line above

_STYLE = """
body { margin: 0; padding: 14px; background: #c9d3de; font: 14px/1.45 "Noto Sans", "Noto Sans CJK SC", sans-serif; }
main { background: #fff; border-radius: 6px; padding: 18px 26px 14px; color: #414b55; }
h1 { font-size: 19px; font-weight: 500; margin: 0 0 10px; color: #1f2a35; }
p { margin: 10px 0 6px; }
label { display: flex; align-items: center; gap: 10px; margin: 5px 0; }
label span { width: 150px; }
i { flex: 1; border: 1px solid #c6d4e0; border-radius: 3px; padding: 4px 9px; color: #8a97a3; min-height: 20px;
    font-style: normal; }
i.off { background: #f0f3f6; }
b.dot { width: 14px; height: 14px; border: 1px solid #8fa5b8; border-radius: 50%; box-sizing: border-box; }
b.dot.on { border: 4px solid #057feb; }
footer { display: flex; justify-content: flex-end; margin-top: 14px; }
footer span { background: #057feb; color: #fff; border-radius: 3px; padding: 6px 26px; }
"""
_PICTURES = {
    "wizard-en.png": ("install_uifile", "Next", 640),
    "wizard-zh.png": ("install_uifile_chs", "下一步", 630),
}


def page(step: dict[str, Any], button: str) -> str:
    """Return one step of a wizard as an HTML page."""
    fields = [sub for item in step["items"] for sub in item.get("subitems", ())]
    chosen = {field["key"] for field in fields if field.get("defaultValue") is True}
    parts = [f"<h1>{html.escape(step['step_title'])}</h1>"]
    for item in step["items"]:
        if "desc" in item:
            parts.append(f"<p>{item['desc']}</p>")  # the wizard's own texts, which may hold <b>
        for sub in item.get("subitems", ()):
            text = html.escape(sub["desc"])
            if item["type"] == "singleselect":
                parts.append(f'<label><b class="dot{" on" if sub["key"] in chosen else ""}"></b>{text}</label>')
            else:
                used = not sub["key"].startswith("wizard_db_") or sub["key"] == "wizard_db_root_password"
                hint = html.escape(sub.get("emptyText", ""))
                parts.append(f'<label><span>{text}</span><i class="{"" if used else "off"}">{hint}</i></label>')
    body = "".join(parts)
    return f'<meta charset="utf-8"><style>{_STYLE}</style><main>{body}<footer><span>{button}</span></footer></main>'


def main() -> None:
    """Write the pictures into docs/images."""
    wizard = files()
    for name, (file, button, height) in _PICTURES.items():
        (step,) = json.loads(wizard[file])
        with tempfile.TemporaryDirectory() as folder:
            drawn = Path(folder) / "page.html"
            drawn.write_text(page(step, button), encoding="utf-8")
            command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
            command += [f"--window-size=720,{height}", f"--user-data-dir={folder}/profile"]
            command += [f"--screenshot={ROOT / 'docs' / 'images' / name}", drawn.as_uri()]
            subprocess.run(command, check=True, capture_output=True, timeout=60)  # noqa: S603 - our own words


if __name__ == "__main__":
    main()
