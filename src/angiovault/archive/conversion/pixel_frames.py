"""Decoding encapsulated pixel data, frame by frame, to native pixels (PS3.5 8.2, A.4) that are exactly the decoder's.

No colours are converted and no values scaled: the attributes are made to say what the pixels are.
"""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import BinaryIO, Final

from pydicom.encaps import itemize_fragment
from pydicom.pixels.decoders.base import get_decoder

from angiovault.archive.conversion.code_streams import (
    CodeStream,
    decode_code_stream,
    read_code_stream,
    starts_code_stream,
)
from angiovault.archive.conversion.converter import (
    DEFLATED_IMAGE_FRAME,
    ENCAPSULATED_UNCOMPRESSED,
    RLE_LOSSLESS,
    ConversionError,
)
from angiovault.archive.data_set_walk import (
    BITS_ALLOCATED,
    BITS_STORED,
    COLUMNS,
    NUMBER_OF_FRAMES,
    PHOTOMETRIC_INTERPRETATION,
    PIXEL_REPRESENTATION,
    PLANAR_CONFIGURATION,
    ROWS,
    SAMPLES_PER_PIXEL,
    UNDEFINED,
    Fragments,
    Level,
    tag_name,
)

_ARRAY_TYPES: Final = {1: "B", 2: "H", 4: "I", 8: "Q"}
_RAW: Final = frozenset({ENCAPSULATED_UNCOMPRESSED, DEFLATED_IMAGE_FRAME})
"""Syntaxes whose fragments hold native frames, each one padded for itself."""
_ONE_FRAGMENT_A_FRAME: Final = _RAW | {RLE_LOSSLESS}
_EMPTY_OFFSET_TABLE: Final = struct.pack("<HHL", 0xFFFE, 0xE000, 0)
_LONGEST_PIXEL_DATA: Final = UNDEFINED - 1
_LONGEST_FRAME: Final = 1 << 28
"""Bytes of a native frame, ten times a mammogram: decoding needs several times as much memory."""
_RLE_LIMIT: Final = 64
"""How many times its encoded length a frame of RLE can have: two bytes become 128 (PS3.5 G.3.2)."""


@dataclass(frozen=True, slots=True)
class Image:
    """An encapsulated image: what its attributes say (PS3.3 C.7.6.3), and where its frames are."""

    syntax: str
    rows: int
    columns: int
    samples: int
    allocated: int
    stored: int
    signed: bool
    photometric: str
    planar: int | None
    frames: int
    fragments: Fragments
    first_fragments: array[int]
    """For every frame the index of its first fragment, and at last the number of fragments."""
    native_photometric: str
    """What the decoded pixels are."""

    @property
    def frame_bits(self) -> int:
        """Bits of a native frame."""
        samples = 2 if self.native_photometric == "YBR_FULL_422" else self.samples
        return self.rows * self.columns * samples * self.allocated

    @property
    def frame_length(self) -> int:
        """Bytes of a frame that stands for itself."""
        return (self.frame_bits + 7) // 8

    @property
    def length(self) -> int:
        """Bytes of the native pixel data without padding; frames of single bits are packed (PS3.5 8.1.1)."""
        return (self.frames * self.frame_bits + 7) // 8

    def changes(self) -> dict[int, bytes]:
        """Return the attributes that get another value, as they are to be written."""
        changed = {}
        if self.native_photometric != self.photometric:
            text = self.native_photometric.encode("ascii")
            changed[PHOTOMETRIC_INTERPRETATION] = text + b" " * (len(text) % 2)
        if self.samples > 1 and self.planar is None:
            changed[PLANAR_CONFIGURATION] = bytes(2)
        return changed

    def frame(self, number: int, file: BinaryIO) -> bytes:
        """Return an encoded frame, its fragments joined."""
        parts = []
        for index in range(self.first_fragments[number], self.first_fragments[number + 1]):
            file.seek(self.fragments.offsets[index])
            parts.append(file.read(self.fragments.lengths[index]))
        return b"".join(parts)


