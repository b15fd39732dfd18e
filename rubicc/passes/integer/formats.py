"""Integer formats whose step is a power of two, fitted to what was seen."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rubicc.ir.ops.quant import int_range

BLOCK = 8  # output channels that share an exponent: one column block of the matrix units
FINER = 5  # exponents below the one that clips nothing that are tried
LEAST_EXPONENT = -60


@dataclass(frozen=True)
class Format:
    """Integers of ``bits`` bits times ``2**exponent``."""

    exponent: int
    bits: int
    signed: bool = True

    @property
    def low(self) -> int:
        """Smallest integer."""
        return int(int_range(self.bits, self.signed, narrow=False)[0])

    @property
    def high(self) -> int:
        """Largest integer."""
        return int(int_range(self.bits, self.signed, narrow=False)[1])

    def rounded(self, values: np.ndarray) -> np.ndarray:
        """``values`` on the grid, float64."""
        step = 2.0**self.exponent
        return np.clip(np.rint(np.asarray(values, np.float64) / step), self.low, self.high) * step


def covering(peak: float, high: int) -> int:
    """The least exponent whose format reaches ``peak`` with the integer ``high``."""
    if not peak > 0:
        return LEAST_EXPONENT
    return max(LEAST_EXPONENT, int(np.ceil(np.log2(peak / high) - 1e-9)))


def fit(values: np.ndarray, low: float, high: float, bits: int, *, signed: bool | None = None) -> Format:
    """The format with the least squared error on ``values``.

    Args:
        values: a sample, any shape.
        low, high: extremes, which the sample may have missed.
        signed: by default whether ``low`` is negative; 16 bits are always signed, as the matrix units want.
    """
    signed = low < 0 or bits > 8 if signed is None else signed
    widest = Format(0, bits, signed)
    top = covering(max(high, 0.0), widest.high)
    if signed:
        top = max(top, covering(max(-low, 0.0), -widest.low))
    sample = np.asarray(values, np.float64).reshape(-1)
    tried = [Format(top - finer, bits, signed) for finer in range(FINER)]
    return min(tried, key=lambda form: float(np.square(form.rounded(sample) - sample).mean()))


def fit_weight(weight: np.ndarray, bits: int, floor: np.ndarray | int = LEAST_EXPONENT) -> np.ndarray:
    """Exponents of a weight, one per output channel, equal within each :data:`BLOCK` of them; int64 ``(O,)``.

    Args:
        weight: ``(O, ...)``.
        floor: least exponent, one number or ``(O,)``.
    """
    exponents = np.empty(len(weight), np.int64)
    floors = np.broadcast_to(np.asarray(floor, np.int64), len(weight))
    for start in range(0, len(weight), BLOCK):
        part = slice(start, start + BLOCK)
        rows = np.asarray(weight[part], np.float64).reshape(-1)
        found = fit(rows, float(rows.min(initial=0.0)), float(rows.max(initial=0.0)), bits, signed=True)
        exponents[part] = max(found.exponent, int(floors[part].max()))
    return exponents
