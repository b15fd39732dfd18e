"""Tiny networks of the families rubicc compiles, exported with symbolic batch and time.

Exported through ``torch.onnx.export`` directly, so that this room's tests do not depend on the front end.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import nn

from rubicc.backends.cpu_gpu.run import open_session
from rubicc.evidence.gaps import Gap, output_gaps
from rubicc.ir.graph import SOURCE_KEY, Graph
from rubicc.spec import DecoderSpec, ModelMeta, SignalSpec, TensorSpec


class ConvNet(nn.Module):
    """Strided stem, two residual grouped-conv blocks with BatchNorm, CTC head; output (T/3, N, 5)."""

    def __init__(self, width: int = 16, groups: int = 2) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv1d(1, width, 9, stride=3, padding=4), nn.BatchNorm1d(width), nn.ReLU()
        )
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.Conv1d(width, width, 5, padding=2, groups=groups, bias=False),
                nn.BatchNorm1d(width),
                nn.ReLU(),
            )
            for _ in range(2)
        )
        self.head = nn.Conv1d(width, 5, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = x + block(x)
        return self.head(x).permute(2, 0, 1).log_softmax(-1)


class GruNet(nn.Module):
    """Strided conv and alternating GRUs (backward, forward, ...); output (ceil(T/4), N, 40)."""

    def __init__(self, width: int = 16, layers: int = 2) -> None:
        super().__init__()
        self.conv = nn.Conv1d(1, width, 19, stride=4, padding=9)
        self.gru = nn.ModuleList(nn.GRU(width, width) for _ in range(layers))
        self.head = nn.Linear(width, 40)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.tanh(self.conv(x)).permute(2, 0, 1)
        for i, gru in enumerate(self.gru):
            x = gru(x)[0] if i % 2 else gru(x.flip(0))[0].flip(0)
        return 5 * torch.tanh(self.head(x))


def conv_net(width: int = 16, groups: int = 2, seed: int = 0) -> ConvNet:
    """An eval-mode :class:`ConvNet` with BatchNorm statistics that are not the identity."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = ConvNet(width, groups)
        for module in net.modules():
            if isinstance(module, nn.BatchNorm1d):
                nn.init.uniform_(module.running_mean, -0.2, 0.2)  # type: ignore[arg-type]
                nn.init.uniform_(module.running_var, 0.5, 1.5)  # type: ignore[arg-type]
    return net.eval()


def gru_net(width: int = 16, layers: int = 2, seed: int = 0) -> GruNet:
    """An eval-mode :class:`GruNet`."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = GruNet(width, layers)
    return net.eval()


def export(net: nn.Module, stride: int, kind: str, chunk: int = 240) -> Graph:
    """The net as a Graph with symbolic batch ``N`` and time ``T`` and basecaller metadata."""
    channels = 5 if kind == "ctc" else 40
    meta = ModelMeta(
        arch="custom",
        inputs=(TensorSpec("x", ("N", 1, "T")),),
        outputs=(TensorSpec("y", ("T_out", "N", channels)),),
        task="basecalling",
        stride=stride,
        alphabet="NACGT" if kind == "ctc" else "ACGT",
        signal=SignalSpec(),
        decoder=DecoderSpec(kind),  # type: ignore[arg-type]
        chunk=chunk,
        overlap=chunk // 4,
    )
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            net,
            (torch.randn(2, 1, chunk),),
            buffer,
            dynamo=False,
            opset_version=20,
            input_names=["x"],
            output_names=["y"],
            dynamic_axes={"x": {0: "N", 2: "T"}, "y": {0: "T_out", 1: "N"}},
        )
    graph = Graph.from_proto(onnx.load_from_string(buffer.getvalue()), meta)
    for node in graph.all_nodes():
        node.metadata_props[SOURCE_KEY] = (node.name or "").strip("/").replace("/", ".")
    return graph


def signal(n: int = 2, t: int = 240, seed: int = 1) -> np.ndarray:
    """Normalised-looking input, float32 (n, 1, t)."""
    return np.random.default_rng(seed).standard_normal((n, 1, t)).astype(np.float32)


def compare(
    folder: Path, feeds: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]
) -> dict[str, dict[str, Gap]]:
    """Gap per runtime and output; every runtime that the emitted files name is run."""
    found = {}
    with open_session(folder) as session:
        names = session.description["runtimes"]
    for name in names:
        with open_session(folder, runtime=name) as session:
            found[name] = output_gaps(expected, session.run(feeds))
    return found
