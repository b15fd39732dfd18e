"""Where the elements of a value come from, when it was only reshaped, permuted, cut and repeated.

Exporters spell the split into heads in many ways (view, unflatten, permute, chunk, index). What they have in
common is that every element of the result is an element of the projection. So the chain is not matched but
run: on an array that holds the number of every element, in the reference kernels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from rubicc.errors import VerificationFailed
from rubicc.ir.graph import Graph
from rubicc.ir.ops import KERNEL_FAILURES, KERNELS, Call
from rubicc.ir.shapes import KNOWN, infer_shapes, static_shape
from rubicc.passes.ane.matching import number
from rubicc.passes.rewrite import constant, is_constant, is_standard

MOVEMENT = frozenset(
    {
        "Reshape",
        "Transpose",
        "Squeeze",
        "Unsqueeze",
        "Flatten",
        "Split",
        "Slice",
        "Gather",
        "GatherND",
        "Identity",
        "Expand",
    }
)
# Sizes tried for symbols, two runs each, batch first: what holds at two coprime sizes holds at any, because
# shapes are sums and products of symbols. The others are for networks with few positions or long strides.
_SIZES = (((2, 23), (3, 37)), ((2, 6), (3, 11)), ((2, 960), (3, 1463)))
_MOST = 1 << 24  # elements of an index array


@dataclass(frozen=True)
class Path:
    """How a value comes from ``root``.

    Attributes:
        steps: moving nodes in order, with the output taken.
        factor: product of the constants multiplied on the way.
        nodes: every node of the way, the multiplications too.
    """

    root: ir.Value
    steps: tuple[tuple[ir.Node, int], ...]
    factor: float
    nodes: frozenset[ir.Node]


def path_to(value: ir.Value) -> Path:
    """The longest path of movement and multiplication by constants that ends in ``value``."""
    steps: list[tuple[ir.Node, int]] = []
    nodes: set[ir.Node] = set()
    factor = 1.0
    while (node := value.producer()) is not None:
        scaled = scaling(node)
        if scaled is not None:
            value, by = scaled
            factor *= by
        elif (source := moved(node)) is not None:
            steps.append((node, value.index() or 0))
            value = source
        else:
            break
        nodes.add(node)
    return Path(value, tuple(reversed(steps)), factor, frozenset(nodes))


def moved(node: ir.Node) -> ir.Value | None:
    """The computed value that ``node`` only moves, by places that are no data."""
    if not is_standard(node, *MOVEMENT):
        return None
    if is_standard(node, "Gather", "GatherND") and not is_constant(node.inputs[1]):
        return None
    source = node.inputs[0]
    if (
        source is None
        or is_constant(source)
        or (is_standard(node, "Slice") and not _cuts_known(node, source))
    ):
        return None
    return source


def _cuts_known(node: ir.Node, source: ir.Value) -> bool:
    """Whether a Slice cuts axes of known size only: a cut at 512 is none at the sizes of a trial."""
    axes = constant(node.inputs[3]) if len(node.inputs) > 3 else None
    if axes is None or source.shape is None:
        return False
    return all(isinstance(source.shape[int(axis)], int) for axis in axes.reshape(-1))


def scaling(node: ir.Node) -> tuple[ir.Value, float] | None:
    """What ``node`` multiplies by one constant number, and the number."""
    if not is_standard(node, "Mul", "Div"):
        return None
    a, b = node.inputs[0], node.inputs[1]
    right, left = number(b), number(a)
    if a is not None and right is not None and left is None:
        if is_standard(node, "Mul"):
            return a, right
        return (a, 1.0 / right) if right else None
    if b is not None and left is not None and right is None and is_standard(node, "Mul"):
        return b, left
    return None


class Trials:
    """The graph with its symbols bound to numbers, once or twice, to run movement in.

    Only values that are in the graph now can be asked for.
    """

    def __init__(self, graph: Graph) -> None:
        self.runs: list[_Run] = []
        symbols = _symbols(graph)
        if not symbols:
            self.runs = [_Run(graph, graph.clone())] if _shaped(graph) else [_Run(graph, infer_shapes(graph))]
            return
        for sizes in _SIZES:
            try:
                runs = [_Run(graph, infer_shapes(graph, _bound(symbols, pair))) for pair in sizes]
            except VerificationFailed:
                continue
            if all(run.sound for run in runs):
                self.runs = runs
                return


def _symbols(graph: Graph) -> dict[str, bool]:
    """Symbols of the inputs, and whether they are the first axis (the batch)."""
    found: dict[str, bool] = {}
    for value in graph.inputs:
        for axis, dim in enumerate(value.shape if value.shape is not None else ()):
            if not isinstance(dim, int) and dim.value is not None:
                found.setdefault(str(dim.value), axis == 0)
    return found


def _bound(symbols: dict[str, bool], pair: tuple[int, int]) -> dict[str, int]:
    return {name: pair[0] if batch else pair[1] for name, batch in symbols.items()}


def _shaped(graph: Graph) -> bool:
    """Whether every value has its static shape already and no shape is computed."""
    values = [v for node in graph.ir for v in node.outputs]
    return all(static_shape(v) is not None for v in values) and not any(
        is_standard(node, "Shape", "Size") for node in graph.ir
    )


class _Run:
    """One binding: shapes and small known arrays, by value of the original graph."""

    def __init__(self, graph: Graph, bound: Graph) -> None:
        self.opset = graph.opset
        self._twin: dict[ir.Value, ir.Value] = dict(zip(graph.ir.inputs, bound.ir.inputs, strict=True))
        for node, other in zip(graph.ir, bound.ir, strict=True):
            self._twin.update(zip(node.outputs, other.outputs, strict=True))
        shapes = [static_shape(v) for v in self._twin.values()]
        self.sound = all(min(s, default=1) > 0 for s in shapes if s is not None)

    def shape(self, value: ir.Value) -> tuple[int, ...] | None:
        """Static shape of a value of the original graph."""
        return static_shape(self._twin.get(value, value))

    def follow(self, shape: tuple[int, ...], steps: Sequence[tuple[ir.Node, int]]) -> list[np.ndarray] | None:
        """Element numbers of an array of ``shape`` after each of ``steps``; ``None`` where one cannot run."""
        if np.prod(shape, dtype=np.float64) > _MOST:
            return None
        array = np.arange(int(np.prod(shape, dtype=np.int64)), dtype=np.int64).reshape(shape)
        found = []
        for node, output in steps:
            inputs: list[np.ndarray | None] = [array]
            for value in node.inputs[1:]:
                given = None if value is None else self._known(value)
                if value is not None and given is None:
                    return None
                inputs.append(given)
            call = Call(node, inputs, self.opset, None, lambda body, given: [])
            try:
                result = KERNELS["", node.op_type](call)
            except KERNEL_FAILURES:
                return None
            array = np.asarray(result[output] if isinstance(result, list | tuple) else result)
            if array.size > _MOST:
                return None
            found.append(array)
        return found

    def _known(self, value: ir.Value) -> np.ndarray | None:
        twin = self._twin.get(value, value)
        if twin.const_value is not None:
            return twin.const_value.numpy()
        known = twin.meta.get(KNOWN)
        return None if known is None else np.asarray(known)
