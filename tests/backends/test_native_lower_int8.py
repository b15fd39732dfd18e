"""Quantised graphs made by hand: the program's integers are those of the executor in float64, all of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest
from native_graphs import graph, int8, node, shape_of, signal, weights

from rubicc.backends.cpu_gpu.native import reference
from rubicc.backends.cpu_gpu.native.lower import lower, reasons
from rubicc.backends.cpu_gpu.native.program import Conv, Elementwise, Program, Quantised, Recurrent
from rubicc.ir.executor import execute
from rubicc.ir.graph import Graph

Nodes = list[onnx.NodeProto]
Constants = dict[str, np.ndarray]


def qdq(x: str, name: str, constants: Constants, scale: float, zero: int, kind: type = np.uint8) -> Nodes:
    """``x`` rounded to 8 bits: integers are ``name_q``, the value is ``name``."""
    constants |= {f"{name}_s": np.array(scale, np.float32), f"{name}_z": np.array(zero, kind)}
    return [
        node("QuantizeLinear", f"{x} {name}_s {name}_z", f"{name}_q"),
        node("DequantizeLinear", f"{name}_q {name}_s {name}_z", name),
    ]


def scaled(name: str, constants: Constants, shape: tuple[int, ...], axis: int = 0, seed: int = 0) -> Nodes:
    """An int8 weight ``name`` with a scale per output."""
    outputs, rest = shape[axis], np.prod(shape) / shape[axis]
    rng = np.random.default_rng((seed, *shape))
    constants |= {
        f"{name}_i": int8(*shape, seed=seed),
        f"{name}_s": rng.uniform(0.01, 0.03, outputs) / np.sqrt(rest),
        f"{name}_z": np.zeros(outputs, np.int8),
    }
    return [node("DequantizeLinear", f"{name}_i {name}_s {name}_z", name, axis=axis)]


def network(residual: str = "float", kind: type = np.uint8) -> Graph:
    """Strided stem, SiLU, grouped and pointwise convolutions around a residual, int8 linear head.

    Args:
        residual: the sum reads the ``float`` stem, its ``quantised`` value, or both sides ``rounded``.
        kind: of the stem's input quantiser.
    """
    c: Constants = {
        "stem_bias_i": int8(16, seed=9).astype(np.int32) * 90, "stem_bias_s": np.full(16, 1e-4),
        "group_bias": weights(16) * 0.1, "head_bias": weights(5, seed=3),
    }  # fmt: skip
    zero = 12 if kind is np.int8 else 130
    nodes = qdq("x", "xq", c, 0.031, zero, kind)
    nodes += scaled("stem_w", c, (16, 1, 9))
    nodes += [
        node("DequantizeLinear", "stem_bias_i stem_bias_s", "stem_bias", axis=0),
        node("Conv", "xq stem_w stem_bias", "stem", strides=[3], pads=[4, 4]),
        node("Sigmoid", "stem", "gate"),
        node("Mul", "stem gate", "silu"),
    ]
    nodes += qdq("silu", "a", c, 0.017, 16)
    nodes += scaled("group_w", c, (16, 4, 5), seed=1)
    nodes += [node("Conv", "a group_w group_bias", "grouped", group=4, pads=[4, 4], dilations=[2])]
    nodes += qdq("grouped", "b", c, 0.013, 120)
    nodes += scaled("point_w", c, (16, 16, 1), seed=2)
    nodes += [node("Conv", "b point_w", "point")]
    left, right = "point", {"float": "silu", "quantised": "a", "rounded": "skip_r"}[residual]
    if residual == "rounded":
        nodes += scaled("skip_w", c, (16, 16, 1), seed=4)
        nodes += [node("Conv", "a skip_w", "skip")]
        nodes += qdq("point", "point_r", c, 0.02, 128) + qdq("skip", "skip_r", c, 0.019, 126)
        left = "point_r"
    nodes += [node("Add", f"{left} {right}", "sum"), node("Relu", "sum", "relu")]
    nodes += qdq("relu", "d", c, 0.011, 0)
    nodes += scaled("head_w", c, (16, 5), axis=1, seed=5)
    nodes += [
        node("Transpose", "d", "turned", perm=[2, 0, 1]),
        node("MatMul", "turned head_w", "head"),
        node("Add", "head head_bias", "scores"),
        node("LogSoftmax", "scores", "y", axis=-1),
    ]
    return graph(nodes, c)


def integers(program: Program, x: np.ndarray) -> dict[str, np.ndarray]:
    """What every 8-bit buffer stores, by ONNX name."""
    held, _ = reference.values(program, x)
    found = {}
    for index, buffer in enumerate(program.buffers):
        if buffer.quant is not None and index in held:
            found[buffer.name] = np.rint(held[index] / buffer.quant.scale) + buffer.quant.zero_point
    return found


def differing(program: Program, graph: Graph, frames: int, shift: int = 0) -> int:
    """Integers that are not the executor's."""
    x = signal(frames)
    wanted = execute(graph, {"x": x}, dtype=np.dtype(np.float64), keep="all")
    found = integers(program, x)
    assert len(found) >= 4
    wrong = 0
    for name, got in found.items():
        want = wanted[name].astype(int)
        want = want + 128 if wanted[name].dtype == np.int8 else want
        wrong += int((want != got).sum()) if want.shape == got.shape else want.size
    return wrong


