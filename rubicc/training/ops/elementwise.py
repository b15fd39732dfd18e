"""Arithmetic, comparison, activations, casts and selections."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from rubicc.training.ops.registry import BUILDERS, Run, Site, op
from rubicc.training.ops.straight import straight_through

_UNARY: dict[str, Callable[..., Tensor]] = {
    "Neg": torch.neg,
    "Abs": torch.abs,
    "Sqrt": torch.sqrt,
    "Exp": torch.exp,
    "Log": torch.log,
    "Sin": torch.sin,
    "Cos": torch.cos,
    "Tan": torch.tan,
    "Asin": torch.asin,
    "Acos": torch.acos,
    "Atan": torch.atan,
    "Sinh": torch.sinh,
    "Cosh": torch.cosh,
    "Asinh": torch.asinh,
    "Acosh": torch.acosh,
    "Atanh": torch.atanh,
    "Tanh": torch.tanh,
    "Floor": partial(straight_through, torch.floor),
    "Ceil": partial(straight_through, torch.ceil),
    "Round": partial(straight_through, torch.round),
    "Sign": torch.sign,
    "Reciprocal": torch.reciprocal,
    "IsNaN": torch.isnan,
    "Not": torch.logical_not,
    "BitwiseNot": torch.bitwise_not,
    "Softsign": functional.softsign,
    "Sigmoid": torch.sigmoid,
    "Softplus": lambda x: torch.logaddexp(x, torch.zeros((), dtype=x.dtype, device=x.device)),
    "Erf": torch.erf,
    "Mish": functional.mish,
    "HardSwish": functional.hardswish,
    "Identity": lambda x: x,
    "rubicc::Silu": functional.silu,
}

_BINARY: dict[str, Callable[..., Tensor]] = {
    "Add": torch.add,
    "Sub": torch.sub,
    "Mul": torch.mul,
    "And": torch.logical_and,
    "Or": torch.logical_or,
    "Xor": torch.logical_xor,
    "Equal": torch.eq,
    "Less": torch.lt,
    "Greater": torch.gt,
    "LessOrEqual": torch.le,
    "GreaterOrEqual": torch.ge,
    "BitwiseAnd": torch.bitwise_and,
    "BitwiseOr": torch.bitwise_or,
    "BitwiseXor": torch.bitwise_xor,
    "PRelu": lambda x, slope: torch.where(x < 0, slope * x, x),
}


def _plain(function: Run) -> Callable[[Site], Run]:
    return lambda site: function


BUILDERS.update({name: _plain(function) for name, function in (_UNARY | _BINARY).items()})


@op("Relu")
def relu(site: Site) -> Run:
    """In place where nothing else needs the input: its own backward reads the result only."""
    return torch.relu_ if site.consumed else torch.relu


@op("Div")
def div(site: Site) -> Run:
    """Quotient; integers round towards zero."""
    if site.tensor_of(0).is_floating_point():
        return torch.div
    return partial(torch.div, rounding_mode="trunc")


@op("Mod")
def mod(site: Site) -> Run:
    """Remainder with the divisor's sign, or the dividend's under ``fmod``."""
    return torch.fmod if site.attr("fmod", 0) else torch.remainder


@op("Pow")
def power(site: Site) -> Run:
    """Power in the base's type; a known exponent is a number, which has faster derivatives."""
    known, base = site.known(1), site.tensor_of(0).dtype
    if known is not None and known.size == 1:
        number = known.reshape(-1)[0].item()
        return lambda x, _: torch.pow(x, number).to(base)
    return lambda x, exponent: torch.pow(x, exponent).to(base)


@op("BitShift")
def bit_shift(site: Site) -> Run:
    """Logical shift of unsigned integers."""
    return torch.bitwise_left_shift if site.attr("direction") == "LEFT" else torch.bitwise_right_shift


