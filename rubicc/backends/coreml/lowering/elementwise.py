"""Arithmetic, comparison, logic and casts."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from rubicc.backends.coreml.lowering.context import Context, Var
from rubicc.backends.coreml.lowering.facts import Facts, attr, given, kind_of
from rubicc.backends.coreml.lowering.numbers import EPSILON, FLOAT_TYPES, survives_half
from rubicc.backends.coreml.lowering.table import Refusal, convert, refuse

_UNARY = {
    "Acos": "acos", "Asin": "asin", "Atan": "atan", "Atanh": "atanh", "Ceil": "ceil", "Cos": "cos",
    "Cosh": "cosh", "Erf": "erf", "Exp": "exp", "Floor": "floor", "Not": "logical_not", "Round": "round",
    "Sin": "sin", "Sinh": "sinh", "Sqrt": "sqrt", "Tan": "tan", "Abs": "abs", "Sign": "sign",
}  # fmt: skip
_BINARY = {
    "Add": "add", "Sub": "sub", "Mul": "mul", "And": "logical_and", "Or": "logical_or", "Xor": "logical_xor",
    "Equal": "equal", "Less": "less", "Greater": "greater", "LessOrEqual": "less_equal",
    "GreaterOrEqual": "greater_equal",
}  # fmt: skip
_FOLD = {"Max": "maximum", "Min": "minimum", "Sum": "add", "Mean": "add"}
_FACTORS = frozenset({"Mul", "Div", "Pow"})
_MASKING = 2.0**29  # a factor from here on takes every normal float16 out of the range: it masks
_CASTS = {"float": "", "int": "int32", "bool": "bool"}


@convert("Identity", "Dropout", mil="", note="nothing is written")
def identity(c: Context, node: ir.Node) -> None:
    """The same variable."""
    c.set(node.outputs[0], c.var(node.inputs[0], "keep"))


def _register_unary() -> None:
    for op, kind in _UNARY.items():

        def run(c: Context, node: ir.Node, kind: str = kind) -> None:
            c.set(node.outputs[0], c.op(kind, node, x=c.var(node.inputs[0])))

        convert(op, mil=kind, note="half to even" if op == "Round" else "")(run)


_register_unary()


@convert("Neg", mil="mul")
def negate(c: Context, node: ir.Node) -> None:
    """Times -1."""
    x = c.var(node.inputs[0])
    c.set(node.outputs[0], c.op("mul", node, x=x, y=c.scalar_like(x, -1)))


@convert("Reciprocal", mil="real_div", note="MIL's inverse adds 1e-4 unless told not to")
def reciprocal(c: Context, node: ir.Node) -> None:
    """One divided by it."""
    x = c.var(node.inputs[0])
    c.set(node.outputs[0], c.op("real_div", node, x=c.scalar_like(x, 1), y=x))


@convert("Log", mil="log", note="epsilon 0")
def logarithm(c: Context, node: ir.Node) -> None:
    """Natural logarithm, nothing added."""
    x = c.var(node.inputs[0])
    c.set(node.outputs[0], c.op("log", node, x=x, epsilon=c.scalar_like(x, 0)))


@convert("IsNaN", mil="not_equal")
def is_nan(c: Context, node: ir.Node) -> None:
    """Only NaN differs from itself."""
    x = c.var(node.inputs[0])
    c.set(node.outputs[0], c.op("not_equal", node, x=x, y=x))


def operands(c: Context, node: ir.Node, op: str) -> tuple[Var, Var]:
    """Both operands in one type: float where either is, fp32 where float16 would lose a constant factor."""
    values = (node.inputs[0], node.inputs[1])
    if "float" not in {kind_of(value) for value in values}:
        return c.var(values[0]), c.var(values[1])
    lost = [number for value in values if (number := _lost_in_half(c, value)) is not None]
    dtype = c.dtype
    if lost and op in _FACTORS and (abs(lost[0]) < _MASKING or op == "Div"):
        dtype = "fp32"
        what = f"{op} by {lost[0]:g} is computed in fp32"
        c.decide("RUB-COREML-D15", node, what, "float16 does not hold the constant")
    return _operand(c, node, op, values[0], dtype), _operand(c, node, op, values[1], dtype)


def _lost_in_half(c: Context, value: ir.Value | None) -> float | None:
    """A finite constant number that float16 does not hold, in an fp16 program."""
    number = c.scalar(value) if c.dtype == "fp16" else None
    if number is None or not math.isfinite(number) or survives_half(number):
        return None
    return number


def _operand(c: Context, node: ir.Node, op: str, value: ir.Value | None, dtype: str) -> Var:
    number = c.scalar(value) if op in ("Add", "Max") and dtype == "fp16" else None
    if number is None or number == 0.0 or abs(number) >= EPSILON / 2:
        return c.var(value, dtype)
    used = math.copysign(EPSILON, number)
    c.decide("RUB-COREML-D10", node, f"{op} of {number:g} uses {used:.3g}", "float16 would hold 0")
    return c.const(np.float16(used), f"{node.name}_epsilon")  # type: ignore[arg-type]


def _register_binary() -> None:
    for op, kind in _BINARY.items():

        def run(c: Context, node: ir.Node, op: str = op, kind: str = kind) -> None:
            x, y = operands(c, node, op)
            if kind == "equal" and c.type_of(x) == "bool":
                x, y = c.cast(x, "int32"), c.cast(y, "int32")
            c.set(node.outputs[0], c.op(kind, node, x=x, y=y))

        convert(op, mil=kind)(run)


_register_binary()


@convert("Div", mil="real_div floor_div abs sign mul", note="integers towards zero")
def divide(c: Context, node: ir.Node) -> None:
    """Quotient; integers round towards zero, which MIL's floor_div does for magnitudes."""
    x, y = operands(c, node, "Div")
    if c.type_of(x) in FLOAT_TYPES:
        c.set(node.outputs[0], c.op("real_div", node, x=x, y=y))
        return
    size = c.op("floor_div", node, "size", x=c.op("abs", node, "x", x=x), y=c.op("abs", node, "y", x=y))
    sign = c.op("mul", node, "sign", x=c.op("sign", node, "sx", x=x), y=c.op("sign", node, "sy", x=y))
    c.set(node.outputs[0], c.op("mul", node, x=size, y=sign))


