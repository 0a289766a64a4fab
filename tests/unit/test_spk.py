"""The builder of the Synology packages and its checks, on small packages made here; real ones are in tests/spk."""

import gzip
import io
import json
import sys
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from importlib.metadata import files as installed_files
from pathlib import Path

import pytest

import angiovault
from spk import cache, elf, info, licences, members, wheels, wizard
from spk.checks import layout, linkage, sizes
from spk.checks.opening import Member, Package, Refused, headers, open_package
from spk.product import GENERATIONS, PROCESSORS, ROOT, Generation, Processor, Release, package_version
from spk.tarballs import Entry, pack, read_folder

DSM6, DSM7 = GENERATIONS
INTEL, ARM = PROCESSORS
TEMPLATE = (ROOT / "INFO.template").read_text(encoding="utf-8")
COMPILED = b"\xf3\r\r\n\1\0\0\0" + bytes(8)
"""The head of a .pyc file that is never compared with its source."""
MODULE = {"lib/python3.13/os.py": b"\n", "lib/python3.13/__pycache__/os.cpython-313.pyc": COMPILED}

FIRST = Release(INTEL, DSM7, "0.1.0-0001")

Make = Callable[..., Path]


@pytest.fixture
def small_spk(tmp_path: Path) -> Make:
    """Make an .spk file of the real lists, with next to nothing for a Python; `outer` and `target` change members."""

    def make(
        release: Release = FIRST,
        outer: dict[str, bytes] | None = None,
        target: dict[str, bytes] | None = None,
    ) -> Path:
        made = {
            members.PYTHON: [Entry(name, data) for name, data in MODULE.items()],
            members.LICENCES: [Entry("angiovault/LICENSE", b"MIT")],
        }
        inside = changed(members.entries(members.TARGET, release.generation, ROOT, made), target or {})
        package_tgz = gzip.compress(pack(inside), mtime=0)
        made = {
            members.INFO: [Entry("", info.make(TEMPLATE, release, package_tgz))],
            members.PACKAGE_TGZ: [Entry("", package_tgz)],
            members.WIZARD: [Entry(name, data) for name, data in wizard.files().items()],
        }
        outside = changed(members.entries(members.SPK, release.generation, ROOT, made), outer or {})
        path = tmp_path / release.file_name
        path.write_bytes(pack(outside))
        return path

    return make


def changed(entries: list[Entry], changes: dict[str, bytes]) -> list[Entry]:
    kept = [replace(entry, data=changes.get(entry.name, entry.data)) for entry in entries]
    new = changes.keys() - {entry.name for entry in entries}
    return kept + [Entry(name, changes[name]) for name in sorted(new)]


def problems(package: Package) -> list[str]:
    checks = (layout.archives, layout.info, layout.members, layout.bytecode, sizes.check)
    return [problem for check in checks for problem in check(package)]


# ---- names and versions


def test_version_and_file_names() -> None:
    assert package_version(7) == f"{angiovault.__version__}-0007"
    assert package_version() >= package_version(1)
    assert Release(ARM, DSM6, "1.2.3-0004").file_name == "angiovault-1.2.3-0004-armv8-dsm6.spk"


@pytest.mark.parametrize("build", [2**31, -1])
def test_versions_that_package_center_cannot_compare_are_refused(build: int) -> None:
    with pytest.raises(ValueError, match="numbers only"):
        package_version(build)


# ---- INFO


@pytest.mark.parametrize("processor", PROCESSORS)
@pytest.mark.parametrize("generation", GENERATIONS)
def test_info_of_every_file(processor: Processor, generation: Generation) -> None:
    package_tgz = gzip.compress(bytes(5 << 20))
    values = info.parse(info.make(TEMPLATE, Release(processor, generation, "0.1.0-0001"), package_tgz).decode())
    assert values["version"] == "0.1.0-0001"
    assert values["extractsize"] == str(5 << 10)
    assert len(values["checksum"]) == 32
    assert processor.name in values["arch"].split()
    assert values["install_dep_packages"] == "MariaDB10>10.0.30-0005"
    assert values["silent_install"] == values["silent_upgrade"] == values["silent_uninstall"] == "yes"


