"""Bad input to ``rubicc compile --target aie`` through the real command line: exit 2, 3 or 4, the reasons
and no files; and a model whose every name is hostile, which compiles to a project that holds none of them."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from rubicc.cli.main import main

SIGNAL = (1, 1, 64)
FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64


def weights(*shape: int, name: str = "w") -> onnx.TensorProto:
    values = np.random.default_rng(sum(shape)).normal(size=shape) / 4
    return numpy_helper.from_array(values.astype(np.float32), name)


def saved(
    path: Path,
    nodes: Sequence[onnx.NodeProto],
    values: Sequence[onnx.TensorProto],
    shape: Sequence[int | str] = SIGNAL,
    kind: int = FLOAT,
    ends: tuple[str, str] = ("x", "y"),
    name: str = "g",
) -> None:
    """A model file; its output's shape is inferred where it can be."""
    given = [helper.make_tensor_value_info(ends[0], kind, list(shape))]
    made = helper.make_tensor_value_info(ends[1], FLOAT, None)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("evil.example", 1)]
    graph = helper.make_graph(list(nodes), name, given, [made], list(values))
    model = onnx.shape_inference.infer_shapes(helper.make_model(graph, opset_imports=opsets, ir_version=8))
    if not model.graph.output[0].type.tensor_type.HasField("shape"):
        model.graph.output[0].type.tensor_type.shape.Clear()
    onnx.save(model, path)


def op(kind: str, *inputs: str, to: str = "y", **more: Any) -> onnx.NodeProto:
    return helper.make_node(kind, list(inputs), [to], **more)


def good(path: Path) -> None:
    first = [op("Conv", "x", "w", to="a", pads=[2, 2]), op("Relu", "a", to="b")]
    second = op("Conv", "b", "v", pads=[1, 1])
    saved(path, [*first, second], [weights(8, 1, 5), weights(8, 8, 3, name="v")])


def behind(node: onnx.NodeProto, *values: onnx.TensorProto) -> Any:
    """A model with a convolution (8 channels, named ``a``) and then ``node``, which makes ``y``."""
    return lambda path: saved(
        path, [op("Conv", "x", "w", to="a", pads=[2, 2]), node], [weights(8, 1, 5), *values]
    )


def text(content: bytes) -> Any:
    return lambda path: path.write_bytes(content)


def truncated(path: Path) -> None:
    good(path)
    path.write_bytes(path.read_bytes()[:200])


def unknown(path: Path) -> None:
    saved(path, [op("Evil", "x", domain="evil.example")], [])


def recurrent(path: Path) -> None:
    hidden = 1024
    values = [weights(1, 3 * hidden, 8), weights(1, 3 * hidden, hidden, name="r")]
    node = helper.make_node("GRU", ["x", "w", "r"], ["y"], hidden_size=hidden, linear_before_reset=1)
    saved(path, [node], values, shape=(64, 1, 8))


LARGE = weights(256, 8, 9, name="v")
MODELS: dict[str, tuple[Any, tuple[int, ...], str]] = {
    "a file that is not there": (lambda path: None, (2, 3), "RUB-"),
    "an empty file": (text(b""), (3,), "RUB-"),
    "words": (text(b"rm -rf /\n" * 9), (3,), "RUB-"),
    "half a model": (truncated, (3,), "RUB-"),
    "an operator nobody knows": (unknown, (3, 4), "RUB-"),
    "images": (
        lambda path: saved(path, [op("Conv", "x", "w")], [weights(4, 1, 3, 3)], shape=(1, 1, 16, 16)),
        (4,),
        "RUB-AIE-",
    ),
    "tokens": (
        lambda path: saved(
            path,
            [op("Gather", "t", "x", to="a"), op("MatMul", "a", "w")],
            [weights(16, 8, name="t"), weights(8, 4)],
            shape=(1, 16),
            kind=INT64,
        ),
        (4,),
        "RUB-AIE-",
    ),
    "nothing but a softmax": (
        lambda path: saved(path, [op("Softmax", "x", axis=-1)], []),
        (4,),
        "RUB-AIE-002",
    ),
    "a length that is not known": (
        lambda path: saved(path, [op("Conv", "x", "w", pads=[2, 2])], [weights(8, 1, 5)], shape=(1, 1, "T")),
        (2, 4),
        "RUB-",
    ),
    "pooling between layers": (
        lambda path: saved(
            path,
            [
                op("Conv", "x", "w", to="a", pads=[2, 2]),
                op("MaxPool", "a", to="b", kernel_shape=[2], strides=[2]),
                op("Conv", "b", "v", pads=[4, 4]),
            ],
            [weights(8, 1, 5), LARGE],
        ),
        (4,),
        "RUB-",
    ),
    "a stride behind the first layer": (
        behind(op("Conv", "a", "v", strides=[2]), LARGE),
        (4,),
        "RUB-AIE-210",
    ),
    "a transposed convolution": (
        behind(op("ConvTranspose", "a", "v"), weights(8, 256, 9, name="v")),
        (4,),
        "RUB-",
    ),
    "a cell nobody can hold": (recurrent, (4,), "RUB-AIE-"),
}
OPTIONS: dict[str, tuple[list[str], int]] = {
    "a device nobody has": (["--target", "aie:vck5000"], 2),
    "another case": (["--target", "aie:VEK280"], 2),
    "a command behind the device": (["--target", "aie:vek280;touch hacked"], 2),
    "a path as the device": (["--target", "aie:../../etc"], 2),
    "a device whose facts are not public": (["--target", "aie:vek385"], 4),
    "precision fp32": (["--precision", "fp32"], 2),
    "precision fp16": (["--precision", "fp16"], 2),
    "precision int4": (["--precision", "int4"], 2),
    "precision of a command": (["--precision", "$(touch hacked)"], 2),
    "a runtime of another target": (["--runtime", "onnxruntime"], 2),
    "AMD's simulator as the runtime": (["--runtime", "x86sim"], 2),
    "a layout of another target": (["--layout", "polyphase"], 2),
    "an objective that is none": (["--objective", "glory"], 2),
    "no objective": (["--objective", ""], 2),
    "two objectives": (["--objective", "tiles,latency"], 2),
    "no frames": (["--shapes", "x=1x1x0"], 2),
    "another rank": (["--shapes", "x=1x64"], 2),
    "another input": (["--shapes", "z=1x1x64"], 2),
    "shapes that are none": (["--shapes", "x=1x1xmany"], 2),
    "no calibration data": (["--calib", "nowhere"], 2),
    "an option that is none": (["--tiles", "9999"], 2),
}


