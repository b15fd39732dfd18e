"""Port of ``Chunks.swift``: cutting a read into overlapping windows and joining the network's frames."""

from __future__ import annotations

from array import array
from dataclasses import dataclass


@dataclass(frozen=True)
class Plan:
    """Lengths in samples, multiples of ``stride``; ``fixed``: the model takes windows of ``length`` only."""

    length: int
    overlap: int
    stride: int
    fixed: bool


@dataclass(frozen=True)
class Cut:
    """Samples from ``start`` of a read, and the frames that are taken from this window."""

    start: int
    length: int
    first: int
    last: int


def cuts(samples: int, plan: Plan) -> list[Cut]:
    """The windows of a read of ``samples`` samples."""
    frames = (samples + plan.stride - 1) // plan.stride
    padded = frames * plan.stride
    if padded <= plan.length:
        return [Cut(0, plan.length if plan.fixed else padded, 0, frames)]
    last = padded - plan.length
    starts: list[int] = []
    start = 0
    while start < last:
        starts.append(start)
        start += plan.length - plan.overlap
    starts.append(last)
    made: list[Cut] = []
    begun = 0
    for place in range(len(starts)):
        stop = frames
        if place + 1 < len(starts):
            stop = (starts[place] + plan.length + starts[place + 1]) // (2 * plan.stride)
        made.append(Cut(starts[place], plan.length, begun, stop))
        begun = stop
    return made


def fill(signal: array[float], cut: Cut) -> array[float]:
    """The window's samples, and zeros after the end of the read."""
    end = min(cut.start + cut.length, len(signal))
    row = signal[cut.start : end]
    while len(row) < cut.length:
        row.append(0.0)
    return row


def kept(scores: array[float], cut: Cut, columns: int, stride: int) -> array[float]:
    """Of one window's scores, ``columns`` a frame, the frames that go into the read."""
    first = cut.start // stride
    return scores[(cut.first - first) * columns : (cut.last - first) * columns]
