"""Networks and artefacts shared by this room's tests; built once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from backend_nets import conv_net, export, gru_net
from torch import nn

from rubicc.backends.base import Target
from rubicc.backends.cpu_gpu.emit import emit
from rubicc.backends.cpu_gpu.plan import plan
from rubicc.ir.graph import Graph

CPU = Target("cpu")


@dataclass(frozen=True)
class Built:
    """A network, its graph, and the folder it was emitted into."""

    net: nn.Module
    graph: Graph
    folder: Path

    def expected(self, x: np.ndarray) -> dict[str, np.ndarray]:
        with torch.no_grad():
            return {"y": self.net(torch.from_numpy(x)).numpy()}


def build(net: nn.Module, stride: int, kind: str, folder: Path) -> Built:
    graph = export(net, stride, kind)
    emit(graph, plan(graph, CPU, runtime="onnxruntime", batch=2), folder)
    return Built(net, graph, folder)


@pytest.fixture(scope="session")
def conv(tmp_path_factory: pytest.TempPathFactory) -> Built:
    return build(conv_net(), 3, "ctc", tmp_path_factory.mktemp("conv") / "cpu_gpu")


@pytest.fixture(scope="session")
def gru(tmp_path_factory: pytest.TempPathFactory) -> Built:
    return build(gru_net(), 4, "flipflop", tmp_path_factory.mktemp("gru") / "cpu_gpu")


@pytest.fixture(scope="session", params=["conv", "gru"])
def built(request: pytest.FixtureRequest) -> Built:
    return request.getfixturevalue(request.param)
