"""Faults put into the lowering on purpose: the comparison in float64 that proves packages sees them all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from coreml_graphs import Build, Net, compiled, normal

from rubicc.backends.coreml.lowering import context, conv, gather, gru, linear, recurrent
from rubicc.backends.coreml.twin import TWIN_SNR
from rubicc.errors import RubiccError

Patch = Callable[[pytest.MonkeyPatch], None]


def network() -> Build:
    """A little of everything: convolutions, norms, attention, recurrence, gathers, slices, quantisers."""
    b = Build(x=normal(1, 4, 24), i=np.array([[3, 1, 4, 1, 5, 2, 6, 5, 3, 0, 2, 1]]))
    y = b("Conv", "x", normal(8, 4, 5) / 6, normal(8) / 6, pads=[3, 1], strides=[2], dilations=[1])
    y = b("LeakyRelu", y, alpha=0.1)
    y = b(
        "BatchNormalization",
        y,
        normal(8),
        normal(8, seed=1),
        normal(8, seed=2),
        normal(8, seed=3) ** 2 + 0.5,
        epsilon=0.1,
    )
    level = b(
        "Quant",
        y,
        np.float32(1 / 16),
        np.float32(0),
        np.float32(8),
        signed=1,
        narrow=0,
        rounding_mode="ROUND",
    )
    y = b("Add", b("Add", y, level), b("AveragePool", y, kernel_shape=[3], pads=[1, 1], count_include_pad=1))
    y = b("Transpose", y, perm=[0, 2, 1])
    y = b("Add", y, b("Gather", normal(8, 8) / 6, "i"))
    y = b("LayerNormalization", y, normal(8), normal(8, seed=1), epsilon=0.1)
    y = b("Add", b("MatMul", y, normal(8, 8) / 2), normal(8, seed=4))
    y = b("Gelu", y)
    scores = b("MatMul", y, b("Transpose", y, perm=[0, 2, 1]))
    y = b("MatMul", b("Softmax", b("Mul", scores, np.float32(0.3)), axis=-1), y)
    y = b("Transpose", y, perm=[1, 0, 2])
    for kind, gates, direction in (("GRU", 3, "reverse"), ("LSTM", 4, "forward")):
        shapes = ((1, gates * 8, 8), (1, gates * 8, 8), (1, gates * 16))
        weights = [normal(*shape, seed=k) / 3 for k, shape in enumerate(shapes)]  # far from saturation
        more = {"linear_before_reset": 1} if kind == "GRU" else {}
        made = b(kind, y, *weights, hidden_size=8, direction=direction, **more)
        y = b("Add", y, b("Squeeze", made, np.array([1])))
    y = b("Concat", b("Slice", y, np.array([2]), np.array([8]), np.array([0])), b("Neg", y), axis=0)
    b("LogSoftmax", y, axis=-1)
    return b


def changed(kind: str, **changes: Callable[[Any], Any]) -> Patch:
    """Every operation of ``kind`` gets other arguments."""

    def patch(monkeypatch: pytest.MonkeyPatch) -> None:
        right = context.Context.op

        def op(self: Any, name: str, node: Any, part: str = "", /, **inputs: Any) -> Any:
            if name == kind:
                inputs |= {key: change(inputs.get(key)) for key, change in changes.items()}
            return right(self, name, node, part, **inputs)

        monkeypatch.setattr(context.Context, "op", op)

    return patch


def next_row(c: Any, node: Any, axis: int) -> Any:
    return c.op("add", node, "next", x=c.cast(c.var(node.inputs[1]), "int32"), y=np.int32(1))


def constant(module: Any, name: str, value: Any) -> Patch:
    return lambda monkeypatch: monkeypatch.setattr(module, name, value)


def backwards(pads: list[int]) -> list[int]:
    return [pads[1], pads[0], *pads[2:]]


MUTANTS: dict[str, Patch] = {
    "padding at the other end": changed("conv", pad=backwards),
    "begins and ends of padding exchanged": constant(conv, "interleaved", lambda b, e: [*e, *b]),
    "slope of the leaky rectifier": changed("leaky_relu", alpha=lambda a: a * np.float32(1.01)),
    "epsilon of the batch norm": changed("batch_norm", epsilon=lambda e: e * np.float32(1.01)),
    "mean of the batch norm": changed("batch_norm", mean=lambda m: m * np.float32(1.01)),
    "scale of the quantiser": changed("dequantize", scale=lambda s: s * np.float32(1.01)),
    "padding left out of the average": changed("avg_pool", exclude_padding_from_average=lambda _: True),
    "epsilon of the layer norm": changed("layer_norm", epsilon=lambda e: e * np.float32(2)),
    "no shift in the layer norm": changed("layer_norm", beta=lambda _: None),
    "gelu by tanh": changed("gelu", mode=lambda _: "TANH_APPROXIMATION"),
    "softmax over the queries": changed("softmax", axis=lambda _: -2),
    "keys not turned": changed("matmul", transpose_y=lambda _: False),
    "no bias": changed("linear", bias=lambda _: None),
    "matrix not turned": constant(linear, "_turned", lambda a: a),
    "gates of the GRU in ONNX's order": constant(gru, "_MIL_ORDER", (0, 1, 2)),
    "gates of the LSTM in ONNX's order": constant(recurrent, "_LSTM_ORDER", (0, 1, 2, 3)),
    "reset before the product": changed("gru", reset_after=lambda _: False, input_bias=lambda _: None),
    "not run backwards": changed("reverse", axes=lambda _: [1]),
    "slice one step late": changed("slice_by_index", begin=lambda b: [b[0] + 1, *b[1:]]),
    "parts joined the other way round": changed("concat", values=lambda v: tuple(v)[::-1]),
    "next row of the table": constant(gather, "_indices", next_row),
    "factor of the scores": changed(
        "mul", y=lambda y: y * np.float32(1.001) if isinstance(y, np.float32) else y
    ),
    "sum of the log softmax": changed("reduce_log_sum_exp", axes=lambda _: [0]),
}


def snr(made: Net, build: Build) -> float:
    """Decibels of the fp32 program in float64 against the executor, as in the proof of every package."""
    (want,), (have,) = made.wanted(build.feeds).values(), made.run(build.feeds).values()
    if want.shape != have.shape:
        return -np.inf
    return float(10 * np.log10((want**2).sum() / max(((want - have) ** 2).sum(), 1e-300)))


def test_the_network_itself_passes() -> None:
    build = network()
    assert snr(compiled(build.graph(), target="iOS18"), build) > TWIN_SNR + 10


@pytest.mark.parametrize("name", MUTANTS)
def test_a_fault_is_seen(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    build = network()
    graph = build.graph()
    MUTANTS[name](monkeypatch)
    try:
        made = compiled(graph, target="iOS18")
        found = snr(made, build)
    except RubiccError:
        return  # refused by the builder or by the interpreter: seen, too
    assert found < TWIN_SNR
