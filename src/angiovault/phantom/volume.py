"""The ellipsoids of the 3D phantom: their cone beam projections and their cross-sections as CT slices.

Patient coordinates in mm, the isocentre being the origin: +x left, +y back, +z head (PS3.3 C.7.6.2.1.1).
"""

from __future__ import annotations  # array[int] cannot be subscripted at run time before Python 3.12

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import cos, exp, log1p, radians, sin, sqrt

from pydicom.dataset import Dataset
from pydicom.uid import CTImageStorage

from angiovault.phantom.identity import Study
from angiovault.phantom.noise import QuantumNoise

WATER = 0.02
"""Linear attenuation of water, 1/mm: a HU is a thousandth of it."""
HU_OFFSET = 1100
"""Stored value = HU + this, which leaves room for the noise of air."""
_BRIGHTEST_CT = 4000


@dataclass(frozen=True)
class Ellipsoid:
    """All points p with (p - centre)ᵀ M (p - centre) < 1, M given as (xx, yy, zz, xy, xz, yz), 1/mm².

    `attenuation` (1/mm) is added to that of what else is there; negative makes a cavity.
    """

    centre: tuple[float, float, float]
    matrix: tuple[float, float, float, float, float, float]
    attenuation: float

    @classmethod
    def aligned(cls, centre: tuple[float, float, float], radii: tuple[float, float, float], mu: float) -> Ellipsoid:
        """Return an ellipsoid whose axes are those of the patient."""
        x, y, z = radii
        return cls(centre, (x**-2, y**-2, z**-2, 0.0, 0.0, 0.0), mu)

    @classmethod
    def tube(
        cls, start: tuple[float, float, float], end: tuple[float, float, float], radius: float, mu: float
    ) -> Ellipsoid:
        """Return a slender ellipsoid from tip to tip, a piece of vessel."""
        centre = tuple((a + b) / 2 for a, b in zip(start, end, strict=True))
        x, y, z = (b - a for a, b in zip(start, end, strict=True))
        length = sqrt(x * x + y * y + z * z)
        x, y, z = x / length, y / length, z / length
        across = radius**-2
        along = (length / 2) ** -2 - across
        matrix = (across + along * x * x, across + along * y * y, across + along * z * z)
        return cls((centre[0], centre[1], centre[2]), (*matrix, along * x * y, along * x * z, along * y * z), mu)

    @property
    def turns_onto_itself(self) -> bool:
        """Whether turning about z leaves it as it is, so that it looks the same from every angle."""
        xx, yy, _, xy, xz, yz = self.matrix
        return self.centre[:2] == (0.0, 0.0) and xx == yy and xy == xz == yz == 0.0

    @property
    def height(self) -> float:
        """Half of its extent along z (mm): the root of the inverse matrix's element."""
        xx, yy, _, xy, _, _ = self.matrix
        return sqrt((xx * yy - xy * xy) / self._determinant)

    @property
    def breadth(self) -> float:
        """A bound of half of its extent across z, in any direction (mm)."""
        xx, yy, zz, _, xz, yz = self.matrix
        return sqrt((yy * zz - yz * yz + xx * zz - xz * xz) / self._determinant)

    @property
    def _determinant(self) -> float:
        xx, yy, zz, xy, xz, yz = self.matrix
        return xx * (yy * zz - yz * yz) - xy * (xy * zz - yz * xz) + xz * (xy * yz - yy * xz)


def _carotid() -> Iterator[Ellipsoid]:
    """Yield the pieces of a left internal carotid artery with its main branches, filled with contrast."""
    path = ((16, -2, -88), (17, -4, -58), (20, 2, -46), (22, -8, -40), (14, -18, -36), (11, -14, -28), (13, -20, -22))
    branches = (
        ((13, -20, -22), (30, -16, -19), 1.9),
        ((30, -16, -19), (50, -6, -8), 1.6),
        ((50, -6, -8), (57, 14, 18), 1.3),
        ((13, -20, -22), (3, -30, -16), 1.6),
        ((3, -30, -16), (2, -48, 10), 1.4),
        ((2, -48, 10), (2, -30, 44), 1.2),
        ((30, -16, -19), (52, 12, -14), 1.2),
    )
    pieces = [(a, b, 2.4) for a, b in pairwise(path)]
    for (x1, y1, z1), (x2, y2, z2), radius in [*pieces, *branches]:
        yield Ellipsoid.tube((x1, y1, z1), (x2, y2, z2), radius, 0.055)


