"""Tests of rules about convolutions, pooling, normalisation, attention, movements and computed shapes."""

from __future__ import annotations

from itertools import combinations_with_replacement
from math import prod

from rubicc.backends.coreml.lint.engine import limit
from rubicc.backends.coreml.lint.facts import Op, elements
from rubicc.backends.coreml.lint.hits import Hit
from rubicc.backends.coreml.lint.on_types import shape_of

KERNEL_WIDTH = (13, 16, 16, 16)  # float16; one source gives 15 for the M5
KERNEL_HEIGHT = (29, 32, 32, 32)
STRIDE_FACTORS = (1, 2, 3, 4, 8)
STRIDES = frozenset(prod(pair) for pair in combinations_with_replacement(STRIDE_FACTORS, 2))
LARGEST_TRIED_DILATION = 8
LARGEST_POOL, LARGEST_POOL_STRIDE = 13, 2
CORES = 4
SMALLEST_FP16 = 6e-8
ATTENTION_ELEMENTS = 2_000_000
BRANCHES = 12
_CONVOLUTIONS = ("conv", "conv_transpose")
_POOLS = ("avg_pool", "max_pool", "l2_pool")
_EPSILON = ("layer_norm", "batch_norm", "instance_norm", "l2_norm", "rsqrt", "log", "inverse")
# Parameters that are attributes in a network of fixed shape.
_SHAPE_PARAMETERS = ("shape", "begin", "end", "size", "reps", "split_sizes", "pad", "output_shape", "axes")


def kernel_width(op: Op, family: str | None) -> Hit | None:
    """Kernels wider than the engine takes; between the limits of old and new chips it depends on the chip."""
    kernel = _kernel(op)
    if not kernel or kernel[-1] is None:
        return None
    return _beyond("width", kernel[-1], KERNEL_WIDTH, family)


def kernel_height(op: Op, family: str | None) -> Hit | None:
    """Kernels higher than the engine takes."""
    kernel = _kernel(op)
    if len(kernel) < 2 or kernel[-2] is None:
        return None
    return _beyond("height", kernel[-2], KERNEL_HEIGHT, family)


def stride(op: Op, family: str | None) -> Hit | None:
    """Strides that are no product of two of the engine's factors."""
    if op.kind != "conv":
        return None
    odd = [step for step in op.values("strides") if step not in STRIDES]
    return Hit(f"stride {odd[0]} is no product of two of {STRIDE_FACTORS[1:]}") if odd else None


def dilation(op: Op, family: str | None) -> Hit | None:
    """Dilation: a hint while it was tried, unknown beyond and where the dilated kernel is too wide."""
    steps = op.values("dilations") if op.kind in _CONVOLUTIONS else []
    largest, kernel = max(steps, default=1), _kernel(op)
    if largest <= 1:
        return None
    if largest > LARGEST_TRIED_DILATION:
        return Hit(f"dilation {largest}: tried up to {LARGEST_TRIED_DILATION}", "unknown")
    width = steps[-1] * ((kernel[-1] or 1) - 1) + 1 if kernel else 1
    if width > KERNEL_WIDTH[0]:
        return Hit(f"dilation {steps[-1]} makes the kernel {width} wide, over {KERNEL_WIDTH[0]}", "unknown")
    return Hit(f"dilation {largest}: sources differ")


def weight_at_run_time(op: Op, family: str | None) -> Hit | None:
    """Convolutions whose kernel comes from the network."""
    if op.kind not in _CONVOLUTIONS or not op.at_run_time("weight"):
        return None
    items = shape_of(op, "x")[:1]
    if items and items[0] == 1:
        return Hit("the kernel comes in at run time; one item", "unknown")
    return Hit("the kernel comes in at run time, with more than one item")


def transposed_stride(op: Op, family: str | None) -> Hit | None:
    """conv_transpose of stride 16 and more."""
    largest = max(op.values("strides"), default=1) if op.kind == "conv_transpose" else 1
    return Hit(f"stride {largest}") if largest >= 16 else None


def volume(op: Op, family: str | None) -> Hit | None:
    """Three spatial axes."""
    if op.kind not in _CONVOLUTIONS or len(_kernel(op)) != 3:
        return None
    return Hit(f"kernel {'x'.join(map(str, _kernel(op)))}")


def groups(op: Op, family: str | None) -> Hit | None:
    """Groups that do not divide the cores, but for depthwise convolutions."""
    count = int(op.value("groups", 1)) if op.kind in _CONVOLUTIONS else 1
    channels = shape_of(op, "x")[1:2]
    if count == 1 or CORES % count == 0 or channels == (count,):
        return None
    return Hit(f"{count} groups over {CORES} cores")


def pooling(op: Op, family: str | None) -> Hit | None:
    """Large windows and strides."""
    if op.kind not in _POOLS:
        return None
    window, step = max(op.values("kernel_sizes"), default=1), max(op.values("strides"), default=1)
    if window <= LARGEST_POOL and step <= LARGEST_POOL_STRIDE:
        return None
    return Hit(f"window {window}, stride {step}")


def padding(op: Op, family: str | None) -> Hit | None:
    """Anything but constants on the last two axes."""
    if op.kind != "pad":
        return None
    mode, pad = op.value("mode", "constant"), op.values("pad")
    if mode != "constant":
        return Hit(f"mode {mode}", "unknown")
    return Hit("pads more than the last two axes") if any(pad[:-4]) else None


