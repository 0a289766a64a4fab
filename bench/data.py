"""The data that is sent: studies made once and kept, with heads as long as those of real images.

Pixels are noise, since none of the peers looks into them. The bytes depend on nothing but this module.
"""

import hashlib
import random
import shutil
from dataclasses import dataclass
from pathlib import Path

from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    UID,
    CTImageStorage,
    ExplicitVRLittleEndian,
    MRImageStorage,
    SecondaryCaptureImageStorage,
    XRayAngiographicImageStorage,
    generate_uid,
)

_PRIVATE_ELEMENTS = 24
_PRIVATE_LENGTH = 40
_VERSION = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:8]


@dataclass(frozen=True)
class Kind:
    """One kind of image: its class and the shape of its pixels, 16 bits each."""

    name: str
    title: str
    sop_class: str
    modality: str
    side: int
    frames: int = 1

    @property
    def pixel_bytes(self) -> int:
        return self.side * self.side * 2 * self.frames


XA = Kind("xa", "XA runs 1024²×10", XRayAngiographicImageStorage, "XA", 1024, 10)
CT = Kind("ct", "CT slices 512²", CTImageStorage, "CT", 512)
MR = Kind("mr", "MR slices 128²", MRImageStorage, "MR", 128)
TINY = Kind("tiny", "images 8²", SecondaryCaptureImageStorage, "OT", 8)


@dataclass(frozen=True)
class Study:
    """A study on disk, all of its instances in one series."""

    uid: str
    series_uid: str
    paths: tuple[Path, ...]


