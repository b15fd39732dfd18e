"""Losses: exact against brute force, gradients against finite differences, items apart from their batch."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from rubicc.errors import UsageError
from rubicc.genomics import crf as crf_decoder
from rubicc.genomics import flipflop as flipflop_decoder
from rubicc.models import registry
from rubicc.spec import DecoderSpec
from rubicc.training import losses
from rubicc.training.lattice import Lattice, crf_lattice, flipflop_lattice, log_partition, posteriors
from rubicc.training.objective import Objective

TARGETS = torch.tensor([[1, 1, 1, 2, 3, 0], [4, 4, 0, 0, 0, 0], [2, 3, 3, 3, 3, 1]])
LENGTHS = torch.tensor([5, 2, 6])
LATTICES = {"flipflop": (flipflop_lattice(), 40), "crf": (crf_lattice(2), 80)}


def scores(frames: int, batch: int, columns: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 2 * torch.randn(frames, batch, columns, generator=generator, dtype=torch.float64)


def every_path(given: Tensor, lattice: Lattice) -> float:
    """Log-sum-exp over all paths of one item, state by state in plain Python."""
    states = len(lattice.source)
    alpha = [0.0 if lattice.start[s] else -math.inf for s in range(states)]
    for frame in given:
        into = [[] for _ in range(states)]
        for j, k in itertools.product(range(states), range(lattice.source.shape[1])):
            if lattice.column[j, k] < lattice.columns:
                into[j].append(alpha[int(lattice.source[j, k])] + float(frame[lattice.column[j, k]]))
        alpha = [float(torch.logsumexp(torch.tensor(terms, dtype=torch.float64), 0)) for terms in into]
    return float(torch.logsumexp(torch.tensor(alpha, dtype=torch.float64), 0))


@pytest.mark.parametrize("name", LATTICES)
def test_partition_is_the_sum_over_all_paths(name: str) -> None:
    lattice, columns = LATTICES[name]
    given = scores(6, 2, columns)
    wanted = [every_path(given[:, i], lattice) for i in range(2)]
    assert log_partition(given, lattice).tolist() == pytest.approx(wanted, rel=1e-12)


@pytest.mark.parametrize(("name", "decoder"), [("flipflop", flipflop_decoder), ("crf", crf_decoder)])
def test_posteriors_are_the_decoders(name: str, decoder: object) -> None:
    lattice, columns = LATTICES[name]
    given = scores(50, 1, columns).float()
    wanted = decoder.posteriors(given[:, 0].numpy())  # type: ignore[attr-defined]
    assert np.abs(posteriors(given, lattice)[:, 0].numpy() - wanted).max() < 1e-5


def test_probabilities_of_all_sequences_sum_to_one() -> None:
    """The denominator counts exactly the paths that the numerators share out."""
    for lattice, columns, loss in (
        (flipflop_lattice(), 40, losses.flipflop),
        (crf_lattice(1), 20, lambda s, t, n, lat: losses.crf(s, t, n, lat, 1)),
    ):
        given, total = scores(3, 1, columns), 0.0
        for length in range(1, 5):
            every = torch.tensor(list(itertools.product((1, 2, 3, 4), repeat=length)))
            lengths = torch.full((len(every),), length)
            found = loss(given.expand(-1, len(every), -1), every, lengths, lattice) * length
            total += float((-found).exp().sum())
        assert total == pytest.approx(1.0, rel=1e-9)


def task(name: str) -> Callable[[Tensor], Tensor]:
    if name == "ctc":
        return lambda s: losses.ctc(torch.log_softmax(s[..., :5], 2), TARGETS, LENGTHS)
    if name == "flipflop":
        return lambda s: losses.flipflop(s[..., :40], TARGETS, LENGTHS, flipflop_lattice())
    if name == "crf":
        return lambda s: losses.crf(s, TARGETS, LENGTHS, crf_lattice(2), 2)
    if name == "crf without stays":
        return lambda s: losses.crf(losses.with_stays(s[..., :64], 2.0), TARGETS, LENGTHS, crf_lattice(2), 2)
    if name == "frames":
        return lambda s: losses.distil_frames(s, scores(9, 3, 80, 1), 2.0)
    if name == "paths":
        return lambda s: losses.distil_paths(s[..., :40], scores(9, 3, 40, 1), flipflop_lattice(), 1.5)
    if name == "labelled":
        return lambda s: losses.labelled(s.movedim(1, 0), torch.arange(27).reshape(3, 9) - 2)
    teacher = scores(9, 3, 80 if name == "features" else 7, 1).movedim(1, 0)
    return lambda s: losses.features(s.movedim(1, 0), teacher)


NAMES = ("ctc", "flipflop", "crf", "crf without stays", "frames", "paths", "labelled", "features", "tables")


@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_those_of_finite_differences(name: str) -> None:
    given = scores(9, 3, 80).requires_grad_()
    loss = task(name)
    value = loss(given)
    assert value.shape == (3,) and bool(torch.isfinite(value).all())
    (grad,) = torch.autograd.grad(value.sum(), given)
    generator = torch.Generator().manual_seed(3)
    for _ in range(6):
        along = torch.randn(given.shape, generator=generator, dtype=torch.float64)
        with torch.no_grad():
            slope = (loss(given + 1e-5 * along) - loss(given - 1e-5 * along)).sum() / 2e-5
        assert float((grad * along).sum()) == pytest.approx(float(slope), rel=1e-5, abs=1e-8)


def test_a_wrong_gradient_is_seen() -> None:
    """A mutant: the stay posterior of the last frame left out."""
    given = scores(9, 3, 80).requires_grad_()
    (grad,) = torch.autograd.grad(task("crf")(given).sum(), given)
    grad[-1] = 0
    along = torch.randn(given.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    slope = (task("crf")(given + 1e-5 * along) - task("crf")(given - 1e-5 * along)).sum() / 2e-5
    assert float((grad * along).sum()) != pytest.approx(float(slope), rel=1e-3)


@pytest.mark.parametrize("name", ["flipflop", "crf", "ctc", "frames", "paths"])
def test_an_item_does_not_depend_on_its_batch(name: str) -> None:
    """Alone, in another order, and beside longer targets, an item's loss stays what it is."""
    given, teacher = scores(9, 3, 40).float(), scores(9, 3, 40, 1).float()

    def of(rows: list[int]) -> Tensor:
        s, t, n = given[:, rows], TARGETS[rows], LENGTHS[rows]
        if name == "ctc":
            return losses.ctc(torch.log_softmax(s[..., :5], 2), t, n)
        if name == "flipflop":
            return losses.flipflop(s, t, n, flipflop_lattice())
        if name == "crf":
            return losses.crf(s[..., :20], t, n, crf_lattice(1), 1)
        if name == "frames":
            return losses.distil_frames(s, teacher[:, rows], 2.0)
        return losses.distil_paths(s, teacher[:, rows], flipflop_lattice(), 2.0)

    together = of([0, 1, 2])
    for rows in ([0], [1], [2], [2, 0], [1, 1, 0]):
        assert torch.allclose(of(rows), together[rows], rtol=2e-6, atol=0), rows