def normalised_axes(op: Op, family: str | None) -> Hit | None:
    """layer_norm over anything but axis 1 of four."""
    if op.kind != "layer_norm":
        return None
    rank, axes = len(shape_of(op, "x")), op.values("axes")
    if rank == 4 and [axis % 4 for axis in axes] == [1]:
        return None
    return Hit(f"over axes {axes} of {rank}")


def enumerated_norm(op: Op, family: str | None) -> Hit | None:
    """layer_norm in a network of enumerated shapes."""
    enumerated = op.kind == "layer_norm" and op.facts.form == "enumerated"
    return Hit("layer_norm with enumerated shapes") if enumerated else None


def epsilon(op: Op, family: str | None) -> Hit | None:
    """An epsilon that float16 rounds to zero."""
    if op.kind not in _EPSILON or not any(kind.dtype == "fp16" for kind in op.results):
        return None
    found = op.value("epsilon")
    return Hit(f"epsilon {found:.3g}") if found is not None and 0 <= found < SMALLEST_FP16 else None


def softmax_axis(op: Op, family: str | None) -> Hit | None:
    """Softmax over anything but axis 1 of four."""
    if op.kind != "softmax":
        return None
    rank, axis = len(shape_of(op, "x")), int(op.value("axis", -1))
    return None if rank == 4 and axis % 4 == 1 else Hit(f"over axis {axis} of {rank}")


def fused_attention(op: Op, family: str | None) -> Hit | None:
    """The fused operation of iOS 18."""
    if op.kind != "scaled_dot_product_attention":
        return None
    count = elements(shape_of(op, "query"))
    mask = ", with a mask" if op.bound("attn_mask") else ""
    return Hit(
        f"{count:,} elements of queries{mask}" if count is not None else f"queries of unknown size{mask}"
    )


def movement(op: Op, family: str | None) -> Hit | None:
    """Transposes and reshapes that move data."""
    if op.kind == "transpose":
        return Hit(f"transpose {op.values('perm')} of {op.data[0] if op.data else 'a constant'}")
    if op.kind == "reshape" and op.data and op.results:
        before, after = ([size for size in kind.shape if size != 1] for kind in (op.data[0], op.results[0]))
        return Hit(f"reshape of {op.data[0]} to {op.results[0]}") if before != after else None
    return None


def slice_offset(op: Op, family: str | None) -> Hit | None:
    """A slice that begins inside the last axis, on chips before the A15."""
    if family in ("M3", "M4") or not op.data or not op.data[0].shape:
        return None
    rank = len(op.data[0].shape)
    if op.kind == "split":
        return Hit("split along the last axis") if int(op.value("axis", 0)) % rank == rank - 1 else None
    begin = op.values("begin") if op.kind in ("slice_by_index", "slice_by_size") else []
    free = op.values("begin_mask")
    if len(begin) != rank or begin[-1] == 0 or (len(free) == rank and free[-1]):
        return None
    return Hit(f"begins at {begin[-1]} of the last axis")


def private_concat(op: Op, family: str | None) -> Hit | None:
    """concat in hand-written engine programs."""
    return Hit("concat") if op.kind == "concat" else None


def private_gelu(op: Op, family: str | None) -> Hit | None:
    """gelu and silu in hand-written engine programs."""
    return Hit(op.kind) if op.kind in ("gelu", "silu") else None


def branches(op: Op, family: str | None) -> Hit | None:
    """Many values into one operation."""
    count = len(op.data)
    return Hit(f"{count} branches meet in {op.kind}") if count >= BRANCHES else None


def ranged(op: Op, family: str | None) -> Hit | None:
    """Unknown axes where an input has a range of shapes."""
    if op.facts.form != "range":
        return None
    free = next((kind for kind in op.tensors if None in kind.shape), None)
    return None if free is None else Hit(f"{free} follows an input of ranged shape")


def shape_at_run_time(op: Op, family: str | None) -> Hit | None:
    """A shape argument that is computed, or a free axis in a network of fixed shape."""
    computed = next((name for name in _SHAPE_PARAMETERS if op.at_run_time(name)), None)
    if computed is not None:
        return Hit(f"{computed} is computed at run time")
    if op.facts.form != "fixed":
        return None
    free = next((kind for kind in op.results if None in kind.shape), None)
    return None if free is None else Hit(f"{free} is known at run time only")


def border_cast(op: Op, family: str | None) -> Hit | None:
    """Casts between the two floating types."""
    if op.kind != "cast" or not op.data or not op.results:
        return None
    kinds = {op.data[0].dtype, op.results[0].dtype}
    return Hit(f"{op.data[0].dtype} to {op.results[0].dtype}") if kinds == {"fp16", "fp32"} else None


def _kernel(op: Op) -> tuple[int | None, ...]:
    return shape_of(op, "weight")[2:] if op.kind in _CONVOLUTIONS else ()


def _beyond(what: str, size: int, limits: tuple[int, int, int, int], family: str | None) -> Hit | None:
    fits, fails = limit(limits, family)
    if size > fails:
        return Hit(f"kernel {what} {size}, over {fails}")
    return Hit(f"kernel {what} {size}, over the {fits} of the M1", "unknown") if size > fits else None