HEAD_VOLUME: tuple[Ellipsoid, ...] = (
    Ellipsoid.aligned((0.0, 0.0, 0.0), (78.0, 78.0, 96.0), WATER),
    Ellipsoid.aligned((0.0, 0.0, 0.0), (74.0, 74.0, 91.0), 0.022),
    Ellipsoid.aligned((0.0, 0.0, 0.0), (69.0, 69.0, 86.0), -0.0215),
    Ellipsoid.aligned((36.0, 2.0, -46.0), (20.0, 9.0, 8.0), 0.02),
    Ellipsoid.aligned((-36.0, 2.0, -46.0), (20.0, 9.0, 8.0), 0.02),
    Ellipsoid.aligned((0.0, -50.0, -44.0), (13.0, 13.0, 10.0), -0.018),
    Ellipsoid.aligned((10.0, 8.0, 12.0), (6.0, 20.0, 12.0), -0.0006),
    Ellipsoid.aligned((-10.0, 8.0, 12.0), (6.0, 20.0, 12.0), -0.0006),
    *_carotid(),
    Ellipsoid.aligned((31.0, -13.0, -15.5), (4.5, 4.0, 4.2), 0.055),
)
"""A head of water in a shell of bone, with petrous bones, a sinus, ventricles, a left carotid tree and an aneurysm."""


class Projector:
    """Cone beam projections of ellipsoids by their analytic line integrals, as LOG pixel values.

    What looks the same from every angle is projected once, the rest only where its shadow falls.
    """

    def __init__(
        self,
        ellipsoids: Sequence[Ellipsoid],
        rows: int,
        columns: int,
        detector: float,
        source_to_detector: float,
        source_to_isocentre: float,
        log_scale: float,
        brightest: float,
    ) -> None:
        self._rows, self._columns = rows, columns
        self._pixel_u, self._pixel_v = detector / columns, detector / rows
        self._u = [(column + 0.5 - columns / 2) * self._pixel_u for column in range(columns)]
        self._sid, self._sod = source_to_detector, source_to_isocentre
        self._scale = log_scale
        self._turning = [body for body in ellipsoids if not body.turns_onto_itself]
        attenuation = array("d", bytes(8 * rows * columns))
        for body in ellipsoids:
            if body.turns_onto_itself:
                for start, values in self._shadow(body, 0.0):
                    for place, value in enumerate(values, start):
                        attenuation[place] += value
        self.background = array("H", (round(log_scale * log1p(brightest * exp(-value))) for value in attenuation))

    def frame(self, angle: float) -> array[int]:
        """Return the projection at a primary angle (degrees)."""
        frame, scale = self.background[:], self._scale
        for body in self._turning:
            for start, values in self._shadow(body, angle):
                stop = start + len(values)
                frame[start:stop] = array(
                    "H", [int(p - scale * share + 0.5) for p, share in zip(frame[start:stop], values, strict=True)]
                )
        return frame

    def _shadow(self, body: Ellipsoid, angle: float) -> Iterator[tuple[int, list[float]]]:
        """Yield runs of pixels in the body's shadow: index of the first, and the attenuation along each ray.

        For a ray s + t·d the chord is 2 |d| √(B² - A·C) / A with A = dᵀMd, B = dᵀM(s - c), C = (s - c)ᵀM(s - c) - 1;
        along a detector row d is linear in u, so that A and the discriminant are parabolas in u.
        """
        sine, cosine = sin(radians(angle)), cos(radians(angle))
        normal, across = (sine, -cosine, 0.0), (cosine, sine, 0.0)
        source = tuple(-self._sod * n - c for n, c in zip(normal, body.centre, strict=True))
        xx, yy, zz, xy, xz, yz = body.matrix

        def product(a: Sequence[float], b: Sequence[float]) -> float:
            return (
                a[0] * (xx * b[0] + xy * b[1] + xz * b[2])
                + a[1] * (xy * b[0] + yy * b[1] + yz * b[2])
                + a[2] * (xz * b[0] + yz * b[1] + zz * b[2])
            )

        c = product(source, source) - 1
        a2, b1 = product(across, across), product(across, source)
        for row in self._rows_of(body, normal):
            v = (row + 0.5 - self._rows / 2) * self._pixel_v
            fixed = (self._sid * normal[0], self._sid * normal[1], -v)
            a1, a0, b0 = 2 * product(across, fixed), product(fixed, fixed), product(fixed, source)
            d2, d1, d0 = b1 * b1 - c * a2, 2 * b1 * b0 - c * a1, b0 * b0 - c * a0
            square = d1 * d1 - 4 * d2 * d0
            if square <= 0 or d2 >= 0:
                continue
            middle, half = -d1 / (2 * d2), sqrt(square) / (-2 * d2)
            start = max(0, int((middle - half) / self._pixel_u + self._columns / 2 + 0.5))
            stop = min(self._columns, int((middle + half) / self._pixel_u + self._columns / 2 + 0.5))
            if start < stop:
                depth = self._sid * self._sid + v * v
                twice = 2 * body.attenuation
                shadow = [
                    twice * sqrt(abs((d2 * u + d1) * u + d0) * (depth + u * u)) / ((a2 * u + a1) * u + a0)
                    for u in self._u[start:stop]
                ]
                yield row * self._columns + start, shadow

    def _rows_of(self, body: Ellipsoid, normal: tuple[float, float, float]) -> range:
        """Return the rows that the body's shadow can touch."""
        distance = self._sod + sum(n * c for n, c in zip(normal, body.centre, strict=True))
        near, far = distance - body.breadth, distance + body.breadth
        high, low = body.centre[2] + body.height, body.centre[2] - body.height
        top = -high * self._sid / (near if high > 0 else far)
        bottom = -low * self._sid / (near if low < 0 else far)
        first = int(top / self._pixel_v + self._rows / 2 - 1)
        return range(max(0, first), min(self._rows, int(bottom / self._pixel_v + self._rows / 2 + 2)))


