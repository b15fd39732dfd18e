"""Which channels go: the same share of every group, the least important of all, or what a budget asks for."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from rubicc.errors import UsageError
from rubicc.passes.prune.groups import Group


@dataclass(frozen=True)
class Rules:
    """What a choice must keep to.

    Attributes:
        align: how many stay is a multiple of this, counted in positions of the axis the layer makes.
        most: largest share of a group's first size that may go.
        first: size of every group before any pruning, by name.
    """

    align: int
    most: float
    first: Mapping[str, float]

    def size(self, group: Group) -> int:
        """Channels the group had before any pruning."""
        return max(int(self.first.get(group.name, group.size)), group.size)

    def stays(self, group: Group, wanted: float) -> int:
        """Channels that stay when about ``wanted`` should, at least one step of the alignment."""
        step = self.step(group)
        least = max(self.size(group) * (1.0 - self.most), 1.0)
        steps = max(math.floor(wanted / step + 0.5), math.ceil(least / step - 1e-9), 1)
        return min(steps * step, group.size)

    def step(self, group: Group) -> int:
        """Smallest number of channels that is a multiple of the alignment."""
        return self.align // math.gcd(self.align, group.width)


Removed = dict[str, np.ndarray]  # group name -> indices of its channels that go, ascending


def uniform(groups: Sequence[Group], scores: Mapping[str, np.ndarray], ratio: float, rules: Rules) -> Removed:
    """``ratio`` of every group's first size goes, the least important first."""
    return shares(groups, scores, dict.fromkeys((group.name for group in groups), ratio), rules)


def shares(
    groups: Sequence[Group], scores: Mapping[str, np.ndarray], ratios: Mapping[str, float], rules: Rules
) -> Removed:
    """A share of its own of every group named in ``ratios``."""
    return {
        group.name: _least(
            scores[group.name], group.size - rules.stays(group, rules.size(group) * (1 - ratios[group.name]))
        )
        for group in groups
        if group.name in ratios
    }


def overall(groups: Sequence[Group], scores: Mapping[str, np.ndarray], ratio: float, rules: Rules) -> Removed:
    """``ratio`` of all positions goes, whichever channels matter least; those already gone count."""
    total = sum(rules.size(group) * group.width for group in groups)
    gone = sum((rules.size(group) - group.size) * group.width for group in groups)
    ranked = sorted(
        (float(score), place, channel)
        for place, group in enumerate(groups)
        for channel, score in enumerate(scores[group.name])
    )
    counts = [0] * len(groups)
    for _, place, _ in ranked:
        group = groups[place]
        if gone + group.width > total * ratio + 1e-9:
            break
        if group.size - counts[place] > rules.stays(group, 0.0):
            counts[place] += 1
            gone += group.width
    return {
        group.name: _least(scores[group.name], group.size - rules.stays(group, group.size - counts[place]))
        for place, group in enumerate(groups)
    }


def within_budget(
    choose: Callable[[float], Removed], cost: Callable[[Removed], float], budget: float, what: str
) -> Removed:
    """The smallest cut of those ``choose`` makes for shares from 0 to 1 that costs at most ``budget``.

    Raises:
        UsageError: ``RUB-PASS-051``, the largest cut costs more.
    """
    if cost({}) <= budget:
        return {}
    low, high, best = 0.0, 1.0, choose(1.0)
    least = cost(best)
    if not least <= budget:
        raise UsageError(
            "RUB-PASS-051",
            f"a budget of {budget:,.6g} {what} cannot be met: the largest cut leaves {least:,.6g}",
            hint="raise the budget, or the option `most`, which bounds what a layer may lose",
        )
    while high - low > 1 / 256:
        middle = (low + high) / 2
        removed = choose(middle)
        if cost(removed) <= budget:
            high, best = middle, removed
        else:
            low = middle
    return best


def _least(scores: np.ndarray, count: int) -> np.ndarray:
    """Indices of the ``count`` smallest; of equal ones the first."""
    return np.sort(np.argsort(scores, kind="stable")[: max(count, 0)])
