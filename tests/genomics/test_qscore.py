from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rubicc.genomics import qscore


def test_phred_round_trip_and_clipping() -> None:
    q = qscore.phred(np.array([0.1, 0.01, 0.0, 1.0]))
    assert q.tolist() == pytest.approx([10, 20, 50, 1])
    assert qscore.error_probability(q[:2]) == pytest.approx([0.1, 0.01])
    assert qscore.phred(np.array([0.1]), 0.5, 3.0)[0] == pytest.approx(8.0)
    text = qscore.qstring(q)
    assert text == '+5S"'
    assert qscore.from_qstring(text).tolist() == [10, 20, 50, 1]


def test_mean_q_averages_probabilities_not_phreds() -> None:
    q = np.array([10.0, 30.0])
    assert qscore.mean_q(q) == pytest.approx(-10 * np.log10((0.1 + 0.001) / 2))
    assert qscore.mean_q(q) < q.mean()
    assert qscore.mean_q(np.empty(0)) == 0.0


def test_smoothing_keeps_length_mean_and_constants() -> None:
    assert qscore.smooth(np.full(7, 0.3)) == pytest.approx(np.full(7, 0.3))
    x = np.zeros(11)
    x[5] = 1
    assert qscore.smooth(x).tolist() == pytest.approx([0, 0, 0, 0.1, 0.2, 0.4, 0.2, 0.1, 0, 0, 0])
    for n in range(4):
        assert len(qscore.smooth(np.ones(n))) == n


@pytest.mark.parametrize(
    ("call", "reference", "total"),
    [
        ("ACGTACGT", "ACGTACGT", 0),
        ("ACGAACGT", "ACGTACGT", 1),
        ("ACGTTACGT", "ACGTACGT", 1),
        ("ACGACGT", "ACGTACGT", 1),
        ("ACGTAC", "ACGTACGTT", 3),
        ("ACGTACGT", "TTACGTACGT", 2),
    ],
)
def test_base_errors_sum_to_the_edit_distance(call: str, reference: str, total: int) -> None:
    errors = qscore.base_errors(call, reference)
    assert errors.sum() == total
    assert len(errors) == len(call)


@settings(max_examples=40, deadline=None)
@given(st.text("ACGT", min_size=1, max_size=40), st.text("ACGT", min_size=1, max_size=40))
def test_base_errors_sum_to_the_edit_distance_of_any_pair(call: str, reference: str) -> None:
    import edlib

    assert qscore.base_errors(call, reference).sum() == edlib.align(call, reference)["editDistance"]


def test_fit_recovers_a_known_distortion() -> None:
    rng = np.random.default_rng(0)
    true_q = rng.uniform(4, 25, size=60_000)
    observed = (rng.random(true_q.size) < 10 ** (-true_q / 10)).astype(float)
    reported = 10 ** (-(true_q * 1.6 - 2) / 10)  # over-confident network
    found = qscore.fit(reported, observed)
    assert found.qscale == pytest.approx(1 / 1.6, abs=0.04)
    assert found.qbias == pytest.approx(2 / 1.6, abs=0.6)
    assert found.nll_after < found.nll_before
    calibrated = qscore.phred(reported, found.qscale, found.qbias)
    assert qscore.error_probability(calibrated).mean() == pytest.approx(observed.mean(), rel=1e-3)
    # The check can fail: uncalibrated qualities are off by far more than the tolerance above.
    raw = qscore.error_probability(qscore.phred(reported)).mean()
    assert abs(raw - observed.mean()) > 0.1 * observed.mean()
