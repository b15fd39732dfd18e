"""Grouped convolutions in float64: torch has no fast one, and takes gigabytes for wide kernels."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch

_BLOCK_BYTES = 32 << 20  # of unfolded windows at a time


def unfolded(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    strides: Sequence[int],
    dilations: Sequence[int],
    groups: int,
) -> torch.Tensor:
    """``F.conv*d`` without padding, as products of unfolded windows, block by block along the longest axis.

    Args:
        x: ``(n, c_in, *d)``, as large as the kernel at least.
        weight: ``(c_out, c_in / groups, *k)``.
    """
    x, kernel = x.contiguous(), weight.shape[2:]
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    out = [(size - r) // s + 1 for size, r, s in zip(x.shape[2:], reach, strides, strict=True)]
    steps = x.stride()[2:]
    windows = x.as_strided(
        (*x.shape[:2], *kernel, *out),
        (
            *x.stride()[:2],
            *(step * d for step, d in zip(steps, dilations, strict=True)),
            *(step * s for step, s in zip(steps, strides, strict=True)),
        ),
    )
    flat = weight.reshape(groups, weight.shape[0] // groups, -1)
    made = x.new_empty((x.shape[0], *flat.shape[:2], *out))
    longest = out.index(max(out))
    unit = x.shape[1] * prod(kernel) * prod(out) // max(1, out[longest]) * x.element_size()
    count = max(1, _BLOCK_BYTES // max(1, unit))
    for item in range(x.shape[0]):
        for start in range(0, out[longest], count):
            length = min(count, out[longest] - start)
            part = windows[item].narrow(1 + len(kernel) + longest, start, length)
            product = flat @ part.reshape(groups, flat.shape[2], -1)
            target = made[item].narrow(2 + longest, start, length)
            target.copy_(product.reshape(target.shape))
    result = made.reshape(x.shape[0], weight.shape[0], *out)
    return result if bias is None else result + bias.reshape(1, -1, *[1] * len(kernel))
