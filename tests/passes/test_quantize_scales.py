"""Scales: how many there are, what they cost, and Taiyaki's grid."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from rubicc.ir.graph import is_quantiser
from rubicc.passes.manager import run_pass
from rubicc.passes.quantize.sites import sites
from rubicc.passes.quantize.weights import (
    QuantiseWeights,
    WeightOptions,
    asymmetric,
    rounding_error,
    scale_bits,
)
from rubicc.passes.rewrite import constant
from tests.training.twin_zoo import net

FORMS = [("tensor", True), ("tensor", False), ("channel", True), ("channel", False), ("block", True)]


def graph():
    """Convolution, LSTMs with two weights each, matrix products."""
    return net("bonito-crf").cleaned


@pytest.mark.parametrize(("granularity", "symmetric"), FORMS)
def test_bits_of_scales_are_those_of_the_quantisers(granularity: str, symmetric: bool) -> None:
    options = WeightOptions(bits=4, granularity=granularity, symmetric=symmetric, least=1, block=8)
    found = {site.name: site for site in sites(graph(), least=1)}
    made = graph().clone()
    run_pass(QuantiseWeights(options), made, check=True)
    quants = [node for node in made.all_nodes() if is_quantiser(node)]
    assert len(quants) == len(found) > 5
    counted = [(array(q, 1).size, array(q, 2).size if not symmetric else 0) for q in quants]
    asked = [scale_bits(site, options) for site in found.values()]
    assert sum(asked) == sum(32 * scales + 8 * zeros for scales, zeros in counted)
    errors = [np.square(rounded(q) - array(q, 0)).sum(dtype=np.float64) for q in quants]
    predicted = [rounding_error(site, 4, options) for site in found.values()]
    np.testing.assert_allclose(sum(predicted), sum(errors), rtol=1e-4)


def array(node: ir.Node, index: int) -> np.ndarray:
    found = constant(node.inputs[index])
    assert found is not None
    return found


def rounded(node: ir.Node) -> np.ndarray:
    from rubicc.shrink.storage import stored_values

    found = stored_values(node)
    assert found is not None
    return found


@pytest.mark.parametrize("seed", range(4))
def test_asymmetric_tensors_lie_on_taiyakis_grid(seed: int) -> None:
    """seeds.md A6: q in -128..127, scale (max - min) / 255, zero point from the minimum.

    Taiyaki cuts the zero point towards zero and keeps the scale in float32; ours is rounded to the nearest
    whole number, and the scale up to fp16, so both grids agree to a step of either.
    """
    rng = np.random.default_rng(seed)
    weight = (rng.normal(size=(288, 96)) * 0.2 + rng.uniform(-0.1, 0.1)).astype(np.float32)
    low, high = float(weight.min()), float(weight.max())
    scale, zero = asymmetric(weight, (0, 1), 8)
    theirs = (high - low) / 255
    their_zero = np.trunc(np.clip(-128 - low / theirs, -128, 127))
    assert scale.shape == zero.shape == (1, 1)
    assert theirs <= float(scale[0, 0]) <= theirs * (1 + 2**-10)
    assert abs(float(zero[0, 0]) - their_zero) <= 1 and float(zero[0, 0]).is_integer()
    whole = np.rint(np.clip(their_zero + weight / theirs, -128, 127))
    their_weight = theirs * (whole - their_zero)
    ours = (np.clip(np.rint(weight / scale + zero), -128, 127) - zero) * scale
    assert np.abs(ours - weight).max() <= 0.75 * scale[0, 0], "a zero point is off by half a step at most"
    assert np.abs(ours - their_weight).max() <= 1.5 * scale[0, 0]
    assert np.square(ours - weight).sum() <= 1.02 * np.square(their_weight - weight).sum()
