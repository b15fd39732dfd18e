"""Gaps: what they measure, and that nothing wrong is ever dropped."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from rubicc.errors import VerificationFailed
from rubicc.evidence.gaps import Gap, combined, gap, layer_gaps, output_gaps, require
from rubicc.quantities import MaxGap


def test_equal_arrays_are_exact() -> None:
    x = np.random.default_rng(0).normal(size=(3, 2, 5)).astype(np.float32)
    found = gap(x, x.copy())
    assert (found.max_abs, found.max_rel, found.rms, found.snr_db) == (0.0, 0.0, 0.0, math.inf)
    assert found.argmax_agreement == 1.0 and found.count == 30 and found.ok


def test_figures_against_closed_form() -> None:
    ref = np.array([3.0, -4.0])
    found = gap(ref, ref + np.array([0.3, -0.4]))
    assert found.max_abs == pytest.approx(0.4)
    assert found.max_rel == pytest.approx(0.1)
    assert found.rms == pytest.approx(math.sqrt(0.125))
    assert found.snr_db == pytest.approx(20.0)
    assert found.argmax_agreement is None


def test_argmax_agreement_counts_frames() -> None:
    ref = np.eye(4)[None]
    got = ref.copy()
    got[0, 0] = [0, 2, 0, 0]
    assert gap(ref, got).argmax_agreement == 0.75


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_one_bad_value_among_many_fails(bad: float) -> None:
    ref = np.ones(10_000)
    got = ref.copy()
    got[77] = bad
    found = gap(ref, got)
    assert not found.ok and found.snr_db == -math.inf and found.max_abs == math.inf


def test_nan_in_both_is_still_a_failure() -> None:
    x = np.array([1.0, np.nan])
    assert "reference" in gap(x, x).failure


def test_matching_infinities_are_equal_and_others_are_not() -> None:
    ref = np.array([-np.inf, 1.0, 2.0])
    assert gap(ref, ref.copy()).snr_db == math.inf
    assert not gap(ref, np.array([np.inf, 1.0, 2.0])).ok
    assert not gap(ref, np.array([0.0, 1.0, 2.0])).ok


@pytest.mark.parametrize(
    ("ref", "got", "said"),
    [
        (np.ones((2, 3)), np.ones((3, 2)), "shape"),
        (np.ones((2, 1)), np.ones(2), "shape"),
        (np.ones(0), np.ones(0), "empty"),
        (np.array(["a"]), np.array(["a"]), "cannot be compared"),
    ],
)
def test_incomparable_is_a_failure(ref: np.ndarray, got: np.ndarray, said: str) -> None:
    assert said in gap(ref, got).failure


def test_extreme_magnitudes_do_not_overflow_or_vanish() -> None:
    for scale in (1e300, 1e-300):
        found = gap(np.array([scale, scale]), np.array([scale, scale * 1.1]))
        assert found.snr_db == pytest.approx(23.01, abs=0.01)
    assert gap(np.zeros(3), np.full(3, 1e-9)).snr_db == -math.inf


def test_float16_is_compared_in_float64() -> None:
    ref = np.array([1.0, 2.0], np.float64)
    assert gap(ref, ref.astype(np.float16) + np.float16(0.001)).max_abs == pytest.approx(0.00195, abs=1e-5)


def test_missing_and_surplus_outputs_fail() -> None:
    gaps = output_gaps({"y": np.ones(2), "z": np.ones(2)}, {"y": np.ones(2), "w": np.ones(2)})
    assert gaps["y"].ok and not gaps["z"].ok and not gaps["w"].ok
    assert not combined(gaps.values()).ok
    assert not combined(output_gaps({}, {}).values()).ok
    assert not combined([]).ok


def test_combined_takes_the_worst_of_each() -> None:
    worst = combined([Gap(1, 0.5, 1, 20, 0.9, 10), Gap(2, 0.1, 3, 40, None, 30)])
    assert (worst.max_abs, worst.max_rel, worst.snr_db, worst.argmax_agreement) == (2, 0.5, 20, 0.9)
    assert worst.rms == pytest.approx(math.sqrt((10 + 9 * 30) / 40)) and worst.count == 40


def test_json_round_trip_keeps_infinities() -> None:
    for found in (gap(np.ones(2), np.ones(2)), gap(np.ones(2), np.ones(3))):
        text = json.dumps(found.to_dict(), allow_nan=False)
        assert Gap.from_dict(json.loads(text)) == found


def test_layer_gaps_skip_only_what_the_reference_lacks() -> None:
    rows = [("a", "n1", "Conv", "m.0"), ("b", "n2", "Relu", "m.1"), ("new", "n3", "Add", "m.2")]
    layers = layer_gaps({"a": np.ones(2), "b": np.ones(2)}, {"a": np.ones(2), "new": np.ones(2)}, rows)
    assert [(layer.value, layer.gap.ok) for layer in layers] == [("a", True), ("b", False)]


def test_require_names_every_broken_output() -> None:
    good, bad = gap(np.ones(2), np.ones(2)), gap(np.ones(2), np.array([1.0, 1.1]))
    assert require({"y": good}, MaxGap(snr=60), code="RUB-X-1").snr_db == math.inf
    for limit in (MaxGap(snr=60), MaxGap(max_abs=0.01)):
        with pytest.raises(VerificationFailed) as error:
            require({"y": good, "p": bad, "q": bad}, limit, code="RUB-X-1")
        assert "p:" in error.value.what and "q:" in error.value.what and "y:" not in error.value.what
    with pytest.raises(VerificationFailed):
        require({}, MaxGap(), code="RUB-X-1")
    with pytest.raises(VerificationFailed):
        require({"y": gap(np.ones(2), np.full(2, np.nan))}, MaxGap(), code="RUB-X-1")
