"""The report of a verb that changes a network: what it was, what it is, and how it came about.

``report.json`` and ``report.html`` of a result folder (``train``, ``skipclip``, ``prune``, ``quantize``).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rubicc.errors import ModelRefused, UsageError
from rubicc.evidence import manifest as manifests
from rubicc.evidence.decision import Decision
from rubicc.evidence.plots import Plot, decode_plot, svg
from rubicc.evidence.report import REPORT_HTML, REPORT_JSON, Measure, NotMeasured
from rubicc.spec import strict_fields
from rubicc.text import si

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Figure:
    """One property of the network before and after; None = not known or not measured."""

    what: str
    before: float | None
    after: float | None
    unit: str = ""
    how: str = ""

    @property
    def relative(self) -> float | None:
        """Change as a share of what it was; None where that was next to nothing (a teacher's own loss)."""
        if self.before is None or self.after is None or abs(self.before) <= 1e-4 * abs(self.after):
            return None
        return self.after / self.before - 1


@dataclass(frozen=True)
class Table:
    """A table of its own, such as one row per layer; cells are texts or numbers."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]
    caption: str = ""


@dataclass(frozen=True)
class ChangeReport:
    """Everything the page shows.

    Attributes:
        name, verb: of the network and of what was done to it.
        headline: one sentence that says what came out.
        figures: before and after, in display order.
        settings: what was asked for, in display order.
        source: facts of the model, data and teacher read.
    """

    name: str
    verb: str
    headline: str
    figures: tuple[Figure, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)
    plots: tuple[Plot, ...] = ()
    tables: tuple[Table, ...] = ()
    decisions: tuple[Decision, ...] = ()
    measured: tuple[Measure, ...] = ()
    not_measured: tuple[NotMeasured, ...] = ()
    source: Mapping[str, Any] = field(default_factory=dict)
    machine: Mapping[str, Any] = field(default_factory=dict)
    schema_version: int = SCHEMA_VERSION

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; the order of facts is kept."""
        data = asdict(self)
        for key in ("settings", "source", "machine"):
            data[key] = [[name, value] for name, value in getattr(self, key).items()]
        return data

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ChangeReport:
        """Strict inverse of :meth:`to_dict`.

        Raises:
            ModelRefused: ``RUB-ART-013``.
        """
        try:
            if data.get("schema_version") != SCHEMA_VERSION or "verb" not in data:
                raise ValueError(f"schema version {data.get('schema_version')!r}")
            values = strict_fields(cls, data, "report")
            for key in ("settings", "source", "machine"):
                values[key] = dict(values[key])
            values["figures"] = tuple(Figure(**row) for row in values["figures"])
            values["plots"] = tuple(map(decode_plot, values["plots"]))
            values["tables"] = tuple(_table(row) for row in values["tables"])
            values["decisions"] = tuple(Decision(**row) for row in values["decisions"])
            values["measured"] = tuple(Measure(**row) for row in values["measured"])
            values["not_measured"] = tuple(NotMeasured(**row) for row in values["not_measured"])
            return cls(**values)
        except (TypeError, KeyError, ValueError, AttributeError, UsageError) as err:
            raise ModelRefused("RUB-ART-013", f"report.json has the wrong form: {err}") from err

    def figure(self, what: str) -> Figure | None:
        """The figure called ``what``."""
        return next((row for row in self.figures if row.what == what), None)

    def lines(self) -> list[tuple[str, str, str, str]]:
        """(what, before, after, change) of every figure as text."""
        return [(row.what, *_shown(row)) for row in self.figures]


def _table(row: Mapping[str, Any]) -> Table:
    given = strict_fields(Table, row, "table")
    return Table(
        **given | {"header": tuple(given["header"]), "rows": tuple(tuple(cells) for cells in given["rows"])}
    )


def write(folder: Path, report: ChangeReport) -> None:
    """Write report.json and report.html into a result being staged."""
    (folder / REPORT_JSON).write_text(manifests.dump_json(report.to_dict()), encoding="utf-8")
    (folder / REPORT_HTML).write_text(render(report), encoding="utf-8")


def read(folder: str | Path) -> ChangeReport:
    """The report of a result folder.

    Raises:
        ModelRefused: ``RUB-ART-010`` no such file or not JSON, ``RUB-ART-013`` wrong form.
    """
    return ChangeReport.from_dict(manifests.read_json(Path(folder), REPORT_JSON))


def render(report: ChangeReport) -> str:
    """The whole page."""
    from rubicc.evidence import page

    head = (
        f"<header><h1>{page.safe(report.name)}</h1><p>after {page.safe(report.verb)}</p>"
        f'<p class="verdict good">{page.safe(report.headline)}</p></header>'
    )
    rows = [
        (*map(page.safe, cells), page.safe(figure.how))
        for cells, figure in zip(report.lines(), report.figures, strict=True)
    ]
    changed = page.table(("", "before", "after", "change", "how"), rows, "123")
    settings = page.table(("setting", "value"), _pairs(report.settings, page.safe))
    body = [
        head,
        page.section("What changed", changed),
        *(_plot(plot, page) for plot in report.plots),
        *(_own_table(table, page) for table in report.tables),
        page.measurements(report.measured, report.not_measured),
        page.decisions(report.decisions),
        page.section("Settings", settings) if settings else "",
        page.provenance(report.source, report.machine),
    ]
    return page.whole_page(f"{report.name} after {report.verb}", body)


def _plot(plot: Plot, page: Any) -> str:
    drawn = svg(plot)
    words = page.safe(plot.caption)
    figure = f"<figure><figcaption>{words}</figcaption>{drawn}</figure>"
    return page.section(page.safe(plot.title), figure) if drawn else ""


def _own_table(table: Table, page: Any) -> str:
    rows = [tuple(map(page.safe, cells)) for cells in table.rows]
    note = f"<p>{page.safe(table.caption)}</p>" if table.caption else ""
    return page.section(page.safe(table.title), note + page.table(table.header, rows)) if rows else ""


def _pairs(facts: Mapping[str, Any], safe: Any) -> Iterable[Sequence[str]]:
    return [(safe(name), safe(value)) for name, value in facts.items()]


def _shown(row: Figure) -> tuple[str, str, str]:
    before, after = (_value(value, row.unit) for value in (row.before, row.after))
    if row.before is None or row.after is None:
        return before, after, ""
    if row.unit == "identity":
        return before, after, f"{row.after - row.before:+.4f}"
    if row.before == row.after:
        return before, after, "same"
    return before, after, f"{row.relative:+.2%}" if row.relative is not None else ""


def _value(value: float | None, unit: str) -> str:
    if value is None:
        return "-"
    if unit == "identity":
        return f"{value:.4f}"
    if unit == "count":
        return f"{value:,.0f}"
    text = si(value, unit)
    return re.sub(r"(\d) ?$", r"\1", text)
