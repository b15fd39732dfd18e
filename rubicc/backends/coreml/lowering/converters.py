"""All converters in one table; importing this registers every family."""

from __future__ import annotations

from collections.abc import Callable

from rubicc.backends.coreml.lowering import (
    activations,
    conv,
    create,
    elementwise,
    gather,
    linear,
    movement,
    norm,
    quantisers,
    recurrent,
    reduce,
)
from rubicc.backends.coreml.lowering.context import Context
from rubicc.backends.coreml.lowering.fuse import Fusion
from rubicc.backends.coreml.lowering.table import CONVERTERS

FAMILIES = (
    activations, conv, create, elementwise, gather, linear, movement, norm, quantisers, recurrent, reduce
)  # fmt: skip
FUSED: dict[str, Callable[[Context, Fusion], None]] = {
    "gelu": activations.fused_gelu,
    "layer_norm": norm.fused_layer_norm,
    "linear": linear.fused_linear,
    "silu": activations.fused_silu,
}

__all__ = ["CONVERTERS", "FAMILIES", "FUSED"]
