"""Which widths the runtimes compute in or store."""

from __future__ import annotations

import onnx_ir as ir

from rubicc.backends.base import Target, Widths
from rubicc.passes.quantize.insert import PRODUCTS, RECURRENT
from rubicc.passes.rewrite import is_standard

FLOAT = 32


def widths(target: Target, node: ir.Node, granularity: str) -> Widths:
    """8 bits: what ``quantize.to-qdq`` lowers; all other quantisers become float arithmetic."""
    if granularity == "block":
        return Widths((), "QuantizeLinear has scales per tensor or channel; others become floats")
    if target.name == "gpu":
        if target.device != "tensorrt":
            return Widths((), "GPU providers but TensorRT compute in floats")
        if not is_standard(node, *PRODUCTS):
            return Widths((), f"TensorRT has no {node.op_type} in integers")
        return Widths(((8, 8),), "TensorRT takes QuantizeLinear pairs of 8 bits")
    pairs = ((8, 8), (8, FLOAT)) if is_standard(node, *PRODUCTS, *RECURRENT) else ((8, FLOAT),)
    return Widths(pairs, "integers of 8 bits with --precision int8; other widths become floats")
