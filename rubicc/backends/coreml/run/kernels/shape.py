"""Operators that move elements without changing them: shapes, slices, order, joining and padding.

Sources: coremltools' definitions iOS15/tensor_transformation.py, iOS15/tensor_operation.py, and the iOS16,
iOS17 and iOS18 versions of both.
"""

from __future__ import annotations

from math import prod

import torch
from torch.nn import functional as F

from rubicc.backends.coreml.run.kernels.registry import Context, axes_of, axis_of, kernel

Tensor = torch.Tensor


@kernel("identity", moves=True)
def identity(c: Context, *, x: object) -> object:
    """The value itself, a list too."""
    return x


@kernel("reshape", host="shape", moves=True)
def reshape(c: Context, *, x: Tensor, shape: list[int]) -> Tensor:
    """New shape; one -1 is worked out, a 0 stands for the input's size.

    Up to iOS 16 a 0 means the same axis counted from the front; from iOS 17 counted from the back, and 1
    where the input has no such axis.
    """
    sizes = list(shape)
    if c.opset >= 7:
        lead = len(sizes) - x.dim()
        sizes = [
            size if size else (x.shape[place - lead] if place >= lead else 1)
            for place, size in enumerate(sizes)
        ]
    else:
        sizes = [size if size else x.shape[place] for place, size in enumerate(sizes)]
    return x.reshape(sizes)


@kernel("reshape_like", host="begins ends end_masks", many="ref_tensors begins ends end_masks", moves=True)
def reshape_like(
    c: Context,
    *,
    x: Tensor,
    ref_tensors: list[Tensor],
    begins: list[int],
    ends: list[int],
    end_masks: list[bool],
) -> Tensor:
    """Shape put together from parts of other tensors' shapes."""
    shape: list[int] = []
    for tensor, begin, end, open_end in zip(ref_tensors, begins, ends, end_masks, strict=True):
        shape += tensor.shape[begin:] if open_end else tensor.shape[begin:end]
    return x.reshape(shape)


@kernel("expand_dims", host="axes", moves=True)
def expand_dims(c: Context, *, x: Tensor, axes: list[int]) -> Tensor:
    """Axes of size 1 put in, at these places of the result."""
    shape = list(x.shape)
    for axis in axes_of(axes, x.dim() + len(axes)):
        shape.insert(axis, 1)
    return x.reshape(shape)


@kernel("squeeze", host="axes", moves=True)
def squeeze(c: Context, *, x: Tensor, axes: list[int] | None = None) -> Tensor:
    """Axes of size 1 taken out; named ones of another size stay."""
    return x.squeeze(axes_of(axes, x.dim()))


@kernel("transpose", host="perm", moves=True)
def transpose(c: Context, *, x: Tensor, perm: list[int]) -> Tensor:
    """Axes in another order."""
    return x.permute([axis_of(axis, x.dim()) for axis in perm]).contiguous()


@kernel("flatten2d", host="axis", moves=True)
def flatten2d(c: Context, *, x: Tensor, axis: int = 1) -> Tensor:
    """Axes before and after ``axis`` merged."""
    return x.reshape(prod(x.shape[:axis]), prod(x.shape[axis:]))


@kernel("shape", moves=True)
def shape_of(c: Context, *, x: Tensor) -> Tensor:
    """Sizes as whole numbers."""
    return torch.tensor(list(x.shape), dtype=c.held(c.dtype))


@kernel("pixel_shuffle", host="upscale_factor", moves=True)
def pixel_shuffle(c: Context, *, x: Tensor, upscale_factor: int) -> Tensor:
    """Channels ``(c, f, f)`` to space, as in PyTorch."""
    return F.pixel_shuffle(x, upscale_factor)


@kernel("pixel_unshuffle", host="downscale_factor", moves=True)
def pixel_unshuffle(c: Context, *, x: Tensor, downscale_factor: int) -> Tensor:
    """Space to channels ``(c, f, f)``, as in PyTorch."""
    return F.pixel_unshuffle(x, downscale_factor)


