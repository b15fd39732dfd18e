"""How much of a read's call changes when the artefact calls it instead of the source network."""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np

from rubicc.errors import UsageError, VerificationFailed
from rubicc.spec import ModelMeta

Outputs = Mapping[str, np.ndarray]


def require_identity(
    expected: Outputs, made: Outputs, meta: ModelMeta | None, limit: float, where: str
) -> float:
    """Lost identity in percentage points: ``100 - `` identity of the artefact's calls to the source's.

    Identity is matches over alignment columns (edlib, end to end), pooled over the batch.

    Raises:
        UsageError: ``RUB-DRV-011`` the model does not call bases.
        VerificationFailed: ``RUB-DRV-001`` more than ``limit`` is lost.
    """
    if meta is None or meta.decoder is None or len(expected) != 1:
        raise UsageError(
            "RUB-DRV-011",
            "--max-gap identity needs a basecaller",
            hint="use --max-gap snr=... or max_abs=... for other models",
        )
    (name,) = expected
    lost = lost_identity(expected[name], made[name], meta)
    if not lost <= limit:
        raise VerificationFailed(
            "RUB-DRV-001",
            f"{lost:.3g} percentage points of identity lost, at most {limit:g} allowed",
            where=where,
            hint="see report.html for the first layer that differs; --max-gap sets the limit",
        )
    return lost


def lost_identity(expected: np.ndarray, made: np.ndarray, meta: ModelMeta) -> float:
    """Percentage points by which the calls of two score arrays ``(T, N, C)`` differ."""
    import edlib

    from rubicc.genomics.decode import decode

    edits = columns = 0
    for want, have in zip(decode(_scores(expected), meta), decode(_scores(made), meta), strict=True):
        if not want.sequence or not have.sequence:
            longer = max(len(want.sequence), len(have.sequence))
            edits, columns = edits + longer, columns + longer
            continue
        found = edlib.align(have.sequence, want.sequence, mode="NW", task="path")
        edits += found["editDistance"]
        columns += sum(int(count) for count in re.findall(r"\d+", found["cigar"]))
    return 100.0 * edits / columns if columns else 0.0


def _scores(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array, dtype=np.float32)
