"""Shape inference sees through quantisers and shape arithmetic; types carry the quantisation."""

from __future__ import annotations

import io
import resource

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from ir_graphs import conv_quant, graph, info, quant_constants, quant_node
from onnx import helper

from rubicc.errors import VerificationFailed
from rubicc.ir.executor import execute
from rubicc.ir.graph import QONNX_DOMAIN, Graph
from rubicc.ir.shapes import KNOWN, dims_of, infer_shapes, static_shape
from rubicc.ir.types import QuantType, quant_type, value_type


def test_all_static_with_a_binding_and_the_graph_is_left_alone():
    g = conv_quant()
    shaped = infer_shapes(g, {"N": 2, "T": 61})
    kept = execute(g, {"x": np.zeros((2, 4, 61), np.float32)}, keep="all")
    for node in shaped.nodes:
        for value in node.outputs:
            assert static_shape(value) == kept[value.name].shape
            assert value.dtype == ir.DataType.FLOAT
    assert dims_of(g.inputs[0]) == ("N", 4, "T") and g.nodes[0].outputs[0].shape is None
    assert shaped.ir.initializers["w"].const_value is g.ir.initializers["w"].const_value


def test_symbols_stay_symbols():
    shaped = infer_shapes(conv_quant())
    assert dims_of(shaped.nodes[0].outputs[0]) == ("N", 4, "T")
    assert dims_of(shaped.nodes[2].outputs[0]) == ("N", 8, None)


class Recurrent(torch.nn.Module):
    """Convolution, flipped GRU, two-way LSTM: what the TorchScript exporter writes with shape arithmetic."""

    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv1d(1, 8, 5, 2, 2)
        self.gru = torch.nn.GRU(8, 6)
        self.lstm = torch.nn.LSTM(6, 4, bidirectional=True)
        self.head = torch.nn.Linear(8, 5)

    def forward(self, x):
        y = torch.nn.functional.silu(self.conv(x)).permute(2, 0, 1)
        y, _ = self.gru(y.flip(0))
        y, _ = self.lstm(y.flip(0))
        return 5 * torch.tanh(self.head(y))


@pytest.fixture(scope="module")
def exported():
    torch.manual_seed(0)
    module, buffer = Recurrent().eval(), io.BytesIO()
    torch.onnx.export(
        module,
        (torch.zeros(1, 1, 40),),
        buffer,
        dynamo=False,
        opset_version=20,
        input_names=["x"],
        output_names=["y"],
        dynamic_axes={"x": {0: "N", 2: "T"}},
    )
    return module, Graph.from_proto(onnx.load_from_string(buffer.getvalue()))


@pytest.mark.parametrize(("n", "t"), [(1, 40), (3, 77)])
def test_torchscript_recurrent_export(exported, n, t):
    module, g = exported
    x = torch.randn(n, 1, t)
    want = module(x).detach().numpy()
    kept = execute(g, {"x": x.numpy()}, keep="all")
    np.testing.assert_allclose(kept["y"], want, atol=2e-6)
    exact = execute(g, {"x": x.numpy()}, dtype=np.float64)["y"]
    np.testing.assert_allclose(exact, module.double()(x.double()).detach().numpy(), atol=1e-6)
    module.float()
    shaped = infer_shapes(g, {"N": n, "T": t})
    for node in shaped.nodes:
        for value in node.outputs:
            if value.name in kept:
                assert static_shape(value) == kept[value.name].shape, value.name


def test_computed_constants_are_known(exported):
    shaped = infer_shapes(exported[1], {"N": 3, "T": 40})
    states = [v for n in shaped.nodes if n.op_type in ("GRU", "LSTM") for v in n.inputs[5:6]]
    assert states and all(static_shape(v) in ((1, 3, 6), (2, 3, 4)) for v in states)
    assert any(KNOWN in v.meta for n in shaped.nodes for v in n.outputs)


