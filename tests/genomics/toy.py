"""A network and decoder small enough to check by hand: mean of five samples, base by level."""

from __future__ import annotations

import numpy as np

from rubicc.genomics.call import Call
from rubicc.spec import DecoderSpec, ModelMeta, SignalSpec, TensorSpec

STRIDE = 5
META = ModelMeta(
    arch="toy",
    inputs=(TensorSpec("x", ("N", 1, "T")),),
    outputs=(TensorSpec("y", ("T", "N", 4)),),
    task="basecalling",
    stride=STRIDE,
    alphabet="ACGT",
    signal=SignalSpec("med-mad"),
    decoder=DecoderSpec("flipflop"),
    receptive_field=STRIDE,
    chunk=1000,
    overlap=20,
)
_LEVELS = np.array([-1.0, -0.3, 0.3, 1.0], np.float32)


def infer(x: np.ndarray) -> np.ndarray:
    """(N, 1, T) to (T / 5, N, 4): minus the distance of the local mean to each of four levels."""
    means = x.reshape(x.shape[0], -1, STRIDE).mean(axis=2)
    return -np.abs(means.T[:, :, None] - _LEVELS).astype(np.float32)


def decode(scores: np.ndarray, meta: ModelMeta) -> Call:
    """A base wherever the best level changes."""
    best = scores.argmax(axis=1)
    moves = np.empty(len(best), np.uint8)
    moves[0] = 1
    moves[1:] = best[1:] != best[:-1]
    letters = np.frombuffer(b"ACGT", np.uint8)[best[moves == 1]]
    return Call(letters.tobytes().decode(), "5" * len(letters), moves, 20.0)
