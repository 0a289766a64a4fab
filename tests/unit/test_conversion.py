"""Conversion on the way out: the decoded pixels against independent decoders, all else element by element."""

import fcntl
import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import termios
import threading
import zlib
from array import array
from collections.abc import Callable, Iterator
from io import BytesIO
from itertools import product
from pathlib import Path

import pydicom.data
import pytest
from pydicom import Dataset, dcmread
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import read_dataset
from pydicom.filewriter import write_dataset

from angiovault.archive.conversion import converter as conversion
from angiovault.archive.conversion import worker as codec_worker
from angiovault.archive.conversion.converter import TARGETS, ConversionError, Converter, convertible
from harness import part10
from harness.processes import program
from harness.waiting import wait_until

IMPLICIT, EXPLICIT, BIG = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2"
DEFLATED, RAW_FRAMES = "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.1.98"
DEFLATED_FRAMES, RLE = "1.2.840.10008.1.2.8.1", "1.2.840.10008.1.2.5"
JPEG_BASELINE, JPEG_LOSSLESS = "1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.70"
UNDEFINED = 0xFFFFFFFF
ITEM, ITEM_END, SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
LONG_FORM = ("OB", "OD", "OF", "OL", "OV", "OW", "SQ", "UC", "UN", "UR", "UT")
BUNDLED = Path(pydicom.data.__file__).parent / "test_files"
SAMPLES = Path(os.environ.get("ANGIOVAULT_SAMPLES", "/nonexistent"))
ENCAPSULATED_FILES = [
    "693_J2KI.dcm",
    "GDCMJ2K_TextGBR.dcm",
    "JPEG-lossy.dcm",
    "JPEG2000.dcm",
    "JPEGLSNearLossless_08.dcm",
    "JPEGLSNearLossless_16.dcm",
    "MR_small_RLE.dcm",
    "MR_small_jp2klossless.dcm",
    "MR_small_jpeg_ls_lossless.dcm",
    "SC_jpeg_no_color_transform_2.dcm",
    "SC_rgb_dcmtk_+eb+cr.dcm",
    "SC_rgb_dcmtk_+eb+cy+np.dcm",
    "SC_rgb_dcmtk_+eb+cy+s4.dcm",
    "SC_rgb_gdcm_KY.dcm",
    "SC_rgb_jls_lossy_line.dcm",
    "SC_rgb_jls_lossy_sample.dcm",
    "SC_rgb_jpeg_gdcm.dcm",
    "SC_rgb_rle.dcm",
    "SC_rgb_rle_16bit_2frame.dcm",
    "SC_rgb_rle_32bit_2frame.dcm",
    "SC_rgb_small_odd_jpeg.dcm",
    "examples_jpeg2k.dcm",
    "examples_ybr_color.dcm",
    "rtdose_rle.dcm",
]
NATIVE_FILES = [
    "CT_small.dcm",
    "ExplVR_BigEnd.dcm",
    "MR_small_bigendian.dcm",
    "MR_small_implicit.dcm",
    "SC_rgb_small_odd_big_endian.dcm",
    "SC_ybr_full_422_uncompressed.dcm",
    "UN_sequence.dcm",
    "examples_overlay.dcm",
    "examples_palette.dcm",
    "image_dfl.dcm",
    "liver_expb_1frame.dcm",
    "nested_priv_SQ.dcm",
    "reportsi.dcm",
    "rtdose_expb.dcm",
    "rtplan.dcm",
    "test-SR.dcm",
    "waveform_ecg.dcm",
]
REAL_FILES = [
    "xa1_J2KR.dcm",
    "xa1_JLSL.dcm",
    "xa1_JPLL.dcm",
    "xa1_RLE.dcm",
    "xa_multiframe_mask_jpegbaseline.dcm",
]
needs_samples = pytest.mark.skipif(not SAMPLES.is_dir(), reason="ANGIOVAULT_SAMPLES names no folder")
needs_tools = pytest.mark.skipif(
    not all(map(shutil.which, ("dcmdjpeg", "gdcmconv"))), reason="DCMTK or the GDCM tools are not installed"
)
Convert = Callable[[Path, str], bytes]
Tree = dict[int, object]


@pytest.fixture
def converter(tmp_path: Path) -> Iterator[Converter]:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    with Converter(scratch) as made:
        yield made
        assert not list(scratch.iterdir()), "a temporary file was left behind"


@pytest.fixture
def convert(converter: Converter) -> Convert:
    """Convert a file and return its data set."""

    def run(path: Path, target: str = EXPLICIT) -> bytes:
        with converter.convert(path, target) as converted:
            data = converted.file.read()
            assert (converted.offset, converted.length) == (0, len(data))
            return data

    return run


def parse(data: bytes, target: str = EXPLICIT) -> Dataset:
    return read_dataset(DicomBytesIO(data), target == IMPLICIT, is_little_endian=True)


def tree(data: bytes, syntax: str = EXPLICIT, left_out: frozenset[int] = frozenset()) -> Tree:
    """Return tag -> value bytes, padded, of a little endian data set, without group lengths; of sequences the items.

    A sequence that goes as UN, or has no VR and is not in the dictionary, is known by its first item.
    """
    found, end = subtree(data, 0, len(data), syntax != IMPLICIT, left_out)
    assert end == len(data)
    return found


