"""Scores to positive weights, shared by the forward-backward decoders."""

from __future__ import annotations

import numpy as np

from rubicc.errors import VerificationFailed

# exp(-80) is 1.8e-35, a normal float32; with every step's largest weight at 1 the recursions cannot lose all
# mass.
_RANGE = 80.0
# Added to every posterior before the Viterbi step, so that no path is impossible.
VITERBI_FLOOR = 1e-8


def check_finite(scores: np.ndarray) -> None:
    """Refuse scores with NaN or infinity.

    Raises:
        VerificationFailed: ``RUB-GEN-202`` with the first frame that holds one.
    """
    # A sum is finite unless a term is not (or floats of 1e38 add up, which the exact test then clears).
    if np.isfinite(scores.sum(dtype=np.float64)):
        return
    bad = ~np.isfinite(scores)
    if bad.any():
        raise VerificationFailed(
            "RUB-GEN-202",
            f"{int(bad.sum())} of {scores.size} scores are NaN or infinite",
            where=f"first in output frame {int(np.argmax(bad.any(axis=-1)))}",
            hint="the artefact overflows on this read; verify it, or compile at --precision fp32",
        )


def linear_weights(scores: np.ndarray) -> np.ndarray:
    """``exp(scores - max)`` as a new contiguous float32 ``(T, C)``; a common factor per row does not matter.

    Scores more than 80 below their row's largest count as 80 below.

    Raises:
        VerificationFailed: ``RUB-GEN-202``.
    """
    check_finite(scores)
    weights = np.array(scores, np.float32, order="C")
    if weights.size == 0:
        return weights
    top = float(weights.max())
    if top - float(weights.min()) <= _RANGE:
        weights -= np.float32(top)
    else:
        weights -= weights.max(axis=-1, keepdims=True)
        np.maximum(weights, np.float32(-_RANGE), out=weights)
    return np.exp(weights, out=weights)
