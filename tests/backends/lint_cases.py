"""Programs in which every rule of the lint about single operations holds somewhere, and elsewhere does not.

A case expects ``name -> (status, {rule: verdict})`` for each operation it names: those rules and no other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from lint_programs import Inputs, half

Expected = Mapping[str, tuple[str, dict[int, str]]]
OK: tuple[str, dict[int, str]] = ("eligible", {})
IMAGE = ((1, 64, 1, 512), "fp16")


@dataclass(frozen=True)
class Case:
    """A program and what the rules must say of it."""

    name: str
    inputs: Inputs
    build: Callable[..., Any]
    expected: Expected
    options: Mapping[str, Any] = field(default_factory=dict)


CASES: list[Case] = []


def case(inputs: Inputs, expected: Expected, **options: Any) -> Callable[[Callable[..., Any]], Case]:
    """Make a case of a builder of a program; options go to :func:`lint_programs.save`."""

    def made(build: Callable[..., Any]) -> Case:
        found = Case(build.__name__, inputs, build, expected, options)
        CASES.append(found)
        return found

    return made


@case(
    {"x": IMAGE, "w": ((8, 64, 1, 3), "fp16"), "v": ((2, 64, 1, 512), "fp16")},
    {
        "k13": OK,
        "k14": ("unknown", {440: "unknown"}),
        "k17": ("not", {440: "not"}),
        "tall29": OK,
        "tall30": ("unknown", {441: "unknown"}),
        "tall33": ("not", {441: "not"}),
        "s4": OK,
        "s6": OK,
        "s5": ("unknown", {442: "unknown"}),
        "s7": ("unknown", {442: "unknown"}),
        "d2": ("eligible", {443: "hint"}),
        "d2wide": ("unknown", {443: "unknown"}),
        "d9": ("unknown", {443: "unknown"}),
        "g4": OK,
        "g8": ("eligible", {447: "hint"}),
        "depthwise": OK,
        "dynamic1": ("unknown", {444: "unknown"}),
        "dynamic2": ("not", {444: "not"}),
        "up4": OK,
        "up16": ("unknown", {445: "unknown"}),
    },
)
def convolutions(mb: Any, x: Any, w: Any, v: Any) -> list[Any]:
    def conv(name: str, kernel: tuple[int, ...], **more: Any) -> Any:
        out, groups = more.pop("out", 8), more.get("groups", 1)
        weight = half(out, 64 // groups, *kernel)
        return mb.conv(x=x, weight=weight, pad_type="same", name=name, **more)

    return [
        conv("k13", (1, 13)),
        conv("k14", (1, 14)),
        conv("k17", (1, 17)),
        conv("tall29", (29, 1)),
        conv("tall30", (30, 1)),
        conv("tall33", (33, 1)),
        conv("s4", (1, 3), strides=[1, 4]),
        conv("s6", (1, 3), strides=[1, 6]),
        conv("s5", (1, 3), strides=[1, 5]),
        conv("s7", (1, 3), strides=[1, 7]),
        conv("d2", (1, 3), dilations=[1, 2]),
        conv("d2wide", (1, 9), dilations=[1, 2]),
        conv("d9", (1, 2), dilations=[1, 9]),
        conv("g4", (1, 3), groups=4),
        conv("g8", (1, 3), groups=8),
        conv("depthwise", (1, 3), groups=64, out=64),
        mb.conv(x=x, weight=w, pad_type="same", name="dynamic1"),
        mb.conv(x=v, weight=w, pad_type="same", name="dynamic2"),
        mb.conv_transpose(x=x, weight=half(64, 8, 1, 4), strides=[1, 4], name="up4"),
        mb.conv_transpose(x=x, weight=half(64, 8, 1, 13), strides=[1, 16], name="up16"),
    ]


@case(
    {"x": ((1, 4, 544), "fp16"), "y": ((1, 4, 8, 8, 66), "fp16")},
    {
        "line13": OK,
        "line19": ("not", {440: "not"}),
        "volume": ("not", {446: "not", 431: "unknown"}),
    },
)
def one_dimension_and_three(mb: Any, x: Any, y: Any) -> list[Any]:
    return [
        mb.conv(x=x, weight=half(8, 4, 13), pad_type="valid", name="line13"),
        mb.conv(x=x, weight=half(8, 4, 19), pad_type="valid", name="line19"),
        mb.conv(x=y, weight=half(8, 4, 3, 3, 3), pad_type="valid", name="volume"),
    ]


@case(
    {"x": IMAGE, "ids": ((1, 16), "int32"), "h": ((1, 32), "fp32")},
    {
        "relu": OK,
        "sin": ("unknown", {412: "unknown"}),
        "cumsum": ("unknown", {412: "unknown"}),
        "product": ("not", {413: "not"}),
        "both": ("not", {413: "not"}),
        "bits": OK,
        "embedding": ("not", {418: "not"}),
        "rows": ("unknown", {419: "unknown"}),
        "best_0": ("not", {420: "not", 426: "not"}),
        "put": ("not", {417: "not"}),
        "branch": ("not", {415: "not"}),
        "inside": ("not", {415: "not"}),
        "otherwise": ("not", {415: "not"}),
        "gru_0": ("not", {414: "not", 425: "not"}),
        "square": OK,
        "flags": OK,
        "chosen": OK,
    },
)
def types_of_operations(mb: Any, x: Any, ids: Any, h: Any) -> list[Any]:
    steps = mb.transpose(x=mb.squeeze(x=x, axes=[2]), perm=[2, 0, 1])
    square = mb.reshape(x=x, shape=[64, 512], name="square")
    flags = mb.greater(x=x, y=np.float16(0), name="flags")
    some = mb.cast(x=mb.reduce_max(x=ids, axes=[0, 1], keep_dims=False), dtype="bool")
    fixed = np.array([3, 1, 2], np.int32)
    return [
        mb.relu(x=x, name="relu"),
        mb.sin(x=x, name="sin"),
        mb.cumsum(x=x, axis=3, name="cumsum"),
        mb.reduce_prod(x=x, axes=[1], keep_dims=True, name="product"),
        mb.cast(x=mb.logical_and(x=flags, y=flags, name="both"), dtype="fp16", name="bits"),
        mb.gather(x=half(100, 64), indices=ids, axis=0, name="embedding"),
        mb.gather(x=x, indices=fixed, axis=1, name="rows"),
        mb.topk(x=square, k=32, axis=1, output_indices_dtype="int32", name="best")[0],
        mb.scatter(data=x, indices=np.array([0], np.int32), updates=half(1, 1, 1, 512), axis=1, name="put"),
        mb.cond(
            pred=some,
            _true_fn=lambda: mb.tanh(x=x, name="inside"),
            _false_fn=lambda: mb.sigmoid(x=x, name="otherwise"),
            name="branch",
        ),
        mb.gru(
            x=mb.cast(x=steps, dtype="fp32"),
            initial_h=h,
            weight_ih=np.zeros((96, 64), np.float32),
            weight_hh=np.zeros((96, 32), np.float32),
            output_sequence=True,
            name="gru",
        )[0],
        mb.select(cond=flags, a=x, b=x, name="chosen"),
    ]


@case(
    {"x": ((8, 16), "fp16")},
    {"kept": ("not", {416: "not"}), "read": ("not", {416: "not"}), "after": OK},
)
def lists_of_tensors(mb: Any, x: Any) -> Any:
    kept = mb.make_list(init_length=4, dynamic_length=False, elem_shape=(8, 16), dtype="fp16", name="kept")
    filled = mb.list_write(ls=kept, index=0, value=x, name="filled")
    return mb.relu(x=mb.list_read(ls=filled, index=0, name="read"), name="after")


@case(
    {"x": IMAGE, "wide": ((1, 4, 1, 512), "fp32"), "ids": ((1, 16), "int32")},
    {
        "in8": ("eligible", {475: "hint"}),
        "out8": ("eligible", {475: "hint"}),
        "moved8": ("unknown", {427: "unknown", 455: "hint"}),
        "wide_sum": ("not", {425: "not"}),
        "narrowed": ("eligible", {484: "hint"}),
        "whole": ("not", {426: "not"}),
        "place": ("unknown", {426: "unknown"}),
        "far": ("not", {426: "unknown", 435: "not"}),
    },
)
def element_types(mb: Any, x: Any, wide: Any, ids: Any) -> list[Any]:
    small = mb.quantize(input=x, scale=np.float16(0.1), output_dtype="int8", name="in8")
    moved = mb.transpose(x=small, perm=[0, 1, 3, 2], name="moved8")
    return [
        mb.add(x=wide, y=wide, name="wide_sum"),
        mb.cast(x=wide, dtype="fp16", name="narrowed"),
        mb.add(x=ids, y=ids, name="whole"),
        mb.dequantize(input=small, scale=np.float16(0.1), name="out8"),
        mb.dequantize(input=moved, scale=np.float16(1), name="back"),
        mb.reduce_argmax(x=x, axis=1, keep_dims=True, name="place"),
        mb.reduce_argmax(x=mb.reshape(x=x, shape=[8, 4096]), axis=1, name="far"),
    ]


LONG = ((1, 1, 1, 16385), "fp16")


@case(
    {
        "x": IMAGE,
        "long": LONG,
        "longer": ((1, 1, 1, 65537), "fp16"),
        "deep": ((1, 65536, 1, 1), "fp16"),
        "deeper": ((1, 65537, 1, 1), "fp16"),
    },
    {
        "four": OK,
        "five": ("unknown", {431: "unknown"}),
        "long_out": ("unknown", {432: "unknown"}),
        "longer_out": ("not", {432: "not"}),
        "deep_out": ("eligible", {456: "hint"}),
        "deeper_out": ("not", {432: "not", 456: "hint"}),
        "thin": ("eligible", {455: "hint", 456: "hint"}),
        "half": ("eligible", {455: "hint"}),
        "large": ("eligible", {462: "hint"}),
    },
)
def sizes(mb: Any, x: Any, long: Any, longer: Any, deep: Any, deeper: Any) -> list[Any]:
    return [
        mb.relu(x=x, name="four"),
        mb.relu(x=mb.reshape(x=x, shape=[1, 4, 16, 1, 512], name="to5"), name="five"),
        mb.relu(x=long, name="long_out"),
        mb.relu(x=longer, name="longer_out"),
        mb.relu(x=deep, name="deep_out"),
        mb.relu(x=deeper, name="deeper_out"),
        mb.reshape(x=x, shape=[1, 512, 64, 1], name="thin"),
        mb.reshape(x=x, shape=[1, 512, 4, 16], name="half"),
        mb.tile(x=x, reps=[1, 1, 33, 1], name="large"),
    ]


@case(
    {"x": IMAGE, "q": ((1, 4, 64, 32), "fp16")},
    {
        "norm": OK,
        "norm_last": ("eligible", {450: "hint"}),
        "norm_zero": ("eligible", {452: "hint"}),
        "soft": OK,
        "soft_last": ("eligible", {453: "hint"}),
        "fused": ("unknown", {454: "unknown"}),
        "turned": ("eligible", {455: "hint"}),
        "units": OK,
        "cut_0": ("eligible", {458: "hint"}),
        "inner": ("eligible", {458: "hint"}),
        "rows": OK,
        "pair": ("eligible", {460: "hint"}),
        "many": ("eligible", {460: "hint", 463: "hint"}),
        "gelu": ("eligible", {461: "hint"}),
        "pad_last": OK,
        "pad_rows": ("not", {449: "not"}),
        "mirror": ("unknown", {449: "unknown"}),
        "pool13": OK,
        "pool14": ("unknown", {448: "unknown"}),
        "pool_step": ("unknown", {448: "unknown"}),
    },
    target="iOS18",
)
def layers_and_movements(mb: Any, x: Any, q: Any) -> list[Any]:
    parts = mb.split(x=x, num_splits=2, axis=3, name="cut")
    pieces = mb.split(x=x, num_splits=16, axis=1, name="heads")
    zero = np.float16(0)
    return [
        mb.layer_norm(x=x, axes=[1], epsilon=np.float16(1e-5), name="norm"),
        mb.layer_norm(x=x, axes=[3], epsilon=np.float16(1e-5), name="norm_last"),
        mb.layer_norm(x=x, axes=[1], epsilon=zero, name="norm_zero"),
        mb.softmax(x=x, axis=1, name="soft"),
        mb.softmax(x=x, axis=-1, name="soft_last"),
        mb.scaled_dot_product_attention(query=q, key=q, value=q, name="fused"),
        mb.transpose(x=x, perm=[0, 3, 2, 1], name="turned"),
        mb.reshape(x=x, shape=[1, 1, 64, 512], name="units"),
        parts[1],
        mb.slice_by_index(x=x, begin=[0, 0, 0, 16], end=[1, 64, 1, 48], name="inner"),
        mb.slice_by_index(x=x, begin=[0, 8, 0, 0], end=[1, 16, 1, 512], name="rows"),
        mb.concat(values=[x, x], axis=1, name="pair"),
        mb.concat(values=list(pieces), axis=1, name="many"),
        mb.gelu(x=x, mode="EXACT", name="gelu"),
        mb.pad(x=x, pad=[0, 0, 3, 3], mode="constant", constant_val=zero, name="pad_last"),
        mb.pad(x=x, pad=[1, 1, 0, 0, 0, 0], mode="constant", constant_val=zero, name="pad_rows"),
        mb.pad(x=x, pad=[0, 0, 3, 3], mode="reflect", name="mirror"),
        mb.max_pool(x=x, kernel_sizes=[1, 13], strides=[1, 2], pad_type="valid", name="pool13"),
        mb.max_pool(x=x, kernel_sizes=[1, 14], strides=[1, 2], pad_type="valid", name="pool14"),
        mb.avg_pool(x=x, kernel_sizes=[1, 4], strides=[1, 4], pad_type="valid", name="pool_step"),
    ]


def blockwise(mb: Any, blocks: int, dtype: str, **more: Any) -> Any:
    """A weight (32, 64) with one scale per row and block."""
    from coremltools.converters.mil.mil import types

    codes = np.ones((32, 64), np.int8).astype(types.nptype_from_builtin(types.string_to_builtin(dtype)))
    scale = np.full((32, blocks), 0.1, np.float16)
    return mb.constexpr_blockwise_shift_scale(data=codes, scale=scale, **more)


def palette(mb: Any, tables: int, name: str) -> Any:
    """A weight (32, 64) of two-bit codes with ``tables`` look-up tables along its rows."""
    from coremltools.converters.mil.mil import types

    codes = np.zeros((32, 64), np.uint8).astype(types.np_uint2_dtype)
    lut = np.zeros((tables, 1, 4, 1), np.float16)
    return mb.constexpr_lut_to_dense(indices=codes, lut=lut, name=name)


def sparse(mb: Any, every: int, name: str) -> Any:
    """A weight (32, 64) in which one of ``every`` numbers is not zero."""
    from coremltools.converters.mil.mil import types

    mask = (np.arange(32 * 64) % every == 0).reshape(32, 64)
    values = np.ones(int(mask.sum()), np.float16)
    return mb.constexpr_sparse_to_dense(
        nonzero_data=values, mask=mask.astype(types.np_uint1_dtype), name=name
    )


WEIGHT: tuple[str, dict[int, str]] = ("weight", {})


@case(
    {"x": ((8, 64), "fp16")},
    {
        "by_row": ("weight", {476: "hint"}),
        "by_block": ("weight", {470: "hint"}),
        "from_row": OK,
        "from_float_zero": ("not", {471: "not"}),
        "from_whole_zero": OK,
        "few": WEIGHT,
        "many": ("weight", {473: "hint"}),
        "thin": ("weight", {474: "hint"}),
        "empty": WEIGHT,
    },
    target="iOS18",
)
def compressed_weights(mb: Any, x: Any) -> list[Any]:
    zero = np.zeros((32, 1), np.float16)
    whole = np.zeros((32, 1), np.int8)
    weights = {
        "from_row": blockwise(mb, 1, "int8", name="by_row"),
        "from_block": blockwise(mb, 4, "int4", name="by_block"),
        "from_float_zero": blockwise(mb, 1, "int8", offset=zero, name="float_zero"),
        "from_whole_zero": blockwise(mb, 1, "int8", offset=whole, name="whole_zero"),
        "from_few": palette(mb, 4, "few"),
        "from_many": palette(mb, 8, "many"),
        "from_thin": sparse(mb, 2, "thin"),
        "from_empty": sparse(mb, 4, "empty"),
    }
    return [mb.linear(x=x, weight=weight, name=name) for name, weight in weights.items()]


@case({"x": ((8, 64), "fp16")}, {"old8": ("weight", {476: "hint"}), "wide": ("not", {472: "not"})})
def older_weights(mb: Any, x: Any) -> list[Any]:
    codes = np.ones((32, 64), np.int8)
    old = mb.constexpr_affine_dequantize(
        quantized_data=codes, zero_point=np.int8(0), scale=np.float16(0.1), axis=0, name="old8"
    )
    wide = mb.constexpr_cast(source_val=half(32, 64), output_dtype="fp32", name="wide")
    return [
        mb.linear(x=x, weight=old, name="y"),
        mb.matmul(x=mb.cast(x=x, dtype="fp32"), y=mb.transpose(x=wide, perm=[1, 0]), name="z"),
    ]


@case(
    {"x": ((1, 8, 1, 64), "fp16"), "size": ((4,), "int32")},
    {"resized": ("not", {426: "not", 467: "not", 455: "hint"}), "plain": OK},
)
def shapes_from_the_network(mb: Any, x: Any, size: Any) -> list[Any]:
    return [mb.reshape(x=x, shape=size, name="resized"), mb.relu(x=x, name="plain")]
