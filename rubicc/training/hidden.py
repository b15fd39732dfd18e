"""Hidden layers of a network that was cut, kept like those of the network it was cut from.

The scores alone say little about each frame; every layer of the whole network says what the smaller one
should know there. Layers of fewer channels are compared through linear maps that are trained along and thrown
away (Romero et al., "FitNets", 2015).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from rubicc.training.data.stream import Batch
from rubicc.training.lessons import Lesson
from rubicc.training.network import Network


class Hidden(Lesson):
    """Another lesson, and the mean over layers of ``|map(h) - h'|^2 / variance of h'`` beside it.

    It counts less the smaller the learning rate gets: the last steps are for the scores alone. Validation is
    that of the other lesson.

    Args:
        lesson: of scores and bases.
        whole: the network before it was cut, keeping the values by name.
        spread: variance of each of these values, measured once: with that of the batch an item's loss would
            hang on the items beside it.
        weight: of the hidden layers at the peak of the learning rate.
        teaches: whether ``whole`` is the lesson's teacher as well, so that one run gives both.
    """

    def __init__(
        self, lesson: Lesson, whole: Network, spread: Mapping[str, float], weight: float, *, teaches: bool
    ) -> None:
        super().__init__(lesson.objective, lesson.settings, lesson.teacher)
        self.whole, self.spread, self.weight = whole, spread, weight
        self.teaches = teaches and not self.by_calls and not self.pairs

    def __repr__(self) -> str:
        return f"Hidden({super().__repr__()}, {self.whole.keep}, {self.weight})"

    def to(self, device: torch.device) -> Hidden:
        """Teacher and whole network on another device."""
        super().to(device)
        self.whole.to(device)
        return self

    @torch.no_grad()
    def prepare(self, batch: Batch) -> Batch:
        """As the other lesson; what ``whole`` says is taken with the hidden layers."""
        return batch if self.teaches and self.pace else super().prepare(batch)

    def losses(self, scores: Tensor, kept: Mapping[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        """See :meth:`Lesson.losses`; ``features`` is the part of the hidden layers."""
        if not self.pace:
            return super().losses(scores, kept, batch)
        with torch.no_grad():
            said, seen = self.whole(batch.feeds)
        if self.teaches and batch.teacher is None:
            batch = replace(batch, teacher=said)
        parts = super().losses(scores, kept, batch)
        unlike = [
            (kept[name].float() - seen[name].float()).square().mean() / self.spread[name]
            for name in self.whole.keep
        ]
        hidden = torch.stack(unlike).mean()
        parts["loss"] = parts["loss"] + self.weight * self.pace * hidden
        parts["features"] = parts.get("features", 0.0) + hidden
        return parts


@torch.no_grad()
def spread_of(whole: Network, batch: Batch) -> dict[str, float]:
    """Variance of every kept value over ``batch``."""
    _, seen = whole(batch.feeds)
    return {name: max(float(seen[name].float().var()), 1e-12) for name in whole.keep}