@pytest.mark.parametrize("kind", [np.uint8, np.int8])
@pytest.mark.parametrize("residual", ["float", "quantised", "rounded"])
def test_every_integer_is_the_executors(residual: str, kind: type) -> None:
    made = network(residual, kind)
    assert reasons(made) == ()
    program = lower(made, precision="int8")
    for frames in (40, 61, 300):
        assert differing(program, made, frames) == 0
        x = signal(frames)
        (want,) = execute(made, {"x": x}, dtype=np.dtype(np.float64)).values()
        np.testing.assert_allclose(reference.run(program, x), want, rtol=0, atol=1e-6)


def test_what_is_fused() -> None:
    program = lower(network("float"))
    convs = [step for step in program.steps if isinstance(step, Conv)]
    assert {conv.compute for conv in convs} == {"u8"} and {conv.weight.dtype for conv in convs} == {
        np.dtype(np.int8)
    }
    # Only the input and the stem, which the sum reads in float, are rounded by steps of their own.
    assert sum(isinstance(step, Elementwise) for step in program.steps) == 2
    assert [f.function for f in convs[0].activations] == ["silu"]
    joined = lower(network("rounded"))
    (conv,) = [step for step in joined.steps if isinstance(step, Conv) and step.add is not None]
    assert conv.output_quant is not None and conv.activations[0].function == "relu"
    assert joined.buffers[conv.add or 0].kind == joined.buffers[conv.y].kind == "u8"
    quantised = lower(network("quantised"))
    assert sum(isinstance(step, Elementwise) for step in quantised.steps) == 1
    (conv,) = [step for step in quantised.steps if isinstance(step, Conv) and step.add is not None]
    assert quantised.buffers[conv.add or 0].kind == "u8"


def test_one_rounding_serves_all_who_ask_for_the_same() -> None:
    c: Constants = {}
    nodes = qdq("x", "a", c, 0.03, 128) + qdq("x", "b", c, 0.03, 128)
    nodes += scaled("u", c, (8, 1, 3)) + scaled("v", c, (8, 1, 3), seed=1)
    nodes += [
        node("Conv", "a u", "one", pads=[1, 1]),
        node("Conv", "b v", "two", pads=[1, 1]),
        node("Add", "one two", "y"),
    ]
    program = lower(graph(nodes, c))
    assert sum(buffer.kind == "u8" for buffer in program.buffers) == 1 and len(program.steps) == 3


def change(program: Program, nth: int, **fields: Any) -> Program:
    steps = list(program.steps)
    at = [i for i, step in enumerate(steps) if isinstance(step, Conv)][nth]
    steps[at] = replace(steps[at], **fields)
    return replace(program, steps=tuple(steps))


def test_wrong_integers_are_noticed() -> None:
    made = network("rounded")
    program = lower(made)
    convs = [step for step in program.steps if isinstance(step, Conv)]
    weight = convs[1].weight.copy()
    weight[3, 1, 2] += 1
    moved = [
        replace(b, quant=Quantised(b.quant.scale, b.quant.zero_point + 1)) if b.quant is not None else b
        for b in program.buffers
    ]
    at = next(i for i, b in enumerate(program.buffers) if b.kind == "u8")
    mutants = [
        replace(program, buffers=tuple(moved[i] if i == at else b for i, b in enumerate(program.buffers))),
        change(program, 0, pads=(3, 5)),
        change(program, 1, dilation=1, pads=(2, 2)),
        change(program, 1, weight=weight),
        change(program, 1, groups=2, weight=np.repeat(convs[1].weight, 2, axis=1)),
        change(program, 0, activations=()),
        *(change(program, n, output_quant=None) for n, conv in enumerate(convs) if conv.output_quant),
    ]
    for place, mutant in enumerate(mutants):
        assert differing(mutant, made, 61) > 0, f"mutant {place} went unnoticed"