def test_generations_exclude_each_other() -> None:
    def made(generation: Generation) -> dict[str, str]:
        return info.parse(info.make(TEMPLATE, Release(INTEL, generation, "0.1.0-0001"), gzip.compress(b"")).decode())

    assert (made(DSM6)["os_min_ver"], made(DSM6)["os_max_ver"]) == ("6.1-15047", "7.0-40000")
    assert (made(DSM7)["os_min_ver"], made(DSM7)["os_max_ver"]) == ("7.0-40000", "")
    assert {"x86_64", "apollolake", "kvmx64"} <= set(made(DSM6)["arch"].split())
    assert made(DSM7)["arch"] == "x86_64"


@pytest.mark.parametrize("line", ['maintainer="a" b"', "package=x", 'os="$(reboot)"', 'a="`reboot`"', 'version="2"'])
def test_info_that_a_shell_would_misread_is_refused(line: str) -> None:
    with pytest.raises(ValueError, match="cannot be read"):
        info.parse(f'version="1"\n{line}\n')


# ---- archives


def test_archives_hold_nothing_of_who_made_them_and_when() -> None:
    data = pack([Entry("a/b/c.py", b"x" * 700, 0o755), Entry("a/link", b"", 0o777, "b/c.py"), Entry("z", b"")])
    assert [*headers(data)] == [("a/", "5"), ("a/b/", "5"), ("a/b/c.py", "0"), ("a/link", "2"), ("z", "0")]
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        found = tar.getmembers()
    assert {(one.uid, one.gid, one.uname, one.gname) for one in found} == {(0, 0, "root", "root")}
    assert len({one.mtime for one in found}) == 1
    assert [one.mode for one in found] == [0o755, 0o755, 0o755, 0o777, 0o644]


@pytest.mark.parametrize("name", ["/etc/passwd", "../x", "a/../../x", "twice"])
def test_members_that_lead_elsewhere_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="cannot be a member"):
        pack([Entry("twice", b""), Entry(name, b"")])


def test_a_folder_is_read_sorted_with_its_links(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "run").write_bytes(b"#!")
    (tmp_path / "b" / "run").chmod(0o750)
    (tmp_path / "a").symlink_to("b/run")
    assert read_folder(tmp_path) == [Entry("a", b"", 0o777, "b/run"), Entry("b/run", b"#!", 0o755)]


# ---- the lists


@pytest.mark.parametrize("generation", GENERATIONS)
def test_everything_in_the_lists_is_in_the_repository(generation: Generation) -> None:
    for lines in (members.SPK, members.TARGET):
        for name, path in members.sources(lines, generation, ROOT).items():
            assert path.is_file(), name


def test_every_file_for_the_nas_is_in_the_lists() -> None:
    listed = {
        path
        for generation in GENERATIONS
        for lines in (members.SPK, members.TARGET)
        for path in members.sources(lines, generation, ROOT).values()
    }
    for folder in ("bin", "conf", "scripts", "ui"):
        there = {path for path in (ROOT / folder).rglob("*") if path.is_file() and path.suffix != ".pyc"}
        assert there <= listed, folder


def test_names_agree_between_info_and_desktop() -> None:
    config = json.loads((ROOT / "ui" / "config").read_text(encoding="utf-8"))
    assert f'dsmappname="{next(iter(config[".url"]))}"' in TEMPLATE


def test_the_log_is_rotated_where_each_generation_has_it() -> None:
    for generation, log in ((DSM6, "target/var/"), (DSM7, "var/")):
        text = (ROOT / f"conf/logrotate-dsm{generation.number}").read_text(encoding="utf-8")
        assert text.startswith(f"/var/packages/angiovault/{log}angiovault.log {{")
        assert "copytruncate" in text


# ---- wheels


def test_pins() -> None:
    digests = "a" * 64, "b" * 64
    text = (
        f"# comment\nPy_Thing==1.2 \\\n    --hash=sha256:{digests[0]} \\\n    --hash=sha256:{digests[1]}\n    # via x\n"
    )
    assert wheels.pins(text) == [wheels.Pin("py-thing", "1.2", frozenset(digests))]
    with pytest.raises(ValueError, match="not pinned"):
        wheels.pins("thing==1\n")


