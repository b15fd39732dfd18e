"""Cutting a read into overlapping chunks and joining the network's frames again.

All cuts lie on the stride, so that frame ``f`` of a read is the same frame in whichever chunk computes it::

    read    |---------------------------------------------|..   padded to a multiple of the stride
    chunk 0 |=================|
    chunk 1              |=================|                    neighbours are joined in the middle
    chunk 2                            |=================|..    of what they share; the last chunk is
                                                                aligned to the end

Where the overlap covers the receptive field, the joined frames are those of the whole read, exactly.

Reads of less than a few chunks are cut into shorter windows, all of one length out of :data:`LENGTHS`, so
that they too fill batches with others and a runtime sees few shapes. How a read is cut depends on its
length alone. Nothing is padded to a common length: no network of ours is indifferent to what stands behind
the end of a read (a convolution pads its activations, not its input, and a backward layer starts there).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from rubicc.errors import UsageError
from rubicc.spec import ModelMeta

DEFAULT_CHUNK = 4000
WHOLE_READ = 1 << 40
# Frames shared by neighbours when the network is recurrent and its receptive field unknown or unbounded.
UNBOUNDED_OVERLAP_FRAMES = 150
# Lengths of windows: sixteenths of a chunk. More would waste fewer samples and fill batches more slowly.
LENGTHS = 16
# Reads of at most so many chunks are cut into windows that fit; in longer ones there is little to gain.
_FITTED_CHUNKS = 4


@dataclass(frozen=True)
class Plan:
    """Chunk length and overlap in samples, both multiples of ``stride``; the overlap of ``2 * stride``.

    Attributes:
        alone: what a sample costs in a row of its own length, which shares its batch with nobody, relative to
            one in a full batch. 1 = short reads are always called in one piece.
        lengths: window lengths there are; 1 = only whole chunks, and a short read by itself.
    """

    length: int
    overlap: int
    stride: int
    alone: float = 1.0
    lengths: int = LENGTHS

    def frames(self, samples: int) -> int:
        """Output frames of a read of ``samples`` samples."""
        return -(-samples // self.stride)


@dataclass(frozen=True)
class Window:
    """Samples ``[start, stop)`` of a read (``stop`` may exceed its end) and the frames kept of it."""

    start: int
    stop: int
    keep_from: int
    keep_to: int


def plan_for(
    meta: ModelMeta, *, chunk: int | None = None, overlap: int | None = None, alone: float = 1.0
) -> Plan:
    """The plan of a model: given values, else the model's, else its receptive field, else a default.

    Lengths are rounded up to the stride. ``chunk=0`` calls every read in one piece.

    Raises:
        UsageError: ``RUB-GEN-132`` (the model says no stride), ``RUB-GEN-133`` (impossible lengths).
    """
    stride = meta.stride
    if stride is None or stride < 1:
        raise UsageError(
            "RUB-GEN-132", f"model {meta.arch!r} does not say its stride", hint="is it a basecaller?"
        )
    asked = overlap if overlap is not None else meta.overlap
    if asked is None:
        asked = (
            meta.receptive_field if meta.receptive_field is not None else UNBOUNDED_OVERLAP_FRAMES * stride
        )
    if asked < 0 or (chunk is not None and chunk < 0):
        raise UsageError("RUB-GEN-133", f"chunk {chunk} and overlap {asked} must not be negative")
    if chunk == 0:
        return Plan(_round_up(WHOLE_READ, stride), 0, stride)  # one piece is what was asked for
    shared = _round_up(asked, 2 * stride)
    length = chunk or meta.chunk or max(DEFAULT_CHUNK, 4 * shared)
    length = _round_up(length, stride)
    if shared >= length:
        raise UsageError(
            "RUB-GEN-133",
            f"overlap {shared} is not below the chunk length {length}",
            hint=f"the model's receptive field is {meta.receptive_field}; take a chunk of {4 * shared}",
        )
    return Plan(length, shared, stride, alone)


def fitted(samples: int, plan: Plan) -> Plan:
    """``plan`` with the window length at which a read of ``samples`` samples costs least."""
    padded = plan.frames(samples) * plan.stride
    chunks = _count(padded, plan.length, plan.overlap)
    if chunks > _FITTED_CHUNKS or padded == plan.length or plan.length >= WHOLE_READ:
        return plan
    best, cost = plan.length, padded * plan.alone if chunks == 1 else float(chunks * plan.length)
    for length in window_lengths(plan):
        if plan.overlap < length <= min(padded, plan.length - 1):
            taken = float(_count(padded, length, plan.overlap) * length)
            if taken < cost:
                best, cost = length, taken
    return replace(plan, length=best)


@functools.lru_cache(maxsize=8)
def window_lengths(plan: Plan) -> tuple[int, ...]:
    """Lengths that windows of different reads have in common, longest first."""
    parts = range(plan.lengths, 0, -1)
    return tuple(_round_up(plan.length * part // plan.lengths, plan.stride) for part in parts)


def _count(padded: int, length: int, overlap: int) -> int:
    """Windows of ``length`` that cover ``padded`` samples."""
    return 1 if padded <= length else 1 - (length - padded) // (length - overlap)


def _round_up(value: int, step: int) -> int:
    return -(-value // step) * step


def windows(samples: int, plan: Plan) -> list[Window]:
    """The chunks of a read of ``samples`` samples, all of one length."""
    frames = plan.frames(samples)
    plan = fitted(samples, plan)
    padded = frames * plan.stride
    if padded <= plan.length:
        return [Window(0, padded, 0, frames)]
    last = padded - plan.length
    starts = [*range(0, last, plan.length - plan.overlap), last]
    seams = [(left + plan.length + right) // (2 * plan.stride) for left, right in pairwise(starts)]
    bounds = [0, *seams, frames]
    return [
        Window(start, start + plan.length, low, high)
        for start, (low, high) in zip(starts, pairwise(bounds), strict=True)
    ]


def fill(row: np.ndarray, signal: np.ndarray, window: Window) -> None:
    """Copy the window's samples of ``signal`` into ``row``; zeros after the end of the read."""
    piece = signal[window.start : window.stop]
    row[: len(piece)] = piece
    row[len(piece) :] = 0.0


def kept(scores: np.ndarray, window: Window, stride: int) -> np.ndarray:
    """Of one chunk's ``scores`` ``(T', C)`` the frames that go into the read (a view)."""
    first = window.start // stride
    return scores[window.keep_from - first : window.keep_to - first]


def chunk(signal: np.ndarray, plan: Plan) -> tuple[np.ndarray, list[Window]]:
    """All chunks of one normalised read as ``(N, 1, L)`` float32, and their windows."""
    cuts = windows(len(signal), plan)
    out = np.empty((len(cuts), 1, cuts[0].stop - cuts[0].start), np.float32)
    for row, window in zip(out, cuts, strict=True):
        fill(row[0], signal, window)
    return out, cuts


def stitch(scores: np.ndarray, cuts: Sequence[Window], plan: Plan) -> np.ndarray:
    """Whole-read scores ``(T, C)`` from chunk scores ``(T', N, C)``."""
    return np.concatenate([kept(scores[:, i], window, plan.stride) for i, window in enumerate(cuts)])
