"""The phantom studies: physics, attributes, encodings, and that a seed says everything."""

import shutil
import statistics
import struct
import subprocess
import zlib
from array import array
from collections.abc import Iterator
from datetime import datetime
from itertools import pairwise
from math import cos, floor, log, radians, sin
from pathlib import Path
from random import Random

import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGLosslessSV1,
)

from angiovault.phantom import (
    HEAD,
    HEAD_LATERAL,
    KNEE,
    LIVER,
    PATIENTS,
    Patient,
    Study,
    VerbatimElement,
    ct_volume,
    demo_studies,
    dose_report,
    dsa_run,
    encode,
    grayscale_presentation_state,
    private_objects,
    rotational_run,
    write,
)
from angiovault.phantom.anatomy import FIELD, Anatomy, shifted
from angiovault.phantom.angiography import (
    BRIGHTEST,
    LOG_SCALE,
    MAGNIFICATION,
    MASK_FRAMES,
    SOURCE_TO_DETECTOR,
    SOURCE_TO_PATIENT,
    contrast_beds,
    lin_variance,
    log_variance,
)
from angiovault.phantom.noise import QuantumNoise
from angiovault.phantom.private import csa_header
from angiovault.phantom.vessels import IODINE, arterial
from angiovault.phantom.volume import HEAD_VOLUME, HU_OFFSET, WATER, Ellipsoid

SIDE = 160


def a_study(patient: Patient = PATIENTS[0], seed: int = 1) -> Study:
    return Study(patient, 7, datetime(2024, 5, 6, 7, 8, 9), "脑血管造影", "赵^医生", seed)


@pytest.fixture(scope="module", params=["LIN", "LOG"])
def run(request: pytest.FixtureRequest) -> Dataset:
    return dsa_run(a_study(), 1, rows=SIDE, columns=SIDE, relationship=request.param)


@pytest.fixture(scope="module")
def rotation() -> Dataset:
    return rotational_run(a_study(), 2, frames=20, rows=64, columns=64)


@pytest.fixture(scope="module")
def demo() -> list[tuple[str, list[Dataset]]]:
    return [(description, list(instances)) for description, instances in demo_studies(seed=3, scale=0.1)]


def frames_of(dataset: Dataset) -> list[array]:
    size = dataset.Rows * dataset.Columns
    pixels = array("H", dataset.PixelData)
    assert len(pixels) == size * dataset.get("NumberOfFrames", 1)
    return [pixels[start : start + size] for start in range(0, len(pixels), size)]


def subtracted(dataset: Dataset, number: int, *, shift: bool = True) -> list[float]:
    """Subtract the mask from a frame (1-based) as a viewer does: PS3.3 C.7.6.10."""
    frames, item, columns = frames_of(dataset), dataset.MaskSubtractionSequence[0], dataset.Columns

    def logarithmic(frame: array) -> list[float]:
        return (
            [log(value) for value in frame] if dataset.PixelIntensityRelationship == "LIN" else list(map(float, frame))
        )

    masks = [logarithmic(frames[mask - 1]) for mask in item.MaskFrameNumbers]
    mean = [statistics.fmean(values) for values in zip(*masks, strict=True)]
    rows = [mean[start : start + columns] for start in range(0, len(mean), columns)]
    if shift:
        rows = shifted(rows, *item.MaskSubPixelShift)
    mask = [value for row in rows for value in row]
    return [contrast - plain for contrast, plain in zip(logarithmic(frames[number - 1]), mask, strict=True)]


def test_the_same_seed_gives_the_same_bytes(demo: list[tuple[str, list[Dataset]]]) -> None:
    again = [encode(one, ExplicitVRLittleEndian) for _, study in demo_studies(seed=3, scale=0.1) for one in study]
    assert again == [encode(one, ExplicitVRLittleEndian) for _, study in demo for one in study]


def test_another_seed_gives_other_uids_and_other_pixels(demo: list[tuple[str, list[Dataset]]]) -> None:
    _, other = next(demo_studies(seed=4, scale=0.1))
    first, second = demo[0][1][0], next(iter(other))
    assert first.SOPInstanceUID != second.SOPInstanceUID
    assert first.PixelData != second.PixelData


