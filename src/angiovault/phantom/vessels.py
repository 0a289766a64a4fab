"""Vessel trees and the contrast medium that flows through them.

Coordinates are millimetres at the isocentre, x to the right and y downwards from the centre of the image. Forks
follow Murray's law: the cubes of the radii of the daughters sum up to the cube of the mother's.
"""

from __future__ import annotations  # array[int] cannot be subscripted at run time before Python 3.12

import random
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import atan2, cos, exp, hypot, sin, sqrt

STEP = 0.3
"""Distance of the points of a centre line, mm."""
SMALLEST = 0.25
"""Radius at which a branch is lost in the capillaries, mm."""
FASTEST = 190.0
"""Speed of the blood in the stem, mm/s; it falls with the square root of the radius."""
THICKEST_BRANCH = 1.5
"""Radius that no side branch exceeds, mm, however thick its mother."""
THICKEST_FORK = 0.85
"""Radius above which a stem does not fork at its end but goes on as another stem, mm."""
DEEPEST = 12.0
"""Depth of contrast that a tree brings to a pixel at most, mm: what keeps pixel values above 0 after all."""
_BUCKET = 0.01
"""Arrival times are kept in steps of this, s."""
IODINE = 0.085
"""Attenuation of full contrast medium, 1/mm."""

Region = Callable[[float, float], bool]
"""Whether a place (mm) is inside."""
Curve = Callable[[float, float], float]
"""Concentration by the time since the arrival (s) and the arrival (s)."""


@dataclass(frozen=True)
class Vessel:
    """A stem through control points (mm), tapering between two radii (mm); `branching` is branches per 10 mm."""

    points: tuple[tuple[float, float], ...]
    radius: float
    end_radius: float
    arrival: float = 0.0
    branching: float = 1.6


@dataclass(frozen=True)
class Sac:
    """A round pool of contrast: an aneurysm, or (porous) the blush of a tumour."""

    x: float
    y: float
    radius: float
    arrival: float
    porous: bool = False


@dataclass(frozen=True)
class Point:
    """A point of a centre line: place (mm), direction (radians), radius (mm), arrival of the contrast (s)."""

    x: float
    y: float
    direction: float
    radius: float
    arrival: float


@dataclass
class Bed:
    """Pixels that contrast reaches: their place, the depth of vessel (mm) and the arrival time in buckets."""

    index: array[int]
    depth: array[float]
    bucket: array[int]
    curve: Curve

    def append(self, index: int, depth: float, arrival: float) -> None:
        """Add a pixel; `depth` in mm, `arrival` in s."""
        self.index.append(index)
        self.depth.append(depth)
        self.bucket.append(int(max(0.0, arrival) / _BUCKET))

    def strengths(self, time: float) -> list[float]:
        """Return the attenuation per mm by bucket, `time` seconds after the injection."""
        latest = max(self.bucket, default=-1) + 1
        return [IODINE * self.curve(time - bucket * _BUCKET, bucket * _BUCKET) for bucket in range(latest)]


def arterial(since: float, arrival: float) -> float:
    """Return the concentration `since` seconds after arrival: a bolus of 1.6 s, blurred the later it arrives."""
    if since <= 0:
        return 0.0
    rise = 0.12 + 0.15 * arrival
    front = 1 - exp(-((since / rise) ** 2))
    return front * exp(-(since - 1.6) / (0.35 + 0.25 * arrival)) if since > 1.6 else front


def venous(since: float, arrival: float) -> float:
    """Return the concentration in veins: diluted, and slow to come and go."""
    del arrival
    return 0.0 if since <= 0 else 0.5 * (1 - exp(-((since / 0.9) ** 2))) * exp(-max(0.0, since - 1.5) / 3)


def pooled(since: float, arrival: float) -> float:
    """Return the concentration in an aneurysm or a tumour, which wash out slowly."""
    del arrival
    return 0.0 if since <= 0 else (1 - exp(-((since / 0.5) ** 2))) * exp(-max(0.0, since - 1.5) / 2.5)


def grow(stem: Vessel, rng: random.Random, inside: Region) -> list[list[Point]]:
    """Return the centre lines of a stem and of all its branches, each after the one that it leaves."""
    lines = [_spline(stem)]
    _branch(lines, lines[0], stem.branching, rng, inside, generation=0)
    return lines


