"""Layer normalisation and attention as ``Scan`` over sequences, which the array computes as a whole."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from rubicc.ir.graph import Graph, source_of
from rubicc.passes.ane.attention_core import Core, Untouched, cores
from rubicc.passes.ane.heads import Heads, Joined, NotHeads, joined, operands
from rubicc.passes.ane.matching import BSC, SBC
from rubicc.passes.ane.movement import Trials
from rubicc.passes.integer.block_bodies import (
    BLOCK_KEY,
    FLOAT_KEY,
    Attention,
    Norm,
    float_body,
)
from rubicc.passes.integer.bodies import names_for
from rubicc.passes.layout.operands import drop_unused
from rubicc.passes.registry import Pass, register
from rubicc.passes.rewrite import Editor, constant, is_standard, only_use, rank

_LEAST_OPSET = 18  # axes of reductions are inputs, which the integer bodies use
_SWAPPED = [1, 0, 2]


@register
class Blocks(Pass):
    """Layer normalisations over the channels, and attentions, become Scans over the sequences of a batch.

    The projections that make queries, keys and values become one, whose channels stand head by head; the
    scale of the scores goes into it.

    ::

        before   q, k, v = MatMul(x, Wq), ... -> heads -> Softmax(q k' * 0.25) v -> heads side by side
        after    MatMul(x, W) -> Add(b) -> Scan(one sequence: Softmax(q k') v)

    How exporters split a projection into heads is not matched but run on the numbers of the elements. An
    attention that is not understood (masks, products of positions, keys of another input) stays as it is.
    """

    id = "integer.blocks"
    ensures = frozenset({"blocks"})
    tolerance = 1e-4

    def run(self, graph: Graph) -> bool:
        """See :class:`Pass`."""
        if graph.opset < _LEAST_OPSET:
            return False
        edit, changed = Editor(graph, self.id), False
        for node in graph.nodes:
            changed |= self._norm(edit, node)
        found, refused = cores(graph)
        for node, why in refused:
            self.note(source_of(node), why)
        trials = Trials(graph) if found else None
        for core in found:
            try:
                _attention(edit, trials, core)
                changed = True
            except (NotHeads, Untouched) as why:
                self.note(source_of(core.softmax), str(why))
        return changed

    def _norm(self, edit: Editor, node: ir.Node) -> bool:
        if not is_standard(node, "LayerNormalization") or len(node.inputs) < 2:
            return False
        x, dims = node.inputs[0], rank(node.outputs[0])
        gain, offset = constant(node.inputs[1]), constant(node.inputs[2] if len(node.inputs) > 2 else None)
        axis = node.attributes.get_int("axis", -1)
        if x is None or dims != 3 or axis not in (-1, 2) or gain is None or gain.ndim != 1:
            self.note(source_of(node), "a normalisation over other than the channels of (N, T, C)")
            return False
        offset = np.zeros_like(gain) if offset is None else offset
        of = Norm(gain, offset, node.attributes.get_float("epsilon", 1e-5))
        made = block_node(
            edit, node, x, of.kind, lambda n: float_body(of, n, lambda m: edit.stamp(m, node)).graph
        )
        made.metadata_props[FLOAT_KEY] = of.shape()
        edit.replace_value(node.outputs[0], made.outputs[0])
        edit.remove(node)
        return True


def block_node(
    edit: Editor, like: ir.Node, x: ir.Value, kind: str, body: Callable[[Callable[[str], str]], ir.Graph]
) -> ir.Node:
    """A Scan over the sequences of ``x`` (N, T, C); it stands before ``like``."""
    inner = body(names_for(edit, like))
    stem = edit.fresh_node(like.name or "" if like.op_type == "Scan" else f"{like.name}/Scan")
    made = ir.node("Scan", [x], {"body": inner, "num_scan_inputs": 1}, num_outputs=1, name=stem)
    out = made.outputs[0]
    width = inner.outputs[0].shape[-1] if inner.outputs[0].shape is not None else None
    out.name = edit.fresh(f"{stem}_out")
    out.shape = ir.Shape([*(list(x.shape)[:2] if x.shape is not None else [None, None]), width])
    out.type = ir.TensorType(ir.DataType.FLOAT)
    edit.stamp(made, like)
    made.metadata_props[BLOCK_KEY] = kind
    if like.graph is None:
        raise AssertionError("the block is in a graph")
    like.graph.insert_before(like, made)
    return made


def _attention(edit: Editor, trials: Trials | None, core: Core) -> None:
    if trials is None:
        raise NotHeads("the shapes of the graph are not known")
    if core.masks or core.guard is not None:
        raise Untouched("it has a mask")
    found = operands(trials, core)
    result = joined(trials, core.context.outputs[0], found[0].lead)
    if len({(one.width, len(one.offsets), one.form, one.lead) for one in found}) != 1:
        raise NotHeads("queries, keys and values are cut differently")
    if found[0].form not in (BSC, SBC) or result.form not in (BSC, SBC):
        raise NotHeads("its channels are not the last axis")
    if list(result.order) != list(range(len(found[0].offsets))):
        raise NotHeads("its heads come out in another order")
    factor = core.factor * found[0].path.factor * found[1].path.factor
    if factor <= 0 or found[2].path.factor != 1:
        raise Untouched("its scores are scaled by a number that is not positive, or its values are scaled")
    _write(edit, core, found, result, factor)


def _write(
    edit: Editor, core: Core, found: tuple[Heads, Heads, Heads], result: Joined, factor: float
) -> None:
    x, weight, bias = _fused(found, math.sqrt(factor))
    like, width = core.context, weight.shape[1]
    form, dims = found[0].form, list(x.shape) if x.shape is not None else [None] * 3
    shape = ir.Shape([*dims[:2], width])
    matrix = edit.initializer(f"{core.scores.name}_projection", weight)
    made = edit.node("MatMul", [x, matrix], like=like, shape=shape, dtype=ir.DataType.FLOAT).outputs[0]
    inputs = [made, edit.initializer(f"{core.scores.name}_bias", bias)]
    made = edit.node("Add", inputs, like=like, shape=shape, dtype=ir.DataType.FLOAT).outputs[0]
    made = _swapped(edit, like, made) if form == SBC else made
    of = Attention(len(found[0].offsets), found[0].width)
    node = block_node(
        edit, like, made, of.kind, lambda n: float_body(of, n, lambda m: edit.stamp(m, like)).graph
    )
    node.metadata_props[FLOAT_KEY] = of.shape()
    out = node.outputs[0]
    out = _swapped(edit, like, out) if result.form == SBC else out
    edit.replace_value(result.value, out)
    drop_unused(edit, result.value)


def _swapped(edit: Editor, like: ir.Node, value: ir.Value) -> ir.Value:
    dims = list(value.shape) if value.shape is not None else [None] * 3
    shape = ir.Shape([dims[axis] for axis in _SWAPPED])
    node = edit.node(
        "Transpose", [value], like=like, attributes={"perm": _SWAPPED}, shape=shape, dtype=ir.DataType.FLOAT
    )
    return node.outputs[0]


def _fused(found: tuple[Heads, Heads, Heads], scale: float) -> tuple[ir.Value, np.ndarray, np.ndarray]:
    """The value that all projections read, their weights (I, heads * 3 * depth) and biases side by side."""
    parts = [_projection(one.root) for one in found]
    if len({id(part[0]) for part in parts}) != 1:
        raise Untouched("queries and keys are made of different values")
    weights, biases = [], []
    for head in range(len(found[0].offsets)):
        for one, (_, weight, bias), by in zip(found, parts, (scale, scale, 1.0), strict=True):
            columns = slice(one.offsets[head], one.offsets[head] + one.width)
            weights.append(weight[:, columns] * by)
            biases.append(bias[columns] * by)
    joint = np.concatenate(weights, axis=1).astype(np.float32)
    return parts[0][0], joint, np.concatenate(biases).astype(np.float32)


def _projection(root: ir.Value) -> tuple[ir.Value, np.ndarray, np.ndarray]:
    """What a projection reads, its weights ``(I, O)`` and biases ``(O,)``."""
    node, bias = root.producer(), None
    if node is not None and is_standard(node, "Add"):
        for place, other in ((0, 1), (1, 0)):
            array, inner = constant(node.inputs[other]), node.inputs[place]
            if array is not None and array.ndim == 1 and inner is not None and only_use(inner) is node:
                node, bias = inner.producer(), array
                break
    weight = constant(node.inputs[1]) if node is not None and is_standard(node, "MatMul") else None
    if node is None or weight is None or weight.ndim != 2 or node.inputs[0] is None:
        raise Untouched("its operands come from no linear layer")
    return node.inputs[0], weight, np.zeros(weight.shape[1]) if bias is None else bias
