"""Masks of an attention, turned to keys before queries, once for all layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from rubicc.ir.graph import is_quantiser
from rubicc.passes.ane.attention_core import Core, Mask, Untouched
from rubicc.passes.ane.heads import Heads
from rubicc.passes.ane.matching import Channels, is_elementwise
from rubicc.passes.ane.movement import Trials
from rubicc.passes.rewrite import Editor, constant, is_constant, is_standard

_TURN = [0, 3, 1, 2]  # (B, H, Q, K) to (B, K, H, Q)
_UNBOUNDED = ("Log", "Div", "Reciprocal", "Pow", "Exp")  # may be infinite of finite numbers
_FLOATS = (ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16, ir.DataType.BFLOAT16)


@dataclass(frozen=True)
class PerHead:
    """A mask that fits: what is added, or the condition and what replaces; by head once made."""

    mask: Mask
    split: bool
    other_split: bool


class MaskViews:
    """Checks masks against the scores and makes their views (B, K, 1, Q or 1)."""

    def __init__(self, edit: Editor, trials: Trials) -> None:
        self._edit = edit
        self._trials = trials
        self._channels = Channels(edit)
        self._made: dict[ir.Value, ir.Value] = {}
        self._split: dict[ir.Value, list[ir.Value]] = {}

    def plan(self, mask: Mask, core: Core, query: Heads) -> PerHead:
        """How ``mask`` falls on the heads.

        Raises:
            Untouched: it is not broadcast against (B, H, Q, K), or its shape is not known.
        """
        count = len(query.offsets)
        split = self._fits(mask.value, core, query, count)
        other = mask.other is not None and self._fits(mask.other, core, query, count)
        return PerHead(mask, split, other)

    def _fits(self, value: ir.Value, core: Core, query: Heads, count: int) -> bool:
        """Whether ``value`` differs by head."""
        per_head = []
        for run, lead in zip(self._trials.runs, query.lead, strict=True):
            shape, scores = run.shape(value), run.shape(core.scores.outputs[0])
            if shape is None or scores is None or len(shape) > len(scores) or len(scores) > 4:
                raise Untouched("the shape of its mask is not known or larger than that of its scores")
            whole = (1,) * (len(scores) - len(shape)) + shape
            if len(scores) < 4:
                if any(dim != 1 for dim in whole[:-2]):
                    raise Untouched("its mask differs by head or batch, and these share one axis")
                per_head.append(False)
                continue
            by_batch = lead == tuple(np.repeat(np.arange(scores[0]), scores[1]).tolist())
            if any(dim != 1 for dim in whole[:2]) and (not by_batch or scores[1] != count):
                raise Untouched("its mask has heads before batches")
            per_head.append(whole[1] != 1)
        if len(set(per_head)) != 1:
            raise Untouched("its mask differs by head at some sizes only")
        return per_head[0]

    def view(self, value: ir.Value, split: bool, head: int, count: int, like: ir.Node) -> ir.Value:
        """``value`` as (B, K, 1, Q) for ``head``; made at its first use and shared."""
        array = constant(value)
        if array is not None and array.size == 1:
            return value
        if value not in self._made:
            self._made[value] = self._turned(value, array, like)
        turned = self._made[value]
        if not split:
            return turned
        if value not in self._split:
            self._split[value] = self._channels.split(turned, [1] * count, 2, like)
        return self._split[value][head]

    def _turned(self, value: ir.Value, array: np.ndarray | None, like: ir.Node) -> ir.Value:
        if array is not None:
            whole = array.reshape((1,) * (4 - array.ndim) + array.shape)
            return self._edit.initializer(f"{value.name}_keys", whole.transpose(_TURN))
        known = self._trials.runs[0].shape(value)
        assert known is not None  # else `plan` has refused it
        like = value.producer() or like  # the view stands for what makes the mask, not for one layer
        return self._above(value, like) or self._view(value, len(known), like)

    def _above(self, value: ir.Value, like: ir.Node) -> ir.Value | None:
        """``value`` turned by turning what it is computed from, where that is its one input and of rank 4.

        The view then stands where the mask comes in, and merges with what made its axes there.
        """
        node = value.producer()
        if node is None or not is_elementwise(node) or is_quantiser(node):
            return None
        data = [v for v in node.inputs if v is not None and not is_constant(v)]
        if len(data) != 1 or any(_size(v) != 1 for v in node.inputs if v is not None and v is not data[0]):
            return None
        known = self._trials.runs[0].shape(data[0])
        if known is None or len(known) != 4:
            return None
        source = self.view(data[0], False, 0, 1, like)
        inputs = [source if v is data[0] else v for v in node.inputs]
        attributes = {name: attribute.value for name, attribute in node.attributes.items()}
        made = self._edit.node(
            node.op_type, inputs, like=node, attributes=attributes, shape=source.shape, dtype=value.dtype
        )
        return made.outputs[0]

    def _view(self, value: ir.Value, dimensions: int, like: ir.Node) -> ir.Value:
        missing = 4 - dimensions
        own = list(value.shape) if value.shape is not None else [None] * dimensions
        dims: list[Any] = [1] * missing + own
        if missing:
            axes = self._channels.numbers("leading", range(missing))
            value = self._channels.behind(value, "Unsqueeze", [value, axes], like, {}, dims, value.dtype)
        dims = [dims[axis] for axis in _TURN]
        return self._channels.behind(value, "Transpose", [value], like, {"perm": _TURN}, dims, value.dtype)


def _size(value: ir.Value) -> int | None:
    array = constant(value)
    return None if array is None else array.size


def finite(masks: Sequence[Mask]) -> bool:
    """Whether no mask can make a score infinite, so that no softmax is without a number."""
    return all(_is_finite(mask.value if mask.other is None else mask.other) for mask in masks)


def _is_finite(value: ir.Value) -> bool:
    """Whether only finite constants and whole numbers reach ``value``, by operators that keep them finite."""
    seen: set[ir.Value] = set()
    queue: list[ir.Value | None] = [value]
    while queue:
        one = queue.pop()
        if one is None or one in seen or (one.dtype is not None and one.dtype not in _FLOATS):
            continue
        seen.add(one)
        if is_constant(one):
            array = constant(one)
            if array is None or not np.all(np.isfinite(array)):
                return False
            continue
        node = one.producer()
        if node is None or is_standard(node, *_UNBOUNDED):
            return False
        queue += node.inputs
    return True
