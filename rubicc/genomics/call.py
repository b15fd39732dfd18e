"""A called read and how decoders build one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rubicc.genomics import qscore
from rubicc.spec import DecoderSpec


@dataclass(frozen=True)
class Call:
    """What a decoder says about one read or chunk.

    Attributes:
        sequence: letters of the model's alphabet.
        qstring: one phred character (``chr(33 + q)``) per base.
        moves: uint8, one per output frame; 1 where a base is emitted, so ``moves.sum() == len(sequence)``.
        mean_q: phred of the mean error probability; 0 for an empty call.
    """

    sequence: str
    qstring: str
    moves: np.ndarray
    mean_q: float


@dataclass(frozen=True)
class BasePath:
    """A decoded path before letters and calibration.

    Attributes:
        moves: uint8 ``(T,)``.
        codes: uint8, index into the letters (0 = first base) of each emitted base.
        error: float32, uncalibrated error probability of each emitted base, each on its own evidence.
    """

    moves: np.ndarray
    codes: np.ndarray
    error: np.ndarray

    def call(self, letters: str, spec: DecoderSpec) -> Call:
        """Letters, calibrated qualities and their mean."""
        phred = qscore.phred(qscore.smooth(self.error), spec.qscale, spec.qbias)
        table = np.frombuffer(letters.encode("ascii"), np.uint8)
        sequence = table[self.codes].tobytes().decode("ascii")
        return Call(sequence, qscore.qstring(phred), self.moves, qscore.mean_q(phred))
