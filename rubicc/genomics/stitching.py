"""From batches of chunk scores back to reads: collects frames, hands out pieces to decode, joins their calls.

A read of up to :func:`segment_frames` frames is decoded whole. A longer one is decoded in segments as its
frames arrive, each with :data:`CONTEXT_FRAMES` of its neighbours, so that memory does not grow with the read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from rubicc.errors import VerificationFailed
from rubicc.genomics.call import Call
from rubicc.genomics.chunks import Window, kept
from rubicc.genomics.normalise import Scaling
from rubicc.genomics.qscore import from_qstring, mean_q
from rubicc.genomics.reads import Read

SEGMENT_FRAMES = 1 << 16
SEGMENT_VALUES = 1 << 25  # 128 MiB of scores: a CRF of 1,024 states has 5,120 columns a frame
CONTEXT_FRAMES = 1 << 10


def segment_frames(columns: int) -> int:
    """Frames decoded at once; fewer where a frame is wide, but always four times the context."""
    return max(4 * CONTEXT_FRAMES, min(SEGMENT_FRAMES, SEGMENT_VALUES // max(1, columns)))


@dataclass(eq=False)
class Segment:
    """Scores ``(T, C)`` to decode; frames ``[keep_from, keep_to)`` of them belong to this segment."""

    scores: np.ndarray | None
    keep_from: int
    keep_to: int
    call: Call | None = None


@dataclass(eq=False)
class Job:
    """A read on its way through the engine."""

    index: int
    read: Read
    samples: int
    frames: int
    scaling: Scaling
    segments: list[Segment] = field(default_factory=list)
    _pieces: list[np.ndarray] = field(default_factory=list)
    _start: int = 0
    _have: int = 0
    _cut: int = 0

    @property
    def complete(self) -> bool:
        """All frames have arrived."""
        return self._have == self.frames

    def add(self, frames: np.ndarray) -> list[Segment]:
        """Take the next frames ``(t, C)`` of the read; segments that can now be decoded."""
        self._pieces.append(frames)
        self._have += len(frames)
        ready = []
        step = segment_frames(frames.shape[1])
        while self.frames - self._cut > step and self._have >= self._cut + step + CONTEXT_FRAMES:
            ready.append(self._segment(self._cut + step))
        if self.complete:
            ready.append(self._segment(self.frames))
        self.segments += ready
        return ready

    def _segment(self, end: int) -> Segment:
        buffer = self._pieces[0] if len(self._pieces) == 1 else np.concatenate(self._pieces)
        stop = min(end + CONTEXT_FRAMES, self.frames)
        low, cut = self._start, self._cut
        scores = np.ascontiguousarray(buffer[: stop - low], dtype=np.float32)
        self._start, self._cut = max(0, end - CONTEXT_FRAMES), end
        self._pieces = [buffer[self._start - low :].copy()] if end < self.frames else []
        return Segment(scores, cut - low, end - low)


def new_job(index: int, read: Read, frames: int, scaling: Scaling) -> Job:
    """A job that no longer holds the signal."""
    empty = np.empty(0, np.int16)
    return Job(index, replace(read, signal=empty), len(read.signal), frames, scaling)


def join(segments: Sequence[Segment]) -> Call:
    """One call from those of consecutive segments.

    Raises:
        VerificationFailed: ``RUB-GEN-135``: a decoder's moves do not fit its sequence or scores.
    """
    calls = [_checked(segment) for segment in segments]
    if len(calls) == 1:
        return calls[0]
    parts = [_trim(call, segment) for call, segment in zip(calls, segments, strict=True)]
    qstring = "".join(part[1] for part in parts)
    return Call(
        "".join(part[0] for part in parts),
        qstring,
        np.concatenate([part[2] for part in parts]),
        mean_q(from_qstring(qstring)) if qstring else 0.0,
    )


def _checked(segment: Segment) -> Call:
    call = segment.call
    if call is None or not int(np.count_nonzero(call.moves)) == len(call.sequence) == len(call.qstring):
        raise VerificationFailed("RUB-GEN-135", "the decoder's moves and qualities do not fit its sequence")
    return call


def _trim(call: Call, segment: Segment) -> tuple[str, str, np.ndarray]:
    """The part of a call whose bases begin inside the frames that the segment keeps."""
    before = int(np.count_nonzero(call.moves[: segment.keep_from]))
    upto = int(np.count_nonzero(call.moves[: segment.keep_to]))
    moves = call.moves[segment.keep_from : segment.keep_to]
    return call.sequence[before:upto], call.qstring[before:upto], moves


def take(scores: np.ndarray, row: int, window: Window, stride: int) -> np.ndarray:
    """A copy of what one chunk contributes, so that the batch can be freed."""
    return kept(scores[:, row], window, stride).copy()