def read_image(file: BinaryIO, level: Level, syntax: str, fragments: Fragments) -> Image:
    """Return the encapsulated image of a data set or item, after checking that its attributes can be true.

    Raises
    ------
    ConversionError
        If an attribute is missing, or attributes, fragments and the first frame contradict each other.
    """
    samples, allocated = _required(level, SAMPLES_PER_PIXEL, 1), _required(level, BITS_ALLOCATED)
    frames = _number_of_frames(level)
    image = Image(
        syntax=syntax,
        rows=_required(level, ROWS),
        columns=_required(level, COLUMNS),
        samples=samples,
        allocated=allocated,
        stored=_required(level, BITS_STORED, allocated),
        signed=level.number(PIXEL_REPRESENTATION) == 1,
        photometric=level.values.get(PHOTOMETRIC_INTERPRETATION, b"").decode("latin-1").strip(" \0"),
        planar=level.number(PLANAR_CONFIGURATION),
        frames=frames,
        fragments=fragments,
        first_fragments=_first_fragments(file, fragments, frames, syntax),
        native_photometric="",
    )
    if samples not in (1, 3):
        raise ConversionError(f"Samples per Pixel (0028,0002) is {samples}, not 1 or 3")
    if allocated not in (8, 16, 32, 64) and not (allocated == 1 and samples == 1 and syntax in _RAW):
        raise ConversionError(f"pixels of {allocated} bits allocated (0028,0100) cannot be decoded from this syntax")
    image = replace(image, native_photometric=_native_photometric(image, file))
    if image.frame_length > _LONGEST_FRAME:
        raise ConversionError(f"its frames have {image.frame_length} bytes; more than {_LONGEST_FRAME} are not decoded")
    if image.length > _LONGEST_PIXEL_DATA:
        raise ConversionError(f"native pixel data would have {image.length} bytes; more than 4 GiB cannot be sent")
    return image


def native_frames(image: Image, file: BinaryIO) -> Iterator[bytes]:
    """Decode the frames of an image, one after the other, in little endian and in its planar configuration.

    Raises
    ------
    ConversionError
        If a frame does not decode to the pixels that its attributes promise; the text says which.
    """
    packer = _BitPacker(image.frame_bits) if image.frame_bits % 8 else None
    for number in range(image.frames):
        try:
            frame = _native_frame(image, image.frame(number, file))
        except ConversionError as error:
            raise ConversionError(f"frame {number + 1} of {image.frames}: {error}") from error
        yield packer.pack(frame) if packer else frame
    if packer:
        yield packer.rest()


def _required(level: Level, tag: int, default: int | None = None) -> int:
    value = level.number(tag)
    value = default if value is None else value
    if not value:
        raise ConversionError(f"{tag_name(tag)} is missing or 0: encapsulated pixel data cannot be decoded without it")
    return value


def _number_of_frames(level: Level) -> int:
    text = level.values.get(NUMBER_OF_FRAMES, b"").strip(b" \0").removeprefix(b"+")
    if text and not (text.isdigit() and 0 < int(text) <= _LONGEST_PIXEL_DATA):
        raise ConversionError(f"Number of Frames (0028,0008) is {text.decode('latin-1')!r}")
    return int(text or 1)


def _first_fragments(file: BinaryIO, fragments: Fragments, frames: int, syntax: str) -> array[int]:
    """Return which fragments each frame has, told by their contents: offset tables may lie, and often are not there."""
    count = len(fragments.offsets)
    if frames > count:
        raise ConversionError(f"Number of Frames (0028,0008) is {frames}, but there are {count} fragments")
    if frames == count:
        return array("L", range(count + 1))
    if syntax in _ONE_FRAGMENT_A_FRAME:
        raise ConversionError(f"there are {count} fragments of pixel data for {frames} frames, not one for each")
    first = array("L")
    for index, offset in enumerate(fragments.offsets):
        file.seek(offset)
        if starts_code_stream(file.read(min(12, fragments.lengths[index]))):
            first.append(index)
    if len(first) != frames or first[0] != 0:
        raise ConversionError(
            f"Number of Frames (0028,0008) is {frames}, but {len(first)} frames begin in the fragments of pixel data"
        )
    first.append(count)
    return first


