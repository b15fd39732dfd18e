"""What converters and refusals ask about a graph: constants, shapes, attributes. Imports no coremltools."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from rubicc.backends.coreml.tools import Opset
from rubicc.ir.graph import Graph, op_key
from rubicc.ir.ops import KERNELS, Call
from rubicc.ir.shapes import KNOWN, Dim, dims_of

_SMALL = 1 << 16  # folded arrays up to this many bytes are kept; larger ones are used once
_UNFOLDABLE = frozenset({"If", "Loop", "Scan"})
FLOATS = frozenset({"FLOAT", "FLOAT16", "DOUBLE", "BFLOAT16"})
INTEGERS = frozenset(
    {"INT64", "INT32", "INT16", "INT8", "UINT8", "UINT16", "UINT32", "UINT64", "INT4", "UINT4"}
)


class Facts:
    """A graph with shapes, and which of its values depend on no input.

    Args:
        graph: after :func:`rubicc.ir.shapes.infer_shapes`.
        opset: what the target can hold.
    """

    def __init__(self, graph: Graph, opset: Opset) -> None:
        self.graph = graph
        self.opset = opset
        self._folded: dict[ir.Value, np.ndarray] = {}
        self._constant: set[ir.Value] = set()
        for node in graph.ir:
            if self._folds(node):
                self._constant.update(node.outputs)

    def _folds(self, node: ir.Node) -> bool:
        domain = "" if node.domain == "ai.onnx" else node.domain
        if node.op_type in _UNFOLDABLE or (domain, node.op_type) not in KERNELS:
            return False
        if all(KNOWN in value.meta for value in node.outputs):
            return True
        return all(value is None or self.is_constant(value) for value in node.inputs)

    def is_constant(self, value: ir.Value | None) -> bool:
        """Whether ``value`` is an initializer or follows from initializers and known shapes alone."""
        return value is not None and (
            value.const_value is not None or KNOWN in value.meta or value in self._constant
        )

    def constant(self, value: ir.Value | None) -> np.ndarray | None:
        """Array of a constant value (it may be a weight: do not write into it), ``None`` for others."""
        if value is None:
            return None
        if value.const_value is not None:
            return value.const_value.numpy()
        if KNOWN in value.meta:
            return value.meta[KNOWN]
        if value not in self._constant:
            return None
        if value not in self._folded:
            node = value.producer()
            assert node is not None
            arrays = [self.constant(given) for given in node.inputs]
            opset = self.graph.model.opset_imports.get(node.domain, 1)
            domain = "" if node.domain == "ai.onnx" else node.domain
            call = Call(node, arrays, opset, None, lambda body, inputs: [])
            with np.errstate(all="ignore"):
                made = KERNELS[(domain, node.op_type)](call)
            results = [np.asarray(one) for one in (made if isinstance(made, (list, tuple)) else [made])]
            for output, array in zip(node.outputs, results, strict=False):
                if array.nbytes <= _SMALL:
                    self._folded[output] = array
            return results[list(node.outputs).index(value)]
        return self._folded[value]

    def scalar(self, value: ir.Value | None) -> float | None:
        """The number of a constant with one element, else ``None``."""
        shape = self.static(value)
        if not self.is_constant(value) or (shape is not None and math.prod(shape) != 1):
            return None
        array = self.constant(value)
        return float(array.reshape(-1)[0]) if array is not None and array.size == 1 else None

    def ints(self, node: ir.Node, name: str, index: int) -> tuple[int, ...] | None:
        """Integers given as attribute ``name`` (older opsets) or as constant input ``index``.

        ``None`` when absent or not constant (:func:`given` tells which).
        """
        value = attr(node, name)
        if value is not None:
            return (int(value),) if isinstance(value, int) else tuple(int(v) for v in value)
        array = self.constant(given(node, index))
        return None if array is None else tuple(int(v) for v in np.atleast_1d(array).reshape(-1))

    @staticmethod
    def dims(value: ir.Value | None) -> tuple[Dim, ...] | None:
        """Numbers and symbols, ``None`` for an unknown rank."""
        if value is None:
            return None
        if value.shape is None and value.const_value is not None:
            return tuple(int(n) for n in value.const_value.shape.numpy())
        return dims_of(value)

    def static(self, value: ir.Value | None) -> tuple[int, ...] | None:
        """The shape when every dim is a number."""
        dims = self.dims(value)
        if dims is None:
            return None
        numbers = tuple(d for d in dims if isinstance(d, int))
        return numbers if len(numbers) == len(dims) else None

    def rank(self, value: ir.Value | None) -> int | None:
        """Number of axes, ``None`` when unknown."""
        dims = self.dims(value)
        return None if dims is None else len(dims)

    def size(self, value: ir.Value | None, axis: int) -> int | None:
        """Size of one axis when it is a number."""
        dims = self.dims(value)
        if dims is None or not -len(dims) <= axis < len(dims):
            return None
        dim = dims[axis]
        return dim if isinstance(dim, int) else None


def attr(node: ir.Node, name: str, default: Any = None) -> Any:
    """Attribute in Python form, or ``default``."""
    attribute = node.attributes.get(name)
    return default if attribute is None else attribute.value


def given(node: ir.Node, index: int) -> ir.Value | None:
    """Input ``index``, ``None`` when omitted."""
    return node.inputs[index] if index < len(node.inputs) else None


def is_op(node: ir.Node | None, *names: str) -> bool:
    """Whether ``node`` is one of these standard operators."""
    return node is not None and op_key(node) in names


def only_use(value: ir.Value) -> ir.Node | None:
    """The one node that reads ``value``, perhaps twice; ``None`` when others do or it is an output."""
    if value.is_graph_output():
        return None
    nodes = {use.node for use in value.uses()}
    return next(iter(nodes)) if len(nodes) == 1 else None


def kind_of(value: ir.Value | None) -> str:
    """``float``, ``int``, ``bool`` or ``other`` from the declared element type (``float`` when unknown)."""
    if value is None or value.dtype is None:
        return "float"
    name = value.dtype.name
    if name in FLOATS:
        return "float"
    return "int" if name in INTEGERS else "bool" if name == "BOOL" else "other"


def axis_of(axis: int, rank: int) -> int:
    """A non-negative axis."""
    return axis + rank if axis < 0 else axis


def interleaved(begins: Sequence[int], ends: Sequence[int]) -> list[int]:
    """MIL's order of padding: begin and end of each axis in turn."""
    return [int(n) for pair in zip(begins, ends, strict=True) for n in pair]
