"""JPEG, JPEG-LS and JPEG 2000 code streams: what their headers say, and their decoding by GDCM.

Headers are read here first, because a decoder believes what it is told: it is told what the code stream itself says,
and only after that was found to be what the data set says.
"""

from __future__ import annotations

import contextlib
import os
import struct
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import gdcm

from angiovault.archive.conversion.converter import JPEG, ConversionError

_JPEG_2000_START: Final = b"\xff\x4f\xff\x51"
_JP2_SIGNATURE: Final = b"\0\0\0\x0cjP  "
_SOF: Final = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC} | {0xF7}
_SOS: Final = 0xDA
_HARMLESS_WARNING: Final = "extraneous bytes before marker"
_DAMAGE: Final = ("Corrupt JPEG data", "Premature end", "Inconsistent progression")
_DECODED_AS: Final = {
    "1.2.840.10008.1.2.4.92": "1.2.840.10008.1.2.4.90",
    "1.2.840.10008.1.2.4.93": "1.2.840.10008.1.2.4.91",
}
"""JPEG 2000 Part 2: what it shares with Part 1 decodes, its multi-component transforms do not."""


@dataclass(frozen=True, slots=True)
class CodeStream:
    """What the header of a code stream says."""

    rows: int
    columns: int
    samples: int
    precision: int
    """Bits of a sample."""
    signed: bool = False
    is_rgb: bool = False
    """Its components are named R, G and B."""
    is_ybr: bool = False
    """A JFIF or Adobe marker says that it holds luminance and chrominance."""

    @property
    def sample_bytes(self) -> int:
        """Bytes in which GDCM returns a sample."""
        return 1 if self.precision <= 8 else 2 if self.precision <= 16 else 4


def starts_code_stream(head: bytes) -> bool:
    """Return whether a fragment is the first of a frame, by its first 12 bytes."""
    return head.startswith((b"\xff\xd8\xff", _JPEG_2000_START, _JP2_SIGNATURE))


def read_code_stream(encoded: bytes) -> CodeStream:
    """Read the header of a JPEG, JPEG-LS (ISO 10918-1 B.2, 14495-1 C.2) or JPEG 2000 (15444-1 A.5.1) code stream.

    Raises
    ------
    ConversionError
        If it is none, or the header is broken.
    """
    try:
        if encoded.startswith(b"\xff\xd8"):
            return _read_jpeg(encoded)
        start = encoded.find(_JPEG_2000_START) if encoded.startswith(_JP2_SIGNATURE) else 0
        if encoded.startswith(_JPEG_2000_START, max(start, 0)):
            return _read_jpeg_2000(encoded, start)
    except (struct.error, IndexError) as error:
        raise ConversionError("its code stream is cut short") from error
    raise ConversionError("it is no JPEG, JPEG-LS or JPEG 2000 code stream")


def _read_jpeg(encoded: bytes) -> CodeStream:
    position, is_ybr, adobe_rgb = 2, False, False
    while True:
        if encoded[position] != 0xFF:
            raise ConversionError("its code stream is broken: no marker where one belongs")
        marker = encoded[position + 1]
        if marker == 0xFF:  # fill bytes may stand before a marker
            position += 1
            continue
        (length,) = struct.unpack_from(">H", encoded, position + 2)
        segment = encoded[position + 4 : position + 2 + length]
        if marker in _SOF:
            precision, rows, columns, samples = struct.unpack_from(">BHHB", segment)
            is_rgb = segment[6::3][:3] in (b"RGB", b"rgb")
            return CodeStream(rows, columns, samples, precision, False, is_rgb, is_ybr and not is_rgb and not adobe_rgb)
        if marker == _SOS or length < 2:
            raise ConversionError("its code stream has no frame header")
        if marker == 0xE0 and segment.startswith(b"JFIF\0"):
            is_ybr = True
        if marker == 0xEE and segment.startswith(b"Adobe") and len(segment) >= 12:
            is_ybr, adobe_rgb = segment[11] == 1, segment[11] == 0
        position += 2 + length


def _read_jpeg_2000(encoded: bytes, start: int) -> CodeStream:
    right, bottom, left, top = struct.unpack_from(">4L", encoded, start + 8)
    (samples,) = struct.unpack_from(">H", encoded, start + 40)
    components = [struct.unpack_from(">BBB", encoded, start + 42 + 3 * index) for index in range(samples)]
    if len(set(components)) != 1 or components[0][1:] != (1, 1):
        raise ConversionError("its JPEG 2000 components differ in size or depth")
    depth = components[0][0]
    return CodeStream(bottom - top, right - left, samples, (depth & 0x7F) + 1, bool(depth & 0x80))


def decode_code_stream(encoded: bytes, stream: CodeStream, syntax: str) -> bytes:
    """Decode one frame: samples pixel by pixel, in little endian, in `stream.sample_bytes` each.

    Raises
    ------
    ConversionError
        If it does not decode, or the decoder finds it damaged.
    """
    gdcm.Trace.WarningOff()
    gdcm.Trace.ErrorOff()
    # Colours stay as they are in the code stream whatever is said here; only the transform inside JPEG 2000 is undone.
    colours = gdcm.PhotometricInterpretation.RGB if stream.samples == 3 else gdcm.PhotometricInterpretation.MONOCHROME2
    fragment = gdcm.Fragment()
    fragment.SetByteStringValue(encoded)
    fragments = gdcm.SequenceOfFragments.New()
    fragments.AddFragment(fragment)
    element = gdcm.DataElement(gdcm.Tag(0x7FE0, 0x0010))
    element.SetValue(fragments.__ref__())
    image = gdcm.Image()
    image.SetNumberOfDimensions(2)
    image.SetDimensions((stream.columns, stream.rows, 1))
    image.SetPhotometricInterpretation(gdcm.PhotometricInterpretation(colours))
    image.SetPlanarConfiguration(0)
    image.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.GetTSType(_DECODED_AS.get(syntax, syntax))))
    image.SetPixelFormat(
        gdcm.PixelFormat(
            stream.samples, 8 * stream.sample_bytes, stream.precision, stream.precision - 1, int(stream.signed)
        )
    )
    image.SetDataElement(element)
    with _messages_on_standard_error() as messages:
        pixels = image.GetBuffer()
    damage = [line for line in messages if line.startswith(_DAMAGE) and _HARMLESS_WARNING not in line]
    if damage and syntax in JPEG:
        raise ConversionError(f"its code stream is damaged: {damage[0]}")
    if not isinstance(pixels, str):
        raise ConversionError(f"the decoder refused it{': ' + messages[-1] if messages else ''}")
    # GDCM's wrapper takes a buffer for text; this is how its bytes come back.
    return pixels.encode("utf-8", "surrogateescape")


@contextlib.contextmanager
def _messages_on_standard_error() -> Iterator[list[str]]:
    """Collect what the C libraries complain about: it is the only place where libjpeg says that data is damaged."""
    messages: list[str] = []
    with tempfile.TemporaryFile() as collected:  # no memfd_create: Linux 3.10 and glibc 2.17 do not have it
        before = os.dup(2)
        os.dup2(collected.fileno(), 2)
        try:
            yield messages
        finally:
            os.dup2(before, 2)
            os.close(before)
            collected.seek(0)
            messages += collected.read(1 << 16).decode("utf-8", "replace").splitlines()