def bed(
    stems: Sequence[Vessel],
    curve: Curve,
    rows: int,
    columns: int,
    field: float,
    rng: random.Random,
    inside: Region,
) -> Bed:
    """Return the pixels of the trees that grow from `stems`, in a field of view of `field` mm.

    A pixel where vessels cross is there once for each, since each has its own time; where a branch leaves its mother
    only the depth that it adds counts.
    """
    raster = Raster(rows, columns, field)
    pixels = Bed(array("l"), array("d"), array("H"), curve)
    known: dict[int, float] = {}
    for stem in stems:
        for line in grow(stem, rng, inside):
            for index, (depth, arrival) in raster.tube(line).items():
                before = known.get(index, 0.0)
                if before and raster.near(index, line[0]):
                    depth -= before
                depth = min(depth, DEEPEST - before)
                if depth > 0:
                    known[index] = before + depth
                    pixels.append(index, depth, arrival)
    return pixels


def pools(sacs: Sequence[Sac], rows: int, columns: int, field: float, rng: random.Random) -> Bed:
    """Return the pixels of aneurysms and tumours."""
    raster = Raster(rows, columns, field)
    pixels = Bed(array("l"), array("d"), array("H"), pooled)
    for sac in sacs:
        for index, square in raster.disc(sac.x, sac.y, sac.radius):
            depth, late = 2 * sqrt(square), 0.0
            if sac.porous:
                x, y = index % columns * raster.pixel_x, index // columns * raster.pixel_y
                lobe = sin(0.8 * x + 0.5 * y + 2 * sin(0.35 * y)) * sin(0.7 * y - 0.3 * x + 2 * sin(0.3 * x))
                depth *= 0.14 + 0.03 * lobe + rng.uniform(-0.01, 0.01)
                late = 0.4 + 0.3 * lobe
            pixels.append(index, depth, sac.arrival + late)
    return pixels


def depth_of(stem: Vessel, rows: int, columns: int, field: float) -> dict[int, float]:
    """Return the depth (mm) of an unbranched tube by pixel, as a catheter is."""
    line = _spline(stem)
    return {index: depth for index, (depth, _) in Raster(rows, columns, field).tube(line).items()}


class Raster:
    """The pixels of a field of view: which of them a disc or a tube covers, and how deep it is there."""

    def __init__(self, rows: int, columns: int, field: float) -> None:
        self._rows, self._columns, self._half = rows, columns, field / 2
        self.pixel_x, self.pixel_y = field / columns, field / rows

    def disc(self, x: float, y: float, radius: float) -> list[tuple[int, float]]:
        """Return the pixels of a disc with radius² - distance² (mm²)."""
        left, top = (x + self._half) / self.pixel_x - 0.5, (y + self._half) / self.pixel_y - 0.5
        wide, high = radius / self.pixel_x, radius / self.pixel_y
        first, last = max(0, int(left - wide)), min(self._columns - 1, int(left + wide))
        squares = [((column - left) * self.pixel_x) ** 2 for column in range(first, last + 1)]
        found = []
        for row in range(max(0, int(top - high)), min(self._rows - 1, int(top + high)) + 1):
            rest = radius * radius - ((row - top) * self.pixel_y) ** 2
            index = row * self._columns + first
            found += [(place, rest - square) for place, square in enumerate(squares, index) if square < rest]
        return found

    def tube(self, line: list[Point]) -> dict[int, tuple[float, float]]:
        """Return depth and arrival by pixel: a cylinder's, a blurred one's where it is thinner than a pixel."""
        thinnest = 0.9 * self.pixel_x
        tube: dict[int, tuple[float, float]] = {}
        nothing = (0.0, 0.0)
        travelled = 0.0
        for point in line:
            travelled += STEP
            drawn = max(point.radius, thinnest)
            if travelled < 0.3 * drawn:
                continue
            travelled = 0.0
            density = 2 * (point.radius / drawn) ** 2
            for index, square in self.disc(point.x, point.y, drawn):
                depth = density * sqrt(square)
                if depth > tube.get(index, nothing)[0]:
                    tube[index] = depth, point.arrival
        return tube

    def near(self, index: int, root: Point) -> bool:
        """Whether a pixel is where a branch that begins at `root` still overlaps its mother."""
        row, column = divmod(index, self._columns)
        x, y = (column + 0.5) * self.pixel_x - self._half, (row + 0.5) * self.pixel_y - self._half
        return hypot(x - root.x, y - root.y) < 2 + 2 * root.radius


