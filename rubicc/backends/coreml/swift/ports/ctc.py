"""Port of ``CTC.swift``: greedy CTC decoding. Blank first."""

from __future__ import annotations

import math
from array import array

from rubicc.backends.coreml.swift.ports.calls import BasePath, Scores
from rubicc.backends.coreml.swift.ports.refusals import scores_refused

MOST = 20
TOLERANCE = 0.1


def decode(scores: Scores) -> BasePath:
    """The most probable label of each frame, repeats merged, blanks dropped."""
    columns = scores.columns
    likely = probabilities(scores)
    moves: list[int] = []
    labels: list[int] = []
    errors: list[float] = []
    last = 0
    for frame in range(scores.frames):
        best = 0
        for label in range(columns):
            if scores.values[frame * columns + label] > scores.values[frame * columns + best]:
                best = label
        begins = best > 0 and best != last
        moves.append(1 if begins else 0)
        if begins:
            labels.append(best)
            errors.append(1.0)
        last = best
        if not labels:
            continue
        own = likely[frame * columns + labels[len(labels) - 1]]
        errors[len(errors) - 1] = min(errors[len(errors) - 1], max(0.0, 1.0 - own))
    return BasePath(moves, [label - 1 for label in labels], errors)


def probabilities(scores: Scores) -> array[float]:
    """Probabilities of log-probabilities; frames must sum to about 1."""
    made = array("f", (math.exp(min(value, MOST)) for value in scores.values))
    for frame in range(scores.frames):
        total = 0.0
        for label in range(scores.columns):
            total += made[frame * scores.columns + label]
        if abs(total - 1.0) >= TOLERANCE:
            raise scores_refused(f"probabilities of a frame sum to {total:.3g}")
    return made
