"""The integer arithmetic of the array: what a type holds, and how an accumulator becomes one again.

Everything the integer network computes goes through :func:`requantise` and :func:`saturate`; kernels,
emulation and the reference in :mod:`rubicc.backends.aie.reference` agree on it bit by bit.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rubicc.ir.ops.quant import int_range

SLOT_BYTES = 8  # a frame of one channel block: 8 channels of 8 bits or 4 of 16
ACCUMULATOR_BITS = 32  # of aie::mmul on operands of at most 16 x 8 bits; wider products have 64


@dataclass(frozen=True, order=True)
class Type:
    """An integer type of tensors on the array.

    Attributes:
        bits: 4 (weights only), 8, 16 or 32.
        signed: two's complement when true.
    """

    bits: int
    signed: bool = True

    def __post_init__(self) -> None:
        if self.bits not in (4, 8, 16, 32):
            raise ValueError(f"no integers of {self.bits} bits on the array; use 4, 8, 16 or 32")

    @property
    def low(self) -> int:
        """Smallest value."""
        return int(int_range(self.bits, self.signed, narrow=False)[0])

    @property
    def high(self) -> int:
        """Largest value."""
        return int(int_range(self.bits, self.signed, narrow=False)[1])

    @property
    def block(self) -> int:
        """Channels in one slot of :data:`SLOT_BYTES`."""
        return SLOT_BYTES * 8 // self.bits

    @property
    def cpp(self) -> str:
        """Name of the type in kernels."""
        return f"{'' if self.signed else 'u'}int{self.bits}"

    def __str__(self) -> str:
        return f"{'' if self.signed else 'u'}int{self.bits}"


def saturate(values: np.ndarray, to: Type) -> np.ndarray:
    """``values`` clipped to what ``to`` holds, int64 of the same shape."""
    return np.clip(values, to.low, to.high)


def shift_round(values: np.ndarray, shift: np.ndarray | int) -> np.ndarray:
    """``values * 2**-shift`` rounded half to even, int64; a negative shift moves to the left, exactly.

    This is ``aie::rounding_mode::conv_even`` on the bits that a shift to the right drops.

    Args:
        values: int64, any shape.
        shift: number of bits, broadcast against ``values``.
    """
    values, shift = np.asarray(values, np.int64), np.asarray(shift, np.int64)
    if np.any(shift < 0):
        values = np.left_shift(values, np.maximum(-shift, 0))
    bits, dropping = np.maximum(shift, 0), shift > 0
    half = np.where(dropping, np.left_shift(1, np.maximum(bits - 1, 0)) - 1, 0)
    made = np.asarray(np.right_shift(values, bits) & dropping)  # a tie goes up only to an even result
    made += values
    made += half
    return np.asarray(np.right_shift(made, bits, out=made))


def requantise(values: np.ndarray, shift: np.ndarray | int, to: Type) -> np.ndarray:
    """Accumulators to integers of type ``to``: :func:`shift_round`, then :func:`saturate`."""
    return saturate(shift_round(values, shift), to)
