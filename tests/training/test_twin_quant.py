"""Quantisers in the twin: forward exactly the executor's, backward straight through."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from onnx import helper
from torch import Tensor

from rubicc.ir.executor import execute
from rubicc.ir.graph import QONNX_DOMAIN, Graph
from rubicc.ir.ops.quant import ROUNDING as NUMPY_ROUNDING
from rubicc.training.ops.straight import ROUNDING
from rubicc.training.twin import Twin
from tests.training.test_twin import graph_of
from tests.training.test_twin_gradients import pull
from tests.training.twin_zoo import gap

RNG = np.random.default_rng(7)
SCALES = {"tensor": np.float32(0.37), "channel": np.float32([[[0.37], [0.11], [1.3]]])}


def quantiser(
    scale: np.ndarray,
    zero: float = 0,
    bits: float = 4,
    *,
    weight: np.ndarray | None = None,
    **attributes: object,
) -> Graph:
    """One Quant of the input ``x`` (N, 3, T), or of a weight that is added to it."""
    weights = {"s": scale, "z": np.float32(zero), "b": np.float32(bits)}
    of = "x" if weight is None else "w"
    nodes = [
        helper.make_node("Quant", [of, "s", "z", "b"], ["q"], domain=QONNX_DOMAIN, name="quant", **attributes)
    ]
    if weight is not None:
        weights["w"] = weight
        nodes.append(helper.make_node("Conv", ["x", "q"], ["y"], name="conv"))
    out = "q" if weight is None else "y"
    graph = graph_of(nodes, {"x": ["N", 3, "T"]}, {out: ["N", 3, "U"]}, weights)
    return graph


def values() -> np.ndarray:
    """Noise, and values on the edges between levels."""
    x = RNG.uniform(-4, 4, (2, 3, 40)).astype(np.float32)
    x[:, :, :17] = (np.arange(-8, 9) / 2 * 0.37).astype(np.float32)
    return x


def test_the_rounding_modes_are_the_executors() -> None:
    assert set(ROUNDING) == set(NUMPY_ROUNDING)
    x = np.arange(-40, 41) / 8
    for name, function in NUMPY_ROUNDING.items():
        np.testing.assert_array_equal(ROUNDING[name](torch.from_numpy(x)).numpy(), function(x))


@pytest.mark.parametrize("mode", sorted(ROUNDING))
@pytest.mark.parametrize("form", ["tensor", "channel"])
def test_forward_is_exact(mode: str, form: str) -> None:
    for signed in (0, 1):
        for narrow in (0, 1):
            for zero, bits in ((0, 4), (-3, 3), (2, 8), (0, 1)):
                form_of = {"signed": signed, "narrow": narrow, "rounding_mode": mode}
                graph = quantiser(SCALES[form], zero, bits, **form_of)
                x = values()
                for dtype in (torch.float32, torch.float64):
                    got = Twin(graph, dtype=dtype)({"x": torch.from_numpy(x)})["q"].numpy()
                    carried = None if dtype == torch.float32 else np.dtype(np.float64)
                    np.testing.assert_array_equal(got, execute(graph, {"x": x}, dtype=carried)["q"])


def test_a_weight_is_rounded_in_the_type_it_is_stored_in() -> None:
    """At edges float32 and float64 round apart; every runtime decides in float32."""
    scale = np.float32(0.1)
    edges = (np.arange(-6, 6) + 0.5).astype(np.float32) * scale
    weight = edges.reshape(4, 3, 1)
    graph = quantiser(scale, weight=weight)
    twin = Twin(graph, dtype=torch.float64)
    twin.keep({"q"})
    x = RNG.standard_normal((1, 3, 5)).astype(np.float32)
    want = execute(graph, {"x": x}, dtype=np.dtype(np.float64), keep=["q"])["q"]
    got = twin({"x": torch.from_numpy(x)})["q"]
    np.testing.assert_array_equal(got.detach().numpy(), want)
    wide = np.clip(np.round(weight.astype(np.float64) / np.float64(scale)), -8, 7) * np.float64(scale)
    assert not np.array_equal(want, wide)


def through(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Straight-through rounding by torch's own rules."""
    return x + (function(x) - x).detach()


@pytest.mark.parametrize("form", ["tensor", "channel"])
@pytest.mark.parametrize("zero", [0.0, 2.0])
def test_gradients_of_input_and_scale(form: str, zero: float) -> None:
    graph = quantiser(SCALES[form], zero, 4, signed=1, narrow=0)
    twin = Twin(graph, learned_scales=True, dtype=torch.float64)
    x = torch.from_numpy(values().astype(np.float64)).requires_grad_()
    pull(twin({"x": x})["q"]).backward()
    plain = x.detach().clone().requires_grad_()
    scale = torch.from_numpy(np.array(SCALES[form], np.float64)).requires_grad_()
    levels = torch.clamp(plain / scale + zero, -8, 7)
    pull((through(torch.round, levels) - zero) * scale).backward()
    assert gap(x.grad, plain.grad) <= 1e-12
    assert 0.1 < float((x.grad == 0).double().mean()) < 0.9, "some values are clipped, some are not"
    elements = 3 * 40 / scale.numel()  # of one sequence, by scale
    assert gap(twin.get_parameter("s").grad, scale.grad / np.sqrt(elements * 7)) <= 1e-12


