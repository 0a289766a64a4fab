"""The sources of the bundled Python: pinned, checked, patched in order, and a failure is never passed over."""

from __future__ import annotations

import hashlib
import io
import re
import tarfile
from pathlib import Path

import pytest

from spk.cache import digest, folder
from spk.runtime import VERSION, sources

PATCH = """\
--- a/{name}
+++ b/{name}
@@ -1 +1 @@
-{old}
+{new}
"""


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def stored(name: str, content: dict[str, str]) -> sources.File:
    """Put a tar file into the cache, as if it had been fetched before."""
    path = folder("sources") / name
    with tarfile.open(path, "w:gz") as tar:
        for member, text in content.items():
            header = tarfile.TarInfo(member)
            header.size = len(text.encode())
            tar.addfile(header, io.BytesIO(text.encode()))
    return sources.File(digest(path), (f"https://archive.invalid/{name}",))


def source(patches: dict[str, str], series: str, left_out: frozenset[str] = frozenset()) -> sources.Source:
    return sources.Source(
        name="thing",
        version="1",
        licence="MIT",
        licence_files=(),
        archive=stored("thing.tar.gz", {"thing-1/file": "one\n"}),
        series=stored(
            "thing.debian.tar.gz",
            {"debian/patches/series": series} | {f"debian/patches/{name}": text for name, text in patches.items()},
        ),
        left_out=left_out,
    )


def test_the_table_pins_every_file_by_its_sum_and_fetches_it_over_https() -> None:
    table = sources.load()
    assert {one.name for one in table} == {"python", "openssl", "zlib", "bzip2", "xz", "libffi", "sqlite"}
    assert next(one.version for one in table if one.name == "python") == VERSION
    for file in [one.archive for one in table] + [one.series for one in table if one.series]:
        assert re.fullmatch("[0-9a-f]{64}", file.sha256)
        assert len(file.urls) >= 2
        assert all(url.startswith("https://") for url in file.urls)


def test_patches_are_applied_in_the_order_of_the_series(tmp_path: Path) -> None:
    patches = {
        "a.patch": PATCH.format(name="file", old="two", new="three"),
        "b.patch": PATCH.format(name="file", old="one", new="two"),
        "debian.patch": PATCH.format(name="file", old="two", new="Debian"),
    }
    series = "# first\nb.patch\ndebian.patch\n\na.patch -p1\n"
    source(patches, series, frozenset({"debian.patch"})).unpack(tmp_path / "src" / "thing")
    assert (tmp_path / "src" / "thing" / "file").read_text() == "three\n"


def test_a_patch_that_does_not_apply_is_an_error(tmp_path: Path) -> None:
    patches = {"a.patch": PATCH.format(name="file", old="other", new="two")}
    with pytest.raises(sources.SourceError, match=r"a\.patch failed"):
        source(patches, "a.patch\n").unpack(tmp_path / "src" / "thing")


def test_a_left_out_patch_that_the_series_does_not_have_is_an_error(tmp_path: Path) -> None:
    patches = {"a.patch": PATCH.format(name="file", old="one", new="two")}
    with pytest.raises(sources.SourceError, match=r"not in the series .*gone\.patch"):
        source(patches, "a.patch\n", frozenset({"gone.patch"})).unpack(tmp_path / "src" / "thing")


def test_a_file_that_lies_in_the_cache_with_another_sum_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    file = stored("thing.tar.gz", {"thing-1/file": "one\n"})
    asked = []

    def refuse(url: str, timeout: float) -> None:
        asked.append(url)
        raise OSError("no network here")

    monkeypatch.setattr("urllib.request.urlopen", refuse)
    (folder("sources") / "thing.tar.gz").write_bytes(b"something else")
    with pytest.raises(sources.SourceError, match="no network here"):
        file.fetch()
    assert asked == list(file.urls)


def test_the_next_address_is_asked_when_one_has_another_file(monkeypatch: pytest.MonkeyPatch) -> None:
    content = {"https://first.invalid/thing": b"superseded", "https://second.invalid/thing": b"the right one"}
    monkeypatch.setattr("urllib.request.urlopen", lambda url, timeout: io.BytesIO(content[url]))
    file = sources.File(hashlib.sha256(b"the right one").hexdigest(), tuple(content))
    assert file.fetch().read_bytes() == b"the right one"
