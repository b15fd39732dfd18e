"""CTC decoding of log-probabilities: greedy, or prefix beam search by ``fast-ctc-decode``."""

from __future__ import annotations

import numpy as np

from rubicc.errors import VerificationFailed
from rubicc.genomics.call import BasePath
from rubicc.genomics.emission import STAY, base_path
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
    emitted = np.where((best > 0) & new, best - 1, STAY).astype(np.uint8)
    return base_path(_probabilities(log_probs)[:, 1:], emitted)


def beam(log_probs: np.ndarray, size: int = BEAM_SIZE, cut: float = BEAM_CUT) -> BasePath:
    """Prefix beam search; labels below probability ``cut`` in a frame are not followed there.

    Raises:
        VerificationFailed: ``RUB-GEN-202`` (not finite), ``RUB-GEN-204`` (rows are not log-probabilities).
    """
    check_finite(log_probs)
    probs = _probabilities(log_probs)
    emitted = np.full(len(probs), STAY, np.uint8)
    if len(probs):
        import fast_ctc_decode

        # Labels as single characters from a private range, so that any real alphabet works.
        labels = [chr(0x30 + i) for i in range(probs.shape[1])]
        try:
            text, frames = fast_ctc_decode.beam_search(probs, labels, beam_size=size, beam_cut_threshold=cut)
        except RuntimeError as err:
            raise VerificationFailed(
                "RUB-GEN-204", f"beam search failed: {err}", hint="are the scores log-probabilities?"
            ) from err
        emitted[np.asarray(frames, np.int64)] = np.frombuffer(text.encode("latin-1"), np.uint8) - 0x31
    return base_path(probs[:, 1:], emitted)


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
