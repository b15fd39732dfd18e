"""What is told of a quantisation: figures, widths by layer, sensitivities, size against what is lost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from rubicc.evidence.change import Figure, Table
from rubicc.evidence.plots import Plot, Series
from rubicc.shrink import result as results
from rubicc.shrink.told import Change, Part, shown

if TYPE_CHECKING:
    from rubicc.evidence.decision import Decision
    from rubicc.ir.graph import Graph
    from rubicc.passes.quantize.assign import Layer
    from rubicc.shrink.quantize import QuantizeSettings
    from rubicc.shrink.student import Student
    from rubicc.shrink.width_search import Found, Point
    from rubicc.shrink.widths import Choices
    from rubicc.training.history import History, ValidationRow
    from rubicc.training.scoring import Score


@dataclass
class Done:
    """What was chosen and what came of it.

    Attributes:
        start, graph: before, and quantised.
        widths: bits of weights by layer.
        facts: costs of ``start``.
        layers, search: with budgets: what widths were chosen from, and how.
        points, budgeted, chosen: of one width for all layers, of a few budgets, and of ``widths``.
        first, rounded, after: scores in float, quantised, and trained.
    """

    start: Graph
    graph: Graph
    widths: dict[str, int]
    choices: Choices
    facts: Mapping[str, float]
    layers: Sequence[Layer] = ()
    search: Found | None = None
    points: tuple[Point, ...] = ()
    budgeted: tuple[Point, ...] = ()
    chosen: Point | None = None
    decisions: tuple[Decision, ...] = ()
    first: Score | None = None
    rounded: Score | None = None
    after: Score | ValidationRow | None = None
    history: History | None = None


def change(student: Student, graph: Graph, settings: QuantizeSettings, done: Done) -> Change:
    """What came of it; ``graph`` is the result as it is stored."""
    figures = results.figures(done.start, done.graph, was=done.facts)
    if done.chosen is not None and done.chosen.seconds is not None:
        figures.append(Figure("latency", None, done.chosen.seconds, "s", settings.latency.how))
    return Change(
        "quantize",
        student,
        graph,
        _headline(done),
        figures,
        _plain(settings),
        done.first,
        done.after,
        [Part("run", done.history)] if done.history else [],
        _plots(done),
        _tables(done),
        (*done.choices.decisions, *done.decisions),
    )


def _plain(settings: QuantizeSettings) -> dict[str, Any]:
    """Settings as flat facts."""
    values = asdict(settings)
    budgets = {f"budget {name}": value for name, value in values.pop("budgets").items()}
    values["latency"] = f"a table of {len(settings.latency.seconds)} layers" if settings.latency else None
    return {n: str(v) for n, v in (values | budgets).items() if v not in ((), "", None)}


def _headline(done: Done) -> str:
    widths, kept = sorted(set(done.widths.values())), done.choices.kept
    text = f"weights of {len(done.widths)} layers have {', '.join(map(str, widths))} bits"
    if not widths:
        text = f"the {kept} quantisers of the model are as they were"
    elif kept:
        text += f", beside {kept} quantisers of the model"
    if done.layers and done.search is not None and done.chosen is not None:
        whole = sum(layer.elements for layer in done.layers)
        mean = sum(layer.elements * done.widths[layer.name] for layer in done.layers) / whole
        text += f", {mean:.2f} on average; divergence {done.chosen.divergence:.3g}"
        if done.search.measured:
            text += f" (the smallest of {done.search.measured} decoded that keeps its identity)"
            text += f"; identity lost on the choices {done.search.lost}"
        else:
            text += f" ({done.search.unrefined:.3g} before {done.search.trials} trials of refinement)"
    for words, score in (("rounded", done.rounded), ("after training", done.after if done.history else None)):
        if score is not None and score.identity is not None:
            text += f"; identity {words} {score.identity:.4f}"
    return text + "."


def _tables(done: Done) -> list[Table]:
    if not done.layers:
        return [Table("Widths", ("layer", "bits"), tuple(done.widths.items()))]
    act = done.choices.activations
    pairs = sorted({pair for layer in done.layers for pair in layer.divergence})
    header = ("layer", "weights", "MACs", "bits", "bytes", *(f"divergence at {pair[0]}" for pair in pairs))
    rows = [
        (
            *(a.name, a.elements, a.macs, done.widths[a.name]),
            round(a.cost("size", (done.widths[a.name], act)) / 8),
            *(f"{a.divergence[p]:.3g}" if p in a.divergence else "-" for p in pairs),
        )
        for a in done.layers
    ]
    caption = (
        "Bytes: of weights and scales. Divergence: power of the output's error over the output's, each layer "
        "quantised alone."
    )
    return [Table("Sensitivity and widths", header, tuple(rows), caption)]


def _plots(done: Done) -> tuple[Plot, ...]:
    """What is lost over the size, and over the latency where a table was given."""
    every = [*done.points, *done.budgeted, *([done.chosen] if done.chosen else [])]
    measured = "identity" if any(point.identity is not None for point in every) else "divergence"
    caption = f"In float the identity is {shown(done.first)}." if measured == "identity" else ""
    made = []
    for title, across, field in (("Size", "bytes", "nbytes"), ("Latency", "seconds", "seconds")):
        groups = {
            "one width for all": done.points,
            "by a mean width": done.budgeted,
            "chosen": (done.chosen,) if done.chosen else (),
        }
        series = [Series(name, _marks(points, field, measured), "points") for name, points in groups.items()]
        series = [row for row in series if row.points]
        if series:
            words = f"{title} against {measured}"
            made.append(Plot(words, across, measured, tuple(series), caption, log_y=measured == "divergence"))
    return tuple(made)


def _marks(points: Sequence[Point], across: str, up: str) -> tuple[tuple[float, float, str], ...]:
    """(across, up, label) of the points that have both."""
    rows = [(getattr(point, across), getattr(point, up), point.label) for point in points]
    return tuple(row for row in rows if row[0] is not None and row[1] is not None)
