"""MACs, bit operations, bytes and receptive fields against hand counts, qonnx and published figures."""

from __future__ import annotations

import io

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from ir_graphs import conv_quant, graph, info
from onnx import helper
from qonnx.core.modelwrapper import ModelWrapper
from qonnx.util.inference_cost import inference_cost

from rubicc.errors import UsageError
from rubicc.ir.costs import costs
from rubicc.ir.graph import Graph
from rubicc.ir.receptive import receptive_field
from rubicc.ir.shapes import infer_shapes
from rubicc.models import registry


def export(module: torch.nn.Module, *shape: int, time: int = 2) -> Graph:
    buffer = io.BytesIO()
    with torch.no_grad():  # a trained network has no equal tensors, which the exporter would merge
        for parameter in module.parameters():
            parameter.add_(torch.rand_like(parameter) * 0.01)
    torch.onnx.export(
        module.eval(),
        (torch.zeros(*shape),),
        buffer,
        dynamo=False,
        opset_version=20,
        input_names=["x"],
        output_names=["y"],
        dynamic_axes={"x": {0: "N", time: "T"}},
        training=torch.onnx.TrainingMode.PRESERVE,
    )
    return Graph.from_proto(onnx.load_from_string(buffer.getvalue()))


def test_counts_by_hand():
    result = costs(conv_quant(), {"N": 2, "T": 61})
    rows = {row.name: row for row in result.rows}
    frames = (61 + 4 - 5) // 3 + 1
    first, second = rows["conv"], rows["point"]
    assert first.macs == 2 * frames * 8 * 2 * 5
    assert (first.activation_bits, first.weight_bits) == (8, 4)
    assert first.bops == first.macs * 8 * 4
    assert second.macs == 2 * frames * 8 * 8 and second.bops == second.macs * 6 * 32
    assert first.params == 80 + 8 and first.weight_bytes == 88 * 4
    assert first.quantised_weight_bytes == 80 * 4 // 8 + 8 * 4
    assert rows["bn"].params == 16 and rows["bn"].macs == 0
    assert rows["relu"].activation_bytes == 2 * 8 * frames * 4
    assert rows["qa"].activation_bytes == -(-2 * 8 * frames * 6 // 8)
    assert result.macs == first.macs + second.macs and result.uncounted == ()
    assert result.params == 88 + 64 + 16


def test_macs_and_bops_equal_qonnx():
    g = conv_quant()
    shaped = infer_shapes(g, {"N": 2, "T": 61})
    for node in shaped.nodes:
        if node.op_type == "Conv":  # qonnx insists on the attribute
            node.attributes.add(ir.AttrInt64s("kernel_shape", list(node.inputs[1].shape)[2:]))
    theirs = inference_cost(ModelWrapper(shaped.to_proto()), discount_sparsity=False)["total_cost"]
    ours = costs(g, {"N": 2, "T": 61})
    assert ours.macs == theirs["total_macs"]
    assert ours.bops == theirs["total_bops"]


@pytest.mark.parametrize(
    ("node", "shapes", "out", "macs"),
    [
        (helper.make_node("MatMul", ["x", "w"], ["y"]), ((2, 3, 4), (4, 5)), (2, 3, 5), 2 * 3 * 4 * 5),
        (helper.make_node("Gemm", ["x", "w"], ["y"], transA=1), ((4, 3), (4, 5)), (3, 5), 3 * 4 * 5),
        (
            helper.make_node("ConvTranspose", ["x", "w"], ["y"]),
            ((2, 4, 9), (4, 3, 5)),
            None,
            2 * 4 * 9 * 3 * 5,
        ),
        (
            helper.make_node("Einsum", ["x", "w"], ["y"], equation="bij,jk->bik"),
            ((2, 3, 4), (4, 5)),
            None,
            120,
        ),
    ],
)
def test_products(node, shapes, out, macs):
    g = graph([node], [info("x", shapes[0])], [info("y", out)], {"w": np.ones(shapes[1], np.float32)})
    assert costs(g, {}).macs == macs


@pytest.mark.parametrize(("kind", "gates"), [(torch.nn.LSTM, 4), (torch.nn.GRU, 3), (torch.nn.RNN, 1)])
def test_recurrent_products(kind, gates):
    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn = kind(6, 8, bidirectional=True)

        def forward(self, x):
            return self.rnn(x)[0]

    buffer = io.BytesIO()
    torch.onnx.export(Net(), (torch.zeros(7, 2, 6),), buffer, dynamo=False, opset_version=20)
    g = Graph.from_proto(onnx.load_from_string(buffer.getvalue()))
    result = costs(g, {})
    assert result.macs == 7 * 2 * 2 * gates * 8 * (6 + 8)
    assert result.params == sum(p.numel() for p in Net().parameters())


def test_an_unbound_symbol_is_an_error():
    with pytest.raises(UsageError, match="RUB-IR-005"):
        costs(conv_quant(), {"N": 1})


@pytest.fixture(scope="module")
def zoo():
    return {
        name: export(registry.get(name).build(seed=0), 1, 1, 1200)
        for name in ("bonito-ctc", "rubicall-fp", "taiyaki-mgru")
    }


@pytest.mark.parametrize(
    ("name", "params", "field", "per_sample"),
    [("bonito-ctc", 9_738_573, 3237, 3.24e6), ("rubicall-fp", 3_314_549, 3219, 1.10e6)],
)
def test_published_figures(zoo, name, params, field, per_sample):
    g = zoo[name]
    result = costs(g, {"N": 1, "T": 3600})
    assert result.params == params
    assert result.macs / 3600 == pytest.approx(per_sample, rel=5e-3)
    found = receptive_field(g)
    assert (found.samples, found.stride, found.reason) == (field, 3, "")


def test_taiyaki_is_unbounded_with_the_reason_and_its_stride(zoo):
    found = receptive_field(zoo["taiyaki-mgru"])
    assert found.samples is None and found.stride == 4 and "recurrent" in found.reason
    assert costs(zoo["taiyaki-mgru"], {"N": 1, "T": 400}).params == 285_160


def measured_field(g: Graph, length: int) -> tuple[int, int]:
    """Receptive field by perturbation: how many samples move the middle frame."""
    from rubicc.ir.executor import execute

    rng = np.random.default_rng(0)
    x = rng.normal(size=(1, 2, length))
    base = execute(g, {"x": x.astype(np.float32)}, dtype=np.float64)["y"]
    middle = base.shape[-1] // 2
    moved = []
    for t in range(length):
        other = x.copy()
        other[0, :, t] += 1.0
        y = execute(g, {"x": other.astype(np.float32)}, dtype=np.float64)["y"]
        if np.abs(y - base)[0, :, middle].max() > 1e-9:
            moved.append(t)
    return moved[-1] - moved[0] + 1, len(moved)


@pytest.mark.parametrize("seed", range(6))
def test_receptive_field_equals_the_measured_one(seed):
    """Random dilated, strided, unevenly padded stacks with a branch; perturbation is the judge."""
    rng = np.random.default_rng(seed)
    value, nodes, constants, channels = "x", [], {}, 2
    for layer in range(3):
        k, s, d = (int(rng.integers(1, hi)) for hi in (6, 3, 3))
        before, after = (int(v) for v in rng.integers(0, 3, 2))
        constants[f"w{layer}"] = rng.uniform(0.5, 1.5, (3, channels, k)).astype(np.float32)
        attrs = {"strides": [s], "dilations": [d], "pads": [before, after]}
        nodes.append(helper.make_node("Conv", [value, f"w{layer}"], [f"c{layer}"], name=f"c{layer}", **attrs))
        value, channels = f"c{layer}", 3
    constants["side"] = rng.uniform(0.5, 1.5, (3, 3, 5)).astype(np.float32)
    nodes += [
        helper.make_node("Conv", [value, "side"], ["b"], name="b", pads=[1, 3]),
        helper.make_node("Add", [value, "b"], ["y"], name="join"),
    ]
    g = graph(nodes, [info("x", [1, 2, "T"])], [info("y", None)], constants)
    found = receptive_field(g)
    assert found.reason == "" and found.samples == measured_field(g, 160)[0]


@pytest.mark.parametrize(
    ("nodes", "said"),
    [
        ([helper.make_node("Softmax", ["x"], ["y"], axis=2)], "normalises over time"),
        (
            [
                helper.make_node("Transpose", ["x"], ["t"], perm=[0, 2, 1]),
                helper.make_node("MatMul", ["t", "x"], ["y"]),
            ],
            "attention",
        ),
        ([helper.make_node("ReduceMean", ["x", "two"], ["y"])], "over time"),
        ([helper.make_node("MatMul", ["x", "w"], ["y"])], "mixes all positions"),
        ([helper.make_node("Concat", ["x", "x"], ["y"], axis=2)], "Concat along time"),
    ],
)
def test_unbounded_reasons(nodes, said):
    constants = {"two": np.array([2], np.int64), "w": np.ones((50, 50), np.float32)}
    g = graph(nodes, [info("x", [1, 4, 50])], [info("y", None)], constants)
    found = receptive_field(g)
    assert found.samples is None and said in found.reason
