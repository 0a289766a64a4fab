"""X-ray angiographic runs: a DSA run with its mask, and the rotational run of a 3D acquisition."""

from __future__ import annotations  # array[int] cannot be subscripted at run time before Python 3.12

from array import array
from collections.abc import Sequence
from math import exp, log, log1p

from pydicom.dataset import Dataset
from pydicom.uid import XRayAngiographicImageStorage

from angiovault.phantom.anatomy import FIELD, Anatomy, intensities, shifted
from angiovault.phantom.identity import Study
from angiovault.phantom.noise import LEVELS, QuantumNoise
from angiovault.phantom.private import add_acquisition_block, add_medcom_header
from angiovault.phantom.scenes import HEAD
from angiovault.phantom.vessels import Bed, arterial, bed, pools, venous
from angiovault.phantom.volume import HEAD_VOLUME, Ellipsoid, Projector

SOURCE_TO_DETECTOR = 1200.0
SOURCE_TO_PATIENT = 785.0
MAGNIFICATION = SOURCE_TO_DETECTOR / SOURCE_TO_PATIENT

DARKEST, BRIGHTEST = 100, 3800
"""Intensities are kept here, so that contrast and noise stay within 12 bits."""
LOG_SCALE = (LEVELS - 1) / log(LEVELS)
"""LOG pixel value = LOG_SCALE · ln(1 + LIN pixel value)."""
MASK_FRAMES = 3
TUBE_VOLTAGE, TUBE_CURRENT, PULSE_WIDTH = 73, 340, 85.0
"""kV, mA and ms."""
AREA_DOSE_PER_FRAME = 0.21
"""dGy·cm²."""


def dsa_run(
    study: Study,
    series_number: int,
    *,
    anatomy: Anatomy = HEAD,
    frames: int = 20,
    rows: int = 512,
    columns: int = 512,
    relationship: str = "LIN",
    shift: tuple[float, float] = (0.6, -0.8),
    angles: tuple[float, float] = (0.0, 0.0),
    description: str = "DSA",
) -> Dataset:
    """Return a DSA run (XA Image Storage, PS3.3 A.14): mask frames, then a bolus flowing through a vessel tree.

    Parameters
    ----------
    relationship
        Pixel Intensity Relationship: LIN (pixel ∝ intensity) or LOG (pixel ∝ its logarithm).
    shift
        How the patient moved after the mask frames, as the Mask Sub-pixel Shift that makes up for it: rows down and
        columns to the left.
    angles
        Positioner Primary and Secondary Angle, degrees.
    """
    if frames <= MASK_FRAMES:
        raise ValueError(f"a DSA run has more than {MASK_FRAMES} frames, not {frames}")
    dataset = _xa_image(study, series_number, frames, rows, columns, relationship, description)
    increments = frame_time_vector(frames)
    dataset.FrameIncrementPointer = 0x00181065
    dataset.FrameTimeVector = increments
    dataset.ActualFrameDuration = round(sum(increments) / (frames - 1))
    dataset.RecommendedDisplayFrameRate = 4
    dataset.BodyPartExamined = anatomy.body_part
    if anatomy.laterality:
        dataset.Laterality = anatomy.laterality
    dataset.ContrastBolusAgent = "Iodinated phantom contrast"
    dataset.ContrastBolusRoute = "IA"
    dataset.RepresentativeFrameNumber = min(frames, 3 * MASK_FRAMES)
    _add_positioner(dataset, angles)
    dataset.PositionerMotion = "STATIC"
    _add_mask_module(dataset, shift)
    dataset.WindowCenter, dataset.WindowWidth = ("1300", "2600") if relationship == "LIN" else ("3300", "1500")
    dataset.add_new(0x7FE00010, "OW", _dsa_pixels(study, series_number, anatomy, dataset, shift))
    return dataset


