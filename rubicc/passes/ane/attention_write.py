"""Writes an attention head by head."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from rubicc.passes.ane.attention_core import Core
from rubicc.passes.ane.attention_masks import MaskViews, PerHead, finite
from rubicc.passes.ane.heads import Heads, Joined
from rubicc.passes.ane.matching import Channels, data_uses, drop_unused
from rubicc.passes.rewrite import Editor, constant, is_standard

SCORES = "bkhc,bchq->bkhq"
CONTEXT = "bkhq,bchk->bchq"
_ROUNDING = 2.0**-22  # of a product of two square roots in float32
_KEYS_FIRST = [0, 3, 2, 1]  # (B, C, 1, S) to (B, S, 1, C)


class Writer:
    """Rewrites planned attentions of one graph."""

    def __init__(self, edit: Editor, masks: MaskViews) -> None:
        self._edit = edit
        self._masks = masks
        self._channels = Channels(edit)

    def write(
        self, core: Core, operands: tuple[Heads, Heads, Heads], result: Joined, masks: Sequence[PerHead]
    ) -> None:
        """Replace what ``core`` computes, up to the value in which the heads are joined."""
        query, key, value = operands
        like = core.context
        factor = _snapped(core.factor * query.path.factor * key.path.factor)
        guarded = core.guard is not None and not finite(core.masks)
        folded = self._fold(factor, core, operands)
        roots = [self._inner(one, like) for one in operands]
        cuts = self._cut(roots, operands, like)
        queries, values = cuts[0], cuts[2]
        keys = self._keys(cuts[1][0], key, 1.0 if folded else factor, core)
        parts = []
        for head in range(len(query.offsets)):
            scores = self._scores(core, keys[head], queries[head])
            for mask in masks:
                scores = self._mask(mask, scores, head, len(query.offsets), like)
            weights = self._node("Softmax", [scores], core.softmax, like, scores.shape, {"axis": 1})
            if guarded:
                weights = self._guarded(weights, core)
            parts.append(self._context(weights, values[head], like))
        self._join(parts, result, value, core)

    def _inner(self, one: Heads, like: ir.Node) -> ir.Value:
        return one.root if one.form is None else self._channels.enter(one.root, one.form, like)

    def _cut(
        self, roots: Sequence[ir.Value], operands: tuple[Heads, Heads, Heads], like: ir.Node
    ) -> list[list[ir.Value]]:
        """Channels of every head of queries and values, and from first to last key; one Split each."""
        wanted = []
        for index, one in enumerate(operands):
            starts = sorted(set(one.offsets))
            pieces = [(start, one.width) for start in one.offsets]
            wanted.append([(starts[0], starts[-1] + one.width - starts[0])] if index == 1 else pieces)
        found: dict[tuple[ir.Value, tuple[int, int]], ir.Value] = {}
        for root in dict.fromkeys(roots):
            mine = [p for other, pieces in zip(roots, wanted, strict=True) if other is root for p in pieces]
            found.update({(root, piece): part for piece, part in self._pieces(root, mine, like).items()})
        return [[found[root, p] for p in pieces] for root, pieces in zip(roots, wanted, strict=True)]

    def _pieces(
        self, root: ir.Value, wanted: Sequence[tuple[int, int]], like: ir.Node
    ) -> dict[tuple[int, int], ir.Value]:
        """Ranges of channels of ``root``; those that overlap (a query that is also a value) are cut apart."""
        assert root.shape is not None and isinstance(root.shape[1], int)
        rest, layers = sorted(set(wanted)), []
        while rest:  # each layer holds ranges that do not overlap: in practice there is one
            layer: list[tuple[int, int]] = []
            for start, width in rest:
                if not layer or start >= sum(layer[-1]):
                    layer.append((start, width))
            layers.append(layer)
            rest = [piece for piece in rest if piece not in layer]
        found: dict[tuple[int, int], ir.Value] = {}
        for layer in layers:
            whole, at = [], 0
            for start, width in layer:
                whole += [(at, start - at)] if start > at else []
                whole.append((start, width))
                at = start + width
            whole += [(at, root.shape[1] - at)] if at < root.shape[1] else []
            parts = self._channels.split(root, [width for _, width in whole], 1, like)
            found.update(zip(whole, parts, strict=True))
        return found

    def _keys(self, whole: ir.Value, key: Heads, factor: float, core: Core) -> list[ir.Value]:
        """(B, K, 1, D) by head: the one transpose of an attention, the scale if it stays, then a Split."""
        like = core.context
        dims: list[Any] = (
            [whole.shape[axis] for axis in _KEYS_FIRST] if whole.shape is not None else [None] * 4
        )
        turned = self._channels.behind(
            whole, "Transpose", [whole], like, {"perm": _KEYS_FIRST}, dims, whole.dtype
        )
        if factor != 1.0:
            by = self._number(f"{core.scores.name}_scale", factor, whole)
            turned = self._channels.behind(turned, "Mul", [turned, by], like, {}, dims, whole.dtype)
        first, at, sizes, places = min(key.offsets), 0, [], {}
        for start in sorted(set(key.offsets)):
            sizes += [start - first - at] if start - first > at else []  # channels between heads
            places[start], at = len(sizes), start - first + key.width
            sizes.append(key.width)
        parts = self._channels.split(turned, sizes, 3, like)
        return [parts[places[start]] for start in key.offsets]

    def _scores(self, core: Core, key: ir.Value, query: ir.Value) -> ir.Value:
        like = core.context
        assert key.shape is not None and query.shape is not None
        shape = ir.Shape([key.shape[0], key.shape[1], 1, query.shape[3]])
        return self._node("Einsum", [key, query], core.scores, like, shape, {"equation": SCORES})

    def _mask(self, mask: PerHead, scores: ir.Value, head: int, count: int, like: ir.Node) -> ir.Value:
        step = mask.mask
        value = self._masks.view(step.value, mask.split, head, count, step.node)
        if step.other is None:
            return self._node("Add", [scores, value], step.node, like, scores.shape, {})
        other = self._masks.view(step.other, mask.other_split, head, count, step.node)
        inputs = [value, scores, other] if step.kept else [value, other, scores]
        return self._node("Where", inputs, step.node, like, scores.shape, {})

    def _guarded(self, weights: ir.Value, core: Core) -> ir.Value:
        """Zeros for queries that may attend to nothing, as the whole attention has them."""
        edit, like = self._edit, core.context
        assert core.guard is not None
        test = edit.node("IsNaN", [weights], like=like, shape=weights.shape, dtype=ir.DataType.BOOL)
        inputs = [test.outputs[0], core.guard.inputs[1], weights]
        return self._node("Where", inputs, core.guard, like, weights.shape, {})

    def _context(self, weights: ir.Value, value: ir.Value, like: ir.Node) -> ir.Value:
        assert weights.shape is not None and value.shape is not None
        shape = ir.Shape([weights.shape[0], value.shape[1], 1, weights.shape[3]])
        return self._node("Einsum", [weights, value], like, like, shape, {"equation": CONTEXT})

    def _join(self, parts: list[ir.Value], result: Joined, value: Heads, core: Core) -> None:
        ordered = [parts[head] for head in result.order]
        whole = ordered[0]
        if len(ordered) > 1:
            dims: list[Any] = list(whole.shape) if whole.shape is not None else [None] * 4
            dims[1] = value.width * len(ordered)
            whole = self._node("Concat", ordered, core.context, core.context, ir.Shape(dims), {"axis": 1})
        if value.path.factor != 1.0:
            scale = self._number(f"{core.context.name}_scale", value.path.factor, whole)
            whole = self._node("Mul", [whole, scale], core.context, core.context, whole.shape, {})
        if result.form is None:
            self._edit.replace_value(result.value, whole)
        else:
            self._channels.leave(whole, result.value, result.form, core.context)
        drop_unused(self._edit, result.value)

    def _number(self, name: str, number: float, like: ir.Value) -> ir.Value:
        assert like.dtype is not None
        return self._edit.initializer(name, np.asarray(number, like.dtype.numpy()))

    def _node(
        self,
        op: str,
        inputs: Sequence[ir.Value | None],
        source: ir.Node,
        before: ir.Node,
        shape: ir.Shape | None,
        attributes: dict[str, Any],
    ) -> ir.Value:
        """A node before ``before`` that does the work of ``source``."""
        made = self._edit.node(
            op, inputs, like=before, attributes=attributes, shape=shape, dtype=source.outputs[0].dtype
        )
        self._edit.stamp(made, source)
        return made.outputs[0]

    def _fold(self, factor: float, core: Core, operands: tuple[Heads, Heads, Heads]) -> bool:
        """Multiply ``factor`` into the convolution that makes the queries; whether that was possible.

        Only a power of two: any other factor would round every weight once more.
        """
        query, *others = operands
        conv = query.root.producer()
        if factor == 1.0 or conv is None or query.form is not None or not is_standard(conv, "Conv"):
            return factor == 1.0
        if abs(math.frexp(factor)[0]) != 0.5:
            return False
        weight = conv.inputs[1]
        bias = conv.inputs[2] if len(conv.inputs) > 2 else None
        stored, added = constant(weight), constant(bias)
        if (
            weight is None
            or stored is None
            or (bias is not None and added is None)
            or len(weight.uses()) != 1
        ):
            return False
        rows = np.zeros(stored.shape[0], bool)
        for start in query.offsets:
            rows[start : start + query.width] = True
        for one in others:
            if one.root is query.root and any(rows[s : s + one.width].any() for s in one.offsets):
                return False
        inside = {core.scores, core.context}.union(*(one.path.nodes for one in operands))
        on_the_way = [query.root, *(v for node in query.path.nodes for v in node.outputs)]
        readers = {node for value in on_the_way for node, _ in data_uses(value)}
        if not readers <= inside or any(v.is_graph_output() for v in on_the_way):
            return False
        by = np.where(rows, factor, 1.0).astype(stored.dtype)
        scaled = self._edit.initializer(f"{weight.name}_scaled", stored * by[:, None, None, None], conv.graph)
        conv.replace_input_with(1, scaled)
        drop_unused(self._edit, weight)
        if bias is not None and added is not None:
            conv.replace_input_with(2, self._edit.initializer(f"{bias.name}_scaled", added * by, conv.graph))
            drop_unused(self._edit, bias)
        self._edit.mark(conv)
        return True


def _snapped(factor: float) -> float:
    """``factor``, or the power of two that it is but for rounding of its own factors in float32."""
    if factor <= 0.0:
        return factor
    near = math.ldexp(1.0, round(math.log2(factor)))
    return near if abs(factor / near - 1.0) < _ROUNDING else factor