@kernel("depth_to_space", host="block_size", moves=True)
def depth_to_space(c: Context, *, x: Tensor, block_size: int) -> Tensor:
    """Channels ``(f, f, c)`` to space, as in TensorFlow."""
    n, channels, h, w = x.shape
    f = block_size
    apart = x.reshape(n, f, f, channels // (f * f), h, w)
    return apart.permute(0, 3, 4, 1, 5, 2).reshape(n, channels // (f * f), h * f, w * f)


@kernel("space_to_depth", host="block_size", moves=True)
def space_to_depth(c: Context, *, x: Tensor, block_size: int) -> Tensor:
    """Space to channels ``(f, f, c)``, as in TensorFlow."""
    n, channels, h, w = x.shape
    f = block_size
    apart = x.reshape(n, channels, h // f, f, w // f, f)
    return apart.permute(0, 3, 5, 1, 2, 4).reshape(n, channels * f * f, h // f, w // f)


@kernel("space_to_batch", host="block_shape paddings", moves=True)
def space_to_batch(c: Context, *, x: Tensor, block_shape: list[int], paddings: list[list[int]]) -> Tensor:
    """Blocks of space to items ``(f, f, n)``, as in TensorFlow."""
    (top, bottom), (left, right) = paddings
    c.reserve((*x.shape[:2], x.shape[2] + top + bottom, x.shape[3] + left + right))
    padded = F.pad(x, [left, right, top, bottom])
    n, channels, h, w = padded.shape
    a, b = block_shape
    apart = padded.reshape(n, channels, h // a, a, w // b, b)
    return apart.permute(3, 5, 0, 1, 2, 4).reshape(a * b * n, channels, h // a, w // b)


@kernel("batch_to_space", host="block_shape crops", moves=True)
def batch_to_space(c: Context, *, x: Tensor, block_shape: list[int], crops: list[list[int]]) -> Tensor:
    """Items ``(f, f, n)`` to blocks of space, then cropped."""
    n, channels, h, w = x.shape
    a, b = block_shape
    (top, bottom), (left, right) = crops
    apart = x.reshape(a, b, n // (a * b), channels, h, w).permute(2, 3, 4, 0, 5, 1)
    whole = apart.reshape(n // (a * b), channels, h * a, w * b)
    return owned(whole[:, :, top : h * a - bottom, left : w * b - right])


def owned(x: Tensor) -> Tensor:
    """A part of a tensor, copied when it would keep a much larger one alive."""
    return x.clone() if 2 * x.numel() * x.element_size() < x.untyped_storage().nbytes() else x


@kernel("crop", host="crop_height crop_width", moves=True)
def crop(c: Context, *, x: Tensor, crop_height: list[int], crop_width: list[int]) -> Tensor:
    """The last two axes cut at both ends."""
    (top, bottom), (left, right) = crop_height, crop_width
    if min(top, bottom, left, right) < 0:
        raise ValueError(f"crops {crop_height}, {crop_width}")
    return owned(x[..., top : x.shape[-2] - bottom, left : x.shape[-1] - right])


@kernel("concat", host="axis interleave", many="values", moves=True, same="values")
def concat(c: Context, *, values: list[Tensor], axis: int, interleave: bool = False) -> Tensor:
    """Joined along an axis, one after the other or element by element in turn; scalars become a vector."""
    values = [value.reshape(1) if value.dim() == 0 else value for value in values]
    axis = axis_of(axis, values[0].dim())
    c.reserve((sum(value.numel() for value in values),))
    if not interleave:
        return torch.cat(values, axis)
    return torch.stack(values, axis + 1).flatten(axis, axis + 1)


@kernel("stack", host="axis", many="values", moves=True, same="values")
def stack(c: Context, *, values: list[Tensor], axis: int) -> Tensor:
    """Joined along a new axis."""
    c.reserve((sum(value.numel() for value in values),))
    return torch.stack(values, axis)


@kernel("split", host="axis num_splits split_sizes", moves=True)
def split(
    c: Context, *, x: Tensor, axis: int, num_splits: int | None = None, split_sizes: list[int] | None = None
) -> tuple[Tensor, ...]:
    """Cut along an axis into equal parts, or parts of given sizes."""
    axis = axis_of(axis, x.dim())
    sizes = split_sizes
    if sizes is None:
        if not num_splits or x.shape[axis] % num_splits:
            raise ValueError(f"{num_splits} equal parts of {x.shape[axis]}")
        sizes = [x.shape[axis] // num_splits] * num_splits
    return tuple(owned(part) for part in torch.split(x, sizes, axis))


class Slices:
    """Slices of ``slice_by_index`` and ``slice_update``, resolved for one shape.

    Torch has no negative steps: such an axis is cut in rising order and turned round afterwards.
    """

    def __init__(
        self,
        shape: torch.Size,
        begin: list[int],
        end: list[int],
        stride: list[int] | None,
        begin_mask: list[bool] | None,
        end_mask: list[bool] | None,
        squeeze_mask: list[bool] | None,
    ) -> None:
        rank = len(shape)
        no = [False] * rank
        index: list[slice] = []
        turned: list[int] = []
        single = [axis for axis, one in enumerate(squeeze_mask or no) if one]
        for axis, (size, first, last, step, open_begin, open_end) in enumerate(
            zip(shape, begin, end, stride or [1] * rank, begin_mask or no, end_mask or no, strict=True)
        ):
            if axis in single:
                place = axis_of(0 if open_begin else first, size)
                index.append(slice(place, place + 1))
                continue
            places = range(size)[slice(None if open_begin else first, None if open_end else last, step)]
            if step < 0:
                turned.append(axis)
                places = places[::-1]
            index.append(slice(places.start, places.stop, places.step) if places else slice(0, 0))
        self.index = tuple(index)
        self.turned = turned
        self.single = single


@kernel("slice_by_index", host="begin end stride begin_mask end_mask squeeze_mask", moves=True)
def slice_by_index(
    c: Context,
    *,
    x: Tensor,
    begin: list[int],
    end: list[int],
    stride: list[int] | None = None,
    begin_mask: list[bool] | None = None,
    end_mask: list[bool] | None = None,
    squeeze_mask: list[bool] | None = None,
) -> Tensor:
    """``x[begin:end:stride, ...]`` as in numpy; masks open an end or pick a single place."""
    at = Slices(x.shape, begin, end, stride, begin_mask, end_mask, squeeze_mask)
    part = x[at.index]
    part = part.flip(at.turned) if at.turned else owned(part)
    return part.squeeze(at.single) if at.single else part


@kernel(
    "slice_update",
    host="begin end stride begin_mask end_mask squeeze_mask",
    moves=True,
    same="x update",
)
def slice_update(
    c: Context,
    *,
    x: Tensor,
    update: Tensor,
    begin: list[int],
    end: list[int],
    stride: list[int] | None = None,
    begin_mask: list[bool] | None = None,
    end_mask: list[bool] | None = None,
    squeeze_mask: list[bool] | None = None,
) -> Tensor:
    """A copy of ``x`` with a slice replaced."""
    at = Slices(x.shape, begin, end, stride, begin_mask, end_mask, squeeze_mask)
    for axis in at.single:
        update = update.unsqueeze(axis)
    made = x.clone()
    target = made[at.index]
    if target.shape != update.shape:
        raise ValueError(f"update {tuple(update.shape)} for a slice of {tuple(target.shape)}")
    target.copy_(update.flip(at.turned) if at.turned else update)
    return made


@kernel("slice_by_size", host="begin size", moves=True)
def slice_by_size(c: Context, *, x: Tensor, begin: list[int], size: list[int]) -> Tensor:
    """``size`` elements from ``begin`` on along every axis; -1 takes the rest."""
    for axis, (start, length) in enumerate(zip(begin, size, strict=True)):
        first = start + x.shape[axis] if start < 0 else start
        x = x.narrow(axis, first, x.shape[axis] - first if length == -1 else length)
    return owned(x)


@kernel("reverse", host="axes", moves=True)
def reverse(c: Context, *, x: Tensor, axes: list[int] | None = None) -> Tensor:
    """Turned round along axes."""
    return x.flip(axes_of(axes, x.dim()))


@kernel("reverse_sequence", host="lengths seq_axis batch_axis", moves=True)
def reverse_sequence(
    c: Context, *, x: Tensor, lengths: list[int], seq_axis: int = 0, batch_axis: int = 0
) -> Tensor:
    """The first ``lengths[i]`` places of item ``i`` turned round."""
    batch, along = axis_of(batch_axis, x.dim()), axis_of(seq_axis, x.dim())
    made = x.clone()
    for item, length in enumerate(lengths):
        row, source = made.select(batch, item), x.select(batch, item)
        axis = along - (along > batch)
        row.narrow(axis, 0, length).copy_(source.narrow(axis, 0, length).flip([axis]))
    return made


@kernel("sliding_windows", host="axis size stride", moves=True)
def sliding_windows(c: Context, *, x: Tensor, axis: int, size: int, stride: int = 1) -> Tensor:
    """Windows of ``size`` along an axis, on a new axis behind it."""
    axis = axis_of(axis, x.dim())
    windows = x.unfold(axis, size, stride).movedim(-1, axis + 1)
    c.reserve(windows.shape)
    return windows.contiguous()


@kernel("pad", host="pad mode constant_val", moves=True)
def pad(
    c: Context, *, x: Tensor, pad: list[int], mode: str = "constant", constant_val: float = 0.0
) -> Tensor:
    """The last axes made longer at both ends: by a constant, mirrored, or by repeating the edge."""
    if len(pad) % 2 or len(pad) > 2 * x.dim() or min(pad, default=0) < 0:
        raise ValueError(f"pad {pad} of {x.dim()} axes")
    ends = list(zip(pad[::2], pad[1::2], strict=True))
    first = x.dim() - len(ends)
    c.reserve((*x.shape[:first], *(size + a + b for size, (a, b) in zip(x.shape[first:], ends, strict=True))))
    if mode == "constant":
        return F.pad(x, [amount for pair in reversed(ends) for amount in pair], value=constant_val)
    for axis, (before, after) in enumerate(ends, start=first):
        size = x.shape[axis]
        places = torch.arange(-before, size + after)
        if mode == "replicate":
            places = places.clamp(0, size - 1)
        elif mode == "reflect":
            if max(before, after) >= size:
                raise ValueError(f"reflected pad {before}, {after} of {size}")
            places = (size - 1) - ((size - 1) - places.abs()).abs()
        else:
            raise ValueError(f"mode {mode}")
        x = x.index_select(axis, places)
    return x


@kernel("tile", host="reps", moves=True)
def tile(c: Context, *, x: Tensor, reps: list[int]) -> Tensor:
    """Repeated along every axis."""
    c.reserve([size * times for size, times in zip(x.shape, reps, strict=True)])
    return x.repeat(reps)


@kernel("band_part", host="lower upper", moves=True)
def band_part(c: Context, *, x: Tensor, lower: int = -1, upper: int = -1) -> Tensor:
    """Zero outside a band around the diagonal of the last two axes; negative keeps a whole side."""
    rows, columns = x.shape[-2:]
    below = torch.arange(rows)[:, None] - torch.arange(columns)
    kept = torch.ones_like(below, dtype=torch.bool)
    if lower >= 0:
        kept &= below <= lower
    if upper >= 0:
        kept &= -below <= upper
    return torch.where(kept, x, torch.zeros_like(x))