@op("Sum", "Mean", "Max", "Min")
def variadic(site: Site) -> Run:
    """Sum, mean, maximum or minimum over the inputs."""
    kind, count = site.node.op_type, len(site.tensors)
    fold = {"Max": torch.maximum, "Min": torch.minimum}.get(kind, torch.add)

    def run(first: Tensor, *others: Tensor) -> Tensor:
        for other in others:
            first = fold(first, other)
        return first / count if kind == "Mean" else first

    return run


@op("Clip")
def clip(site: Site) -> Run:
    """Clamp; bounds are numbers where they are known."""
    if any(site.has(i) and site.known(i) is None for i in (1, 2)):
        return lambda x, low=None, high=None: torch.clamp(x, low, high)
    low, high = site.scalar("min", 1), site.scalar("max", 2)
    if low is None and high is None:
        return lambda x, *_: x
    bounds = [
        None if bound is None else bound.item() if hasattr(bound, "item") else bound for bound in (low, high)
    ]
    return lambda x, *_: torch.clamp(x, *bounds)


@op("Where")
def where(site: Site) -> Run:
    """Select."""
    return torch.where


@op("IsInf")
def is_inf(site: Site) -> Run:
    """Infinities of the asked signs."""
    up, down = bool(site.attr("detect_positive", 1)), bool(site.attr("detect_negative", 1))
    if up and down:
        return torch.isinf
    return (
        torch.isposinf
        if up
        else torch.isneginf
        if down
        else (lambda x: torch.zeros_like(x, dtype=torch.bool))
    )


@op("Cast", "CastLike")
def cast(site: Site) -> Run:
    """Conversion; float to integer truncates, floats stay in the twin's type."""
    target = site.tensor_of(1).dtype if site.node.op_type == "CastLike" else site.torch_dtype(site.attr("to"))
    return lambda x, *_: x.to(target)


@op("Gelu")
def gelu(site: Site) -> Run:
    """GELU, exact or by tanh."""
    return partial(functional.gelu, approximate=site.attr("approximate", "none"))


@op("LeakyRelu", "ThresholdedRelu", "Elu", "Celu", "Selu", "HardSigmoid", "Swish")
def parametric(site: Site) -> Run:
    """Activations with numbers as attributes."""
    kind, alpha = site.node.op_type, site.attr("alpha")
    if kind == "LeakyRelu":
        return partial(functional.leaky_relu, negative_slope=0.01 if alpha is None else alpha)
    if kind == "ThresholdedRelu":
        return partial(functional.threshold, threshold=1.0 if alpha is None else alpha, value=0.0)
    if kind == "Elu":
        return partial(functional.elu, alpha=1.0 if alpha is None else alpha)
    if kind == "Celu":
        return partial(functional.celu, alpha=1.0 if alpha is None else alpha)
    if kind == "Selu":
        slope = 1.6732632423543772 if alpha is None else alpha
        gain = site.attr("gamma", 1.0507009873554805)
        return lambda x: gain * functional.elu(x, slope)
    if kind == "HardSigmoid":
        slope, shift = 0.2 if alpha is None else alpha, site.attr("beta", 0.5)
        return lambda x: torch.clamp(slope * x + shift, 0.0, 1.0)
    if alpha is None or alpha == 1.0:
        return functional.silu
    return lambda x: x * torch.sigmoid(alpha * x)


@op("Softmax", "LogSoftmax")
def softmax(site: Site) -> Run:
    """Softmax over ``axis``; before opset 13 over everything from ``axis`` on."""
    function = functional.softmax if site.node.op_type == "Softmax" else functional.log_softmax
    axis = site.attr("axis", -1 if site.opset >= 13 else 1)
    if site.opset >= 13:
        return partial(function, dim=axis)
    shape = tuple(site.tensor_of(0).shape)
    rows = math.prod(shape[: axis % max(len(shape), 1)])
    return lambda x: function(x.reshape(rows, -1), dim=1).reshape(shape)
