"""The studies of the `demo` command."""

from collections.abc import Iterable, Iterator
from datetime import datetime

from pydicom.dataset import Dataset

from angiovault.phantom.angiography import dsa_run, rotational_run
from angiovault.phantom.dose import dose_report
from angiovault.phantom.identity import Patient, Study
from angiovault.phantom.presentation import grayscale_presentation_state
from angiovault.phantom.private import private_objects
from angiovault.phantom.scenes import HEAD, HEAD_LATERAL, KNEE, LIVER
from angiovault.phantom.volume import ct_volume

PATIENTS = (
    Patient("Zhang^San=张^三", "PHANTOM-001", "19610315", "M", "GB18030"),
    Patient("李^秀英", "PHANTOM-002", "19540720", "F", "", codec="gbk"),
    Patient("Wang^Xiaoming=王^小明", "PHANTOM-003", "19720101", "M", "ISO_IR 192"),
    Patient("Müller^Jürgen^^Dr.", "PHANTOM-004", "19481109", "M", "ISO_IR 100"),
)
"""Names in GB18030, in GBK without a declared character set, in UTF-8 and in Latin-1."""


def demo_studies(seed: int = 1, scale: float = 1.0) -> Iterator[tuple[str, Iterable[Dataset]]]:
    """Yield description and instances of each study, made while they are taken.

    `scale` multiplies the sides of the pictures and the number of slices; the same seed gives the same bytes.
    """
    if not 0.05 <= scale <= 4:
        raise ValueError(f"scale is between 0.05 and 4, not {scale}")
    first, second, third, fourth = PATIENTS
    head = Study(first, 1, datetime(2024, 3, 12, 9, 20), "脑血管造影", "赵^医生", seed)
    liver = Study(second, 2, datetime(2024, 3, 13, 14, 5), "肝动脉造影", "钱^医生", seed)
    knee = Study(third, 3, datetime(2024, 3, 14, 10, 40), "下肢动脉造影", "Sun^Doctor=孙^医生", seed)
    follow_up = Study(fourth, 4, datetime(2024, 3, 15, 8, 15), "Zerebrale Angiographie, Nachsorge", "Weiß^Käthe", seed)
    yield "cerebral angiography with 3D rotation, DynaCT and private objects", _head(head, scale)
    yield "hepatic angiography in LOG, names in undeclared GBK", _liver(liver, scale)
    yield "leg angiography, names in UTF-8", _knee(knee, scale)
    yield "cerebral follow-up in LOG, names in Latin-1", _follow_up(follow_up, scale)


def _side(pixels: int, scale: float) -> int:
    return max(16, 2 * round(pixels * scale / 2))


def _head(study: Study, scale: float) -> Iterator[Dataset]:
    side = _side(512, scale)
    front = dsa_run(study, 1, anatomy=HEAD, rows=side, columns=side, description="ICA R PA")
    yield front
    lateral = dsa_run(
        study, 2, anatomy=HEAD_LATERAL, rows=side, columns=side, angles=(90.0, 0.0), description="ICA R lateral"
    )
    yield lateral
    side = _side(256, scale)
    rotation = rotational_run(study, 3, rows=side, columns=side)
    yield rotation
    slices = max(3, round(64 * scale))
    yield from ct_volume(
        study, 4, slices=slices, rows=side, columns=side, spacing=192 / side, thickness=round(160 / slices, 3)
    )
    yield grayscale_presentation_state(study, 5, front)
    yield from private_objects(study, 6)
    yield dose_report(study, 9, [front, lateral, rotation])


def _liver(study: Study, scale: float) -> Iterator[Dataset]:
    side = _side(512, scale)
    survey = dsa_run(study, 1, anatomy=LIVER, frames=22, rows=side, columns=side, relationship="LOG")
    yield survey
    side = _side(640, scale)
    detail = dsa_run(
        study,
        2,
        anatomy=LIVER,
        frames=12,
        rows=side,
        columns=side,
        relationship="LOG",
        shift=(1.25, 0.5),
        angles=(-25.0, 10.0),
        description="DSA 肝右动脉",
    )
    yield detail
    yield grayscale_presentation_state(study, 3, detail)
    yield dose_report(study, 4, [survey, detail])


def _knee(study: Study, scale: float) -> Iterator[Dataset]:
    side = _side(512, scale)
    run = dsa_run(study, 1, anatomy=KNEE, frames=16, rows=side, columns=side, shift=(0.0, -0.3), description="膝下")
    yield run
    yield dose_report(study, 2, [run])


def _follow_up(study: Study, scale: float) -> Iterator[Dataset]:
    side = _side(512, scale)
    run = dsa_run(study, 1, anatomy=HEAD, frames=16, rows=side, columns=side, relationship="LOG", description="ACI")
    yield run
    yield grayscale_presentation_state(study, 2, run)
    yield dose_report(study, 3, [run])
