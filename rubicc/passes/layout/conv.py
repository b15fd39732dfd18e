"""Turns one Conv node into its folded form, in place."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import onnx_ir as ir

from rubicc.passes.layout.geometry import operands
from rubicc.passes.layout.lengths import treats_all_alike
from rubicc.passes.layout.operands import Fill, Rearrange, drop_unused, rebuilt
from rubicc.passes.layout.phases import (
    Geometry,
    Order,
    fold,
    fold_weight,
    repeat_channels,
    spread_geometry,
    spread_weight,
)
from rubicc.passes.rewrite import Editor, is_standard, only_use


def fold_conv(edit: Editor, node: ir.Node, geometry: Geometry, phases: int, order: Order) -> None:
    """Let ``node`` read and write phases; its input and output are connected by the caller."""

    def folded(array: np.ndarray, fill: Fill) -> np.ndarray:
        return fold_weight(array, geometry, phases, order, fill)

    to = fold(geometry, phases)
    _set_operands(edit, node, geometry, phases, order, folded)
    _set_attributes(node, to.taps, 1, 1, to.before, to.after)


def spread_conv(edit: Editor, node: ir.Node, geometry: Geometry, phases: int, order: Order) -> None:
    """Let ``node`` read time as it is and write phases."""

    def spread(array: np.ndarray, fill: Fill) -> np.ndarray:
        return spread_weight(array, geometry, phases, order, fill)

    to = spread_geometry(geometry, phases)
    _set_operands(edit, node, geometry, phases, order, spread)
    _set_attributes(node, to.taps, to.stride, to.dilation, to.before, to.after)


def _set_operands(
    edit: Editor, node: ir.Node, geometry: Geometry, phases: int, order: Order, main: Rearrange
) -> None:
    def repeat(array: np.ndarray, fill: Fill) -> np.ndarray:
        return repeat_channels(array, geometry.groups, phases, order)

    weight, bias = operands(node)
    node.replace_input_with(1, rebuilt(edit, weight, node, main, repeat))
    drop_unused(edit, weight.value)
    if bias is not None:
        node.replace_input_with(2, rebuilt(edit, bias, node, repeat, repeat))
        drop_unused(edit, bias.value)


def _set_attributes(node: ir.Node, taps: int, stride: int, dilation: int, before: int, after: int) -> None:
    node.attributes.pop("auto_pad", None)
    for name, values in (
        ("kernel_shape", [taps]),
        ("strides", [stride]),
        ("dilations", [dilation]),
        ("pads", [before, after]),
    ):
        node.attributes[name] = ir.AttrInt64s(name, values)


def chain_behind(
    node: ir.Node, *, stored: bool, within: Collection[ir.Node] | None = None
) -> tuple[ir.Value, ir.Node]:
    """The end of the elementwise chain behind ``node``, which runs on phases as well (inside ``within``).

    Activations and quantisers stay next to the convolution that runtimes fuse them into. With
    ``stored`` the chain ends with the first QuantizeLinear, so that what follows moves bytes.
    """
    last = node
    while not (stored and is_standard(last, "QuantizeLinear")):
        after = only_use(last.outputs[0])
        if after is None or not treats_all_alike(after) or after.inputs[0] is not last.outputs[0]:
            break
        if within is not None and after not in within:
            break
        last = after
    return last.outputs[0], last


def phase_shapes(node: ir.Node, last: ir.Node, channels: int) -> None:
    """The values from ``node`` to ``last`` are (N, channels, tau) now."""
    while True:
        value = node.outputs[0]
        batch = value.shape[0] if value.shape is not None else None
        value.shape = ir.Shape([batch, channels, None])
        if node is last:
            return
        node = next(iter(value.uses())).node
