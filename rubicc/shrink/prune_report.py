"""What is told of a pruning: figures, what was cut, rounds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rubicc.evidence.change import Figure, Table
from rubicc.shrink import result as results
from rubicc.shrink.told import Change, Part, shown, with_identity

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

    @property
    def name(self) -> str:
        """Folder of its training."""
        return f"round{self.number}"


def change(
    student: Student,
    graphs: tuple[Graph, Graph],
    settings: PruneSettings,
    done: Sequence[Round],
    decisions: Sequence[Decision],
    first: Score | None,
    more: Sequence[Figure] = (),
) -> Change:
    """What came of it; ``graphs`` are those before any cut and after all, ``more`` are further figures."""
    figures = [*results.figures(*graphs), *more]
    asked = {"rounds": settings.rounds, **_asked("channels", settings.channels)}
    asked |= settings.latency.facts() if settings.latency else {}
    return Change(
        "prune",
        student,
        graphs[1],
        _headline(figures, done),
        figures,
        asked | _asked("weights", settings.weights) | settings.measure.facts(data=first is not None),
        first,
        done[-1].after,
        [Part(one.name, one.history) for one in done if one.history],
        tables=_tables(done),
        decisions=decisions,
    )


def _asked(title: str, options: Any) -> dict[str, Any]:
    """Options that differ from the defaults, as facts."""
    if options is None:
        return {}
    plain = type(options)()
    changed = {name: value for name, value in vars(options).items() if value != getattr(plain, name)}
    facts = {
        f"{title}: {name}": value
        for name, value in changed.items()
        if name not in ("scores", "cost", "known")
    }
    return {name: str(v) if isinstance(v, dict | tuple) else v for name, v in facts.items()}


def _headline(figures: Sequence[Figure], done: Sequence[Round]) -> str:
    by_name = {figure.what: figure for figure in figures}
    left = {name: 1 + (by_name[name].relative or 0.0) for name in ("MACs", "parameters")}
    text = f"{left['MACs']:.1%} of the multiplications, {left['parameters']:.1%} of the parameters are left"
    if done[-1].zeros:
        text += f", {done[-1].zeros:.1%} of the pruned weights are zero"
    return with_identity(text, done[-1].after)


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
            rows.append((one.number, *costs, shown(one.before), shown(one.after)))
        header = ("round", "MACs", "parameters", "identity after the cut", "after training")
        tables.append(Table("Rounds", header, tuple(rows)))
    return tuple(table for table in tables if table.rows)