def _native_photometric(image: Image, file: BinaryIO) -> str:
    """Return the Photometric Interpretation of the decoded pixels, by the colours of the first code stream."""
    if image.samples == 1 or image.syntax in _RAW:
        return image.photometric
    if image.syntax != RLE_LOSSLESS:
        stream = read_code_stream(image.frame(0, file))
        if image.photometric == "RGB" and stream.is_ybr:
            return "YBR_FULL"
        if image.photometric in ("YBR_ICT", "YBR_RCT") or stream.is_rgb:
            return "RGB"
    if image.photometric == "YBR_FULL_422":
        return "YBR_FULL"  # decoded, every pixel has its own chrominance
    if image.photometric not in ("RGB", "YBR_FULL"):
        raise ConversionError(f"there is no truthful name for decoded {image.photometric or 'unnamed colour'} pixels")
    return image.photometric


def _native_frame(image: Image, encoded: bytes) -> bytes:
    if image.syntax == RLE_LOSSLESS:
        frame = _decode_rle(encoded, image)
        frame = frame if image.planar == 1 else _interleaved(frame, image)
    elif image.syntax == ENCAPSULATED_UNCOMPRESSED:
        frame = encoded
    elif image.syntax == DEFLATED_IMAGE_FRAME:
        frame = _inflate(encoded, image.frame_length)
    else:
        stream = read_code_stream(encoded)
        _compare(stream, image)
        frame = _fit(decode_code_stream(encoded, stream, image.syntax), stream, image)
        frame = _separated(frame, image) if image.planar == 1 else frame
    if image.syntax in _RAW and len(frame) == image.frame_length + 1:
        frame = frame[:-1]  # PS3.5 A.4: fragments are padded to an even length
    if len(frame) != image.frame_length:
        raise ConversionError(f"it decodes to {len(frame)} bytes, its attributes say {image.frame_length}")
    return frame


def _decode_rle(encoded: bytes, image: Image) -> bytes:
    """Decode a frame of RLE (PS3.5 G): plane after plane. pydicom's decoder is five times as fast as GDCM's here."""
    if image.frame_length > _RLE_LIMIT * len(encoded):
        raise ConversionError(f"its RLE segments are cut short: {len(encoded)} bytes for {image.frame_length}")
    fragments = io.BytesIO(_EMPTY_OFFSET_TABLE + itemize_fragment(encoded))
    try:
        with warnings.catch_warnings(action="ignore"):  # segments with a few bytes more than they need
            frame, _ = get_decoder(RLE_LOSSLESS).as_buffer(
                fragments,
                index=0,
                rows=image.rows,
                columns=image.columns,
                number_of_frames=1,
                samples_per_pixel=image.samples,
                bits_allocated=image.allocated,
                bits_stored=image.stored,
                pixel_representation=int(image.signed),
                photometric_interpretation=image.native_photometric,
                planar_configuration=1,
            )
    except (ValueError, RuntimeError, struct.error) as error:
        reason = str(error).rpartition("pydicom: ")[2]  # after a sentence on how many plugins failed
        raise ConversionError(f"its RLE segments are broken: {reason}") from error
    return bytes(frame)


def _inflate(encoded: bytes, length: int) -> bytes:
    """Inflate a frame of Deflated Image Frame Compression (PS3.5 A.4), which may not be longer than its pixels."""
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        frame = inflater.decompress(encoded, length + 2)
    except zlib.error as error:
        raise ConversionError(f"its deflated data is broken: {error}") from error
    if not inflater.eof:
        raise ConversionError("its deflated data is cut short or longer than its pixels")
    return frame


