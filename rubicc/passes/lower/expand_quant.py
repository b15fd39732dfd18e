"""QONNX quantisers become standard ONNX arithmetic."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from rubicc.errors import Unsupported
from rubicc.evidence.decision import Decision
from rubicc.ir.graph import Graph, is_quantiser, source_of
from rubicc.ir.shapes import static_shape
from rubicc.passes.evaluate import evaluate
from rubicc.passes.registry import Pass, register
from rubicc.passes.rewrite import Editor, constant, graphs_of, is_constant

MIN_OPSET = 13


@register
class ExpandQuant(Pass):
    """QONNX Quant, BipolarQuant and Trunc become standard float operators that give the same numbers.

    ::

        Quant(x, s, z, bits)   =>   Div(x, s) -> Add(z) -> Clip(lo, hi) -> Round -> Sub(z) -> Mul(s)

        Quant(W, s, z, bits)   =>   Mul(Sub(Cast(integers), z), s)

    The order (clamp, then round half to even) is QONNX's. A zero point of constant 0 adds no nodes. One
    signed bit becomes sign * scale. Quantisers of constants are computed by the reference executor; weights
    of up to 16 bits are stored as the integers they are, which is smaller than float32 and, unlike a rounded
    product, exact in any precision. Runtimes fold the product when they load the model.
    """

    id = "lower.expand-quant"
    requires = frozenset({"constants-are-initializers"})
    ensures = frozenset({"no-quant"})

    def run(self, graph: Graph) -> bool:
        """Raises Unsupported ``RUB-PASS-010`` listing every quantiser that cannot be expanded.

        Nothing is changed in that case.
        """
        found = [(owner, node) for owner in graphs_of(graph) for node in owner if is_quantiser(node)]
        faults = [f"{source_of(node)}: {why}" for _, node in found if (why := self._fault(graph, node))]
        if faults:
            what = f"{len(faults)} quantisers cannot be expanded: {'; '.join(faults)}"
            raise Unsupported("RUB-PASS-010", what, findings=tuple(faults))
        edit = Editor(graph, self.id)
        for owner, node in found:
            self._expand(edit, owner, node)
        if found:
            sources = sorted({source_of(node) for _, node in found})
            self.decisions.append(
                Decision(
                    "RUB-PASS-D02",
                    f"{sources[0]} and {len(sources) - 1} more" if len(sources) > 1 else sources[0],
                    f"{len(found)} quantisers run as float arithmetic; weights are stored as integers",
                    "the target has no operator for them; the numbers are the same, the speed is float's",
                )
            )
        return bool(found)

    def _fault(self, graph: Graph, node: ir.Node) -> str:
        if graph.opset < MIN_OPSET:
            return f"operator set {graph.opset} is older than {MIN_OPSET}"
        bits = _BIT_INPUTS[node.op_type] if len(node.inputs) != 6 else (3, 5)
        for index in bits:
            array = constant(node.inputs[index])
            if array is None or array.size != 1:
                return "its bit width is not a constant scalar"
        mode = node.attributes.get_string("rounding_mode", "ROUND").upper()
        return "" if mode in _ROUNDING else f"unknown rounding mode {mode!r}"

    def _expand(self, edit: Editor, owner: ir.Graph, node: ir.Node) -> None:
        old = node.outputs[0]
        if all(v is None or is_constant(v) for v in node.inputs) and not old.is_graph_output():
            arrays = evaluate(edit.graph, node, [constant(v) for v in node.inputs])
            if arrays is not None:
                integers = _integers(node, arrays[0])
                if integers is None:
                    edit.constant_instead(old, arrays[0], owner)
                else:
                    edit.replace_value(old, self._dequantised(edit, node, integers))
                edit.remove(node)
                return
        chain = _Chain(edit, node)
        _EXPANSIONS[node.op_type](chain)
        edit.replace_value(old, chain.value)
        edit.remove(node)

    def _dequantised(self, edit: Editor, node: ir.Node, integers: np.ndarray) -> ir.Value:
        chain = _Chain(edit, node)
        weight = node.inputs[0]
        name = f"{weight.name if weight is not None else node.name}_int"
        stored = edit.initializer(name, integers, node.graph)
        chain.value = edit.node(
            "Cast",
            [stored],
            attributes={"to": int(chain.dtype)},
            like=node,
            shape=node.outputs[0].shape,
            dtype=chain.dtype,
        ).outputs[0]
        if not chain.is_zero(2):
            chain.then("Sub", chain.input(2))
        return chain.then("Mul", chain.input(1)).value


def _integers(node: ir.Node, dequantised: np.ndarray) -> np.ndarray | None:
    """The integers behind a quantised constant in the smallest type, or ``None`` above 16 bits."""
    if node.op_type not in ("Quant", "IntQuant"):
        return None
    scale, zero = (np.asarray(constant(node.inputs[i]), np.float64) for i in (1, 2))
    levels = dequantised.astype(np.float64) / scale + zero
    integers = np.rint(levels)
    # float32 products are within 1e-7 of the level; anything farther is no multiple of the scale
    if not np.all(np.abs(levels - integers) <= 1e-6 * np.maximum(1.0, np.abs(levels))):
        return None
    for kind in (np.int8, np.uint8, np.int16, np.uint16):
        limits = np.iinfo(kind)
        if integers.size and limits.min <= integers.min() and integers.max() <= limits.max:
            return integers.astype(kind)
    return None


class _Chain:
    """Arithmetic on one value, written node after node in place of ``node``."""

    def __init__(self, edit: Editor, node: ir.Node) -> None:
        source = node.inputs[0]
        if source is None:
            raise ValueError(f"{source_of(node)} has no input")
        self.edit, self.node, self.value = edit, node, source
        self.dtype = source.dtype if source.dtype is not None else ir.DataType.FLOAT
        self.shape = node.outputs[0].shape

    def branch(self, start: ir.Value, other: ir.Value) -> _Chain:
        """Another chain of the same node that begins at ``start`` and combines it with ``other``."""
        made = _Chain(self.edit, self.node)
        own, its = static_shape(start), static_shape(other)
        made.value = start
        made.shape = None if own is None or its is None else ir.Shape(np.broadcast_shapes(own, its))
        return made

    def then(self, op: str, *others: ir.Value | float, swap: bool = False) -> _Chain:
        """Apply ``op`` to the value so far and ``others`` (numbers become constants)."""
        rest = [o if isinstance(o, ir.Value) else self.number(o) for o in others]
        inputs = [*rest, self.value] if swap else [self.value, *rest]
        dtype = ir.DataType.BOOL if op == "GreaterOrEqual" else self.dtype
        made = self.edit.node(op, inputs, like=self.node, shape=self.shape, dtype=dtype)
        self.value = made.outputs[0]
        return self

    def number(self, value: float) -> ir.Value:
        """A scalar constant in the type of the chain."""
        array = np.asarray(value, self.dtype.numpy())
        return self.edit.initializer(f"{self.node.name}_{value:g}", array, self.node.graph)

    def input(self, index: int) -> ir.Value:
        """Input ``index`` of the quantiser."""
        value = self.node.inputs[index]
        if value is None:
            raise ValueError(f"{source_of(self.node)} lacks input {index}")
        return value

    def is_zero(self, index: int) -> bool:
        """Whether input ``index`` is a constant 0 that cannot enlarge the shape."""
        array = constant(self.node.inputs[index])
        return array is not None and not np.any(array)

    def bits(self, index: int) -> float:
        """A bit width."""
        array = constant(self.node.inputs[index])
        return float(np.asarray(array).reshape(-1)[0])

    def flag(self, name: str, default: int) -> bool:
        """A boolean attribute."""
        return bool(self.node.attributes.get_int(name, default))

    def scaled(self) -> _Chain:
        """``x / scale + zero``."""
        self.then("Div", self.input(1))
        return self if self.is_zero(2) else self.then("Add", self.input(2))

    def clipped(self, bits: float, signed: bool, narrow: bool) -> _Chain:
        """Clamp to the integers of the format."""
        low, high = integer_range(bits, signed, narrow)
        return self.then("Clip", low, high)

    def rounded(self, default: str) -> _Chain:
        """Round as the node's ``rounding_mode`` says."""
        _ROUNDING[self.node.attributes.get_string("rounding_mode", default).upper()](self)
        return self

    def signs(self) -> _Chain:
        """1 where the value is at least 0, else -1."""
        self.then("GreaterOrEqual", 0.0)
        return self.then("Where", 1.0, -1.0)


