"""Port of ``CRF.swift``: bonito's linear-chain CRF."""

from __future__ import annotations

from array import array

from rubicc.backends.coreml.swift.ports import calls
from rubicc.backends.coreml.swift.ports.calls import BasePath, Scores
from rubicc.backends.coreml.swift.ports.refusals import scores_refused

EDGES = 5


def decode(scores: Scores, states: int, blank: float) -> BasePath:
    """The best path of a read, with error probabilities."""
    full = with_stays(scores, states, blank)
    weights = calls.weights(full)
    posteriors(weights, states)
    taken = viterbi(weights, states)
    return calls.path(mass(weights, states), emitted(taken))


def with_stays(scores: Scores, states: int, blank: float) -> Scores:
    """Scores with a column of ``blank`` before each four, where the network leaves the stays out."""
    if scores.columns == EDGES * states:
        return scores
    if scores.columns != 4 * states:
        raise scores_refused(f"{scores.columns} columns for {states} states")
    full = array("f")
    for place in range(len(scores.values)):
        if place % 4 == 0:
            full.append(blank)
        full.append(scores.values[place])
    return Scores(full, EDGES * states)


def posteriors(w: array[float], states: int) -> None:
    """Replace weights by the posterior probabilities of the transitions."""
    steps = len(w) // (5 * states)
    quarter = states // 4
    alpha = [1.0 / float(states)] * ((steps + 1) * states)
    for t in range(steps):
        a = t * states
        total = 0.0
        for j in range(states):
            e = (a + j) * 5
            value = alpha[a + j] * w[e]
            for m in range(4):
                value += alpha[a + m * quarter + j // 4] * w[e + 1 + m]
            alpha[a + states + j] = value
            total += value
        for j in range(states):
            alpha[a + states + j] /= total
    beta = [1.0] * states
    for t in reversed(range(steps)):
        a = t * states
        new = [0.0] * states
        edge = [0.0] * (states * 5)
        total = 0.0
        for j in range(states):
            e = (a + j) * 5
            stay = w[e] * beta[j]
            new[j] += stay
            edge[j * 5] = stay * alpha[a + j]
            total += edge[j * 5]
            for m in range(4):
                came = m * quarter + j // 4
                onward = w[e + 1 + m] * beta[j]
                new[came] += onward
                edge[j * 5 + 1 + m] = onward * alpha[a + came]
                total += edge[j * 5 + 1 + m]
        norm = 0.0
        for j in range(states):
            norm += new[j]
        for k in range(states * 5):
            w[a * 5 + k] = edge[k] / total
        for j in range(states):
            beta[j] = new[j] * float(states) / norm


def viterbi(p: array[float], states: int) -> list[int]:
    """The transition taken at each step, ``j * 5 + k``."""
    steps = len(p) // (5 * states)
    quarter = states // 4
    source = [0] * (steps * states)
    best = [1.0] * states
    new = [0.0] * states
    for t in range(steps):
        top = 0.0
        for j in range(states):
            e = (t * states + j) * 5
            value = best[j] * (p[e] + calls.FLOOR)
            edge = 0
            for m in range(4):
                candidate = best[m * quarter + j // 4] * (p[e + 1 + m] + calls.FLOOR)
                if candidate > value:
                    value = candidate
                    edge = 1 + m
            new[j] = value
            source[t * states + j] = edge
            top = max(top, value)
        for j in range(states):
            best[j] = new[j] / top
    state = 0
    for j in range(states):
        if best[j] > best[state]:
            state = j
    taken = [0] * steps
    for t in reversed(range(steps)):
        edge = source[t * states + state]
        taken[t] = state * 5 + edge
        if edge > 0:
            state = (edge - 1) * quarter + state // 4
    return taken


def mass(p: array[float], states: int) -> array[float]:
    """Posterior mass of emitting each base at each step, four values a step."""
    steps = len(p) // (5 * states)
    made = array("f", bytes(4 * steps * 4))
    for t in range(steps):
        for j in range(states):
            e = (t * states + j) * 5
            for m in range(1, 5):
                made[t * 4 + j % 4] += p[e + m]
    return made


def emitted(taken: list[int]) -> list[int]:
    """The base that the path emits at each step."""
    return [edge // 5 % 4 if edge % 5 > 0 else calls.STAY for edge in taken]
