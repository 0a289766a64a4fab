"""An X-Ray Radiation Dose SR of a phantom study."""

from collections.abc import Sequence
from datetime import datetime

from pydicom.dataset import Dataset
from pydicom.uid import XRayRadiationDoseSRStorage

from angiovault.phantom.identity import Study

Code = tuple[str, str, str]
"""Code Value, Coding Scheme Designator, Code Meaning."""

_PLANE: Code = ("113622", "DCM", "Single Plane")
_REFERENCE_POINT: Code = ("113860", "DCM", "15cm from Isocenter toward Source")
_DGY_CM2_TO_GY_M2 = 1e-5
_RP_DOSE_PER_AREA_DOSE = 60.0
"""Dose at the reference point per dose area product, Gy per Gy·m²: a field of about 13 cm there."""


def dose_report(study: Study, series_number: int, runs: Sequence[Dataset]) -> Dataset:
    """Return an X-Ray Radiation Dose SR (PS3.3 A.35.8) with the irradiation events of `runs` (PS3.16 TID 10001)."""
    report = study.instance(XRayRadiationDoseSRStorage, "SR", series_number, 1, "Dose report")
    report.CompletionFlag = "COMPLETE"
    report.VerificationFlag = "UNVERIFIED"
    report.ReferencedPerformedProcedureStepSequence = []
    report.PerformedProcedureCodeSequence = []
    report.CurrentRequestedProcedureEvidenceSequence = [_evidence(study, runs)]
    report.ValueType = "CONTAINER"
    report.ContinuityOfContent = "SEPARATE"
    report.ConceptNameCodeSequence = [_code(("113701", "DCM", "X-Ray Radiation Dose Report"))]
    report.ContentTemplateSequence = [_template("10001")]
    procedure = _coded("HAS CONCEPT MOD", _dcm("121058", "Procedure reported"), _dcm("113704", "Projection X-Ray"))
    procedure.ContentSequence = [
        _coded("HAS CONCEPT MOD", ("363703001", "SCT", "Has Intent"), ("261004008", "SCT", "Diagnostic Intent"))
    ]
    scope = _coded("HAS OBS CONTEXT", _dcm("113705", "Scope of Accumulation"), _dcm("113014", "Study"))
    scope.ContentSequence = [_uid("HAS PROPERTIES", _dcm("110180", "Study Instance UID"), study.uid())]
    report.ContentSequence = [
        procedure,
        *_observer(study),
        scope,
        _accumulated(runs),
        *(_event(run) for run in runs),
        _coded("CONTAINS", _dcm("113854", "Source of Dose Information"), _dcm("113856", "Automated Data Collection")),
    ]
    return report


def _observer(study: Study) -> list[Dataset]:
    """Return the observer context (TID 1002, 1004): the phantom machine."""
    context = "HAS OBS CONTEXT"
    return [
        _coded(context, _dcm("121005", "Observer Type"), _dcm("121007", "Device")),
        _uid(context, _dcm("121012", "Device Observer UID"), study.uid("device")),
        _text(context, _dcm("121013", "Device Observer Name"), "PHANTOM"),
        _text(context, _dcm("121014", "Device Observer Manufacturer"), "AngioVault"),
        _text(context, _dcm("121015", "Device Observer Model Name"), "Phantom"),
        _text(context, _dcm("121016", "Device Observer Serial Number"), "1"),
    ]


def _accumulated(runs: Sequence[Dataset]) -> Dataset:
    """Return the accumulated dose (TID 10002, 10004, 10007)."""
    area_dose = sum(_area_dose(run) for run in runs)
    seconds = sum(int(run.ExposureTime) for run in runs) / 1000
    container = _container(_dcm("113702", "Accumulated X-Ray Dose Data"), "10002")
    fluoroscopy = 0.0
    container.ContentSequence = [
        _coded("HAS CONCEPT MOD", _dcm("113764", "Acquisition Plane"), _PLANE),
        _number(_dcm("113722", "Dose Area Product Total"), area_dose, "Gy.m2"),
        _number(_dcm("113725", "Dose (RP) Total"), area_dose * _RP_DOSE_PER_AREA_DOSE, "Gy"),
        _number(_dcm("113726", "Fluoro Dose Area Product Total"), fluoroscopy, "Gy.m2"),
        _number(_dcm("113728", "Fluoro Dose (RP) Total"), fluoroscopy, "Gy"),
        _number(_dcm("113730", "Total Fluoro Time"), fluoroscopy, "s"),
        _number(_dcm("113727", "Acquisition Dose Area Product Total"), area_dose, "Gy.m2"),
        _number(_dcm("113729", "Acquisition Dose (RP) Total"), area_dose * _RP_DOSE_PER_AREA_DOSE, "Gy"),
        _number(_dcm("113855", "Total Acquisition Time"), seconds, "s"),
        _number(_dcm("113731", "Total Number of Radiographic Frames"), sum(_frames(run) for run in runs), "1"),
        _coded("CONTAINS", _dcm("113780", "Reference Point Definition"), _REFERENCE_POINT),
    ]
    return container


