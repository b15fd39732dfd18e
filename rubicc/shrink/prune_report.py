"""What is told of a pruning: figures, what was cut, rounds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rubicc.evidence.change import ChangeReport, Figure, Table
from rubicc.evidence.environment import machine
from rubicc.evidence.report import Measure, NotMeasured
from rubicc.shrink import result as results
from rubicc.shrink.train import Training, history_plots, plain_settings, score_figures

if TYPE_CHECKING:
    from rubicc.evidence.decision import Decision
    from rubicc.ir.graph import Graph
    from rubicc.passes.prune.channels import Cut
    from rubicc.shrink.prune import PruneSettings
    from rubicc.shrink.student import Student
    from rubicc.training.history import History, ValidationRow
    from rubicc.training.scoring import Score


@dataclass
class Round:
    """What one round did.

    Attributes:
        facts: costs of the network after the cut.
        zeros: share of zeros in the weights that were pruned one by one.
        before, after: of training; None: not measured.
    """

    number: int
    cuts: tuple[Cut, ...]
    facts: dict[str, float]
    zeros: float
    before: Score | None = None
    after: Score | ValidationRow | None = None
    history: History | None = None


def seconds(done: Sequence[Round]) -> float:
    """Wall time of all training."""
    return sum(row.seconds for one in done if one.history for row in one.history.steps)


def report(
    student: Student,
    start: Graph,
    settings: PruneSettings,
    done: Sequence[Round],
    decisions: list[Decision],
    run: Training | None,
    first: Score | None = None,
) -> ChangeReport:
    """The report of a result folder; ``start`` is the graph before any cut."""
    figures = results.figures(start, student.graph())
    if run is not None:
        figures += score_figures(first, done[-1].after, run.data.truth, len(run.items))
    missing = [NotMeasured("speed of the compiled network", "compile the result and run `rubicc bench`")]
    if first is None:
        why = "no data were given" if run is None else "nothing was held out"
        missing.append(NotMeasured("identity", why))
    history = done[-1].history
    asked = {"rounds": settings.rounds, **_asked("channels", settings.channels)}
    asked |= _asked("weights", settings.weights)
    if run is not None and settings.train:
        asked |= plain_settings(run.settings)
    source: dict[str, Any] = {
        "model": f"{student.name} ({student.kind})",
        "architecture": student.meta.arch,
        "model sha256": student.sha256,
    }
    if run is not None and run.teacher is not None:
        source |= {"teacher": run.teacher.name, "teacher sha256": run.teacher.sha256}
    trained = (Measure("training", seconds(done), "s", "wall time"),) if history else ()
    return ChangeReport(
        name=student.name,
        verb="prune",
        headline=_headline(figures, done),
        figures=tuple(figures),
        settings=asked,
        plots=tuple(history_plots(history)) if history else (),
        tables=_tables(done),
        decisions=(*decisions, *results.graph_decision(student)),
        measured=trained,
        not_measured=tuple(missing),
        source=source,
        machine=machine(),
    )


def _asked(title: str, options: Any) -> dict[str, Any]:
    """Options that differ from the defaults, as facts."""
    if options is None:
        return {}
    plain = type(options)()
    changed = {name: value for name, value in vars(options).items() if value != getattr(plain, name)}
    facts = {f"{title}: {name}": value for name, value in changed.items() if name not in ("scores", "cost")}
    return {name: str(v) if isinstance(v, dict | tuple) else v for name, v in facts.items()}


def _headline(figures: Sequence[Figure], done: Sequence[Round]) -> str:
    by_name = {figure.what: figure for figure in figures}
    left = {name: 1 + (by_name[name].relative or 0.0) for name in ("MACs", "parameters")}
    text = f"{left['MACs']:.1%} of the multiplications, {left['parameters']:.1%} of the parameters are left"
    if done[-1].zeros:
        text += f", {done[-1].zeros:.1%} of the pruned weights are zero"
    after = done[-1].after
    return text + (f", identity {after.identity:.4f}." if after is not None and after.identity else ".")


def _tables(done: Sequence[Round]) -> tuple[Table, ...]:
    cuts: dict[str, list[Any]] = {}
    for one in done:
        for cut in one.cuts:
            row = cuts.setdefault(cut.group, [cut.group, cut.before, 0, ", ".join(cut.weights)])
            row[2] = cut.after
    tables = [
        Table(
            "What was cut",
            ("channels", "before", "after", "shrank"),
            tuple(map(tuple, cuts.values())),
            "Each layer that makes the channels, and every weight that shrank with them.",
        )
    ]
    if len(done) > 1:
        rows = []
        for one in done:
            costs = (int(one.facts["MACs"]), int(one.facts["parameters"]))
            rows.append((one.number, *costs, _shown(one.before), _shown(one.after)))
        header = ("round", "MACs", "parameters", "identity after the cut", "after training")
        tables.append(Table("Rounds", header, tuple(rows)))
    return tuple(table for table in tables if table.rows)


def _shown(score: Score | ValidationRow | None) -> str:
    return "-" if score is None or score.identity is None else f"{score.identity:.4f}"
