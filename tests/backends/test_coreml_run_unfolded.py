"""Grouped convolutions in float64 against torch's own, over blocks, strides and dilations."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from rubicc.backends.coreml.run.kernels import unfolded


@pytest.mark.parametrize("block", [1, 4096, 1 << 30])
@pytest.mark.parametrize(
    ("shape", "kernel", "groups", "strides", "dilations"),
    [
        ((2, 6, 31), (5,), 3, (2,), (3,)),
        ((1, 8, 1, 50), (1, 9), 8, (1, 3), (1, 2)),
        ((2, 4, 7, 9), (3, 2), 2, (1, 2), (2, 1)),
        ((1, 4, 4, 5, 6), (2, 2, 3), 4, (1, 1, 2), (1, 2, 1)),
    ],
)
def test_they_agree(
    shape: tuple[int, ...],
    kernel: tuple[int, ...],
    groups: int,
    strides: tuple[int, ...],
    dilations: tuple[int, ...],
    block: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(unfolded, "_BLOCK_BYTES", block)
    torch.manual_seed(0)
    x = torch.randn(shape, dtype=torch.float64)
    weight = torch.randn((2 * shape[1], shape[1] // groups, *kernel), dtype=torch.float64)
    bias = torch.randn(2 * shape[1], dtype=torch.float64)
    own = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}[len(kernel)]
    for given in (bias, None):
        made = unfolded.unfolded(x, weight, given, strides, dilations, groups)
        torch.testing.assert_close(made, own(x, weight, given, strides, 0, dilations, groups))
