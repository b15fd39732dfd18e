from __future__ import annotations

import numpy as np
import pytest

from rubicc.errors import UsageError
from rubicc.genomics import qscore
from rubicc.genomics.calibrate import Evidence, calibrate, evidence
from rubicc.genomics.call import BasePath
from rubicc.spec import DecoderSpec


def random_bases(n: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 4, n).astype(np.uint8)


def letters(codes: np.ndarray) -> str:
    return "".join("ACGT"[code] for code in codes)


def path(codes: np.ndarray, error: np.ndarray | None = None) -> BasePath:
    error = np.full(len(codes), 0.1, np.float32) if error is None else error
    return BasePath(np.ones(len(codes), np.uint8), codes, error)


def test_evidence_of_a_call_with_known_errors() -> None:
    truth = random_bases(800, 1)
    call = truth.copy()
    wrong = np.arange(50, 800, 50)
    call[wrong] = (call[wrong] + 1) % 4
    found = evidence(path(call), "ACGT", letters(truth))
    assert found is not None
    assert found.identity == pytest.approx(1 - len(wrong) / 800, abs=0.01)
    assert found.observed.sum() == pytest.approx(len(wrong), abs=1)
    assert len(found.error) == len(found.observed)
    assert found.predicted(1.0, 0.0) == pytest.approx(0.1, rel=1e-3)


def test_unaligned_and_reverse_calls_give_no_evidence() -> None:
    truth = random_bases(800, 1)
    assert evidence(path(random_bases(800, 2)), "ACGT", letters(truth)) is None
    assert evidence(path((3 - truth)[::-1].copy()), "ACGT", letters(truth)) is None


def test_calibrated_call_has_the_observed_error() -> None:
    truth = random_bases(4000, 3)
    rng = np.random.default_rng(4)
    call = truth.copy()
    wrong = rng.random(4000) < 0.08
    call[wrong] = (call[wrong] + 1) % 4
    claimed = np.clip(np.where(wrong, 0.2, 0.02) * rng.uniform(0.5, 2, 4000), 0, 1).astype(np.float32)
    found = evidence(path(call, claimed), "ACGT", letters(truth))
    assert found is not None
    fitted = calibrate([found, None])
    result = path(call, claimed).call("ACGT", DecoderSpec("ctc", {}, fitted.qscale, fitted.qbias))
    assert 10 ** (-result.mean_q / 10) == pytest.approx(0.08, abs=0.015)
    stated = qscore.error_probability(qscore.from_qstring(result.qstring)).mean()
    assert -10 * np.log10(stated) == pytest.approx(result.mean_q, abs=0.2)  # the string rounds


def test_too_little_evidence_is_refused() -> None:
    small = Evidence(np.full(50, 0.1), np.zeros(50), 1.0)
    with pytest.raises(UsageError, match=r"RUB-GEN-205.*50 aligned"):
        calibrate([None, small])
