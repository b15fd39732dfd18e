"""Matrix products, convolutions and attention.

Sources: coremltools' definitions iOS15/linear.py, iOS15/conv.py, iOS18/transformers.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
from torch.nn import functional as F

from rubicc.backends.coreml.run.kernels.registry import Context, kernel
from rubicc.backends.coreml.run.kernels.unfolded import unfolded

Tensor = torch.Tensor


@kernel("linear")
def linear(c: Context, *, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``x @ weight.T + bias``."""
    c.reserve((*x.shape[:-1], weight.shape[0]))
    c.multiply(x.numel() * weight.shape[0])
    if x.is_floating_point():
        return F.linear(x, weight, bias)
    product = x @ weight.T
    return product if bias is None else product + bias


@kernel("matmul", host="transpose_x transpose_y")
def matmul(
    c: Context, *, x: Tensor, y: Tensor, transpose_x: bool = False, transpose_y: bool = False
) -> Tensor:
    """Matrix product with numpy's broadcasting."""
    if transpose_x and x.dim() > 1:
        x = x.transpose(-1, -2)
    if transpose_y and y.dim() > 1:
        y = y.transpose(-1, -2)
    rows = x.shape[-2:-1] if x.dim() > 1 else torch.Size()
    columns = y.shape[-1:] if y.dim() > 1 else torch.Size()
    batch = torch.broadcast_shapes(x.shape[:-2], y.shape[:-2])
    c.reserve((*batch, *rows, *columns))
    c.multiply(prod((*batch, *rows, *columns)) * x.shape[-1])
    return torch.matmul(x, y)


@kernel("einsum", host="equation", many="values")
def einsum(c: Context, *, values: list[Tensor], equation: str) -> Tensor:
    """Sum of products; axes of size 1 are broadcast."""
    sizes: dict[str, int] = {}
    given, _, made = equation.replace(" ", "").partition("->")
    for names, value in zip(given.split(","), values, strict=True):
        for name, size in zip(names, value.shape, strict=True):
            sizes[name] = max(size, sizes.get(name, 1))
    c.reserve([sizes[name] for name in made])
    c.multiply(prod(sizes.values()))
    return torch.einsum(equation, *values)


@kernel("scaled_dot_product_attention")
def attention(
    c: Context, *, query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None
) -> Tensor:
    """``softmax(query @ key.T / sqrt(E) + mask) @ value``; a bool mask keeps where it is true."""
    c.reserve((*query.shape[:-1], key.shape[-2]))
    c.multiply(2 * query.numel() * key.shape[-2])
    return F.scaled_dot_product_attention(query, key, value, attn_mask=attn_mask)


CONVOLUTIONS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
TRANSPOSED = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


