"""Quantisers compute bit for bit what qonnx computes, borders and halves included."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from ir_graphs import conv_quant, graph, info
from onnx import helper
from qonnx.core.modelwrapper import ModelWrapper
from qonnx.core.onnx_exec import execute_onnx

from rubicc.ir.executor import execute
from rubicc.ir.graph import QONNX_DOMAIN
from rubicc.ir.io import save_graph
from rubicc.ir.shapes import infer_shapes

HALVES = (np.arange(-81, 82, dtype=np.float32) / 8).reshape(1, 163)  # halves and quarters of a step of 0.5
RNG = np.random.default_rng(11)
MODES = ("ROUND", "HALF_EVEN", "CEIL", "FLOOR", "UP", "DOWN", "HALF_UP", "HALF_DOWN", "round")


def both(nodes, x, constants, version=1):
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid(QONNX_DOMAIN, version)]
    g = graph(nodes, [info("x", x.shape)], [info("y", x.shape)], constants, opsets)
    want = execute_onnx(ModelWrapper(g.to_proto()), {"x": x})["y"]
    got = execute(g, {"x": x})["y"]
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got, want)
    return got


def f(value):
    return np.asarray(value, np.float32)


def quant(x, scale, zero, bits, **attrs):
    node = helper.make_node("Quant", ["x", "s", "z", "b"], ["y"], name="q", domain=QONNX_DOMAIN, **attrs)
    return both([node], x, {"s": f(scale), "z": f(zero), "b": f(bits)})


@pytest.mark.parametrize(
    ("mode", "signed", "narrow", "bits"), itertools.product(MODES, (0, 1), (0, 1), (1, 2, 4, 8))
)
def test_quant_modes(mode, signed, narrow, bits):
    quant(HALVES, 0.5, 0.0, bits, signed=signed, narrow=narrow, rounding_mode=mode)


@pytest.mark.parametrize(("bits", "scale"), itertools.product((3, 8, 16, 24, 32), (1.0, 0.1, 3e-5)))
def test_quant_random(bits, scale):
    x = (RNG.normal(size=(3, 200)) * 10).astype(np.float32)
    got = quant(x, scale, 0.0, bits, signed=1, narrow=0, rounding_mode="ROUND")
    assert len(np.unique(got)) > 1


def test_quant_per_channel_with_zero_points():
    x = RNG.normal(size=(2, 3, 50)).astype(np.float32)
    scale = np.array([0.01, 0.1, 0.3], np.float32).reshape(1, 3, 1)
    zero = np.array([3.0, 0.0, 7.0], np.float32).reshape(1, 3, 1)
    quant(x, scale, zero, 4, signed=0, narrow=0, rounding_mode="ROUND")


def test_quant_default_attributes():
    quant(HALVES, 0.25, 0.0, 4, signed=1, narrow=1)


@pytest.mark.parametrize("scale", [1.0, 0.3])
def test_bipolar(scale):
    node = helper.make_node("BipolarQuant", ["x", "s"], ["y"], name="q", domain=QONNX_DOMAIN)
    got = both([node], HALVES, {"s": f(scale)})
    assert np.unique(got).tolist() == [-float(f(scale)), float(f(scale))]


@pytest.mark.parametrize(("mode", "zero"), itertools.product(("FLOOR", "CEIL", "ROUND", "DOWN"), (0.0, 4.0)))
def test_trunc_version_1(mode, zero):
    inputs = ["x", "s", "z", "i", "o"]
    node = helper.make_node("Trunc", inputs, ["y"], name="t", domain=QONNX_DOMAIN, rounding_mode=mode)
    both([node], HALVES, {"s": f(0.25), "z": f(zero), "i": f(8), "o": f(5)})


@pytest.mark.parametrize(
    ("mode", "signed", "narrow"), itertools.product(("FLOOR", "ROUND", "HALF_UP"), (0, 1), (0, 1))
)
def test_trunc_version_2(mode, signed, narrow):
    attrs = {"rounding_mode": mode, "signed": signed, "narrow": narrow}
    inputs = ["x", "s", "z", "i", "so", "o"]
    node = helper.make_node("Trunc", inputs, ["y"], name="t", domain=QONNX_DOMAIN, **attrs)
    constants = {"s": f(0.25), "z": f(0), "i": f(8), "so": f(1.0), "o": f(4)}
    both([node], HALVES, constants, version=2)


def test_a_saved_graph_loads_in_qonnx_and_computes_the_same(tmp_path):
    """The contract of the form: convolution, batch norm, residual and three quantisers."""
    g = infer_shapes(conv_quant(), {"N": 2, "T": 61})
    save_graph(g, tmp_path / "m.onnx")
    wrapper = ModelWrapper(str(tmp_path / "m.onnx"))
    x = RNG.normal(size=(2, 4, 61)).astype(np.float32)
    want = execute_onnx(wrapper, {"x": x}, return_full_exec_context=True)
    got = execute(g, {"x": x}, keep="all")
    assert wrapper.model.opset_import[0].domain == ""
    for name in ("xq", "wq"):
        np.testing.assert_array_equal(got[name], want[name])
    # convolution sums in another order: a value on a rounding border may land one step away
    steps = np.abs(got["rq"] - want["rq"]) / 0.1
    assert steps.max() <= 1.001 and (steps > 0.5).mean() < 0.01
    same = steps.max() < 0.5
    assert not same or np.abs(got["y"] - want["y"]).max() < 1e-4


def test_rounding_modes_differ_where_they_should():
    """Mutant: were one mode taken for another, the halves would show it."""
    seen = [
        quant(HALVES, 0.5, 0.0, 8, signed=1, narrow=0, rounding_mode=mode).tobytes()
        for mode in ("ROUND", "CEIL", "FLOOR", "UP", "DOWN", "HALF_UP", "HALF_DOWN")
    ]
    assert len(set(seen)) == len(seen)