def test_frame_distillation_is_over_classes_and_per_frame() -> None:
    """Against the definition, written out; and against the mistake of taking the batch for the classes."""
    student, teacher = scores(7, 4, 5), scores(7, 4, 5, 1)
    found = losses.distil_frames(student, teacher, 2.0)
    p = torch.softmax(teacher / 2, 2)
    wanted = 4 * (p * (p.log() - torch.log_softmax(student / 2, 2))).sum(2).mean(0)
    assert torch.allclose(found, wanted)
    wrong = torch.softmax(teacher / 2, 1)
    assert not torch.allclose(
        found, 4 * (wrong * (wrong.log() - torch.log_softmax(student / 2, 1))).sum(2).mean(0)
    )
    # Ten times the frames, the same loss: it is a mean, not a sum.
    longer = losses.distil_frames(student.repeat(10, 1, 1), teacher.repeat(10, 1, 1), 2.0)
    assert torch.allclose(found, longer)


def test_path_distillation_is_a_divergence() -> None:
    student, teacher = scores(6, 3, 40), scores(6, 3, 40, 1)
    lattice = flipflop_lattice()
    assert (losses.distil_paths(student, teacher, lattice) > 0).all()
    assert losses.distil_paths(teacher, teacher, lattice).abs().max() < 1e-12
    # Scores that differ by a constant per frame mean the same paths.
    shifted = teacher + torch.arange(6.0, dtype=torch.float64)[:, None, None]
    assert losses.distil_paths(shifted, teacher, lattice).abs().max() < 1e-12


def test_impossible_targets_are_infinite_without_nan_gradients() -> None:
    given = scores(3, 2, 40).requires_grad_()
    targets, lengths = torch.tensor([[1, 2, 3, 4, 1], [1, 2, 0, 0, 0]]), torch.tensor([5, 2])
    found = losses.flipflop(given, targets, lengths, flipflop_lattice())
    assert torch.isinf(found[0]) and torch.isfinite(found[1])
    (grad,) = torch.autograd.grad(found[1], given)
    assert torch.isfinite(grad).all()
    assert torch.isinf(
        losses.crf(scores(3, 1, 80), torch.tensor([[1]]), torch.tensor([1]), crf_lattice(2), 2)
    )


@pytest.mark.parametrize("name", ["demo-ctc", "taiyaki-mgru", "bonito-crf"])
def test_frames_needed_is_where_the_loss_becomes_finite(name: str) -> None:
    meta = registry.get(name).meta({"preset": "fast"} if name == "bonito-crf" else None)
    objective = Objective.of(meta)
    columns = meta.outputs[0].shape[-1]
    targets = torch.tensor([[1, 1, 2, 2, 2, 3, 4, 4, 1]])
    lengths = torch.tensor([9])
    (need,) = objective.frames_needed(targets.numpy(), lengths.numpy())
    for frames, finite in ((int(need), True), (int(need) - 1, False)):
        made = torch.log_softmax(scores(frames, 1, int(columns)), 2)
        assert bool(torch.isfinite(objective.task(made, targets, lengths)).all()) == finite


def test_what_cannot_be_learned_is_refused() -> None:
    meta = registry.get("taiyaki-mgru").meta()
    with pytest.raises(UsageError, match="RUB-TRAIN-020"):
        Objective.of(replace(meta, alphabet="ACGTU"))
    with pytest.raises(UsageError, match="RUB-TRAIN-020"):
        Objective.of(replace(meta, alphabet=None))
    with pytest.raises(UsageError, match="RUB-TRAIN-020"):
        Objective.of(replace(meta, alphabet="NACGT", decoder=DecoderSpec("crf")))
    objective = Objective.of(meta)
    assert objective.comparable(meta) == ""
    for other, word in (
        (replace(meta, stride=5), "stride"),
        (replace(meta, alphabet="ACGU"), "alphabet"),
        (registry.get("bonito-ctc").meta(), "stride"),
        (replace(registry.get("bonito-ctc").meta(), stride=4), "decoded"),
        (registry.get("dna-bert").meta(), "bases"),
    ):
        assert word in objective.comparable(other), other.arch
    with pytest.raises(UsageError, match="RUB-TRAIN-021"):
        objective.distil(torch.zeros(5, 2, 40), torch.zeros(4, 2, 40), 1.0)
