"""Cuts channels out of a graph: weights, attributes, constants that count positions, and shapes of values."""

from __future__ import annotations

from collections.abc import Collection
from functools import partial

import numpy as np
import onnx_ir as ir

from rubicc.errors import VerificationFailed
from rubicc.ir.graph import Graph
from rubicc.passes.prune.groups import Coupling
from rubicc.passes.prune.walk import Weight
from rubicc.passes.quantize.sites import SPARSE_KEY
from rubicc.passes.rewrite import Editor, constant


def cut(graph: Graph, coupling: Coupling, removed: Collection[int], pass_id: str) -> None:
    """Remove the channels with the labels ``removed`` from ``graph``, in place.

    Args:
        graph: the graph that ``coupling`` was found in, or a copy of it.

    Raises:
        VerificationFailed: ``RUB-PASS-052``, nothing would be left of an axis.
    """
    kept = partial(coupling.kept, frozenset(removed))
    edit, nodes = Editor(graph, pass_id), graph.nodes
    copies: dict[tuple[str, bytes], ir.Value] = {}
    for weight in coupling.walk.weights:
        _weight(edit, nodes, weight, kept, copies)
    for index, patch in coupling.walk.patches:
        patch(edit, nodes[index], kept)
    for node in nodes:
        for value in node.outputs:
            _shape(value, coupling, kept)
    for name in {name for name, _ in copies}:
        old = graph.ir.initializers[name]
        if not old.uses() and not old.is_graph_output():
            del graph.ir.initializers[name]


def _weight(
    edit: Editor,
    nodes: list[ir.Node],
    weight: Weight,
    kept: partial[np.ndarray],
    copies: dict[tuple[str, bytes], ir.Value],
) -> None:
    """A smaller tensor under the same name, or a copy for one reader where others need another part."""
    value = edit.graph.ir.initializers.get(weight.name)
    if weight.use is not None:
        value = nodes[weight.use[0]].inputs[weight.use[1]]
    array = constant(value)
    if value is None or array is None:
        return
    masks = [kept(vector, size) for vector, size in zip(weight.axes, array.shape, strict=True)]
    if all(mask.all() for mask in masks):
        return
    if not all(mask.any() for mask in masks):
        raise VerificationFailed(
            "RUB-PASS-052",
            f"nothing would be left of {weight.name}",
            hint="keep at least one channel of every group",
        )
    key = weight.name, b"".join(mask.tobytes() for mask in masks)
    if weight.use is not None and key in copies:
        nodes[weight.use[0]].replace_input_with(weight.use[1], copies[key])
        return
    for axis, mask in enumerate(masks):
        if not mask.all():
            array = np.compress(mask, array, axis)
    array = np.ascontiguousarray(array)
    if weight.use is not None and (len(value.uses()) > 1 or value.is_graph_output()):
        node = nodes[weight.use[0]]
        copies[key] = edit.initializer(weight.name, array, node.graph)
        node.replace_input_with(weight.use[1], copies[key])
        return
    value.const_value = ir.tensor(array, name=weight.name)
    value.shape = ir.Shape(array.shape)
    if SPARSE_KEY in value.metadata_props:
        value.metadata_props[SPARSE_KEY] = f"{1.0 - np.count_nonzero(array) / array.size:.4f}"


def _shape(value: ir.Value, coupling: Coupling, kept: partial[np.ndarray]) -> None:
    axes = coupling.walk.axes.get(value.name or "", [])
    if value.shape is None or len(axes) != len(value.shape):
        return
    dims = [dim if isinstance(dim, int) else dim.value for dim in value.shape]
    new = [
        dim if vector is None or not isinstance(dim, int) else int(kept(vector, vector.size).sum())
        for dim, vector in zip(dims, axes, strict=True)
    ]
    if new != dims:
        value.shape = ir.Shape(new)
