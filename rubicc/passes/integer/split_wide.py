"""Makes wide sums of an integer-only graph exact where graphs are executed in float32, as qonnx does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from rubicc.ir.graph import Graph, is_quantiser
from rubicc.passes.integer.legalise import BITS_KEY, format_of
from rubicc.passes.integer.stages import PRODUCTS, moved, output_axis
from rubicc.passes.registry import Pass, register
from rubicc.passes.rewrite import Editor, constant, is_standard, only_use

EXACT = 1 << 24  # integers below it are float32 numbers, and so are all sums on the way to one
DIGITS = (8, 4, 2, 1)  # bits of a value's digit
WEIGHT_DIGIT = 256
_DOUBLE, _FLOAT = ir.DataType.DOUBLE, ir.DataType.FLOAT


@dataclass(frozen=True)
class _End:
    """What follows a product up to the rounding of its result.

    Attributes:
        nodes: additions of a bias, a Relu and products with constants, in order.
        rounding: the Quant of step 1.
    """

    nodes: tuple[ir.Node, ...]
    rounding: ir.Node


@register
class SplitWide(Pass):
    """Products whose sums may pass 2**24 become several of digits, added up in float64.

    Digits of a value have 8, 4, 2 or 1 bits, and weights are cut into bytes where even that is too wide: as
    many as keep every partial sum below 2**24, whatever the input. Only the graph's way of computing
    changes, no number of it. For proofs in other executors: no target reads what this pass makes.

    ::

        before   x -> MatMul(W) -> Add(b) -> Mul(2^-s) -> Quant(1)
        after    x -> Floor, Sub (digits) -> MatMul(W) each -> Cast, Mul, Add (float64) -> Add(b) -> Mul(2^-s)
                                                                 -> Round -> Clip -> Cast -> Quant(1)
    """

    id = "integer.split-wide"
    requires = frozenset({"integer-only"})
    ensures = frozenset({"narrow-sums"})
    tolerance = 1e-3  # in float32, where the graph it is given is not exact; in float64 nothing moves

    def run(self, graph: Graph) -> bool:
        """See :class:`Pass`."""
        edit, changed = Editor(graph, self.id), False
        for node in graph.nodes:
            weight = constant(node.inputs[1]) if is_standard(node, *PRODUCTS) else None
            end = _end(node) if weight is not None else None
            if weight is None or end is None or node.inputs[0] is None:
                continue
            low, high = _range(node.inputs[0])
            if _gain(node, weight) * max(high, -low) + _bias(node, end) >= EXACT:
                self._split(edit, node, weight, end, (low, high))
                changed = True
        return changed

    def _split(
        self, edit: Editor, node: ir.Node, weight: np.ndarray, end: _End, limits: tuple[int, int]
    ) -> None:
        widest = max(limits[1], -limits[0])
        pieces = [(1, weight)]
        if _gain(node, weight) << DIGITS[-1] >= EXACT or _gain(node, weight) >= 1 << 20:
            upper = np.floor(weight / WEIGHT_DIGIT)
            pieces = [(WEIGHT_DIGIT, upper), (1, weight - WEIGHT_DIGIT * upper)]
        most = max(_gain(node, piece) for _, piece in pieces)
        bits = next((bits for bits in DIGITS if most << bits < EXACT), DIGITS[-1])
        total: ir.Value | None = None
        for step, digit in self._digits(edit, node, bits, widest):
            for factor, piece in pieces:
                part = self._part(edit, node, digit, piece, float(step * factor))
                total = part if total is None else _double(edit, node, "Add", total, part)
        assert total is not None
        if len(node.inputs) > 2 and node.inputs[2] is not None:
            bias = constant(node.inputs[2])
            assert bias is not None
            wide = bias.reshape(-1, 1) if node.op_type == "Conv" else bias
            total = _double(edit, node, "Add", total, _number(edit, node, wide))
        self._finish(edit, node, total, end)

    def _digits(self, edit: Editor, node: ir.Node, bits: int, widest: int) -> list[tuple[int, ir.Value]]:
        """``x`` as a sum of ``(2**n, digit)``: digits of ``bits`` bits, the last one with the sign."""
        x, made, step = node.inputs[0], [], 1
        assert x is not None

        def op(kind: str, *inputs: ir.Value) -> ir.Value:
            return edit.node(kind, list(inputs), like=node, shape=x.shape, dtype=_FLOAT).outputs[0]

        rest, size = x, float(1 << bits)
        while step * (1 << bits) <= 2 * widest:
            inverse = edit.initializer(f"{node.name}_digit", np.asarray(1 / size, np.float32))
            upper = op("Floor", op("Mul", rest, inverse))
            whole = op("Mul", upper, edit.initializer(f"{node.name}_digit", np.asarray(size, np.float32)))
            made.append((step, op("Sub", rest, whole)))
            rest, step = upper, step << bits
        return [*made, (step, rest)]

    def _part(
        self, edit: Editor, node: ir.Node, digit: ir.Value, weight: np.ndarray, factor: float
    ) -> ir.Value:
        attributes: dict[str, Any] = {a.name: a.value for a in node.attributes.values()}
        values = [digit, edit.initializer(f"{node.name}_part", weight.astype(np.float32))]
        shape, to = node.outputs[0].shape, {"to": int(_DOUBLE)}
        made = edit.node(node.op_type, values, like=node, attributes=attributes, shape=shape, dtype=_FLOAT)
        made = edit.node("Cast", made.outputs, like=node, attributes=to, shape=shape, dtype=_DOUBLE)
        wide = made.outputs[0]
        if factor == 1:
            return wide
        return _double(edit, node, "Mul", wide, _number(edit, node, np.asarray(factor)))

    def _finish(self, edit: Editor, node: ir.Node, total: ir.Value, end: _End) -> None:
        """What followed the product in float64, rounded there; the quantiser finds an integer of its own."""
        like = end.rounding
        for step in end.nodes:
            if is_standard(step, "Relu"):
                total = _double(edit, like, "Relu", total)
                continue
            array = next(a for a in (constant(value) for value in step.inputs) if a is not None)
            total = _double(edit, like, step.op_type, total, _number(edit, step, array))
        form = format_of(like)
        assert form is not None
        ends = [_number(edit, node, np.asarray(limit)) for limit in (form.low, form.high)]
        total = _double(edit, like, "Clip", _double(edit, like, "Round", total), *ends)
        to = {"to": int(_FLOAT)}
        made = edit.node("Cast", [total], like=like, attributes=to, shape=total.shape, dtype=_FLOAT)
        like.replace_input_with(0, made.outputs[0])
        for gone in reversed((node, *end.nodes)):
            edit.remove(gone)


def _double(edit: Editor, like: ir.Node, kind: str, *inputs: ir.Value) -> ir.Value:
    shape = like.outputs[0].shape
    return edit.node(kind, list(inputs), like=like, shape=shape, dtype=_DOUBLE).outputs[0]


def _number(edit: Editor, like: ir.Node, array: np.ndarray) -> ir.Value:
    return edit.initializer(f"{like.name}_double", np.asarray(array, np.float64))


def _end(node: ir.Node) -> _End | None:
    """The chain behind a product, when it is one the integer passes made."""
    nodes: list[ir.Node] = []
    user = only_use(node.outputs[0])
    while user is not None and is_standard(user, "Add", "Relu", "Mul"):
        if not is_standard(user, "Relu") and not any(constant(value) is not None for value in user.inputs):
            return None
        nodes.append(user)
        user = only_use(user.outputs[0])
    form = format_of(user)
    return None if user is None or form is None or form.exponent != 0 else _End(tuple(nodes), user)


def _gain(node: ir.Node, weight: np.ndarray) -> int:
    """Largest sum of absolute weights of an output channel."""
    rows = np.moveaxis(np.abs(weight.astype(np.float64)), output_axis(node), 0)
    return int(rows.reshape(len(rows), -1).sum(axis=1).max(initial=0))


def _bias(node: ir.Node, end: _End) -> int:
    """Largest absolute bias."""
    arrays = [constant(value) for value in node.inputs[2:] if value is not None]
    for step in end.nodes:
        arrays += [constant(value) for value in step.inputs] if is_standard(step, "Add") else []
    return max((int(np.abs(array).max(initial=0)) for array in arrays if array is not None), default=0)


def _range(value: ir.Value) -> tuple[int, int]:
    """Least and largest integer of a value, as its quantiser or table says; int16 where nothing does."""
    node = value.producer()
    while node is not None:
        form = format_of(node) if is_quantiser(node) else None
        if form is not None:
            return form.low, form.high
        if is_standard(node, "Gather") and (said := node.metadata_props.get(BITS_KEY)):
            bits = int(said[:-1])
            return (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if said[-1] == "s" else (0, (1 << bits) - 1)
        before = moved(node) if not is_standard(node, "Mul") else node.inputs[0]
        node = before.producer() if before is not None else None
    return -(1 << 15), (1 << 15) - 1
