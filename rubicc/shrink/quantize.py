"""``quantize``: fewer bits for weights and activations, one width for all or by budget, with training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch

from rubicc.errors import UsageError
from rubicc.passes.manager import run_pass
from rubicc.passes.quantize import insert, observers, post_training
from rubicc.passes.quantize.assign import Budgets, Layer, Pair, assign
from rubicc.passes.quantize.sites import Site, sites
from rubicc.passes.quantize.weights import BITS, QuantiseWeights, WeightOptions, best_scale
from rubicc.shrink import result as results
from rubicc.shrink.quantize_report import Done, change
from rubicc.shrink.storage import stored
from rubicc.shrink.student import Student, cleaned
from rubicc.shrink.verb import carried_out
from rubicc.training.sensitivity import Reference, fisher_traces, sensitivity

if TYPE_CHECKING:
    from rubicc.ir.graph import Graph
    from rubicc.shrink.session import Asked, Training
    from rubicc.shrink.told import Change

FLOAT, LOOKED_AT, TRIALS = 32, 4, 40


@dataclass(frozen=True)
class QuantizeSettings:
    """Which widths.

    Attributes:
        bits: of the weights of all layers, where no budget is given.
        budgets: widths by layer within these.
        widths: that layers may have under budgets.
        activations: 8, or 32: they stay in float.
        granularity: one scale per ``tensor``, ``channel`` or ``block``.
        symmetric: False: grids with a zero point.
        layers, skip: names of nodes: only these; not these.
        storage: of the result: ``quantisers`` (QONNX), ``int8`` (integers, turned into numbers at run time;
            8-bit layers), ``float`` (rounded numbers as float32).
        sensitivity: ``output``: measured layer by layer; ``fisher``: predicted from the curvature.
        refine: exchange widths between layers while the joint divergence, measured, falls.
        latency: seconds by layer and (weight bits, activation bits), for the budget of that name.
        train: whether to train where there are data.
    """

    bits: int = 8
    budgets: Budgets = field(default_factory=Budgets)
    widths: tuple[int, ...] = (3, 4, 5, 6, 7, 8)
    activations: int = FLOAT
    granularity: Literal["tensor", "channel", "block"] = "channel"
    symmetric: bool = True
    layers: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()
    storage: Literal["quantisers", "int8", "float"] = "quantisers"
    sensitivity: Literal["output", "fisher"] = "output"
    refine: bool = True
    latency: Mapping[str, Mapping[Pair, float]] = field(default_factory=dict)
    train: bool = True

    def __post_init__(self) -> None:
        why = ""
        if not self.widths or not {self.bits, *self.widths} <= set(BITS):
            why = f"widths of weights are {min(BITS)} to {max(BITS)}"
        elif self.activations not in (8, FLOAT):
            why = f"activations have 8 or {FLOAT} bits, not {self.activations}"
        elif self.activations == 8 and (self.granularity != "channel" or not self.symmetric):
            why = "with rounded activations weights are symmetric, per channel"
        elif self.granularity == "block" and not self.symmetric:
            why = "asymmetric grids are per tensor or channel"
        if why:
            raise UsageError("RUB-SHRINK-070", why, hint="`rubicc quantize --help` lists the options")

    @property
    def mixed(self) -> bool:
        """Whether widths follow from budgets."""
        return any(value is not None for value in vars(self.budgets).values())


def quantize(asked: Asked, settings: QuantizeSettings) -> results.Result | None:
    """Quantise ``asked.model`` and write the result folder; see :func:`rubicc.shrink.verb.carried_out`.

    Quantisers that the model has already stay as they are; training learns the scales of the new ones.
    """

    def work(student: Student, run: Training | None) -> Change:
        done = _choose(student, cleaned(student.before), settings, run)
        if run is None:
            student.zoo = False
        else:
            done.first = run.score()
            student.become(done.graph, learned_scales=True)
            done.rounded = done.after = run.score()
            if settings.train:
                done.history = run.fit(run.settings, run.state / "run", asked.watcher)
                done.after = done.history.best or run.score()
                done.graph = student.graph()
        return change(student, stored(done.graph, settings.storage), settings, done)

    return carried_out(asked, work)


class Variants:
    """One float graph and its layers, at any widths."""

    def __init__(self, graph: Graph, settings: QuantizeSettings, feeds: Sequence[dict[str, np.ndarray]]):
        self.graph, self.settings = graph, settings
        self.formats: dict[str, tuple[float, int]] = {}
        found = sites(graph, least=1)
        if settings.activations == 8:
            nodes = [*post_training.products(graph, keep_ends=False), *post_training.layers_of(graph)]
            found = [site for site in found if site.node in nodes]
            seen = post_training.observe(graph, [site.node for site in found], feeds, outputs=False)
            for name, observer in seen.items():
                scale, zero = observers.unsigned_format(observer, "mse", 99.99)
                self.formats[name] = float(scale), zero
        self.layers: dict[str, list[Site]] = {}
        for site in found:
            self.layers.setdefault(site.node.name or "", []).append(site)
        unknown = sorted({*settings.layers, *settings.skip} - set(self.layers))
        if unknown:
            raise UsageError(
                "RUB-SHRINK-072",
                f"no layer with float weights is called {', '.join(unknown)}",
                hint=f"choose from {', '.join(list(self.layers)[:8])}",
            )
        chosen = settings.layers or self.layers
        self.layers = {n: s for n, s in self.layers.items() if n in chosen and n not in settings.skip}
        if not self.layers:
            raise UsageError(
                "RUB-SHRINK-072", "no layer has float weights to quantise", hint="give a network with some"
            )

    def at(self, widths: Mapping[str, int]) -> Graph:
        """A copy with these layers quantised, the others in float."""
        copy, settings = self.graph.clone(), self.settings
        others = tuple(node.name or "" for node in copy.all_nodes() if node.name not in widths)
        if settings.activations == 8:
            asked = insert.InsertOptions(self.formats, {}, "inputs", frozenset(others), widths)
            run_pass(insert.InsertQuantisers(asked), copy, check=True)
            return copy
        options = WeightOptions(
            granularity=settings.granularity,
            least=1,
            skip=others,
            widths=widths,
            symmetric=settings.symmetric,
        )
        run_pass(QuantiseWeights(options), copy, check=True)
        return copy


def _choose(student: Student, graph: Graph, settings: QuantizeSettings, run: Training | None) -> Done:
    """Widths, and the graph that has them."""
    needed = settings.mixed or settings.activations == 8
    feeds = _signal(student, run) if needed else []
    variants = Variants(graph, settings, feeds)
    if not settings.mixed:
        widths = dict.fromkeys(variants.layers, settings.bits)
        return Done(graph, variants.at(widths), widths, settings.activations)
    reference = Reference(graph, [{n: torch.from_numpy(a) for n, a in feed.items()} for feed in feeds])
    layers = _layers(variants, reference)
    widths = {name: pair[0] for name, pair in assign(layers, settings.budgets).items()}
    start = reference.divergence(variants.at(widths))
    done = Done(graph, graph, widths, settings.activations, layers=layers, divergence=start, unrefined=start)
    if settings.refine:
        _refine(done, variants, reference, settings)
    done.graph = variants.at(done.widths)
    done.curve = tuple(_curve(variants, reference, settings))
    return done


def _signal(student: Student, run: Training | None) -> list[dict[str, np.ndarray]]:
    """Items to look at: of validation or training data, or simulated signal."""
    from rubicc.driver.inputs import simulated

    if run is not None:
        items = list(run.items[:LOOKED_AT]) or [
            run.data.train.item(i, run.settings.seed) for i in range(LOOKED_AT)
        ]
        return [{name: array[None] for name, array in item.feeds.items()} for item in items]
    meta = student.meta
    if meta.task != "basecalling" or meta.signal is None:
        raise UsageError(
            "RUB-SHRINK-071", "budgets and rounded activations need to see data", hint="give --data"
        )
    from rubicc.evidence.decision import Decision

    student.decisions.append(
        Decision("RUB-SHRINK-D07", student.name, "looked at simulated signal", "no --data was given")
    )
    signal = simulated(meta, meta.chunk or 2000, 0, LOOKED_AT)
    return [{meta.inputs[0].name: signal[i : i + 1]} for i in range(LOOKED_AT)]


def _layers(variants: Variants, reference: Reference) -> list[Layer]:
    """Costs and divergences of every layer."""
    from rubicc.ir.costs import costs

    settings, act = variants.settings, variants.settings.activations
    macs = {row.name: row.macs for row in costs(variants.graph, results.bound(variants.graph)).rows}
    pairs = [(width, act) for width in sorted(set(settings.widths))]
    if settings.sensitivity == "fisher":
        found = _predicted(variants, reference, pairs)
    else:
        found = sensitivity(
            reference,
            dict.fromkeys(variants.layers, pairs),
            lambda name, pair: variants.at({name: pair[0]}),
        )
    return [
        Layer(
            name,
            sum(site.array.size for site in rows),
            macs.get(name, 0),
            found[name],
            settings.latency.get(name, {}),
            sum(32 * site.array.shape[site.out] for site in rows),
        )
        for name, rows in variants.layers.items()
    ]


def _predicted(
    variants: Variants, reference: Reference, pairs: Sequence[Pair]
) -> dict[str, dict[Pair, float]]:
    names = [site.name for rows in variants.layers.values() for site in rows]
    traces = fisher_traces(variants.graph, names, reference.feeds)
    made: dict[str, dict[Pair, float]] = {name: dict.fromkeys(pairs, 0.0) for name in variants.layers}
    for name, rows in variants.layers.items():
        for site in rows:
            axes = tuple(axis for axis in range(site.array.ndim) if axis != site.out)
            for pair in pairs:
                scale, limit = best_scale(site.array, axes, pair[0]), 2 ** (pair[0] - 1) - 1
                error = np.clip(np.rint(site.array / scale), -limit, limit) * scale - site.array
                part = traces.get(site.name, 0.0) / site.array.size
                made[name][pair] += part * float(np.square(error, dtype=np.float64).sum())
    return made


def _refine(done: Done, variants: Variants, reference: Reference, settings: QuantizeSettings) -> None:
    """Widen one layer, narrow another where the budgets want it; what does not help is taken back."""
    steps, act = sorted(set(settings.widths)), settings.activations
    limits = settings.budgets.limits(done.layers)

    def holds(widths: Mapping[str, int]) -> bool:
        return all(
            sum(layer.cost(name, (widths[layer.name], act)) for layer in done.layers) <= limit
            for name, limit in limits.items()
        )

    names = list(done.widths)
    for up in names:
        for down in ("", *names):
            if done.trials >= TRIALS or up == down or done.widths[up] == steps[-1]:
                break
            trial = done.widths | {up: steps[steps.index(done.widths[up]) + 1]}
            if down and done.widths[down] > steps[0]:
                trial[down] = steps[steps.index(done.widths[down]) - 1]
            if not holds(trial):
                continue
            done.trials += 1
            found = reference.divergence(variants.at(trial))
            if found < done.divergence:
                done.widths, done.divergence = trial, found
                break


def _curve(
    variants: Variants, reference: Reference, settings: QuantizeSettings
) -> list[tuple[float, float, str]]:
    """(bytes, divergence, label) of one width for all layers."""
    made = []
    for width in sorted(set(settings.widths)):
        graph = variants.at(dict.fromkeys(variants.layers, width))
        size = results.facts(graph)["bytes of weights"]
        made.append((size, reference.divergence(graph), f"{width} bits"))
    return made
