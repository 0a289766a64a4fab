"""Quantum noise by long integers: a frame is one integer of 16-bit lanes, so a frame costs a few operations.

A random bit of weight 2^k has the variance 4^k / 4. The digits (0 … 3) of four times a wanted variance in base 4 thus
say how many random bits of each weight to add: three masks of lanes, ANDed with random bits and summed, give every
pixel the variance that its own intensity asks for.
"""

from __future__ import annotations  # array[int] cannot be subscripted at run time before Python 3.12

import random
from array import array
from collections.abc import Callable, Sequence
from functools import lru_cache

_PLANES = 3
LEVELS = 4096
"""Pixel values are 12 bits."""


class QuantumNoise:
    """Noise of zero mean whose variance depends on the pixel value.

    Parameters
    ----------
    background
        The pixel values (12 bit) that decide how much noise each pixel gets.
    variance
        Pixel value → variance, in pixel values squared.
    """

    def __init__(self, background: Sequence[int], variance: Callable[[int], float]) -> None:
        self._size = 2 * len(background)
        *planes, mean = (_lanes(array("H", map(table.__getitem__, background))) for table in _tables(variance))
        self._planes: list[int] = planes
        self._mean = mean

    def add(self, frame: array[int], rng: random.Random) -> bytes:
        """Return the frame's pixel data, little endian, with noise.

        Each pixel must leave room for the noise on both sides: a lane that runs below 0 would borrow from its
        neighbour.
        """
        total = _lanes(frame)
        for plane in self._planes:
            total += plane & rng.getrandbits(8 * self._size)
        return (total - self._mean).to_bytes(self._size, "little")


def _lanes(values: array[int]) -> int:
    return int.from_bytes(values, "little")


@lru_cache(maxsize=8)
def _tables(variance: Callable[[int], float]) -> list[list[int]]:
    """Return, by pixel value, the masks of the three planes and the mean of their sum."""
    masks = [_masks(variance(value)) for value in range(LEVELS)]
    return [*([mask[plane] for mask in masks] for plane in range(_PLANES)), [round(sum(mask) / 2) for mask in masks]]


def _masks(variance: float) -> list[int]:
    """Return the masks of one lane for a variance: bit k is set in as many of them as the base-4 digit k says."""
    masks = [0] * _PLANES
    quarters = round(4 * variance)
    weight = 1
    while quarters:
        quarters, digit = divmod(quarters, 4)
        for plane in range(digit):
            masks[plane] |= weight
        weight <<= 1
    return masks
