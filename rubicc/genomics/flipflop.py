"""Flip-flop decoding: transition posteriors by forward-backward, then Viterbi over ``log(posterior + 1e-8)``.

States 0-3 are flip A, C, G, T and 4-7 flop A, C, G, T. Of the 40 transitions, ``b * 8 + s`` goes from state
``s`` to flip ``b``, ``32 + b`` from flip ``b`` to flop ``b``, ``36 + b`` stays in flop ``b``. A path starts
in a flip. A base is emitted whenever the state changes; the base a read starts in is therefore not emitted.

All recursions are in the linear domain and rescaled at every step: sums of products instead of log-sum-exp.
Nothing underflows that could matter: transition weights are at least ``exp(-80)`` of the largest, and in the
Viterbi step at least 1e-8 of it.
"""

from __future__ import annotations

import numpy as np

from rubicc.genomics.call import BasePath
from rubicc.genomics.emission import base_path
from rubicc.genomics.jit import REASSOCIATE, kernel
from rubicc.genomics.weights import VITERBI_FLOOR, linear_weights

STATES = 8
TRANSITIONS = 40


def posteriors(scores: np.ndarray) -> np.ndarray:
    """float32 ``(T, 40)`` probabilities of each transition at each step; every row sums to 1."""
    weights = linear_weights(scores)
    _to_posteriors(weights)
    return weights


def decode(scores: np.ndarray) -> BasePath:
    """The best path through the posteriors of ``scores`` (T, 40), with error probabilities."""
    weights = linear_weights(scores)
    _to_posteriors(weights)
    return base_path(*_entering(weights, _viterbi(weights)))


def viterbi_states(weights: np.ndarray) -> np.ndarray:
    """States ``(T + 1,)`` of the path with the largest product of ``weights + 1e-8``, starting in a flip."""
    return _viterbi(np.ascontiguousarray(weights, np.float32))


@kernel(fastmath=REASSOCIATE)
def _to_posteriors(w: np.ndarray) -> None:
    """Replace positive transition weights ``w`` (T, 40) by posteriors."""
    steps = w.shape[0]
    alpha = np.zeros((steps + 1, 8), np.float64)
    alpha[0, :4] = 0.25
    for t in range(steps):
        total = 0.0
        for b in range(4):
            flip = 0.0
            for s in range(8):
                flip += alpha[t, s] * w[t, b * 8 + s]
            flop = alpha[t, b] * w[t, 32 + b] + alpha[t, 4 + b] * w[t, 36 + b]
            alpha[t + 1, b] = flip
            alpha[t + 1, 4 + b] = flop
            total += flip + flop
        scale = 1.0 / total
        for s in range(8):
            alpha[t + 1, s] *= scale
    beta = np.ones(8, np.float64)
    new = np.empty(8, np.float64)
    edge = np.empty(40, np.float64)
    for t in range(steps - 1, -1, -1):
        for s in range(4):
            new[s] = w[t, 32 + s] * beta[4 + s]
            new[4 + s] = w[t, 36 + s] * beta[4 + s]
            edge[32 + s] = new[s] * alpha[t, s]
            edge[36 + s] = new[4 + s] * alpha[t, 4 + s]
        for b in range(4):
            for s in range(8):
                onward = w[t, b * 8 + s] * beta[b]
                new[s] += onward
                edge[b * 8 + s] = onward * alpha[t, s]
        total = 0.0
        for k in range(40):
            total += edge[k]
        scale = 1.0 / total
        for k in range(40):
            w[t, k] = edge[k] * scale
        total = 0.0
        for s in range(8):
            total += new[s]
        scale = 8.0 / total
        for s in range(8):
            beta[s] = new[s] * scale


@kernel
def _viterbi(p: np.ndarray) -> np.ndarray:
    steps = p.shape[0]
    source = np.empty((steps, 8), np.uint8)
    best = np.zeros(8, np.float64)
    best[:4] = 1.0
    new = np.empty(8, np.float64)
    for t in range(steps):
        top = 0.0
        for b in range(4):
            value, came = -1.0, 0
            for s in range(8):
                candidate = best[s] * (p[t, b * 8 + s] + VITERBI_FLOOR)
                if candidate > value:
                    value, came = candidate, s
            new[b] = value
            source[t, b] = came
            entered = best[b] * (p[t, 32 + b] + VITERBI_FLOOR)
            stayed = best[4 + b] * (p[t, 36 + b] + VITERBI_FLOOR)
            source[t, 4 + b] = b if entered >= stayed else 4 + b
            new[4 + b] = max(entered, stayed)
            top = max(top, value, new[4 + b])
        scale = 1.0 / top
        for s in range(8):
            best[s] = new[s] * scale
    states = np.empty(steps + 1, np.uint8)
    states[steps] = np.argmax(best)
    for t in range(steps - 1, -1, -1):
        states[t] = source[t, states[t + 1]]
    return states


@kernel
def _entering(p: np.ndarray, states: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Posterior mass of entering each base at each step (T, 4), and the base the path enters there or 255."""
    steps = p.shape[0]
    mass = np.empty((steps, 4), np.float32)
    emitted = np.empty(steps, np.uint8)
    for t in range(steps):
        for b in range(4):
            value = p[t, 32 + b] - p[t, b * 8 + b]
            for s in range(8):
                value += p[t, b * 8 + s]
            mass[t, b] = max(value, np.float32(0.0))
        emitted[t] = states[t + 1] % 4 if states[t + 1] != states[t] else 255
    return mass, emitted
