"""``quantize``: fewer bits for weights and activations, one width for all or by budget, with training."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch

from rubicc.errors import UsageError
from rubicc.evidence.decision import Decision
from rubicc.ir.graph import is_quantiser
from rubicc.passes.quantize.assign import Budgets, possible
from rubicc.passes.quantize.weights import BITS
from rubicc.shrink import result as results
from rubicc.shrink.fingerprint import digest
from rubicc.shrink.latency import Table
from rubicc.shrink.quantize_report import Done, change
from rubicc.shrink.storage import stored
from rubicc.shrink.student import Student, cleaned
from rubicc.shrink.verb import carried_out
from rubicc.shrink.width_search import Meter, can_lose, curve, search
from rubicc.shrink.widths import FLOAT, Variants, choices, layers_of
from rubicc.training.sensitivity import Reference

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rubicc.ir.graph import Graph
    from rubicc.passes.quantize.sites import Site
    from rubicc.shrink.session import Asked, Training
    from rubicc.shrink.told import Change
    from rubicc.shrink.widths import Choices
    from rubicc.training.history import ValidationRow
    from rubicc.training.scoring import Score

LOOKED_AT = 4


@dataclass(frozen=True)
class QuantizeSettings:
    """Which widths.

    Attributes:
        bits: of the weights of all layers, where no budget is given.
        budgets: widths by layer within these.
        identity_loss: the smallest network within the budgets whose identity on validation is, at 95 %
            confidence, at most this share of 1 below that in float.
        widths: that layers may have under budgets.
        target: only widths that this target keeps, e.g. ``aie:vek280``.
        activations: 8, or 32: they stay in float; None: 32, or 8 where the target takes no float.
        granularity: one scale per ``tensor``, ``channel`` or ``block``.
        symmetric: False: grids with a zero point.
        layers, skip: names of nodes: only these; not these.
        storage: of the result: ``quantisers`` (QONNX), ``int8`` (integers, turned into numbers at run time;
            8-bit layers), ``float`` (rounded numbers as float32).
        sensitivity: ``output``: measured layer by layer; ``fisher``: predicted from the curvature.
        refine: change single widths while what is measured gets better.
        latency: for the budget of that name.
        train: whether to train where there are data.
    """

    bits: int = 8
    budgets: Budgets = field(default_factory=Budgets)
    identity_loss: float | None = None
    widths: tuple[int, ...] = (3, 4, 5, 6, 7, 8)
    target: str = ""
    activations: int | None = None
    granularity: Literal["tensor", "channel", "block"] = "channel"
    symmetric: bool = True
    layers: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()
    storage: Literal["quantisers", "int8", "float"] = "quantisers"
    sensitivity: Literal["output", "fisher"] = "output"
    refine: bool = True
    latency: Table = field(default_factory=Table)
    train: bool = True

    def __post_init__(self) -> None:
        why = ""
        if not self.widths or not {self.bits, *self.widths} <= set(BITS):
            why = f"widths of weights are {min(BITS)} to {max(BITS)}"
        elif self.activations not in (None, 8, FLOAT):
            why = f"activations have 8 or {FLOAT} bits, not {self.activations}"
        elif self.granularity == "block" and not self.symmetric:
            why = "asymmetric grids are per tensor or channel"
        elif self.identity_loss is not None and not 0 <= self.identity_loss < 1:
            why = f"the identity loss is {self.identity_loss:g}; it is a share of 1 such as 0.005"
        elif bool(self.latency) != (self.budgets.latency is not None):
            why = "a table of latencies and a budget for them belong together"
        if why:
            raise UsageError("RUB-SHRINK-070", why, hint="`rubicc quantize --help` lists the options")
        if self.activations == 8:
            self.with_rounded_inputs()

    def with_rounded_inputs(self) -> None:
        """Refuse forms of weights that there are not beside inputs of 8 bits.

        Raises:
            UsageError: ``RUB-SHRINK-070``.
        """
        if self.granularity != "channel" or not self.symmetric:
            why = "with rounded activations weights are symmetric, per channel"
            raise UsageError("RUB-SHRINK-070", why, hint="leave --granularity and --asymmetric out")

    @property
    def mixed(self) -> bool:
        """Whether widths follow from budgets."""
        return any(value is not None for value in (*vars(self.budgets).values(), self.identity_loss))


def quantize(asked: Asked, settings: QuantizeSettings) -> results.Result | None:
    """Quantise ``asked.model`` and write the result folder; see :func:`rubicc.shrink.verb.carried_out`.

    Quantisers that the model has already stay as they are; training learns the scales of the new ones.
    """

    def work(student: Student, run: Training | None) -> Change:
        done = _agreed(student, cleaned(student.before), settings, run)
        if run is None:
            student.zoo = False
        else:
            done.first = run.score()
            own = _own_scales(done.start)
            student.become(done.graph, learned_scales=True, trainable=lambda name: name not in own)
            done.rounded = done.after = run.score()
            if settings.train:
                known = digest(settings)  # a killed run goes on with the same widths only
                done.history = run.fit(run.settings, run.state / "run", asked.watcher, asked=known)
                _keep(done.history.best or run.score(), student, done, settings)
        return change(student, stored(done.graph, settings.storage), settings, done)

    return carried_out(asked, work)


def _own_scales(graph: Graph) -> set[str]:
    """Scales of the model's own quantisers, which training leaves alone."""
    return {node.inputs[1].name or "" for node in graph.all_nodes() if is_quantiser(node) and node.inputs[1]}


