"""Normalisation, pooling and reductions.

Sources: coremltools' definitions iOS15/normalization.py, iOS15/pool.py, iOS15/reduction.py.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn import functional as F

from rubicc.backends.coreml.run.kernels.elementwise import per_channel
from rubicc.backends.coreml.run.kernels.linear import around, filled, pads_of
from rubicc.backends.coreml.run.kernels.registry import Context, axes_of, axis_of, kernel

Tensor = torch.Tensor


@kernel("batch_norm", host="epsilon")
def batch_norm(
    c: Context,
    *,
    x: Tensor,
    mean: Tensor,
    variance: Tensor,
    gamma: Tensor | None = None,
    beta: Tensor | None = None,
    epsilon: float = 1e-5,
) -> Tensor:
    """``gamma * (x - mean) / sqrt(variance + epsilon) + beta`` per channel (axis 1)."""
    made = (x - per_channel(mean, x)) / torch.sqrt(per_channel(variance, x) + epsilon)
    return scaled(made, x, gamma, beta)


@kernel("instance_norm", host="epsilon")
def instance_norm(
    c: Context, *, x: Tensor, gamma: Tensor | None = None, beta: Tensor | None = None, epsilon: float = 1e-5
) -> Tensor:
    """Every channel of every item to mean 0 and variance 1 over the spatial axes."""
    return scaled(centred(x, tuple(range(2, x.dim())), epsilon), x, gamma, beta)


def scaled(made: Tensor, x: Tensor, gamma: Tensor | None, beta: Tensor | None) -> Tensor:
    """Scale and shift per channel."""
    if gamma is not None:
        made = made * per_channel(gamma, x)
    return made if beta is None else made + per_channel(beta, x)


def centred(x: Tensor, axes: tuple[int, ...], epsilon: float) -> Tensor:
    """Mean 0 and variance 1 (of the population) over ``axes``."""
    difference = x - x.mean(axes, keepdim=True)
    return difference / torch.sqrt(difference.square().mean(axes, keepdim=True) + epsilon)


@kernel("layer_norm", host="axes epsilon")
def layer_norm(
    c: Context,
    *,
    x: Tensor,
    axes: list[int] | None = None,
    gamma: Tensor | None = None,
    beta: Tensor | None = None,
    epsilon: float = 1e-5,
) -> Tensor:
    """Mean 0 and variance 1 over ``axes``; gamma and beta have the shape of these axes."""
    over = axes_of(axes, x.dim())
    shape = [x.shape[axis] if axis in over else 1 for axis in range(x.dim())]
    made = centred(x, over, epsilon)
    if gamma is not None:
        made = made * gamma.reshape(shape)
    return made if beta is None else made + beta.reshape(shape)


@kernel("l2_norm", host="epsilon")
def l2_norm(c: Context, *, x: Tensor, epsilon: float = 1e-6) -> Tensor:
    """Divided by the root of the sum of squares over the last three axes."""
    if x.dim() < 3:
        raise ValueError(f"{x.dim()} axes")
    return x / torch.sqrt(x.square().sum((-3, -2, -1), keepdim=True) + epsilon)


@kernel("local_response_norm", host="size alpha beta k")
def local_response_norm(
    c: Context, *, x: Tensor, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0
) -> Tensor:
    """Divided by ``(k + alpha / size * sum of squares of neighbouring channels) ** beta``."""
    return F.local_response_norm(x, size, alpha, beta, k)


MAX_POOLS = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
MEAN_POOLS = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}
POOL_HOST = "kernel_sizes strides pad_type pad ceil_mode"


class Window:
    """Windows of a pooling operator over padded input."""

    def __init__(
        self,
        c: Context,
        x: Tensor,
        kernel_sizes: list[int],
        strides: list[int] | None,
        pad_type: str,
        pad: list[int] | None,
        ceil_mode: bool,
    ) -> None:
        count = x.dim() - 2
        self.sizes = filled(kernel_sizes, 1, count)
        self.strides = filled(strides, 1, count)
        self.pads = pads_of(pad_type, pad, x.shape[2:], self.sizes, self.strides)
        # With ceil_mode the last window may hang over; one that begins in the padding is dropped.
        self.hanging = []
        for size, window, stride, (before, after) in zip(
            x.shape[2:], self.sizes, self.strides, self.pads, strict=True
        ):
            room = size + before + after - window
            if room < 0:
                raise ValueError(f"window {window} over {size} padded by {before}, {after}")
            steps = -(-room // stride) if ceil_mode else room // stride
            if ceil_mode and steps * stride >= size + before and before + after > 0:
                steps -= 1
            self.hanging.append(max(0, steps * stride - room))
        self.context = c

    def padded(self, x: Tensor, value: float, hanging: float | None = None) -> Tensor:
        """Input with pads of ``value`` and the part under hanging windows filled with ``hanging``."""
        extra = [(0, over) for over in self.hanging]
        if any(pair != (0, 0) for pair in self.pads):
            x = F.pad(x, around(self.context, x, self.pads), value=value)
        if any(self.hanging):
            x = F.pad(x, around(self.context, x, extra), value=value if hanging is None else hanging)
        return x


@kernel("max_pool", host=POOL_HOST)
def max_pool(
    c: Context,
    *,
    x: Tensor,
    kernel_sizes: list[int],
    pad_type: str,
    strides: list[int] | None = None,
    pad: list[int] | None = None,
    ceil_mode: bool = False,
) -> Tensor:
    """Largest value of every window; padding never wins."""
    window = Window(c, x, kernel_sizes, strides, pad_type, pad, ceil_mode)
    return MAX_POOLS[x.dim() - 2](window.padded(x, -torch.inf), window.sizes, window.strides)


@kernel("avg_pool", host=POOL_HOST + " exclude_padding_from_average")
def avg_pool(
    c: Context,
    *,
    x: Tensor,
    kernel_sizes: list[int],
    pad_type: str,
    strides: list[int] | None = None,
    pad: list[int] | None = None,
    ceil_mode: bool = False,
    exclude_padding_from_average: bool = False,
) -> Tensor:
    """Mean of every window: over real elements only, or padding counted as zeros."""
    window = Window(c, x, kernel_sizes, strides, pad_type, pad, ceil_mode)
    mean = MEAN_POOLS[x.dim() - 2]
    made = mean(window.padded(x, 0.0), window.sizes, window.strides)
    counted = 0.0 if exclude_padding_from_average else 1.0
    ones = torch.ones((1, 1, *x.shape[2:]), dtype=x.dtype)
    return made / mean(window.padded(ones, counted, 0.0), window.sizes, window.strides)


@kernel("l2_pool", host=POOL_HOST)
def l2_pool(
    c: Context,
    *,
    x: Tensor,
    kernel_sizes: list[int],
    pad_type: str,
    strides: list[int] | None = None,
    pad: list[int] | None = None,
    ceil_mode: bool = False,
) -> Tensor:
    """Root of the sum of squares of every window."""
    window = Window(c, x, kernel_sizes, strides, pad_type, pad, ceil_mode)
    mean = MEAN_POOLS[x.dim() - 2](window.padded(x.square(), 0.0), window.sizes, window.strides)
    return torch.sqrt(mean * torch.Size(window.sizes).numel())


def mean_of(x: Tensor, axes: tuple[int, ...], keep: bool) -> Tensor:
    """Mean; of whole numbers, rounded towards zero."""
    if x.is_floating_point():
        return x.mean(axes, keepdim=keep)
    return x.double().mean(axes, keepdim=keep).trunc().to(x.dtype)


def product_of(x: Tensor, axes: tuple[int, ...], keep: bool) -> Tensor:
    """Product over several axes."""
    for axis in reversed(axes):
        x = x.prod(axis, keepdim=keep)
    return x


REDUCTIONS: dict[str, Callable[[Tensor, tuple[int, ...], bool], Tensor]] = {
    "reduce_sum": lambda x, axes, keep: x.sum(axes, keepdim=keep),
    "reduce_mean": mean_of,
    "reduce_max": lambda x, axes, keep: x.amax(axes, keepdim=keep),
    "reduce_min": lambda x, axes, keep: x.amin(axes, keepdim=keep),
    "reduce_prod": product_of,
    "reduce_l1_norm": lambda x, axes, keep: x.abs().sum(axes, keepdim=keep),
    "reduce_l2_norm": lambda x, axes, keep: x.square().sum(axes, keepdim=keep).sqrt(),
    "reduce_log_sum": lambda x, axes, keep: x.sum(axes, keepdim=keep).log(),
    "reduce_log_sum_exp": lambda x, axes, keep: x.logsumexp(axes, keepdim=keep),
    "reduce_sum_square": lambda x, axes, keep: x.square().sum(axes, keepdim=keep),
}


def _reduction(name: str, compute: Callable[[Tensor, tuple[int, ...], bool], Tensor]) -> None:
    @kernel(name, host="axes keep_dims")
    def run(c: Context, *, x: Tensor, axes: list[int] | None = None, keep_dims: bool = False) -> Tensor:
        over = axes_of(axes, x.dim())
        return compute(x, over, keep_dims) if over else compute(x.reshape(1), (0,), False)


for _name, _compute in REDUCTIONS.items():
    _reduction(_name, _compute)


@kernel("reduce_argmax", host="axis keep_dims output_dtype")
def argmax(
    c: Context, *, x: Tensor, axis: int = -1, keep_dims: bool = False, output_dtype: str = "int32"
) -> Tensor:
    """Place of the largest value along an axis."""
    return x.argmax(axis_of(axis, x.dim()), keepdim=keep_dims).to(c.held(output_dtype))


@kernel("reduce_argmin", host="axis keep_dims output_dtype")
def argmin(
    c: Context, *, x: Tensor, axis: int = -1, keep_dims: bool = False, output_dtype: str = "int32"
) -> Tensor:
    """Place of the smallest value along an axis."""
    return x.argmin(axis_of(axis, x.dim()), keepdim=keep_dims).to(c.held(output_dtype))
