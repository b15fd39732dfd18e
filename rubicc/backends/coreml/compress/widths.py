"""Which widths a package stores as they are: what quantisation may choose from."""

from __future__ import annotations

import onnx_ir as ir

from rubicc.backends.base import Target, Widths
from rubicc.backends.coreml.tools import OPSETS, opset
from rubicc.passes.rewrite import is_standard

FLOAT = 32
# Bits of codes by granularity of scales, for which :mod:`forms` has a form of just that width. Left out are
# 3 and 6 bits per channel: their tables pay in rows of more than 112 and 1,000 weights only.
RECENT = {"tensor": (2, 3, 4, 6, 8), "channel": (2, 4, 8), "block": (2, 4, 8)}
OLDER = {"tensor": (2, 4, 6, 8), "channel": (8,), "block": ()}


def widths(target: Target, node: ir.Node, granularity: str) -> Widths:
    """Stored widths of ``node``'s weights; activations of 8 bits from iOS17 on (``quantize``)."""
    device = opset(target.device)
    recent = device >= OPSETS["iOS18"]
    torch_gru = is_standard(node, "GRU") and node.attributes.get_int("linear_before_reset", 0) == 1
    if torch_gru and not recent:
        return Widths((), f"{device.name} composes PyTorch's GRU of two steps, with weights in floats")
    table = RECENT if recent else OLDER
    values = (8, FLOAT) if device >= OPSETS["iOS17"] else (FLOAT,)
    pairs = tuple((bits, value) for bits in table[granularity] for value in values)
    told = ", ".join(map(str, table[granularity])) or "no"
    return Widths(pairs, f"{device.name} stores {told} bits with a scale per {granularity}")
