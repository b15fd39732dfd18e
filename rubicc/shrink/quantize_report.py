"""What is told of a quantisation: figures, widths by layer, sensitivities, size against divergence."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from rubicc.evidence.change import Table
from rubicc.evidence.plots import Plot, Series
from rubicc.shrink import result as results
from rubicc.shrink.told import Change, Part

if TYPE_CHECKING:
    from rubicc.ir.graph import Graph
    from rubicc.passes.quantize.assign import Layer
    from rubicc.shrink.quantize import QuantizeSettings
    from rubicc.shrink.student import Student
    from rubicc.training.history import History


@dataclass
class Done:
    """What was chosen and what came of it.

    Attributes:
        start, graph: before, and quantised.
        widths: bits of weights by layer.
        divergence, unrefined: of the output, measured, after and before refinement.
        curve: (bytes, divergence, label) of one width for all layers.
        first, rounded, after: scores in float, quantised, and trained.
    """

    start: Graph
    graph: Graph
    widths: dict[str, int]
    activations: int
    layers: list[Layer] | tuple[()] = ()
    divergence: float = 0.0
    unrefined: float = 0.0
    trials: int = 0
    curve: tuple[tuple[float, float, str], ...] = ()
    first: Any = None
    rounded: Any = None
    after: Any = None
    history: History | None = None


def change(student: Student, graph: Graph, settings: QuantizeSettings, done: Done) -> Change:
    """What came of it; ``graph`` is the result as it is stored."""
    return Change(
        "quantize",
        student,
        graph,
        _headline(done),
        results.figures(done.start, done.graph),
        {n: str(v) for n, v in asdict(settings).items() if v not in ((), {}, None)},
        done.first,
        done.after,
        [Part("run", done.history)] if done.history else [],
        _plots(done),
        _tables(done),
    )


def _headline(done: Done) -> str:
    widths = sorted(set(done.widths.values()))
    text = f"weights of {len(done.widths)} layers have {', '.join(map(str, widths))} bits"
    if done.layers:
        whole = sum(layer.elements for layer in done.layers)
        mean = sum(layer.elements * done.widths[layer.name] for layer in done.layers) / whole
        text += f", {mean:.2f} on average; divergence {done.divergence:.3g}"
        text += f" ({done.unrefined:.3g} before {done.trials} trials of refinement)"
    for words, score in (("rounded", done.rounded), ("after training", done.after if done.history else None)):
        if score is not None and score.identity is not None:
            text += f"; identity {words} {score.identity:.4f}"
    return text + "."


def _tables(done: Done) -> list[Table]:
    if not done.layers:
        return [Table("Widths", ("layer", "bits"), tuple(done.widths.items()))]
    pairs = sorted(done.layers[0].divergence)
    header = ("layer", "weights", "MACs", "bits", *(f"divergence at {pair[0]}" for pair in pairs))
    rows = [
        (a.name, a.elements, a.macs, done.widths[a.name], *(f"{a.divergence[p]:.3g}" for p in pairs))
        for a in done.layers
    ]
    caption = "Divergence: power of the output's error over the output's, each layer quantised alone."
    return [Table("Sensitivity and widths", header, tuple(rows), caption)]


def _plots(done: Done) -> tuple[Plot, ...]:
    if not done.curve:
        return ()
    size = results.facts(done.graph)["bytes of weights"]
    chosen = Series("chosen", ((size, done.divergence, "chosen widths"),), "points")
    rows = (Series("one width for all", done.curve), chosen)
    return (Plot("Size against divergence", "bytes", "divergence", rows, log_y=True),)