def test_demo_covers_the_suite(demo: list[tuple[str, list[Dataset]]]) -> None:
    assert len(demo) == 4
    everything = [one for _, study in demo for one in study]
    uids = [one.SOPInstanceUID for one in everything]
    assert len(set(uids)) == len(uids)
    assert all(uid.is_valid and uid.startswith("2.25.") for uid in uids)
    assert {UID(one.SOPClassUID) for one in everything} == {
        "1.2.840.10008.5.1.4.1.1.12.1",
        "1.2.840.10008.5.1.4.1.1.2",
        "1.2.840.10008.5.1.4.1.1.11.5",
        "1.2.840.10008.5.1.4.1.1.88.67",
        "1.3.12.2.1107.5.9.1",
        "1.3.12.2.1107.5.99.3.10",
        "1.3.12.2.1107.5.99.3.11",
    }
    for _, study in demo:
        assert len({one.StudyInstanceUID for one in study}) == 1
        assert len({one.PatientID for one in study}) == 1
        modality = {one.SeriesInstanceUID: one.Modality for one in study}
        assert all(modality[one.SeriesInstanceUID] == one.Modality for one in study)
        numbers = [(one.SeriesNumber, one.InstanceNumber) for one in study]
        assert numbers == sorted(set(numbers))


@pytest.mark.parametrize("scale", [0, 0.01, 5])
def test_demo_refuses_a_senseless_scale(scale: float) -> None:
    with pytest.raises(ValueError, match="scale"):
        next(demo_studies(scale=scale))


def test_run_attributes_agree_with_each_other(run: Dataset) -> None:
    frames = int(run.NumberOfFrames)
    assert len(run.PixelData) == 2 * frames * SIDE * SIDE
    assert run.FrameIncrementPointer == 0x00181065
    increments = [float(increment) for increment in run.FrameTimeVector]
    assert len(increments) == frames
    assert increments[0] == 0
    assert increments[1:] == sorted(increments[1:])
    assert set(increments[1:]) == {250.0, 500.0}  # 4 frames a second, then 2
    item = run.MaskSubtractionSequence[0]
    assert item.MaskOperation == "AVG_SUB"
    assert list(item.MaskFrameNumbers) == [2, 3]
    assert list(item.ApplicableFrameRange) == [MASK_FRAMES + 1, frames]
    assert run.RecommendedViewingMode == "SUB"
    assert float(run.EstimatedRadiographicMagnificationFactor) == pytest.approx(1200 / 785, abs=1e-5)
    assert [float(spacing) * SIDE for spacing in run.ImagerPixelSpacing] == pytest.approx([FIELD * MAGNIFICATION] * 2)
    assert ("ModalityLUTSequence" in run) == (run.PixelIntensityRelationship == "LOG")


def test_pixels_keep_to_their_twelve_bits(run: Dataset) -> None:
    pixels = array("H", run.PixelData)
    assert min(pixels) > 0
    assert max(pixels) < 4096


def test_modality_lut_leads_log_back_to_intensity() -> None:
    run = dsa_run(a_study(), 1, rows=16, columns=16, frames=4, relationship="LOG")
    lut = run.ModalityLUTSequence[0]
    table = array("H", lut.LUTData)
    assert list(lut[0x00283002].value) == [len(table), 0, 16]
    for intensity in (100, 1000, 3800):
        pixel = round(LOG_SCALE * log(1 + intensity))
        assert table[pixel] / 16 == pytest.approx(intensity, rel=0.002)