def test_every_requirement_of_the_product_is_pinned() -> None:
    names = {pin.name for pin in wheels.pins(wheels.REQUIREMENTS.read_text(encoding="utf-8"))}
    assert {"pydicom", "pynetdicom", "peewee", "pymysql", "python-gdcm"} <= names


def wheel(path: Path, content: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    return path


def test_tests_and_samples_are_left_out_of_wheels(tmp_path: Path) -> None:
    content = dict.fromkeys(["thing/__init__.py", "thing/tests/test_a.py", "pydicom/data/test_files/a.dcm"], b"")
    content |= {"thing-1.dist-info/METADATA": b"Name: thing\n", "thing-1.dist-info/RECORD": b""}
    wheels.unpack(wheel(tmp_path / "thing-1-py3-none-any.whl", content), tmp_path / "to")
    found = {path.relative_to(tmp_path / "to").as_posix() for path in (tmp_path / "to").rglob("*") if path.is_file()}
    assert found == {"thing/__init__.py", "thing-1.dist-info/METADATA"}


def test_wheels_cannot_write_elsewhere(tmp_path: Path) -> None:
    evil = wheel(tmp_path / "evil-1-py3-none-any.whl", {"../evil.py": b""})
    with pytest.raises(ValueError, match="does not lie"):
        wheels.unpack(evil, tmp_path / "to")
    assert not (tmp_path / "evil.py").exists()


def test_only_the_pinned_wheel_is_taken_from_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = wheel(tmp_path / "thing-1-py3-none-any.whl", {"thing.py": b"other"})
    assert wheels._matching(tmp_path, [wheels.Pin("thing", "1", frozenset({"a" * 64}))]) == {}
    digest = cache.digest(other)
    assert wheels._matching(tmp_path, [wheels.Pin("thing", "1", frozenset({digest}))]) == {"thing": other}


# ---- the cache


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The addresses that were asked for; each gives `thing`. The cache is an empty folder."""
    asked: list[str] = []

    def answer(url: str, timeout: float) -> io.BytesIO:
        assert timeout > 0
        asked.append(url)
        return io.BytesIO(b"thing")

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(cache.urllib.request, "urlopen", answer)
    return asked


def test_a_pinned_file_is_fetched_once_and_again_when_it_was_damaged(served: list[str]) -> None:
    url, pin = "https://example.org/a/thing.tar", sha256(b"thing").hexdigest()
    path = cache.fetch(url, pin)
    assert cache.fetch(url, pin) == path
    assert served == [url]
    path.write_bytes(b"damaged")
    assert cache.fetch(url, pin).read_bytes() == b"thing"
    assert served == [url, url]


def test_another_file_than_the_pinned_one_is_refused(served: list[str], tmp_path: Path) -> None:
    with pytest.raises(cache.FetchError, match="not the file that was pinned"):
        cache.fetch("https://example.org/thing.tar", sha256(b"other").hexdigest())
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    with pytest.raises(cache.FetchError, match="https"):
        cache.fetch("http://example.org/thing.tar", sha256(b"thing").hexdigest())
    assert len(served) == 1


# ---- licences


def licensed(folder: Path, **parts: str) -> Path:
    for name, text in parts.items():
        (folder / name).mkdir()
        (folder / name / "LICENSE").write_text(text, encoding="utf-8")
    return folder


GPL = "                    GNU GENERAL PUBLIC LICENSE\n                       Version 3, 29 June 2007\n"


@pytest.mark.parametrize(
    ("text", "refusal"),
    [
        (GPL, "GPL"),
        ("you can redistribute it under the terms of the GNU Lesser General\nPublic License", "GPL"),
        (" \n", "no licence"),
    ],
)
def test_what_may_not_be_shipped_is_refused(tmp_path: Path, text: str, refusal: str) -> None:
    with pytest.raises(licences.LicenceError, match=f"part .*{refusal}"):
        licences.refuse_gpl(licensed(tmp_path, good="MIT License", part=text))


def test_permissive_licences_and_gcc_s_exception_pass(tmp_path: Path) -> None:
    exception = f"{GPL}\nGCC RUNTIME LIBRARY EXCEPTION\nVersion 3.1"
    licences.refuse_gpl(
        licensed(tmp_path, mit="MIT License", python="unlike the GPL, a GPL-compatible one", gcc=exception)
    )


def test_a_wheel_without_a_licence_is_refused(tmp_path: Path) -> None:
    bare = wheel(tmp_path / "thing-1-py3-none-any.whl", {"thing-1.dist-info/METADATA": b"Name: thing\n"})
    with pytest.raises(licences.LicenceError, match="brings no licence"):
        licences._of_wheel(bare, tmp_path)
    gpl = wheel(tmp_path / "thing-2-py3-none-any.whl", {"thing-2.dist-info/METADATA": b"Name: thing\nLicense: GPLv3\n"})
    with pytest.raises(licences.LicenceError, match="GPL"):
        licences._of_wheel(gpl, tmp_path)


# ---- ELF files


def gdcm_library(name: str) -> bytes:
    """A shared object for glibc 2.17, out of the wheel that the product uses too."""
    listed = next(path for path in installed_files("python-gdcm") or () if path.name == name)
    return Path(str(listed.locate())).read_bytes()


def in_package(package: Package, **files: bytes) -> Package:
    header = tarfile.TarInfo()
    added = {f"python/lib/{name.replace('_so', '.so')}": Member(header, data) for name, data in files.items()}
    return replace(package, target=package.target | added)


def test_a_library_that_is_not_used_is_no_longer_needed() -> None:
    before = gdcm_library("libgdcmCommon.so.3.0")
    after = elf.without_needed(before, "libssl-")
    lost = set(elf.read(before).needed) - set(elf.read(after).needed)
    assert len(after) == len(before)
    assert len(lost) == 1
    assert lost.pop().startswith("libssl-")
    assert replace_needed(elf.read(after)) == replace_needed(elf.read(before))


def replace_needed(found: elf.Linkage) -> elf.Linkage:
    return replace(found, needed=[])


def test_a_library_that_is_used_stays() -> None:
    with pytest.raises(ValueError, match="uses symbols"):
        elf.without_needed(gdcm_library("libgdcmCommon.so.3.0"), "libcrypto-")
    with pytest.raises(ValueError, match="does not name"):
        elf.without_needed(gdcm_library("libgdcmCommon.so.3.0"), "libnothing")


def test_an_old_library_passes_and_one_of_this_machine_does_not(small_spk: Make) -> None:
    package = open_package(small_spk())
    fine = in_package(package, libgdcmjpeg8_so=gdcm_library("libgdcmjpeg8.so.3.0"))
    assert [problem for problem in linkage.check(fine) if "libgdcmjpeg8" in problem] == []
    here = Path(sys.executable).resolve().read_bytes()
    found = [problem for problem in linkage.check(in_package(package, here_so=here)) if "here.so" in problem]
    assert any("needs GLIBC_2." in problem for problem in found), found


def test_a_library_for_another_processor_is_found(small_spk: Make) -> None:
    package = open_package(small_spk(Release(ARM, DSM7, "0.1.0-0001")))
    wrong = in_package(package, libgdcmjpeg8_so=gdcm_library("libgdcmjpeg8.so.3.0"))
    assert any("made for EM_X86_64" in problem for problem in linkage.check(wrong))


def test_an_interpreter_that_replaces_functions_of_glibc_is_found(small_spk: Make) -> None:
    package = open_package(small_spk())
    wrong = in_package(package, **{"python3": b""})
    header = tarfile.TarInfo()
    wrong.target[linkage.INTERPRETER] = Member(header, gdcm_library("libgdcmjpeg8.so.3.0"))
    assert any("log2" in problem and "do not come from glibc" in problem for problem in linkage.check(wrong))


def linked(**values: object) -> elf.Linkage:
    return replace(elf.Linkage("EM_X86_64"), **values)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("file", "problem"),
    [
        (linked(needed=["libc.so.6", "libz.so.1", "libours.so"], search=["$ORIGIN/../libs"]), ""),
        (linked(needed=["libours.so"]), "does not find"),
        (linked(needed=["libours.so"], search=["$ORIGIN"]), "does not find"),
        (linked(needed=["libssl.so.1.1"], search=["$ORIGIN/../libs"]), "does not find"),
        (linked(search=["/usr/local/lib"]), "outside"),
        (linked(search=["$ORIGIN/../../../lib"]), "outside"),
        (linked(search=[""]), "outside"),
        (linked(versions=[("libc.so.6", "GLIBC_2.17"), ("libstdc++.so.6", "GLIBCXX_3.4.20")]), ""),
        (linked(versions=[("libc.so.6", "GLIBC_2.18")]), "GLIBC_2.17 at most"),
        (linked(versions=[("libc.so.6", "GLIBC_PRIVATE")]), "may not have"),
        (linked(versions=[("libc.so.6", "GLIBC_ABI_DT_RELR")]), "may not have"),
        (linked(versions=[("libstdc++.so.6", "GLIBCXX_3.4.21")]), "at most"),
        (linked(versions=[("libstdc++.so.6", "CXXABI_1.3.9")]), "at most"),
        (linked(versions=[("libours.so", "OURS_99")]), ""),
        (linked(executable_stack=True), "stack"),
        (linked(machine="EM_386"), "made for"),
    ],
)
def test_what_files_ask_of_the_nas(file: elf.Linkage, problem: str) -> None:
    files = {"python/lib/a.so": file, "python/libs/libours.so": linked()}
    found = [
        *linkage._machine(file, "x86_64"),
        *linkage._versions(file),
        *linkage._libraries("python/lib/a.so", file, files),
    ]
    assert [problem in one for one in found] == ([True] if problem else [])


# ---- the checks of the archives


@pytest.mark.parametrize("processor", PROCESSORS)
@pytest.mark.parametrize("generation", GENERATIONS)
def test_a_good_package_has_no_problems(small_spk: Make, processor: Processor, generation: Generation) -> None:
    package = open_package(small_spk(Release(processor, generation, package_version())))
    assert (package.processor, package.generation) == (processor, generation)
    assert problems(package) == []


def test_both_generations_have_one_payload(small_spk: Make) -> None:
    packages = [open_package(small_spk(Release(INTEL, generation, "0.1.0-0001"))) for generation in GENERATIONS]
    assert [*layout.same_payload(packages)] == []
    packages[1].target["bin/angiovault"] = Member(tarfile.TarInfo(), b"another")
    assert [*layout.same_payload(packages)] == ["x86_64: bin/angiovault differs"]


def test_a_compressed_file_is_refused(small_spk: Make) -> None:
    path = small_spk()
    path.write_bytes(gzip.compress(path.read_bytes()))
    with pytest.raises(Refused, match="compressed"):
        open_package(path)


def test_a_file_without_payload_is_refused(small_spk: Make, tmp_path: Path) -> None:
    path = tmp_path / "empty.spk"
    path.write_bytes(pack([Entry("INFO", b'package="x"\n')]))
    with pytest.raises(Refused, match=r"package\.tgz"):
        open_package(path)


@pytest.mark.parametrize(
    ("name", "data", "problem"),
    [
        ("INFO", None, "checksum"),
        ("PACKAGE_ICON.PNG", b"GIF89a", "PNG of 64"),
        ("conf/privilege", b'{"defaults": {"run-as": "root"}}', "as root"),
        ("conf/privilege", b"{", "not valid JSON"),
        (
            "conf/privilege",
            b'{"defaults": {"run-as": "package"}, "username": "angiovault", "groupname": "angiovault", "tool": []}',
            "319",
        ),
        (
            "conf/resource",
            b'{"data-share": {"shares": [{"name": "{{share}}", "permission": {"rw": ["angiovault"]}}]}}',
            "variable of the wizard",
        ),
        (
            "conf/resource",
            b'{"data-share": {"shares": [{"name": "a", "permission": {"rw": ["root"]}}]}}',
            "not given to",
        ),
        ("WIZARD_UIFILES/install_uifile", b'[{"items": []}]', "no valid list"),
        ("WIZARD_UIFILES/notes.txt", b"", "no name of a wizard"),
        ("._INFO", b"", "no name for a member"),
    ],
)
def test_what_package_center_would_refuse_is_found(
    small_spk: Make, name: str, data: bytes | None, problem: str
) -> None:
    if data is None:
        with tarfile.open(small_spk()) as good:
            file = good.extractfile("INFO")
            assert file
            data = file.read().replace(b'checksum="', b'checksum="0')
    found = problems(open_package(small_spk(outer={name: data})))
    assert any(problem in one for one in found), found


@pytest.mark.parametrize(
    ("name", "data", "problem"),
    [
        ("python/lib/python3.13/new.py", b"", "new.py is not compiled"),
        ("python/lib/python3.13/__pycache__/os.cpython-313.pyc", COMPILED[:4] + bytes(12), "compared with its source"),
        ("python/lib/python3.13/__pycache__/gone.cpython-313.pyc", COMPILED, "has no source"),
        ("ui/config", b'{".url": {"com.example": {}}}', "dsmappname"),
        ("ui/images/angiovault_16.png", b"", "PNG of 16"),
    ],
)
def test_what_is_wrong_in_the_payload_is_found(small_spk: Make, name: str, data: bytes, problem: str) -> None:
    found = problems(open_package(small_spk(target={name: data})))
    assert any(problem in one for one in found), found


def with_tar(path: Path, change: Callable[[tarfile.TarFile, tarfile.TarInfo], None]) -> Path:
    """Write an .spk file anew, its members' headers changed; PAX format allowed."""
    with tarfile.open(path) as tar:
        content = [(header, tar.extractfile(header)) for header in tar]
        content = [(header, io.BytesIO(file.read()) if file else None) for header, file in content]  # type: ignore[misc]
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for header, file in content:
            change(tar, header)
            tar.addfile(header, file)
    return path


@pytest.mark.parametrize(
    ("attributes", "problem"),
    [
        ({"pax_headers": {"comment": "made on a Mac"}}, "PaxHeader"),
        ({"mode": 0o4755}, "mode 4755"),
        ({"mode": 0o666}, "mode 666"),
        ({"uid": 1000}, "not root's"),
        ({"uname": "me"}, "not root's"),
    ],
)
def test_headers_that_do_not_belong_are_found(small_spk: Make, attributes: dict[str, object], problem: str) -> None:
    def change(_: tarfile.TarFile, header: tarfile.TarInfo) -> None:
        if header.name == "scripts/preinst":
            for name, value in attributes.items():
                setattr(header, name, value)

    found = problems(open_package(with_tar(small_spk(), change)))
    assert any(problem in one for one in found), found


def test_a_script_that_cannot_be_run_is_found(small_spk: Make) -> None:
    def change(_: tarfile.TarFile, header: tarfile.TarInfo) -> None:
        if header.name == "scripts/start-stop-status":
            header.mode = 0o644

    assert "scripts/start-stop-status has mode 644, not 755" in problems(open_package(with_tar(small_spk(), change)))


def test_a_link_that_leaves_the_package_is_found(small_spk: Make) -> None:
    package = open_package(small_spk())
    for name, link, leaves in (("ui/a", "../bin/angiovault", False), ("ui/b", "../../x", True), ("c", "/etc", True)):
        header = tarfile.TarInfo(name)
        header.type, header.linkname, header.uname, header.gname = tarfile.SYMTYPE, link, "root", "root"
        found = [*layout.archives(replace(package, target={name: Member(header, b"")}))]
        assert bool(found) == leaves, found


def test_a_file_that_is_too_large_is_found(small_spk: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    package = open_package(small_spk())
    monkeypatch.setattr(sizes, "PACKED", 1000)
    monkeypatch.setattr(sizes, "UNPACKED", 1000)
    assert [problem.split(" has ")[0] for problem in sizes.check(package)] == ["the file", "unpacked it"]
    assert sizes.component("python/lib/python3.13/site-packages/_gdcm/_gdcmswig.so") == "python-gdcm"
