"""What a latency is predicted to be: by a table of layers as they were measured, or by a target's model."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

from rubicc.errors import RubiccError, Unsupported, UsageError
from rubicc.evidence.change import Figure
from rubicc.evidence.decision import Decision
from rubicc.ir.costs import costs
from rubicc.ir.graph import spec_of
from rubicc.shrink import result as results
from rubicc.shrink.latency import band_words
from rubicc.text import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np

    from rubicc.backends.base import Backend, Target
    from rubicc.ir.costs import NodeCost
    from rubicc.ir.graph import Graph
    from rubicc.passes.prune.channels import ChannelOptions
    from rubicc.shrink.latency import LatencyBudget, Table


class Model(Protocol):
    """Predicts the time of one item of a network's usual length.

    Attributes:
        decisions: what had to be assumed.
    """

    decisions: tuple[Decision, ...]

    def seconds(self, graph: Graph) -> float:
        """Of a network with more or fewer channels.

        Raises:
            Unsupported: it takes no such network.
        """

    @property
    def how(self) -> str:
        """What a prediction rests on, with its error band, for people."""


class ByTable:
    """The seconds of each layer, times the share of its multiplications that is left.

    Args:
        start: the network that the table is of.

    Raises:
        UsageError: ``RUB-SHRINK-041``: the table does not fit the network.
    """

    def __init__(self, table: Table, start: Graph) -> None:
        self.table = table
        self.decisions: tuple[Decision, ...] = ()
        rows = _layers(start)
        unknown = sorted(set(table.seconds) - set(rows))
        if unknown:
            hint = did_you_mean(unknown[0], rows, f"choose from {', '.join(list(rows)[:8])}")
            raise _unfit(
                f"the table has {unknown[0][:60]!r}, and no layer that multiplies is called so", hint
            )
        self.first = {name: (row.macs, self._of(row)) for name, row in rows.items() if name in table.seconds}
        left = [name for name in rows if name not in table.seconds]
        if left:
            part = sum(rows[name].macs for name in left) / sum(row.macs for row in rows.values())
            what = f"{len(left)} layers count as nothing: {', '.join(left[:3])}"
            said = f"the table has no rows for them; they do {part:.1%} of the multiplications"
            self.decisions = (Decision("RUB-SHRINK-D40", "latency", what, said),)

    def _of(self, row: NodeCost) -> float:
        own, pair = self.table.seconds[row.name], (row.weight_bits, row.activation_bits)
        if pair not in own:
            there = ", ".join(f"w{w}a{a}" for w, a in own)
            what = f"layer {row.name!r} computes in w{pair[0]}a{pair[1]}, and the table has {there}"
            raise _unfit(what, f"add w{pair[0]}a{pair[1]} to its row")
        return own[pair]

    def seconds(self, graph: Graph) -> float:
        """See :class:`Model`."""
        now = _layers(graph)
        return sum(
            seconds * (now[name].macs / macs if name in now else 0.0)
            for name, (macs, seconds) in self.first.items()
        )

    @property
    def how(self) -> str:
        """See :class:`Model`."""
        return f"estimate: the table's layers by the multiplications left; {band_words(self.table.band)}"


def _layers(graph: Graph) -> Mapping[str, NodeCost]:
    return {row.name: row for row in costs(graph, results.bound(graph)).rows if row.macs}


def _unfit(what: str, hint: str) -> UsageError:
    return UsageError("RUB-SHRINK-041", what, hint=hint)


class ByTarget:
    """A target's own model, of the network as ``rubicc compile`` would hand it over.

    Raises:
        UsageError: ``RUB-SHRINK-041``: the target has none; ``RUB-TGT-001``, ``-002``: no such target.
    """

    def __init__(self, target: str, name: str) -> None:
        from rubicc.backends import registry

        self.target: Target = registry.parse_target(target)
        self.backend: Backend = registry.get(self.target)
        self.band: tuple[float, float] | None = None
        self.basis = ""
        self._item: Mapping[str, np.ndarray] | None = None
        if getattr(self.backend, "predict", None) is None:
            what = f"{self.target} has no model that predicts a latency"
            raise _unfit(what, "give --latency-table FILE with measured layers, or another --target")
        what = "latency predicted for values in the ranges of simulated or drawn inputs"
        why = "only shapes and widths decide it"
        self.decisions: tuple[Decision, ...] = (Decision("RUB-SHRINK-D41", name, what, why),)

    def seconds(self, graph: Graph) -> float:
        """See :class:`Model`."""
        from rubicc.driver.bounded import bounded_inputs
        from rubicc.ir.shapes import infer_shapes
        from rubicc.shapes import resolve_shapes

        shapes = resolve_shapes([spec_of(value) for value in graph.inputs], graph.meta, "fixed")
        if self._item is None:  # inputs are never cut
            cases = bounded_inputs(shapes, graph.meta, (), None, 0, ranges=True, items=1).cases
            self._item = next(iter(cases.values()))
        predict = self.backend.predict  # type: ignore[attr-defined]  # optional; __init__ has asked
        found = predict(infer_shapes(graph, shapes.bound), self.target, self._item)
        self.band, self.basis = found.band, found.basis
        return float(found.seconds)

    @property
    def how(self) -> str:
        """See :class:`Model`."""
        return f"estimate by {self.target}: {self.basis}; {band_words(self.band)}"


@dataclass
class Predictions:
    """Predictions for one run: before, now, and the least of all.

    Attributes:
        first: of the network before anything is cut; infinite where the target does not take it.
        least: the smallest of all predictions.
    """

    budget: LatencyBudget
    model: Model
    first: float = math.inf
    least: float = math.inf
    refused: RubiccError | None = None
    _known: dict[tuple[Any, ...], float] = field(default_factory=dict)

    @classmethod
    def of(cls, budget: LatencyBudget, start: Graph, name: str) -> Predictions:
        """For a run that begins with ``start``.

        Raises:
            UsageError: ``RUB-SHRINK-041``.
            Unsupported: the target does not take the network, whose share is asked for.
        """
        model: Model = ByTable(budget.table, start) if budget.table else ByTarget(budget.target, name)
        made = cls(budget, model)
        made.first = made.seconds(start)
        if made.first == math.inf and budget.share is not None and made.refused is not None:
            raise made.refused
        return made

    def seconds(self, graph: Graph) -> float:
        """Predicted of ``graph``; infinite where the target does not take it."""
        # Values do not matter, and a search comes back to the same sizes.
        key = tuple((name, *(value.shape or ())) for name, value in graph.ir.initializers.items())
        if key not in self._known:
            try:
                self._known[key] = self.model.seconds(graph)
            except Unsupported as err:
                self.refused, self._known[key] = err, math.inf
        self.least = min(self.least, self._known[key])
        return self._known[key]

    def limit(self, part: float) -> float:
        """Seconds allowed when ``part`` of the way is gone; 1: all of it."""
        last = self.budget.limit(self.first)
        if part >= 1 or not math.isfinite(self.first):
            return last
        return max(self.first - (self.first - last) * part, last)

    @contextlib.contextmanager
    def within(self, channels: ChannelOptions, part: float) -> Iterator[ChannelOptions]:
        """Options that cut to ``part`` of the way.

        Raises:
            UsageError: ``RUB-SHRINK-042``: no cut comes to it.
            Unsupported: the target takes none.
        """
        try:
            yield replace(channels, cost=self.seconds, budget=self.limit(part))
        except UsageError as err:
            if err.code != "RUB-PASS-051":
                raise
            raise self._impossible(self.limit(part)) from err

    def _impossible(self, limit: float) -> RubiccError:
        """That the budget cannot be met, and what the largest cut comes to."""
        if not math.isfinite(self.least) and self.refused is not None:
            return self.refused
        wanted, least = (f"{value * 1e3:.4g} ms" for value in (limit, self.least))
        return UsageError(
            "RUB-SHRINK-042",
            f"a latency of {wanted} cannot be reached: the largest cut is predicted to take {least}",
            hint="raise the budget, or --most, which bounds what a layer may lose",
        )

    def figure(self, graph: Graph) -> Figure:
        """Before and after, for the report."""
        now = self.seconds(graph)
        was = self.first if math.isfinite(self.first) else None
        return Figure("predicted latency", was, now if math.isfinite(now) else None, "s", self.model.how)
