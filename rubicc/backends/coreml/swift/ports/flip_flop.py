"""Port of ``FlipFlop.swift``: posteriors by forward-backward, then the best path over posterior + floor."""

from __future__ import annotations

from array import array

from rubicc.backends.coreml.swift.ports import calls
from rubicc.backends.coreml.swift.ports.calls import BasePath, Scores
from rubicc.backends.coreml.swift.ports.refusals import scores_refused

TRANSITIONS = 40


def decode(scores: Scores) -> BasePath:
    """The best path of a read, with error probabilities."""
    if scores.columns != TRANSITIONS:
        raise scores_refused(f"{scores.columns} columns, not {TRANSITIONS}")
    weights = calls.weights(scores)
    posteriors(weights)
    states = viterbi(weights)
    return calls.path(mass(weights), emitted(states))


def posteriors(w: array[float]) -> None:
    """Replace weights by the posterior probabilities of the transitions."""
    steps = len(w) // 40
    alpha = [0.0] * ((steps + 1) * 8)
    for s in range(4):
        alpha[s] = 0.25
    for t in range(steps):
        a = t * 8
        e = t * 40
        total = 0.0
        for b in range(4):
            flip = 0.0
            for s in range(8):
                flip += alpha[a + s] * w[e + b * 8 + s]
            entered = alpha[a + b] * w[e + 32 + b]
            stayed = alpha[a + 4 + b] * w[e + 36 + b]
            alpha[a + 8 + b] = flip
            alpha[a + 12 + b] = entered + stayed
            total += flip + (entered + stayed)
        for s in range(8):
            alpha[a + 8 + s] /= total
    beta = [1.0] * 8
    new = [0.0] * 8
    edge = [0.0] * 40
    for t in reversed(range(steps)):
        a = t * 8
        e = t * 40
        for s in range(4):
            new[s] = w[e + 32 + s] * beta[4 + s]
            new[4 + s] = w[e + 36 + s] * beta[4 + s]
            edge[32 + s] = new[s] * alpha[a + s]
            edge[36 + s] = new[4 + s] * alpha[a + 4 + s]
        for b in range(4):
            for s in range(8):
                onward = w[e + b * 8 + s] * beta[b]
                new[s] += onward
                edge[b * 8 + s] = onward * alpha[a + s]
        total = 0.0
        for k in range(40):
            total += edge[k]
        for k in range(40):
            w[e + k] = edge[k] / total
        norm = 0.0
        for s in range(8):
            norm += new[s]
        for s in range(8):
            beta[s] = new[s] * 8.0 / norm


def viterbi(p: array[float]) -> list[int]:
    """States before and after each step of the path with the largest product."""
    steps = len(p) // 40
    source = [0] * (steps * 8)
    best = [1.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0]
    new = [0.0] * 8
    for t in range(steps):
        e = t * 40
        top = 0.0
        for b in range(4):
            value = -1.0
            came = 0
            for s in range(8):
                candidate = best[s] * (p[e + b * 8 + s] + calls.FLOOR)
                if candidate > value:
                    value = candidate
                    came = s
            entered = best[b] * (p[e + 32 + b] + calls.FLOOR)
            stayed = best[4 + b] * (p[e + 36 + b] + calls.FLOOR)
            new[b] = value
            new[4 + b] = max(entered, stayed)
            source[t * 8 + b] = came
            source[t * 8 + 4 + b] = b if entered >= stayed else 4 + b
            top = max(top, max(value, new[4 + b]))
        for s in range(8):
            best[s] = new[s] / top
    states = [0] * (steps + 1)
    for s in range(8):
        if best[s] > best[states[steps]]:
            states[steps] = s
    for t in reversed(range(steps)):
        states[t] = source[t * 8 + states[t + 1]]
    return states


def mass(p: array[float]) -> array[float]:
    """Posterior mass of entering each base at each step, four values a step."""
    steps = len(p) // 40
    made = array("f", bytes(4 * steps * 4))
    for t in range(steps):
        for b in range(4):
            e = t * 40 + b * 8
            value = p[t * 40 + 32 + b] - p[e + b]
            for s in range(8):
                value += p[e + s]
            made[t * 4 + b] = max(value, 0.0)
    return made


def emitted(states: list[int]) -> list[int]:
    """The base that the path enters at each step."""
    made: list[int] = []
    for t in range(len(states) - 1):
        made.append(states[t + 1] % 4 if states[t + 1] != states[t] else calls.STAY)
    return made
