"""Scores to calls, by what the model's metadata says. Importing this imports nothing heavy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from rubicc.errors import UsageError
from rubicc.genomics.call import BasePath, Call
from rubicc.spec import DecoderSpec, ModelMeta

if TYPE_CHECKING:
    from collections.abc import Callable

# Parameters a decoder takes from ``DecoderSpec.params``.
PARAMS: dict[str, tuple[str, ...]] = {
    "ctc": ("beam_size", "beam_cut"),
    "flipflop": (),
    "crf": ("state_len", "blank_score"),
}


def decode(scores: np.ndarray, meta: ModelMeta, lengths: Sequence[int] | None = None) -> list[Call]:
    """One call per column of ``scores`` (T, N, C); frames from ``lengths[n]`` on are padding.

    Every column is decoded on its own: the calls do not depend on what else is in the batch.

    Raises:
        UsageError: ``RUB-GEN-203``: metadata and scores do not fit each other.
        VerificationFailed: ``RUB-GEN-202``, ``RUB-GEN-204``: scores no network should give.
    """
    if scores.ndim != 3:
        raise UsageError("RUB-GEN-203", f"scores have rank {scores.ndim}; decoding takes (T, N, C)")
    frames = [scores.shape[0]] * scores.shape[1] if lengths is None else list(lengths)
    if len(frames) != scores.shape[1] or any(not 0 <= n <= scores.shape[0] for n in frames):
        raise UsageError("RUB-GEN-203", f"lengths {frames[:8]} do not fit scores of shape {scores.shape}")
    return [decode_read(scores[:length, n], meta) for n, length in enumerate(frames)]


def decode_read(scores: np.ndarray, meta: ModelMeta) -> Call:
    """The call of one read's ``scores`` (T, C). Releases the GIL while it works; errors as :func:`decode`."""
    spec = meta.decoder
    if spec is None or meta.alphabet is None:
        raise UsageError("RUB-GEN-203", f"model {meta.arch!r} has no decoder or alphabet in its metadata")
    unknown = set(spec.params) - set(PARAMS[spec.kind])
    if unknown:
        raise UsageError("RUB-GEN-203", f"decoder {spec.kind!r} takes no parameter {sorted(unknown)}")
    if scores.ndim != 2:
        raise UsageError("RUB-GEN-203", f"scores have rank {scores.ndim}; decoding a read takes (T, C)")
    find, letters, columns = _decoder(spec, meta.alphabet)
    if scores.shape[1] not in columns:
        raise UsageError(
            "RUB-GEN-203",
            f"{scores.shape[1]} score columns; decoder {spec.kind!r} over {meta.alphabet!r} takes "
            + " or ".join(map(str, columns)),
        )
    return find(scores).call(letters, spec)


def _decoder(
    spec: DecoderSpec, alphabet: str
) -> tuple[Callable[[np.ndarray], BasePath], str, tuple[int, ...]]:
    """Path finder, letters of its codes, and the numbers of score columns it takes."""
    params = spec.params
    if spec.kind in ("flipflop", "crf") and len(alphabet) != 4 + (spec.kind == "crf"):
        wanted = "four bases" if spec.kind == "flipflop" else "a blank and four bases"
        raise UsageError("RUB-GEN-203", f"decoder {spec.kind!r} takes {wanted}, not {alphabet!r}")
    if spec.kind == "flipflop":
        from rubicc.genomics import flipflop

        return flipflop.decode, alphabet, (flipflop.TRANSITIONS,)
    if spec.kind == "crf":
        from rubicc.genomics import crf

        state_len = int(params.get("state_len", 0))
        if state_len < 1 or state_len != params["state_len"]:
            raise UsageError("RUB-GEN-203", "decoder 'crf' needs the parameter state_len, a positive integer")
        blank = float(params.get("blank_score", crf.BLANK_SCORE))
        states = 4**state_len
        return (
            lambda scores: crf.decode(crf.with_stays(scores, state_len, blank)),
            alphabet[1:],
            (crf.EDGES * states, 4 * states),
        )
    from rubicc.genomics import ctc

    size = int(params.get("beam_size", ctc.BEAM_SIZE))
    cut = float(params.get("beam_cut", ctc.BEAM_CUT))
    if not 0 <= cut < 1 / len(alphabet):
        raise UsageError(
            "RUB-GEN-203", f"beam_cut {cut} must be below 1 / {len(alphabet)} labels and not negative"
        )
    find = ctc.greedy if size <= 1 else lambda scores: ctc.beam(scores, size, cut)
    return find, alphabet[1:], (len(alphabet),)