def _compare(stream: CodeStream, image: Image) -> None:
    """Raise ConversionError if a code stream is not the image that the attributes describe."""
    there = stream.rows, stream.columns, stream.samples
    if there != (image.rows, image.columns, image.samples):
        raise ConversionError(
            f"it has {there[0]} rows, {there[1]} columns and {there[2]} samples a pixel, "
            f"its attributes say {image.rows}, {image.columns} and {image.samples}"
        )
    if stream.precision > image.allocated:
        raise ConversionError(f"its samples have {stream.precision} bits, its attributes allocate {image.allocated}")


def _fit(frame: bytes, stream: CodeStream, image: Image) -> bytes:
    """Put decoded samples into cells of Bits Allocated, with the sign that Pixel Representation promises."""
    width, cell = stream.sample_bytes, image.allocated // 8
    if len(frame) != image.frame_length // cell * width:
        raise ConversionError(f"it decodes to {len(frame)} bytes, its attributes say {image.frame_length}")
    top = stream.precision - 8 * (width - 1)
    # JPEG and JPEG-LS know no sign: a negative value comes out as its low bits, whose upper neighbours PS3.5 8.1.1
    # leaves open. Continuing the sign makes the cell the value for every reader.
    extended = image.signed and (stream.signed or stream.precision == image.stored)
    if extended and not stream.signed:
        frame = _mapped(frame, width, _sign_table(top))
    elif stream.signed and not image.signed:
        frame = _mapped(frame, width, bytes(value & ((1 << top) - 1) for value in range(256)))
    if width == cell:
        return frame
    cells = bytearray(len(frame) // width * cell)
    for byte in range(width):
        cells[byte::cell] = frame[byte::width]
    if extended:
        signs = frame[width - 1 :: width].translate(bytes(255 if value & 0x80 else 0 for value in range(256)))
        for byte in range(width, cell):
            cells[byte::cell] = signs
    return bytes(cells)


def _sign_table(top: int) -> bytes:
    """Return a table that continues bit `top` - 1 of a byte upwards."""
    high = 0xFF << top & 0xFF
    return bytes((value | high) if value >> (top - 1) & 1 else value & ~high & 0xFF for value in range(256))


def _mapped(frame: bytes, width: int, table: bytes) -> bytes:
    """Map the most significant byte of every sample."""
    changed = bytearray(frame)
    changed[width - 1 :: width] = frame[width - 1 :: width].translate(table)
    return bytes(changed)


def _separated(frame: bytes, image: Image) -> bytes:
    """Return pixel after pixel as plane after plane."""
    if image.samples == 1:
        return frame
    samples = array(_ARRAY_TYPES[image.allocated // 8], frame)
    return b"".join(samples[plane :: image.samples].tobytes() for plane in range(image.samples))


def _interleaved(frame: bytes, image: Image) -> bytes:
    """Return plane after plane as pixel after pixel."""
    if image.samples == 1:
        return frame
    planes = array(_ARRAY_TYPES[image.allocated // 8], frame)
    pixels, size = array(planes.typecode, planes), len(planes) // image.samples
    for plane in range(image.samples):
        pixels[plane :: image.samples] = planes[plane * size : (plane + 1) * size]
    return pixels.tobytes()


class _BitPacker:
    """Joins frames of single bits, each padded to whole bytes, without gaps (PS3.5 8.1.1, first pixel lowest)."""

    def __init__(self, frame_bits: int) -> None:
        self.frame_bits = frame_bits
        self.bits = 0
        self.count = 0

    def pack(self, frame: bytes) -> bytes:
        """Return the whole bytes that are ready now."""
        value = int.from_bytes(frame, "little") & ((1 << self.frame_bits) - 1)
        self.bits |= value << self.count
        self.count += self.frame_bits
        ready = self.count // 8
        packed = (self.bits & ((1 << 8 * ready) - 1)).to_bytes(ready, "little")
        self.bits >>= 8 * ready
        self.count -= 8 * ready
        return packed

    def rest(self) -> bytes:
        """Return the last bits, padded to a byte."""
        return self.bits.to_bytes((self.count + 7) // 8, "little")