def studies(cache: Path, kind: Kind, count: int, instances: int) -> tuple[Study, ...]:
    """Return `count` studies of `instances` images each, made in the folder `cache` unless they are there already."""
    folder = cache / f"{kind.name}-{count}x{instances}-{_VERSION}"
    wanted = tuple(_study(folder, kind, number, instances) for number in range(count))
    if not folder.exists():
        unfinished = folder.with_name(folder.name + ".unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        for number in range(count):
            _write_study(_study(unfinished, kind, number, instances), kind, number)
        unfinished.rename(folder)
    return wanted


def _study(folder: Path, kind: Kind, number: int, instances: int) -> Study:
    paths = tuple(folder / f"{number:04}" / f"{image:04}.dcm" for image in range(instances))
    return Study(uid(kind, number, "study"), uid(kind, number, "series"), paths)


def uid(kind: Kind, study: int, *what: object) -> UID:
    """Return the UID of something in a study: always the same, and no other's."""
    return generate_uid(entropy_srcs=[kind.name, str(study), *map(str, what)])


def _write_study(study: Study, kind: Kind, number: int) -> None:
    source = random.Random(f"{kind.name} {number}")
    pixels = source.randbytes(kind.pixel_bytes)
    data_set = head(kind, number, source)
    for image, path in enumerate(study.paths):
        path.parent.mkdir(parents=True, exist_ok=True)
        data_set.SOPInstanceUID = data_set.file_meta.MediaStorageSOPInstanceUID = uid(kind, number, "image", image)
        data_set.InstanceNumber = image + 1
        data_set.PixelData = pixels
        data_set.save_as(path, enforce_file_format=True)


def head(kind: Kind, number: int, source: random.Random) -> FileDataset:
    """Return a data set of about 100 elements without pixel data; `number` is that of its study."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = UID(kind.sop_class)
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made = FileDataset("", {}, file_meta=meta, preamble=bytes(128))
    made.SpecificCharacterSet = "ISO_IR 100"
    made.SOPClassUID = kind.sop_class
    for name, value in _identity(kind, number).items():
        setattr(made, name, value)
    for name, value in _technique(kind).items():
        setattr(made, name, value)
    made.ReferencedPerformedProcedureStepSequence = Sequence([_reference(kind, number, "step")])
    made.RequestAttributesSequence = Sequence([_request(number)])
    if kind.frames > 1:
        made.NumberOfFrames = kind.frames
        made.FrameIncrementPointer = 0x00181063
        made.FrameTime = "133.3"
    private = made.private_block(0x0029, "BENCH HEADER", create=True)
    for element in range(_PRIVATE_ELEMENTS):
        private.add_new(element, "LO", source.randbytes(_PRIVATE_LENGTH // 2).hex())
    return made


def _identity(kind: Kind, number: int) -> dict[str, object]:
    return {
        "PatientName": f"BENCH^PATIENT {number:04}",
        "PatientID": f"{kind.name.upper()}{number:06}",
        "PatientBirthDate": "19570814",
        "PatientSex": "F",
        "PatientAge": "069Y",
        "PatientWeight": "71.5",
        "PatientSize": "1.68",
        "StudyInstanceUID": uid(kind, number, "study"),
        "StudyDate": f"2026{1 + number % 12:02}{1 + number % 28:02}",
        "StudyTime": f"{number % 24:02}3015.250000",
        "StudyID": f"S{number}",
        "AccessionNumber": f"A{number:08}",
        "StudyDescription": "Cerebral angiography",
        "ReferringPhysicianName": "WANG^FANG",
        "PerformingPhysicianName": "LI^NA",
        "OperatorsName": "CHEN^JIE",
        "SeriesInstanceUID": uid(kind, number, "series"),
        "SeriesNumber": 1,
        "SeriesDate": "20261122",
        "SeriesTime": "103020.000000",
        "SeriesDescription": "Left carotid lateral",
        "Modality": kind.modality,
        "AcquisitionDate": "20261122",
        "AcquisitionTime": "103021.000000",
        "ContentDate": "20261122",
        "ContentTime": "103022.500000",
        "FrameOfReferenceUID": uid(kind, number, "frame of reference"),
        "ImageType": ["ORIGINAL", "PRIMARY", "SINGLE PLANE"],
        "Manufacturer": "Bench",
        "ManufacturerModelName": "Generator",
        "StationName": "LAB1",
        "InstitutionName": "Bench Hospital",
        "InstitutionAddress": "1 Bench Road",
        "InstitutionalDepartmentName": "Interventional Radiology",
        "DeviceSerialNumber": "100200",
        "SoftwareVersions": ["VE10", "SP2"],
        "ProtocolName": "Carotis 4 f/s",
        "BodyPartExamined": "HEAD",
    }


def _technique(kind: Kind) -> dict[str, object]:
    return {
        "KVP": "80",
        "ExposureTime": "120",
        "XRayTubeCurrent": "400",
        "Exposure": "48",
        "DistanceSourceToDetector": "1200",
        "DistanceSourceToPatient": "800",
        "ImagerPixelSpacing": ["0.308", "0.308"],
        "PositionerPrimaryAngle": "-90.5",
        "PositionerSecondaryAngle": "0.2",
        "RadiationSetting": "GR",
        "IntensifierSize": "420",
        "PatientPosition": "HFS",
        "ImageOrientationPatient": ["1", "0", "0", "0", "1", "0"],
        "ImagePositionPatient": ["-120.5", "-118.25", "44.0"],
        "PixelSpacing": ["0.46875", "0.46875"],
        "SliceThickness": "1.0",
        "PatientOrientation": ["L", "F"],
        "AcquisitionNumber": 1,
        "ImageComments": "Made by the bench",
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "Rows": kind.side,
        "Columns": kind.side,
        "BitsAllocated": 16,
        "BitsStored": 16,
        "HighBit": 15,
        "PixelRepresentation": 0,
        "PixelIntensityRelationship": "LIN",
        "WindowCenter": "32768",
        "WindowWidth": "65535",
        "RescaleIntercept": "0",
        "RescaleSlope": "1",
    }


def _reference(kind: Kind, number: int, what: str) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = "1.2.840.10008.3.1.2.3.3"
    item.ReferencedSOPInstanceUID = uid(kind, number, what)
    return item


def _request(number: int) -> Dataset:
    item = Dataset()
    item.RequestedProcedureID = f"RP{number}"
    item.ScheduledProcedureStepID = f"SPS{number}"
    item.ScheduledProcedureStepDescription = "Cerebral angiography"
    return item