def _event(run: Dataset) -> Dataset:
    """Return an irradiation event (TID 10003): when, what, from where, how much."""
    rotates = run.PositionerMotion == "DYNAMIC"
    kind = _dcm("113613", "Rotational Acquisition") if rotates else _dcm("113611", "Stationary Acquisition")
    started = datetime.strptime(f"{run.AcquisitionDate}{run.AcquisitionTime}", "%Y%m%d%H%M%S")
    container = _container(_dcm("113706", "Irradiation Event X-Ray Data"), "10003")
    container.ContentSequence = [
        _coded("HAS CONCEPT MOD", _dcm("113764", "Acquisition Plane"), _PLANE),
        _uid("CONTAINS", _dcm("113769", "Irradiation Event UID"), run.IrradiationEventUID),
        _date_time(_dcm("111526", "DateTime Started"), started),
        _coded("CONTAINS", _dcm("113721", "Irradiation Event Type"), kind),
        _text("CONTAINS", _dcm("125203", "Acquisition Protocol"), "Phantom DSA"),
        _coded("CONTAINS", _dcm("113780", "Reference Point Definition"), _REFERENCE_POINT),
        _number(_dcm("122130", "Dose Area Product"), _area_dose(run), "Gy.m2"),
        _number(_dcm("113738", "Dose (RP)"), _area_dose(run) * _RP_DOSE_PER_AREA_DOSE, "Gy"),
        *_geometry(run, rotates),
        _number(_dcm("113733", "KVP"), float(run.KVP), "kV"),
        _number(_dcm("113734", "X-Ray Tube Current"), float(run.XRayTubeCurrent), "mA"),
        _number(_dcm("113793", "Pulse Width"), float(run.AveragePulseWidth), "ms"),
        _number(_dcm("113824", "Exposure Time"), float(run.ExposureTime), "ms"),
        _number(_dcm("113768", "Number of Pulses"), _frames(run), "1"),
        _image(_dcm("113795", "Acquired Image"), run),
    ]
    return container


def _geometry(run: Dataset, rotates: bool) -> list[Dataset]:
    """Return angles and distances of an event (TID 10003B, 10003C)."""
    primary, secondary = float(run.PositionerPrimaryAngle), float(run.PositionerSecondaryAngle)
    items = [
        _number(_dcm("112011", "Positioner Primary Angle"), primary, "deg"),
        _number(_dcm("112012", "Positioner Secondary Angle"), secondary, "deg"),
        _number(_dcm("113748", "Distance Source to Isocenter"), float(run.DistanceSourceToPatient), "mm"),
        _number(_dcm("113750", "Distance Source to Detector"), float(run.DistanceSourceToDetector), "mm"),
    ]
    if rotates:
        end = primary + float(run.PositionerPrimaryAngleIncrement[-1])
        items.insert(2, _number(_dcm("113739", "Positioner Primary End Angle"), end, "deg"))
        items.insert(3, _number(_dcm("113740", "Positioner Secondary End Angle"), secondary, "deg"))
    return items


def _evidence(study: Study, runs: Sequence[Dataset]) -> Dataset:
    evidence = Dataset()
    evidence.StudyInstanceUID = study.uid()
    evidence.ReferencedSeriesSequence = []
    for run in runs:
        series = Dataset()
        series.SeriesInstanceUID = run.SeriesInstanceUID
        series.ReferencedSOPSequence = [_reference(run)]
        evidence.ReferencedSeriesSequence.append(series)
    return evidence


def _reference(run: Dataset) -> Dataset:
    reference = Dataset()
    reference.ReferencedSOPClassUID = run.SOPClassUID
    reference.ReferencedSOPInstanceUID = run.SOPInstanceUID
    return reference


def _area_dose(run: Dataset) -> float:
    return float(run.ImageAndFluoroscopyAreaDoseProduct) * _DGY_CM2_TO_GY_M2


def _frames(run: Dataset) -> int:
    return int(run.NumberOfFrames)


def _dcm(value: str, meaning: str) -> Code:
    return value, "DCM", meaning


def _code(code: Code) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = code
    return item


def _template(identifier: str) -> Dataset:
    item = Dataset()
    item.MappingResource = "DCMR"
    item.TemplateIdentifier = identifier
    return item


def _item(relationship: str, value_type: str, concept: Code) -> Dataset:
    item = Dataset()
    item.RelationshipType = relationship
    item.ValueType = value_type
    item.ConceptNameCodeSequence = [_code(concept)]
    return item


def _container(concept: Code, template: str) -> Dataset:
    item = _item("CONTAINS", "CONTAINER", concept)
    item.ContinuityOfContent = "SEPARATE"
    item.ContentTemplateSequence = [_template(template)]
    return item


def _coded(relationship: str, concept: Code, value: Code) -> Dataset:
    item = _item(relationship, "CODE", concept)
    item.ConceptCodeSequence = [_code(value)]
    return item


def _text(relationship: str, concept: Code, value: str) -> Dataset:
    item = _item(relationship, "TEXT", concept)
    item.TextValue = value
    return item


def _uid(relationship: str, concept: Code, value: str) -> Dataset:
    item = _item(relationship, "UIDREF", concept)
    item.UID = value
    return item


def _date_time(concept: Code, value: datetime) -> Dataset:
    item = _item("CONTAINS", "DATETIME", concept)
    item.DateTime = f"{value:%Y%m%d%H%M%S}"
    return item


def _number(concept: Code, value: float, unit: str) -> Dataset:
    item = _item("CONTAINS", "NUM", concept)
    measured = Dataset()
    measured.NumericValue = f"{value:.6g}"
    measured.MeasurementUnitsCodeSequence = [_code((unit, "UCUM", "no units" if unit == "1" else unit))]
    item.MeasuredValueSequence = [measured]
    return item


def _image(concept: Code, run: Dataset) -> Dataset:
    item = _item("CONTAINS", "IMAGE", concept)
    item.ReferencedSOPSequence = [_reference(run)]
    return item