def subtree(data: bytes, at: int, end: int, explicit: bool, left_out: frozenset[int]) -> tuple[Tree, int]:
    """Return the elements up to `end` or an item delimiter, and where they end."""
    found: Tree = {}
    while at < end:
        group, number, length = struct.unpack_from("<HHL", data, at)
        tag, vr, at, implicit = group << 16 | number, "", at + 8, not explicit
        if tag == ITEM_END:
            break
        if explicit:
            vr = data[at - 4 : at - 2].decode()
            length, at = (struct.unpack_from("<L", data, at)[0], at + 4) if vr in LONG_FORM else (length >> 16, at)
        if vr in ("", "UN") and (length == UNDEFINED or data[at : at + 4] == b"\xfe\xff\x00\xe0"):
            implicit, vr = True, "SQ"
        if vr == "SQ" or length == UNDEFINED:
            stop = end if length == UNDEFINED else at + length
            value: object = []
            while at < stop:
                _, item, size = struct.unpack_from("<HHL", data, at)
                at += 8
                if item == SEQUENCE_END & 0xFFFF:
                    break
                if tag == 0x7FE00010:
                    at += size
                    continue
                until = stop if size == UNDEFINED else at + size
                below, at = subtree(data, at, until, not implicit, left_out)
                value += [below]  # type: ignore[operator]
        else:
            value, at = data[at : at + length] + bytes(length % 2), at + length
        if number and tag not in left_out:
            found[tag] = value or b""
    return found, at


def stored_tree(path: Path, left_out: frozenset[int] = frozenset()) -> Tree:
    stored = part10.read(path)
    return tree(stored.data_set(), stored.transfer_syntax, left_out)


def run(*command: str | Path) -> None:
    result = subprocess.run([program(str(command[0])), *command[1:]], capture_output=True, text=True)
    assert result.returncode == 0, f"{command}: {result.stderr}"


def element(tag: int, vr: str, value: bytes, length: int | None = None) -> bytes:
    """Return one Explicit VR Little Endian element; `length` is what it claims if not the truth."""
    length = len(value) if length is None else length
    start = struct.pack("<HH", tag >> 16, tag & 0xFFFF)
    if not vr:
        return start + struct.pack("<L", length) + value
    if vr in LONG_FORM:
        return start + vr.encode() + b"\0\0" + struct.pack("<L", length) + value
    return start + vr.encode() + struct.pack("<H", length) + value


CLOSE_ITEM, CLOSE_SEQUENCE = element(ITEM_END, "", b""), element(SEQUENCE_END, "", b"")


