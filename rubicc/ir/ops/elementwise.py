"""Elementwise kernels: arithmetic, comparison, logic, activations, casts."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache

import numpy as np

from rubicc.ir.limits import bounded_elements
from rubicc.ir.ops.registry import KERNELS, Array, Call, Result, is_float, kernel, widened

_ERF_STEP = 1 / 64
_ERF_END = 6.0  # erf is 1 to double precision from here on
_ERF_ORDER = 8

_UNARY: dict[str, Callable[[Array], Array]] = {
    "Neg": np.negative,
    "Abs": np.abs,
    "Sqrt": np.sqrt,
    "Exp": np.exp,
    "Log": np.log,
    "Sin": np.sin,
    "Cos": np.cos,
    "Tan": np.tan,
    "Asin": np.arcsin,
    "Acos": np.arccos,
    "Atan": np.arctan,
    "Sinh": np.sinh,
    "Cosh": np.cosh,
    "Asinh": np.arcsinh,
    "Acosh": np.arccosh,
    "Atanh": np.arctanh,
    "Tanh": np.tanh,
    "Floor": np.floor,
    "Ceil": np.ceil,
    "Round": np.round,
    "Sign": np.sign,
    "Reciprocal": lambda x: np.ones((), x.dtype) / x,
    "IsNaN": np.isnan,
    "Not": np.logical_not,
    "BitwiseNot": np.invert,
    "Relu": lambda x: np.maximum(x, np.zeros((), x.dtype)),
    "Softsign": lambda x: x / (1 + np.abs(x)),
    "Identity": lambda x: x,
}

_BINARY: dict[str, Callable[[Array, Array], Array]] = {
    "Add": np.add,
    "Sub": np.subtract,
    "Mul": np.multiply,
    "And": np.logical_and,
    "Or": np.logical_or,
    "Xor": np.logical_xor,
    "Equal": np.equal,
    "Less": np.less,
    "Greater": np.greater,
    "LessOrEqual": np.less_equal,
    "GreaterOrEqual": np.greater_equal,
    "BitwiseAnd": np.bitwise_and,
    "BitwiseOr": np.bitwise_or,
    "BitwiseXor": np.bitwise_xor,
}


def _unary(function: Callable[[Array], Array]) -> Callable[[Call], Result]:
    return lambda call: function(call[0])


def _binary(function: Callable[[Array, Array], Array]) -> Callable[[Call], Result]:
    def run(call: Call) -> Result:
        a, b = call[0], call[1]
        bounded_elements(np.broadcast_shapes(a.shape, b.shape), where=call.node.name or "")
        return function(a, b)

    return run


KERNELS.update({("", name): _unary(f) for name, f in _UNARY.items()})
KERNELS.update({("", name): _binary(f) for name, f in _BINARY.items()})


@kernel("Div")
def div(call: Call) -> Result:
    """Quotient; integers round towards zero."""
    a, b = call[0], call[1]
    if a.dtype.kind not in "iu":
        return np.divide(a, b)
    quotient = a // b
    return quotient + ((quotient < 0) & (quotient * b != a)).astype(quotient.dtype)


@kernel("Mod")
def mod(call: Call) -> Result:
    """Remainder with the divisor's sign, or the dividend's under ``fmod``."""
    return (np.fmod if call.attr("fmod", 0) else np.mod)(call[0], call[1])


@kernel("Pow")
def power(call: Call) -> Result:
    """Power in the base's type; the exponents 2 and 0.5 are exact products and roots."""
    base, exponent = call[0], call[1]
    return np.power(base, exponent.astype(base.dtype) if is_float(base.dtype) else exponent).astype(
        base.dtype
    )


@kernel("BitShift")
def bit_shift(call: Call) -> Result:
    """Logical shift of unsigned integers."""
    return (np.left_shift if call.attr("direction") == "LEFT" else np.right_shift)(call[0], call[1])


@kernel("Sum", "Mean", "Max", "Min")
def variadic(call: Call) -> Result:
    """Sum, mean, maximum or minimum over the inputs."""
    fold = {"Max": np.maximum, "Min": np.minimum}.get(call.node.op_type, np.add)
    total = call[0]
    for index in range(1, len(call.inputs)):
        total = fold(total, call[index])
    return total / np.asarray(len(call.inputs), total.dtype) if call.node.op_type == "Mean" else total


@kernel("Clip")
def clip(call: Call) -> Result:
    """Clamp; bounds are attributes before opset 11 and inputs after."""
    x = call[0]
    low, high = call.scalar("min", 1), call.scalar("max", 2)
    if low is not None:
        x = np.maximum(x, np.asarray(low, x.dtype))
    return x if high is None else np.minimum(x, np.asarray(high, x.dtype))


@kernel("Where")
def where(call: Call) -> Result:
    """Select."""
    return np.where(call[0], call[1], call[2])


@kernel("IsInf")
def is_inf(call: Call) -> Result:
    """Infinities of the asked signs."""
    x = call[0]
    up, down = bool(call.attr("detect_positive", 1)), bool(call.attr("detect_negative", 1))
    return np.isinf(x) & (((x > 0) & up) | ((x < 0) & down))


@kernel("Cast", "CastLike")
def cast(call: Call) -> Result:
    """Conversion; float to integer truncates."""
    target = call[1].dtype if call.node.op_type == "CastLike" else call.numpy_dtype(call.attr("to"))
    return call[0].astype(target, copy=False)