def _keep(
    trained: Score | ValidationRow | None, student: Student, done: Done, settings: QuantizeSettings
) -> None:
    """The trained network, unless training lost the identity that was asked for."""
    loss = settings.identity_loss
    was, now = (None if score is None else score.identity for score in (done.first, trained))
    if loss is not None and was is not None and now is not None and now < was - loss:
        what = f"the trained weights, of identity {now:.4f}, were left"
        done.decisions += (Decision("RUB-SHRINK-D13", student.name, what, f"they lose more than {loss:g}"),)
        return
    done.after, done.graph = trained, student.graph()


def _agreed(student: Student, graph: Graph, settings: QuantizeSettings, run: Training | None) -> Done:
    """Widths that the first process chooses, in the others too: another machine may measure otherwise."""
    if run is None:
        return _choose(student, graph, settings, run)
    done = _choose(student, graph, settings, run) if run.group.rank == 0 else None
    widths = run.group.agreed(done.widths if done is not None else None)
    if done is not None:
        return done
    found, feeds = _asked(student, graph, settings, run, layers_of(graph))
    variants = Variants(graph, found, settings, feeds)
    return Done(graph, variants.at(widths, check=True), widths, found, variants.facts)


def _asked(
    student: Student,
    graph: Graph,
    settings: QuantizeSettings,
    run: Training | None,
    layers: Mapping[str, Sequence[Site]],
) -> tuple[Choices, list[dict[str, np.ndarray]]]:
    """What ``settings`` leave to choose from, and the signal that it takes to choose or to round inputs."""
    found = choices(graph, settings, settings.widths if settings.mixed else (settings.bits,), layers)
    looks = settings.mixed or found.activations != FLOAT
    return found, _signal(student, run) if looks else []


def _choose(student: Student, graph: Graph, settings: QuantizeSettings, run: Training | None) -> Done:
    """Widths, and the graph that has them."""
    layers = layers_of(graph)
    found, feeds = _asked(student, graph, settings, run, layers)
    if not settings.mixed:
        widths = {name: own[0] for name, own in found.widths.items()}
        plotted = run is not None and bool(run.items)
        # The plot shows other widths too.
        every = (settings.bits, *settings.widths)
        wider = choices(graph, settings, every, layers) if plotted else found
        variants = Variants(graph, wider, settings, feeds)
        done = Done(graph, variants.at(widths, check=True), widths, found, variants.facts)
        done.points = tuple(curve(Meter(variants, None, run), ())[0]) if plotted else ()
        return done
    variants = Variants(graph, found, settings, feeds)
    reference = Reference(graph, [{n: torch.from_numpy(a) for n, a in feed.items()} for feed in feeds])
    meter, costed = Meter(variants, reference, run), variants.costs()
    if settings.identity_loss is not None:
        can_lose(meter)
    possible(costed, replace(settings.budgets, divergence=None))
    costed = variants.measured(costed, reference)
    best = search(meter, costed, settings.identity_loss)
    made = variants.at(best.widths, check=True)
    done = Done(graph, made, best.widths, found, variants.facts, layers=costed, search=best)
    done.points, done.budgeted = (tuple(points) for points in curve(meter, costed))
    done.chosen = meter.point("chosen widths", best.widths)
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
    student.decisions.append(
        Decision("RUB-SHRINK-D07", student.name, "looked at simulated signal", "no --data was given")
    )
    signal = simulated(meta, meta.chunk or 2000, 0, LOOKED_AT)
    return [{meta.inputs[0].name: signal[i : i + 1]} for i in range(LOOKED_AT)]
