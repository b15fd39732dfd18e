"""Losses of basecallers and of distillation.

Scores are ``(T, N, C)``: frames, batch, classes. Losses give one value per item, ``(N,)``, which depends on
that item alone; a batch's loss is their mean, so it is the same however items are put together in batches.
Targets are ``(N, L)`` int64, 1 = first base, rows filled with zeros; ``lengths`` are ``(N,)`` bases.
Sequence losses are in nats per base, distillation in nats per frame.

Forms: CTC of Graves et al. 2006 (torch's own); flip-flop and linear-chain CRF as exact negative
log-likelihood (log-sum over all paths minus log-sum over paths that spell the target); distillation after
Hinton et al. 2015: ``T^2 * KL(teacher || student)`` of the distributions at temperature ``T``.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from rubicc.training.lattice import Alignment, Lattice, log_alignment, log_partition, posteriors

BASES = 4


def ctc(log_probs: Tensor, targets: Tensor, lengths: Tensor) -> Tensor:
    """CTC of log-probabilities with the blank first, nats per base; ``inf`` where a target does not fit."""
    frames = torch.full((log_probs.shape[1],), log_probs.shape[0], dtype=torch.int64)
    loss = F.ctc_loss(log_probs, targets, frames, lengths, reduction="none")
    return loss / lengths.clamp_min(1)


def flipflop(scores: Tensor, targets: Tensor, lengths: Tensor, lattice: Lattice) -> Tensor:
    """Negative log-likelihood of the target under flip-flop scores (40 columns), nats per base."""
    paths = log_alignment(scores, flipflop_alignment(targets, lengths))
    return (log_partition(scores, lattice) - paths) / lengths.clamp_min(1)


def crf(scores: Tensor, targets: Tensor, lengths: Tensor, lattice: Lattice, state_len: int) -> Tensor:
    """Negative log-likelihood of the target under bonito's CRF (``5 * 4 ** state_len`` columns), per base."""
    paths = log_alignment(scores, crf_alignment(targets, lengths, state_len))
    return (log_partition(scores, lattice) - paths) / lengths.clamp_min(1)


def flipflop_alignment(targets: Tensor, lengths: Tensor) -> Alignment:
    """States of a target: its first base is where a path starts; repeats alternate between flip and flop."""
    bases = (targets - 1).clamp_min(0)
    flop = torch.zeros_like(bases, dtype=torch.bool)
    for i in range(1, bases.shape[1]):
        flop[:, i] = (bases[:, i] == bases[:, i - 1]) & ~flop[:, i - 1]
    state = bases + BASES * flop
    stay = torch.where(flop, 36 + bases, bases * 8 + state)
    following = torch.roll(state, -1, 1)
    into = following % BASES
    move = torch.where(following >= BASES, 32 + into, into * 8 + state)
    return Alignment(stay, move, lengths)


def crf_alignment(targets: Tensor, lengths: Tensor, state_len: int) -> Alignment:
    """States of a target: every ``state_len`` consecutive bases, the oldest most significant."""
    bases = (targets - 1).clamp_min(0)
    short = state_len - bases.shape[1]
    if short > 0:
        bases = F.pad(bases, (0, short))
    windows = bases.unfold(1, state_len, 1)
    digits = BASES ** torch.arange(state_len - 1, -1, -1, device=bases.device)
    state = (windows * digits).sum(2)
    move = torch.roll(state, -1, 1) * 5 + 1 + windows[:, :, 0]
    return Alignment(state * 5, move, lengths - state_len + 1)


def with_stays(scores: Tensor, blank_score: float) -> Tensor:
    """``(T, N, 4 S)`` scores of a network that leaves the constant stay column out, to ``(T, N, 5 S)``."""
    frames, batch, columns = scores.shape
    by_state = scores.view(frames, batch, columns // BASES, BASES)
    stays = by_state.new_full((frames, batch, columns // BASES, 1), blank_score)
    return torch.cat([stays, by_state], 3).flatten(2)


def labelled(scores: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of labels given per place, mean over an item's labelled places.

    Args:
        scores: ``(N, ..., C)`` logits or log-probabilities, batch first.
        labels: ``(N, ...)`` int64; negative = not labelled.
    """
    known = (labels >= 0).flatten(1)
    given = labels.masked_fill(labels < 0, -100).flatten()
    losses = F.cross_entropy(scores.flatten(0, -2), given, ignore_index=-100, reduction="none")
    return losses.view(known.shape).sum(1) / known.sum(1).clamp_min(1)


def distil_frames(student: Tensor, teacher: Tensor, temperature: float = 1.0, batch_axis: int = 1) -> Tensor:
    """``T^2 * KL(teacher || student)`` over the class axis (the last), mean over the other axes of an item.

    Args:
        student, teacher: scores or log-probabilities of one shape; the softmax is taken here.
        batch_axis: 1 for ``(T, N, C)``.
    """
    target = torch.log_softmax(teacher / temperature, -1)
    made = torch.log_softmax(student / temperature, -1)
    divergence = F.kl_div(made, target, reduction="none", log_target=True).sum(-1)
    return temperature**2 * divergence.movedim(batch_axis, 0).flatten(1).mean(1)


def distil_paths(student: Tensor, teacher: Tensor, lattice: Lattice, temperature: float = 1.0) -> Tensor:
    """``T^2 * KL`` between the teacher's and the student's distributions over whole paths, per frame.

    Both are Markov with the same transitions, so the divergence over all paths is exactly
    ``sum posterior_teacher * (teacher - student) - log Z_teacher + log Z_student``; its gradient is the
    difference of the transition posteriors.
    """
    given, made = teacher.detach() / temperature, student / temperature
    weight = posteriors(given, lattice)
    gap = (weight * (given - made)).sum((0, 2))
    value = gap - log_partition(given, lattice) + log_partition(made, lattice)
    return temperature**2 * value / student.shape[0]


def features(student: Tensor, teacher: Tensor) -> Tensor:
    """How differently two networks see the frames of an item, ``(N,)``; each frame counts by direction only.

    Equal widths: mean squared distance of the unit vectors. Otherwise the mean squared difference between
    the two ``(T, T)`` tables of cosines between frames, which has no width (Tung and Mori 2019).

    Args:
        student, teacher: ``(N, T, C)`` and ``(N, T, C')``.
    """
    made, given = F.normalize(student, dim=2), F.normalize(teacher.detach(), dim=2)
    if made.shape[2] == given.shape[2]:
        return (made - given).square().sum(2).mean(1)
    return (made @ made.mT - given @ given.mT).square().mean((1, 2))
