"""Small images in every compression that the service can undo, encoded here, with the pixels they must decode to."""

from __future__ import annotations

import hashlib
import json
import struct
from array import array
from pathlib import Path
from typing import Final

import gdcm
from pydicom import Dataset, dcmread
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, XRayAngiographicImageStorage

from angiovault.archive.conversion.worker import convert

LOSSLESS: Final = {
    "JPEG Lossless, SV1": gdcm.TransferSyntax.JPEGLosslessProcess14_1,
    "JPEG-LS": gdcm.TransferSyntax.JPEGLSLossless,
    "JPEG 2000": gdcm.TransferSyntax.JPEG2000Lossless,
    "RLE": gdcm.TransferSyntax.RLELossless,
}
BASELINE: Final = "JPEG Baseline"
SIZE: Final = 64
_WORST: Final = 24
"""Grey values by which lossy pixels may be off."""


def make(folder: Path) -> None:
    """Write the images into a folder, and samples.json: name -> file and SHA-256 of its native pixel data.

    Raises
    ------
    RuntimeError
        If they cannot be encoded, or what they decode to is not what was encoded.
    """
    table: dict[str, dict[str, str]] = {}
    deep, shallow = folder / "deep.dcm", folder / "shallow.dcm"
    pixels = _write(deep, bits=12)
    _write(shallow, bits=8)
    for name, syntax in LOSSLESS.items():
        file = _encode(deep, syntax, folder / f"{name}.dcm")
        table[name] = {"file": file.name, "pixels": hashlib.sha256(pixels).hexdigest()}
    lossy = _encode(shallow, gdcm.TransferSyntax.JPEGBaselineProcess1, folder / f"{BASELINE}.dcm")
    table[BASELINE] = {"file": lossy.name, "pixels": hashlib.sha256(_decoded(lossy, shallow)).hexdigest()}
    (folder / "samples.json").write_text(json.dumps(table), encoding="utf-8")


def _write(path: Path, bits: int) -> bytes:
    """Write an image with a vessel-like gradient and a little texture; return its pixel data."""
    top = (1 << bits) - 1
    values = [
        min(top, (x * y * top // SIZE**2 + (x * 31 ^ y * 17) % (1 << bits - 6)))
        for y in range(SIZE)
        for x in range(SIZE)
    ]
    pixels = bytes(values) if bits == 8 else array("H", values).tobytes()
    image = Dataset()
    image.SOPClassUID, image.SOPInstanceUID = XRayAngiographicImageStorage, f"2.25.{bits}"
    image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
    image.Rows = image.Columns = SIZE
    image.BitsAllocated = 8 if bits == 8 else 16
    image.BitsStored, image.HighBit, image.PixelRepresentation = bits, bits - 1, 0
    image.PixelData = pixels
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image.save_as(path, enforce_file_format=True)
    return pixels


def _encode(source: Path, syntax: int, path: Path) -> Path:
    reader, change, writer = gdcm.ImageReader(), gdcm.ImageChangeTransferSyntax(), gdcm.ImageWriter()
    reader.SetFileName(str(source))
    if not reader.Read():
        raise RuntimeError(f"GDCM cannot read {source}")
    change.SetTransferSyntax(gdcm.TransferSyntax(syntax))
    change.SetInput(reader.GetImage())
    if not change.Change():
        raise RuntimeError(f"GDCM cannot encode {path.stem}")
    writer.SetFileName(str(path))
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    if not writer.Write():
        raise RuntimeError(f"GDCM cannot write {path.stem}")
    return path


def _decoded(lossy: Path, original: Path) -> bytes:
    """Return what a lossy image decodes to here, near enough to the original."""
    result = lossy.with_suffix(".native")
    with lossy.open("rb") as stored, result.open("w+b") as native:
        convert(stored, native, ExplicitVRLittleEndian, lossy.parent)
    data = result.read_bytes()
    pixels = data[-(SIZE**2) :]
    length = struct.pack("<L", SIZE**2)
    worst = max(abs(a - b) for a, b in zip(pixels, dcmread(original).PixelData, strict=True))
    if not data[: -(SIZE**2)].endswith(length) or worst > _WORST:
        raise RuntimeError(f"{BASELINE}: decoded pixels are off by {worst}")
    return pixels
