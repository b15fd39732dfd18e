"""Resizing the last two axes.

Source: coremltools' definitions iOS15/image_resizing.py (grid formulas in the documentation of
``resize_bilinear`` and ``upsample_bilinear``) and iOS17/image_resizing.py. Interpolation is linear along one
axis after the other.
"""

from __future__ import annotations

from math import floor

import torch

from rubicc.backends.coreml.run.kernels.registry import Context, kernel

Tensor = torch.Tensor


def grid(mode: str, size: int, made: int) -> Tensor:
    """Where the elements of an axis of ``made`` lie on an axis of ``size``."""
    if mode == "ALIGN_CORNERS" and made == 1:
        return torch.tensor([(size - 1) / 2], dtype=torch.float64)
    places = torch.arange(made, dtype=torch.float64)
    if mode in ("STRICT_ALIGN_CORNERS", "ALIGN_CORNERS"):
        points = places * ((size - 1) / max(made - 1, 1))
    elif mode == "DEFAULT":
        points = places * (size / made)
    elif mode == "UNALIGN_CORNERS":
        points = (places + 0.5) * (size / made) - 0.5
    elif mode == "OFFSET_CORNERS":
        points = (places + 0.5) * (max(1, size - 1) / made)
    else:
        raise ValueError(f"sampling mode {mode}")
    return points.clamp(0, size - 1)


def linear(c: Context, x: Tensor, sizes: list[int], mode: str) -> Tensor:
    """Linear interpolation of the last axes to ``sizes``."""
    first = x.dim() - len(sizes)
    c.reserve((*x.shape[:first], *sizes))
    for axis, made in enumerate(sizes, start=first):
        size = x.shape[axis]
        if size == made:
            continue
        points = grid(mode, size, made)
        low = points.floor().long()
        high = (low + 1).clamp_max(size - 1)
        shape = [1] * x.dim()
        shape[axis] = -1
        share = (points - low).to(x.dtype).reshape(shape)
        x = x.index_select(axis, low) * (1 - share) + x.index_select(axis, high) * share
    return x


def nearest(c: Context, x: Tensor, sizes: list[int]) -> Tensor:
    """The element at the floor of the scaled place."""
    first = x.dim() - len(sizes)
    c.reserve((*x.shape[:first], *sizes))
    for axis, made in enumerate(sizes, start=first):
        x = x.index_select(axis, torch.arange(made) * x.shape[axis] // made)
    return x


def scaled(x: Tensor, height: float, width: float) -> list[int]:
    """Sizes of the last two axes times factors, rounded down."""
    return [floor(x.shape[-2] * height), floor(x.shape[-1] * width)]


@kernel("upsample_nearest_neighbor", host="scale_factor_height scale_factor_width", moves=True)
def upsample_nearest(
    c: Context, *, x: Tensor, scale_factor_height: float = 1, scale_factor_width: float = 1
) -> Tensor:
    """Nearest neighbour by factors."""
    return nearest(c, x, scaled(x, scale_factor_height, scale_factor_width))


@kernel("resize_nearest_neighbor", host="target_size_height target_size_width", moves=True)
def resize_nearest(c: Context, *, x: Tensor, target_size_height: int, target_size_width: int) -> Tensor:
    """Nearest neighbour to a size."""
    return nearest(c, x, [target_size_height, target_size_width])


@kernel("upsample_bilinear", host="scale_factor_height scale_factor_width align_corners half_pixel_centers")
def upsample_bilinear(
    c: Context,
    *,
    x: Tensor,
    scale_factor_height: float = 1,
    scale_factor_width: float = 1,
    align_corners: bool = True,
    half_pixel_centers: bool | None = None,
) -> Tensor:
    """Linear by factors."""
    half = not align_corners if half_pixel_centers is None else half_pixel_centers
    if align_corners and half:
        raise ValueError("align_corners and half_pixel_centers together")
    mode = "STRICT_ALIGN_CORNERS" if align_corners else "UNALIGN_CORNERS" if half else "DEFAULT"
    return linear(c, x, scaled(x, scale_factor_height, scale_factor_width), mode)


@kernel("resize_bilinear", host="target_size_height target_size_width sampling_mode")
def resize_bilinear(
    c: Context,
    *,
    x: Tensor,
    target_size_height: int = 1,
    target_size_width: int = 1,
    sampling_mode: str = "DEFAULT",
) -> Tensor:
    """Linear to a size."""
    return linear(c, x, [target_size_height, target_size_width], sampling_mode)


@kernel("resize", host="shape resized_dims interpolation_mode sampling_mode")
def resize(
    c: Context,
    *,
    x: Tensor,
    shape: list[int],
    resized_dims: int,
    interpolation_mode: str = "LINEAR",
    sampling_mode: str = "DEFAULT",
) -> Tensor:
    """The last ``resized_dims`` axes to the last entries of ``shape``; 0 keeps a size."""
    if not 0 < resized_dims <= min(len(shape), x.dim()):
        raise ValueError(f"{resized_dims} axes of {x.dim()}, shape {shape}")
    old = x.shape[x.dim() - resized_dims :]
    sizes = [new or size for new, size in zip(shape[len(shape) - resized_dims :], old, strict=True)]
    if interpolation_mode == "LINEAR":
        return linear(c, x, sizes, sampling_mode)
    if interpolation_mode != "NEAREST_NEIGHBOR" or sampling_mode != "DEFAULT":
        raise ValueError(f"{interpolation_mode} with {sampling_mode}")
    return nearest(c, x, sizes)
