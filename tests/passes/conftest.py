"""Real exported graphs, made once per session."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from typing import Any

import pytest

from rubicc.ir.graph import SOURCE_KEY, Graph

Export = Callable[..., Graph]


def _export(module: Any, args: tuple[Any, ...], dynamic: dict[str, dict[int, str]], *, dynamo: bool) -> Graph:
    import onnx
    import torch

    module.eval()
    names = list(dynamic)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        if dynamo:
            shapes = tuple(
                {axis: torch.export.Dim(name) for axis, name in dynamic[key].items()} for key in names
            )
            program = torch.onnx.export(
                module, args, dynamo=True, input_names=names, output_names=["y"], dynamic_shapes=shapes,
                verbose=False, optimize=False,
            )  # fmt: skip
            proto = program.model_proto
        else:
            axes: dict[str, Any] = {**dynamic, "y": {}}
            buffer = io.BytesIO()
            torch.onnx.export(
                module, args, buffer, dynamo=False, input_names=names, output_names=["y"], dynamic_axes=axes,
                do_constant_folding=False, opset_version=20,
            )  # fmt: skip
            proto = onnx.load_from_string(buffer.getvalue())
    graph = Graph.from_proto(proto)
    for node in graph.all_nodes():
        node.metadata_props.setdefault(SOURCE_KEY, node.name or node.op_type)
    return graph


@pytest.fixture(scope="session")
def nets() -> dict[str, Graph]:
    """Graphs of small networks by name: residual convolutions, GRU, LSTM, a transformer layer."""
    import torch
    from torch import nn

    torch.manual_seed(7)

    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Sequential(nn.Conv1d(1, 8, 9, 2, 4, bias=False), nn.BatchNorm1d(8), nn.ReLU())
            self.depth = nn.Conv1d(8, 8, 5, padding=2, groups=8, bias=False)
            self.point = nn.Sequential(nn.Conv1d(8, 8, 1), nn.BatchNorm1d(8), nn.Dropout(0.1))
            self.up = nn.Sequential(nn.ConvTranspose1d(8, 6, 4, 2, 1, groups=2), nn.BatchNorm1d(6), nn.SiLU())
            self.head = nn.Linear(6, 5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.stem(x)
            x = torch.relu(x + self.point(self.depth(x)))
            x = self.up(x).transpose(1, 2).transpose(1, 2).permute(2, 0, 1)
            return self.head(x).log_softmax(-1)

    class Recurrent(nn.Module):
        def __init__(self, kind: type[nn.RNNBase], flip: bool) -> None:
            super().__init__()
            self.conv = nn.Conv1d(1, 6, 5, 3, 2)
            self.norm = nn.BatchNorm1d(6)
            self.one, self.two = kind(6, 7), kind(7, 5, bidirectional=flip)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.norm(torch.tanh(self.conv(x))).permute(2, 0, 1)
            return self.two(self.one(x)[0].flip(0))[0]

    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.places = nn.Embedding(11, 16), nn.Embedding(64, 16)
            self.norm, self.qkv, self.out = nn.LayerNorm(16), nn.Linear(16, 48), nn.Linear(16, 16)
            self.ffn = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16))

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            n, t = ids.shape
            x = self.norm(self.words(ids) + self.places(torch.arange(t, device=ids.device))[None])
            q, k, v = self.qkv(x).view(n, t, 3, 4, 4).permute(2, 0, 3, 1, 4)
            x = x + self.out(
                (q @ k.transpose(-1, -2) / 2).softmax(-1).matmul(v).transpose(1, 2).reshape(n, t, 16)
            )
            return self.norm(x + self.ffn(x)) @ self.words.weight.T

    def trained(module: nn.Module) -> nn.Module:
        """Statistics as after training, so that BatchNorm is not nearly the identity."""
        for part in module.modules():
            if isinstance(part, nn.BatchNorm1d):
                part.running_mean.normal_()  # type: ignore[union-attr]
                part.running_var.uniform_(0.3, 2)  # type: ignore[union-attr]
                part.weight.data.uniform_(0.5, 2)
        return module

    signal, tokens = torch.randn(2, 1, 30), torch.randint(0, 11, (2, 12))
    wave = {"x": {0: "N", 2: "T"}}
    return {
        "residual": _export(trained(Residual()), (signal,), wave, dynamo=True),
        "residual (traced)": _export(trained(Residual()), (signal,), wave, dynamo=False),
        "gru": _export(trained(Recurrent(nn.GRU, False)), (signal,), wave, dynamo=False),
        "lstm": _export(trained(Recurrent(nn.LSTM, True)), (signal,), wave, dynamo=False),
        "encoder": _export(Encoder(), (tokens,), {"ids": {0: "N", 1: "T"}}, dynamo=True),
        "encoder (traced)": _export(Encoder(), (tokens,), {"ids": {0: "N", 1: "T"}}, dynamo=False),
    }
