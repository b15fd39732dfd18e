"""Example inputs for tracing and for the two-shape check, drawn deterministically from the input specs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from rubicc.errors import UsageError
from rubicc.spec import TensorSpec

Feeds = dict[str, np.ndarray]
# Two sizes per kind of symbol. Odd and coprime, so that nothing divides a stride or a head count by luck.
BATCH_SIZES = (2, 3)
SIGNAL_SIZES = (401, 613)
TOKEN_SIZES = (24, 37)
# Tried in turn until the model runs; the last is for token networks with few positions.
SCALES = (1, 4, 16, 0.25)
MAX_ELEMENTS = 1 << 24  # the model is run on it, and its activations are many times as large


def sizes(specs: Sequence[TensorSpec], which: int, scale: float = 1) -> dict[str, int]:
    """A number for every symbol: the batch (axis 0) small, every other axis by the kind of input.

    Args:
        which: 0 for the trace shape, 1 for the second shape.
        scale: multiplies the non-batch sizes, for networks that need longer input or take only shorter one.
    """
    table: dict[str, int] = {}
    for spec in specs:
        length = (SIGNAL_SIZES if _is_float(spec) else TOKEN_SIZES)[which]
        for axis, dim in enumerate(spec.shape):
            if isinstance(dim, str):
                table.setdefault(dim, BATCH_SIZES[which] if axis == 0 else int(length * scale))
    return table


def draw(
    specs: Sequence[TensorSpec],
    bound: Mapping[str, int],
    seed: int,
    limits: Mapping[str, int] | None = None,
) -> Feeds:
    """Arrays for ``specs`` with symbols bound.

    Floats are standard normal, masks (integer or boolean inputs with ``mask`` in the name) are ones with a
    different number of trailing zeros per row, other integers are uniform in ``[0, limits[name])`` (2 when
    no limit is known).

    Raises:
        UsageError: ``RUB-LOW-005`` for an element type inputs cannot have; ``RUB-LOW-008`` a shape too large
            to run.
    """
    rng = np.random.default_rng(seed)
    feeds: Feeds = {}
    for spec in specs:
        shape = tuple(bound[dim] if isinstance(dim, str) else dim for dim in spec.shape)
        if math.prod(shape) > MAX_ELEMENTS:
            raise UsageError(
                "RUB-LOW-008",
                f"input {spec.name!r} {shape} has {math.prod(shape):,} elements, limit {MAX_ELEMENTS:,}",
                hint="keep the long axis symbolic, for example --input x=Nx1xT",
            )
        try:
            dtype = np.dtype(spec.dtype)
        except TypeError as err:
            raise UsageError(
                "RUB-LOW-005", f"input {spec.name!r} has unknown element type {spec.dtype!r}"
            ) from err
        if dtype.kind == "f":
            feeds[spec.name] = rng.standard_normal(shape).astype(dtype)
        elif dtype.kind in "iub" and "mask" in spec.name:
            feeds[spec.name] = _mask(shape).astype(dtype)
        elif dtype.kind in "iub":
            feeds[spec.name] = rng.integers(0, (limits or {}).get(spec.name, 2), shape).astype(dtype)
        else:
            raise UsageError("RUB-LOW-005", f"input {spec.name!r} has element type {spec.dtype!r}")
    return feeds


def oppose(first: Feeds, second: Feeds) -> None:
    """Give the first elements of float inputs opposite signs, in place.

    A branch on the sign of a value, baked in by an exporter, is then right for one of them only.
    """
    for name, array in second.items():
        if array.dtype.kind == "f" and array.size and first[name].flat[0] * array.flat[0] > 0:
            second[name] = -array


def _mask(shape: tuple[int, ...]) -> np.ndarray:
    """Rows padded by 0, 1, 2, … positions: a network that attends to its padding is caught by this."""
    mask = np.ones(shape)
    if len(shape) >= 2:
        for row in range(shape[0]):
            padded = min(row, shape[-1] - 1)
            if padded:
                mask[row, ..., -padded:] = 0
    return mask


def _is_float(spec: TensorSpec) -> bool:
    return np.dtype(spec.dtype).kind == "f"
