"""Convolution and pooling."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from rubicc.ir.ops.conv import padding, spatial_attrs
from rubicc.ir.ops.registry import KernelError
from rubicc.training.ops.registry import Run, Site, op

_CONV = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}
_TRANSPOSED = {1: functional.conv_transpose1d, 2: functional.conv_transpose2d, 3: functional.conv_transpose3d}
_MAX = {1: functional.max_pool1d, 2: functional.max_pool2d, 3: functional.max_pool3d}
# On CPUs torch is slow at long kernels of few channels per group: from here on they are written as phases.
_LONG = 31
_FEW = 8
_PHASES = 8
_MEAN = {1: functional.avg_pool1d, 2: functional.avg_pool2d, 3: functional.avg_pool3d}


def torch_pads(begins: Sequence[int], ends: Sequence[int]) -> list[int]:
    """Padding by axis in the order of ``torch.nn.functional.pad``: last axis first."""
    return [amount for pair in reversed(list(zip(begins, ends, strict=True))) for amount in pair]


def _geometry(site: Site, kernel: Sequence[int]) -> tuple[list[int], list[int], list[int], list[int]]:
    """Strides, dilations, padding before and after."""
    if len(kernel) not in _CONV:
        raise KernelError(f"{len(kernel)} spatial axes; torch has kernels for 1 to 3")
    strides, dilations = spatial_attrs(site, kernel)
    return strides, dilations, *padding(site, site.tensor_of(0).shape[2:], kernel, strides, dilations)


@op("Conv")
def conv(site: Site) -> Run:
    """Grouped, strided, dilated convolution; unequal padding is a step of its own."""
    weight = site.tensor_of(1)
    kernel, groups = weight.shape[2:], site.attr("group", 1)
    strides, dilations, begins, ends = _geometry(site, kernel)
    few = groups > 1 and max(weight.shape[1], weight.shape[0] // groups) <= _FEW
    if few and weight.device.type == "cpu" and [*strides, *dilations] == [1, 1] and kernel[0] >= _LONG:
        return _phased(site, begins[0], ends[0])
    function = _CONV[len(kernel)]
    same = begins == ends and min(begins, default=0) >= 0
    pads = torch_pads(begins, ends)
    inner = begins if same else 0

    def run(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        return function(x, weight, bias, strides, inner, dilations, groups)

    if same:
        return run
    return lambda x, weight, bias=None: run(functional.pad(x, pads), weight, bias)


def _phased(site: Site, begin: int, end: int) -> Run:
    """A grouped 1-D convolution with eight neighbouring results as channels of one position.

    The kernel of result ``8 t + p`` is the kernel moved by ``p`` taps: the same sums, 7 zero taps more, and
    two to three times the speed, since a position fills the processor's lanes (docs/polyphase.md).
    """
    weight, groups = site.tensor_of(1), site.attr("group", 1)
    rows, taps = weight.shape[0], weight.shape[2]
    length = site.tensor_of(0).shape[2] + begin + end - taps + 1
    if length < 1:
        raise KernelError(f"kernel [{taps}] does not fit into {length + taps - 1} samples")
    positions = -(-length // _PHASES)
    pads = begin, end + positions * _PHASES - length
    moved = [(phase, _PHASES - 1 - phase) for phase in range(_PHASES)]

    def run(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        phases = torch.stack([functional.pad(weight, by) for by in moved], 1).flatten(0, 1)
        offset = None if bias is None else bias.repeat_interleave(_PHASES)
        y = functional.conv1d(functional.pad(x, pads), phases, offset, _PHASES, 0, 1, groups)
        y = y.view(-1, rows, _PHASES, positions).transpose(2, 3).reshape(-1, rows, positions * _PHASES)
        return y if y.shape[2] == length else y.narrow(2, 0, length)

    return run


@op("ConvTranspose")
def conv_transpose(site: Site) -> Run:
    """Transposed convolution, then what pads, ``output_shape`` or ``auto_pad`` cut off."""
    weight = site.tensor_of(1)
    kernel, rank = weight.shape[2:], weight.ndim - 2
    if rank not in _TRANSPOSED:
        raise KernelError(f"{rank} spatial axes; torch has kernels for 1 to 3")
    strides, dilations = spatial_attrs(site, kernel)
    extra = list(site.attr("output_padding", [0] * rank))
    size = site.tensor_of(0).shape[2:]
    full = [
        (n - 1) * s + (k - 1) * d + 1 + e
        for n, s, k, d, e in zip(size, strides, kernel, dilations, extra, strict=True)
    ]
    begins, ends = _transposed_crop(site, full, size, strides)
    # torch bounds its output_padding; padding at the end with zeros and cropping is the same and has no bound
    crop = torch_pads([-b for b in begins], [e - c for e, c in zip(extra, ends, strict=True)])
    function, groups = _TRANSPOSED[rank], site.attr("group", 1)

    def run(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        y = functional.pad(function(x, weight, None, strides, 0, 0, groups, dilations), crop)
        return y if bias is None else y + bias.reshape(-1, *[1] * rank)

    return run


def _transposed_crop(
    site: Site, full: Sequence[int], size: Sequence[int], strides: Sequence[int]
) -> tuple[list[int], list[int]]:
    """What is cut off each end of the ``full`` result."""
    wanted, mode, rank = site.attr("output_shape"), site.attr("auto_pad", "NOTSET"), len(full)
    if wanted is None and mode in ("SAME_UPPER", "SAME_LOWER"):
        wanted = [n * s for n, s in zip(size, strides, strict=True)]
    if wanted is None:
        pads = list(site.attr("pads", [0] * (2 * rank)))
        return pads[:rank], pads[rank:]
    total = [f - w for f, w in zip(full, list(wanted)[-rank:], strict=True)]
    small, large = [t // 2 for t in total], [t - t // 2 for t in total]
    return (small, large) if mode == "SAME_UPPER" else (large, small)


def _window(site: Site) -> tuple[list[int], list[int], list[int], list[int], list[int]]:
    """Kernel, strides, dilations, padding before and after, ``ceil_mode`` as more padding after."""
    kernel = list(site.attr("kernel_shape"))
    strides, dilations, begins, ends = _geometry(site, kernel)
    if site.attr("ceil_mode", 0):
        size = site.tensor_of(0).shape[2:]
        for axis, (n, k, s, d) in enumerate(zip(size, kernel, strides, dilations, strict=True)):
            span = n + begins[axis] + ends[axis] - (k - 1) * d - 1
            count = -(-span // s) + 1
            count -= (count - 1) * s >= n + begins[axis]  # a window that starts in the end padding
            ends[axis] += max((count - 1) * s - span, 0)
    return kernel, strides, dilations, begins, ends


@op("MaxPool")
def max_pool(site: Site) -> Run:
    """Maximum over windows; padding never wins."""
    if site.outputs > 1 and site.node.outputs[1].uses():
        raise KernelError("MaxPool with a used Indices output is not implemented")
    kernel, strides, dilations, begins, ends = _window(site)
    pool = partial(_MAX[len(kernel)], kernel_size=kernel, stride=strides, dilation=dilations)
    pads = torch_pads(begins, ends)
    if not any(pads):
        return pool
    return lambda x: pool(functional.pad(x, pads, value=float("-inf")))


@op("AveragePool")
def average_pool(site: Site) -> Run:
    """Mean over windows: their sum over the number of places that count, which no data changes."""
    kernel, strides, dilations, begins, ends = _window(site)
    if any(d != 1 for d in dilations):
        raise KernelError("AveragePool with dilations is not implemented")
    pool = partial(_MEAN[len(kernel)], kernel_size=kernel, stride=strides)
    pads = torch_pads(begins, ends)
    if not any(pads):
        return pool
    x = site.tensor_of(0)
    inside = torch.ones((1, 1, *x.shape[2:]), dtype=site.dtype, device=x.device)
    if site.attr("count_include_pad", 0):
        declared = padding(site, x.shape[2:], kernel, strides, dilations)
        inside = functional.pad(inside, torch_pads(*declared), value=1.0)
        more = [e - d for e, d in zip(ends, declared[1], strict=True)]
        inside = functional.pad(inside, torch_pads([0] * len(more), more))
    else:
        inside = functional.pad(inside, pads)
    share = pool(inside)
    return lambda x: pool(functional.pad(x, pads)) / share


@op("GlobalAveragePool", "GlobalMaxPool")
def global_pool(site: Site) -> Run:
    """Mean or maximum over all spatial axes."""
    axes = tuple(range(2, site.rank))
    function = torch.amax if site.node.op_type == "GlobalMaxPool" else torch.mean
    return partial(function, dim=axes, keepdim=True)


def known_pads(amounts: Sequence[int], axes: Sequence[int], rank: int) -> list[int]:
    """ONNX pads of ``axes`` as ``torch.nn.functional.pad`` takes them."""
    widths = np.zeros((rank, 2), np.int64)
    for index, axis in enumerate(axes):
        widths[axis] = amounts[index], amounts[index + len(axes)]
    return torch_pads(widths[:, 0].tolist(), widths[:, 1].tolist())