def sigmoid(x: Array) -> Array:
    """Logistic function in ``x``'s type, free of overflow."""
    one = np.ones((), x.dtype)
    small = np.exp(-np.abs(x))
    return np.where(x >= 0, one, small) / (one + small)


def softplus(x: Array) -> Array:
    """``log(1 + exp(x))`` free of overflow."""
    return np.maximum(x, np.zeros((), x.dtype)) + np.log1p(np.exp(-np.abs(x)))


@cache
def _erf_table() -> Array:
    """Taylor coefficients of erf about a grid, one row per grid point (derivatives by Hermite recursion)."""
    rows = []
    for step in range(round(_ERF_END / _ERF_STEP) + 1):
        at = step * _ERF_STEP
        hermite = [1.0, 2 * at]
        while len(hermite) < _ERF_ORDER:
            n = len(hermite) - 1
            hermite.append(2 * at * hermite[n] - 2 * n * hermite[n - 1])
        slope = 2 / math.sqrt(math.pi) * math.exp(-at * at)
        derivatives = [slope * (-1) ** n * hermite[n] / math.factorial(n + 1) for n in range(_ERF_ORDER)]
        rows.append([math.erf(at), *derivatives])
    return np.array(rows)


def erf(x: Array) -> Array:
    """Error function to double precision, evaluated in float64 and returned in ``x``'s type."""
    magnitude = np.minimum(np.abs(x).astype(np.float64), _ERF_END)
    at = np.nan_to_num(np.rint(magnitude / _ERF_STEP)).astype(np.intp)
    delta = magnitude - at * _ERF_STEP
    table = _erf_table()
    result = table[:, -1][at]
    for order in range(_ERF_ORDER - 1, -1, -1):
        result = result * delta + table[:, order][at]
    return np.copysign(result, x).astype(x.dtype)


@kernel("Sigmoid")
def sigmoid_op(call: Call) -> Result:
    """Logistic function."""
    return sigmoid(call[0])


@kernel("Softplus")
def softplus_op(call: Call) -> Result:
    """Softplus."""
    return softplus(call[0])


@kernel("Erf")
def erf_op(call: Call) -> Result:
    """Error function."""
    return erf(call[0])


@kernel("Gelu")
def gelu(call: Call) -> Result:
    """GELU, exact or by tanh."""
    x = call[0]
    if call.attr("approximate", "none") == "tanh":
        inner = math.sqrt(2 / math.pi) * (x + x.dtype.type(0.044715) * x * x * x)
        return (x * (1 + np.tanh(inner)) / 2).astype(x.dtype)
    return (x * (1 + erf(x / x.dtype.type(math.sqrt(2)))) / 2).astype(x.dtype)


@kernel("LeakyRelu", "PRelu", "ThresholdedRelu")
def sloped_relu(call: Call) -> Result:
    """ReLU variants with a slope or a threshold."""
    x = call[0]
    if call.node.op_type == "ThresholdedRelu":
        return np.where(x > call.attr("alpha", 1.0), x, np.zeros((), x.dtype))
    slope = call[1] if call.node.op_type == "PRelu" else np.asarray(call.attr("alpha", 0.01), x.dtype)
    return np.where(x < 0, slope * x, x)


@kernel("Elu", "Celu", "Selu")
def exponential_relu(call: Call) -> Result:
    """ELU variants."""
    x = call[0]
    selu = call.node.op_type == "Selu"
    alpha = x.dtype.type(call.attr("alpha", 1.6732632423543772 if selu else 1.0))
    below = np.minimum(x, 0)
    if call.node.op_type == "Celu":
        return np.maximum(x, 0) + alpha * np.expm1(below / alpha)
    gamma = x.dtype.type(call.attr("gamma", 1.0507009873554805)) if selu else x.dtype.type(1)
    return gamma * (np.maximum(x, 0) + alpha * np.expm1(below))


@kernel("HardSigmoid", "HardSwish")
def hard_sigmoid(call: Call) -> Result:
    """Piecewise linear sigmoid and swish."""
    x = call[0]
    swish = call.node.op_type == "HardSwish"
    alpha = x.dtype.type(1 / 6 if swish else call.attr("alpha", 0.2))
    beta = x.dtype.type(0.5 if swish else call.attr("beta", 0.5))
    gate = np.clip(alpha * x + beta, x.dtype.type(0), x.dtype.type(1))
    return x * gate if swish else gate


@kernel("Mish", "Swish")
def gated(call: Call) -> Result:
    """``x`` times a smooth gate."""
    x = call[0]
    if call.node.op_type == "Mish":
        return x * np.tanh(softplus(x))
    return x * sigmoid(x.dtype.type(call.attr("alpha", 1.0)) * x)


@kernel("Softmax", "LogSoftmax")
def softmax(call: Call) -> Result:
    """Softmax over ``axis``; before opset 13 over everything from ``axis`` on."""
    x = widened(call[0])
    shape = x.shape
    axis = call.attr("axis", -1 if call.opset >= 13 else 1)
    if call.opset < 13:
        x = x.reshape(math.prod(shape[: axis % max(len(shape), 1)]), -1)
        axis = 1
    shifted = x - x.max(axis=axis, keepdims=True)
    powers = np.exp(shifted)
    total = powers.sum(axis=axis, keepdims=True)
    y = shifted - np.log(total) if call.node.op_type == "LogSoftmax" else powers / total
    return y.reshape(shape).astype(call[0].dtype, copy=False)
