"""What the X-ray passes through besides contrast medium: soft tissue, bones, air, a catheter.

Coordinates are millimetres at the isocentre, x to the right and y downwards from the centre of the image.
"""

import random
from dataclasses import dataclass, field
from math import cos, exp, floor, radians, sin, sqrt

from angiovault.phantom.vessels import Sac, Vessel, depth_of

FIELD = 196.0
"""Side of the field of view at the isocentre, mm."""


@dataclass(frozen=True)
class Solid:
    """A body seen from the front: centre, semi-axes, rotation (degrees), attenuation along its middle."""

    x: float
    y: float
    a: float
    b: float
    attenuation: float
    angle: float = 0.0
    form: str = "ellipsoid"
    """"ellipsoid", "soft" (a gentle gradient in place of the rim), or "box" (rounded, not rotated)."""


@dataclass(frozen=True)
class Anatomy:
    """A view of a part of the body: what is always there, and where contrast medium will flow."""

    solids: tuple[Solid, ...]
    arteries: tuple[Vessel, ...]
    veins: tuple[Vessel, ...] = ()
    sacs: tuple[Sac, ...] = ()
    catheter: tuple[tuple[float, float], ...] = ()
    body_part: str = ""
    laterality: str = ""
    """R or L, of a paired body part."""
    exposure: float = 1.0
    """The attenuation that automatic exposure brings to a fair grey."""
    bounds: Solid = field(default_factory=lambda: Solid(0, 0, 140, 140, 0))
    """Vessels end at this ellipse."""


def shell(
    x: float, y: float, a: float, b: float, thickness: float, attenuation: float, form: str = "ellipsoid"
) -> tuple[Solid, Solid]:
    """Return a hollow body: dark at the rim, as a skull or the cortex of a bone looks."""
    inner = Solid(x, y, a - thickness, b - thickness, -attenuation * 0.9, form=form)
    return Solid(x, y, a, b, attenuation, form=form), inner


def intensities(anatomy: Anatomy, rows: int, columns: int, rng: random.Random) -> list[list[float]]:
    """Return the X-ray intensity behind the anatomy, rows of pixels in units of LIN pixel values (uncapped)."""
    image = _texture(rows, columns, rng)
    for solid in anatomy.solids:
        _add(image, solid, rows, columns)
    if anatomy.catheter:
        for index, depth in depth_of(Vessel(anatomy.catheter, 0.65, 0.65), rows, columns, FIELD).items():
            image[index // columns][index % columns] += 0.16 * depth
    reference = anatomy.exposure
    return [[1100.0 * exp(reference - value) for value in row] for row in image]


def shifted(image: list[list[float]], down: float, left: float) -> list[list[float]]:
    """Return the image moved by parts of a pixel, with bilinear interpolation and repeated edges.

    The directions are those of Mask Sub-pixel Shift (0028,6114): a positive row value moves it down, a positive
    column value to the left (PS3.3 C.7.6.10.1.2).
    """
    rows, columns = len(image), len(image[0])
    whole = floor(left)
    share, margin = left - whole, abs(whole) + 1
    moved = []
    for row in range(rows):
        above, below, part = _neighbours(row - down, rows)
        line = [upper + part * (lower - upper) for upper, lower in zip(image[above], image[below], strict=True)]
        line = line[:1] * margin + line + line[-1:] * margin
        start = margin + whole
        here, there = line[start : start + columns], line[start + 1 : start + 1 + columns]
        moved.append([near + share * (far - near) for near, far in zip(here, there, strict=True)])
    return moved


def _neighbours(position: float, count: int) -> tuple[int, int, float]:
    position = min(max(position, 0.0), count - 1.0)
    first = int(position)
    return first, min(first + 1, count - 1), position - first


def _add(image: list[list[float]], solid: Solid, rows: int, columns: int) -> None:
    """Add a solid's attenuation: the root of 1 - q, q being a form of the place that is 1 at the outline."""
    pixel_x, pixel_y = FIELD / columns, FIELD / rows
    places = [(column + 0.5) * pixel_x - FIELD / 2 - solid.x for column in range(columns)]
    for row in range(rows):
        span = _chord(solid, (row + 0.5) * pixel_y - FIELD / 2 - solid.y)
        if span is None:
            continue
        left, right, quadratic, linear, constant = span
        start = max(0, int((solid.x + left + FIELD / 2) / pixel_x + 0.5))
        stop = min(columns, int((solid.x + right + FIELD / 2) / pixel_x + 0.5))
        if start >= stop:
            continue
        line, strength, across = image[row], solid.attenuation, places[start:stop]
        # abs() instead of max(0, …): only rounding errors at the outline are ever below 0.
        if solid.form == "box":
            profile = [sqrt(abs(constant - quadratic * x**4)) for x in across]
        elif solid.form == "soft":
            profile = [(constant - (quadratic * x + linear) * x) ** 2 for x in across]
        else:
            profile = [sqrt(abs(constant - (quadratic * x + linear) * x)) for x in across]
        line[start:stop] = [value + strength * share for value, share in zip(line[start:stop], profile, strict=True)]


def _chord(solid: Solid, y: float) -> tuple[float, float, float, float, float] | None:
    """Return where a row enters and leaves a solid, and the coefficients of 1 - q along it; None if it misses."""
    if solid.form == "box":
        constant = 1 - (y / solid.b) ** 4
        half = solid.a * max(0.0, constant) ** 0.25
        return (-half, half, solid.a**-4, 0.0, constant) if constant > 0 else None
    cosine, sine = cos(radians(solid.angle)), sin(radians(solid.angle))
    quadratic = (cosine / solid.a) ** 2 + (sine / solid.b) ** 2
    linear = 2 * cosine * sine * (solid.a**-2 - solid.b**-2) * y
    constant = 1 - ((sine / solid.a) ** 2 + (cosine / solid.b) ** 2) * y * y
    discriminant = linear * linear + 4 * quadratic * constant
    if discriminant <= 0:
        return None
    middle, half = -linear / (2 * quadratic), sqrt(discriminant) / (2 * quadratic)
    return middle - half, middle + half, quadratic, linear, constant


def _texture(rows: int, columns: int, rng: random.Random) -> list[list[float]]:
    """Return weak structure at two scales, as tissue has it: random values on a grid, smoothly interpolated."""
    image = []
    scales = [(cells, _grid(cells, strength, columns, rng)) for cells, strength in ((7, 0.05), (64, 0.014))]
    for row in range(rows):
        corners = []
        for cells, grid in scales:
            whole = row * cells // rows
            share = _ease(row * cells / rows - whole)
            corners += [(1 - share, grid[whole]), (share, grid[whole + 1])]
        (a, first), (b, second), (c, third), (d, fourth) = corners
        image.append([a * p + b * q + c * r + d * s for p, q, r, s in zip(first, second, third, fourth, strict=True)])
    return image


def _grid(cells: int, strength: float, columns: int, rng: random.Random) -> list[list[float]]:
    """Return a grid's lines, each already interpolated along the columns."""
    lines = []
    for _ in range(cells + 1):
        knots = [rng.uniform(-strength, strength) for _ in range(cells + 1)]
        lines.append([_between(knots, column * cells / columns) for column in range(columns)])
    return lines


def _between(knots: list[float], position: float) -> float:
    whole = int(position)
    return knots[whole] + _ease(position - whole) * (knots[whole + 1] - knots[whole])


def _ease(share: float) -> float:
    return share * share * (3 - 2 * share)