def test_subtraction_leaves_nothing_but_vessels(run: Dataset) -> None:
    """Outside the vessels the difference is noise around 0, inside it is the attenuation that Beer-Lambert asks for."""
    number = 10
    difference = subtracted(run, number)
    time = sum(map(float, run.FrameTimeVector[:number])) / 1000
    injection = sum(map(float, run.FrameTimeVector[: MASK_FRAMES + 1])) / 1000 - 0.15
    expected = [0.0] * (SIDE * SIDE)
    for bed in contrast_beds(a_study(), 1, HEAD, SIDE, SIDE):
        strengths = bed.strengths(time - injection)
        for index, depth, bucket in zip(bed.index, bed.depth, bed.bucket, strict=True):
            expected[index] -= strengths[bucket] * depth
    scale = 1.0 if run.PixelIntensityRelationship == "LIN" else LOG_SCALE
    outside = [value / scale for value, inside in zip(difference, expected, strict=True) if not inside]
    vessel = [(value / scale, wanted) for value, wanted in zip(difference, expected, strict=True) if wanted < -0.1]
    assert len(outside) > 0.6 * SIDE * SIDE
    assert len(vessel) > 150
    assert abs(statistics.fmean(outside)) < 0.002
    assert statistics.pstdev(outside) < 0.05
    assert statistics.fmean(value for value, _ in vessel) < -0.15
    assert sum(value for value, _ in vessel) / sum(wanted for _, wanted in vessel) == pytest.approx(1, abs=0.03)


def test_the_mask_shift_makes_up_for_the_motion() -> None:
    run = dsa_run(a_study(), 1, rows=SIDE, columns=SIDE, shift=(1.5, -2.25), relationship="LOG", frames=4)
    with_shift = statistics.pstdev(subtracted(run, MASK_FRAMES + 1))
    without = statistics.pstdev(subtracted(run, MASK_FRAMES + 1, shift=False))
    assert without > 3 * with_shift


def test_shift_directions_are_those_of_the_standard() -> None:
    """M'(r, c) = M(r - Δrow, c + Δcolumn): PS3.3 C.7.6.10.1.2."""
    rng = Random(5)
    image = [[rng.random() for _ in range(9)] for _ in range(8)]
    for down, left in ((1.0, 0.0), (0.0, 2.0), (-2.0, -1.0)):
        moved = shifted(image, down, left)
        assert moved[4][4] == pytest.approx(image[4 - int(down)][4 + int(left)])
    half = shifted(image, 0.5, -0.25)
    upper = 0.25 * image[3][3] + 0.75 * image[3][4]
    lower = 0.25 * image[4][3] + 0.75 * image[4][4]
    assert half[4][4] == pytest.approx((upper + lower) / 2)