def recurrent(quantised: bool, zero: int = 0) -> Graph:
    c: Constants = {"b": weights(1, 96) * 0.1, "conv": weights(12, 1, 5), "one": shape_of(1)}
    c |= {
        "w_i": int8(1, 48, 12), "r_i": int8(1, 48, 12, seed=1),
        "w_s": np.full(48, 0.004), "r_s": np.full(48, 0.003), "zeros": np.full(48, zero, np.int8),
    }  # fmt: skip
    nodes = [
        node("Conv", "x conv", "c", pads=[2, 2], strides=[2]),
        node("Tanh", "c", "t"),
        *(qdq("t", "tq", c, 1 / 127, 128) if quantised else [node("Identity", "t", "tq")]),
        node("Transpose", "tq", "seq", perm=[2, 0, 1]),
        node("DequantizeLinear", "w_i w_s zeros", "w", axis=1),
        node("DequantizeLinear", "r_i r_s zeros", "r", axis=1),
        node("LSTM", "seq w r b", "out", hidden_size=12),
        node("Squeeze", "out one", "y"),
    ]
    return graph(nodes, c)


def test_recurrent_layers_compute_in_8_bits_only_where_both_sides_are_quantised() -> None:
    x = signal(61)

    def layer(made: Graph, precision: str) -> Recurrent:
        return next(s for s in lower(made, precision=precision).steps if isinstance(s, Recurrent))

    for quantised, precision, compute in (
        (True, "int8", "u8"), (True, "mixed", "u8"), (True, "fp32", "f32"), (True, "bf16", "bf16"),
        (False, "int8", "bf16"), (False, "fp32", "f32"),
    ):  # fmt: skip
        made = recurrent(quantised)
        assert layer(made, precision).compute == compute
        (want,) = execute(made, {"x": x}, dtype=np.dtype(np.float64)).values()
        got = reference.run(lower(made, precision=precision), x)
        assert np.abs(got - want).max() < (1e-6 if compute == "f32" else 0.03)
    step = layer(recurrent(True), "int8")
    assert step.x_quant == Quantised(float(np.float32(1 / 127)), 128)
    assert step.weight_scale_input is not None and step.weight_scale_input.shape == (48,)
    np.testing.assert_array_equal(np.rint(step.w_input / 0.004), int8(1, 48, 12)[0])


def test_unusual_quantisers_are_refused() -> None:
    assert "constant with a zero point" in reasons(recurrent(False, zero=1))[0].what
    for edit, says in (
        ({"xq_s": np.array([0.1, 0.2], np.float32)}, "8 bits with one scale"),
        ({"xq_s": np.array(0.0, np.float32)}, "scale 0.0"),
        ({"xq_z": np.array(3, np.uint16)}, "8 bits with one scale"),
        ({"stem_w_s": np.full(3, 0.1)}, "scales of shape"),
    ):
        made = network()
        for name, array in edit.items():
            import onnx_ir as ir

            value = made.ir.initializers[name]
            value.const_value = ir.tensor(array.astype(np.float32) if array.dtype == float else array)
        assert says in reasons(made)[0].what


def test_integers_that_are_read_as_such_are_refused() -> None:
    c: Constants = {"z2": np.array(129, np.uint8)}
    nodes = qdq("x", "a", c, 0.03, 128)
    nodes[1] = node("DequantizeLinear", "a_q a_s z2", "a")
    assert "does not undo" in reasons(graph([*nodes, node("Relu", "a", "y")], c))[0].what
    nodes = qdq("x", "a", c, 0.03, 128)
    assert "integers of a quantiser" in reasons(graph([*nodes, node("Relu", "a_q", "y")], c))[0].what


def test_int8_weights_without_a_quantised_input_compute_in_float() -> None:
    c: Constants = {}
    nodes = [*scaled("w", c, (8, 1, 3)), node("Conv", "x w", "y", pads=[1, 1])]
    made = graph(nodes, c)
    program = lower(made)
    (step,) = program.steps
    assert isinstance(step, Conv) and step.compute == "f32" and step.weight_scale is None
    assert "not quantised" in program.notes[0]
    x = signal(30)
    (want,) = execute(made, {"x": x}, dtype=np.dtype(np.float64)).values()
    np.testing.assert_allclose(reference.run(program, x), want, rtol=0, atol=1e-6)
