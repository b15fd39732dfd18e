"""Numbers that float16 does not hold, and what is used in their place."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

FLOAT_TYPES = {"fp16": np.float16, "fp32": np.float32}
HALF_MAX = 65504.0
MASK = 3.0e4  # in place of masks beyond the range: the sum of two is finite, softmax of it is 0
# Twice float16's smallest number; halving it would make 6e-8. Apple's own models use 1e-7.
EPSILON = 2.0**-23


class Clipped(NamedTuple):
    """How many values of an array were brought into range, and the largest magnitude used for them."""

    number: int
    value: float


def to_half(array: np.ndarray, role: str = "mask") -> tuple[np.ndarray, Clipped | None]:
    """``array`` in float16.

    Args:
        role: values beyond the range become ``±3e4`` as a ``mask`` and ``±65504`` as a ``bound``.

    Returns:
        The array (contiguous), and what was clipped.
    """
    with np.errstate(over="ignore"):
        half = np.asarray(array.astype(np.float16, order="C"))
    if array.size == 0 or (array.dtype == np.float16 and not np.isinf(array).any()):
        return half, None
    beyond = HALF_MAX + 15.99  # numbers below this still round to 65504
    if not (array.max() > beyond or array.min() < -beyond):
        return half, None
    value = HALF_MAX if role == "bound" else MASK
    over, under = array > beyond, array < -beyond
    half = half.copy() if half.base is not None else half
    half = np.where(over, np.float16(value), np.where(under, np.float16(-value), half)).astype(np.float16)
    return half, Clipped(int(over.sum() + under.sum()), value)


def epsilon_for(epsilon: float, dtype: str) -> float:
    """The epsilon to use: the given one where the type holds it, else the smallest sensible one."""
    return EPSILON if dtype == "fp16" and 0.0 < epsilon < EPSILON / 2 else epsilon


def survives_half(number: float) -> bool:
    """Whether a factor keeps nine bits in float16; small ones lose them, large ones leave its range."""
    if number == 0.0 or not np.isfinite(number):
        return number == 0.0
    with np.errstate(over="ignore"):
        half = float(np.float16(number))
    return np.isfinite(half) and abs(half - number) <= abs(number) * 2.0**-9
