"""Quantised networks: compared exactly, in float64, because float32 comparisons of them mean little."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import brevitas.nn as qnn
import numpy as np
import onnx
import pytest
import torch
from torch import nn

from rubicc import api
from rubicc.errors import VerificationFailed


class Quantised(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inp = qnn.QuantIdentity(bit_width=16)
        self.blocks = nn.Sequential(*(self.block(1 if i == 0 else 8, i) for i in range(4)))
        self.head = qnn.QuantConv1d(8, 5, 1, bias=False, weight_bit_width=8)

    @staticmethod
    def block(channels: int, index: int) -> nn.Module:
        conv = qnn.QuantConv1d(channels, 8, 9, stride=3 if index == 0 else 1, padding=4, bias=False,
                               weight_bit_width=16 if index % 2 else 8)  # fmt: skip
        return nn.Sequential(conv, nn.BatchNorm1d(8), qnn.QuantReLU(bit_width=4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.blocks(self.inp(x))).permute(2, 0, 1).log_softmax(-1)


@pytest.fixture(scope="module")
def net() -> nn.Module:
    torch.manual_seed(3)
    module = Quantised()
    with torch.no_grad():
        for _ in range(60):
            module.train()(torch.randn(8, 1, 400))
        module.eval()
        # A network that ignores its input would pass any comparison.
        assert float(module(torch.randn(2, 1, 400)).std(dim=0).mean()) > 0.1
    return module


def compiled(net: nn.Module, out: Path) -> Any:
    return api.compile(net, out=out, target="cpu", runtime="onnxruntime", inputs=["x=Nx1xT:f32"])


def test_emitted_graph_is_exact_and_stores_integers(net: nn.Module, tmp_path: Path) -> None:
    report = compiled(net, tmp_path / "out").report
    exact = [gap for name, gap in report.gaps.items() if "both in float64" in name]
    assert len(exact) == 2 and all(gap.max_abs < 1e-12 for gap in exact)
    assert any("its own noise" in name for name in report.gaps)
    bits = {(row.weight_bits, row.activation_bits) for row in report.layers if row.op == "Conv"}
    assert {(8, 16), (16, 4), (8, 4)} <= bits
    model = onnx.load(tmp_path / "out" / "cpu_gpu" / "model.onnx")
    kinds = [init.data_type for init in model.graph.initializer]
    assert kinds.count(onnx.TensorProto.INT8) == 3 and kinds.count(onnx.TensorProto.INT16) == 2
    assert [decision.code for decision in report.decisions] == ["RUB-PASS-D02"]


def test_one_integer_weight_off_by_one_is_caught(
    net: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mutant: far below the network's own float32 noise, so only the exact comparison can see it."""
    from rubicc.backends.cpu_gpu import description

    honest = description.model_bytes

    def off(graph: Any) -> bytes:
        model = onnx.load_from_string(honest(graph))
        weight = next(i for i in model.graph.initializer if list(i.dims) == [5, 8, 1])
        array = np.frombuffer(weight.raw_data, np.int8).copy()
        array[7] += 1 if array[7] < 127 else -1
        weight.raw_data = array.tobytes()
        return model.SerializeToString()

    monkeypatch.setattr(description, "model_bytes", off)
    monkeypatch.setattr("rubicc.backends.cpu_gpu.emit.model_bytes", off, raising=False)
    with pytest.raises(VerificationFailed) as caught:
        compiled(net, tmp_path / "out")
    assert caught.value.code == "RUB-DRV-001" and "both in float64" in caught.value.where
