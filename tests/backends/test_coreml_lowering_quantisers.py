"""Quantisers of activations: the grid is the graph's on every target, whatever operations hold it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from coreml_graphs import Build, compiled, normal
from hypothesis import given, settings
from hypothesis import strategies as st

from rubicc.backends.coreml.lowering import findings

MODES = ("ROUND", "HALF_EVEN", "FLOOR", "CEIL", "UP", "DOWN", "ROUND_TO_ZERO", "HALF_UP", "HALF_DOWN")
PAIR = {"quantize": 1, "dequantize": 1}


def ties(scale: float = 0.25) -> np.ndarray:
    """Quarter steps from below the lowest level of five bits to above the highest: ties among them."""
    return (np.arange(-100, 101, dtype=np.float32) * np.float32(scale / 4)).reshape(1, 3, 67)


def quantised(x: np.ndarray, scale: Any, zero: Any = 0.0, bits: float = 8.0, **attributes: Any) -> Build:
    b = Build(x=x)
    settings_ = {"signed": 1, "narrow": 0, "rounding_mode": "ROUND"} | attributes
    b("Quant", "x", np.float32(scale), np.float32(zero), np.float32(bits), **settings_)
    return b


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("target", ["iOS16", "iOS17"])
def test_every_rounding_meets_ties_exactly(mode: str, target: str) -> None:
    for narrow in (0, 1):
        b = quantised(ties(), 0.25, bits=5.0, narrow=narrow, rounding_mode=mode)
        made = compiled(b.graph(), target=target)
        assert made.gap(b.feeds) == 0.0 and made.codes == {"RUB-COREML-D17"}


@pytest.mark.parametrize(("signed", "zero"), [(1, 0.0), (0, 0.0), (1, -4.0), (0, 128.0)])
@pytest.mark.parametrize("scale", [0.25, "per channel"])
def test_full_8_bit_grids_are_integers_from_ios17_on(signed: int, zero: float, scale: Any) -> None:
    scales = np.float32([[0.25], [0.5], [0.125]]) if isinstance(scale, str) else scale
    b = quantised(ties(1.0), scales, zero, signed=signed)
    old, new = (compiled(b.graph(), target=target) for target in ("iOS16", "iOS17"))
    assert old.gap(b.feeds) == new.gap(b.feeds) == 0.0
    assert new.counts == PAIR and new.codes == set()
    assert "quantize" not in old.counts and old.codes == {"RUB-COREML-D17"}


def test_an_odd_zero_point_moves_ties_and_is_arithmetic() -> None:
    """MIL rounds before it adds the zero point: 0.5 - 3 would become -3 instead of -2."""
    b = quantised(ties(1.0), 0.5, -3.0)
    made = compiled(b.graph(), target="iOS17")
    assert "quantize" not in made.counts and made.gap(b.feeds) == 0.0


@pytest.mark.parametrize(
    ("bits", "attributes"),
    [(7.0, {}), (8.0, {"narrow": 1}), (8.0, {"rounding_mode": "FLOOR"}), (16.0, {}), (2.0, {}), (1.0, {})],
)
def test_other_grids_are_arithmetic(bits: float, attributes: dict[str, Any]) -> None:
    b = quantised(ties(), 0.25, bits=bits, **attributes)
    made = compiled(b.graph(), target="iOS18")
    assert "quantize" not in made.counts and made.gap(b.feeds) == 0.0


@pytest.mark.parametrize(
    ("bits", "types"), [(8.0, {"fp16"}), (11.0, {"fp16"}), (12.0, {"fp32"}), (16.0, {"fp32"})]
)
def test_grids_beyond_float16_are_computed_in_fp32(bits: float, types: set[str]) -> None:
    """4096 levels: float16 would merge the outer ones."""
    x = (np.arange(-(2 ** (bits - 1)), 2 ** (bits - 1), 7, dtype=np.float32) * 0.25).reshape(1, -1)
    b = quantised(x, 0.25, bits=bits, narrow=0, rounding_mode="ROUND")
    made = compiled(b.graph(), target="iOS16", precision="fp16")
    rounds = [op for op in made.package.main.operations() if op.type == "round"]
    assert {value.type.dtype for op in rounds for value in op.outputs} == types
    assert made.codes == {"RUB-COREML-D13" if types == {"fp32"} else "RUB-COREML-D17"}
    half = np.float16(0.5**10) * np.abs(x).max()  # what leaves the quantiser is float16
    assert np.abs(made.run(b.feeds, "fp16")["quant0"] - made.wanted(b.feeds)["quant0"]).max() <= half


def test_a_scale_that_float16_loses_is_kept() -> None:
    b = quantised(ties(1.3e-7), 1.3e-7, bits=8.0)
    made = compiled(b.graph(), target="iOS17", precision="fp16")
    assert "RUB-COREML-D13" in made.codes and "quantize" not in made.counts


@settings(max_examples=25, deadline=None)
@given(
    st.integers(1, 16), st.booleans(), st.booleans(), st.sampled_from(MODES), st.integers(-4, 4),
    st.floats(0.01, 4.0), st.sampled_from(["iOS16", "iOS17"]),
)  # fmt: skip
def test_any_grid(
    bits: int, signed: bool, narrow: bool, mode: str, zero: int, scale: float, target: str
) -> None:
    """Values off the ties, where the quotient's last bit decides nothing."""
    narrow = narrow and bits > 1
    step = float(np.float32(scale))
    levels = np.arange(-300, 300, 7) + np.tile([0.3, -0.3, 0.45, 0.1, 0.2, -0.4], 15)[:86]
    x = (levels * step).reshape(2, 43).astype(np.float32)
    b = quantised(
        x, step, float(zero), float(bits), signed=int(signed), narrow=int(narrow), rounding_mode=mode,
    )  # fmt: skip
    assert compiled(b.graph(), target=target).gap(b.feeds) < 1e-6


