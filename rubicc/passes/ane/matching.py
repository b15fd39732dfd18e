"""What the passes for the Neural Engine share: sequences as ``(B, C, 1, S)``, and the ways in and out.

Graphs hold a sequence of vectors in one of three *forms* of rank 3; the Neural Engine wants channels first
and time last in rank 4. Every pass here rewrites what it knows *between* two views and leaves it to
:class:`Channels` that views meet: entering what another pass has just left gives the value inside, no node.

::

    enter(x, form)   Transpose(perm) -> Unsqueeze(2)         (B, S, C) -> (B, C, S) -> (B, C, 1, S)
    leave(y, form)   Squeeze(2) -> Transpose(inverse)        (B, C, 1, S) -> (B, C, S) -> (B, S, C)

The Transpose is absent where the permutation is the identity (``BCS``, convolutions over time).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from rubicc.ir.graph import MADE_BY_KEY, is_quantiser
from rubicc.passes.cleanup.merge_transposes import permutation
from rubicc.passes.layout.operands import drop_unused
from rubicc.passes.rewrite import Editor, constant, is_constant, is_standard, rank

__all__ = [
    "BCS",
    "BSC",
    "FORMS",
    "MIN_OPSET",
    "SBC",
    "Channels",
    "Form",
    "data_inputs",
    "data_uses",
    "drop_unused",
]

MIN_OPSET = 13  # axes of Squeeze and Unsqueeze and sizes of Split are inputs
SINGLE = 2  # the axis of size 1
UNARY = frozenset(
    {"Relu", "Sigmoid", "Tanh", "Clip", "LeakyRelu", "Elu", "Selu", "Celu", "Erf", "Gelu", "HardSigmoid"}
    | {"HardSwish", "Softplus", "Softsign", "Mish", "Swish", "Abs", "Neg", "Exp", "Log", "Sqrt", "Reciprocal"}
    | {"Sign", "Round", "Floor", "Ceil", "Cast", "ThresholdedRelu", "Identity", "Not", "IsNaN", "Sin", "Cos"}
)
BINARY = frozenset(
    {"Add", "Sub", "Mul", "Div", "Max", "Min", "Pow", "Sum", "Where", "PRelu", "And", "Or"}
    | {"Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual"}
)


@dataclass(frozen=True)
class Form:
    """Which axis of a rank-3 value is what."""

    batch: int
    channel: int
    sequence: int

    @property
    def inward(self) -> tuple[int, int, int]:
        """Permutation to (B, C, S)."""
        return self.batch, self.channel, self.sequence

    @property
    def outward(self) -> tuple[int, int, int]:
        """Permutation from (B, C, S)."""
        order = self.inward
        return order.index(0), order.index(1), order.index(2)

    def axis(self, axis: int) -> int:
        """Where axis ``axis`` of the rank-3 value is in (B, C, 1, S)."""
        place = self.inward.index(axis % 3)
        return place if place < SINGLE else place + 1


BSC = Form(0, 2, 1)
SBC = Form(1, 2, 0)
BCS = Form(0, 1, 2)
FORMS = (BSC, SBC, BCS)


class Channels:
    """Enters and leaves (B, C, 1, S) in one graph.

    Nodes go directly behind the producer of what they read, so every later reader may share them.
    """

    def __init__(self, edit: Editor) -> None:
        self.edit = edit
        self._axis: ir.Value | None = None
        self._constants: dict[tuple[ir.Value, Form], ir.Value] = {}
        self._sizes: dict[tuple[int, ...], ir.Value] = {}

    def enter(self, value: ir.Value, form: Form, like: ir.Node) -> ir.Value:
        """``value`` (rank 3) as (B, C, 1, S); makes at most a Transpose and an Unsqueeze."""
        there = entered(value, form)
        if there is not None:
            return there
        value, form = unturned(value, form)
        dims: list[Any] = list(value.shape) if value.shape is not None else [None] * 3
        dims = [dims[axis] for axis in form.inward]
        moved = value
        if form.inward != (0, 1, 2):
            perm = {"perm": list(form.inward)}
            moved = self.behind(value, "Transpose", [value], like, perm, dims, value.dtype)
        dims.insert(SINGLE, 1)
        return self.behind(moved, "Unsqueeze", [moved, self._single()], like, {}, dims, value.dtype)

    def leave(self, inner: ir.Value, old: ir.Value, form: Form, like: ir.Node) -> ir.Value:
        """Let a view of ``inner`` (B, C, 1, S) take every place of ``old``, also as a graph output."""
        dims: list[Any] = list(inner.shape) if inner.shape is not None else [None] * 4
        del dims[SINGLE]
        view = self.behind(inner, "Squeeze", [inner, self._single()], like, {}, dims, inner.dtype)
        if form.outward != (0, 1, 2):
            dims = [dims[axis] for axis in form.outward]
            perm = {"perm": list(form.outward)}
            view = self.behind(view, "Transpose", [view], like, perm, dims, inner.dtype)
        self.edit.replace_value(old, view)
        return view

    def behind(
        self,
        value: ir.Value,
        op: str,
        inputs: Sequence[ir.Value | None],
        like: ir.Node,
        attributes: Mapping[str, Any],
        dims: Sequence[Any],
        dtype: ir.DataType | None,
    ) -> ir.Value:
        """The result of a new node directly behind whatever makes ``value``."""
        node = self.edit.node(
            op, inputs, like=like, attributes=attributes, shape=ir.Shape(list(dims)), dtype=dtype
        )
        graph, producer = like.graph, value.producer()
        assert graph is not None
        graph.remove(node)
        if producer is None:
            graph.insert_before(graph[0], node)
        else:
            graph.insert_after(producer, node)
        return node.outputs[0]

    def constant(self, value: ir.Value, form: Form) -> ir.Value | None:
        """A constant that broadcasts against a rank-3 value in ``form``, for the (B, C, 1, S) value.

        A single number stays as it is; ``None`` where ``value`` is no constant of rank 3 or less.
        """
        array = constant(value)
        if array is None or array.ndim > 3:
            return None
        if array.size == 1:
            return value if array.ndim <= 1 else self._kept(value, form, array.reshape(()))
        whole = array.reshape((1,) * (3 - array.ndim) + array.shape)
        return self._kept(value, form, np.expand_dims(whole.transpose(form.inward), SINGLE))

    def _kept(self, value: ir.Value, form: Form, array: np.ndarray) -> ir.Value:
        if not is_kept(self._constants.get((value, form))):
            self._constants[value, form] = self.edit.initializer(f"{value.name}_channels", array)
        return self._constants[value, form]

    def split(self, value: ir.Value, sizes: Sequence[int], axis: int, like: ir.Node) -> list[ir.Value]:
        """``value`` (rank 4) cut along ``axis`` into ``sizes``, directly behind it; itself if uncut."""
        if len(sizes) == 1:
            return [value]
        edit, graph, producer = self.edit, like.graph, value.producer()
        assert graph is not None
        stem = edit.fresh_node(f"{like.name or like.op_type}/Split")
        key = (axis, *sizes)
        if not is_kept(self._sizes.get(key)):
            self._sizes[key] = self.numbers("sizes", sizes)
        inputs = [value, self._sizes[key]]
        made = ir.node("Split", inputs, {"axis": axis}, num_outputs=len(sizes), name=stem)
        for index, (part, size) in enumerate(zip(made.outputs, sizes, strict=True)):
            part.name = edit.fresh(f"{stem}_out{index}")
            dims: list[Any] = list(value.shape) if value.shape is not None else [None] * 4
            dims[axis] = size
            part.shape, part.type = ir.Shape(dims), value.type
        edit.stamp(made, like)
        if producer is None:
            graph.insert_before(graph[0], made)
        else:
            graph.insert_after(producer, made)
        return list(made.outputs)

    def _single(self) -> ir.Value:
        if self._axis is None or not is_kept(self._axis):
            self._axis = self.numbers("single", [SINGLE])
        return self._axis

    def numbers(self, name: str, numbers: Sequence[int]) -> ir.Value:
        """A vector of int64."""
        return self.edit.initializer(f"ane_{name}", np.asarray(numbers, np.int64))


def is_kept(value: ir.Value | None) -> bool:
    """Whether an initializer made before is still in its graph: the last reader of it may have gone."""
    return value is not None and value.graph is not None and value.is_initializer()


def inside(value: ir.Value, form: Form) -> ir.Value | None:
    """The (B, C, 1, S) value that ``value`` is a view of, seen in ``form``."""
    found = viewed(value)
    return found[0] if found is not None and found[1] == form.outward else None


def entered(value: ir.Value, form: Form) -> ir.Value | None:
    """The (B, C, 1, S) form of ``value`` if it is there already: behind it, or made from it by a pass."""
    behind = inside(value, form)
    if behind is not None or rank(value) != 3:
        return behind
    value, form = unturned(value, form)
    moved = [value]
    if form.inward != (0, 1, 2):
        turned = _made_from(value, "Transpose")
        moved = [node.outputs[0] for node in turned if permutation(node) == list(form.inward)]
    made = [node for one in moved for node in _made_from(one, "Unsqueeze") if _axes(node) == [SINGLE]]
    return made[0].outputs[0] if made else None


def unturned(value: ir.Value, form: Form) -> tuple[ir.Value, Form]:
    """What ``value`` is a Transpose of, and ``form`` as seen there: all ways in start at the same place."""
    node = value.producer()
    while node is not None and is_standard(node, "Transpose") and node.inputs[0] is not None:
        step = permutation(node)
        if step is None or len(step) != 3 or is_constant(node.inputs[0]):
            break
        value, form = node.inputs[0], Form(step[form.batch], step[form.channel], step[form.sequence])
        node = value.producer()
    return value, form


def _made_from(value: ir.Value, op: str) -> list[ir.Node]:
    """Nodes of ours that read ``value``: they stand directly behind its producer, before all others."""
    found = (use.node for use in value.uses() if use.idx == 0 and is_standard(use.node, op))
    return [node for node in found if node.metadata_props.get(MADE_BY_KEY, "").startswith("ane.")]


def viewed(value: ir.Value) -> tuple[ir.Value, tuple[int, int, int]] | None:
    """The rank-4 value that ``value`` is a squeezed, permuted view of, and the permutation of (B, C, S)."""
    perm = [0, 1, 2]
    if rank(value) not in (3, None):
        return None
    node = value.producer()
    while node is not None and is_standard(node, "Transpose") and node.inputs[0] is not None:
        step = permutation(node)
        if step is None or len(step) != 3:
            return None
        perm = [step[axis] for axis in perm]
        node = node.inputs[0].producer()
    if node is None or not is_standard(node, "Squeeze") or _axes(node) != [SINGLE]:
        return None
    source = node.inputs[0]
    return None if source is None or rank(source) != 4 else (source, (perm[0], perm[1], perm[2]))


def _axes(node: ir.Node) -> list[int] | None:
    array = constant(node.inputs[1]) if len(node.inputs) > 1 else None
    return None if array is None else array.reshape(-1).tolist()


def is_elementwise(node: ir.Node) -> bool:
    """Whether every element of the result depends on the elements at its place only (broadcasting aside)."""
    return is_standard(node, *UNARY, *BINARY) or is_quantiser(node)


def data_inputs(node: ir.Node) -> list[ir.Value]:
    """Computed inputs; of a quantiser or one-input operator the first only."""
    if is_quantiser(node) or is_standard(node, *UNARY):
        return [v for v in node.inputs[:1] if v is not None]
    return [v for v in node.inputs if v is not None and not is_constant(v)]


def data_uses(value: ir.Value) -> list[tuple[ir.Node, int]]:
    """Who reads the numbers of ``value``: all uses but Shape and Size."""
    return [(use.node, use.idx) for use in value.uses() if not is_standard(use.node, "Shape", "Size")]


def axes_of(node: ir.Node) -> list[int] | None:
    """Axes of a reduction (attribute or constant input), ``None`` where absent or computed."""
    given = node.attributes.get_ints("axes")
    if given is not None:
        return list(given)
    return _axes(node)


def number(value: ir.Value | None) -> float | None:
    """A constant of one element as a number."""
    array = constant(value)
    return float(array.reshape(-1)[0]) if array is not None and array.size == 1 else None
