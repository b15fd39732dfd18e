"""Every network exports with symbolic batch and time, and the exported graph answers at another shape."""

from __future__ import annotations

import io
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from rubicc.models import registry
from rubicc.models.ctc_config import BlockSpec, CtcConfig
from rubicc.models.recurrent_config import CrfConv, MgruConfig, crf_preset

CTC = CtcConfig(
    blocks=(
        BlockSpec(16, 9, stride=3, separable=False, weight_bits=16, act_bits=16),
        BlockSpec(24, 5, 2, residual=True, weight_bits=8, act_bits=8),
        BlockSpec(24, 15, weight_bits=8, act_bits=4),
    )
)
BERT = {
    "vocab_size": 40,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 32,
}
CRF = crf_preset(12, 2, 5)
SIGNAL_AXES = {"x": {0: "N", 2: "T"}, "y": {0: "T_out", 1: "N"}}


def signal(batch: int, samples: int) -> dict[str, torch.Tensor]:
    return {"x": torch.randn(batch, 1, samples)}


def export(model: nn.Module, feeds: dict[str, torch.Tensor], axes: dict) -> onnxruntime.InferenceSession:
    buffer = io.BytesIO()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model,
            tuple(feeds.values()),
            buffer,
            input_names=list(feeds),
            output_names=["y"],
            dynamic_axes=axes,
            opset_version=20,
            dynamo=False,
        )
    return onnxruntime.InferenceSession(buffer.getvalue(), providers=["CPUExecutionProvider"])


def agree(model: nn.Module, session: onnxruntime.InferenceSession, feeds: dict[str, torch.Tensor]) -> None:
    got = session.run(None, {name: value.numpy() for name, value in feeds.items()})[0]
    with torch.no_grad():
        np.testing.assert_allclose(got, model(*feeds.values()).numpy(), rtol=0, atol=2e-5)


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("demo-ctc", None),
        ("rubicall-fp", CTC),
        ("bonito-ctc", replace(CTC, activation="swish", channels_per_group=1)),
        ("taiyaki-mgru", MgruConfig(size=12)),
        ("bonito-crf", CRF),
        ("bonito-crf", replace(CRF, convs=(CrfConv(12, 5, 6, norm="batchnorm", clamp=(-0.5, 3.5)),))),
        ("bonito-crf", replace(CRF, expand_blanks=False)),
    ],
)
def test_tracing_exporter(name: str, config: object) -> None:
    model = registry.get(name).build(config, seed=0)
    session = export(model, signal(1, 121), SIGNAL_AXES)
    for batch, samples in ((1, 121), (3, 122), (2, 301)):
        agree(model, session, signal(batch, samples))


@pytest.mark.parametrize("form", ["ids", "bias"])
def test_tracing_exporter_bert(form: str) -> None:
    model = registry.get("dna-bert").build(BERT, seed=0)

    def feeds(batch: int, tokens: int) -> dict[str, torch.Tensor]:
        mask = torch.ones(batch, tokens, dtype=torch.int64)
        mask[0, -2:] = 0
        bias = (1.0 - mask[:, None, None, :].float()) * -1e4
        return {
            "input_ids": torch.randint(0, 40, (batch, tokens)),
            "attention_mask": mask if form == "ids" else bias,
        }

    last = 1 if form == "ids" else 3
    axes = {name: {0: "N", 1: "T"} for name in ("input_ids", "y")} | {"attention_mask": {0: "N", last: "T"}}
    session = export(model, feeds(2, 11), axes)
    for batch, tokens in ((2, 11), (3, 24), (1, 7)):
        agree(model, session, feeds(batch, tokens))


def test_dynamo_exporter_on_a_convolutional_network(tmp_path: Path) -> None:
    model = registry.get("rubicall-fp").build(CTC, seed=0)
    path = tmp_path / "model.onnx"
    dims = {0: torch.export.Dim("N"), 2: torch.export.Dim("T", min=32)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model, tuple(signal(2, 120).values()), path, dynamo=True, dynamic_shapes=(dims,), verbose=False,
            input_names=["x"],
        )  # fmt: skip
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for batch, samples in ((2, 120), (3, 301)):
        agree(model, session, signal(batch, samples))


def test_quantisers_survive_export_with_their_widths() -> None:
    export_qonnx = pytest.importorskip("brevitas.export").export_qonnx
    model = registry.get("rubicall").build(replace(CTC, quantised=True), seed=0)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        proto = export_qonnx(
            model, args=tuple(signal(1, 120).values()), dynamo=False, input_names=["x"], output_names=["y"],
            dynamic_axes=SIGNAL_AXES,
        )  # fmt: skip
    assert isinstance(proto, onnx.ModelProto)
    quants = [node for node in proto.graph.node if node.op_type == "Quant"]
    # weights: 1 dense, 3 x (grouped, pointwise), 1 skip, 1 head
    # values: input, 3 after grouped, 1 skip, 4 ReLU
    assert len(quants) == (1 + 6 + 1 + 1) + (1 + 3 + 1 + 4)