def integer_range(bits: float, signed: bool, narrow: bool) -> tuple[float, float]:
    """Smallest and largest integer; ``narrow`` drops the lowest signed or the highest unsigned one."""
    if signed:
        return -(2.0 ** (bits - 1)) + narrow, 2.0 ** (bits - 1) - 1
    return 0.0, 2.0**bits - 1 - narrow


def _quant(chain: _Chain) -> None:
    bits, signed = chain.bits(3), chain.flag("signed", 1)
    chain.scaled()
    if bits == 1 and signed:
        chain.signs()
    else:
        chain.clipped(bits, signed, chain.flag("narrow", 1)).rounded("ROUND")
    if not chain.is_zero(2):
        chain.then("Sub", chain.input(2))
    chain.then("Mul", chain.input(1))


def _bipolar(chain: _Chain) -> None:
    chain.signs().then("Mul", chain.input(1))


def _trunc(chain: _Chain) -> None:
    """Version 1 drops bits of the same scale; version 2 (six inputs) has a scale and range of its own."""
    chain.scaled().then("Round")
    zero: ir.Value | None = None if chain.is_zero(2) else chain.input(2)
    if len(chain.node.inputs) < 6:
        chain.then("Div", 2.0 ** (chain.bits(3) - chain.bits(4))).rounded("FLOOR")
        scale = chain.input(1)
    else:
        scale = chain.input(4)
        exponent = chain.branch(scale, chain.input(1)).then("Div", chain.input(1)).then("Log")
        ratio = exponent.then("Div", float(np.log(2.0))).then("Round").then("Pow", 2.0, swap=True).value
        chain.then("Div", ratio).clipped(chain.bits(5), chain.flag("signed", 1), chain.flag("narrow", 0))
        chain.rounded("FLOOR")
        if zero is not None:
            zero = chain.branch(zero, ratio).then("Div", ratio).value
    if zero is not None:
        chain.then("Sub", zero)
    chain.then("Mul", scale)


