"""Taiyaki checkpoints become the zoo's network with the file's sizes; real weights give real scores."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from taiyaki_writer import network, write

from rubicc.frontend import read_model


@pytest.mark.parametrize(
    ("size", "layers", "winlen", "stride"), [(8, 5, 19, 4), (12, 2, 11, 2), (8, 3, 19, 5)]
)
def test_sizes_come_from_the_file(size: int, layers: int, winlen: int, stride: int, tmp_path: Path) -> None:
    net = network(size, layers, winlen, stride)
    x = torch.randn(2, 1, 90)
    with torch.no_grad():
        expected = net(x.permute(2, 0, 1))
        source = read_model(write(tmp_path / "m.checkpoint", net))
        got = source.module(x)  # type: ignore[misc]
    assert got.shape == expected.shape == (-(-90 // stride), 2, 40)
    assert torch.allclose(got, expected, atol=1e-6)
    assert source.kind == "taiyaki" and source.meta is not None and source.meta.stride == stride
    assert source.meta.arch == "taiyaki-mgru" and source.meta.config["size"] == size
    assert source.decisions == []


def test_reading_imports_no_class_of_the_file(tmp_path: Path) -> None:
    import sys

    path = write(tmp_path / "m.checkpoint", network())
    before = set(sys.modules)
    read_model(path)
    assert not [name for name in set(sys.modules) - before if name.startswith("taiyaki")]


@pytest.mark.real_data
@pytest.mark.parametrize("name", ["r9_mgru_flipflop_state_dict.pt", "r9_mgru_flipflop.safetensors"])
def test_published_network(name: str, shared_data: Path) -> None:
    source = read_model(shared_data / "weights" / name, arch="taiyaki-mgru")
    golden = np.load(shared_data / "expected" / "r9_mgru_golden.npz")
    with torch.no_grad():
        scores = source.module(torch.from_numpy(golden["x"])).numpy()  # type: ignore[misc]
    assert scores.shape == golden["scores"].shape == (900, 4, 40)
    assert np.abs(scores - golden["scores"]).max() < 1e-4
    assert source.decisions == [] and source.meta is not None and source.meta.stride == 4
