"""Sums over all paths of a transition lattice, and over the paths that spell one sequence, with gradients.

Scores are ``(T, N, C)``, one column per transition. A path's score is the sum of its transitions'; nothing
is normalised. The gradient of a log-sum over paths is the posterior of each transition, so one forward and
one backward scan give value and gradient together, and autograd stores no graph over time.

States and columns are those of the decoders (:mod:`rubicc.genomics.flipflop`, :mod:`rubicc.genomics.crf`).
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

_IMPOSSIBLE = float("-inf")
# As in the decoders: a transition so far below its frame's best counts as that far below.
_RANGE = 80.0


@dataclass(frozen=True)
class Lattice:
    """Which transitions lead where.

    Attributes:
        columns: of the scores.
        source: ``(S, K)`` state that the ``k``-th transition into state ``j`` comes from.
        column: ``(S, K)`` its column, or ``columns`` where a state has fewer than ``K`` (never taken).
        leaving: ``(S, L)`` flat indices into ``(S, K)`` of the transitions out of each state.
        start: ``(S,)`` whether a path may start in the state; it may end in any.
    """

    columns: int
    source: Tensor
    column: Tensor
    leaving: Tensor
    start: Tensor

    @functools.cached_property
    def dense(self) -> bool:
        """Whether the columns are the transitions in order, so that nothing need be gathered."""
        return torch.equal(self.column.flatten(), torch.arange(self.columns))


def _lattice(columns: int, edges: list[list[tuple[int, int]]], start: list[bool]) -> Lattice:
    width = max(map(len, edges))
    padded = [row + [(0, columns)] * (width - len(row)) for row in edges]
    source = torch.tensor([[s for s, _ in row] for row in padded])
    column = torch.tensor([[c for _, c in row] for row in padded])
    flat, real = source.flatten(), column.flatten() < columns
    leaving = [torch.nonzero(real & (flat == state)).flatten() for state in range(len(edges))]
    return Lattice(columns, source, column, torch.stack(leaving), torch.tensor(start))


@functools.cache
def flipflop_lattice() -> Lattice:
    """Eight states; flips are entered from everywhere, a flop from its flip and itself; starts in a flip."""
    flips = [[(s, b * 8 + s) for s in range(8)] for b in range(4)]
    flops = [[(b, 32 + b), (4 + b, 36 + b)] for b in range(4)]
    return _lattice(40, flips + flops, [True] * 4 + [False] * 4)


@functools.cache
def crf_lattice(state_len: int) -> Lattice:
    """``4 ** state_len`` states with five transitions each; starts anywhere."""
    states = 4**state_len
    edges = [
        [(j, j * 5), *((m * (states // 4) + j // 4, j * 5 + 1 + m) for m in range(4))] for j in range(states)
    ]
    return _lattice(5 * states, edges, [True] * states)


def log_partition(scores: Tensor, lattice: Lattice) -> Tensor:
    """Log-sum-exp of the scores of all paths, ``(N,)``, differentiable once.

    Args:
        scores: ``(T, N, C)``.
    """
    return _Partition.apply(scores, lattice)


def posteriors(scores: Tensor, lattice: Lattice) -> Tensor:
    """Probability of each transition in each frame, ``(T, N, C)``; frames sum to 1. No gradient."""
    return _scan(scores.detach(), lattice, True)[1]


class _LogSum(torch.autograd.Function):
    """The gradient of a log-sum over paths is how often paths use each score, which ``forward`` saves."""

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (found,) = ctx.saved_tensors
        return found * grad[None, :, None], None


class _Partition(_LogSum):
    @staticmethod
    def forward(ctx: Any, scores: Tensor, lattice: Lattice) -> Tensor:
        value, found = _scan(scores, lattice, ctx.needs_input_grad[0])
        ctx.save_for_backward(found)
        return value


def _scan(scores: Tensor, lattice: Lattice, gradient: bool) -> tuple[Tensor, Tensor]:
    """Value ``(N,)`` and posteriors; in the linear domain, every step scaled to sum 1.

    Each state can be reached again within a few steps and a frame's weights differ by ``exp(80)`` at most,
    so nothing that matters can underflow.
    """
    frames, batch, _ = scores.shape
    device, states = scores.device, len(lattice.source)
    source = lattice.source.to(device).flatten()
    top = scores.amax(dim=2, keepdim=True)
    weights = _by_edge((scores - top).clamp_min(-_RANGE).exp(), lattice)
    alpha = scores.new_empty(frames + 1, batch, states)
    alpha[0] = lattice.start.to(device, scores.dtype)
    total = scores.new_empty(frames, batch, 1)
    for t in range(frames):
        new = (alpha[t].index_select(1, source).view(batch, states, -1) * weights[t]).sum(2)
        torch.sum(new, 1, keepdim=True, out=total[t])
        torch.div(new, total[t], out=alpha[t + 1])
    value = total.squeeze(2).double().log().sum(0) + top.squeeze(2).double().sum(0)
    value = value.to(scores.dtype)  # the last alpha sums to 1 and a path may end anywhere: nothing to add
    if not gradient:
        return value, scores.new_empty(0)
    leaving = lattice.leaving.to(device)
    beta = scores.new_ones(frames + 1, batch, states)
    for t in range(frames - 1, 0, -1):
        onward = (weights[t] * beta[t + 1].unsqueeze(2)).flatten(1)
        new = onward.index_select(1, leaving.flatten()).view(batch, states, -1).sum(2)
        torch.div(new, new.sum(1, keepdim=True), out=beta[t])
    mass = alpha[:-1].index_select(2, source).view(weights.shape) * weights * beta[1:].unsqueeze(3)
    mass /= mass.sum((2, 3), keepdim=True)
    return value, _by_column(mass, lattice)


def _by_edge(weights: Tensor, lattice: Lattice) -> Tensor:
    """``(T, N, C)`` columns to ``(T, N, S, K)`` transitions; missing ones weigh 0."""
    shape = (*weights.shape[:2], *lattice.source.shape)
    if lattice.dense:
        return weights.reshape(shape)
    padded = torch.nn.functional.pad(weights, (0, 1))
    return padded.index_select(2, lattice.column.to(weights.device).flatten()).view(shape)


def _by_column(mass: Tensor, lattice: Lattice) -> Tensor:
    flat = mass.flatten(2)
    if lattice.dense:
        return flat
    real = lattice.column.flatten() < lattice.columns
    place = torch.argsort(lattice.column.flatten()[real])
    return flat.index_select(2, torch.nonzero(real).flatten()[place].to(mass.device))


@dataclass(frozen=True)
class Alignment:
    """The positions a path must walk through, one after the other, per item of a batch.

    Attributes:
        stay: ``(N, P)`` column of staying at a position.
        move: ``(N, P)`` column of going on from a position to the next; the last is not used.
        positions: ``(N,)`` number of positions; 0 = no path exists.
    """

    stay: Tensor
    move: Tensor
    positions: Tensor


def log_alignment(scores: Tensor, alignment: Alignment) -> Tensor:
    """Log-sum-exp of the scores of the paths from the first position to the last, ``(N,)``.

    ``-inf`` with gradient 0 where there is none (fewer frames than moves). Differentiable once.
    """
    return _Aligned.apply(scores, alignment)


class _Aligned(_LogSum):
    @staticmethod
    def forward(ctx: Any, scores: Tensor, alignment: Alignment) -> Tensor:
        frames, batch, columns = scores.shape
        places = alignment.stay.shape[1]
        stay = _gathered(scores, alignment.stay)
        move = _gathered(scores, alignment.move)
        alpha = scores.new_full((frames + 1, batch, places), _IMPOSSIBLE)
        alpha[0, :, 0] = 0.0
        for t in range(frames):
            torch.add(alpha[t], stay[t], out=alpha[t + 1])
            torch.logaddexp(alpha[t + 1, :, 1:], alpha[t, :, :-1] + move[t, :, :-1], out=alpha[t + 1, :, 1:])
        last = (alignment.positions - 1).clamp_min(0)[:, None]
        value = alpha[-1].gather(1, last).squeeze(1)
        value = value.masked_fill(alignment.positions < 1, _IMPOSSIBLE)
        if ctx.needs_input_grad[0]:
            beta = torch.full_like(alpha, _IMPOSSIBLE)
            beta[-1].scatter_(1, last, 0.0)
            for t in range(frames - 1, -1, -1):
                torch.add(beta[t + 1], stay[t], out=beta[t])
                torch.logaddexp(beta[t, :, :-1], beta[t + 1, :, 1:] + move[t, :, :-1], out=beta[t, :, :-1])
            ctx.save_for_backward(_occupied(alpha, beta, stay, move, value, alignment, columns))
        return value


def _gathered(scores: Tensor, columns: Tensor) -> Tensor:
    return scores.gather(2, columns.expand(scores.shape[0], -1, -1))


def _occupied(
    alpha: Tensor,
    beta: Tensor,
    stay: Tensor,
    move: Tensor,
    value: Tensor,
    alignment: Alignment,
    columns: int,
) -> Tensor:
    """Posterior of each column, ``(T, N, C)``; 0 for items without a path."""
    frames, batch, _ = stay.shape
    whole = value.masked_fill(torch.isinf(value), 0.0)[None, :, None]
    found = stay.new_zeros(frames, batch, columns)
    staying = (alpha[:-1] + stay + beta[1:] - whole).exp_()
    moving = (alpha[:-1, :, :-1] + move[:, :, :-1] + beta[1:, :, 1:] - whole).exp_()
    found.scatter_add_(2, alignment.stay.expand(frames, -1, -1), staying)
    found.scatter_add_(2, alignment.move[:, :-1].expand(frames, -1, -1), moving)
    return found.masked_fill_(torch.isinf(value)[None, :, None], 0.0)