def refused(home: Path, capsys: pytest.CaptureFixture[str], arguments: list[str]) -> tuple[int, str]:
    """Exit code and what was told; nothing is left behind."""
    before = sorted(home.rglob("*"))
    code = main(["compile", *arguments, "-o", str(home / "out")])
    told = capsys.readouterr().err
    assert "Traceback" not in told and sorted(home.rglob("*")) == before
    assert re.search(r"error\[RUB-[A-Z]+-\d+\]", told), told
    return code, told


@pytest.mark.parametrize("name", MODELS)
def test_models_that_cannot_be_compiled(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make, codes, prefix = MODELS[name]
    make(tmp_path / "model.onnx")
    code, told = refused(tmp_path, capsys, [str(tmp_path / "model.onnx"), "--target", "aie:vek280"])
    assert code in codes and f"error[{prefix}" in told, told
    if code == 4:
        assert "remedy" in told or "·" in told  # each with what helps


@pytest.mark.parametrize("name", OPTIONS)
def test_options_that_cannot_be(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags, wanted = OPTIONS[name]
    good(tmp_path / "model.onnx")
    target = [] if "--target" in flags else ["--target", "aie:vek280"]
    code, told = refused(tmp_path, capsys, [str(tmp_path / "model.onnx"), *target, *flags])
    assert code == wanted, told


EVIL = (
    "x*/ int main(){} /*",
    "$(shell touch hacked)",
    'a\nb"\n#include "/etc/passwd"',
    "`touch hacked`\\",
    '"; touch hacked; "',
    "</script><script>alert(1)</script>",
    "\u202eevil//",
    '%d{"a": [1]}@NAME@',
)


def hostile(path: Path) -> None:
    """Inputs, outputs, nodes, values, weights and the graph have hostile names."""
    nodes = [
        op("Conv", EVIL[0], EVIL[1], to=EVIL[2], name=EVIL[3], pads=[2, 2]),
        op("Relu", EVIL[2], to=EVIL[4], name=EVIL[5]),
        op("Conv", EVIL[4], EVIL[6], to=EVIL[7], name=f'{EVIL[6]}\n#error "x"', pads=[1, 1]),
    ]
    values = [weights(8, 1, 5, name=EVIL[1]), weights(8, 8, 3, name=EVIL[6])]
    saved(path, nodes, values, ends=(EVIL[0], EVIL[7]), name=EVIL[2])


@pytest.mark.slow
def test_hostile_names_reach_neither_make_nor_cpp_nor_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if not shutil.which("g++") or not shutil.which("make"):
        pytest.skip("g++ and make are needed")
    monkeypatch.chdir(tmp_path)
    model = tmp_path / "$(touch hacked);`touch hacked`'.onnx"
    hostile(model)
    assert main(["compile", str(model), "--target", "aie:vek280", "-o", "out"]) == 0, capsys.readouterr().err
    # It was verified, so graph and kernels compiled as they are and every integer was right.
    home = tmp_path / "out" / "aie"
    for path in home.rglob("*"):
        assert re.fullmatch(r"[\w.]+", path.name), path
    for path in home.rglob("*.json"):
        json.loads(path.read_text())
    for path in (home / "project").rglob("*"):
        if path.is_file() and "emulation" not in path.parts:
            told = path.read_text()
            assert not re.search(
                r"\$\(shell|`touch|#error|#include \"/|<script|\u202e|; touch|@NAME@", told
            ), path
    done = subprocess.run(
        ["make", "-n", "x86sim", "aiesim", "hw", "sim"], cwd=home / "project", capture_output=True, text=True
    )
    assert done.returncode == 0 and "touch" not in re.sub(r"\w*touch_hacked\w*", "", done.stdout)
    assert not list(tmp_path.rglob("hacked"))
    ElementTree.parse(home / "array.svg")
    page = (tmp_path / "out" / "report.html").read_text()
    assert "<script" not in page and "\u202e" not in page and page.count('class="cellname"') >= 2
