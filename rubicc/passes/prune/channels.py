"""Cuts whole channels, hidden units, heads and features out of a network."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, Literal

import numpy as np

from rubicc.errors import UsageError
from rubicc.evidence.decision import Decision
from rubicc.ir.costs import costs
from rubicc.ir.graph import Graph
from rubicc.passes.prune import record
from rubicc.passes.prune.choose import Removed, Rules, overall, shares, uniform, within_budget
from rubicc.passes.prune.groups import Coupling, Group, groups
from rubicc.passes.prune.importance import Importance, importance
from rubicc.passes.prune.readers import Reader, readers
from rubicc.passes.prune.reconstruct import Known, narrowed, ranked, repair
from rubicc.passes.prune.slicing import cut
from rubicc.passes.registry import Pass, register
from rubicc.text import did_you_mean


@dataclass(frozen=True)
class ChannelOptions:
    """What to cut.

    Attributes:
        ratio: share of the channels that go, counted from before any pruning; a budget overrides it.
        scope: ``uniform``: the same share of every group; ``global``: whichever matter least in the network.
        importance: ``l1``, ``l2``, ``bn-scale``, ``random``, or ``given`` (see :mod:`.importance`), or
            ``reconstruction``: what is lost after the others have made up for it (see :mod:`.reconstruct`).
        scores: of ``given``, by name of initializer.
        known: what products read, by key of the reader; with it, what reads cut channels makes up for them.
        macs, weight_bytes: budgets; up to 1.0 a share of what there was before any pruning; 0: none.
        cost: any other measure of a graph (a predicted latency); ``budget`` bounds it.
        budget: largest value of ``cost``.
        align: channels that stay are a multiple of this (8, 16 or 32 suit most hardware).
        most: largest share that any group may lose.
        inside: also take channels out of every group of grouped layers, and features out of every head.
        norms: also channels that a LayerNormalization counts.
        shares: shares to cut by pattern of group name (``gru.*``), instead of ``ratio``; others stay whole.
        skip: patterns of groups that stay whole.
        seed: of ``random``.
        bind: sizes at which MACs are counted; free dimensions without an entry are those the walk tried.
    """

    ratio: float = 0.5
    scope: Literal["uniform", "global"] = "uniform"
    importance: Importance | Literal["reconstruction"] = "l2"
    scores: Mapping[str, np.ndarray] = field(default_factory=dict)
    known: Known = field(default_factory=dict)
    macs: float = 0.0
    weight_bytes: float = 0.0
    cost: Callable[[Graph], float] | None = None
    budget: float = 0.0
    align: int = 1
    most: float = 0.9
    inside: bool = False
    norms: bool = False
    shares: Mapping[str, float] = field(default_factory=dict)
    skip: tuple[str, ...] = ()
    seed: int = 0
    bind: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 0.0 <= self.ratio < 1.0 or not 0.0 <= self.most < 1.0:
            raise ValueError(f"ratio is {self.ratio} and most is {self.most}: at least 0 and below 1")
        if self.align < 1:
            raise ValueError(f"align is {self.align}: at least 1")
        if self.importance == "reconstruction" and not self.known:
            raise ValueError("importance by reconstruction needs to know what products read")
        budgets = [self.macs, self.weight_bytes, 0.0 if self.cost is None else self.budget]
        if min(budgets) < 0 or sum(bool(b) for b in budgets) > 1:
            raise ValueError(f"budgets are {budgets}: give one, above 0")


@dataclass(frozen=True)
class Cut:
    """What went from one group.

    Attributes:
        group, kind: which channels.
        before, after: how many there were and are.
        removed: indices, of those there were.
        weights: initializers that shrank, ``name[axis]``.
    """

    group: str
    kind: str
    before: int
    after: int
    removed: tuple[int, ...]
    weights: tuple[str, ...]


@register
class PruneChannels(Pass):
    """Channels that matter least are cut out with everything that reads them; shapes shrink.

    Inputs, outputs and whatever is coupled to them stay. What is cut is noted, and stands in ``cuts``;
    ``narrowed`` says of what products read how it was before (:func:`.reconstruct.narrowed`).

    ::

        before   Conv(96 channels) -> GRU(96 units) -> MatMul -> y
        after    Conv(48 channels) -> GRU(48 units) -> MatMul -> y
    """

    id = "prune.channels"
    exact = False
    tolerance = 10.0
    requires = frozenset({"constants-are-initializers"})
    ensures = frozenset({"channels-pruned"})
    Options = ChannelOptions
    options: ChannelOptions

    def run(self, graph: Graph) -> bool:
        """See :class:`Pass`."""
        self.cuts: list[Cut] = []
        self.narrowed: dict[str, tuple[int, np.ndarray]] = {}
        coupling = self.couple(graph)
        chosen = self._candidates(coupling)
        state = record.read(graph)
        products = readers(graph)
        scores = {group.name: self._scores(graph, group, products) for group in chosen}
        rules = Rules(self.options.align, self.options.most, state["channels"])
        removed = self._choose(graph, coupling, chosen, scores, rules, state)
        labels = _labels(chosen, removed)
        for protected in coupling.protected:
            self.note(protected.source, f"{protected.channels} channels stay: {protected.reason}")
        for group in chosen:
            self._record(group, removed.get(group.name, np.zeros(0, np.int64)), rules)
        if not labels:
            return False
        for group in coupling.groups:
            state["channels"].setdefault(group.name, group.size)
        self.narrowed = narrowed(coupling, labels, products, self.options.known)
        for reader, lost in repair(coupling, labels, products, self.options.known):
            self.note(reader.name, f"least squares: {lost:.2%} of the power of what it gives is lost")
        cut(graph, coupling, labels, self.id)
        record.write(graph, state)
        return True

    def couple(self, graph: Graph) -> Coupling:
        """The coupled channels of the graph; tests replace it by a wrong one."""
        return groups(graph, norms=self.options.norms)

    def _candidates(self, coupling: Coupling) -> list[Group]:
        opts = self.options
        found = [group for group in coupling.groups if opts.inside or not group.inside]
        names = [group.name for group in found]
        for pattern in [*opts.shares, *opts.skip]:
            if not any(fnmatchcase(name, pattern) for name in names):
                hint = did_you_mean(pattern, names, "`rubicc prune MODEL --list` prints all groups")
                raise UsageError("RUB-PASS-050", f"no group of channels is called {pattern!r}", hint=hint)
        return [g for g in found if not any(fnmatchcase(g.name, pattern) for pattern in opts.skip)]

    def _scores(self, graph: Graph, group: Group, products: Sequence[Reader]) -> np.ndarray:
        opts = self.options
        if opts.importance == "reconstruction":
            found = ranked(group, products, opts.known)
        else:
            found = importance(graph, group, opts.importance, seed=opts.seed, scores=opts.scores)
        if found is not None:
            return found
        source = "what was measured" if opts.importance == "given" else opts.importance
        self.decisions.append(
            Decision(
                "RUB-PASS-D50",
                group.name,
                "importance measured by the magnitude of weights (l2)",
                f"{source} says nothing about these {group.kind}",
            )
        )
        return importance(graph, group, "l2", seed=opts.seed, scores={})  # type: ignore[return-value]

    def _choose(
        self,
        graph: Graph,
        coupling: Coupling,
        chosen: Sequence[Group],
        scores: Mapping[str, np.ndarray],
        rules: Rules,
        state: dict[str, Any],
    ) -> Removed:
        opts = self.options
        if opts.shares:
            ratios: dict[str, float] = {}
            for pattern, share in opts.shares.items():
                ratios |= {g.name: share for g in chosen if fnmatchcase(g.name, pattern)}
            return shares(chosen, scores, ratios, rules)
        pick = uniform if opts.scope == "uniform" else overall
        measure, budget, what = self._budget(graph, coupling, state)
        if measure is None:
            if opts.scope == "global" and state["costs"].setdefault("share", 0.0) >= opts.ratio:
                return {}  # the same was asked for before
            state["costs"]["share"] = opts.ratio
            return pick(chosen, scores, opts.ratio, rules)

        def cost(removed: Removed) -> float:
            trial = graph.clone()
            cut(trial, coupling, _labels(chosen, removed), self.id)
            return measure(trial)

        return within_budget(lambda share: pick(chosen, scores, share, rules), cost, budget, what, scores)

    def _budget(
        self, graph: Graph, coupling: Coupling, state: dict[str, Any]
    ) -> tuple[Callable[[Graph], float] | None, float, str]:
        """How a graph is measured, the largest value allowed, and its unit."""
        opts = self.options
        if opts.cost is not None:
            return opts.cost, opts.budget, "by the given measure"
        if not opts.macs and not opts.weight_bytes:
            return None, 0.0, ""
        bind = {**coupling.walk.bound, **opts.bind}
        name, limit = ("macs", opts.macs) if opts.macs else ("weight_bytes", opts.weight_bytes)

        def measure(one: Graph) -> float:
            return float(getattr(costs(one, bind), name))

        first = state["costs"].setdefault(name, measure(graph))
        return measure, limit * first if limit <= 1.0 else limit, "MACs" if opts.macs else "bytes of weights"

    def _record(self, group: Group, removed: np.ndarray, rules: Rules) -> None:
        after = group.size - len(removed)
        if self.options.align > 1 and (after * group.width) % self.options.align:
            self.decisions.append(
                Decision(
                    "RUB-PASS-D51",
                    group.name,
                    f"{after * group.width} positions stay, no multiple of {self.options.align}",
                    f"there are only {group.size} {group.kind}",
                )
            )
        if not len(removed):
            return
        weights = tuple(dict.fromkeys(f"{m.initializer}[{m.axis}]" for m in group.members))
        self.cuts.append(Cut(group.name, group.kind, group.size, after, tuple(removed.tolist()), weights))
        what = f"{len(removed)} of {group.size} {group.kind} cut"
        if group.normalised:
            what += "; a normalisation counts them, so that the others change too"
        self.note(group.name, f"{what} ({', '.join(weights)})")


def _labels(chosen: Sequence[Group], removed: Removed) -> frozenset[int]:
    return frozenset(group.labels[k] for group in chosen for k in removed.get(group.name, ()))