@convert("Pow", mil="pow square sqrt rsqrt real_div")
def power(c: Context, node: ir.Node) -> None:
    """Common exponents have operations of their own, which round once."""
    exponent = c.scalar(node.inputs[1])
    x = c.var(node.inputs[0])
    if exponent == 1.0:
        made = x
    elif exponent == 2.0:
        made = c.op("square", node, x=x)
    elif exponent == 0.5:
        made = c.op("sqrt", node, x=x)
    elif exponent == -0.5:
        made = c.op("rsqrt", node, x=x, epsilon=c.scalar_like(x, 0))
    elif exponent == -1.0:
        made = c.op("real_div", node, x=c.scalar_like(x, 1), y=x)
    else:
        made = c.op("pow", node, x=x, y=c.var(node.inputs[1], c.type_of(x)))
    c.set(node.outputs[0], made)


def _check_mod(facts: Facts, node: ir.Node) -> Iterator[Refusal]:
    if attr(node, "fmod", 0):
        yield refuse("Mod with the sign of the dividend (fmod)")


@convert("Mod", mil="mod", check=_check_mod)
def modulo(c: Context, node: ir.Node) -> None:
    """Remainder with the divisor's sign."""
    x, y = operands(c, node, "Mod")
    c.set(node.outputs[0], c.op("mod", node, x=x, y=y))


