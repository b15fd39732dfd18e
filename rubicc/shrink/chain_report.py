"""What is told of a chain: every step's figures side by side, from the reports of the steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rubicc.evidence import change
from rubicc.evidence import manifest as manifests
from rubicc.evidence import report as artefacts
from rubicc.evidence.change import ChangeReport, Figure, Table
from rubicc.evidence.environment import cpu, library_versions, machine
from rubicc.evidence.plots import Plot, Series
from rubicc.evidence.report import REPORT_HTML, REPORT_JSON, NotMeasured, Report
from rubicc.evidence.staging import StagedFile

if TYPE_CHECKING:
    from rubicc.shrink.chain import Done
    from rubicc.shrink.chain_steps import Chain

COSTS = ("parameters", "MACs", "BOPs", "bytes of weights")
IDENTITY = "identity"
TARGET = "chain"  # the manifest's target


@dataclass(frozen=True)
class _Told:
    """A result and its own report."""

    done: Done
    report: ChangeReport | Report

    def text(self, what: str, *, before: bool = False) -> str:
        """A figure as its own report shows it."""
        if not isinstance(self.report, ChangeReport):
            return "-"
        rows = {name: (was, now) for name, was, now, _ in self.report.lines()}
        return rows.get(what, ("-", "-"))[0 if before else 1]

    def figure(self, what: str) -> Figure | None:
        """A figure; None where its report has none."""
        return self.report.figure(what) if isinstance(self.report, ChangeReport) else None

    @property
    def words(self) -> str:
        """What came out."""
        if isinstance(self.report, ChangeReport):
            return self.report.headline
        size = self.report.totals.get("emitted files", "nothing emitted")
        kind = f"{self.report.target}, {self.report.precision}, {self.report.runtime}"
        return f"{kind}: {self.report.verdict}, {size}"


def tell(home: Path, chain: Chain, made: Sequence[Done]) -> ChangeReport:
    """Write ``report.json``, ``report.html`` and ``manifest.json`` of the steps that are done, each whole."""
    told = [_Told(done, _read(home / done.folder, done)) for done in made]
    report = _report(chain, told)
    for name, text in (
        (REPORT_JSON, manifests.dump_json(report.to_dict())),
        (REPORT_HTML, change.render(report)),
        (manifests.MANIFEST, _manifest(home, chain, made, report).to_json()),
    ):
        with StagedFile(home / name, force=True, mode="w") as file:
            file.write(text)
    return report


def _read(folder: Path, done: Done) -> ChangeReport | Report:
    return artefacts.read(folder) if done.verb == "compile" else change.read(folder)


def _manifest(home: Path, chain: Chain, made: Sequence[Done], report: ChangeReport) -> manifests.Manifest:
    """Every result is held by the digest of its own manifest, which holds its files."""
    first = manifests.read(home / made[0].folder)
    inputs = {"model": first.inputs["model"]} | ({"recipe": chain.sha256} if chain.sha256 else {})
    paths = [f"{done.folder}/{manifests.MANIFEST}" for done in made]
    return manifests.Manifest(
        target=TARGET,
        model=first.model,
        inputs=inputs,
        versions=library_versions(),
        cpu={key: value for key, value in cpu().items() if key != "model"},
        decisions=report.decisions,
        files={path: manifests.file_sha256(home / path) for path in paths},
        volatile=(REPORT_HTML, REPORT_JSON),
    )


def _report(chain: Chain, told: Sequence[_Told]) -> ChangeReport:
    figures = _figures(told)
    said = {
        f"{one.done.folder}: {key}": value
        for one, step in zip(told, chain.steps, strict=False)
        for key, value in step.said.items()
    }
    decisions = [
        replace(decision, where=f"{one.done.folder}: {decision.where}")
        for one in told
        for decision in one.report.decisions
    ]
    measured = [
        replace(measure, what=f"{one.done.folder}: {measure.what}")
        for one in told
        for measure in one.report.measured
    ]
    first = told[0].report
    return ChangeReport(
        name=first.name,
        verb=TARGET,
        headline=_headline(told, figures),
        figures=figures,
        settings=said,
        plots=_plots(told),
        tables=(_table(told),),
        decisions=tuple(decisions),
        measured=tuple(measured),
        not_measured=_not_measured(told),
        source={"recipe": chain.source, **first.source},
        machine=machine(),
    )


def _figures(told: Sequence[_Told]) -> tuple[Figure, ...]:
    """Of the model before the first step and after the last."""
    models = [one for one in told if isinstance(one.report, ChangeReport)]
    made = []
    for what in (*COSTS, IDENTITY):
        first, last = (models[at].figure(what) if models else None for at in (0, -1))
        if first is None and last is None:
            continue
        known = last or first
        assert known is not None
        before, after = first.before if first else None, last.after if last else None
        made.append(Figure(what, before, after, known.unit, known.how))
    return tuple(made)


def _headline(told: Sequence[_Told], figures: Sequence[Figure]) -> str:
    names = ", ".join(one.done.folder for one in told)
    shown = ChangeReport("", "", "", tuple(figures)).lines()
    words = [
        f"{what} {now}" if was == "-" else f"{what} {was} to {now}"
        for what, was, now, _ in shown
        if what in ("parameters", IDENTITY) and now != "-"
    ]
    if not isinstance(told[-1].report, ChangeReport):
        words.append(f"artefact {told[-1].report.verdict}")
    return f"{names}: {', '.join(words)}."


def _table(told: Sequence[_Told]) -> Table:
    whats = (*COSTS, IDENTITY)
    start = ("model", *(told[0].text(what, before=True) for what in whats), "")
    rows = [(one.done.folder, *(one.text(what) for what in whats), one.words) for one in told]
    caption = "Each row is the network after the step."
    if len({figure.how for one in told if (figure := one.figure(IDENTITY))}) > 1:
        caption += " Identities were taken on different items: compare each with what its own report says."
    return Table("Step by step", ("step", *whats, "what came out"), (start, *rows), caption)


def _plots(told: Sequence[_Told]) -> tuple[Plot, ...]:
    """Identity and bytes by step, and one over the other."""
    found = {what: _points(told, what) for what in (IDENTITY, "bytes of weights")}
    caption = "Step 0 is the model as it was given."
    made = [
        Plot(f"{what[0].upper()}{what[1:]} by step", "step", what, (Series(what, points),), caption)
        for what, points in found.items()
        if points
    ]
    sizes = {label: y for _, y, label in found["bytes of weights"]}
    pairs = tuple((sizes[label], y, label) for _, y, label in found[IDENTITY] if label in sizes)
    if len(pairs) > 1:
        series = (Series("steps", pairs, "points"),)
        made.append(Plot("Identity over bytes", "bytes of weights", IDENTITY, series))
    return tuple(made)


def _points(told: Sequence[_Told], what: str) -> tuple[tuple[Any, ...], ...]:
    """(number of the step, value, name), from the model on."""
    first = told[0].figure(what)
    found: list[tuple[Any, ...]] = []
    if first is not None and first.before is not None:
        found.append((0, first.before, "model"))
    for place, one in enumerate(told, 1):
        figure = one.figure(what)
        if figure is not None and figure.after is not None:
            found.append((place, figure.after, one.done.folder))
    return tuple(found)


def _not_measured(told: Sequence[_Told]) -> tuple[NotMeasured, ...]:
    """What no step's report has, by step."""
    return tuple(
        NotMeasured(f"{one.done.folder}: {missing.what}", missing.why)
        for one in told
        for missing in one.report.not_measured
        if not (missing.what.startswith("speed of") and told[-1].done.verb == "compile")
    )
