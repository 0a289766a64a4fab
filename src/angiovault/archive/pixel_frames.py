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
from dataclasses import dataclass
from typing import BinaryIO, Final

from angiovault.archive.code_streams import CodeStream, decode_code_stream, read_code_stream, starts_code_stream
from angiovault.archive.conversion import (
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
)

_ARRAY_TYPES: Final = {1: "B", 2: "H", 4: "I", 8: "Q"}
_RAW: Final = frozenset({ENCAPSULATED_UNCOMPRESSED, DEFLATED_IMAGE_FRAME})
"""Syntaxes whose fragments hold native frames, each one padded for itself."""
_ONE_FRAGMENT_A_FRAME: Final = _RAW | {RLE_LOSSLESS}
_EMPTY_OFFSET_TABLE: Final = struct.pack("<HHL", 0xFFFE, 0xE000, 0)
_LONGEST_PIXEL_DATA: Final = UNDEFINED - 1


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
        raise ConversionError(f"Number of Frames (0028,0008) is {frames}, but there are {count} fragments of pixel data")
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
        frame = _planes(_decode_rle(image, encoded), image) if image.planar != 1 else _decode_rle(image, encoded)
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