def rotational_run(
    study: Study,
    series_number: int,
    *,
    frames: int = 133,
    rows: int = 256,
    columns: int = 256,
    sweep: tuple[float, float] = (-100.0, 98.5),
    ellipsoids: Sequence[Ellipsoid] = HEAD_VOLUME,
    description: str = "3D rotation",
) -> Dataset:
    """Return a rotational run: cone beam projections of ellipsoids, LOG, one frame per angle from first to last.

    The geometry is exact, so that a reconstruction gives the ellipsoids back. At the angle θ the source is at
    -SOD·n and the detector at (SID - SOD)·n, n = (sin θ, -cos θ, 0) in patient coordinates (+x left, +y back, +z
    head, the isocentre being the origin); columns run along (cos θ, sin θ, 0) and rows along -z.
    """
    if frames < 2:
        raise ValueError(f"a rotational run has at least two frames, not {frames}")
    first, last = sweep
    turned = [round((last - first) * number / (frames - 1), 3) for number in range(frames)]
    dataset = _xa_image(study, series_number, frames, rows, columns, "LOG", description)
    dataset.FrameIncrementPointer = 0x00181063
    dataset.FrameTime = "33.33"
    dataset.ActualFrameDuration = 33
    dataset.CineRate = 30
    dataset.BodyPartExamined = "HEAD"
    _add_positioner(dataset, (first, 0.0))
    dataset.PositionerMotion = "DYNAMIC"
    dataset.PositionerPrimaryAngleIncrement = turned
    dataset.PositionerSecondaryAngleIncrement = [0.0] * frames
    dataset.ContrastBolusAgent = "Iodinated phantom contrast"
    dataset.WindowCenter, dataset.WindowWidth = "2700", "2600"
    projector = Projector(
        ellipsoids, rows, columns, FIELD * MAGNIFICATION, SOURCE_TO_DETECTOR, SOURCE_TO_PATIENT, LOG_SCALE, BRIGHTEST
    )
    noise = QuantumNoise(projector.background, log_variance)
    rng = study.random("noise", series_number)
    pixels = bytearray()
    for turn in turned:
        pixels += noise.add(projector.frame(first + turn), rng)
    dataset.add_new(0x7FE00010, "OW", bytes(pixels))
    return dataset


def frame_time_vector(frames: int) -> list[float]:
    """Return the time from the frame before (ms): 4 frames a second for the arteries, then 2 for the veins."""
    return [0.0] + [250.0 if number < 0.6 * frames else 500.0 for number in range(1, frames)]


def lin_variance(value: int) -> float:
    """Return the noise of a LIN pixel: quanta counted in units of 0.15, and the detector's own."""
    return 0.15 * value + 4.0


def log_variance(value: int) -> float:
    """Return the noise of a LOG pixel: that of the intensity, through the slope of the logarithm."""
    intensity = max(float(DARKEST) / 2, exp(value / LOG_SCALE) - 1)
    return float((LOG_SCALE / (1 + intensity)) ** 2 * lin_variance(round(intensity)))


def _xa_image(
    study: Study, series_number: int, frames: int, rows: int, columns: int, relationship: str, description: str
) -> Dataset:
    """Return the modules that both kinds of run share: Image Pixel, X-Ray Image, X-Ray Acquisition, private blocks."""
    if relationship not in ("LIN", "LOG"):
        raise ValueError(f"Pixel Intensity Relationship is LIN or LOG, not {relationship!r}")
    dataset = study.instance(XRayAngiographicImageStorage, "XA", series_number, 1, description)
    acquired = study.time_of_series(series_number)
    dataset.AcquisitionDate = f"{acquired:%Y%m%d}"
    dataset.AcquisitionTime = f"{acquired:%H%M%S}"
    dataset.AcquisitionNumber = series_number
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "SINGLE PLANE"]
    dataset.LossyImageCompression = "00"
    dataset.IrradiationEventUID = study.uid("series", series_number, "irradiation")
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.NumberOfFrames = frames
    dataset.Rows = rows
    dataset.Columns = columns
    dataset.BitsAllocated = 16
    dataset.BitsStored = 12
    dataset.HighBit = 11
    dataset.PixelRepresentation = 0
    dataset.PixelIntensityRelationship = relationship
    if relationship == "LOG":
        dataset.ModalityLUTSequence = [_to_linear()]
    dataset.KVP = str(TUBE_VOLTAGE)
    dataset.XRayTubeCurrent = TUBE_CURRENT
    dataset.AveragePulseWidth = str(PULSE_WIDTH)
    dataset.ExposureTime = round(frames * PULSE_WIDTH)
    dataset.RadiationSetting = "GR"
    dataset.RadiationMode = "PULSED"
    dataset.ImageAndFluoroscopyAreaDoseProduct = f"{frames * AREA_DOSE_PER_FRAME:.3f}"
    detector = FIELD * MAGNIFICATION
    dataset.FieldOfViewShape = "RECTANGLE"
    dataset.FieldOfViewDimensions = [round(detector), round(detector)]
    dataset.ImagerPixelSpacing = [f"{detector / rows:.6f}", f"{detector / columns:.6f}"]
    dataset.TableMotion = "STATIC"
    add_acquisition_block(dataset, frames)
    add_medcom_header(dataset, study.random("private", series_number), "XA")
    return dataset


def _to_linear() -> Dataset:
    """Return the item of Modality LUT Sequence that leads LOG values back to intensity (PS3.3 C.8.7.1.1.2)."""
    table = array("H", (min(0xFFFF, round(16 * (exp(value / LOG_SCALE) - 1))) for value in range(LEVELS)))
    lut = Dataset()
    lut.add_new(0x00283002, "US", [LEVELS, 0, 16])
    lut.LUTExplanation = "LOG to LIN"
    lut.ModalityLUTType = "US"
    lut.add_new(0x00283006, "OW", table.tobytes())
    return lut


