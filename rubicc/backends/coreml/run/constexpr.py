"""Compressed constants: what each ``constexpr_*`` operation of iOS 16 to 26 decodes to, in numpy.

Sources: coremltools' operator definitions, iOS16/constexpr_ops.py and iOS18/compression.py. Arithmetic is
done in the float type of the run and rounded afterwards by the machine, so that ``fp32`` and ``fp64`` see
``scale * (code - offset)`` unrounded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import prod
from typing import Any

import numpy as np

from rubicc.backends.coreml.run.blobs import unpack

Array = np.ndarray
Parts = Mapping[str, Any]


class DoesNotFit(ValueError):
    """The parts of a compressed constant contradict each other."""


def decode(kind: str, parts: Parts, dtype: np.dtype, most: int) -> tuple[Array, ...]:
    """Results of one constexpr operation.

    Args:
        kind: operator, ``constexpr_lut_to_dense``.
        parts: parameter name -> array, text or number.
        dtype: float type for arithmetic.
        most: elements that a result may have.

    Returns:
        One array, or mask and values for the ``*_sparse*`` operators.

    Raises:
        DoesNotFit: parts missing, unknown, or of sizes that do not go together.
    """
    known = DECODERS[kind]
    for required, optional, decoder in known:
        if set(required) <= set(parts) <= {*required, *optional}:
            made = decoder(parts, dtype, most)
            return made if isinstance(made, tuple) else (made,)
    raise DoesNotFit(f"parameters {', '.join(sorted(parts))}")


def affine(parts: Parts, dtype: np.dtype, most: int) -> Array:
    """``scale * (data - zero_point)`` per tensor or along ``axis``."""
    data = parts["quantized_data"]
    axis = int(parts["axis"])
    if not -data.ndim <= axis < data.ndim:
        raise DoesNotFit(f"axis {axis} of {data.ndim} axes")

    def along(part: Array) -> Array:
        if part.ndim == 0 or part.size == 1:
            return part.reshape(()).astype(dtype)
        if part.shape != (data.shape[axis],):
            raise DoesNotFit(f"{part.shape} values along an axis of {data.shape[axis]}")
        shape = [1] * data.ndim
        shape[axis] = -1
        return part.astype(dtype).reshape(shape)

    return (data.astype(dtype) - along(parts["zero_point"])) * along(parts["scale"])


def cast(parts: Parts, dtype: np.dtype, most: int) -> Array:
    """fp16 stored, fp32 used."""
    if parts["output_dtype"] != "fp32":
        raise DoesNotFit(f"cast to {parts['output_dtype']}")
    return parts["source_val"].astype(dtype)


def packed_palette(parts: Parts, dtype: np.dtype, most: int) -> Array:
    """iOS 16: one palette, codes packed in bytes."""
    lut, shape = parts["lut"], sizes(parts["shape"], most)
    bits = int(lut.size).bit_length() - 1
    if lut.ndim != 1 or lut.size not in (2, 4, 16, 64, 256):
        raise DoesNotFit(f"a palette of {lut.shape}")
    codes = unpacked(parts["indices"], bits, shape)
    return lut[codes].reshape(shape)


def packed_sparse(parts: Parts, dtype: np.dtype, most: int) -> Array:
    """iOS 16: one bit of mask per element, packed in bytes."""
    shape = sizes(parts["shape"], most)
    return scattered(parts["nonzero_data"], unpacked(parts["mask"], 1, shape).reshape(shape))


def unpacked(raw: Array, bits: int, shape: tuple[int, ...]) -> Array:
    """Codes of ``bits`` bits from bytes whose number must be exact."""
    if raw.dtype != np.uint8 or raw.size != (prod(shape) * bits + 7) // 8:
        raise DoesNotFit(f"{raw.size} bytes for {prod(shape)} codes of {bits} bits")
    return unpack(raw.reshape(-1), f"uint{bits}", prod(shape))


def sizes(given: Array, most: int) -> tuple[int, ...]:
    """A shape from an array, bounded."""
    shape = tuple(int(size) for size in given.reshape(-1))
    if any(size < 0 for size in shape) or prod(shape) > most:
        raise DoesNotFit(f"shape {shape}")
    return shape


def blockwise(parts: Parts, dtype: np.dtype, most: int) -> Array:
    """iOS 18: ``scale * (data - offset)``, one scale per block along every axis."""
    data, scale = parts["data"], parts["scale"]
    blocks, per = split_blocks(data.shape, scale.shape)
    wide = data.astype(dtype).reshape(interleaved(blocks, per))
    thin = interleaved(blocks, (1,) * len(per))
    offset = parts.get("offset")
    if offset is not None:
        if offset.shape != scale.shape:
            raise DoesNotFit(f"offsets {offset.shape}, scales {scale.shape}")
        wide = wide - offset.astype(dtype).reshape(thin)
    return (wide * scale.astype(dtype).reshape(thin)).reshape(data.shape)


def palette(parts: Parts, dtype: np.dtype, most: int) -> Array:
    """iOS 18: a palette per block of codes, of single values or of vectors along ``vector_axis``."""
    codes, lut = parts["indices"], parts["lut"]
    if lut.ndim != codes.ndim + 2 or codes.ndim < 1:
        raise DoesNotFit(f"palettes {lut.shape} for codes {codes.shape}")
    blocks, per = split_blocks(codes.shape, lut.shape[:-2])
    entries, vector = lut.shape[-2:]
    if codes.size * vector > most or (codes.size and int(codes.max()) >= entries):
        raise DoesNotFit(f"codes up to {codes.max()} for {entries} entries of {vector}")
    count = len(per)
    order = (*range(0, 2 * count, 2), *range(1, 2 * count, 2))
    grouped = codes.reshape(interleaved(blocks, per)).transpose(order).reshape(prod(blocks), -1)
    tables = lut.reshape(prod(blocks), entries, vector)
    found = tables[np.arange(len(tables))[:, None], grouped].reshape(*blocks, *per, vector)
    back = [place for axis in range(count) for place in (axis, count + axis)]
    dense = found.transpose(*back, 2 * count).reshape(*codes.shape, vector)
    if vector == 1:
        return dense[..., 0]
    axis = vector_axis(parts, codes.ndim)
    merged = list(codes.shape)
    merged[axis] *= vector
    return np.moveaxis(dense, -1, axis + 1).reshape(merged)


def vector_axis(parts: Parts, rank: int) -> int:
    """Axis along which vectors of a palette lie, counted from the front."""
    if "vector_axis" not in parts:
        raise DoesNotFit("a palette of vectors without vector_axis")
    axis = int(parts["vector_axis"])
    if not -rank <= axis < rank:
        raise DoesNotFit(f"vector axis {axis} of {rank} axes")
    return axis % rank


def sparse(parts: Parts, dtype: np.dtype, most: int) -> Array:
    """iOS 18: values at the places of a mask."""
    return scattered(parts["nonzero_data"], parts["mask"])


def sparse_palette(parts: Parts, dtype: np.dtype, most: int) -> tuple[Array, Array]:
    """iOS 18: palette codes of the places in a mask only; gives mask and values."""
    mask, lut = parts["indices_mask"], parts["lut"]
    codes = scattered(parts["indices_nonzero_data"], mask)
    rest = {name: parts[name] for name in ("vector_axis",) if name in parts}
    dense = palette({"indices": codes, "lut": lut, **rest}, dtype, most)
    if lut.shape[-1] > 1:
        mask = np.repeat(mask, lut.shape[-1], axis=vector_axis(parts, mask.ndim))
    return mask, dense[mask != 0]


def sparse_blockwise(parts: Parts, dtype: np.dtype, most: int) -> tuple[Array, Array]:
    """iOS 18: scaled codes of the places in a mask only; gives mask and values."""
    mask = parts["data_mask"]
    rest = {name: parts[name] for name in ("scale", "offset") if name in parts}
    dense = blockwise({"data": scattered(parts["nonzero_data"], mask), **rest}, dtype, most)
    return mask, dense[mask != 0]


def scattered(values: Array, mask: Array) -> Array:
    """Dense array with ``values`` where ``mask`` is set, zero elsewhere."""
    if values.ndim != 1 or int(np.count_nonzero(mask)) != values.size:
        raise DoesNotFit(f"{values.shape} values for {int(np.count_nonzero(mask))} places")
    dense = np.zeros(mask.shape, values.dtype)
    dense[mask != 0] = values
    return dense


def split_blocks(shape: tuple[int, ...], counts: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Blocks along every axis, and elements of a block along every axis."""
    if len(shape) != len(counts) or any(n == 0 or size % n for size, n in zip(shape, counts, strict=True)):
        raise DoesNotFit(f"{counts} blocks of {shape}")
    return counts, tuple(size // n for size, n in zip(shape, counts, strict=True))


def interleaved(blocks: tuple[int, ...], per: tuple[int, ...]) -> tuple[int, ...]:
    """``(blocks0, per0, blocks1, per1, ...)``."""
    return tuple(size for pair in zip(blocks, per, strict=True) for size in pair)


Decoder = Callable[[Parts, np.dtype, int], Array | tuple[Array, Array]]
Form = tuple[tuple[str, ...], tuple[str, ...], Decoder]
# Operator -> its forms: required parameters, optional ones, decoder. The iOS 16 forms have `shape`.
DECODERS: dict[str, tuple[Form, ...]] = {
    "constexpr_affine_dequantize": ((("quantized_data", "zero_point", "scale", "axis"), (), affine),),
    "constexpr_cast": ((("source_val", "output_dtype"), (), cast),),
    "constexpr_lut_to_dense": (
        (("indices", "lut", "shape"), (), packed_palette),
        (("indices", "lut"), ("vector_axis",), palette),
    ),
    "constexpr_sparse_to_dense": (
        (("nonzero_data", "mask", "shape"), (), packed_sparse),
        (("nonzero_data", "mask"), (), sparse),
    ),
    "constexpr_blockwise_shift_scale": ((("data", "scale"), ("offset",), blockwise),),
    "constexpr_lut_to_sparse": (
        (("indices_mask", "indices_nonzero_data", "lut"), ("vector_axis",), sparse_palette),
    ),
    "constexpr_sparse_blockwise_shift_scale": (
        (("data_mask", "nonzero_data", "scale"), ("offset",), sparse_blockwise),
    ),
}
