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


NEAR = 0.97  # of a budget: nearer ones are left as they are, all layers alike
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
    choose: Callable[[float], Removed],
    cost: Callable[[Removed], float],
    budget: float,
    what: str,
    scores: Mapping[str, np.ndarray],
) -> Removed:
    """The smallest cut of those ``choose`` makes for shares from 0 to 1 that costs at most ``budget``.

    Where layers of one width lose an alignment's step together, a share more or less is far from the budget;
    then only some of them take the last step: those where ``scores`` say that it matters least.

    Raises:
        UsageError: ``RUB-PASS-051``, the largest cut costs more.
    """
    if cost({}) <= budget:
        return {}
    low, high, best, over = 0.0, 1.0, choose(1.0), Removed()
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
        found = cost(removed)
        if found <= budget:
            high, best, least = middle, removed, found
        else:
            low, over = middle, removed
    return best if least >= NEAR * budget else _between(over, best, lambda one: cost(one) <= budget, scores)


def _between(
    over: Removed, best: Removed, fits: Callable[[Removed], bool], scores: Mapping[str, np.ndarray]
) -> Removed:
    """``best``, but for the first groups only what ``over`` takes: as many of them as fit."""
    back = {name: np.setdiff1d(gone, over.get(name, ())) for name, gone in best.items()}
    order = [name for name in best if len(back[name])]
    order.sort(key=lambda name: -float(scores[name][back[name]].mean()))
    low, high, found = 0, len(order), best
    while high - low > 1:
        middle = (low + high) // 2
        trial = best | {name: over.get(name, best[name][:0]) for name in order[:middle]}
        if fits(trial):
            low, found = middle, trial
        else:
            high = middle
    return found


def _least(scores: np.ndarray, count: int) -> np.ndarray:
    """Indices of the ``count`` smallest; of equal ones the first."""
    return np.sort(np.argsort(scores, kind="stable")[: max(count, 0)])
