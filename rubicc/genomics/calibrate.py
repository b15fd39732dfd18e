"""Fit ``qscale`` and ``qbias`` of a model on reads whose truth is known."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from rubicc.errors import UsageError
from rubicc.genomics import qscore
from rubicc.genomics.call import BasePath
from rubicc.genomics.qscore import Calibration

MIN_BASES = 200


@dataclass(frozen=True)
class Evidence:
    """The aligned part of one call: what was predicted of each base, and what it was.

    Attributes:
        error: smoothed, uncalibrated error probabilities.
        observed: errors per base, :func:`rubicc.genomics.qscore.base_errors`.
        identity: minimap2 matches / alignment columns.
    """

    error: np.ndarray
    observed: np.ndarray
    identity: float

    def predicted(self, qscale: float, qbias: float) -> float:
        """Mean error probability under a calibration."""
        return float(qscore.error_probability(qscore.phred(self.error, qscale, qbias)).mean())


def evidence(path: BasePath, letters: str, reference: str) -> Evidence | None:
    """Align a call to its reference by minimap2 (map-ont, best forward hit); ``None`` where it does not
    align.
    """
    import mappy

    sequence = "".join(letters[code] for code in path.codes)
    hits = [hit for hit in mappy.Aligner(seq=reference, preset="map-ont").map(sequence) if hit.strand == 1]
    if not hits:
        return None
    hit = max(hits, key=lambda found: found.mlen)
    part = slice(hit.q_st, hit.q_en)
    observed = qscore.base_errors(sequence[part], reference[hit.r_st : hit.r_en])
    return Evidence(qscore.smooth(path.error)[part], observed, hit.mlen / hit.blen)


def calibrate(reads: Iterable[Evidence | None]) -> Calibration:
    """:func:`rubicc.genomics.qscore.fit` over the bases of all ``reads`` that aligned.

    Raises:
        UsageError: ``RUB-GEN-205`` when fewer than 200 bases aligned.
    """
    used = [read for read in reads if read is not None]
    bases = sum(len(read.error) for read in used)
    if bases < MIN_BASES:
        raise UsageError(
            "RUB-GEN-205",
            f"{bases} aligned bases are too few to fit qualities (at least {MIN_BASES})",
            hint="give more reads, or reads that this network can call",
        )
    return qscore.fit(
        np.concatenate([read.error for read in used]), np.concatenate([read.observed for read in used])
    )
