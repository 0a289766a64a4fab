"""Who and what a phantom study is about: patient, study, and the modules that every instance shares."""

import random
import uuid
from dataclasses import dataclass
from datetime import datetime, timedelta

from pydicom.dataset import Dataset
from pydicom.uid import UID

from angiovault import __version__

_UID_NAMESPACE = uuid.UUID("6f1d3f0c-6b0e-5d53-9d35-0f6a54a7c9d1")

_CODECS = {"": "ascii", "ISO_IR 100": "latin-1", "ISO_IR 192": "utf-8", "GB18030": "gb18030", "GBK": "gbk"}
"""Specific Character Set (0008,0005) → Python codec."""


@dataclass(frozen=True)
class Patient:
    """A phantom patient. `name` has its component groups divided by '=', its components by '^' (PS3.5 6.2.1).

    `character_set` is the value of (0008,0005), empty for none. `codec` is the Python codec of the stored text where
    it is not the declared one: bytes in another encoding than their label says are a fact of life in archives.
    """

    name: str
    patient_id: str
    birth_date: str
    sex: str
    character_set: str = ""
    codec: str = ""

    def encoded(self, text: str) -> bytes:
        """Return `text` as this patient's data sets store it."""
        return text.encode(self.codec or _CODECS[self.character_set])


@dataclass(frozen=True)
class Study:
    """A phantom study; every UID and every random choice in it follows from `seed`, patient and `number`."""

    patient: Patient
    number: int
    start: datetime
    description: str = ""
    referring_physician: str = ""
    seed: int = 1

    def uid(self, *path: object) -> UID:
        """Return the UID of the part of the study that `path` names: a UUID under 2.25 (PS3.5 B.2)."""
        name = "/".join(map(str, (self.seed, self.patient.patient_id, self.number, *path)))
        return UID(f"2.25.{uuid.uuid5(_UID_NAMESPACE, name).int}")

    def random(self, *path: object) -> random.Random:
        """Return the random numbers of the part of the study that `path` names."""
        return random.Random(str(self.uid("random", *path)))  # noqa: S311 (pictures, no secrets)

    def time_of_series(self, series_number: int) -> datetime:
        """Return when a series was acquired: a few minutes after the one before."""
        return self.start + timedelta(minutes=4 * series_number, seconds=17 * series_number % 60)

    def instance(
        self, sop_class: str, modality: str, series_number: int, instance_number: int, series_description: str = ""
    ) -> Dataset:
        """Return a data set with the Patient, Study, Series, Equipment and SOP Common modules (PS3.3 C.7, C.12.1)."""
        dataset = Dataset()
        acquired = self.time_of_series(series_number)
        if self.patient.character_set:
            dataset.SpecificCharacterSet = self.patient.character_set
        dataset.SOPClassUID = UID(sop_class)
        dataset.SOPInstanceUID = self.uid("series", series_number, "instance", instance_number)
        dataset.InstanceCreationDate = f"{acquired:%Y%m%d}"
        dataset.InstanceCreationTime = f"{acquired:%H%M%S}"
        dataset.StudyInstanceUID = self.uid()
        dataset.SeriesInstanceUID = self.uid("series", series_number)
        dataset.StudyDate = f"{self.start:%Y%m%d}"
        dataset.StudyTime = f"{self.start:%H%M%S}"
        dataset.SeriesDate = dataset.ContentDate = f"{acquired:%Y%m%d}"
        dataset.SeriesTime = dataset.ContentTime = f"{acquired:%H%M%S}"
        dataset.AccessionNumber = f"A{self.start:%y%m%d}{self.number:03d}"
        dataset.StudyID = str(self.number)
        dataset.Modality = modality
        dataset.SeriesNumber = series_number
        dataset.InstanceNumber = instance_number
        dataset.PatientID = self.patient.patient_id
        dataset.PatientBirthDate = self.patient.birth_date
        dataset.PatientSex = self.patient.sex
        dataset.Manufacturer = "AngioVault"
        dataset.ManufacturerModelName = "Phantom"
        dataset.DeviceSerialNumber = "1"
        dataset.SoftwareVersions = __version__
        dataset.StationName = "PHANTOM"
        dataset.InstitutionName = "AngioVault phantom laboratory"
        self.set_text(dataset, "PatientName", self.patient.name)
        self.set_text(dataset, "ReferringPhysicianName", self.referring_physician)
        self.set_text(dataset, "StudyDescription", self.description)
        if series_description:
            self.set_text(dataset, "SeriesDescription", series_description)
        return dataset

    def set_text(self, dataset: Dataset, keyword: str, text: str) -> None:
        """Set a text attribute so that the patient's stored encoding is what is written, whatever the label says.

        Where the label is missing or wrong, `dataset` holds the characters that its bytes stand for by the label.
        """
        declared = _CODECS[self.patient.character_set] if self.patient.character_set else "latin-1"
        setattr(dataset, keyword, self.patient.encoded(text).decode(declared))
