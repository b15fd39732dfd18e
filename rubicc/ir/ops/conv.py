"""Convolution and pooling over any number of spatial axes, by strided windows and BLAS."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.lib.stride_tricks import as_strided

from rubicc.ir.ops.registry import Array, Call, KernelError, Result, kernel, widened

_BLOCK_BYTES = 16 << 20  # unfolded windows are made in blocks of this size, which bounds memory
_FEW, _LONG = (
    64,
    8,
)  # fewer outputs in a group make products too thin for BLAS; shorter kernels unfold cheaply


def spatial_attrs(call: Call, kernel_shape: Sequence[int]) -> tuple[list[int], list[int]]:
    """Strides and dilations, with their defaults of 1."""
    ones = [1] * len(kernel_shape)
    return list(call.attr("strides", ones)), list(call.attr("dilations", ones))


def padding(
    call: Call, size: Sequence[int], kernel_shape: Sequence[int], strides: list[int], dilations: list[int]
) -> tuple[list[int], list[int]]:
    """Padding at the begin and end of every spatial axis, ``auto_pad`` resolved."""
    rank = len(kernel_shape)
    mode = call.attr("auto_pad", "NOTSET")
    if mode == "NOTSET":
        pads = list(call.attr("pads", [0] * (2 * rank)))
        return pads[:rank], pads[rank:]
    if mode == "VALID":
        return [0] * rank, [0] * rank
    begins, ends = [], []
    for n, k, s, d in zip(size, kernel_shape, strides, dilations, strict=True):
        total = max((-(-n // s) - 1) * s + (k - 1) * d + 1 - n, 0)
        small, large = total // 2, total - total // 2
        begins.append(small if mode == "SAME_UPPER" else large)
        ends.append(large if mode == "SAME_UPPER" else small)
    return begins, ends


def padded(x: Array, begins: Sequence[int], ends: Sequence[int], value: float = 0.0) -> Array:
    """``x`` (N, C, spatial...) padded on its spatial axes; negative padding crops."""
    cut = tuple(slice(max(-b, 0), n - max(-e, 0)) for n, b, e in zip(x.shape[2:], begins, ends, strict=True))
    x = x[(slice(None), slice(None), *cut)]
    if not any(b > 0 or e > 0 for b, e in zip(begins, ends, strict=True)):
        return x
    widths = [(0, 0), (0, 0)] + [(max(b, 0), max(e, 0)) for b, e in zip(begins, ends, strict=True)]
    return np.pad(x, widths, constant_values=value)


def windows(x: Array, kernel_shape: Sequence[int], strides: Sequence[int], dilations: Sequence[int]) -> Array:
    """View (N, C, *kernel, *out) of all windows of ``x`` (N, C, *spatial)."""
    out = [
        (n - (k - 1) * d - 1) // s + 1
        for n, k, s, d in zip(x.shape[2:], kernel_shape, strides, dilations, strict=True)
    ]
    if min(out, default=1) < 1:
        raise KernelError(f"kernel {list(kernel_shape)} does not fit into {list(x.shape[2:])}")
    steps = x.strides[2:]
    return as_strided(
        x,
        x.shape[:2] + tuple(kernel_shape) + tuple(out),
        x.strides[:2]
        + tuple(st * d for st, d in zip(steps, dilations, strict=True))
        + tuple(st * s for st, s in zip(steps, strides, strict=True)),
        writeable=False,
    )


def convolve(
    x: Array, weight: Array, bias: Array | None, strides: list[int], dilations: list[int], groups: int
) -> Array:
    """Convolve padded ``x`` (N, C, *spatial) with ``weight`` (M, C/groups, *kernel) -> (N, M, *out)."""
    kernel_shape = weight.shape[2:]
    rank, m, per_group = len(kernel_shape), weight.shape[0], weight.shape[1]
    if x.shape[1] != per_group * groups or m % groups:
        raise KernelError(f"input channels {x.shape[1]}, weight {weight.shape} and group {groups} disagree")
    batch = x.shape[0]
    if rank == 1 and strides == dilations == [1] and kernel_shape[0] >= _LONG and m // groups < _FEW:
        return _in_phases(x, weight, bias, groups)
    view = windows(x, kernel_shape, strides, dilations)
    out = view.shape[2 + rank :]
    taps = per_group * math.prod(kernel_shape)
    flat = np.ascontiguousarray(weight).reshape(groups, m // groups, taps)
    result = np.empty((batch, groups, m // groups, *out), x.dtype)
    longest = int(np.argmax(out))  # cut along it: a network over time may have a first axis of 1
    unit_bytes = x.shape[1] * math.prod(kernel_shape) * math.prod(out) // out[longest] * x.itemsize
    step = max(1, _BLOCK_BYTES // max(1, unit_bytes))
    for n in range(batch):
        for start in range(0, out[longest], step):
            stop = min(start + step, out[longest])
            cut = [slice(None)] * rank
            cut[longest] = slice(start, stop)
            columns = view[n][(*[slice(None)] * (1 + rank), *cut)].reshape(groups, taps, -1)
            sizes = [stop - start if axis == longest else size for axis, size in enumerate(out)]
            product = np.matmul(flat, columns).reshape(groups, m // groups, *sizes)
            where: tuple[slice, ...] = (slice(None), slice(None), *cut)
            result[n][where] = product
    result = result.reshape(batch, m, *out)
    if bias is not None:
        result += bias.reshape(1, m, *[1] * rank)
    return result


def _in_phases(x: Array, weight: Array, bias: Array | None, groups: int) -> Array:
    """Convolve ``x`` (N, C, T) at stride 1 where a group has few outputs: s frames are rows of one product.

    A row per output alone makes thin products and unfolds every sample k times. With the kernel written
    s times, each one frame later, in a banded matrix (outputs * s, inputs * (k + s - 1)), products are
    s times as high and samples unfolded (k + s - 1) / s times, for (k + s - 1) / k of the multiplications.
    """
    batch, _, length = x.shape
    m, inputs, k = weight.shape
    frames = length - k + 1
    if frames < 1:
        raise KernelError(f"kernel {[k]} does not fit into {[length]}")
    s = min(max(4, k // 4), frames)
    blocks, reach = -(-frames // s), k + s - 1
    if not np.isfinite(x).all():  # zeros of the band would spread what is not finite
        s, blocks, reach = 1, frames, k
    band = np.zeros((groups, m // groups, s, inputs, reach), x.dtype)
    for phase in range(s):
        band[:, :, phase, :, phase : phase + k] = weight.reshape(groups, m // groups, inputs, k)
    band = band.reshape(groups, m // groups * s, inputs * reach)
    x = np.pad(x, [(0, 0), (0, 0), (0, blocks * s + k - 1 - length)])
    view = windows(x, [reach], [s], [1])  # (N, C, reach, blocks)
    result = np.empty((batch, groups, m // groups, blocks, s), x.dtype)
    step = max(1, _BLOCK_BYTES // (inputs * reach * blocks * x.itemsize))
    for n in range(batch):
        for first in range(0, groups, step):
            last = min(first + step, groups)
            columns = view[n, first * inputs : last * inputs].reshape(last - first, inputs * reach, blocks)
            product = np.matmul(band[first:last], columns).reshape(last - first, m // groups, s, blocks)
            result[n, first:last] = product.swapaxes(-1, -2)
    out = result.reshape(batch, m, blocks * s)[:, :, :frames]
    return np.ascontiguousarray(out) if bias is None else out + bias.reshape(1, m, 1)


@kernel("Conv")
def conv(call: Call) -> Result:
    """Grouped, strided, dilated convolution."""
    x, weight = widened(call[0]), widened(call[1])
    kernel_shape = weight.shape[2:]
    strides, dilations = spatial_attrs(call, kernel_shape)
    begins, ends = padding(call, x.shape[2:], kernel_shape, strides, dilations)
    bias = call.get(2)
    y = convolve(padded(x, begins, ends), weight, bias, strides, dilations, call.attr("group", 1))
    return y.astype(call[0].dtype, copy=False)


@kernel("ConvInteger")
def conv_integer(call: Call) -> Result:
    """int8/uint8 convolution accumulated in int32; exact in float64 because sums stay below 2**53."""
    x = call[0].astype(np.float64)
    weight = call[1].astype(np.float64)
    x_zero, w_zero = call.get(2), call.get(3)
    x = x - (0 if x_zero is None else x_zero.astype(np.float64))
    if w_zero is not None:
        weight = weight - w_zero.astype(np.float64).reshape(-1, *[1] * (weight.ndim - 1))
    strides, dilations = spatial_attrs(call, weight.shape[2:])
    begins, ends = padding(call, x.shape[2:], weight.shape[2:], strides, dilations)
    y = convolve(padded(x, begins, ends), weight, None, strides, dilations, call.attr("group", 1))
    return y.astype(np.int32)


@kernel("ConvTranspose")
def conv_transpose(call: Call) -> Result:
    """Transposed convolution: one matrix product, then every tap is added at its place."""
    x, weight = widened(call[0]), widened(call[1])
    kernel_shape, groups = weight.shape[2:], call.attr("group", 1)
    rank, batch, size = len(kernel_shape), x.shape[0], x.shape[2:]
    strides, dilations = spatial_attrs(call, kernel_shape)
    extra = list(call.attr("output_padding", [0] * rank))
    full = [
        (n - 1) * s + (k - 1) * d + 1 + e
        for n, s, k, d, e in zip(size, strides, kernel_shape, dilations, extra, strict=True)
    ]
    per_out = weight.shape[1]
    columns = np.matmul(
        weight.reshape(groups, -1, per_out * math.prod(kernel_shape)).swapaxes(1, 2),
        x.reshape(batch, groups, x.shape[1] // groups, -1),
    ).reshape(batch, groups * per_out, *kernel_shape, *size)
    y = np.zeros((batch, groups * per_out, *full), x.dtype)
    for tap in np.ndindex(*kernel_shape):
        place = tuple(
            slice(t * d, t * d + (n - 1) * s + 1, s)
            for t, d, n, s in zip(tap, dilations, size, strides, strict=True)
        )
        y[(slice(None), slice(None), *place)] += columns[(slice(None), slice(None), *tap)]
    begins, ends = _transposed_crop(call, full, size, strides)
    y = padded(y, [-b for b in begins], [-e for e in ends])
    bias = call.get(2)
    if bias is not None:
        y = y + bias.reshape(1, -1, *[1] * rank)
    return y.astype(call[0].dtype, copy=False)


def _transposed_crop(
    call: Call, full: Sequence[int], size: Sequence[int], strides: Sequence[int]
) -> tuple[list[int], list[int]]:
    """What to cut off a transposed convolution, from pads, ``output_shape`` or ``auto_pad``."""
    wanted, mode, rank = call.attr("output_shape"), call.attr("auto_pad", "NOTSET"), len(full)
    if wanted is None and mode in ("SAME_UPPER", "SAME_LOWER"):
        wanted = [n * s for n, s in zip(size, strides, strict=True)]
    if wanted is None:
        pads = list(call.attr("pads", [0] * (2 * rank)))
        return pads[:rank], pads[rank:]
    total = [f - w for f, w in zip(full, list(wanted)[-rank:], strict=True)]
    small, large = [t // 2 for t in total], [t - t // 2 for t in total]
    return (small, large) if mode == "SAME_UPPER" else (large, small)


def _pool_view(call: Call, fill: float) -> tuple[Array, Array, tuple[int, ...]]:
    """Windows of the padded input, windows of its 0/1 count mask, and the window axes."""
    x = widened(call[0])
    kernel_shape = list(call.attr("kernel_shape"))
    strides, dilations = spatial_attrs(call, kernel_shape)
    begins, ends = padding(call, x.shape[2:], kernel_shape, strides, dilations)
    more = [0] * len(kernel_shape)
    if call.attr("ceil_mode", 0):
        for i, (n, k, s, d) in enumerate(zip(x.shape[2:], kernel_shape, strides, dilations, strict=True)):
            span = n + begins[i] + ends[i] - (k - 1) * d - 1
            count = -(-span // s) + 1
            if (count - 1) * s >= n + begins[i]:  # a window that starts in the end padding does not count
                count -= 1
            more[i] = max((count - 1) * s - span, 0)
    inside = float(bool(call.attr("count_include_pad", 0)))
    mask = padded(padded(np.ones((1, 1, *x.shape[2:]), x.dtype), begins, ends, inside), [0] * len(more), more)
    data = padded(x, begins, [e + m for e, m in zip(ends, more, strict=True)], fill)
    axes = tuple(range(2, 2 + len(kernel_shape)))
    counts = windows(mask, kernel_shape, strides, dilations)
    return windows(data, kernel_shape, strides, dilations), counts, axes


@kernel("MaxPool")
def max_pool(call: Call) -> Result:
    """Maximum over windows (no index output)."""
    if len(call.node.outputs) > 1 and call.node.outputs[1].uses():
        raise KernelError("MaxPool with a used Indices output is not implemented")
    low = float("-inf") if call[0].dtype.kind == "f" else float(np.iinfo(call[0].dtype).min)
    view, _, axes = _pool_view(call, low)
    return view.max(axis=axes).astype(call[0].dtype, copy=False)


@kernel("AveragePool")
def average_pool(call: Call) -> Result:
    """Mean over windows; padding counts only with ``count_include_pad``."""
    view, mask, axes = _pool_view(call, 0.0)
    return (view.sum(axis=axes) / mask.sum(axis=axes)).astype(call[0].dtype, copy=False)


@kernel("GlobalAveragePool", "GlobalMaxPool")
def global_pool(call: Call) -> Result:
    """Mean or maximum over all spatial axes."""
    x = widened(call[0])
    axes = tuple(range(2, x.ndim))
    pooled = (x.max if call.node.op_type == "GlobalMaxPool" else x.mean)(axis=axes, keepdims=True)
    return pooled.astype(call[0].dtype, copy=False)
