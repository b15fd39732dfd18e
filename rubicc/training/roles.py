"""What each tensor of a graph is to training: a parameter, a statistic, a scale, or a plain constant.

Only the graph is looked at: an initializer is what the operators that read it, through whatever moves or
quantises it, make of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from rubicc.ir.graph import QONNX_DOMAIN, Graph, op_key, source_of
from rubicc.ir.ops.registry import is_float

# Inputs that hold what is learned, by operator.
_LEARNED: dict[str, tuple[int, ...]] = {
    "Conv": (1, 2),
    "ConvTranspose": (1, 2),
    "MatMul": (0, 1),
    "Gemm": (0, 1, 2),
    "Einsum": (0, 1, 2, 3),
    "GRU": (1, 2, 3),
    "RNN": (1, 2, 3),
    "LSTM": (1, 2, 3, 7),
    "BatchNormalization": (1, 2),
    "LayerNormalization": (1, 2),
    "RMSNormalization": (1,),
    "InstanceNormalization": (1, 2),
    "GroupNormalization": (1, 2),
    "PRelu": (1,),
    "Gather": (0,),
}
# Elementwise operands are learned where they are more than one number; a lone number is a setting.
_OPERANDS = ("Add", "Sub", "Mul")
_STATISTICS = (3, 4)  # of BatchNormalization
_QUANTISERS = tuple(f"{QONNX_DOMAIN}::{name}" for name in ("Quant", "IntQuant", "BipolarQuant", "Trunc"))
# Operators that only move, scale or quantise input 0 (or all inputs).
_CARRY_FIRST = (
    *("Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Slice", "Split", "Identity", "Cast", "Pad"),
    *("Expand", "Tile", "QuantizeLinear", "DequantizeLinear", "Gather", *_QUANTISERS),
)
_MASK = 1e4  # an addend this large is a mask


@dataclass(frozen=True)
class Use:
    """One place that reads an initializer directly.

    Attributes:
        node: position in the graph's node order.
        index: input of that node.
        source: module the node came from, with the input's place where one module has several.
    """

    node: int
    index: int
    source: str


@dataclass(frozen=True)
class Roles:
    """Names of initializers by what they are to training."""

    learned: tuple[str, ...]
    statistics: tuple[str, ...]
    scales: tuple[str, ...]


def roles(graph: Graph) -> Roles:
    """Sort the initializers of ``graph`` (main graph only; nested graphs hold plain constants)."""
    fixed = _constant_values(graph)
    wanted: set[ir.Value] = set()
    statistics: dict[str, None] = {}
    scales: dict[str, None] = {}
    for node in reversed(graph.nodes):
        key, inputs = op_key(node), node.inputs
        constant = node.outputs[0] in fixed
        for index, value in enumerate(inputs):
            if value is None or value not in fixed:
                continue
            if key == "BatchNormalization" and index in _STATISTICS and value.is_initializer():
                statistics[value.name or ""] = None
            elif key in _QUANTISERS and index == 1 and value.is_initializer():
                scales[value.name or ""] = None
            elif not constant:
                if _learns(key, index, value):
                    wanted.add(value)
            elif _carries(key, index) and any(out in wanted for out in node.outputs):
                wanted.add(value)
    learned = [
        name
        for name, value in graph.ir.initializers.items()
        if value in wanted and _floats(value) and name not in statistics and not value.is_graph_output()
    ]
    return Roles(tuple(learned), tuple(reversed(statistics)), tuple(reversed(scales)))


def _constant_values(graph: Graph) -> set[ir.Value]:
    """Values that hang on no graph input."""
    fixed = set(graph.ir.initializers.values())
    for node in graph.nodes:
        if all(value is None or value in fixed for value in node.inputs) and not _nested(node):
            fixed.update(node.outputs)
    return fixed


def _nested(node: ir.Node) -> bool:
    kinds = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
    return any(attribute.type in kinds for attribute in node.attributes.values())


def _carries(key: str, index: int) -> bool:
    if key in _CARRY_FIRST:
        return index == 0
    return key in ("Concat", "Neg", *_OPERANDS) or index in _LEARNED.get(key, ())


def _learns(key: str, index: int, value: ir.Value) -> bool:
    if index in _LEARNED.get(key, ()):
        return True
    if key not in (*_OPERANDS, "Concat"):
        return False
    array = _array(value)
    if array is None:  # computed from weights: whatever it adds up to is learned
        return True
    if array.size < 2 or not np.isfinite(array).all() or np.abs(array).max() >= _MASK:
        return False
    return key != "Concat" or not uniform(array)  # what is joined and all the same is padding


def _array(value: ir.Value) -> np.ndarray | None:
    if not value.is_initializer() or value.const_value is None:
        return None
    array = value.const_value.numpy()
    return array.astype(np.float32) if is_float(array.dtype) and array.dtype.itemsize < 4 else array


def _floats(value: ir.Value) -> bool:
    return value.const_value is not None and is_float(np.dtype(value.const_value.dtype.numpy()))


def uniform(array: np.ndarray) -> bool:
    """Whether all elements are the same bits."""
    flat = array.reshape(-1)
    return bool(flat.size) and bool((flat == flat[0]).all())


def uses_of(graph: Graph, names: set[str]) -> dict[str, list[Use]]:
    """Direct uses of the named initializers, in node order."""
    found: dict[str, list[Use]] = {name: [] for name in names}
    for position, node in enumerate(graph.nodes):
        for index, value in enumerate(node.inputs):
            if value is not None and value.is_initializer() and value.name in found:
                found[value.name].append(Use(position, index, _place(node, index)))
    return found


def _place(node: ir.Node, index: int) -> str:
    """Where a use stands: its module, and its input where the module has several tensors of one size."""
    tail = f"#{index}" if op_key(node) == "BatchNormalization" else ""
    return source_of(node) + tail


def shares(graph: Graph, name: str, uses: list[Use]) -> Iterator[list[Use]]:
    """Groups of uses that are one tensor to training.

    Exporters and ``cleanup.deduplicate`` store equal tensors once: the zero biases and unit gains of a fresh
    network then hang together, and would stay equal for ever if trained so. A tensor of one repeated number
    therefore belongs to each module that reads it alone; any other tensor that is shared was shared on
    purpose (two weights are never equal by chance).
    """
    array = _array(graph.ir.initializers[name])
    if array is None or not uniform(array):
        yield uses
        return
    groups: dict[str, list[Use]] = {}
    for use in uses:
        groups.setdefault(use.source, []).append(use)
    yield from groups.values()
