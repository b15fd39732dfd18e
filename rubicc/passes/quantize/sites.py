"""Which constants of a graph are weights worth compressing, and which of their axes mean what."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from rubicc.ir.graph import Graph, is_quantiser
from rubicc.passes.rewrite import constant, is_standard

LEAST = 2048  # elements: below, tables and alignment cost about what compression gains
SPARSE_KEY = "rubicc.sparse"  # on an initializer: share of zeros that were put there on purpose


@dataclass(frozen=True)
class Site:
    """A weight.

    Attributes:
        value: the float32 initializer.
        array: its elements (shared: do not write into it).
        node: the operator that reads it in a known role.
        first: whichever operator reads it first; what makes a new weight stands before it.
        out: axis of output channels.
        into: axis that products sum over.
    """

    value: ir.Value
    array: np.ndarray
    node: ir.Node
    first: ir.Node
    out: int
    into: int

    @property
    def name(self) -> str:
        """Name of the initializer."""
        return self.value.name or "weight"

    def replace(self, made: ir.Value) -> None:
        """Let all that read the weight read ``made``, except what ``made`` is computed from."""
        source = made.producer()
        above = set()
        while source is not None and source not in above:
            above.add(source)
            source = source.inputs[0].producer() if source.inputs and source.inputs[0] is not None else None
        for use in list(self.value.uses()):
            if use.node not in above:
                use.node.replace_input_with(use.idx, made)


def sites(
    graph: Graph,
    *,
    least: int = LEAST,
    recurrent: bool = True,
    quantised: bool = False,
    skip: Collection[str] = (),
) -> list[Site]:
    """Finite float32 weights of products, look-ups and recurrent layers, each once, in graph order.

    Args:
        least: elements that a weight must have.
        recurrent: also those of GRU and LSTM.
        quantised: also those that are read through a quantiser of the model.
        skip: names of nodes whose weights stay as they are.
    """
    found: dict[ir.Value, Site] = {}
    left_alone: set[ir.Value] = set()
    order = {node: index for index, node in enumerate(graph.all_nodes())}
    for node in order:
        for index, out, into in weight_roles(node, recurrent):
            value = node.inputs[index] if index < len(node.inputs) else None
            maker = value.producer() if value is not None and quantised else None
            if maker is not None and is_quantiser(maker):
                value = maker.inputs[0]
            array = constant(value)
            if value is None or array is None or array.dtype != np.float32 or array.ndim < 2:
                continue
            if node.name in skip:
                left_alone.add(value)
            elif (
                array.size >= max(least, 1) and value not in found and _is_free(value, node, array, quantised)
            ):
                first = min((use.node for use in value.uses()), key=order.__getitem__)
                found[value] = Site(value, array, node, first, out % array.ndim, into % array.ndim)
    return [site for value, site in found.items() if value not in left_alone]


def divisor(size: int, wanted: int) -> int:
    """The largest divisor of ``size`` that is not above ``wanted``."""
    return max(d for d in range(1, max(1, min(size, wanted)) + 1) if size % d == 0)


def grouped(array: np.ndarray, axis: int, length: int) -> np.ndarray:
    """A view in which ``axis`` is two: groups, and ``length`` elements in each."""
    shape = array.shape
    return array.reshape(*shape[:axis], shape[axis] // length, length, *shape[axis + 1 :])


def _is_free(value: ir.Value, node: ir.Node, array: np.ndarray, quantised: bool) -> bool:
    """Whether nobody quantises the value, all that read it stand in one graph, and it can be rounded.

    Weights of only 0 and 1 select and move; they must stay what they are.
    """
    users = [use.node for use in value.uses()]
    taken = any((is_quantiser(user) and not quantised) or user.graph is not node.graph for user in users)
    if taken or value.is_graph_output() or not np.isfinite(array).all():
        return False
    return not bool(np.all((array == 0) | (array == 1)))


def weight_roles(node: ir.Node, recurrent: bool = True) -> tuple[tuple[int, int, int], ...]:
    """(input, axis of output channels, axis summed over) of every weight the operator may have."""
    if is_standard(node, "Conv"):
        return ((1, 0, 1),)
    if is_standard(node, "ConvTranspose"):
        return ((1, 1, 0),)
    if is_standard(node, "MatMul"):
        return ((1, -1, -2), (0, -2, -1))
    if is_standard(node, "Gemm"):
        return ((1, 0, 1),) if node.attributes.get_int("transB", 0) else ((1, 1, 0),)
    if is_standard(node, "Gather") and node.attributes.get_int("axis", 0) == 0:
        return ((0, 0, 1),) if constant(node.inputs[1]) is None else ()
    if recurrent and is_standard(node, "GRU", "LSTM"):
        return ((1, 1, 2), (2, 1, 2))
    return ()