@pytest.mark.parametrize("narrow", [0, 1])
@pytest.mark.parametrize("zero", [0.0, 1.0, -2.0])
def test_one_signed_bit_is_the_sign(narrow: int, zero: float) -> None:
    b = quantised(ties(), 0.25, zero, 1.0, narrow=narrow)
    made = compiled(b.graph(), target="iOS16")
    assert made.gap(b.feeds) == 0.0 and len(np.unique(made.run(b.feeds)["quant0"])) == 2


def test_a_single_level_is_refused() -> None:
    (finding,) = findings(quantised(ties(), 0.25, bits=1.0, signed=0, narrow=1).graph())
    assert finding.rule == "RUB-COREML-103" and "single level" in finding.reason


def test_bipolar_counts_zero_as_positive() -> None:
    b = Build(x=np.float32([[-1.0, -0.0, 0.0, 2.0]]))
    b("BipolarQuant", "x", np.float32(0.5))
    made = compiled(b.graph())
    assert made.run(b.feeds)["bipolarquant0"].tolist() == [[-0.5, 0.5, 0.5, 0.5]]


@pytest.mark.parametrize("mode", ["FLOOR", "CEIL", "ROUND", "ROUND_TO_ZERO"])
@pytest.mark.parametrize("zero", [0.0, 2.0])
def test_trunc_drops_low_bits(mode: str, zero: float) -> None:
    b = Build(x=(np.arange(-64, 64, dtype=np.float32) * 0.25).reshape(2, 64))
    b("Trunc", "x", np.float32(0.25), np.float32(zero), np.float32(8), np.float32(5), rounding_mode=mode)
    assert compiled(b.graph(), target="iOS16").gap(b.feeds) == 0.0


@pytest.mark.parametrize("kind", ["int8", "uint8"])
@pytest.mark.parametrize("target", ["iOS16", "iOS17"])
@pytest.mark.parametrize("axis", [None, 1])
def test_onnx_pair_per_tensor_and_per_channel(kind: str, target: str, axis: int | None) -> None:
    b = Build(x=4 * normal(2, 3, 20))
    scale = np.float32(0.0625) if axis is None else np.float32([0.0625, 0.125, 0.25])
    zero = np.array(3 if axis is None else [0, 5, 2], kind)
    extra = {} if axis is None else {"axis": axis}
    b("DequantizeLinear", b("QuantizeLinear", "x", scale, zero, **extra), scale, zero, **extra)
    made = compiled(b.graph(), target=target)
    assert made.gap(b.feeds) == 0.0
    assert made.counts == PAIR if target == "iOS17" else "quantize" not in made.counts


def test_what_no_operation_holds_is_refused_with_the_reason() -> None:
    widths = quantised(ties(), 0.25, bits=8.0)
    widths.constants["c2"] = np.float32([[4.0], [8.0], [2.0]])
    (finding,) = findings(widths.graph())
    assert finding.rule == "RUB-COREML-103" and "bit widths differ" in finding.reason
    computed = Build(x=ties())
    scale = computed("ReduceMax", "x", np.array([0, 1, 2]), keepdims=0)
    computed("Quant", "x", scale, np.float32(0), np.float32(8), signed=1, narrow=0, rounding_mode="ROUND")
    (finding,) = findings(computed.graph())
    assert finding.rule == "RUB-COREML-103" and "parameter of Quant" in finding.reason