def _spline(stem: Vessel) -> list[Point]:
    """Return points along a Catmull-Rom spline through the control points."""
    controls = stem.points
    padded = (controls[0], *controls, controls[-1])
    curve: list[tuple[float, float]] = []
    for before, here, there, after in zip(padded, padded[1:], padded[2:], padded[3:], strict=False):
        count = max(2, int(hypot(there[0] - here[0], there[1] - here[1]) * 1.1 / STEP))
        curve.extend(_between(before, here, there, after, step / count) for step in range(count))
    line: list[Point] = []
    arrival = stem.arrival
    for number, ((x, y), (next_x, next_y)) in enumerate(pairwise(curve)):
        radius = stem.radius + (stem.end_radius - stem.radius) * number / len(curve)
        line.append(Point(x, y, atan2(next_y - y, next_x - x), radius, arrival))
        arrival += hypot(next_x - x, next_y - y) / _speed(radius)
    return line


def _between(
    before: tuple[float, float],
    here: tuple[float, float],
    there: tuple[float, float],
    after: tuple[float, float],
    share: float,
) -> tuple[float, float]:
    def blend(a: float, b: float, c: float, d: float) -> float:
        return b + 0.5 * share * (c - a + share * (2 * a - 5 * b + 4 * c - d + share * (3 * (b - c) + d - a)))

    return blend(before[0], here[0], there[0], after[0]), blend(before[1], here[1], there[1], after[1])


def _branch(
    lines: list[list[Point]],
    mother: list[Point],
    branching: float,
    rng: random.Random,
    inside: Region,
    generation: int,
) -> None:
    """Let side branches leave `mother` at random places, on alternating sides, and a fork end it."""
    if not mother or generation > 3 or not branching:
        return
    side = rng.choice((-1, 1))
    gap = rng.expovariate(branching / 10)
    daughters: list[list[Point]] = []
    for point in mother[int(3 / STEP) :]:
        gap -= STEP
        if gap > 0:
            continue
        side = -side
        gap = rng.uniform(0.5, 1.5) * 10 / branching
        radius = min(THICKEST_BRANCH, point.radius) * rng.uniform(0.38, 0.68)
        daughters.append(_walk(point, side * rng.uniform(0.5, 1.15), radius, rng, inside))
    end = mother[-1]
    if end.radius < THICKEST_FORK:
        share = rng.uniform(0.3, 0.5)  # of the flow, which goes with the cube of the radius
        spread = rng.uniform(0.35, 0.55)
        daughters.append(_walk(end, spread, end.radius * share ** (1 / 3), rng, inside))
        daughters.append(_walk(end, -spread * 0.7, end.radius * (1 - share) ** (1 / 3), rng, inside))
    for line in daughters:
        if len(line) > 3 / STEP:
            lines.append(line)
            _branch(lines, line, branching, rng, inside, generation + 1)


def _walk(start: Point, turn: float, radius: float, rng: random.Random, inside: Region) -> list[Point]:
    """Return a branch that leaves `start` at an angle (radians) and winds on, tapering."""
    line: list[Point] = []
    if radius < SMALLEST:
        return line
    x, y, direction, arrival = start.x, start.y, start.direction + turn, start.arrival
    bend = -turn * 0.012
    length = radius * rng.uniform(22, 42) + 4
    for number in range(int(length / STEP)):
        if not inside(x, y):
            break
        here = radius * (1 - 0.35 * number * STEP / length)
        line.append(Point(x, y, direction, here, arrival))
        bend = 0.93 * bend + rng.uniform(-0.02, 0.02)
        direction += bend
        x += STEP * cos(direction)
        y += STEP * sin(direction)
        arrival += STEP / _speed(here)
    return line


def _speed(radius: float) -> float:
    return FASTEST * sqrt(min(1.0, radius / 2.5))
