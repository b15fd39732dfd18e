"""Operators that work element by element, with broadcasting.

Formulas: coremltools' operator definitions, iOS15/elementwise_unary.py, elementwise_binary.py, activation.py
and their iOS17 versions.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from rubicc.backends.coreml.run.kernels.registry import Context, kernel

Tensor = torch.Tensor

UNARY: dict[str, Callable[[Tensor], Tensor]] = {
    "abs": torch.abs,
    "acos": torch.acos,
    "asin": torch.asin,
    "atan": torch.atan,
    "atanh": torch.atanh,
    "ceil": torch.ceil,
    "cos": torch.cos,
    "cosh": torch.cosh,
    "erf": torch.erf,
    "exp": torch.exp,
    "exp2": torch.exp2,
    "floor": torch.floor,
    "logical_not": torch.logical_not,
    "relu": torch.relu,
    # Half goes to the even neighbour, as in numpy, which coremltools evaluates it with.
    "round": torch.round,
    "sigmoid": torch.sigmoid,
    "sign": torch.sign,
    "silu": torch.nn.functional.silu,
    "sin": torch.sin,
    "sinh": torch.sinh,
    "softsign": torch.nn.functional.softsign,
    "sqrt": torch.sqrt,
    "square": torch.square,
    "tan": torch.tan,
    "tanh": torch.tanh,
    "relu6": lambda x: torch.clamp(x, 0, 6),
    "softplus": lambda x: torch.log1p(torch.exp(-torch.abs(x))) + torch.relu(x),
}


def _unary(name: str, compute: Callable[[Tensor], Tensor]) -> None:
    @kernel(name)
    def run(c: Context, *, x: Tensor) -> Tensor:
        return compute(x)


for _name, _compute in UNARY.items():
    _unary(_name, _compute)


def floor_div(x: Tensor, y: Tensor) -> Tensor:
    """Quotient rounded towards minus infinity."""
    return torch.div(x, y, rounding_mode="floor")


def real_div(x: Tensor, y: Tensor) -> Tensor:
    """Quotient; of whole numbers, rounded towards zero."""
    return torch.div(x, y, rounding_mode=None if x.is_floating_point() else "trunc")


BINARY: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "add": torch.add,
    "sub": torch.sub,
    "mul": torch.mul,
    "real_div": real_div,
    "floor_div": floor_div,
    "mod": torch.remainder,
    "pow": torch.pow,
    "maximum": torch.maximum,
    "minimum": torch.minimum,
    "equal": torch.eq,
    "not_equal": torch.ne,
    "less": torch.lt,
    "less_equal": torch.le,
    "greater": torch.gt,
    "greater_equal": torch.ge,
    "logical_and": torch.logical_and,
    "logical_or": torch.logical_or,
    "logical_xor": torch.logical_xor,
}


def _binary(name: str, compute: Callable[[Tensor, Tensor], Tensor]) -> None:
    @kernel(name, same="x y")
    def run(c: Context, *, x: Tensor, y: Tensor) -> Tensor:
        c.broadcast(x, y)
        return compute(x, y)


for _name, _both in BINARY.items():
    _binary(_name, _both)


@kernel("clip", host="alpha beta")
def clip(c: Context, *, x: Tensor, alpha: float, beta: float) -> Tensor:
    """Into ``[alpha, beta]``."""
    return torch.clamp(x, alpha, beta)


@kernel("threshold", host="alpha")
def threshold(c: Context, *, x: Tensor, alpha: float) -> Tensor:
    """At least ``alpha``."""
    return torch.clamp_min(x, alpha)


@kernel("inverse", host="epsilon")
def inverse(c: Context, *, x: Tensor, epsilon: float = 1e-4) -> Tensor:
    """``1 / (x + epsilon)``."""
    return torch.reciprocal(x + epsilon)


@kernel("log", host="epsilon")
def log(c: Context, *, x: Tensor, epsilon: float = 0.0) -> Tensor:
    """``log(x + epsilon)``; the default, 1e-45, is 0 for every float of a tensor."""
    return torch.log(x + epsilon)


@kernel("rsqrt", host="epsilon")
def rsqrt(c: Context, *, x: Tensor, epsilon: float | None = None) -> Tensor:
    """``1 / sqrt(x + epsilon)``; the default, 1e-12, is 0 in fp16."""
    if epsilon is None:
        epsilon = 0.0 if c.dtype == "fp16" else 1e-12
    return torch.rsqrt(x + epsilon)


@kernel("cast", host="dtype")
def cast(c: Context, *, x: Tensor, dtype: str) -> Tensor:
    """Another element type: towards zero from float to whole, held inside the range of the type."""
    if dtype != c.dtype:
        raise ValueError(f"cast to {dtype}, declared {c.dtype}")
    to = c.held(dtype)
    if dtype == "bool":
        return x != 0
    if x.is_floating_point() and not to.is_floating_point:
        low, high = RANGES[dtype]
        return torch.nan_to_num(x.double(), nan=0.0).clamp(low, high).to(to)
    if dtype in RANGES and not to.is_floating_point and x.dtype != torch.bool:
        low, high = RANGES[dtype]
        return x.long().clamp(low, high).to(to)
    return x.to(to)


RANGES = {
    **{f"int{bits}": (-(1 << bits - 1), (1 << bits - 1) - 1) for bits in (8, 16, 32)},
    **{f"uint{bits}": (0, (1 << bits) - 1) for bits in (8, 16, 32)},
}


@kernel("select", same="a b")
def select(c: Context, *, cond: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """``a`` where ``cond``, else ``b``."""
    c.broadcast(cond, a, b)
    return torch.where(cond, a, b)


@kernel("gelu", host="mode")
def gelu(c: Context, *, x: Tensor, mode: str = "EXACT") -> Tensor:
    """Gaussian error linear unit, exact or one of two approximations."""
    if mode == "EXACT":
        return torch.nn.functional.gelu(x)
    if mode == "TANH_APPROXIMATION":
        return torch.nn.functional.gelu(x, approximate="tanh")
    if mode == "SIGMOID_APPROXIMATION":
        return x * torch.sigmoid(1.702 * x)
    raise ValueError(f"mode {mode}")


@kernel("elu", host="alpha")
def elu(c: Context, *, x: Tensor, alpha: float) -> Tensor:
    """``x`` above zero, ``alpha * (exp(x) - 1)`` below."""
    return torch.where(x > 0, x, alpha * torch.expm1(x))


@kernel("leaky_relu", host="alpha")
def leaky_relu(c: Context, *, x: Tensor, alpha: float) -> Tensor:
    """``x`` above zero, ``alpha * x`` below."""
    return torch.where(x >= 0, x, alpha * x)


@kernel("clamped_relu", host="alpha beta")
def clamped_relu(c: Context, *, x: Tensor, alpha: float, beta: float) -> Tensor:
    """Leaky ReLU, at most ``beta``."""
    return torch.clamp_max(torch.where(x >= 0, x, alpha * x), beta)


@kernel("linear_activation", host="alpha beta")
def linear_activation(c: Context, *, x: Tensor, alpha: float, beta: float) -> Tensor:
    """``alpha * x + beta``."""
    return alpha * x + beta


@kernel("scaled_tanh", host="alpha beta")
def scaled_tanh(c: Context, *, x: Tensor, alpha: float, beta: float) -> Tensor:
    """``alpha * tanh(beta * x)``."""
    return alpha * torch.tanh(beta * x)


@kernel("sigmoid_hard", host="alpha beta")
def sigmoid_hard(c: Context, *, x: Tensor, alpha: float, beta: float) -> Tensor:
    """``alpha * x + beta`` inside 0 and 1."""
    return torch.clamp(alpha * x + beta, 0, 1)


@kernel("thresholded_relu", host="alpha")
def thresholded_relu(c: Context, *, x: Tensor, alpha: float) -> Tensor:
    """``x`` from ``alpha`` on, zero below."""
    return torch.where(x >= alpha, x, torch.zeros_like(x))


@kernel("prelu")
def prelu(c: Context, *, x: Tensor, alpha: Tensor) -> Tensor:
    """Leaky ReLU with one slope per channel (axis 1)."""
    return torch.relu(x) + torch.clamp_max(x, 0) * per_channel(alpha, x)


@kernel("softplus_parametric")
def softplus_parametric(c: Context, *, x: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    """``alpha * log(1 + exp(beta * x))``, one pair per channel (axis 1)."""
    scaled = x * per_channel(beta, x)
    return per_channel(alpha, x) * (torch.log1p(torch.exp(-torch.abs(scaled))) + torch.relu(scaled))


def per_channel(values: Tensor, x: Tensor) -> Tensor:
    """A vector laid along axis 1 of ``x``."""
    if values.dim() != 1 or x.dim() < 2 or values.shape[0] != x.shape[1]:
        raise ValueError(f"{tuple(values.shape)} values for the channels of {tuple(x.shape)}")
    return values.reshape(1, -1, *[1] * (x.dim() - 2))


@kernel("quantize", host="axis output_dtype")
def quantize(
    c: Context,
    *,
    input: Tensor,
    scale: Tensor,
    output_dtype: str,
    zero_point: Tensor | None = None,
    axis: int | None = None,
) -> Tensor:
    """``round(input / scale) + zero_point`` inside the range of the type; half goes to even."""
    low, high = RANGES[output_dtype]
    codes = torch.round(input / along(scale, input, axis))
    if zero_point is not None:
        codes = codes + along(zero_point, input, axis).to(codes.dtype)
    return torch.nan_to_num(codes, nan=0.0).clamp(low, high).to(c.held(output_dtype))


@kernel("dequantize", host="axis")
def dequantize(
    c: Context, *, input: Tensor, scale: Tensor, zero_point: Tensor | None = None, axis: int | None = None
) -> Tensor:
    """``scale * (input - zero_point)``."""
    codes = input.to(c.float)
    if zero_point is not None:
        codes = codes - along(zero_point, input, axis).to(c.float)
    return codes * along(scale, input, axis)


def along(values: Tensor, x: Tensor, axis: int | None) -> Tensor:
    """A scalar, or a vector laid along one axis of ``x``."""
    if values.dim() == 0:
        return values
    if values.dim() != 1 or axis is None or values.shape[0] != x.shape[axis]:
        raise ValueError(f"{tuple(values.shape)} values along axis {axis} of {tuple(x.shape)}")
    shape = [1] * x.dim()
    shape[axis] = -1
    return values.reshape(shape)


@kernel("softmax", host="axis")
def softmax(c: Context, *, x: Tensor, axis: int = -1) -> Tensor:
    """Exponentials that sum to one along an axis."""
    return torch.softmax(x, axis)
