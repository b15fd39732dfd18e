"""The pipelines on a network as Brevitas exports it, with quantisers on weights, activations and biases."""

from __future__ import annotations

import warnings

import numpy as np
import onnx
import pytest

from rubicc.ir.executor import execute
from rubicc.ir.graph import QONNX_DOMAIN, SOURCE_KEY, Graph
from rubicc.passes.harness import random_feeds, relative_error
from rubicc.passes.manager import run_pipeline
from rubicc.passes.pipelines import PIPELINES

QUANT = f"{QONNX_DOMAIN}::Quant"


@pytest.fixture(scope="module")
def quantised(tmp_path_factory: pytest.TempPathFactory) -> Graph:
    """QuantConv1d -> BatchNorm -> QuantReLU -> QuantConv1d with a quantised bias, as Brevitas writes it."""
    import torch
    from brevitas.export import export_qonnx
    from brevitas.nn import QuantConv1d, QuantIdentity, QuantReLU
    from brevitas.quant import Int32Bias
    from torch import nn

    torch.manual_seed(3)
    net = nn.Sequential(
        QuantIdentity(bit_width=8, return_quant_tensor=True),
        QuantConv1d(
            1, 6, 5, padding=2, bias=False, weight_bit_width=4, weight_scaling_per_output_channel=True
        ),
        nn.BatchNorm1d(6),
        QuantReLU(bit_width=4, return_quant_tensor=True),
        QuantConv1d(6, 5, 3, weight_bit_width=3, bias_quant=Int32Bias),
    )
    net(torch.randn(4, 1, 40))
    path = tmp_path_factory.mktemp("brevitas") / "net.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        export_qonnx(
            net.eval(),
            args=torch.randn(2, 1, 40),
            export_path=str(path),
            dynamo=False,
            input_names=["x"],
            output_names=["y"],
            dynamic_axes={"x": {0: "N", 2: "T"}, "y": {0: "N", 2: "U"}},
        )
    graph = Graph.from_proto(onnx.load(path))
    for node in graph.all_nodes():
        node.metadata_props[SOURCE_KEY] = node.name or node.op_type
    return graph


def test_clean_up_keeps_quantisers_and_says_why_batchnorm_stays(quantised: Graph) -> None:
    work = quantised.clone()
    records = run_pipeline(work, PIPELINES["cleanup"], check=True)
    assert work.op_counts()[QUANT] == quantised.op_counts()[QUANT]
    assert work.op_counts()["BatchNormalization"] == 1
    notes = [note.what for record in records for note in record.notes]
    assert any("comes through Quant" in what for what in notes)
    feeds = random_feeds(quantised, 1, {"N": 3, "T": 33})
    assert relative_error(execute(quantised, feeds)["y"], execute(work, feeds)["y"]) == 0


def test_expanded_numbers_are_those_of_the_quantisers(quantised: Graph) -> None:
    import onnxruntime

    work = quantised.clone()
    run_pipeline(work, PIPELINES["cpu_gpu"], check=True)
    assert QONNX_DOMAIN not in work.model.opset_imports
    assert [r.id for r in run_pipeline(work, PIPELINES["cpu_gpu"], check=True) if r.changed] == []
    feeds = random_feeds(quantised, 2, {"N": 2, "T": 50})
    expected = execute(quantised, feeds)["y"]
    np.testing.assert_array_equal(execute(work, feeds)["y"], expected)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(work.to_proto().SerializeToString(), options)
    np.testing.assert_allclose(session.run(None, feeds)[0], expected, atol=1e-5)
