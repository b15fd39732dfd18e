"""Which widths the array multiplies, layer by layer."""

from __future__ import annotations

import onnx_ir as ir

from rubicc.backends.aie.plan import devices
from rubicc.backends.aie.plan.stages import LANES
from rubicc.backends.aie.prepare import device_of
from rubicc.backends.base import Target, Widths
from rubicc.passes.integer.stages import PRODUCTS
from rubicc.passes.rewrite import constant, is_standard

CELLS = ("GRU", "LSTM")
STATE = 16  # bits of a recurrent state where it is multiplied


def widths(target: Target, node: ir.Node, granularity: str) -> Widths:
    """Native products of the device (``devices.json``, from UG1529) that the kernels use for ``node``.

    Scales are taken anew, so every granularity is one to the array; the widths are kept with
    ``--precision mixed``.
    """
    device = devices.device(device_of(target))
    if is_standard(node, *CELLS):
        shape = device.shapes.get((STATE, 8))
        if shape is None or shape.m != LANES:
            return Widths((), f"no kernel of a recurrent cell on {device.part}")
        return Widths(((8, 8),), "recurrent kernels hold weights of 8 bits, states of 16")
    if not is_standard(node, *PRODUCTS):
        return Widths((), f"{node.op_type} stays on the host, in floats")
    depth = _depth(node)
    native = sorted((w, a, shape.k) for (a, w), shape in device.shapes.items())
    pairs = tuple((w, a) for w, a, k in native if w > 4 or depth % k == 0)
    told = f"{device.part} multiplies {', '.join(f'{w} x {a}' for w, a, _ in native)} bits"
    if len(pairs) < len(native):
        told += f", those of 4 in multiples of {native[0][2]} input channels"
    return Widths(pairs, told)


def _depth(node: ir.Node) -> int:
    """Input channels of one group of a product."""
    weight = constant(node.inputs[1])
    if weight is None or weight.ndim < 2:
        return 1
    first = node.op_type == "Gemm" and not node.attributes.get_int("transB", 0)
    return int(weight.shape[-2 if node.op_type == "MatMul" else 0 if first else 1])