def _away(chain: _Chain, steps: tuple[tuple[str, float | None], ...]) -> None:
    """``sign(x) * f(|x|)``."""
    start = chain.value
    sign = chain.then("Sign").value
    chain.value = start
    chain.then("Abs")
    for op, number in steps:
        chain.then(op) if number is None else chain.then(op, number)
    chain.then("Mul", sign, swap=True)


_ROUNDING: dict[str, Callable[[_Chain], object]] = {
    "ROUND": lambda c: c.then("Round"),
    "HALF_EVEN": lambda c: c.then("Round"),
    "CEIL": lambda c: c.then("Ceil"),
    "FLOOR": lambda c: c.then("Floor"),
    "UP": lambda c: _away(c, (("Ceil", None),)),
    "DOWN": lambda c: _away(c, (("Floor", None),)),
    "ROUND_TO_ZERO": lambda c: _away(c, (("Floor", None),)),
    "HALF_UP": lambda c: _away(c, (("Add", 0.5), ("Floor", None))),
    "HALF_DOWN": lambda c: _away(c, (("Sub", 0.5), ("Ceil", None))),
}
_EXPANSIONS: dict[str, Callable[[_Chain], None]] = {
    "Quant": _quant,
    "IntQuant": _quant,
    "BipolarQuant": _bipolar,
    "Trunc": _trunc,
}
_BIT_INPUTS = {"Quant": (3,), "IntQuant": (3,), "BipolarQuant": (), "Trunc": (3, 4)}
