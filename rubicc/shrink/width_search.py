"""Widths by layer: assigned within budgets, measured, exchanged and taken back where that does not help."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from rubicc.errors import UsageError
from rubicc.passes.quantize.assign import Budgets, Layer, assign
from rubicc.training.network import Network
from rubicc.training.scoring import identities
from rubicc.training.twin import Twin

if TYPE_CHECKING:
    from rubicc.ir.graph import Graph
    from rubicc.shrink.session import Training
    from rubicc.shrink.widths import Variants, Widths
    from rubicc.training.sensitivity import Reference

TRIALS = 40  # of refinement
NARROWINGS = 20
BISECTIONS = 12
DOUBT = 0.05  # that a network loses more than it may
SHARES = (0.25, 0.5, 0.75)  # of the way from the narrowest to the widest: budgets that the plot shows


@dataclass(frozen=True)
class Point:
    """What was measured of some widths.

    Attributes:
        nbytes: of all weights of the network, packed.
        divergence, identity, seconds: None where nobody took them; seconds are by the table.
    """

    label: str
    nbytes: float
    divergence: float | None = None
    identity: float | None = None
    seconds: float | None = None


@dataclass(frozen=True)
class Lost:
    """Identity lost on the validation items.

    Attributes:
        mean: over the items.
        error: of the mean, from how differently the items lose.
    """

    mean: float
    error: float
    items: int

    @classmethod
    def of(cls, losses: Sequence[float]) -> Lost:
        """Of the losses of at least two items."""
        error = statistics.stdev(losses) / math.sqrt(len(losses))
        return cls(statistics.fmean(losses), error, len(losses))

    def most(self, tries: int = 1) -> float:
        """What is lost on such items at most, at 95 % confidence (one-sided, Student's t).

        Args:
            tries: networks of which the luckiest could be taken, for which the bound makes up (Bonferroni).
        """
        from scipy import stats

        return self.mean + float(stats.t.ppf(1 - DOUBT / tries, self.items - 1)) * self.error

    def __str__(self) -> str:
        bound = f"at most {self.most():.4f} at {1 - DOUBT:.0%} confidence"
        return f"{self.mean:.4f}, {bound} over {self.items} items"


@dataclass
class Meter:
    """Measures widths, each set of them once.

    Attributes:
        reference: what divergences are from; None: they are not taken.
        run: with validation items, on which identities are taken; None: they are not.
    """

    variants: Variants
    reference: Reference | None
    run: Training | None
    _divergences: dict[tuple[tuple[str, int], ...], float] = field(default_factory=dict)
    _identities: dict[tuple[tuple[str, int], ...], list[float] | None] = field(default_factory=dict)

    @property
    def decoded(self) -> int:
        """Quantised networks whose identity was taken."""
        return len(self._identities) - (() in self._identities)

    def divergence(self, widths: Widths) -> float:
        """Of the outputs, against the network in float."""
        assert self.reference is not None
        key = tuple(sorted(widths.items()))
        if key not in self._divergences:
            self._divergences[key] = self.reference.divergence(self.variants.at(widths))
        return self._divergences[key]

    def identity(self, widths: Widths | None = None) -> float | None:
        """Mean over the validation items, decoded; ``None`` where there are none; of float by default."""
        found = self.identities(widths)
        return None if found is None else sum(found) / len(found)

    def identities(self, widths: Widths | None = None) -> list[float] | None:
        """As :meth:`identity`, by item."""
        if self.run is None or not self.run.items:
            return None
        key = tuple(sorted((widths or {}).items()))
        if key not in self._identities:
            graph = self.variants.at(widths) if widths else self.variants.graph
            self._identities[key] = _identities(graph, self.run)
        return self._identities[key]

    def lost(self, widths: Widths) -> Lost:
        """Against the network in float, item by item."""
        whole, own = self.identities(), self.identities(widths)
        return Lost.of([was - now for was, now in zip(whole or (), own or (), strict=True)])

    def point(self, label: str, widths: Widths) -> Point:
        """Everything that can be measured of these widths."""
        table, act = self.variants.settings.latency, self.variants.choices.activations
        return Point(
            label,
            self.variants.nbytes(widths),
            None if self.reference is None else self.divergence(widths),
            self.identity(widths),
            table.total(widths, act) if table.timed(widths, act) else None,
        )


def _identities(graph: Graph, run: Training) -> list[float] | None:
    network = Network(Twin(graph), run.student.meta).to(run.group.device)
    return identities(network, run.objective, run.items, run.settings)


@dataclass
class Found:
    """The widths that were chosen.

    Attributes:
        trials, unrefined: networks whose divergence was measured to refine the first one, and that of the
            first.
        measured: networks whose identity was measured to keep its budget; then nothing was refined so.
        lost: identity, where it has a budget.
    """

    widths: dict[str, int]
    trials: int = 0
    measured: int = 0
    lost: Lost | None = None
    unrefined: float = 0.0


def search(meter: Meter, layers: Sequence[Layer], loss: float | None) -> Found:
    """The widths within the budgets of the settings, and within a ``loss`` of identity.

    Raises:
        UsageError: ``RUB-PASS-033``, ``RUB-SHRINK-074``: no widths keep them.
    """
    settings = meter.variants.settings
    if loss is not None:
        return _within(meter, layers, loss)
    widths = _assigned(layers, settings.budgets)
    found = Found(widths, unrefined=meter.divergence(widths))
    if settings.refine:
        _exchange(found, meter, layers)
    return found


def _assigned(layers: Sequence[Layer], budgets: Budgets, smallest: bool | None = None) -> dict[str, int]:
    return {name: pair[0] for name, pair in assign(layers, budgets, smallest=smallest).items()}


def _cost(layers: Sequence[Layer], name: str, widths: Widths, activations: int) -> float:
    return sum(layer.cost(name, (widths[layer.name], activations)) for layer in layers)


def _kept(layers: Sequence[Layer], limits: Mapping[str, float], widths: Widths, activations: int) -> bool:
    """Whether the layers may have these widths, and the limits hold with them."""
    if any((widths[layer.name], activations) not in layer.divergence for layer in layers):
        return False
    return all(_cost(layers, name, widths, activations) <= limit for name, limit in limits.items())


def _exchange(found: Found, meter: Meter, layers: Sequence[Layer]) -> None:
    """Widen one layer, narrow another where the budgets want it; what does not help is taken back."""
    act, own = meter.variants.choices.activations, _own(layers)
    budgets = meter.variants.settings.budgets
    limits = budgets.limits(layers)
    if budgets.smallest:
        limits["size"] = _cost(layers, "size", found.widths, act)
    best = found.unrefined
    for up in list(found.widths):
        for down in ("", *found.widths):
            wider = _step(own[up], found.widths[up], 1)
            if found.trials >= TRIALS or up == down or wider is None:
                break
            trial = found.widths | {up: wider}
            narrower = _step(own[down], found.widths[down], -1) if down else None
            if narrower is not None:
                trial[down] = narrower
            if not _kept(layers, limits, trial, act):
                continue
            found.trials += 1
            if meter.divergence(trial) < best:
                found.widths, best = trial, meter.divergence(trial)
                break


def _own(layers: Sequence[Layer]) -> dict[str, list[int]]:
    """Widths by layer, rising."""
    return {layer.name: sorted(pair[0] for pair in layer.divergence) for layer in layers}


def _step(own: Sequence[int], width: int, by: int) -> int | None:
    """The next wider or narrower one of a layer's widths."""
    at = own.index(width) + by
    return own[at] if 0 <= at < len(own) else None


def _within(meter: Meter, layers: Sequence[Layer], loss: float) -> Found:
    """The smallest network measured that loses at most ``loss`` of the identity in float, confidently.

    Divergence orders assignments: the smallest within a sum of divergences is taken for rising and falling
    sums, by bisection, and then single layers are narrowed. The points of the plot take part as well. Only
    what the decoder says decides: that no more is lost at 95 % confidence, and where any of several networks
    may win by luck, that none of them does.
    """
    settings, act = meter.variants.settings, meter.variants.choices.activations
    holding: list[tuple[float, float, dict[str, int]]] = []

    def holds(widths: dict[str, int], tries: int = 1) -> bool:
        lost = meter.lost(widths)
        if lost.most(tries) > loss:
            return False
        holding.append((_cost(layers, "size", widths, act), lost.mean, widths))
        return True

    closest = _assigned(layers, settings.budgets, smallest=False)
    if not holds(closest):
        raise UsageError(
            "RUB-SHRINK-074",
            f"an identity loss of {loss:g} cannot be kept: the widths of least divergence lose "
            f"{meter.lost(closest)}",
            hint="allow wider ones with --widths or a larger loss, or measure on more items "
            "(--validation-items), or give --weights-mean-bits and train",
        )
    limits = settings.budgets.limits(layers)
    points = [*_uniform(meter).values(), *_by_mean(layers).values()]
    for widths in points:
        if _kept(layers, limits, widths, act):
            holds(widths, len(points))
    _bisect(lambda sum_: _smallest(layers, settings.budgets, sum_), holds, *_ends(layers, closest, act))
    if settings.refine:
        _narrow(min(holding, key=lambda row: row[:2])[2], holds, meter, layers)
    widths = min(holding, key=lambda row: row[:2])[2]
    return Found(widths, measured=meter.decoded, lost=meter.lost(widths))


def can_lose(meter: Meter) -> None:
    """Refuse a budget of identity where there is nothing to take it of.

    Raises:
        UsageError: ``RUB-SHRINK-071``.
    """
    if len(meter.identities() or ()) < 2:
        raise UsageError(
            "RUB-SHRINK-071",
            "an identity loss is a budget for basecallers with validation data, two items or more",
            hint="give --data and --validation with bases, or --divergence instead",
        )


def _ends(layers: Sequence[Layer], closest: Widths, act: int) -> tuple[float, float]:
    """Sums of divergences: of an assignment that holds, and of the narrowest of all."""
    least = max(_cost(layers, "divergence", closest, act), 1e-12)
    return least, max(sum(max(layer.divergence.values()) for layer in layers), least)


def _smallest(layers: Sequence[Layer], budgets: Budgets, divergence: float) -> dict[str, int]:
    limit = divergence if budgets.divergence is None else min(divergence, budgets.divergence)
    # A hair more: the sum of what an assignment really takes must not fail by rounding.
    return _assigned(layers, replace(budgets, divergence=limit * (1 + 1e-9)), smallest=True)


def _bisect(
    widths: Callable[[float], dict[str, int]],
    holds: Callable[[dict[str, int]], bool],
    low: float,
    high: float,
) -> None:
    """Try the widest sum, then halve between one that holds and one that does not, in logarithms."""
    seen: dict[tuple[tuple[str, int], ...], bool] = {}
    middle = high
    for _ in range(BISECTIONS):
        trial = widths(middle)
        key = tuple(sorted(trial.items()))
        if key not in seen:
            seen[key] = holds(trial)
        low, high = (middle, high) if seen[key] else (low, middle)
        if low >= high * 0.99:
            return
        middle = math.sqrt(low * high)


def _narrow(
    widths: dict[str, int],
    holds: Callable[[dict[str, int], int], bool],
    meter: Meter,
    layers: Sequence[Layer],
) -> None:
    """Narrow single layers, those first that save most for their divergence; take back what does not hold."""
    act, first, own = meter.variants.choices.activations, meter.decoded, _own(layers)
    done: set[tuple[str, int]] = set()
    limits = meter.variants.settings.budgets.limits(layers)
    while meter.decoded - first < NARROWINGS:
        rows = []
        for layer in layers:
            width = _step(own[layer.name], widths[layer.name], -1)
            if width is None or (layer.name, width) in done:
                continue
            more = layer.divergence[width, act] - layer.divergence[widths[layer.name], act]
            rows.append((more / layer.elements / (widths[layer.name] - width), layer.name, width))
        if not rows:
            return
        _, name, width = min(rows)
        done.add((name, width))
        trial = widths | {name: width}
        if _kept(layers, limits, trial, act) and holds(trial, NARROWINGS):
            widths = trial


def curve(meter: Meter, layers: Sequence[Layer]) -> tuple[list[Point], list[Point]]:
    """Points of one width for all layers, and of a few mean widths between the narrowest and the widest."""
    uniform, by_mean = _uniform(meter), _by_mean(layers)
    return (
        [meter.point(f"{width} bits", widths) for width, widths in uniform.items()],
        [meter.point(f"mean {mean:.2f} bits", widths) for mean, widths in by_mean.items()],
    )


def _uniform(meter: Meter) -> dict[int, dict[str, int]]:
    choices = meter.variants.choices
    every = sorted({width for own in choices.widths.values() for width in own})
    return {width: choices.nearest(width) for width in every}


def _by_mean(layers: Sequence[Layer]) -> dict[float, dict[str, int]]:
    own, elements = _own(layers), sum(layer.elements for layer in layers)
    low, high = (sum(a.elements * own[a.name][end] for a in layers) / max(elements, 1) for end in (0, -1))
    means = [low + share * (high - low) for share in SHARES if high > low]
    return {mean: _assigned(layers, Budgets(mean_bits=mean)) for mean in means}
