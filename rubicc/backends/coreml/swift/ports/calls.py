"""Port of ``Calls.swift``: from scores and a path to bases with qualities."""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rubicc.backends.coreml.swift.ports.refusals import scores_refused

STAY = -1
SEGMENT_FRAMES = 65536
SEGMENT_VALUES = 33_554_432
CONTEXT = 1024
WEIGHT_RANGE = 80
FLOOR = 1e-8
LEAST = 1e-9
LEAST_ERROR = 1e-5
LEAST_QUALITY = 1.0
MOST_QUALITY = 50.0
NEIGHBOURS = (0.1, 0.2, 0.4, 0.2, 0.1)


@dataclass(frozen=True)
class Scores:
    """Network output of a read: ``columns`` float32 values a frame, frame after frame."""

    values: array[float]
    columns: int

    @property
    def frames(self) -> int:
        """Frames there are."""
        return len(self.values) // self.columns

    def slice(self, start: int, stop: int) -> Scores:
        """Frames ``[start, stop)``."""
        return Scores(self.values[start * self.columns : stop * self.columns], self.columns)


@dataclass(frozen=True)
class BasePath:
    """A move for each frame, and the code and error probability of each base."""

    moves: list[int]
    codes: list[int]
    errors: list[float]


@dataclass(frozen=True)
class Call:
    """A called read; ``qualities`` are phred characters."""

    sequence: str
    qualities: str
    moves: list[int]
    mean_quality: float


@dataclass(frozen=True)
class ReadDecoder:
    """Scores to a call, in the way the model was trained for."""

    find: Callable[[Scores], BasePath]
    letters: str
    quality_scale: float
    quality_bias: float

    def call(self, scores: Scores) -> Call:
        """The call of one piece."""
        found = self.find(scores)
        quality = phred(smooth(found.errors), self.quality_scale, self.quality_bias)
        return Call(text(found.codes, self.letters), characters(quality), found.moves, mean(quality))

    def decode(self, scores: Scores) -> Call:
        """The call of a read of any length: long ones in segments with some of their neighbours' frames."""
        finite(scores)
        step = segment(scores.columns)
        sequence = ""
        qualities = ""
        moves: list[int] = []
        cut = 0
        while True:
            end = cut + step if scores.frames - cut > step else scores.frames
            start = max(0, cut - CONTEXT)
            stop = min(end + CONTEXT, scores.frames)
            call = self.call(scores.slice(start, stop))
            if cut == 0 and end == scores.frames:
                return call
            before = moved(call.moves, cut - start)
            upto = moved(call.moves, end - start)
            sequence += between(call.sequence, before, upto)
            qualities += between(call.qualities, before, upto)
            moves += call.moves[cut - start : end - start]
            if end == scores.frames:
                break
            cut = end
        return Call(sequence, qualities, moves, mean(values(qualities)))


def segment(columns: int) -> int:
    """Frames decoded at once."""
    return max(4 * CONTEXT, min(SEGMENT_FRAMES, SEGMENT_VALUES // max(1, columns)))


def finite(scores: Scores) -> None:
    """Refuse scores with NaN or infinity."""
    for value in scores.values:
        if not math.isfinite(value):
            raise scores_refused("a score is NaN or infinite")


def weights(scores: Scores) -> array[float]:
    """exp(score - largest of the frame), at least exp(-80): a common factor in a frame does not matter."""
    made = scores.values[:]
    for frame in range(scores.frames):
        first = frame * scores.columns
        top = made[first]
        for place in range(first, first + scores.columns):
            top = max(top, made[place])
        for place in range(first, first + scores.columns):
            made[place] -= top
            made[place] = math.exp(max(made[place], -WEIGHT_RANGE))
    return made


def path(mass: Sequence[float], emitted: list[int]) -> BasePath:
    """Bases and errors of a path: a base's error is the share of other bases in the mass of its window."""
    when: list[int] = []
    for frame in range(len(emitted)):
        if emitted[frame] != STAY:
            when.append(frame)
    codes: list[int] = []
    errors: list[float] = []
    for place in range(len(when)):
        code = emitted[when[place]]
        first = 0 if place == 0 else (when[place - 1] + when[place]) // 2 + 1
        last = len(emitted) - 1 if place == len(when) - 1 else (when[place] + when[place + 1]) // 2
        total = LEAST
        own = 0.0
        for frame in range(first, last + 1):
            own += mass[frame * 4 + code]
            for base in range(4):
                total += mass[frame * 4 + base]
        codes.append(code)
        errors.append(min(1.0, max(0.0, 1.0 - own / total)))
    moves = [0 if base == STAY else 1 for base in emitted]
    return BasePath(moves, codes, errors)


def smooth(errors: list[float]) -> list[float]:
    """Errors averaged over five bases, ends repeated."""
    out: list[float] = []
    for place in range(len(errors)):
        total = 0.0
        for near in range(5):
            total += NEIGHBOURS[near] * errors[min(max(place + near - 2, 0), len(errors) - 1)]
        out.append(total)
    return out


def phred(errors: list[float], scale: float, bias: float) -> list[float]:
    """Calibrated phred values of error probabilities."""
    raw = [-10.0 * math.log10(min(max(error, LEAST_ERROR), 1.0)) for error in errors]
    return [min(max(scale * quality + bias, LEAST_QUALITY), MOST_QUALITY) for quality in raw]


def mean(phred: list[float]) -> float:
    """Phred of the mean error probability; 0 for an empty call."""
    if not phred:
        return 0.0
    total = 0.0
    for quality in phred:
        total += 10.0 ** (-quality / 10.0)
    return -10.0 * math.log10(total / len(phred))


def text(codes: list[int], letters: str) -> str:
    """Letters of codes."""
    return "".join(letters[code] for code in codes)


def characters(phred: list[float]) -> str:
    """Phred characters."""
    return "".join(chr(round(quality) + 33) for quality in phred)


def values(qualities: str) -> list[float]:
    """Phred values of characters."""
    return [ord(character) - 33.0 for character in qualities]


def moved(moves: list[int], frames: int) -> int:
    """Bases that begin in the first ``frames`` frames."""
    count = 0
    for frame in range(frames):
        if moves[frame] == 1:
            count += 1
    return count


def between(text: str, start: int, stop: int) -> str:
    """Characters ``[start, stop)``."""
    return text[start:stop]
