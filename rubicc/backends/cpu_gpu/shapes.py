"""Sizes for the free dimensions of an interface, and arrays of those sizes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from rubicc.spec import ModelMeta, TensorSpec

DEFAULT_BATCH = {"basecalling": 32, "masked-lm": 8, "generic": 1}
DEFAULT_SIGNAL, DEFAULT_TOKENS = 4000, 512


def default_batch(meta: ModelMeta | None) -> int:
    """Batch size that inference uses when nobody says otherwise."""
    return DEFAULT_BATCH[meta.task if meta is not None else "generic"]


def sizes(
    inputs: Sequence[TensorSpec], meta: ModelMeta | None, batch: int, chunk: int | None = None
) -> dict[str, int]:
    """A number for every symbol: ``batch`` for the first axis, the model's chunk length for the others."""
    table: dict[str, int] = {}
    known = chunk or (meta.chunk if meta is not None else None)
    for spec in inputs:
        length = known or (DEFAULT_SIGNAL if np.dtype(spec.dtype).kind == "f" else DEFAULT_TOKENS)
        for axis, dim in enumerate(spec.shape):
            if isinstance(dim, str):
                table.setdefault(dim, batch if axis == 0 else length)
    return table


def bound_shapes(inputs: Sequence[TensorSpec], bound: Mapping[str, int]) -> dict[str, list[int]]:
    """Shape per input with symbols replaced."""
    return {spec.name: [bound[dim] if isinstance(dim, str) else dim for dim in spec.shape] for spec in inputs}


def example_feeds(
    inputs: Sequence[TensorSpec], bound: Mapping[str, int], seed: int = 0
) -> dict[str, np.ndarray]:
    """Seeded arrays that every network takes: standard normal floats, integer and boolean ones.

    Good for timing and for finding faults; not for judging accuracy, which needs real input.
    """
    rng = np.random.default_rng(seed)
    feeds = {}
    for name, shape in bound_shapes(inputs, bound).items():
        dtype = np.dtype(next(spec.dtype for spec in inputs if spec.name == name))
        values = rng.standard_normal(shape) if dtype.kind == "f" else np.ones(shape)
        feeds[name] = values.astype(dtype)
    return feeds
