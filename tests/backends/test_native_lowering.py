"""Emitted graphs as native programs: zoo networks in the kernels against the executor; and refusals."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest

from rubicc.backends.cpu_gpu.native import build
from rubicc.backends.cpu_gpu.native.engine import Kernels
from rubicc.backends.cpu_gpu.native.lower import lower, reasons
from rubicc.backends.cpu_gpu.native.program import Conv, Program, Recurrent
from rubicc.backends.cpu_gpu.prepare import expand_quantisers
from rubicc.errors import Unsupported
from rubicc.ir.executor import execute
from rubicc.ir.graph import Graph
from rubicc.passes.quantize.post_training import Options, quantise

needs_compiler = pytest.mark.skipif(not build.compiler(), reason="no C++ compiler on this machine")
Zoo = Callable[[str], Graph]
NETWORKS = ("demo-ctc", "rubicall-fp", "taiyaki-mgru", "bonito-crf")


def signal(frames: int, items: int = 3) -> np.ndarray:
    return np.random.default_rng(frames).standard_normal((items, 1, frames)).astype(np.float32)


def reference(graph: Graph, x: np.ndarray, dtype: type | None = None) -> np.ndarray:
    kind = None if dtype is None else np.dtype(dtype)
    (out,) = execute(graph, {graph.inputs[0].name or "": x}, dtype=kind).values()
    return out


@needs_compiler
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("frames", [601, 37])
def test_networks_compute_what_their_graphs_say(lowered_zoo: Zoo, name: str, frames: int) -> None:
    graph = lowered_zoo(name)
    x = signal(frames)
    want = reference(graph, x)
    for threads in (1, 2):
        got = Kernels(lower(graph)).run(x, threads)
        assert got.shape == want.shape
        assert np.abs(got - want).max() < 5e-5 * max(1.0, np.abs(want).max())


@needs_compiler
@pytest.mark.parametrize("name", ["demo-ctc", "taiyaki-mgru"])
def test_bf16_is_close(lowered_zoo: Zoo, name: str) -> None:
    graph = lowered_zoo(name)
    x = signal(601)
    want = reference(graph, x)
    got = Kernels(lower(graph, precision="bf16")).run(x, 2)
    assert 10 * np.log10(np.square(want).sum() / np.square(got - want).sum()) > 30
    assert np.abs(got - want).max() > 1e-4  # it is bf16


@needs_compiler
@pytest.mark.parametrize("outputs", [False, True])
def test_int8_graphs_compute_exactly_what_they_say(lowered_zoo: Zoo, outputs: bool) -> None:
    graph = lowered_zoo("demo-ctc")
    found = quantise(graph, [{"x": signal(900)}], options=Options(quantise_outputs=outputs))
    emitted, _ = expand_quantisers(found.graph, integer=True)
    assert not reasons(emitted)
    program = lower(emitted, precision="int8")
    integers = [step for step in program.steps if isinstance(step, Conv) and step.compute == "u8"]
    assert len(integers) == found.evidence["products"] > 5
    x = signal(601)
    want = reference(emitted, x, np.float64)
    assert np.abs(Kernels(program).run(x, 2) - want).max() < 1e-5


@needs_compiler
@pytest.mark.parametrize("mutant", ["reverse", "gates", "bias"])
def test_wrong_recurrence_is_seen(lowered_zoo: Zoo, mutant: str) -> None:
    graph = lowered_zoo("taiyaki-mgru")
    x = signal(200)
    want = reference(graph, x)
    program = lower(graph)
    index, step = next((i, s) for i, s in enumerate(program.steps) if isinstance(s, Recurrent))
    hidden = step.w_hidden.shape[1]
    change = {
        "reverse": {"reverse": not step.reverse},
        "gates": {"w_input": np.roll(step.w_input, hidden, axis=0)},
        "bias": {"bias_input": step.bias_input + np.float32(0.01)},
    }[mutant]
    steps = list(program.steps)
    steps[index] = replace(step, **change)  # type: ignore[arg-type]
    wrong = Kernels(replace(program, steps=tuple(steps))).run(x, 1)
    assert np.abs(wrong - want).max() > 1e-3


def test_program_shape(lowered_zoo: Zoo) -> None:
    program: Program = lower(lowered_zoo("rubicall-fp"))
    assert program.layout == "TNC" and not program.recurrent
    names = [type(step).__name__ for step in program.steps]
    assert names == ["Conv"] * (len(names) - 1) + ["LogSoftmax"]  # everything else is fused
    residual = lower(lowered_zoo("demo-ctc"))
    assert sum(step.add is not None for step in residual.steps if isinstance(step, Conv)) == 3


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("op", "operator Erf"),
        ("axis", "LogSoftmax over another axis"),
        ("auto_pad", "explicit padding"),
    ],
)
def test_what_is_not_recognised_is_a_reason(lowered_zoo: Zoo, change: str, says: str) -> None:
    graph = lowered_zoo("demo-ctc").clone()
    if change == "op":
        node = next(node for node in graph.nodes if node.op_type == "Relu")
        node.op_type = "Erf"
    elif change == "axis":
        node = next(node for node in graph.nodes if node.op_type == "LogSoftmax")
        node.attributes["axis"] = ir.AttrInt64("axis", 0)
    else:
        node = next(node for node in graph.nodes if node.op_type == "Conv")
        node.attributes["auto_pad"] = ir.AttrString("auto_pad", "SAME_UPPER")
    found = reasons(graph)
    assert len(found) == 1 and says in found[0].what and found[0].node == node.name
    with pytest.raises(Unsupported, match="RUB-CPU-063"):
        lower(graph)


def test_a_partial_reversal_is_not_taken_for_one(lowered_zoo: Zoo) -> None:
    graph = lowered_zoo("taiyaki-mgru").clone()
    node = next(node for node in graph.nodes if node.op_type == "Slice")
    short = ir.Value(name="short", const_value=ir.tensor(np.array([0], np.int64), name="short"))
    graph.ir.register_initializer(short)
    node.replace_input_with(2, short)
    assert "Slice other than a reversal" in reasons(graph)[0].what