def test_the_bolus_moves_on_and_washes_out() -> None:
    run = dsa_run(a_study(), 1, anatomy=KNEE, rows=SIDE, columns=SIDE, relationship="LOG", frames=18)
    fronts = []
    for number in (4, 5, 6, 8):
        dark = [index // SIDE for index, value in enumerate(subtracted(run, number)) if value < -0.15 * LOG_SCALE]
        fronts.append(sorted(dark)[int(0.98 * len(dark))] if dark else 0)
    assert fronts == sorted(fronts)  # down the leg
    assert fronts[0] < SIDE / 4 < SIDE / 2 < fronts[-1]
    arteries = contrast_beds(a_study(), 1, KNEE, SIDE, SIDE)[0]
    thick = [index for index, depth in zip(arteries.index, arteries.depth, strict=True) if depth > 3]
    full, late = subtracted(run, 9), subtracted(run, 18)
    assert statistics.fmean(full[index] for index in thick) < -0.2 * LOG_SCALE
    assert abs(statistics.fmean(late[index] for index in thick)) < 0.05 * LOG_SCALE


def test_bolus_curve_is_none_before_it_arrives_and_full_after() -> None:
    assert arterial(-0.1, 0.5) == arterial(0.0, 0.5) == 0
    assert arterial(1.5, 0.5) > 0.99
    assert arterial(6.0, 0.5) < 0.01


@pytest.mark.parametrize("anatomy", [HEAD, HEAD_LATERAL, LIVER, KNEE])
def test_vessels_branch_and_taper(anatomy: Anatomy) -> None:
    arteries = contrast_beds(a_study(), 1, anatomy, 256, 256)[0]
    thick, thin = max(arteries.depth), min(arteries.depth)
    assert 3 < thick <= 12
    assert thin < 0.5
    assert 0.01 < len(set(arteries.index)) / 256**2 < 0.25
    assert max(arteries.depth) * IODINE < 1.1


@pytest.mark.parametrize("variance", [lin_variance, log_variance])
@pytest.mark.parametrize("level", [500, 2500, 3700])
def test_noise_has_no_bias_and_the_variance_of_its_pixel(variance: object, level: int) -> None:
    background = array("H", [level]) * 20_000
    noise = QuantumNoise(background, variance)  # type: ignore[arg-type]
    pixels = array("H", noise.add(background, Random(1)))
    wanted = variance(level)  # type: ignore[operator]
    assert statistics.fmean(pixels) == pytest.approx(level, abs=0.5 + 4 * (wanted / 20_000) ** 0.5)
    assert statistics.pvariance(pixels) == pytest.approx(wanted, rel=0.06, abs=0.5)


def test_noise_differs_between_frames_and_pixels() -> None:
    background = array("H", [1000]) * 5000
    noise = QuantumNoise(background, lin_variance)
    rng = Random(1)
    first, second = array("H", noise.add(background, rng)), array("H", noise.add(background, rng))
    covariance = statistics.covariance(list(first), list(second))
    assert abs(covariance) < 0.1 * statistics.pvariance(first)
    assert abs(statistics.covariance(list(first[1:]), list(first[:-1]))) < 0.1 * statistics.pvariance(first)


@pytest.mark.parametrize(("frames", "relationship"), [(3, "LIN"), (20, "DISP")])
def test_dsa_run_refuses_what_it_cannot_make(frames: int, relationship: str) -> None:
    with pytest.raises(ValueError, match=r"frames|LIN or LOG"):
        dsa_run(a_study(), 1, frames=frames, rows=16, columns=16, relationship=relationship)


def test_rotation_increments_begin_at_zero_and_go_on(rotation: Dataset) -> None:
    increments = [float(increment) for increment in rotation.PositionerPrimaryAngleIncrement]
    assert len(increments) == rotation.NumberOfFrames == len(rotation.PositionerSecondaryAngleIncrement)
    assert increments[0] == 0
    assert all(before < after for before, after in pairwise(increments))
    assert float(rotation.PositionerPrimaryAngle) + increments[-1] == pytest.approx(98.5)
    assert rotation.PositionerMotion == "DYNAMIC"
    assert rotation.PixelIntensityRelationship == "LOG"
    assert len(rotation.PixelData) == 2 * 20 * 64 * 64


def test_rotation_projects_points_where_the_geometry_says() -> None:
    """The shadow of a small sphere: its place by the cone beam formula, its depth by the chord through it."""
    centre, radius, attenuation = (30.0, -18.0, 25.0), 6.0, 0.03
    sphere = Ellipsoid.aligned(centre, (radius, radius, radius), attenuation)
    side = 128
    run = rotational_run(a_study(), 2, frames=9, rows=side, columns=side, ellipsoids=[sphere])
    air = LOG_SCALE * log(1 + BRIGHTEST)
    pixel = FIELD * MAGNIFICATION / side
    x, y, z = centre
    for frame, increment in zip(frames_of(run), run.PositionerPrimaryAngleIncrement, strict=True):
        angle = radians(float(run.PositionerPrimaryAngle) + float(increment))
        magnified = SOURCE_TO_DETECTOR / (SOURCE_TO_PATIENT + x * sin(angle) - y * cos(angle))
        depth = [max(0.0, air - value - 40) for value in frame]
        total = sum(depth)
        column = sum(value * (index % side + 0.5) for index, value in enumerate(depth)) / total
        row = sum(value * (index // side + 0.5) for index, value in enumerate(depth)) / total
        assert (column - side / 2) * pixel == pytest.approx(magnified * (x * cos(angle) + y * sin(angle)), abs=1.0)
        assert (row - side / 2) * pixel == pytest.approx(-magnified * z, abs=1.0)
        middle = frame[floor(row) * side + floor(column)]
        assert (air - middle) / LOG_SCALE == pytest.approx(2 * radius * attenuation, abs=0.04)


def test_what_turns_onto_itself_is_projected_as_anything_else() -> None:
    """The shortcut for bodies that look the same from every angle gives what the general way gives."""
    exact = Ellipsoid.aligned((0.0, 0.0, 10.0), (50.0, 50.0, 60.0), 0.01)
    nearly = Ellipsoid.aligned((1e-9, 0.0, 10.0), (50.0, 50.0, 60.0), 0.01)
    assert exact.turns_onto_itself
    assert not nearly.turns_onto_itself
    ways = [rotational_run(a_study(), 2, frames=2, rows=64, columns=64, ellipsoids=[one]) for one in (exact, nearly)]
    differences = [a - b for a, b in zip(array("H", ways[0].PixelData), array("H", ways[1].PixelData), strict=True)]
    # The noise is that of each run's own background, hence only the mean tells.
    assert abs(statistics.fmean(differences)) < 0.5
    inside = differences[64 * 32 + 16 : 64 * 32 + 48]
    assert abs(statistics.fmean(inside)) < 8


def test_a_tube_reaches_from_tip_to_tip() -> None:
    tube = Ellipsoid.tube((0.0, 0.0, 0.0), (30.0, 40.0, 0.0), 2.0, 0.05)
    assert tube.centre == (15.0, 20.0, 0.0)
    assert tube.height == pytest.approx(2.0)
    assert tube.breadth == pytest.approx((25.0**2 + 2.0**2) ** 0.5)


def test_ct_volume_geometry() -> None:
    slices = list(ct_volume(a_study(), 4, slices=9, rows=96, columns=96, spacing=2.0, thickness=20.0))
    positions = [[float(part) for part in one.ImagePositionPatient] for one in slices]
    assert [position[2] for position in positions] == [-80.0, -60.0, -40.0, -20.0, 0.0, 20.0, 40.0, 60.0, 80.0]
    assert all(position[:2] == [-95.0, -95.0] for position in positions)
    assert [float(one.SliceLocation) for one in slices] == [position[2] for position in positions]
    assert {tuple(map(float, one.ImageOrientationPatient)) for one in slices} == {(1, 0, 0, 0, 1, 0)}
    assert len({one.FrameOfReferenceUID for one in slices}) == len({one.SeriesInstanceUID for one in slices}) == 1
    assert len({one.SOPInstanceUID for one in slices}) == 9
    assert all(len(one.PixelData) == 2 * 96 * 96 for one in slices)


def test_ct_values_are_the_ellipsoids_in_hounsfield_units() -> None:
    ball = Ellipsoid.aligned((20.0, -30.0, 0.0), (15.0, 15.0, 15.0), WATER)
    seed = Ellipsoid.aligned((20.0, -30.0, 0.0), (5.0, 5.0, 5.0), 0.01)
    (section,) = ct_volume(a_study(), 4, slices=1, rows=64, columns=64, spacing=2.0, ellipsoids=[ball, seed])
    assert section.RescaleIntercept == -HU_OFFSET
    units = [value * section.RescaleSlope + section.RescaleIntercept for value in array("H", section.PixelData)]

    def mean_around(x: float, y: float) -> float:
        column, row = round(x / 2 + 31.5), round(y / 2 + 31.5)
        return statistics.fmean(units[(row + i) * 64 + column + j] for i in (-1, 0, 1) for j in (-1, 0, 1))

    assert mean_around(-40, 40) == pytest.approx(-1000, abs=20)  # air
    assert mean_around(20, -20) == pytest.approx(0, abs=20)  # water
    assert mean_around(20, -30) == pytest.approx(500, abs=20)  # half as much again
    assert min(array("H", section.PixelData)) > 0


def test_the_head_is_the_same_in_rotation_and_volume() -> None:
    """A ray through the middle of the volume meets the attenuation that the projection shows there."""
    spacing, side = 2.0, 96
    (section,) = ct_volume(a_study(), 4, slices=1, rows=side, columns=side, spacing=spacing)
    middle = [value - HU_OFFSET for value in array("H", section.PixelData)[side // 2 :: side]]
    along = sum((value / 1000 + 1) * WATER * spacing for value in middle)
    run = rotational_run(a_study(), 2, frames=2, rows=65, columns=65, sweep=(0.0, 90.0))
    centre = statistics.fmean(frames_of(run)[0][32 * 65 + column] for column in (31, 32, 33))
    assert log(1 + BRIGHTEST) - centre / LOG_SCALE == pytest.approx(along, rel=0.03)
    assert len(HEAD_VOLUME) > 15


@pytest.mark.parametrize(
    ("patient", "character_set", "stored"),
    [
        (PATIENTS[0], "GB18030", "Zhang^San=张^三".encode("gb18030")),
        (PATIENTS[1], None, "李^秀英".encode("gbk")),
        (PATIENTS[2], "ISO_IR 192", "Wang^Xiaoming=王^小明".encode()),
        (PATIENTS[3], "ISO_IR 100", "Müller^Jürgen^^Dr.".encode("latin-1")),
    ],
)
@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian])
def test_names_are_stored_in_the_patients_encoding(
    patient: Patient, character_set: str | None, stored: bytes, syntax: UID
) -> None:
    study = Study(patient, 1, datetime(2024, 1, 1), seed=1)
    dataset = study.instance("1.2.840.10008.5.1.4.1.1.7", "OT", 1, 1)
    encoded = encode(dataset, syntax)
    assert dataset.get("SpecificCharacterSet") == character_set
    value = stored + b" " * (len(stored) % 2)
    order = ">" if syntax == ExplicitVRBigEndian else "<"
    length = (
        struct.pack("<I", len(value))
        if syntax == ImplicitVRLittleEndian
        else b"PN" + struct.pack(order + "H", len(value))
    )
    assert encoded.count(struct.pack(order + "HH", 0x0010, 0x0010) + length + value) == 1


def test_chinese_texts_besides_the_name_are_in_the_same_encoding() -> None:
    encoded = encode(
        a_study(PATIENTS[1]).instance("1.2.840.10008.5.1.4.1.1.7", "OT", 1, 1, "肝动脉"), "1.2.840.10008.1.2"
    )
    for text in ("脑血管造影", "赵^医生", "肝动脉"):
        assert text.encode("gbk") in encoded


def test_text_that_the_encoding_lacks_is_refused() -> None:
    with pytest.raises(UnicodeEncodeError):
        a_study(PATIENTS[3]).instance("1.2.840.10008.5.1.4.1.1.7", "OT", 1, 1)


def elements(encoded: bytes) -> Iterator[tuple[int, bytes, int, int]]:
    """Yield tag, VR, length and start of the value of the top-level elements, Explicit VR Little Endian."""
    place = 0
    while place < len(encoded):
        group, element, vr = struct.unpack_from("<HH2s", encoded, place)
        if vr in (b"OB", b"OW", b"SQ", b"UN", b"UT"):
            (length,) = struct.unpack_from("<I", encoded, place + 8)
            start = place + 12
        else:
            (length,) = struct.unpack_from("<H", encoded, place + 6)
            start = place + 8
        yield group << 16 | element, vr, length, start
        if length == 0xFFFFFFFF:
            # Undefined lengths are only in the awkward header here, which ends with the next private block.
            place = encoded.index(struct.pack("<HH2s", 0xFFFE, 0xE0DD, b"\0\0"), start) + 8
            while encoded[place : place + 2] not in (b"\x29\x00", b"\xe1\x7f"):
                place = encoded.index(struct.pack("<HH2s", 0xFFFE, 0xE0DD, b"\0\0"), place) + 8
        else:
            place = start + length


def test_private_objects_hold_odd_and_hidden_values_byte_for_byte() -> None:
    objects = list(private_objects(a_study(), 6, size=4001))
    assert [one.SOPClassUID for one in objects] == [
        "1.3.12.2.1107.5.9.1",
        "1.3.12.2.1107.5.99.3.10",
        "1.3.12.2.1107.5.99.3.11",
    ]
    assert len({one.SeriesInstanceUID for one in objects}) == 3
    for one in objects:
        encoded = encode(one, ExplicitVRLittleEndian)
        found = {tag: (vr, length, encoded[start : start + length]) for tag, vr, length, start in elements(encoded)}
        assert found[0x00290010][2].rstrip() == b"SIEMENS CSA HEADER"
        assert found[0x00290011][2].rstrip() == b"SIEMENS MEDCOM HEADER"
        assert found[0x7FE10010][2].rstrip() == b"SIEMENS CSA NON-IMAGE"
        assert found[0x7FE11010] == (b"OB", 4001, one[0x7FE11010].value)
        assert found[0x00291110][:2] == (b"OB", 1201)
        assert found[0x00291020][:2] == (b"UN", len(one[0x00291020].value))
        assert len(one[0x00291020].value) % 2 == 1
        assert found[0x00291010][2].startswith(b"SV10\4\3\2\1")
        assert found[0x00291140][:2] == (b"SQ", 0xFFFFFFFF)
        assert found[0x00291148][:2] == (b"UN", 0xFFFFFFFF)


def test_hidden_sequence_is_read_as_one(tmp_path: Path) -> None:
    one = next(private_objects(a_study(), 6, size=11))
    write(one, tmp_path / "private.dcm")
    read = pydicom.dcmread(tmp_path / "private.dcm")
    assert [item[0x00291043].value for item in read[0x00291148].value] == ["HIDDEN IN UN"] * 2
    nested = read[0x00291140].value[0]
    assert nested[0x00291040].value[0][0x00291050].value == "com"
    assert len(nested[0x00291044].value) == 77


def test_csa_header_is_laid_out_in_words() -> None:
    header = csa_header({"UsedChannelMask": "1"})
    assert struct.unpack_from("<II", header, 8) == (1, 77)
    assert header[16:80].rstrip(b"\0") == b"UsedChannelMask"
    assert len(header) % 4 == 0


def test_runs_carry_private_blocks_too(run: Dataset) -> None:
    assert run.private_block(0x0021, "SIEMENS SMS-AX  ACQ 1.0")[0x17].value == 785
    assert (
        run.private_block(0x0029, "SIEMENS MEDCOM HEADER")[0x40].value[0][0x00290010].value == "SIEMENS MEDCOM HEADER"
    )


def test_big_endian_swaps_the_words_of_pixels_and_tables() -> None:
    run = dsa_run(a_study(), 1, rows=16, columns=16, frames=4, relationship="LOG")
    little, big = encode(run, ExplicitVRLittleEndian), encode(run, ExplicitVRBigEndian)
    table = array("H", run.ModalityLUTSequence[0].LUTData)
    pixels = array("H", run.PixelData)
    assert little.endswith(pixels.tobytes())
    assert table.tobytes() in little
    pixels.byteswap()
    table.byteswap()
    assert big.endswith(pixels.tobytes())
    assert table.tobytes() in big


def test_deflated_is_explicit_little_endian_deflated(run: Dataset) -> None:
    deflated = encode(run, DeflatedExplicitVRLittleEndian)
    assert len(deflated) % 2 == 0
    inflater = zlib.decompressobj(wbits=-zlib.MAX_WBITS)
    assert inflater.decompress(deflated) == encode(run, ExplicitVRLittleEndian)
    assert inflater.unused_data in (b"", b"\0")


@pytest.mark.parametrize("syntax", [JPEGLosslessSV1, "1.2.840.10008.5.1.4.1.1.7"])
def test_encode_refuses_what_it_cannot_encode(syntax: str) -> None:
    with pytest.raises(ValueError, match="uncompressed or deflated"):
        encode(Dataset(), syntax)


def test_only_byte_strings_are_written_verbatim() -> None:
    with pytest.raises(ValueError, match="OB and UN"):
        VerbatimElement(0x00091010, "LO", b"odd")


@pytest.mark.parametrize(
    "syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian]
)
def test_written_files_are_read_back_whole(run: Dataset, tmp_path: Path, syntax: UID) -> None:
    path = tmp_path / "run.dcm"
    encoded = write(run, path, syntax)
    content = path.read_bytes()
    assert content[:132] == bytes(128) + b"DICM"
    assert content.endswith(encoded)
    read = pydicom.dcmread(path)
    assert read.file_meta.MediaStorageSOPInstanceUID == run.SOPInstanceUID == read.SOPInstanceUID
    assert read.file_meta.TransferSyntaxUID == syntax
    assert str(read.PatientName) == "Zhang^San=张^三"
    assert list(read.MaskSubtractionSequence[0].MaskFrameNumbers) == [2, 3]
    words = array("H", read.PixelData)
    if syntax == ExplicitVRBigEndian:
        words.byteswap()
    assert words.tobytes() == run.PixelData


def test_presentation_state_subtracts_the_run_it_names(run: Dataset) -> None:
    state = grayscale_presentation_state(a_study(), 5, run)
    series = state.ReferencedSeriesSequence[0]
    assert series.SeriesInstanceUID == run.SeriesInstanceUID
    assert series.ReferencedImageSequence[0].ReferencedSOPInstanceUID == run.SOPInstanceUID
    mask = state.MaskSubtractionSequence[0]
    assert list(mask.MaskFrameNumbers) == list(run.MaskSubtractionSequence[0].MaskFrameNumbers)
    everywhere, region = mask.PixelShiftSequence[0].RegionPixelShiftSequence
    assert list(everywhere.MaskSubPixelShift) == list(run.MaskSubtractionSequence[0].MaskSubPixelShift)
    assert "VerticesOfTheRegion" not in everywhere
    assert len(region.VerticesOfTheRegion) == 8
    luts = mask.get("PixelIntensityRelationshipLUTSequence", [])
    assert [lut.LUTFunction for lut in luts] == (["TO_LOG"] if run.PixelIntensityRelationship == "LIN" else [])


def test_dose_report_sums_up_its_events(run: Dataset, rotation: Dataset) -> None:
    report = dose_report(a_study(), 9, [run, rotation])

    def meaning(item: Dataset) -> str:
        return str(item.ConceptNameCodeSequence[0].CodeMeaning)

    def number(items: list[Dataset], name: str) -> float:
        (found,) = [item for item in items if meaning(item) == name]
        return float(found.MeasuredValueSequence[0].NumericValue)

    events = [item for item in report.ContentSequence if meaning(item) == "Irradiation Event X-Ray Data"]
    (total,) = [item for item in report.ContentSequence if meaning(item) == "Accumulated X-Ray Dose Data"]
    uids = [item.UID for event in events for item in event.ContentSequence if meaning(item) == "Irradiation Event UID"]
    assert uids == [run.IrradiationEventUID, rotation.IrradiationEventUID]
    doses = [number(event.ContentSequence, "Dose Area Product") for event in events]
    assert min(doses) > 0
    assert number(total.ContentSequence, "Dose Area Product Total") == pytest.approx(sum(doses), rel=1e-4)
    assert number(events[1].ContentSequence, "Positioner Primary End Angle") == pytest.approx(98.5)
    evidence = report.CurrentRequestedProcedureEvidenceSequence[0]
    assert [series.SeriesInstanceUID for series in evidence.ReferencedSeriesSequence] == [
        run.SeriesInstanceUID,
        rotation.SeriesInstanceUID,
    ]


@pytest.mark.skipif(not shutil.which("dciodvfy"), reason="dicom3tools are not installed")
def test_dciodvfy_finds_no_error(run: Dataset, rotation: Dataset, tmp_path: Path) -> None:
    volume = list(ct_volume(a_study(), 4, slices=2, rows=32, columns=32))
    leg = dsa_run(a_study(), 5, anatomy=KNEE, rows=32, columns=32, frames=5)
    for number, one in enumerate([run, rotation, leg, volume[0], dose_report(a_study(), 9, [run, rotation])]):
        path = tmp_path / f"{number}.dcm"
        write(one, path)
        said = subprocess.run(["dciodvfy", path], capture_output=True, check=False).stderr.decode(errors="replace")
        assert "Error" not in said, said


@pytest.mark.skipif(not shutil.which("dcmdump"), reason="DCMTK is not installed")
@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian])
def test_dcmdump_reads_everything(demo: list[tuple[str, list[Dataset]]], tmp_path: Path, syntax: UID) -> None:
    kinds = {one.SOPClassUID: one for _, study in demo for one in study}
    for number, one in enumerate(kinds.values()):
        path = tmp_path / f"{number}.dcm"
        write(one, path, syntax)
        result = subprocess.run(["dcmdump", "--quiet", path], capture_output=True, check=False)
        assert result.returncode == 0, result.stderr