def _add_positioner(dataset: Dataset, angles: tuple[float, float]) -> None:
    """Add the XA Positioner module (PS3.3 C.8.7.5), and what the angle means for the sides of the picture."""
    side = "P" if angles[0] > 45 else "A" if angles[0] < -45 else "L"
    dataset.PatientOrientation = [side, "F"]
    dataset.DistanceSourceToDetector = str(SOURCE_TO_DETECTOR)
    dataset.DistanceSourceToPatient = str(SOURCE_TO_PATIENT)
    dataset.EstimatedRadiographicMagnificationFactor = f"{MAGNIFICATION:.6f}"
    dataset.PositionerPrimaryAngle, dataset.PositionerSecondaryAngle = (f"{angle:.1f}" for angle in angles)


def _add_mask_module(dataset: Dataset, shift: tuple[float, float]) -> None:
    """Add the Mask module (PS3.3 C.7.6.10): the average of the mask frames but the first, moved with the patient."""
    item = Dataset()
    item.MaskOperation = "AVG_SUB"
    item.ApplicableFrameRange = [MASK_FRAMES + 1, int(dataset.NumberOfFrames)]
    item.MaskFrameNumbers = list(range(2, MASK_FRAMES + 1))
    item.ContrastFrameAveraging = 1
    item.MaskSubPixelShift = list(shift)
    item.MaskOperationExplanation = "Average of the mask frames after the first"
    dataset.MaskSubtractionSequence = [item]
    dataset.RecommendedViewingMode = "SUB"


def contrast_beds(study: Study, series_number: int, anatomy: Anatomy, rows: int, columns: int) -> list[Bed]:
    """Return the places that contrast reaches in a run of `anatomy`: arteries, pools and veins."""
    rng = study.random("vessels", series_number)
    edge = anatomy.bounds

    def inside(x: float, y: float) -> bool:
        return ((x - edge.x) / edge.a) ** 2 + ((y - edge.y) / edge.b) ** 2 < 1

    return [
        bed(anatomy.arteries, arterial, rows, columns, FIELD, rng, inside),
        pools(anatomy.sacs, rows, columns, FIELD, rng),
        bed(anatomy.veins, venous, rows, columns, FIELD, rng, inside),
    ]


def _dsa_pixels(
    study: Study, series_number: int, anatomy: Anatomy, dataset: Dataset, shift: tuple[float, float]
) -> bytes:
    """Return the frames: the anatomy once at rest and once moved; per frame only where contrast flows is computed."""
    rows, columns, linear = dataset.Rows, dataset.Columns, dataset.PixelIntensityRelationship == "LIN"
    still = intensities(anatomy, rows, columns, study.random("texture", series_number))
    moved = shifted(still, *shift)
    variance = lin_variance if linear else log_variance
    mask, plain = _levels(still, linear), _levels(moved, linear)
    noise = QuantumNoise(plain, variance)  # for the mask frames too: they differ by a pixel's shift
    beds = contrast_beds(study, series_number, anatomy, rows, columns)
    rng = study.random("noise", series_number)
    increments = [float(increment) / 1000 for increment in dataset.FrameTimeVector]
    injection = sum(increments[: MASK_FRAMES + 1]) - 0.15
    pixels = bytearray()
    for number in range(len(increments)):
        if number < MASK_FRAMES:
            pixels += noise.add(mask, rng)
            continue
        frame = plain[:]
        _add_contrast(frame, beds, sum(increments[: number + 1]) - injection, linear)
        pixels += noise.add(frame, rng)
    return bytes(pixels)


def _levels(image: list[list[float]], linear: bool) -> array[int]:
    """Return the pixel values of intensities."""
    levels = array("H")
    for row in image:
        capped = [DARKEST if value < DARKEST else BRIGHTEST if value > BRIGHTEST else value for value in row]
        levels.fromlist(list(map(int, capped)) if linear else [int(LOG_SCALE * log1p(value)) for value in capped])
    return levels


def _add_contrast(frame: array[int], beds: Sequence[Bed], time: float, linear: bool) -> None:
    """Attenuate a frame where contrast is at `time`: I = I0 · exp(-μd), a plain difference where pixels are LOG."""
    for vessels in beds:
        strengths = vessels.strengths(time)
        for index, depth, bucket in zip(vessels.index, vessels.depth, vessels.bucket, strict=True):
            strength = strengths[bucket]
            if strength and linear:
                frame[index] = int(frame[index] * exp(-strength * depth) + 0.5)
            elif strength:
                frame[index] -= int(LOG_SCALE * strength * depth + 0.5)
