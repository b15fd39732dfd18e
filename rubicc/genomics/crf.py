"""bonito's linear-chain CRF: posteriors by forward-backward, then Viterbi over ``log(posterior + 1e-8)``.

A state is the last ``L`` bases, oldest most significant: ``4 ** L`` states. Each state ``j`` is entered by
five transitions, in columns ``j * 5 + k``: ``k = 0`` stays (emits nothing), ``k = 1 + m`` comes from the
state that had base ``m`` as its oldest, ``m * 4 ** (L - 1) + j // 4``, and emits base ``j % 4``. Paths may
start and end in any state. A network may leave the stay columns out; their score is then the constant
``blank_score``.
"""

from __future__ import annotations

import numpy as np

from rubicc.errors import UsageError
from rubicc.genomics.call import BasePath
from rubicc.genomics.emission import base_path
from rubicc.genomics.jit import REASSOCIATE, kernel
from rubicc.genomics.weights import VITERBI_FLOOR, linear_weights

EDGES = 5
BLANK_SCORE = 2.0


def with_stays(scores: np.ndarray, state_len: int, blank_score: float = BLANK_SCORE) -> np.ndarray:
    """Scores ``(..., 5 * 4 ** state_len)``; a column of ``blank_score`` is put before each four if absent.

    Raises:
        UsageError: ``RUB-GEN-203`` when the columns fit neither form.
    """
    states = 4**state_len
    columns = scores.shape[-1]
    if columns == EDGES * states:
        return scores
    if columns != 4 * states:
        raise UsageError(
            "RUB-GEN-203",
            f"{columns} score columns; a CRF with state_len {state_len} has {4 * states} or {EDGES * states}",
            hint="state_len in the model's decoder metadata does not belong to this network",
        )
    full = np.full((*scores.shape[:-1], states, EDGES), blank_score, scores.dtype)
    full[..., 1:] = scores.reshape(*scores.shape[:-1], states, 4)
    return full.reshape(*scores.shape[:-1], EDGES * states)


def posteriors(scores: np.ndarray) -> np.ndarray:
    """float32 ``(T, 5 * states)`` probabilities of each transition; every row sums to 1."""
    weights = linear_weights(scores)
    _to_posteriors(_by_state(weights))
    return weights


def decode(scores: np.ndarray) -> BasePath:
    """The best path through the posteriors of ``scores`` (T, 5 * states), with error probabilities."""
    weights = linear_weights(scores)
    edges = _by_state(weights)
    _to_posteriors(edges)
    return base_path(*_entering(edges, _viterbi(edges)))


def _by_state(weights: np.ndarray) -> np.ndarray:
    # Not -1: an empty read has no size to infer it from.
    return weights.reshape(len(weights), weights.shape[1] // EDGES, EDGES)


@kernel(fastmath=REASSOCIATE)
def _to_posteriors(w: np.ndarray) -> None:
    """Replace positive weights ``w`` (T, states, 5) by posteriors, walking blocks of equal ``j // 4``."""
    steps, states = w.shape[0], w.shape[1]
    quarter = states // 4
    alpha = np.empty((steps + 1, states), np.float64)
    alpha[0] = 1.0 / states
    for t in range(steps):
        total = 0.0
        for q in range(quarter):
            a0, a1 = alpha[t, q], alpha[t, quarter + q]
            a2, a3 = alpha[t, 2 * quarter + q], alpha[t, 3 * quarter + q]
            for j in range(4 * q, 4 * q + 4):
                value = alpha[t, j] * w[t, j, 0] + a0 * w[t, j, 1] + a1 * w[t, j, 2]
                value += a2 * w[t, j, 3] + a3 * w[t, j, 4]
                alpha[t + 1, j] = value
                total += value
        scale = 1.0 / total
        for j in range(states):
            alpha[t + 1, j] *= scale
    beta = np.ones(states, np.float64)
    new = np.empty(states, np.float64)
    edge = np.empty((states, 5), np.float64)
    for t in range(steps - 1, -1, -1):
        total = 0.0
        norm = 0.0
        for j in range(states):
            new[j] = 0.0
        for q in range(quarter):
            for j in range(4 * q, 4 * q + 4):
                stay = w[t, j, 0] * beta[j]
                new[j] += stay
                norm += stay
                stay *= alpha[t, j]
                edge[j, 0] = stay
                total += stay
                for m in range(4):
                    came = m * quarter + q
                    onward = w[t, j, 1 + m] * beta[j]
                    new[came] += onward
                    norm += onward
                    onward *= alpha[t, came]
                    edge[j, 1 + m] = onward
                    total += onward
        scale = 1.0 / total
        again = states / norm
        for j in range(states):
            for k in range(5):
                w[t, j, k] = edge[j, k] * scale
            beta[j] = new[j] * again


@kernel
def _viterbi(p: np.ndarray) -> np.ndarray:
    """Columns ``j * 5 + k`` taken at each step, ``(T,)``."""
    steps, states = p.shape[0], p.shape[1]
    quarter = states // 4
    source = np.empty((steps, states), np.uint8)
    best = np.ones(states, np.float64)
    new = np.empty(states, np.float64)
    for t in range(steps):
        top = 0.0
        for j in range(states):
            value, edge = best[j] * (p[t, j, 0] + VITERBI_FLOOR), 0
            for m in range(4):
                candidate = best[m * quarter + j // 4] * (p[t, j, 1 + m] + VITERBI_FLOOR)
                if candidate > value:
                    value, edge = candidate, 1 + m
            new[j] = value
            source[t, j] = edge
            top = max(top, value)
        scale = 1.0 / top
        for j in range(states):
            best[j] = new[j] * scale
    taken = np.empty(steps, np.int64)
    state = np.argmax(best)
    for t in range(steps - 1, -1, -1):
        edge = source[t, state]
        taken[t] = state * 5 + edge
        if edge > 0:
            state = (edge - 1) * quarter + state // 4
    return taken


@kernel
def _entering(p: np.ndarray, taken: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Posterior mass of emitting each base at each step (T, 4), and the base the path emits there or 255."""
    steps = p.shape[0]
    mass = np.zeros((steps, 4), np.float32)
    emitted = np.empty(steps, np.uint8)
    for t in range(steps):
        for j in range(p.shape[1]):
            mass[t, j % 4] += p[t, j, 1] + p[t, j, 2] + p[t, j, 3] + p[t, j, 4]
        emitted[t] = taken[t] // 5 % 4 if taken[t] % 5 > 0 else 255
    return mass, emitted