@kernel("conv", host="strides pad_type pad dilations groups")
def conv(
    c: Context,
    *,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    strides: list[int] | None = None,
    pad_type: str = "valid",
    pad: list[int] | None = None,
    dilations: list[int] | None = None,
    groups: int = 1,
) -> Tensor:
    """Convolution over 1 to 3 axes; x ``(n, c_in, *d)``, weight ``(c_out, c_in / groups, *k)``."""
    count = x.dim() - 2
    strides = filled(strides, 1, count)
    dilations = filled(dilations, 1, count)
    reach = [(k - 1) * d + 1 for k, d in zip(weight.shape[2:], dilations, strict=True)]
    pads = pads_of(pad_type, pad, x.shape[2:], reach, strides)
    sizes = [d + a + b - r for d, (a, b), r in zip(x.shape[2:], pads, reach, strict=True)]
    if min(sizes) < 0:
        raise ValueError(f"kernel reaches {reach} over {tuple(x.shape[2:])} padded by {pads}")
    made = [size // s + 1 for size, s in zip(sizes, strides, strict=True)]
    c.reserve((x.shape[0], weight.shape[0], *made))
    c.multiply(x.shape[0] * prod(made) * weight.numel())
    if weight[0, 0].numel() == 1 and groups == 1 and max(strides) == 1 and not any(map(any, pads)):
        # A product: torch's convolution would take a reordered copy of the weight, 98 MB of a vocabulary.
        product = weight.reshape(weight.shape[:2]) @ x.reshape(*x.shape[:2], -1)
        if bias is not None:
            product += bias.reshape(-1, 1)
        return product.reshape(x.shape[0], weight.shape[0], *made)
    # torch pads both ends alike; anything else is laid around the input first.
    padding = [before for before, _ in pads]
    own = groups > 1 and x.dtype == torch.float64
    if any(before != after or (own and before) for before, after in pads):
        x = F.pad(x, around(c, x, pads))
        padding = [0] * count
    if own:
        return unfolded(x, weight, bias, strides, dilations, groups)
    return CONVOLUTIONS[count](x, weight, bias, strides, padding, dilations, groups)


@kernel("conv_transpose", host="strides pad_type pad dilations groups output_shape")
def conv_transpose(
    c: Context,
    *,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    strides: list[int] | None = None,
    pad_type: str = "valid",
    pad: list[int] | None = None,
    dilations: list[int] | None = None,
    groups: int = 1,
    output_shape: list[int] | None = None,
) -> Tensor:
    """Transposed convolution; weight ``(c_in, c_out / groups, *k)``.

    The whole result is made, then cut by the pads; where ``output_shape`` reaches beyond it, nothing but the
    bias arrives there.
    """
    count = x.dim() - 2
    strides = filled(strides, 1, count)
    dilations = filled(dilations, 1, count)
    reach = [(k - 1) * d + 1 for k, d in zip(weight.shape[2:], dilations, strict=True)]
    whole = [(d - 1) * s + r for d, s, r in zip(x.shape[2:], strides, reach, strict=True)]
    starts, sizes = [0] * count, whole
    if pad_type == "custom":
        pads = pairs(pad, count)
        starts = [before for before, _ in pads]
        sizes = [size - before - after for size, (before, after) in zip(whole, pads, strict=True)]
    elif pad_type in ("same", "same_lower"):
        sizes = [d * s for d, s in zip(x.shape[2:], strides, strict=True)]
        over = [max(w - size, 0) for w, size in zip(whole, sizes, strict=True)]
        starts = [(n + 1) // 2 if pad_type == "same_lower" else n // 2 for n in over]
    elif pad_type != "valid":
        raise ValueError(f"pad_type {pad_type}")
    if output_shape is not None:
        sizes = list(output_shape[2:])
    if min(sizes) < 0:
        raise ValueError(f"a result of {sizes}")
    made = (x.shape[0], weight.shape[1] * groups, *(max(w, s) for w, s in zip(whole, sizes, strict=True)))
    c.reserve(made)
    c.multiply(x.shape[0] * prod(x.shape[2:]) * weight.numel())
    result = TRANSPOSED[count](x, weight, None, strides, 0, 0, groups, dilations)
    for axis, (start, size) in enumerate(zip(starts, sizes, strict=True), start=2):
        missing = start + size - result.shape[axis]
        if missing > 0:
            result = F.pad(result, [0, 0] * (result.dim() - 1 - axis) + [0, missing])
        result = result.narrow(axis, start, size)
    return result if bias is None else result + bias.reshape(1, -1, *[1] * count)


def filled(given: Sequence[int] | None, value: int, count: int) -> list[int]:
    """A list of ``count`` positive numbers, all ``value`` when none is given."""
    found = [value] * count if given is None else list(given)
    if len(found) != count or min(found) < 1:
        raise ValueError(f"{found} for {count} spatial axes")
    return found


def pairs(pad: Sequence[int] | None, count: int) -> list[tuple[int, int]]:
    """Pads before and after every spatial axis."""
    flat = [0] * (2 * count) if pad is None else list(pad)
    if len(flat) != 2 * count or min(flat) < 0:
        raise ValueError(f"pad {flat} for {count} spatial axes")
    return list(zip(flat[::2], flat[1::2], strict=True))


def pads_of(
    pad_type: str,
    pad: Sequence[int] | None,
    sizes: Sequence[int],
    reach: Sequence[int],
    strides: Sequence[int],
) -> list[tuple[int, int]]:
    """Pads before and after every spatial axis for a ``pad_type``; ``same`` puts an odd one behind."""
    if pad_type == "valid":
        return [(0, 0)] * len(sizes)
    if pad_type == "custom":
        return pairs(pad, len(sizes))
    if pad_type not in ("same", "same_lower"):
        raise ValueError(f"pad_type {pad_type}")
    found = []
    for size, window, stride in zip(sizes, reach, strides, strict=True):
        total = max(0, stride * (-(-size // stride)) - size + window - stride)
        before = (total + 1) // 2 if pad_type == "same_lower" else total // 2
        found.append((before, total - before))
    return found


def around(c: Context, x: Tensor, pads: Sequence[tuple[int, int]]) -> list[int]:
    """Pads in torch's order, last axis first; the padded size is asked for."""
    c.reserve((*x.shape[:2], *(d + a + b for d, (a, b) in zip(x.shape[2:], pads, strict=True))))
    return [amount for pair in reversed(pads) for amount in pair]
