"""Every rule: an operation that it holds for beside one that it does not, in packages read from disk.

A case is ``name -> (status, {rule: verdict})``; what is not listed must not hold.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lint_programs import half, lint, read, table, with_shapes

from rubicc.backends.coreml.lint.engine import FAMILIES

OK: tuple[str, dict[int, str]] = ("eligible", {})
IMAGE = ((1, 64, 1, 512), "fp16")
SEEN: set[int] = set()  # rules that a case here makes hold; the last test wants all of them


def check(report: Any, cases: dict[str, tuple[str, dict[int, str]]]) -> None:
    found = table(report, list(cases))
    assert found == cases
    for _, held in cases.values():
        SEEN.update(held)
    SEEN.add(410)


def test_convolutions(tmp_path: Path) -> None:
    def build(mb: Any, x: Any, w: Any, v: Any) -> list[Any]:
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

    inputs = {"x": IMAGE, "w": ((8, 64, 1, 3), "fp16"), "v": ((2, 64, 1, 512), "fp16")}
    report = lint(read(tmp_path, inputs, build))
    check(
        report,
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
    assert report.counts["not"] == 3 and report.counts["unknown"] == 8 and report.operations == 20
    assert {a.rule[-3:] for a in report.package if a.verdict == "hint"} >= {
        "434",
        "457",
    }  # two items; length 513


def test_one_dimension_and_three(tmp_path: Path) -> None:
    def build(mb: Any, x: Any, y: Any) -> list[Any]:
        return [
            mb.conv(x=x, weight=half(8, 4, 13), pad_type="valid", name="line13"),
            mb.conv(x=x, weight=half(8, 4, 19), pad_type="valid", name="line19"),
            mb.conv(x=y, weight=half(8, 4, 3, 3, 3), pad_type="valid", name="volume"),
        ]

    report = lint(read(tmp_path, {"x": ((1, 4, 544), "fp16"), "y": ((1, 4, 8, 8, 66), "fp16")}, build))
    check(
        report,
        {
            "line13": OK,
            "line19": ("not", {440: "not"}),
            "volume": ("not", {446: "not", 431: "unknown"}),
        },
    )


def test_types_of_operations(tmp_path: Path) -> None:
    def build(mb: Any, x: Any, ids: Any, h: Any) -> list[Any]:
        steps = mb.transpose(x=mb.squeeze(x=x, axes=[2]), perm=[2, 0, 1])
        square = mb.reshape(x=x, shape=[64, 512], name="square")
        flags = mb.greater(x=x, y=np.float16(0), name="flags")
        fixed = np.array([3, 1, 2], np.int32)
        outs = [
            mb.relu(x=x, name="relu"),
            mb.sin(x=x, name="sin"),
            mb.cumsum(x=x, axis=3, name="cumsum"),
            mb.reduce_prod(x=x, axes=[1], keep_dims=True, name="product"),
            mb.cast(x=mb.logical_and(x=flags, y=flags, name="both"), dtype="fp16", name="bits"),
            mb.gather(x=half(100, 64), indices=ids, axis=0, name="embedding"),
            mb.gather(x=x, indices=fixed, axis=1, name="rows"),
            mb.topk(x=square, k=32, axis=1, output_indices_dtype="int32", name="best")[0],
            mb.scatter(
                data=x, indices=np.array([0], np.int32), updates=half(1, 1, 1, 512), axis=1, name="put"
            ),
            mb.cond(
                pred=mb.cast(x=mb.reduce_max(x=ids, axes=[0, 1], keep_dims=False), dtype="bool"),
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
        return outs

    inputs = {"x": IMAGE, "ids": ((1, 16), "int32"), "h": ((1, 32), "fp32")}
    report = lint(read(tmp_path, inputs, build))
    found = table(report, ["best_0", "gru_0"])
    check(
        report,
        {
            "relu": OK,
            "sin": ("unknown", {412: "unknown"}),
            "cumsum": ("unknown", {412: "unknown"}),
            "product": ("not", {413: "not"}),
            "both": ("not", {413: "not"}),
            "bits": OK,
            "embedding": ("not", {418: "not"}),
            "rows": ("unknown", {419: "unknown"}),
            "put": ("not", {417: "not"}),
            "branch": ("not", {415: "not"}),
            "inside": ("not", {415: "not"}),
            "otherwise": ("not", {415: "not"}),
            "square": OK,
            "flags": OK,
            "chosen": OK,
        },
    )
    assert found["best_0"] == ("not", {420: "not", 426: "not"})
    assert found["gru_0"] == ("not", {414: "not", 425: "not"})
    SEEN.update({414, 420, 425, 426})


def test_element_types(tmp_path: Path) -> None:
    def build(mb: Any, x: Any, wide: Any, ids: Any) -> list[Any]:
        small = mb.quantize(input=x, scale=np.float16(0.1), output_dtype="int8", name="in8")
        return [
            mb.add(x=wide, y=wide, name="wide"),
            mb.cast(x=wide, dtype="fp16", name="narrowed"),
            mb.add(x=ids, y=ids, name="whole"),
            mb.dequantize(input=small, scale=np.float16(0.1), name="out8"),
            mb.dequantize(
                input=mb.transpose(x=small, perm=[0, 1, 3, 2], name="moved8"),
                scale=np.float16(1),
                name="back",
            ),
            mb.reduce_argmax(x=x, axis=1, keep_dims=True, name="place"),
            mb.reduce_argmax(x=mb.reshape(x=x, shape=[8, 4096]), axis=1, name="far"),
        ]

    inputs = {"x": IMAGE, "wide": ((1, 4, 1, 512), "fp32"), "ids": ((1, 16), "int32")}
    check(
        lint(read(tmp_path, inputs, build)),
        {
            "in8": ("eligible", {475: "hint"}),
            "out8": ("eligible", {475: "hint"}),
            "moved8": ("unknown", {427: "unknown", 455: "hint"}),
            "wide": ("not", {425: "not"}),
            "narrowed": ("eligible", {484: "hint"}),
            "whole": ("not", {426: "not"}),
            "place": ("unknown", {426: "unknown"}),
            "far": ("not", {426: "unknown", 435: "not"}),
        },
    )


def test_sizes(tmp_path: Path) -> None:
    def build(mb: Any, x: Any, long: Any, longer: Any, deep: Any) -> list[Any]:
        return [
            mb.relu(x=x, name="four"),
            mb.relu(x=mb.reshape(x=x, shape=[1, 4, 16, 1, 512], name="to5"), name="five"),
            mb.relu(x=long, name="long"),
            mb.relu(x=longer, name="longer"),
            mb.relu(x=deep, name="deep"),
            mb.reshape(x=x, shape=[1, 512, 64, 1], name="thin"),
            mb.reshape(x=x, shape=[1, 512, 4, 16], name="half"),
            mb.tile(x=x, reps=[1, 1, 33, 1], name="large"),
        ]

    inputs = {
        "x": IMAGE,
        "long": ((1, 1, 1, 16385), "fp16"),
        "longer": ((1, 1, 1, 65537), "fp16"),
        "deep": ((1, 65536, 1, 1), "fp16"),
    }
    package = read(tmp_path, inputs, build)
    cases = {
        "four": OK,
        "five": ("unknown", {431: "unknown"}),
        "long": ("unknown", {432: "unknown"}),
        "longer": ("not", {432: "not"}),
        "deep": ("eligible", {456: "hint"}),
        "thin": ("eligible", {455: "hint", 456: "hint"}),
        "half": ("eligible", {455: "hint"}),
        "large": ("eligible", {462: "hint"}),
    }
    check(lint(package), cases)
    by_chip = {family: table(lint(package, family=family), ["long"])["long"] for family in FAMILIES}
    assert by_chip == {
        family: ("eligible", {}) if family == "M4" else ("not", {432: "not"}) for family in FAMILIES
    }


def test_normalisation_attention_and_movement(tmp_path: Path) -> None:
    def build(mb: Any, x: Any, q: Any) -> list[Any]:
        parts = mb.split(x=x, num_splits=2, axis=3, name="cut")
        pieces = mb.split(x=x, num_splits=16, axis=1, name="heads")
        return [
            mb.layer_norm(x=x, axes=[1], epsilon=np.float16(1e-5), name="norm"),
            mb.layer_norm(x=x, axes=[3], epsilon=np.float16(1e-5), name="norm_last"),
            mb.layer_norm(x=x, axes=[1], epsilon=np.float16(0), name="norm_zero"),
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
            mb.pad(x=x, pad=[0, 0, 3, 3], mode="constant", constant_val=np.float16(0), name="pad_last"),
            mb.pad(x=x, pad=[1, 1, 0, 0, 0, 0], mode="constant", constant_val=np.float16(0), name="pad_rows"),
            mb.pad(x=x, pad=[0, 0, 3, 3], mode="reflect", name="mirror"),
            mb.max_pool(x=x, kernel_sizes=[1, 13], strides=[1, 2], pad_type="valid", name="pool13"),
            mb.max_pool(x=x, kernel_sizes=[1, 14], strides=[1, 2], pad_type="valid", name="pool14"),
            mb.avg_pool(x=x, kernel_sizes=[1, 4], strides=[1, 4], pad_type="valid", name="pool_step"),
        ]

    report = lint(read(tmp_path, {"x": IMAGE, "q": ((1, 4, 64, 32), "fp16")}, build, target="iOS18"))
    private = {460: "hint"}
    check(
        report,
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
            "pair": ("eligible", private),
            "many": ("eligible", {460: "hint", 463: "hint"}),
            "gelu": ("eligible", {461: "hint"}),
            "pad_last": OK,
            "pad_rows": ("not", {449: "not"}),
            "mirror": ("unknown", {449: "unknown"}),
            "pool13": OK,
            "pool14": ("unknown", {448: "unknown"}),
            "pool_step": ("unknown", {448: "unknown"}),
        },
    )
    newer = table(
        lint(read(tmp_path, {"x": IMAGE, "q": ((1, 4, 64, 32), "fp16")}, build, target="iOS18"), family="M3"),
        ["inner"],
    )
    assert newer["inner"] == OK


def test_sizes_that_coremltools_does_not_write(tmp_path: Path) -> None:
    """Six axes and empty tensors: the results of a package read from disk, given other types."""
    package = read(
        tmp_path, {"x": IMAGE}, lambda mb, x: [mb.relu(x=x, name="six"), mb.relu(x=x, name="empty")]
    )
    shapes = {"six": (1, 1, 1, 1, 4, 32), "empty": (1, 64, 1, 0)}
    check(
        lint(with_shapes(package, shapes)),
        {"six": ("not", {430: "not"}), "empty": ("not", {433: "not"})},
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_a_named_chip_settles_what_depends_on_it(tmp_path: Path, family: str) -> None:
    def build(mb: Any, x: Any) -> list[Any]:
        return [
            mb.conv(x=x, weight=half(8, 64, 1, 14), pad_type="same", name="k14"),
            mb.sin(x=x, name="sin"),
            mb.cumsum(x=x, axis=3, name="cumsum"),
        ]

    found = table(lint(read(tmp_path, {"x": IMAGE}, build), family=family), ["k14", "sin", "cumsum"])
    assert found["k14"][0] == ("not" if family == "M1" else "eligible")
    assert found["sin"][0] == ("eligible" if family in ("M3", "M4") else "not")
    assert found["cumsum"][0] == "unknown"