@convert(*_FOLD, mil="maximum minimum add real_div")
def fold(c: Context, node: ir.Node) -> None:
    """Operands two by two; the mean divides the sum by their number."""
    total = c.var(node.inputs[0])
    for index, value in enumerate(node.inputs[1:], 1):
        total = c.op(_FOLD[node.op_type], node, f"{index}", x=total, y=c.var(value))
    if node.op_type == "Mean":
        total = c.op("real_div", node, "mean", x=total, y=c.scalar_like(total, len(node.inputs)))
    c.set(node.outputs[0], total)


def _check_clip(facts: Facts, node: ir.Node) -> Iterator[Refusal]:
    for index in (1, 2):
        value = given(node, index)
        if value is not None and facts.rank(value) not in (0, None) and facts.static(value) != (1,):
            yield refuse("Clip with bounds that are no single numbers")


@convert("Clip", mil="clip relu6 relu maximum minimum", check=_check_clip)
def clip(c: Context, node: ir.Node) -> None:
    """One operation where both bounds are constant floats, maximum and minimum otherwise."""
    x = c.var(node.inputs[0])
    low, high = (_bound(c, node, name, index) for name, index in (("min", 1), ("max", 2)))
    floating = c.type_of(x) in FLOAT_TYPES
    if floating and isinstance(low, float) and isinstance(high, float) and low < high:
        bounds = (c.scalar_like(x, low, "bound"), c.scalar_like(x, high, "bound"))
        if (low, high) == (0.0, 6.0):
            x = c.op("relu6", node, x=x)
        elif bounds[0] < bounds[1]:
            x = c.op("clip", node, x=x, alpha=bounds[0], beta=bounds[1])
        else:
            x = c.op("minimum", node, x=c.op("maximum", node, "low", x=x, y=bounds[0]), y=bounds[1])
        c.set(node.outputs[0], x)
        return
    if floating and low == 0.0 and high is None:
        c.set(node.outputs[0], c.op("relu", node, x=x))
        return
    for bound, kind in ((low, "maximum"), (high, "minimum")):
        if bound is not None:
            limit = (
                c.scalar_like(x, bound, "bound") if isinstance(bound, float) else c.cast(bound, c.type_of(x))
            )
            x = c.op(kind, node, kind, x=x, y=limit)
    c.set(node.outputs[0], x)


def _bound(c: Context, node: ir.Node, name: str, index: int) -> float | Var | None:
    """A bound as a number where it is constant, as a variable where it is computed."""
    if attr(node, name) is not None:
        return float(attr(node, name))
    value = given(node, index)
    if value is None:
        return None
    number = c.scalar(value)
    return c.var(value) if number is None else number


@convert("Where", mil="select mul add", note="operands smaller than the condition are spread by adding zeros")
def where(c: Context, node: ir.Node) -> None:
    """Selection; MIL infers the shape from the two operands alone."""
    condition = c.cast(c.var(node.inputs[0]), "bool")
    kinds = {kind_of(value) for value in node.inputs[1:]}
    wanted = c.dtype if "float" in kinds else None
    a, b = c.var(node.inputs[1], wanted), c.var(node.inputs[2], wanted)
    dims = [c.dims(value) for value in (node.inputs[1], node.inputs[2], node.outputs[0])]
    if dims[2] not in dims[:2]:  # neither operand has the full shape: the first is spread over the condition
        zeros = c.op("cast", node, "zeros", x=condition, dtype=c.type_of(a))
        zeros = c.op("mul", node, "none", x=zeros, y=c.scalar_like(a, 0))
        a = c.op("add", node, "spread", x=a, y=zeros)
    c.set(node.outputs[0], c.op("select", node, cond=condition, a=a, b=b))


@convert("Cast", "CastLike", mil="cast", note="between floating types nothing is written; integers are int32")
def cast(c: Context, node: ir.Node) -> None:
    """Between kinds of numbers; the width of a float is the program's choice."""
    target, source = kind_of(node.outputs[0]), kind_of(node.inputs[0])
    x = c.var(node.inputs[0], "keep")
    if target != source:
        x = c.cast(x, _CASTS[target] or c.dtype)
    c.set(node.outputs[0], x)
