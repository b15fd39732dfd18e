"""CTC decoding of log-probabilities: greedy, or prefix beam search by ``fast-ctc-decode``."""

from __future__ import annotations

import numpy as np

from rubicc.errors import VerificationFailed
from rubicc.genomics.call import BasePath
from rubicc.genomics.weights import check_finite

BEAM_SIZE = 5
BEAM_CUT = 1e-3


def greedy(log_probs: np.ndarray) -> BasePath:
    """Most probable label of each frame, repeats merged, blanks dropped. Input (T, C), blank first."""
    check_finite(log_probs)
    best = log_probs.argmax(axis=1) if len(log_probs) else np.empty(0, np.int64)
    new = np.empty(len(best), bool)
    new[:1] = True
    np.not_equal(best[1:], best[:-1], out=new[1:])
    when = np.flatnonzero((best > 0) & new)
    return _base_path(_probabilities(log_probs), when, best[when])


def beam(log_probs: np.ndarray, size: int = BEAM_SIZE, cut: float = BEAM_CUT) -> BasePath:
    """Prefix beam search; labels below probability ``cut`` in a frame are not followed there.

    Raises:
        VerificationFailed: ``RUB-GEN-202`` (not finite), ``RUB-GEN-204`` (rows are not log-probabilities).
    """
    check_finite(log_probs)
    probs = _probabilities(log_probs)
    if not len(probs):
        return _base_path(probs, np.empty(0, np.int64), np.empty(0, np.int64))
    import fast_ctc_decode

    # Labels as single characters from a private range, so that any real alphabet works.
    labels = [chr(0x30 + i) for i in range(probs.shape[1])]
    try:
        text, frames = fast_ctc_decode.beam_search(probs, labels, beam_size=size, beam_cut_threshold=cut)
    except RuntimeError as err:
        raise VerificationFailed(
            "RUB-GEN-204", f"beam search failed: {err}", hint="are the scores log-probabilities?"
        ) from err
    found = np.frombuffer(text.encode("latin-1"), np.uint8).astype(np.int64) - 0x30
    return _base_path(probs, np.asarray(frames, np.int64), found)


def _base_path(probs: np.ndarray, when: np.ndarray, labels: np.ndarray) -> BasePath:
    """Bases ``labels`` (1-based) emitted at frames ``when``.

    A base's error is 1 minus the largest probability its label has before the next base: of nine measures
    tried on simulated reads the one with the lowest loss per base. (The beam's frame is where it first
    followed a base, which may be early.)
    """
    moves = np.zeros(len(probs), np.uint8)
    moves[when] = 1
    codes = (labels - 1).astype(np.uint8)
    if not len(when):
        return BasePath(moves, codes, np.empty(0, np.float32))
    current = labels[np.cumsum(moves[when[0] :], dtype=np.int64) - 1]
    own = probs[np.arange(when[0], len(probs)), current]
    error = 1 - np.maximum.reduceat(own, when - when[0])
    return BasePath(moves, codes, np.clip(error, 0.0, 1.0).astype(np.float32))


def _probabilities(log_probs: np.ndarray) -> np.ndarray:
    """float32 probabilities.

    Raises:
        VerificationFailed: ``RUB-GEN-204`` when rows sum to something far from 1: logits, or a broken
        network.
    """
    values = np.array(log_probs, np.float32, order="C")
    # Clipped before exp: a positive "log-probability" of 200 must be reported, not overflow first.
    probs = np.exp(np.minimum(values, np.float32(20.0)))
    total = probs.sum(axis=1)
    if len(total) and not np.abs(total - 1).max() < 0.1:
        worst = int(np.abs(total - 1).argmax())
        raise VerificationFailed(
            "RUB-GEN-204",
            f"probabilities sum to {total[worst]:.3g}",
            where=f"output frame {worst}",
            hint="CTC decoding takes log-probabilities (a log-softmax at the end of the network)",
        )
    return probs
