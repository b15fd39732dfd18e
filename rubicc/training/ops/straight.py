"""Straight-through estimators: what rounds forwards passes its gradient on backwards.

Sources: Bengio et al., arXiv 1308.3432 (straight-through); Esser et al., arXiv 1902.08153 (learned step
size, LSQ); QONNX's operator documentation (rounding modes, clamping before rounding).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def _away(x: Tensor) -> Tensor:
    return torch.sign(x) * torch.ceil(torch.abs(x))


def _half_up(x: Tensor) -> Tensor:
    return torch.sign(x) * torch.floor(torch.abs(x) + 0.5)


def _half_down(x: Tensor) -> Tensor:
    return torch.sign(x) * torch.ceil(torch.abs(x) - 0.5)


# The names and meanings of rubicc.ir.ops.quant.ROUNDING.
ROUNDING: dict[str, Callable[[Tensor], Tensor]] = {
    "ROUND": torch.round,
    "HALF_EVEN": torch.round,
    "CEIL": torch.ceil,
    "FLOOR": torch.floor,
    "UP": _away,
    "DOWN": torch.trunc,
    "ROUND_TO_ZERO": torch.trunc,
    "HALF_UP": _half_up,
    "HALF_DOWN": _half_down,
}


class _StraightThrough(torch.autograd.Function):
    """``function(x)`` forwards, the identity backwards."""

    @staticmethod
    def forward(ctx: Any, function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """See the class."""
        return function(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor]:
        """Gradients by argument."""
        return None, gradient


def straight_through(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """``function(x)`` whose gradient is that of ``x``."""
    return _StraightThrough.apply(function, x) if x.requires_grad else function(x)


class FakeQuantise(torch.autograd.Function):
    """``(round(clip(x / scale + zero)) - zero) * scale`` with a clipped straight-through gradient.

    ``x`` gets the gradient where it lies within the format's range widened by ``margin`` steps, none outside.
    ``scale`` gets, where asked for, LSQ's: ``q - x / scale`` within the range and the bound itself outside,
    times ``share``.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        scale: Tensor,
        zero: Tensor | float,
        low: Any,
        high: Any,
        rounding: Callable[[Tensor], Tensor],
        margin: float,
        share: float,
        decide: torch.dtype | None,
    ) -> Tensor:
        """See the class."""
        narrow = decide is not None and decide != x.dtype
        levels = (x.to(decide) / scale.to(decide)) if narrow else x / scale
        shifted = isinstance(zero, Tensor) or zero != 0.0
        if shifted:
            levels = levels + (zero.to(levels.dtype) if isinstance(zero, Tensor) else zero)
        needs_x, needs_scale = ctx.needs_input_grad[:2]
        inside = (levels >= low - margin) & (levels <= high + margin) if needs_x or needs_scale else None
        whole = rounding(levels.clamp(low, high) if needs_scale else levels.clamp_(low, high))
        step = None
        if needs_scale and inside is not None:
            step = torch.where(inside, whole - levels, whole - zero if shifted else whole)
        if narrow:
            whole = whole.to(x.dtype)
        ctx.share = share
        ctx.scale_shape = scale.shape
        ctx.save_for_backward(inside if needs_x else None, step)
        return (whole - zero if shifted else whole) * scale

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
        """Gradients by argument."""
        inside, step = ctx.saved_tensors
        to_x = torch.where(inside, gradient, 0.0) if inside is not None else None
        to_scale = None
        if step is not None:
            to_scale = ((gradient * step).sum_to_size(ctx.scale_shape) * ctx.share).to(gradient.dtype)
        return to_x, to_scale, None, None, None, None, None, None, None


class FakeSign(torch.autograd.Function):
    """``scale`` where ``x >= 0`` else ``-scale``.

    ``x`` gets the gradient within ``|x| <= scale``; ``scale`` gets LSQ's.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, zero: Tensor | float, share: float) -> Tensor:
        """See the class."""
        levels = x / scale + zero
        sign = torch.where(levels >= 0, 1.0, -1.0).to(x.dtype) - zero
        needs_x, needs_scale = ctx.needs_input_grad[:2]
        ctx.share, ctx.scale_shape = share, scale.shape
        ctx.save_for_backward(levels.abs() <= 1 if needs_x else None, sign if needs_scale else None)
        return sign * scale

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
        """Gradients by argument."""
        inside, sign = ctx.saved_tensors
        to_x = torch.where(inside, gradient, 0.0) if inside is not None else None
        to_scale = None if sign is None else (gradient * sign).sum_to_size(ctx.scale_shape) * ctx.share
        return to_x, to_scale, None, None


class Positive(torch.autograd.Function):
    """A learned scale as it is used: its size, never below ``floor``; the gradient passes through."""

    @staticmethod
    def forward(ctx: Any, scale: Tensor, floor: Tensor) -> Tensor:
        """See the class."""
        ctx.save_for_backward(scale)
        return torch.maximum(scale.abs(), floor)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        """Gradients by argument."""
        (scale,) = ctx.saved_tensors
        return torch.where(scale < 0, -gradient, gradient), None
