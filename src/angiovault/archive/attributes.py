"""The attributes that the index keeps of a data set, once: everything that can be a key of a query or is answered."""

from __future__ import annotations

from typing import Final

from pydicom.datadict import dictionary_VR, tag_for_keyword

_KEYWORDS: Final = {
    "PATIENT": """
        PatientName PatientID IssuerOfPatientID PatientBirthDate PatientBirthTime PatientSex OtherPatientIDs
        OtherPatientNames OtherPatientIDsSequence EthnicGroup PatientComments""",
    "STUDY": """
        StudyDate StudyTime AccessionNumber ReferringPhysicianName StudyDescription ProcedureCodeSequence
        PhysiciansOfRecord NameOfPhysiciansReadingStudy AdmittingDiagnosesDescription PatientAge PatientSize
        PatientWeight Occupation AdditionalPatientHistory StudyInstanceUID StudyID StudyComments""",
    "SERIES": """
        SeriesDate SeriesTime Modality PresentationIntentType Manufacturer InstitutionName StationName
        SeriesDescription InstitutionalDepartmentName PerformingPhysicianName OperatorsName ManufacturerModelName
        BodyPartExamined DeviceSerialNumber ProtocolName PatientPosition SeriesInstanceUID SeriesNumber
        FrameOfReferenceUID Laterality PerformedProcedureStepStartDate PerformedProcedureStepStartTime
        PerformedProcedureStepID PerformedProcedureStepDescription RequestAttributesSequence""",
    "IMAGE": """
        SpecificCharacterSet ImageType InstanceCreationDate InstanceCreationTime SOPClassUID SOPInstanceUID
        AcquisitionDate ContentDate AcquisitionDateTime AcquisitionTime ContentTime TimezoneOffsetFromUTC
        AcquisitionNumber InstanceNumber ImageComments SamplesPerPixel PhotometricInterpretation NumberOfFrames Rows
        Columns BitsAllocated LossyImageCompression ConceptNameCodeSequence CompletionFlag VerificationFlag
        ContentLabel ContentDescription PresentationCreationDate PresentationCreationTime ContentCreatorName""",
}

WANTED: Final[dict[int, tuple[str, str]]] = {
    tag: (level, dictionary_VR(tag))
    for level, keywords in _KEYWORDS.items()
    for tag in map(tag_for_keyword, keywords.split())
    if tag is not None
}
"""Tag -> (query/retrieve level of PS3.4 C.6.1.1, VR): everything the index knows of a data set."""