def store(path: Path, data: bytes, syntax: str) -> Path:
    """Write a Part 10 file around the bytes of a data set."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = syntax
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = "1.2.840.10008.5.1.4.1.1.7", "1.2.3"
    with path.open("wb") as file:
        file.write(bytes(128) + b"DICM")
        pydicom.filewriter.write_file_meta_info(file, meta)
        file.write(data)
    return path


def image(
    rows: int = 40,
    columns: int = 50,
    stored: int = 12,
    allocated: int = 16,
    signed: bool = False,
    samples: int = 1,
    frames: int = 1,
    planar: int = 0,
) -> Dataset:
    """Return an image of noisy ramps, native, which uses all of its bits."""
    noise = random.Random(stored * frames)
    low, high = (-(1 << stored - 1), (1 << stored - 1) - 1) if signed else (0, (1 << stored) - 1)
    values = (
        min(max(low + index * 7 % (high - low) + noise.randint(-3, 3), low), high)
        for index in range(rows * columns * samples * frames)
    )
    pixels = b"".join(value.to_bytes(allocated // 8, "little", signed=signed) for value in values)
    data_set = Dataset()
    data_set.SOPClassUID, data_set.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.12.1", "1.2.3"
    data_set.StudyInstanceUID, data_set.SeriesInstanceUID, data_set.Modality = "1.2", "1.2.4", "XA"
    data_set.PatientName, data_set.PatientID = "Test", "1"
    data_set.Rows, data_set.Columns, data_set.SamplesPerPixel = rows, columns, samples
    data_set.BitsAllocated, data_set.BitsStored, data_set.HighBit = allocated, stored, stored - 1
    data_set.PixelRepresentation = int(signed)
    data_set.PhotometricInterpretation = "RGB" if samples == 3 else "MONOCHROME2"
    if samples == 3:
        data_set.PlanarConfiguration = planar
    if frames > 1:
        data_set.NumberOfFrames = frames
    data_set.PixelData = pixels + bytes(len(pixels) % 2)
    data_set["PixelData"].VR = "OW" if allocated > 8 else "OB"
    return data_set


def encode(data_set: Dataset, implicit: bool = False, little: bool = True) -> bytes:
    out = DicomBytesIO()
    out.is_implicit_VR, out.is_little_endian = implicit, little
    write_dataset(out, data_set)
    return out.getvalue()


def encapsulated(path: Path, data_set: Dataset, frames: list[bytes], syntax: str) -> Path:
    """Write a data set with these encoded frames as its pixel data, each in one fragment."""
    fragments = b"".join(element(ITEM, "", frame + bytes(len(frame) % 2)) for frame in [b"", *frames])
    data_set.PixelData = fragments  # pydicom adds the delimiter
    data_set["PixelData"].VR = "OB"
    data_set["PixelData"].is_undefined_length = True
    return store(path, encode(data_set), syntax)


def first_frame(name: str) -> bytes:
    return next(generate_frames(dcmread(BUNDLED / name).PixelData, number_of_frames=1))


# What can be converted


def test_convertible_tells_what_has_a_decoder() -> None:
    for syntax in (IMPLICIT, EXPLICIT, BIG, DEFLATED, RAW_FRAMES, DEFLATED_FRAMES, RLE):
        assert convertible(syntax)
    for number in (50, 51, 57, 70, 80, 81, 90, 91, 92, 93):
        assert convertible(f"1.2.840.10008.1.2.4.{number}")
    for number in (94, 95, *range(100, 109), 110, 111, 112, 201, 202, 203):
        assert not convertible(f"1.2.840.10008.1.2.4.{number}")
    assert not convertible("1.3.6.1.4.1.5962.300.1")


def test_the_server_loads_no_decoder() -> None:
    code = (
        "import sys, angiovault.archive.conversion.converter\n"
        "sys.exit(bool({'gdcm', 'pydicom.pixels', 'pydicom', 'numpy'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_what_has_no_decoder_is_refused_by_name(tmp_path: Path, converter: Converter) -> None:
    video = encapsulated(tmp_path / "video.dcm", image(), [b"video"], "1.2.840.10008.1.2.4.102")
    with pytest.raises(ConversionError, match=r"no decoder .* MPEG-4"):
        converter.convert(video, EXPLICIT)
    with pytest.raises(ConversionError, match="only to Explicit and Implicit"):
        converter.convert(video, BIG)


# Pixels


def reference_pixels(path: Path, tmp_path: Path) -> list[bytes]:
    """Return the pixel data as the tools decode it that know the syntax: DCMTK's and GDCM's."""
    syntax = str(dcmread(path, stop_before_pixels=True).file_meta.TransferSyntaxUID)
    commands: list[tuple[str, ...]] = []
    if "rgb_rle" not in path.name:  # GDCM turns colours into pixel after pixel; here Planar Configuration stays
        commands.append(("gdcmconv", "--raw"))
    if syntax.startswith("1.2.840.10008.1.2.4.8"):
        commands.append(("dcmdjpls",))
    elif syntax == RLE:
        commands.append(("dcmdrle",))
    elif not syntax.startswith("1.2.840.10008.1.2.4.9"):
        commands.append(("dcmdjpeg", "+cn", "+px"))
    found = []
    for command in commands:
        out = tmp_path / f"{command[0]}.dcm"
        run(*command, path, out)
        found.append(bytes(dcmread(out).PixelData))
    return found


def check_decoding(path: Path, convert: Convert, references: list[bytes]) -> Dataset:
    """Check that the pixels are the references', that all else is the source's; return the converted data set."""
    allocated = dcmread(path).BitsAllocated
    changed = frozenset({0x7FE00010, 0x7FE00001, 0x7FE00002, 0x00280004, 0x00280006})
    for target in sorted(TARGETS):
        data = convert(path, target)
        assert tree(data, target, changed) == stored_tree(path, changed)
        result = parse(data, target)
        assert all(bytes(result.PixelData) == reference for reference in references)
        if target == EXPLICIT:
            assert (allocated <= 8) == (result["PixelData"].VR == "OB")
    return parse(convert(path, EXPLICIT))


@needs_tools
@pytest.mark.parametrize("name", ENCAPSULATED_FILES)
def test_pixels_are_those_of_independent_decoders(name: str, tmp_path: Path, convert: Convert) -> None:
    path = BUNDLED / name
    references = reference_pixels(path, tmp_path)
    result = check_decoding(path, convert, references)
    before = dcmread(path)
    if before.SamplesPerPixel == 3:
        assert result.PlanarConfiguration == before.PlanarConfiguration
        names = {"YBR_FULL_422": "YBR_FULL", "YBR_RCT": "RGB", "YBR_ICT": "RGB"}
        stated = before.PhotometricInterpretation
        assert result.PhotometricInterpretation == names.get(stated, stated)


@needs_tools
@needs_samples
@pytest.mark.parametrize("name", REAL_FILES)
def test_pixels_of_real_angiograms(name: str, tmp_path: Path, convert: Convert) -> None:
    check_decoding(SAMPLES / name, convert, reference_pixels(SAMPLES / name, tmp_path))


@needs_samples
def test_the_same_angiogram_comes_out_of_every_lossless_syntax(convert: Convert) -> None:
    assert len({bytes(parse(convert(SAMPLES / name)).PixelData) for name in REAL_FILES[:4]}) == 1


SHAPES = [
    {"stored": 12, "signed": True},
    {"stored": 16, "signed": True, "frames": 3},
    {"stored": 10},
    {"stored": 8},
    {"stored": 7, "signed": True},
    {"stored": 8, "allocated": 8, "signed": True},
    {"stored": 6, "allocated": 8},
    {"stored": 8, "allocated": 8, "frames": 5, "rows": 37, "columns": 41},
    {"stored": 8, "allocated": 8, "samples": 3, "frames": 2},
]
ENCODERS = [
    ("dcmcrle",),
    ("dcmcjpeg", "+e1"),
    ("dcmcjpeg", "+el"),
    ("dcmcjpls",),
    ("gdcmconv", "--j2k"),
]


@needs_tools
@pytest.mark.parametrize("encoder", ENCODERS, ids=" ".join)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_lossless_there_and_back(
    shape: dict[str, int], encoder: tuple[str, ...], tmp_path: Path, convert: Convert
) -> None:
    original = image(**shape)  # type: ignore[arg-type]
    run(*encoder, store(tmp_path / "native.dcm", encode(original), EXPLICIT), tmp_path / "coded.dcm")
    result = parse(convert(tmp_path / "coded.dcm", EXPLICIT))
    assert bytes(result.PixelData) == original.PixelData
    for keyword in ("PhotometricInterpretation", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation"):
        assert result[keyword].value == original[keyword].value


@needs_tools
@pytest.mark.parametrize(("process", "colours"), [*product(("+eb", "+ee", "+es", "+ep"), ("+cr", "+cy"))])
def test_lossy_jpeg_is_decoded_and_nothing_more(process: str, colours: str, tmp_path: Path, convert: Convert) -> None:
    native = store(tmp_path / "native.dcm", encode(image(64, 70, 8, 8, samples=3)), EXPLICIT)
    run("dcmcjpeg", process, colours, native, tmp_path / "coded.dcm")
    result = check_decoding(tmp_path / "coded.dcm", convert, reference_pixels(tmp_path / "coded.dcm", tmp_path))
    assert result.PhotometricInterpretation == ("RGB" if colours == "+cr" else "YBR_FULL")
    assert result.LossyImageCompression == "01"


@needs_tools
@pytest.mark.parametrize("process", ["+ee", "+es", "+ep"])
def test_jpeg_of_12_bits(process: str, tmp_path: Path, convert: Convert) -> None:
    native = store(tmp_path / "native.dcm", encode(image(64, 70, 12)), EXPLICIT)
    run("dcmcjpeg", process, native, tmp_path / "coded.dcm")
    references = reference_pixels(tmp_path / "coded.dcm", tmp_path)
    assert len(references) == 2
    check_decoding(tmp_path / "coded.dcm", convert, references)


def test_colours_that_the_code_stream_names_itself(tmp_path: Path, convert: Convert) -> None:
    jfif = dcmread(BUNDLED / "SC_rgb_dcmtk_+eb+cy+s4.dcm")
    jfif.PhotometricInterpretation = "RGB"
    rgb = dcmread(BUNDLED / "SC_rgb_dcmtk_+eb+cr.dcm")
    rgb.PhotometricInterpretation = "YBR_FULL_422"
    for data_set, truth in ((jfif, "YBR_FULL"), (rgb, "RGB")):
        path = encapsulated(tmp_path / "x.dcm", data_set, [next(generate_frames(data_set.PixelData))], JPEG_BASELINE)
        assert parse(convert(path)).PhotometricInterpretation == truth


@pytest.mark.parametrize("name", ["SC_rgb_dcmtk_+eb+cr.dcm", "SC_rgb_rle.dcm"])
def test_planar_configuration_is_kept_and_made_true(name: str, tmp_path: Path, convert: Convert) -> None:
    data_set = dcmread(BUNDLED / name)
    syntax, frame = str(data_set.file_meta.TransferSyntaxUID), next(generate_frames(data_set.PixelData))
    results: dict[int | None, bytes] = {}
    for planar in (0, 1, None):
        if planar is None:
            del data_set.PlanarConfiguration
        else:
            data_set.PlanarConfiguration = planar
        result = parse(convert(encapsulated(tmp_path / "x.dcm", data_set, [frame], syntax)))
        assert result.PlanarConfiguration == (planar or 0)
        results[planar] = bytes(result.PixelData)
    assert results[None] == results[0] != results[1]
    assert b"".join(results[0][colour::3] for colour in range(3)) == results[1]


def test_jpeg_2000_whose_sign_is_not_that_of_the_attributes(tmp_path: Path, convert: Convert) -> None:
    path = BUNDLED / "J2K_pixelrep_mismatch.dcm"
    pixels = array("h", parse(convert(path)).PixelData)
    assert (min(pixels), max(pixels)) == (-2000, 1896)
    unsigned = dcmread(path)
    unsigned.PixelRepresentation = 0
    frame = next(generate_frames(unsigned.PixelData))
    unsigned_path = encapsulated(tmp_path / "u.dcm", unsigned, [frame], str(unsigned.file_meta.TransferSyntaxUID))
    masked = array("H", parse(convert(unsigned_path)).PixelData)
    assert list(masked) == [value & 0x1FFF for value in pixels]


def test_encapsulated_uncompressed(tmp_path: Path, convert: Convert) -> None:
    data_set = image(3, 3, 8, 8, frames=4)
    native = bytes(data_set.PixelData)
    frames = [native[start : start + 9] for start in range(0, 36, 9)]
    result = parse(convert(encapsulated(tmp_path / "x.dcm", data_set, frames, RAW_FRAMES)))
    assert bytes(result.PixelData) == native


def test_extended_offset_tables_go_with_the_fragments(tmp_path: Path, convert: Convert) -> None:
    data_set = image(4, 4, frames=2)
    native = bytes(data_set.PixelData)
    data_set.ExtendedOffsetTable, data_set.ExtendedOffsetTableLengths = bytes(16), bytes(16)
    result = parse(convert(encapsulated(tmp_path / "x.dcm", data_set, [native[:32], native[32:]], RAW_FRAMES)))
    assert bytes(result.PixelData) == native
    assert "ExtendedOffsetTable" not in result
    assert "ExtendedOffsetTableLengths" not in result


@pytest.mark.parametrize("columns", [8, 5])
@pytest.mark.parametrize("syntax", [RAW_FRAMES, DEFLATED_FRAMES])
def test_single_bits_are_packed_across_frames(columns: int, syntax: str, tmp_path: Path, convert: Convert) -> None:
    data_set, size = image(3, columns, 8, 8, frames=7), 3 * columns
    data_set.BitsAllocated = data_set.BitsStored = 1
    data_set.HighBit = 0
    coin = random.Random(1)
    bits = [coin.randint(0, 1) for _ in range(7 * size)]

    def packed(some: list[int]) -> bytes:
        value = sum(bit << place for place, bit in enumerate(some))
        return value.to_bytes((len(some) + 7) // 8, "little")

    frames = [packed(bits[start : start + size]) for start in range(0, len(bits), size)]
    if syntax == DEFLATED_FRAMES:
        frames = [zlib.compress(frame, wbits=-15) for frame in frames]
    result = parse(convert(encapsulated(tmp_path / "x.dcm", data_set, frames, syntax)))
    native = packed(bits)
    assert bytes(result.PixelData) == native + bytes(len(native) % 2)


def test_frames_in_several_fragments_are_found_by_their_contents(tmp_path: Path, convert: Convert) -> None:
    data_set = dcmread(BUNDLED / "examples_ybr_color.dcm")
    frames = list(generate_frames(data_set.PixelData, number_of_frames=30))
    whole = parse(convert(BUNDLED / "examples_ybr_color.dcm")).PixelData
    data_set.PixelData = encapsulate(frames, fragments_per_frame=3, has_bot=False)
    data_set["PixelData"].is_undefined_length = True
    path = store(tmp_path / "x.dcm", encode(data_set), JPEG_BASELINE)
    assert parse(convert(path)).PixelData == whole


def test_an_icon_is_decoded_with_the_image(tmp_path: Path, convert: Convert) -> None:
    data_set = dcmread(BUNDLED / "MR_small_RLE.dcm")
    icon = Dataset()
    for keyword in ("Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation"):
        setattr(icon, keyword, data_set[keyword].value)
    icon.SamplesPerPixel, icon.PhotometricInterpretation = 1, "MONOCHROME2"
    icon.PixelData = data_set.PixelData
    icon["PixelData"].VR, icon["PixelData"].is_undefined_length = "OB", True
    data_set.IconImageSequence = [icon]
    frame = next(generate_frames(data_set.PixelData))
    result = parse(convert(encapsulated(tmp_path / "x.dcm", data_set, [frame], RLE)))
    assert result.IconImageSequence[0].PixelData == result.PixelData
    assert len(result.PixelData) == 64 * 64 * 2


# All that is not pixels


@needs_tools
@pytest.mark.parametrize("name", NATIVE_FILES)
def test_native_data_sets_are_those_of_dcmconv(name: str, tmp_path: Path, convert: Convert) -> None:
    for target, option in ((EXPLICIT, "+te"), (IMPLICIT, "+ti")):
        run("dcmconv", option, BUNDLED / name, tmp_path / "reference.dcm")
        padding = frozenset({0xFFFCFFFC})
        data = convert(BUNDLED / name, target)
        assert tree(data, target, padding) == stored_tree(tmp_path / "reference.dcm", padding)


@needs_tools
@pytest.mark.parametrize("target", [EXPLICIT, IMPLICIT])
@pytest.mark.parametrize("name", [*NATIVE_FILES, "SC_rgb_rle_2frame.dcm", "JPEG2000.dcm"])
def test_results_are_well_formed(name: str, target: str, tmp_path: Path, convert: Convert) -> None:
    path = store(tmp_path / "result.dcm", convert(BUNDLED / name, target), target)
    result = subprocess.run([program("dcmftest"), path], capture_output=True)
    assert result.returncode == 0
    dump = subprocess.run([program("dcmdump"), "-q", path], capture_output=True, text=True, errors="replace")
    assert dump.returncode == 0, dump.stderr


def rich_data_set() -> Dataset:
    """Return a data set with names in Chinese, nested sequences, private elements and values of all lengths."""
    data_set = image(5, 5)
    data_set.SpecificCharacterSet = "GB18030"
    data_set.PatientName = "Zhang^San=张^三"
    data_set.add_new(0x00290010, "LO", "SIEMENS MEDCOM HEADER")
    data_set.add_new(0x00291008, "CS", "MEDCOM 1")
    data_set.add_new(0x00290011, "LO", "NOBODY KNOWS THIS")
    data_set.add_new(0x00291101, "OB", bytes(range(256)) * 3)
    data_set.add_new(0x00291102, "FD", [1.5, -2.25])
    data_set.add_new(0x00291103, "UT", "张三" * 40_000)
    inner = Dataset()
    inner.add_new(0x00290010, "LO", "ANOTHER CREATOR")
    inner.add_new(0x00291001, "SS", [-1, 2, -3])
    inner.add_new(0x00186020, "SL", -70_000)
    inner.add_new(0x00280106, "US", 513)
    outer = Dataset()
    outer.CodeValue, outer.CodeMeaning = "1", "造影"
    outer.ReferencedSeriesSequence = [inner, Dataset(), inner]
    data_set.ReferencedStudySequence = [outer]
    data_set.ProcedureCodeSequence = []
    data_set.add_new(0x00291104, "SQ", [outer, inner])
    data_set.add_new(0x00700022, "FL", [1.0, 2.0, 3.5])
    data_set.FrameIncrementPointer = 0x00181063
    return data_set


@pytest.mark.parametrize("undefined_lengths", [False, True])
@pytest.mark.parametrize("source", [IMPLICIT, EXPLICIT, BIG, DEFLATED, RLE])
@pytest.mark.parametrize("target", [IMPLICIT, EXPLICIT])
def test_every_value_is_kept(
    source: str, target: str, undefined_lengths: bool, tmp_path: Path, convert: Convert
) -> None:
    wanted, stored = rich_data_set(), rich_data_set()
    expected = tree(encode(wanted))
    for data_set in (stored, stored.ReferencedStudySequence[0]):
        for item in data_set:
            item.is_undefined_length = undefined_lengths and item.VR == "SQ"
    encoded = encode(stored, implicit=source == IMPLICIT, little=source != BIG)
    if source == DEFLATED:
        packer = zlib.compressobj(wbits=-15)
        encoded = packer.compress(encoded) + packer.flush()
    if source == BIG:
        # pydicom writes OW as it was given; in big endian its words are the other way round.
        words = array("H", stored.PixelData)
        words.byteswap()
        encoded = encoded.replace(stored.PixelData, words.tobytes())
    if source == RLE:
        lsb, msb = stored.PixelData[::2], stored.PixelData[1::2]
        literal = struct.pack("<16L", 2, 64, 64 + 26, *[0] * 13) + b"\x18" + msb + b"\x18" + lsb
        path = encapsulated(tmp_path / "x.dcm", stored, [literal], RLE)
    else:
        path = store(tmp_path / "x.dcm", encoded, source)
    data = convert(path, target)
    assert tree(data, target) == expected
    result = parse(data, target)
    assert result.PatientName == "Zhang^San=张^三"
    assert result.SOPInstanceUID == "1.2.3"


@pytest.mark.parametrize("target", [IMPLICIT, EXPLICIT])
def test_what_needs_no_change_is_the_same_to_the_byte(target: str, tmp_path: Path, convert: Convert) -> None:
    encoded = encode(rich_data_set(), implicit=target == IMPLICIT)
    assert convert(store(tmp_path / "x.dcm", encoded, target), target) == encoded


@pytest.mark.filterwarnings("ignore:The value length")
def test_vr_of_what_came_without(tmp_path: Path, convert: Convert) -> None:
    data_set = image(5, 5, signed=True)
    data_set.add_new(0x00280106, "SS", -5)
    data_set.add_new(0x00290010, "LO", "SIEMENS MEDCOM HEADER")
    data_set.add_new(0x00290011, "LO", "NOBODY KNOWS THIS")
    data_set.add_new(0x00291008, "CS", "KNOWN")
    data_set.add_new(0x00291101, "LO", "UNKNOWN")
    data_set.add_new(0x00321060, "LO", "x" * 70_000)
    lut = Dataset()
    lut.add_new(0x00283002, "SS", [3, -4, 16])
    lut.add_new(0x00283006, "OW", b"123456")
    data_set.ModalityLUTSequence = [lut]
    data_set.add_new(0x60003000, "OW", b"1234")
    data_set.add_new(0x00189999, "LO", "not in the dictionary")
    result = parse(convert(store(tmp_path / "x.dcm", encode(data_set, implicit=True), IMPLICIT)))

    def vr(tag: int, of: Dataset = result) -> str:
        found = of.get_item(tag)
        assert found is not None
        return str(found.VR)

    assert {tag: vr(tag) for tag in (0x00280106, 0x00290010, 0x00290011, 0x00291008, 0x00291101)} == {
        0x00280106: "SS",
        0x00290010: "LO",
        0x00290011: "LO",
        0x00291008: "CS",
        0x00291101: "UN",
    }
    assert (vr(0x00321060), vr(0x60003000), vr(0x7FE00010), vr(0x00189999)) == ("UN", "OW", "OW", "UN")
    item = result.ModalityLUTSequence[0]
    assert (vr(0x00283002, item), vr(0x00283006, item)) == ("SS", "OW")


def test_values_that_do_not_fit_their_vr_go_as_unknown(tmp_path: Path, convert: Convert) -> None:
    broken = element(0x00280010, "", b"123") + element(0x00400275, "", b"no items")
    result = convert(store(tmp_path / "x.dcm", broken, IMPLICIT))
    assert result == element(0x00280010, "UN", b"123\0") + element(0x00400275, "UN", b"no items")


def test_odd_lengths_are_padded_as_their_vr_wants(tmp_path: Path, convert: Convert) -> None:
    odd = element(0x00080018, "UI", b"1.2") + element(0x00100010, "PN", b"ABC") + element(0x00291001, "UN", b"x")
    nested = element(0x00400275, "SQ", element(ITEM, "", odd))
    even = element(0x00080018, "UI", b"1.2\0") + element(0x00100010, "PN", b"ABC ") + element(0x00291001, "UN", b"x\0")
    expected = even + element(0x00400275, "SQ", element(ITEM, "", even))
    assert convert(store(tmp_path / "x.dcm", odd + nested, EXPLICIT)) == expected


def test_lengths_of_encoded_groups_are_left_out(tmp_path: Path, convert: Convert) -> None:
    kept = element(0x00080018, "UI", b"1.2.\0\0") + element(0x00100020, "LO", b"ID")
    lengths = element(0x00080000, "UL", b"\x0e\0\0\0") + element(0x00080001, "UL", b"\1\0\0\0")
    assert convert(store(tmp_path / "x.dcm", lengths + kept, EXPLICIT)) == kept


def test_unknown_sequences_stay_implicit_inside(tmp_path: Path, convert: Convert) -> None:
    inside = element(ITEM, "", element(0x00100020, "", b"ID"), UNDEFINED) + CLOSE_ITEM + CLOSE_SEQUENCE
    explicit = element(0x00291001, "UN", inside, UNDEFINED)
    path = store(tmp_path / "x.dcm", explicit, EXPLICIT)
    assert convert(path, EXPLICIT) == explicit
    assert convert(path, IMPLICIT) == element(0x00291001, "", inside, UNDEFINED)


def test_ten_thousand_levels(tmp_path: Path, convert: Convert) -> None:
    opened = element(0x00400275, "SQ", element(ITEM, "", b"", UNDEFINED), UNDEFINED)
    deep = opened * 10_000 + (CLOSE_ITEM + CLOSE_SEQUENCE) * 10_000
    assert convert(store(tmp_path / "x.dcm", deep, EXPLICIT), EXPLICIT) == deep


# Bad input


@pytest.mark.parametrize("name", ["MR_small.dcm", "MR_small_RLE.dcm", "image_dfl.dcm", "rtplan.dcm"])
def test_an_object_cut_short_is_refused_wherever_it_is_cut(name: str, tmp_path: Path, converter: Converter) -> None:
    whole = (BUNDLED / name).read_bytes()
    start = dcmread(BUNDLED / name).file_meta.FileMetaInformationGroupLength + 144
    complete = converter.convert(BUNDLED / name, EXPLICIT)
    complete.close()
    path, cut = tmp_path / "cut.dcm", random.Random(name)
    refused = 0
    for _ in range(60):
        path.write_bytes(whole[: cut.randint(start, len(whole) - 2)])
        try:
            converter.convert(path, EXPLICIT).close()
        except ConversionError:
            refused += 1
    # Cut between two elements, what is left is a data set like any other: only then is there nothing to refuse.
    assert refused >= 50
    path.write_bytes(whole[:-20])
    with pytest.raises(ConversionError, match="short|is broken"):
        converter.convert(path, EXPLICIT)


def test_no_part_10_file(tmp_path: Path, converter: Converter) -> None:
    for contents in (b"", b"GET / HTTP/1.1\r\n", bytes(128) + b"DICM", bytes(4096)):
        (tmp_path / "x").write_bytes(contents)
        with pytest.raises(ConversionError):
            converter.convert(tmp_path / "x", EXPLICIT)
    with pytest.raises(ConversionError, match="No such file"):
        converter.convert(tmp_path / "missing", EXPLICIT)


LIES = {
    "two billion frames": ({"NumberOfFrames": "2147483648"}, "there are 1 fragments"),
    "frames that are no number": ({"NumberOfFrames": "-3"}, "Number of Frames"),
    "more rows than there are": ({"Rows": 65}, "its attributes say 65"),
    "the largest image": ({"Rows": 65535, "Columns": 65535}, "frames have 8589672450 bytes"),
    "an image larger than its data": ({"Rows": 8000, "Columns": 8000}, "its attributes say 8000"),
    "no rows": ({"Rows": 0}, "missing or 0"),
    "no bits": ({"BitsAllocated": 0}, "missing or 0"),
    "odd bits": ({"BitsAllocated": 12}, "bits allocated"),
    "colours that are not there": ({"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB"}, "its attributes say"),
    "four samples": ({"SamplesPerPixel": 4}, "not 1 or 3"),
}


@pytest.mark.parametrize("codec", ["MR_small_RLE.dcm", "MR_small_jp2klossless.dcm", "MR_small_jpeg_ls_lossless.dcm"])
@pytest.mark.parametrize("lie", LIES)
def test_attributes_that_lie(codec: str, lie: str, tmp_path: Path, converter: Converter) -> None:
    changes, said = LIES[lie]
    data_set = dcmread(BUNDLED / codec)
    for keyword, value in changes.items():
        setattr(data_set, keyword, value)
    frame = next(generate_frames(data_set.PixelData, number_of_frames=1))
    path = encapsulated(tmp_path / "x.dcm", data_set, [frame], str(data_set.file_meta.TransferSyntaxUID))
    if codec == "MR_small_RLE.dcm" and "its attributes say" in said:
        said = "RLE"
    with pytest.raises(ConversionError, match=said):
        converter.convert(path, EXPLICIT)


def test_more_pixels_than_an_element_can_have(tmp_path: Path, converter: Converter) -> None:
    data_set = dcmread(BUNDLED / "MR_small_RLE.dcm")
    data_set.NumberOfFrames, data_set.Rows, data_set.Columns = 17, 8192, 16384
    path = encapsulated(tmp_path / "x.dcm", data_set, [b"12"] * 17, RLE)
    with pytest.raises(ConversionError, match="more than 4 GiB"):
        converter.convert(path, EXPLICIT)


def test_nesting_without_end(tmp_path: Path, converter: Converter) -> None:
    opened = element(0x00400275, "SQ", element(ITEM, "", b"", UNDEFINED), UNDEFINED)
    with pytest.raises(ConversionError, match="nested more than"):
        converter.convert(store(tmp_path / "x.dcm", opened * 100_000, EXPLICIT), IMPLICIT)


def test_fragments_that_do_not_make_the_frames(tmp_path: Path, converter: Converter) -> None:
    data_set, frame = dcmread(BUNDLED / "JPEG-lossy.dcm"), first_frame("JPEG-lossy.dcm")
    syntax = str(data_set.file_meta.TransferSyntaxUID)
    with pytest.raises(ConversionError, match="but 2 frames begin"):
        converter.convert(encapsulated(tmp_path / "x.dcm", data_set, [frame, frame], syntax), EXPLICIT)
    data_set.NumberOfFrames = 3
    with pytest.raises(ConversionError, match="there are 2 fragments"):
        converter.convert(encapsulated(tmp_path / "x.dcm", data_set, [frame, frame], syntax), EXPLICIT)


@pytest.mark.parametrize(
    "name", ["JPEG-lossy.dcm", "MR_small_RLE.dcm", "MR_small_jp2klossless.dcm", "MR_small_jpeg_ls_lossless.dcm"]
)
def test_damaged_code_streams(name: str, tmp_path: Path, converter: Converter) -> None:
    data_set, frame, noise = dcmread(BUNDLED / name), first_frame(name), random.Random(1)
    syntax = str(data_set.file_meta.TransferSyntaxUID)
    damaged = [b"", b"\0\0", frame[: len(frame) // 2], frame[:10], bytes(len(frame)), noise.randbytes(len(frame))]
    for bad in damaged:
        with pytest.raises(ConversionError):
            converter.convert(encapsulated(tmp_path / "x.dcm", data_set, [bad], syntax), EXPLICIT)
    # Whatever flipped bytes do to a decoder, it ends in an answer, and a right object is still converted after it.
    answers = 0
    for _ in range(30):
        bad = bytearray(frame)
        for _ in range(3):
            bad[noise.randrange(len(bad))] ^= 1 << noise.randrange(8)
        try:
            converter.convert(encapsulated(tmp_path / "x.dcm", data_set, [bytes(bad)], syntax), EXPLICIT).close()
        except ConversionError:
            answers += 1
    assert answers
    converter.convert(BUNDLED / name, EXPLICIT).close()


@needs_samples
def test_jpeg_whose_middle_is_damaged_is_not_passed_off_as_whole(tmp_path: Path, converter: Converter) -> None:
    data_set = dcmread(SAMPLES / "xa1_JPLL.dcm")
    frame = bytearray(next(generate_frames(data_set.PixelData, number_of_frames=1)))
    middle = len(frame) // 2
    frame[middle : middle + 8] = bytes(byte ^ 0xFF for byte in frame[middle : middle + 8])
    path = encapsulated(tmp_path / "x.dcm", data_set, [bytes(frame)], JPEG_LOSSLESS)
    with pytest.raises(ConversionError, match="damaged: .*premature end"):
        converter.convert(path, EXPLICIT)


def test_a_deflate_bomb_does_not_fill_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packer = zlib.compressobj(9, wbits=-15)
    bomb = b"".join(packer.compress(bytes(1 << 24)) for _ in range(4)) + packer.flush()
    usage = shutil.disk_usage(tmp_path)._replace(free=codec_worker.KEPT_FREE + (10 << 20))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    stored, inflated = tmp_path / "bomb", tmp_path / "inflated"
    stored.write_bytes(bomb)
    refused = pytest.raises(ConversionError, match="no room")
    with stored.open("rb") as source, inflated.open("w+b") as result, refused:
        codec_worker.inflate(source, 0, result, tmp_path)
    assert inflated.stat().st_size <= 11 << 20


def test_no_room_for_the_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=codec_worker.KEPT_FREE + 10_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    result = BytesIO()
    with (BUNDLED / "MR_small_RLE.dcm").open("rb") as stored, pytest.raises(ConversionError, match="no room"):
        codec_worker.convert(stored, result, EXPLICIT, tmp_path)
    assert not result.getvalue()


# The worker


def peak_memory(pid: int) -> int:
    """Return the most bytes of memory that a process ever had."""
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM"))


@needs_tools
@pytest.mark.parametrize("encoder", [("dcmcrle",), ("dcmcjpeg", "+e1")], ids=" ".join)
def test_memory_does_not_grow_with_the_frames(encoder: tuple[str, ...], tmp_path: Path, converter: Converter) -> None:
    one = image(512, 512, 12)
    one.NumberOfFrames, one.PixelData = 200, one.PixelData * 200
    run(*encoder, store(tmp_path / "native.dcm", encode(one), EXPLICIT), tmp_path / "coded.dcm")
    with converter.convert(tmp_path / "coded.dcm", EXPLICIT) as converted:
        assert converted.length > 200 * 512 * 512 * 2
        converted.file.seek(-len(one.PixelData), os.SEEK_END)
        assert converted.file.read() == one.PixelData
    assert converter.worker_pid is not None
    assert peak_memory(converter.worker_pid) < 120 << 20


def test_memory_does_not_grow_with_native_pixel_data(tmp_path: Path, converter: Converter) -> None:
    start = encode(image(5, 5)).partition(element(0x7FE00010, "OW", b"", 50)[:8])[0]
    path = store(tmp_path / "x.dcm", start + element(0x7FE00010, "OW", b"", 300 << 20), EXPLICIT)
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size + (300 << 20))
    with converter.convert(path, IMPLICIT) as converted:
        assert converted.length > 300 << 20
    assert converter.worker_pid is not None
    assert peak_memory(converter.worker_pid) < 120 << 20


def test_a_killed_worker_is_replaced(converter: Converter) -> None:
    converter.convert(BUNDLED / "MR_small_RLE.dcm", EXPLICIT).close()
    first = converter.worker_pid
    assert first is not None
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: Path(f"/proc/{first}/stat").read_text().rpartition(")")[2].split()[0] == "Z", "its end")
    converter.convert(BUNDLED / "MR_small_RLE.dcm", EXPLICIT).close()
    assert converter.worker_pid != first


def test_a_crash_is_an_error_of_the_object_only(converter: Converter) -> None:
    errors: list[ConversionError] = []
    converter.convert(BUNDLED / "MR_small_RLE.dcm", EXPLICIT).close()
    pid = converter.worker_pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)

    def convert_one() -> None:
        try:
            converter.convert(BUNDLED / "MR_small_RLE.dcm", EXPLICIT).close()
        except ConversionError as error:
            errors.append(error)

    thread = threading.Thread(target=convert_one)
    thread.start()
    # The stopped worker does not read, so the request stays in the socket: there to be lost with the worker.
    worker = converter._worker
    assert worker is not None
    wait_until(lambda: struct.unpack("i", fcntl.ioctl(worker.socket, termios.TIOCOUTQ, bytes(4)))[0], "the request")
    os.kill(pid, signal.SIGSEGV)
    os.kill(pid, signal.SIGCONT)
    thread.join(30)
    assert not thread.is_alive()
    assert [str(error) for error in errors] == ["the decoder crashed on this object (SIGSEGV)"]
    converter.convert(BUNDLED / "MR_small_RLE.dcm", EXPLICIT).close()
    assert converter.worker_pid != pid


def test_a_hanging_decoder_is_stopped(converter: Converter, monkeypatch: pytest.MonkeyPatch) -> None:
    converter.convert(BUNDLED / "MR_small_RLE.dcm", EXPLICIT).close()
    pid = converter.worker_pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    with monkeypatch.context() as context:
        context.setattr(conversion, "MINIMUM_TIME", 0.5)
        with pytest.raises(ConversionError, match="did not finish within"):
            converter.convert(BUNDLED / "MR_small_RLE.dcm", EXPLICIT)
    assert not Path(f"/proc/{pid}").exists()
    converter.convert(BUNDLED / "MR_small_RLE.dcm", EXPLICIT).close()


def test_several_threads_take_turns(converter: Converter) -> None:
    wanted: dict[str, set[int]] = {name: set() for name in ENCAPSULATED_FILES[:8]}

    def convert_all() -> None:
        for name, lengths in wanted.items():
            with converter.convert(BUNDLED / name, EXPLICIT) as converted:
                lengths.add(converted.length)

    threads = [threading.Thread(target=convert_all) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert all(len(lengths) == 1 for lengths in wanted.values())


def test_the_worker_ends_with_its_server(tmp_path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from angiovault.archive.conversion.converter import Converter\n"
        f"c = Converter(Path({str(tmp_path)!r}))\n"
        f"c.convert(Path({str(BUNDLED / 'MR_small_RLE.dcm')!r}), {EXPLICIT!r})\n"
        "print(c.worker_pid, flush=True); os.kill(os.getpid(), 9)"
    )
    server = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    worker = int(server.stdout)
    wait_until(
        lambda: not Path(f"/proc/{worker}").exists() or " Z " in Path(f"/proc/{worker}/stat").read_text(), "its end"
    )
    assert not list(tmp_path.iterdir())


def test_closed_is_closed(tmp_path: Path) -> None:
    converter = Converter(tmp_path)
    converter.convert(BUNDLED / "MR_small_RLE.dcm", EXPLICIT).close()
    pid = converter.worker_pid
    converter.close()
    converter.close()
    assert not Path(f"/proc/{pid}").exists()
    with pytest.raises(ConversionError, match="closed"):
        converter.convert(BUNDLED / "MR_small_RLE.dcm", EXPLICIT)
