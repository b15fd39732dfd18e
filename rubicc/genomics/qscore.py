"""Per-base qualities: error probability to phred, calibration, and fitting it.

A decoder gives each base an error probability from the network's posteriors. Networks are over-confident and
know nothing of the bases they skipped, so the phred value is calibrated: ``q' = qscale * q + qbias``, with
both numbers in the model's metadata. :func:`fit` finds them on reads whose truth is known.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

MIN_Q, MAX_Q = 1.0, 50.0
_FLOOR = 1e-5


def phred(error: np.ndarray, qscale: float = 1.0, qbias: float = 0.0) -> np.ndarray:
    """Calibrated float32 phred of error probabilities, clipped to ``[1, 50]``."""
    raw = -10.0 * np.log10(np.clip(error, _FLOOR, 1.0))
    return np.clip(qscale * raw + qbias, MIN_Q, MAX_Q).astype(np.float32)


def smooth(error: np.ndarray) -> np.ndarray:
    """Errors averaged over five bases (weights 1, 2, 4, 2, 1; ends repeated), float32.

    Errors come in clusters and an alignment puts a skipped base beside its true place: on real R9 reads this
    predicts a base's error better than its own posterior alone (0.265 against 0.272 nats per base).
    """
    if len(error) == 0:
        return error.astype(np.float32)
    padded = np.pad(error, 2, mode="edge")
    return np.convolve(padded, np.array([0.1, 0.2, 0.4, 0.2, 0.1]), "valid").astype(np.float32)


def error_probability(q: np.ndarray | float) -> np.ndarray:
    """Inverse of phred: ``10 ** (-q / 10)``."""
    return np.power(10.0, np.asarray(q, np.float64) / -10.0)


def qstring(q: np.ndarray) -> str:
    """Rounded phred values as FASTQ characters."""
    return (np.rint(q).astype(np.uint8) + 33).tobytes().decode("ascii")


def from_qstring(text: str) -> np.ndarray:
    """float32 phred values of FASTQ characters."""
    return (np.frombuffer(text.encode("ascii"), np.uint8) - 33).astype(np.float32)


def mean_q(q: np.ndarray) -> float:
    """Phred of the mean error probability (not the mean of phreds, which flatters a read); 0 if empty."""
    if len(q) == 0:
        return 0.0
    return float(-10.0 * np.log10(error_probability(q).mean()))


def base_errors(call: str, reference: str) -> np.ndarray:
    """Which bases of ``call`` are wrong, as float64 ``(len(call),)``, from an end-to-end edlib alignment.

    A mismatch or an inserted base counts 1. A deleted run counts its length, spread over the called bases on
    its two sides, so that the sum is the edit distance. The reference is taken as covering the call; trim
    first.
    """
    import edlib

    nice = edlib.getNiceAlignment(edlib.align(call, reference, mode="NW", task="path"), call, reference)
    query = np.frombuffer(nice["query_aligned"].encode(), np.uint8)
    matched = np.frombuffer(nice["matched_aligned"].encode(), np.uint8)
    is_base = query != ord("-")
    errors = (matched[is_base] != ord("|")).astype(np.float64)
    before = np.cumsum(is_base)[~is_base]
    if len(errors):
        np.add.at(errors, np.clip(before - 1, 0, len(errors) - 1), 0.5)
        np.add.at(errors, np.clip(before, 0, len(errors) - 1), 0.5)
    return errors


@dataclass(frozen=True)
class Calibration:
    """Result of :func:`fit`. ``nll`` is per base, in nats, before and after."""

    qscale: float
    qbias: float
    nll_before: float
    nll_after: float


def fit(error: np.ndarray, observed: np.ndarray) -> Calibration:
    """``qscale, qbias`` whose mean predicted error equals the observed rate, and which fit best among those.

    ``error`` are uncalibrated probabilities from a decoder, ``observed`` the matching :func:`base_errors`
    (values above 1 are clipped in the likelihood, not in the rate). Golden-section search over ``qscale``;
    for each, ``qbias`` is the root of (mean predicted error = observed rate) by bisection.
    """
    rate = float(np.mean(observed))
    label = np.clip(observed, 0.0, 1.0)

    def bias(scale: float) -> float:
        low, high = -60.0, 60.0
        for _ in range(60):
            middle = 0.5 * (low + high)
            if error_probability(phred(error, scale, middle)).mean() > rate:
                low = middle
            else:
                high = middle
        return 0.5 * (low + high)

    def nll(scale: float, shift: float) -> float:
        p = np.clip(error_probability(phred(error, scale, shift)), 1e-6, 1 - 1e-6)
        return float(-(label * np.log(p) + (1 - label) * np.log1p(-p)).mean())

    golden = 0.5 * (5**0.5 - 1)
    left, right = 0.05, 3.0
    while right - left > 1e-3:
        a, b = right - golden * (right - left), left + golden * (right - left)
        if nll(a, bias(a)) < nll(b, bias(b)):
            right = b
        else:
            left = a
    scale = round(0.5 * (left + right), 3)
    shift = round(bias(scale), 3)
    return Calibration(scale, shift, nll(1.0, 0.0), nll(scale, shift))
