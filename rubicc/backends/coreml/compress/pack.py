"""Codes of less than a byte, packed as iOS16's operators want them: from the lowest bit of a byte upwards.

Source: doc string of ``constexpr_lut_to_dense`` (coremltools, iOS16/constexpr_ops.py).
"""

from __future__ import annotations

import numpy as np

SLAB = 1 << 20  # codes packed together: a multiple of 8, so every slab fills its bytes


def pack(codes: np.ndarray, bits: int) -> np.ndarray:
    """uint8 bytes that hold ``codes`` (uint8, below 2^bits) row by row; the rest of the last byte is 0."""
    flat = np.ascontiguousarray(codes, np.uint8).reshape(-1)
    if flat.size and int(flat.max()) >> bits:
        raise ValueError(f"code {int(flat.max())} has more than {bits} bits")
    if bits == 8:
        return flat
    parts = [_packed(flat[at : at + SLAB], bits) for at in range(0, flat.size, SLAB)]
    return np.concatenate(parts) if parts else np.zeros(0, np.uint8)


def _packed(codes: np.ndarray, bits: int) -> np.ndarray:
    spread = np.unpackbits(codes[:, None], axis=1, bitorder="little")[:, :bits]
    return np.packbits(spread.reshape(-1), bitorder="little")
