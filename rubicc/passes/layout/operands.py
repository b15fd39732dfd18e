"""Weights and biases of a convolution as they stand in the graph: constant, dequantised or quantised.

The rearranged operand has the same form (integers stay integers, a quantiser stays a quantiser with its
scales repeated), so that what a runtime or a later pass recognises is still there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from rubicc.ir.graph import is_quantiser
from rubicc.passes.rewrite import Editor, constant, is_standard


class Stays(Exception):
    """Why a convolution keeps its layout; becomes a note."""


Fill = np.ndarray | float


@dataclass(frozen=True)
class Operand:
    """A constant, or the one node that makes values out of a constant.

    Attributes:
        array: what is stored: float values, or integers below ``node``.
        node: DequantizeLinear or Quant between the constant and the convolution.
        fill: what must be stored where the value is zero, per output channel or scalar.
    """

    value: ir.Value
    array: np.ndarray
    node: ir.Node | None
    fill: Fill


def operand(value: ir.Value) -> Operand:
    """Reads a weight or bias.

    Raises:
        Stays: it is computed, or cannot hold an exact zero, or is scaled along another axis than channels.
    """
    array = constant(value)
    if array is not None:
        return Operand(value, array, None, 0.0)
    node = value.producer()
    source = constant(node.inputs[0]) if node is not None else None
    if node is None or source is None:
        raise Stays("its weights or bias are not constant")
    if is_standard(node, "DequantizeLinear"):
        return Operand(value, source, node, _zero_of_dequantised(node, source))
    if is_quantiser(node) and node.op_type in ("Quant", "IntQuant"):
        _check_quant(node, source)
        return Operand(value, source, node, 0.0)
    raise Stays(f"its weights come through {node.op_type}")


def _zero_of_dequantised(node: ir.Node, source: np.ndarray) -> Fill:
    scale = constant(node.inputs[1])
    if scale is None or node.attributes.get_int("block_size", 0) != 0:
        raise Stays("its weights are scaled by blocks or by computed scales")
    if scale.size > 1 and (scale.ndim != 1 or node.attributes.get_int("axis", 1) % source.ndim != 0):
        raise Stays("its weights are scaled along another axis than the output channels")
    if len(node.inputs) < 3 or node.inputs[2] is None:
        return 0.0
    zero = constant(node.inputs[2])
    if zero is None:
        raise Stays("its weights have a computed zero point")
    return zero.reshape(-1)


def _check_quant(node: ir.Node, source: np.ndarray) -> None:
    scale, zero, bits = (constant(v) for v in node.inputs[1:4])
    if scale is None or zero is None or bits is None:
        raise Stays("its weights have a computed quantiser")
    if np.any(zero != 0) or np.any(bits < 2):
        raise Stays("the quantiser of its weights does not keep zero")
    for array in (scale, zero, bits):
        if array.size > 1 and array.shape != (source.shape[0], *[1] * (source.ndim - 1)):
            raise Stays("its weights are quantised along another axis than the output channels")


Rearrange = Callable[[np.ndarray, Fill], np.ndarray]


def rebuilt(edit: Editor, old: Operand, conv: ir.Node, main: Rearrange, channels: Rearrange) -> ir.Value:
    """The operand with ``main`` applied to what is stored and ``channels`` to per-channel scales.

    Nothing is written into the old one, which other nodes may read. New nodes go before ``conv``.
    """
    stem = old.value.name or f"{conv.name}_operand"
    array = np.ascontiguousarray(main(old.array, old.fill))
    if old.node is None:
        return edit.initializer(f"{stem}_phases", array, conv.graph)
    inputs: list[ir.Value | None] = [edit.initializer(f"{stem}_phases", array, conv.graph)]
    for value in old.node.inputs[1:]:
        settings = constant(value)
        if settings is None or settings.size <= 1:
            inputs.append(value)
            continue
        repeated = np.ascontiguousarray(channels(settings, 0.0))
        title = value.name if value is not None and value.name else stem
        inputs.append(edit.initializer(f"{title}_phases", repeated, conv.graph))
    return quantised_alike(edit, old.node, inputs, ir.Shape(array.shape), conv)


def quantised_alike(
    edit: Editor, old: ir.Node, inputs: list[ir.Value | None], shape: ir.Shape, before: ir.Node
) -> ir.Value:
    """A node of the same kind as ``old`` on other inputs, standing before ``before``."""
    made = ir.node(
        old.op_type,
        inputs,
        {name: attribute.value for name, attribute in old.attributes.items()},
        domain=old.domain,
        num_outputs=1,
        name=edit.fresh_node(f"{old.name}/phases"),
    )
    result = made.outputs[0]
    result.name, result.shape = edit.fresh(f"{old.outputs[0].name}_phases"), shape
    result.type = old.outputs[0].type
    edit.stamp(made, old)
    assert before.graph is not None
    before.graph.insert_before(before, made)
    return result


def drop_unused(edit: Editor, value: ir.Value | None) -> None:
    """Remove ``value``, what makes it and the constants behind it, as far as nothing reads them."""
    if value is None or value.uses() or value.is_graph_output() or value.is_graph_input():
        return
    node, name = value.producer(), value.name
    if node is not None and not any(other.uses() or other.is_graph_output() for other in node.outputs):
        inputs = list(node.inputs)
        edit.remove(node)
        for before in inputs:
            drop_unused(edit, before)
    elif value.graph is not None and name is not None and name in value.graph.initializers:
        del value.graph.initializers[name]
        edit.release(name)