def test_training_moves_scales_and_keeps_them_positive() -> None:
    weight = RNG.standard_normal((3, 3, 1)).astype(np.float32)
    graph = quantiser(np.full((3, 1, 1), 0.3, np.float32), bits=4, weight=weight)
    twin = Twin(graph, learned_scales=True)
    x = torch.from_numpy(values())
    target = twin({"x": x})["y"].detach() * 0.5
    optimiser = torch.optim.SGD(twin.parameters(), lr=5e-2)
    for _ in range(5):
        optimiser.zero_grad()
        loss = (twin({"x": x})["y"] - target).square().mean()
        loss.backward()
        optimiser.step()
    scale = twin.get_parameter("s")
    assert not torch.equal(scale.detach(), torch.full((3, 1, 1), 0.3))
    with torch.no_grad():
        scale[0] = -scale[0]  # a step too long
        scale[1] = 0.0
    written = twin.write_back()
    stored = written.ir.initializers["s"].const_value.numpy()
    assert stored.min() > 0 and stored[1] < 1e-6
    want = execute(written, {"x": values()})["y"]
    assert np.isfinite(want).all()
    given = values()
    got = twin({"x": torch.from_numpy(given)})["y"]
    assert gap(got, execute(written, {"x": given})["y"]) < 1e-5


@pytest.mark.parametrize("op", ["BipolarQuant", "one bit"])
def test_signs(op: str) -> None:
    scale = np.float32(0.8)
    if op == "BipolarQuant":
        nodes = [helper.make_node("BipolarQuant", ["x", "s"], ["q"], domain=QONNX_DOMAIN, name="sign")]
        graph = graph_of(nodes, {"x": ["N", 3, "T"]}, {"q": ["N", 3, "T"]}, {"s": scale})
    else:
        graph = quantiser(scale, bits=1, signed=1)
    twin = Twin(graph, learned_scales=True, dtype=torch.float64)
    x = torch.from_numpy(values().astype(np.float64)).requires_grad_()
    got = twin({"x": x})["q"]
    np.testing.assert_array_equal(
        got.detach().numpy(), execute(graph, {"x": values_of(x)}, dtype=np.dtype(np.float64))["q"]
    )
    got.sum().backward()
    assert torch.equal(x.grad, (x.detach().abs() <= float(np.float64(scale))).double())
    share = 1 / np.sqrt(3 * 40)
    assert gap(twin.get_parameter("s").grad, torch.sign(got.detach()).sum() * share) <= 1e-12


def values_of(x: Tensor) -> np.ndarray:
    """A float64 leaf that came from float32, as float32."""
    return x.detach().numpy().astype(np.float32)


@pytest.mark.parametrize("inputs", [5, 6])
def test_trunc(inputs: int) -> None:
    """Both versions of the operator; the slope is what a long line through its steps has."""
    weights = {"s": np.float32(0.25), "z": np.float32(0), "b": np.float32(8)}
    more = {"o": np.float32(4)} if inputs == 5 else {"p": np.float32(2.0), "o": np.float32(4)}
    node = helper.make_node("Trunc", ["x", *weights, *more], ["q"], domain=QONNX_DOMAIN, name="trunc")
    graph = graph_of([node], {"x": ["N", 3, "T"]}, {"q": ["N", 3, "T"]}, weights | more)
    x = torch.from_numpy(values().astype(np.float64)).requires_grad_()
    twin = Twin(graph, dtype=torch.float64)
    got = twin({"x": x})["q"]
    np.testing.assert_array_equal(
        got.detach().numpy(), execute(graph, {"x": values_of(x)}, dtype=np.dtype(np.float64))["q"]
    )
    got.sum().backward()
    assert torch.allclose(x.grad, torch.full_like(x, 1 / 16 if inputs == 5 else 1.0))


def test_int8_pairs_pass_gradients() -> None:
    """QuantizeLinear and DequantizeLinear: whole numbers carried as floats."""
    weights = {"s": np.float32(0.05), "z": np.int8(3), "w": RNG.standard_normal((3, 3, 1)).astype(np.float32)}
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], name="q"),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"], name="d"),
        helper.make_node("Conv", ["d", "w"], ["y"], name="conv"),
    ]
    graph = graph_of(nodes, {"x": ["N", 3, "T"]}, {"y": ["N", 3, "T"]}, weights)
    x = torch.from_numpy(values().astype(np.float64) * 2).requires_grad_()
    twin = Twin(graph, dtype=torch.float64)
    got = twin({"x": x})["y"]
    want = execute(graph, {"x": values_of(x)}, dtype=np.dtype(np.float64))["y"]
    assert gap(got, want) <= 1e-12
    got.sum().backward()
    inside = (x.detach() / np.float64(np.float32(0.05)) + 3).round().clamp(-128, 127)
    inside = inside == (x.detach() / np.float64(np.float32(0.05)) + 3).round()
    slope = torch.from_numpy(weights["w"].astype(np.float64)).sum((0, 2))[None, :, None]
    assert gap(x.grad, torch.where(inside, slope, 0.0)) <= 1e-12
    assert 0 < float((~inside).double().mean()) < 0.9