def ct_volume(
    study: Study,
    series_number: int,
    *,
    slices: int = 64,
    rows: int = 256,
    columns: int = 256,
    spacing: float = 0.75,
    thickness: float = 2.5,
    ellipsoids: Sequence[Ellipsoid] = HEAD_VOLUME,
    description: str = "DynaCT-like volume",
) -> Iterator[Dataset]:
    """Yield CT slices (CT Image Storage) through the ellipsoids, from the feet up; pixel spacing in mm."""
    rng = study.random("noise", series_number)
    level = array("H", [HU_OFFSET]) * (rows * columns)
    noise = QuantumNoise(level, _ct_variance)
    for number in range(1, slices + 1):
        z = (number - (slices + 1) / 2) * thickness
        dataset = study.instance(CTImageStorage, "CT", series_number, number, description)
        _add_ct_modules(dataset, study, series_number, rows, columns, spacing, thickness, z)
        section = _section(ellipsoids, z, rows, columns, spacing)
        dataset.add_new(0x7FE00010, "OW", noise.add(section, rng))
        yield dataset


def _add_ct_modules(
    dataset: Dataset,
    study: Study,
    series_number: int,
    rows: int,
    columns: int,
    spacing: float,
    thickness: float,
    z: float,
) -> None:
    """Add the Frame of Reference, Image Plane, Image Pixel and CT Image modules (PS3.3 A.3)."""
    dataset.ImageType = ["DERIVED", "SECONDARY", "AXIAL"]
    dataset.DerivationDescription = "Reconstructed from a rotational run"
    dataset.AcquisitionNumber = series_number
    dataset.BodyPartExamined = "HEAD"
    dataset.PatientPosition = "HFS"
    dataset.FrameOfReferenceUID = study.uid("frame of reference")
    dataset.PositionReferenceIndicator = None
    dataset.ImageOrientationPatient = ["1", "0", "0", "0", "1", "0"]
    left, top = -(columns - 1) / 2 * spacing, -(rows - 1) / 2 * spacing
    dataset.ImagePositionPatient = [f"{left:.3f}", f"{top:.3f}", f"{z:.3f}"]
    dataset.SliceLocation = f"{z:.3f}"
    dataset.SliceThickness = f"{thickness:g}"
    dataset.PixelSpacing = [f"{spacing:g}", f"{spacing:g}"]
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.Rows = rows
    dataset.Columns = columns
    dataset.BitsAllocated = 16
    dataset.BitsStored = 12
    dataset.HighBit = 11
    dataset.PixelRepresentation = 0
    dataset.LossyImageCompression = "00"
    dataset.RescaleIntercept = str(-HU_OFFSET)
    dataset.RescaleSlope = "1"
    dataset.RescaleType = "HU"
    dataset.WindowCenter = "400"
    dataset.WindowWidth = "2000"
    dataset.KVP = "109"


def _ct_variance(value: int) -> float:
    """Return the noise of CT slices, 15 HU everywhere."""
    del value
    return 15.0**2


def _section(ellipsoids: Sequence[Ellipsoid], z: float, rows: int, columns: int, spacing: float) -> array[int]:
    """Return the stored values of an axial section: along a row, each ellipsoid is one run of pixels."""
    met = [body for body in ellipsoids if abs(z - body.centre[2]) < body.height]
    air = HU_OFFSET - 1000
    section = array("H")
    for row in range(rows):
        y = (row + 0.5 - rows / 2) * spacing
        steps = sorted(step for body in met for step in _steps(body, y, z, columns, spacing))
        attenuation, place = 0.0, 0
        for column, change in steps:
            if column > place:
                section.extend(array("H", [_stored(attenuation, air)]) * (column - place))
            attenuation, place = attenuation + change, column
        section.extend(array("H", [air]) * (columns - place))
    return section


def _stored(attenuation: float, air: int) -> int:
    return min(_BRIGHTEST_CT, air + round(1000 * attenuation / WATER))


def _steps(body: Ellipsoid, y: float, z: float, columns: int, spacing: float) -> list[tuple[int, float]]:
    """Return where the row (y, z) enters and leaves the ellipsoid: column, and change of attenuation."""
    xx, yy, zz, xy, xz, yz = body.matrix
    y, z = y - body.centre[1], z - body.centre[2]
    linear, constant = xy * y + xz * z, yy * y * y + zz * z * z + 2 * yz * y * z - 1
    square = linear * linear - xx * constant
    if square <= 0:
        return []
    middle, half = body.centre[0] - linear / xx, sqrt(square) / xx
    start = max(0, int((middle - half) / spacing + columns / 2 + 0.5))
    stop = min(columns, int((middle + half) / spacing + columns / 2 + 0.5))
    return [(start, body.attenuation), (stop, -body.attenuation)] if start < stop else []
