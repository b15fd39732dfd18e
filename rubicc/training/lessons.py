"""What is learned of a batch: the loss of known bases, of a teacher's scores, and of a teacher's features."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from rubicc.errors import UsageError
from rubicc.training import losses
from rubicc.training.data.stream import Batch, Item, collate, padded
from rubicc.training.network import Network, as_frames
from rubicc.training.objective import Objective, bases_of
from rubicc.training.settings import TrainSettings


class Lesson:
    """Losses of a student.

    Args:
        objective: of the student.
        settings: shares, temperature and feature pairs.
        teacher: runs on every batch that does not carry its scores already; None = no teacher, or all of the
            batches carry them.

    Attributes:
        pace: learning rate of the step at hand over the largest; 0 between steps.

    Raises:
        UsageError: ``RUB-TRAIN-025``: the teacher's scores are no target for this student.
    """

    pace = 0.0

    def __init__(self, objective: Objective, settings: TrainSettings, teacher: Network | None = None) -> None:
        self.objective = objective
        self.settings = settings
        self.teacher = teacher
        self.pairs = tuple((pair[0], pair[1]) for pair in settings.features)
        if self.pairs and teacher is None:
            what, hint = "features need a teacher", "give --teacher"
            raise UsageError("RUB-TRAIN-025", what, hint=hint)
        why = objective.comparable(teacher.meta) if teacher is not None else ""
        if why and (settings.labels == "scores" or self.pairs or teacher is None):
            raise mismatch(why)
        self.by_calls = bool(why) or settings.labels == "calls"

    def __repr__(self) -> str:
        return f"Lesson({self.objective.kind}, {self.settings.labels}, {self.by_calls})"

    def to(self, device: torch.device) -> Lesson:
        """The teacher on another device."""
        if self.teacher is not None:
            self.teacher.to(device)
        return self

    def check(self, item: Item) -> None:
        """Refuse data whose items have nothing to learn from, before anything is trained.

        Raises:
            UsageError: ``RUB-TRAIN-026``.
        """
        batch = collate([item])
        self._alpha(batch, torch.empty(0) if self.teacher is not None else batch.teacher)

    @torch.no_grad()
    def prepare(self, batch: Batch) -> Batch:
        """``batch`` with what the teacher says of it, where it says something and is needed."""
        if self.teacher is None or self.pairs or (batch.teacher is not None):
            return batch
        scores, _ = self.teacher(batch.feeds)
        if not self.by_calls:
            return replace(batch, teacher=scores)
        return _called(batch, scores, Objective.of(self.teacher.meta), self.objective)

    def losses(self, scores: Tensor, kept: Mapping[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        """``loss`` and its parts, each the mean over the items of the batch.

        Raises:
            UsageError: ``RUB-TRAIN-026``: the batch has nothing to learn from.
        """
        parts: dict[str, Tensor] = {}
        given, seen = batch.teacher, {}
        if self.pairs and self.teacher is not None:
            with torch.no_grad():
                given, seen = self.teacher(batch.feeds)
        alpha = self._alpha(batch, given)
        total = scores.new_zeros((), dtype=torch.float32)
        if given is not None and alpha > 0:
            parts["distil"] = self.objective.distil(
                scores, given, self.settings.temperature, self.settings.distil
            ).mean()
            total = total + alpha * parts["distil"]
        if alpha < 1:
            parts["task"] = self._task(scores, batch)
            total = total + (1 - alpha) * parts["task"]
        if self.pairs:
            parts["features"] = self._features(scores, kept, seen, batch.size)
            total = total + self.settings.feature_weight * parts["features"]
        return {"loss": total, **parts}

    def _alpha(self, batch: Batch, given: Tensor | None) -> float:
        knows = batch.labels is not None or (batch.targets is not None and self.objective.kind != "none")
        if given is None and not knows:
            raise UsageError(
                "RUB-TRAIN-026",
                "neither bases nor labels are known, and there is no teacher",
                hint="give --teacher, or data with bases",
            )
        if given is None:
            return 0.0
        if not knows:
            return 1.0
        return 0.9 if self.settings.alpha is None else self.settings.alpha

    def _task(self, scores: Tensor, batch: Batch) -> Tensor:
        """Mean over the items that can be learned from; 0 where none can."""
        if batch.labels is not None:
            first = scores.movedim(self.objective.batch_axis, 0)
            return losses.labelled(first.float(), batch.labels).mean()
        assert batch.targets is not None and batch.lengths is not None
        found = self.objective.task(scores, batch.targets, batch.lengths)
        if batch.usable is None:
            return found.mean()
        return found.where(batch.usable, 0.0).sum() / batch.usable.sum().clamp_min(1)

    def _features(
        self, scores: Tensor, kept: Mapping[str, Tensor], seen: Mapping[str, Tensor], size: int
    ) -> Tensor:
        frames = scores.shape[1 - self.objective.batch_axis]
        found = [
            losses.features(
                as_frames(kept[mine], size, frames).float(), as_frames(seen[theirs], size, frames).float()
            ).mean()
            for mine, theirs in self.pairs
        ]
        return torch.stack(found).mean()


class Labelled(Lesson):
    """The same data learned from bases and labels alone, a teacher's where no others are known.

    For measuring what matters: where student and teacher are one network, as when a network is pruned that
    teaches its smaller self, the gradient of distillation is 0 whatever matters.

    Args:
        lesson: whose data, teacher and settings these are.
    """

    def __init__(self, lesson: Lesson) -> None:
        self.objective, self.settings, self.teacher = lesson.objective, lesson.settings, lesson.teacher
        self.by_calls, self.pairs = lesson.by_calls, ()

    def __repr__(self) -> str:
        return f"Labelled({super().__repr__()})"

    @torch.no_grad()
    def prepare(self, batch: Batch) -> Batch:
        """``batch`` with bases or labels: those known, a teacher's calls, or labels drawn from its scores."""
        if batch.labels is not None or (batch.targets is not None and self.objective.kind != "none"):
            return replace(batch, teacher=None)
        given = super().prepare(batch)
        if given.teacher is None:
            return given
        if self.objective.kind != "none":
            called = _called(batch, given.teacher, self.objective, self.objective)
            return replace(called, teacher=None)
        first = given.teacher.movedim(self.objective.batch_axis, 0).float()
        drawn = torch.multinomial(torch.softmax(first, -1).flatten(0, -2), 1)
        return replace(batch, teacher=None, labels=drawn.view(first.shape[:-1]))


def mismatch(why: str, *, calls: bool = True) -> UsageError:
    """The error about a teacher whose scores are no target; ``calls``: whether its bases could be one."""
    hint = "give another student or teacher"
    if calls:
        hint += ", or --labels calls to train on the teacher's bases instead"
    return UsageError(
        "RUB-TRAIN-025",
        f"the teacher's scores are no target for this student: {why}",
        hint=hint,
    )


def _called(batch: Batch, scores: Tensor, teacher: Objective, student: Objective) -> Batch:
    """``batch`` with the teacher's calls as targets.

    A call that the student cannot spell in its frames is not learned from: a rare item must not stop a run.
    """
    letters = bases_of(student.meta)
    rows = [
        np.array([letters.index(base) + 1 for base in call], np.int64)
        for call in teacher.decode(scores.float().cpu().numpy())
    ]
    targets, lengths = padded(rows)
    samples = next(iter(batch.feeds.values())).shape[-1]
    need = student.frames_needed(targets.numpy(), lengths.numpy())
    usable = torch.from_numpy((lengths.numpy() > 0) & (need <= -(-samples // student.stride)))
    device = scores.device
    return replace(batch, targets=targets.to(device), lengths=lengths, usable=usable.to(device))
