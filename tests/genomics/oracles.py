"""Decoding by enumeration of every path: slow, obvious, and sharing nothing with the decoders under test."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np

Edge = tuple[int, int, int]  # from state, to state, score column


def flipflop_edges() -> list[Edge]:
    edges = [(s, b, b * 8 + s) for b in range(4) for s in range(8)]
    edges += [(b, 4 + b, 32 + b) for b in range(4)]
    return edges + [(4 + b, 4 + b, 36 + b) for b in range(4)]


def crf_edges(state_len: int) -> list[Edge]:
    """From words: a state is a tuple of bases, oldest first; a move appends a base and drops the oldest."""
    words = list(itertools.product(range(4), repeat=state_len))
    number = {word: index for index, word in enumerate(words)}
    edges = [(j, j, j * 5) for j in range(len(words))]
    for word in words:
        for base in range(4):
            to = number[(*word[1:], base)]
            edges.append((number[word], to, to * 5 + 1 + word[0]))
    return edges


def paths(edges: list[Edge], starts: list[int], steps: int) -> Iterator[tuple[Edge, ...]]:
    leaving: dict[int, list[Edge]] = {}
    for edge in edges:
        leaving.setdefault(edge[0], []).append(edge)

    def grow(state: int, left: int) -> Iterator[tuple[Edge, ...]]:
        if left == 0:
            yield ()
            return
        for edge in leaving[state]:
            for rest in grow(edge[1], left - 1):
                yield (edge, *rest)

    for start in starts:
        yield from grow(start, steps)


def posteriors(scores: np.ndarray, edges: list[Edge], starts: list[int]) -> np.ndarray:
    """Share of the total weight that passes through each column at each step."""
    weight = np.exp(scores.astype(np.float64))
    out = np.zeros_like(weight)
    for path in paths(edges, starts, len(scores)):
        product = np.prod([weight[t, edge[2]] for t, edge in enumerate(path)])
        for t, edge in enumerate(path):
            out[t, edge[2]] += product
    return out / out.sum(axis=1, keepdims=True)


def best_path(probabilities: np.ndarray, edges: list[Edge], starts: list[int]) -> tuple[Edge, ...]:
    """The path with the largest sum of ``log(p + 1e-8)``."""
    log = np.log(probabilities.astype(np.float64) + 1e-8)

    def value(path: tuple[Edge, ...]) -> float:
        return sum(log[t, edge[2]] for t, edge in enumerate(path))

    return max(paths(edges, starts, len(probabilities)), key=value)


def labellings(log_probs: np.ndarray) -> dict[tuple[int, ...], float]:
    """Probability of every CTC labelling (codes, blank removed)."""
    probs = np.exp(log_probs.astype(np.float64))
    out: dict[tuple[int, ...], float] = {}
    for path in itertools.product(range(probs.shape[1]), repeat=len(probs)):
        merged = [c for t, c in enumerate(path) if c and (t == 0 or path[t - 1] != c)]
        key = tuple(merged)
        out[key] = out.get(key, 0.0) + float(np.prod(probs[np.arange(len(probs)), path]))
    return out