def test_nested_graphs_are_inferred():
    then = helper.make_graph([helper.make_node("Relu", ["x"], ["t"], name="a")], "t", [], [info("t", None)])
    other = helper.make_graph([helper.make_node("Neg", ["x"], ["e"], name="b")], "e", [], [info("e", None)])
    node = helper.make_node("If", ["c"], ["y"], name="if", then_branch=then, else_branch=other)
    g = graph([node], [info("x", ["N", 4]), info("c", [], bool)], [info("y", None)])
    shaped = infer_shapes(g, {"N": 5})
    assert static_shape(shaped.outputs[0]) == (5, 4)
    branch = shaped.nodes[0].attributes["then_branch"].as_graph()
    assert static_shape(branch.outputs[0]) == (5, 4)


def test_contradiction_is_an_error():
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    g = graph(nodes, [info("x", [2, 4])], [info("y", None)], {"w": np.ones((5, 3), np.float32)})
    g.ir.initializers["w"].shape = None
    try:
        shaped = infer_shapes(g)
    except VerificationFailed as err:
        assert err.code == "RUB-IR-004"
    else:
        assert shaped.outputs[0].shape is None


def test_long_vectors_do_not_cost_memory():
    """onnx's data propagation lists every element of a vector; a 100-byte file must not cost gigabytes."""
    nodes = [helper.make_node("Relu", ["x"], ["a"]), helper.make_node("Add", ["a", "a"], ["y"])]
    g = graph(nodes, [info("x", [1 << 40])], [info("y", None)])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert static_shape(infer_shapes(g).outputs[0]) == (1 << 40,)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50 << 10


def test_quantisation_annotation():
    g = infer_shapes(conv_quant(), {"N": 1, "T": 31})
    by_name = {v.name: v for n in g.nodes for v in n.outputs}
    x = value_type(g, by_name["xq"])
    assert x.shape == (1, 4, 31) and x.dtype == "float32" and x.layout == "NCT"
    assert x.quant == QuantType(8, True, (pytest.approx(0.05),), (0.0,), False, "ROUND")
    weight = quant_type(by_name["wq"])
    assert weight.bits == 4 and weight.narrow and weight.per_channel and len(weight.scale) == 8
    assert quant_type(by_name["rq"]).signed is False
    assert quant_type(by_name["c"]) is None
    assert hash(x) == hash(value_type(g, by_name["xq"]))


def test_per_tensor_quantisation_is_followed_through_movement_only():
    nodes = [
        quant_node("x", "q"),
        helper.make_node("Transpose", ["q"], ["t"], perm=[1, 0]),
        helper.make_node("Relu", ["t"], ["y"]),
    ]
    g = graph(nodes, [info("x", [2, 4])], [info("y", [4, 2])], quant_constants(bits=3.0))
    assert quant_type(g.nodes[1].outputs[0]).bits == 3
    assert quant_type(g.nodes[2].outputs[0]) is None
    per_channel = quant_constants(bits=3.0, scale=[[0.1], [0.2]])
    g = graph(nodes, [info("x", [2, 4])], [info("y", [4, 2])], per_channel)
    assert quant_type(g.nodes[0].outputs[0]).bits == 3
    assert quant_type(g.nodes[1].outputs[0]) is None


def test_other_quantisers():
    constants = quant_constants(bits=8.0) | {
        "o": np.float32(3),
        "s8": np.float32(0.5),
        "z8": np.uint8(7),
    }
    nodes = [
        helper.make_node("BipolarQuant", ["x", "q_scale"], ["b"], domain=QONNX_DOMAIN),
        helper.make_node("Trunc", ["x", "q_scale", "q_zero", "q_bits", "o"], ["t"], domain=QONNX_DOMAIN),
        helper.make_node("QuantizeLinear", ["x", "s8", "z8"], ["i"]),
        helper.make_node("DequantizeLinear", ["i", "s8", "z8"], ["d"]),
        helper.make_node("Sum", ["b", "t", "d"], ["y"]),
    ]
    g = infer_shapes(graph(nodes, [info("x", [2, 4])], [info("y", [2, 4])], constants))
    b, t, _, d, _ = (n.outputs[0] for n in g.nodes)
    assert (quant_type(b).bits, quant_type(b).signed) == (1, True)
    assert (quant_type(t).bits, quant_type(t).rounding) == (3, "FLOOR")
    assert quant_type(d) == QuantType(8, False, (0.5,), (7.0,))
