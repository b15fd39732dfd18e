"""Quantisers after a removal: their scales follow what they read."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pass_graphs import graph, node, weights

from rubicc.ir.graph import Graph
from rubicc.passes.rewrite import constant
from rubicc.shrink.skip_measures import recalibrated


def scale_after(scale: float, gain: float) -> float:
    """Of a quantiser whose input is ``gain`` times what it was."""

    def one(gain: float) -> Graph:
        quant = {"signed": 1, "narrow": 0, "rounding_mode": "ROUND"}
        nodes = [node("Mul", "x g", "a"), node("Quant", "a s z b", "q", **quant), node("Conv", "q w", "y")]
        numbers = {"g": gain, "s": scale, "z": 0.0, "b": 8.0}
        constants = {name: np.float32(value) for name, value in numbers.items()} | {"w": weights(2, 1, 1)}
        return graph(nodes, {"x": ("N", 1, "T")}, {"y": ("N", 2, "T")}, constants)

    generator = torch.Generator().manual_seed(0)
    feeds = [{"x": torch.randn(2, 1, 50, generator=generator)} for _ in range(2)]
    after = recalibrated(one(1.0), one(gain), feeds)
    found = next(constant(n.inputs[1]) for n in after.nodes if n.op_type == "Quant")
    assert found is not None
    return float(found)


def test_scales_follow_the_spread() -> None:
    """Half the values, half the scale."""
    assert scale_after(0.3, 0.5) == pytest.approx(0.15, rel=1e-5)
    assert scale_after(0.3, 1.0) == np.float32(0.3)


def test_powers_of_two_stay_such() -> None:
    """0.25 follows a spread 0.3 times as wide to 0.0625, the nearest power."""
    scale = scale_after(0.25, 0.3)
    assert scale == 0.0625
