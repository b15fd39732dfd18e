"""Linear layers over rows get back the sequence axis that an exporter has merged into the batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir

from rubicc.ir.graph import Graph
from rubicc.passes.ane.matching import UNARY, data_uses, drop_unused, is_elementwise
from rubicc.passes.ane.movement import Trials
from rubicc.passes.ane.weights import is_stored
from rubicc.passes.registry import Pass, register
from rubicc.passes.rewrite import Editor, constant, is_constant, is_standard, rank

_MOST = 64  # nodes between two Reshapes


@register
class Unflatten(Pass):
    """Operators on rows between two Reshapes work on the sequence itself.

    ::

        x (B,S,C) -> Reshape(-1,C) -> Gemm(W, b) -> Reshape -> y (B,S,O)
        becomes
        x (B,S,C) -> MatMul(W) -> Add(b) -> y (B,S,O)

    Some networks flatten a sequence to rows before a linear layer (GPT-2's Conv1D, torch's
    MultiheadAttention, OPT's feed-forward), which hides it from `ane.linear-to-conv`. Carried are linear
    layers, element-by-element operators, normalisation and softmax over the features, and sums of two such
    values. That both ends mean the same batch and sequence is checked on the shapes at two sizes. Exact: a
    row is computed as before.
    """

    id = "ane.unflatten"
    requires = frozenset({"constants-are-initializers", "shapes"})
    ensures = frozenset({"rows-are-sequences"})
    tolerance = 1e-6  # a product of rank 3 may be added up in another order than one of rank 2

    def run(self, graph: Graph) -> bool:
        """See :class:`Unflatten`."""
        ends = [node for node in graph.nodes if _is_end(node)]
        if not ends:
            return False
        edit, trials, changed = Editor(graph, self.id), Trials(graph), False
        for node in ends:
            if node.graph is None:
                continue  # another end of a region that is done
            rows = _rows(node, trials)
            if rows is not None:
                _Writer(edit, rows).write()
                changed = True
        return changed


@dataclass
class _Rows:
    """A region of rank-2 operators.

    Attributes:
        lead: its leading two dimensions, as in the result of the first end.
        nodes: between beginnings and ends.
        begins: Reshapes to rows.
        ends: Reshapes back to a sequence.
    """

    lead: Sequence[Any]
    nodes: set[ir.Node] = field(default_factory=set)
    begins: set[ir.Node] = field(default_factory=set)
    ends: set[ir.Node] = field(default_factory=set)


def _is_end(node: ir.Node) -> bool:
    """Whether ``node`` may be a Reshape of (B * S, C) to (B, S, C)."""
    if not is_standard(node, "Reshape") or node.inputs[0] is None or is_constant(node.inputs[0]):
        return False
    return rank(node.inputs[0]) == 2 and rank(node.outputs[0]) == 3


def _rows(end: ir.Node, trials: Trials) -> _Rows | None:
    """The region that ends with ``end``; ``None`` where something in it is not row by row."""
    leads = [_lead(trials, end.outputs[0], end.inputs[0], run) for run in range(len(trials.runs))]
    if not leads or any(lead is None for lead in leads):
        return None
    shape = end.outputs[0].shape
    found = _Rows(list(shape)[:2] if shape is not None else [None] * 2)
    queue: list[ir.Value | None] = [end.inputs[0]]
    seen: set[ir.Value] = set()
    while queue:
        value = queue.pop()
        if value is None or value in seen:
            continue
        seen.add(value)
        node = value.producer()
        if node is None or value.is_graph_output() or len(found.nodes) > _MOST:
            return None
        if is_standard(node, "Reshape"):
            if any(_lead(trials, node.inputs[0], value, run) != lead for run, lead in enumerate(leads)):
                return None
            found.begins.add(node)
            continue
        data = _row_by_row(node)
        if data is None:
            return None
        found.nodes.add(node)
        queue += data
        for user in (user for out in node.outputs for user, _ in data_uses(out)):
            if _is_end(user):
                given = [_lead(trials, user.outputs[0], user.inputs[0], run) for run in range(len(leads))]
                if given != leads:
                    return None
                found.ends.add(user)
            elif user not in found.nodes:
                queue += user.outputs
    return found if found.nodes else None


def _lead(trials: Trials, whole: ir.Value | None, rows: ir.Value | None, run: int) -> tuple[int, ...] | None:
    """Leading two dimensions of ``whole`` where ``rows`` is it with these merged, and the others too."""
    if whole is None or rows is None:
        return None
    shape, flat = trials.runs[run].shape(whole), trials.runs[run].shape(rows)
    if shape is None or flat is None or len(shape) < 3 or len(flat) != 2:
        return None
    return shape[:2] if flat == (shape[0] * shape[1], int(np.prod(shape[2:]))) else None


def _row_by_row(node: ir.Node) -> list[ir.Value] | None:
    """Rank-2 inputs of an operator that treats every row by itself."""
    if rank(node.outputs[0]) != 2 or len([out for out in node.outputs if out.uses()]) > 1:
        return None
    first = node.inputs[0]
    if is_standard(node, "MatMul", "Gemm"):
        fits = first is not None and is_stored(node.inputs[1]) and not is_stored(first)
        if is_standard(node, "Gemm"):
            plain = all(node.attributes.get_float(name, 1.0) == 1.0 for name in ("alpha", "beta"))
            bias = constant(node.inputs[2]) if len(node.inputs) > 2 else np.zeros(1)
            flat = bias is not None and (bias.ndim < 2 or bias.shape[0] == 1)
            fits = fits and plain and flat and not node.attributes.get_int("transA", 0)
        return [first] if fits and first is not None else None
    if is_standard(node, "LayerNormalization", "Softmax", "LogSoftmax"):
        over = node.attributes.get_int("axis", -1) in (-1, 1)
        return [first] if over and first is not None else None
    if not is_elementwise(node):
        return None
    if is_standard(node, *UNARY):
        return [first] if first is not None else None
    data = [v for v in node.inputs if v is not None and not is_constant(v)]
    others = [constant(v) for v in node.inputs if v is not None and is_constant(v)]
    flat = all(array is not None and (array.ndim < 2 or array.shape[0] == 1) for array in others)
    return data if flat and data and all(rank(v) == 2 for v in data) else None


class _Writer:
    """Writes the operators of a region on (B, S, C)."""

    def __init__(self, edit: Editor, rows: _Rows) -> None:
        self._edit, self._rows = edit, rows
        self._made: dict[ir.Value, ir.Value] = {}

    def write(self) -> None:
        """In graph order; the old nodes go."""
        rows, edit = self._rows, self._edit
        for node in [n for n in edit.graph.nodes if n in rows.begins | rows.nodes]:
            self._made[node.outputs[0]] = self._begin(node) if node in rows.begins else self._copy(node)
        for node in rows.ends:
            old = node.outputs[0]
            edit.replace_value(old, self._made[node.inputs[0]])  # type: ignore[index]
            drop_unused(edit, old)

    def _begin(self, node: ir.Node) -> ir.Value:
        """What the rows are made from, its features in one axis."""
        source = node.inputs[0]
        assert source is not None
        if rank(source) == 3:
            return source
        keep = self._edit.initializer(f"{node.name}_keep", np.asarray([0, 0, -1], np.int64))
        return self._node("Reshape", [source, keep], node)

    def _copy(self, node: ir.Node) -> ir.Value:
        inputs = [self._made.get(v, v) if v is not None else None for v in node.inputs]
        if not is_standard(node, "Gemm"):
            attributes = {name: attribute.value for name, attribute in node.attributes.items()}
            if "axis" in attributes:
                attributes["axis"] = -1
            return self._node(node.op_type, inputs, node, attributes)
        weight = inputs[1]
        assert weight is not None
        if node.attributes.get_int("transB", 0):
            dims = list(weight.shape)[::-1] if weight.shape is not None else [None] * 2
            weight = self._edit.node(
                "Transpose",
                [weight],
                like=node,
                attributes={"perm": [1, 0]},
                shape=ir.Shape(dims),
                dtype=weight.dtype,
            ).outputs[0]
        product = self._node("MatMul", [inputs[0], weight], node)
        return self._node("Add", [product, inputs[2]], node) if len(inputs) > 2 and inputs[2] else product

    def _node(
        self,
        op: str,
        inputs: Sequence[ir.Value | None],
        like: ir.Node,
        attributes: dict[str, Any] | None = None,
    ) -> ir.Value:
        """A node in the place of ``like``, quantisers included."""
        old = like.outputs[0]
        width = old.shape[1] if old.shape is not None else None
        domain = like.domain if op == like.op_type else ""
        made = ir.node(
            op, inputs, attributes or {}, domain=domain, num_outputs=1,
            name=self._edit.fresh_node(f"{like.name or like.op_type}/{op}"),
        )  # fmt: skip
        out = made.outputs[0]
        out.name = self._edit.fresh(f"{made.name}_out")
        out.shape, out.type = ir.Shape([*self._rows.lead, width]), old.type
        self._edit.stamp(made, like)
        assert like.graph is not None
        like.graph.insert_before(like, made)
        return out
