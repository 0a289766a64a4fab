"""An XA/XRF Grayscale Softcopy Presentation State that subtracts a run."""

from array import array
from math import log1p

from pydicom.dataset import Dataset
from pydicom.uid import UID

from angiovault.phantom.angiography import LOG_SCALE
from angiovault.phantom.identity import Study
from angiovault.phantom.noise import LEVELS

XA_XRF_PRESENTATION_STATE = UID("1.2.840.10008.5.1.4.1.1.11.5")


def grayscale_presentation_state(
    study: Study, series_number: int, referenced: Dataset, label: str = "SUBTRACTED"
) -> Dataset:
    """Return an XA/XRF GSPS (PS3.3 A.33.6): the run's mask, with a pixel shift of its own for a region.

    Outside the region the shift is that of the run; inside, a quarter of a pixel is added.
    """
    state = study.instance(XA_XRF_PRESENTATION_STATE, "PR", series_number, 1, "Presentation states")
    created = study.time_of_series(series_number)
    state.PresentationCreationDate = f"{created:%Y%m%d}"
    state.PresentationCreationTime = f"{created:%H%M%S}"
    state.ContentLabel = label
    state.ContentDescription = "Subtraction with pixel shift"
    study.set_text(state, "ContentCreatorName", study.referring_physician)
    image = _reference(referenced)
    series = Dataset()
    series.SeriesInstanceUID = referenced.SeriesInstanceUID
    series.ReferencedImageSequence = [image]
    state.ReferencedSeriesSequence = [series]
    state.MaskSubtractionSequence = [_mask(referenced)]
    state.RecommendedViewingMode = "SUB"
    area = Dataset()
    area.ReferencedImageSequence = [_reference(referenced)]
    area.add_new(0x00700052, "SL", [1, 1])
    area.add_new(0x00700053, "SL", [referenced.Columns, referenced.Rows])
    area.PresentationSizeMode = "SCALE TO FIT"
    area.PresentationPixelAspectRatio = ["1", "1"]
    state.DisplayedAreaSelectionSequence = [area]
    window = Dataset()
    window.WindowCenter, window.WindowWidth = "0", "800"
    window.WindowCenterWidthExplanation = "Subtracted"
    state.SoftcopyVOILUTSequence = [window]
    state.PresentationLUTShape = "IDENTITY"
    return state


def _reference(referenced: Dataset) -> Dataset:
    image = Dataset()
    image.ReferencedSOPClassUID = referenced.SOPClassUID
    image.ReferencedSOPInstanceUID = referenced.SOPInstanceUID
    return image


def _mask(referenced: Dataset) -> Dataset:
    """Return the item of the XA/XRF Presentation State Mask module (PS3.3 C.11.19)."""
    run = referenced.MaskSubtractionSequence[0]
    mask = Dataset()
    mask.MaskOperation = run.MaskOperation
    mask.ApplicableFrameRange = list(run.ApplicableFrameRange)
    mask.MaskFrameNumbers = run.MaskFrameNumbers
    mask.ContrastFrameAveraging = run.ContrastFrameAveraging
    down, left = run.MaskSubPixelShift
    rows, columns = referenced.Rows, referenced.Columns
    everywhere, region = Dataset(), Dataset()
    everywhere.MaskSubPixelShift = [down, left]
    region.VerticesOfTheRegion = [
        vertex
        for row, column in ((1, 1), (1, columns // 2), (rows // 2, columns // 2), (rows // 2, 1))
        for vertex in (row, column)
    ]
    region.MaskSubPixelShift = [down + 0.25, left + 0.25]
    shift = Dataset()
    shift.PixelShiftFrameRange = list(run.ApplicableFrameRange)
    shift.RegionPixelShiftSequence = [everywhere, region]
    mask.PixelShiftSequence = [shift]
    if referenced.PixelIntensityRelationship != "LOG":
        mask.PixelIntensityRelationshipLUTSequence = [_to_log(int(referenced.NumberOfFrames))]
    return mask


def _to_log(frames: int) -> Dataset:
    """Return the table that leads LIN pixels to the logarithm, where subtraction takes place (PS3.4 N.2.5)."""
    lut = Dataset()
    lut.LUTFrameRange = [1, frames]
    lut.add_new(0x00283002, "US", [LEVELS, 0, 16])
    lut.LUTFunction = "TO_LOG"
    table = array("H", (round(LOG_SCALE * log1p(value)) for value in range(LEVELS)))
    lut.add_new(0x00283006, "OW", table.tobytes())
    return lut
