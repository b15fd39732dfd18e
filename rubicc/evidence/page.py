"""report.html: one file, no script, nothing loaded from anywhere; readable on paper and in the dark.

Every text of the model (node names, module paths, read ids) is escaped; a content-security policy in the
page makes sure that even a mistake there could load or run nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib.resources import files

from rubicc.evidence import floor, pictures
from rubicc.evidence.decision import Decision
from rubicc.evidence.gaps import Gap
from rubicc.evidence.report import LayerRow, Measure, NotMeasured, Placement, Report
from rubicc.text import clean, si

_POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def render(report: Report) -> str:
    """The whole page."""
    body = [
        _head(report),
        _accuracy(report),
        measurements(report.measured, report.not_measured),
        _layers_pictures(report),
        *map(_placement, report.placements),
        *map(_floor, report.floors),
        _signal(report),
        decisions(report.decisions),
        _layers_table(report.layers),
        _passes(report),
        provenance(report.source, report.machine),
    ]
    return whole_page(f"{report.name} for {report.target}", body)


def whole_page(title: str, body: Iterable[str]) -> str:
    """A page of ready-made parts, with the style and policy of all of them."""
    style = files("rubicc.evidence").joinpath("page.css").read_text("utf-8")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        f"<title>{safe(title)}</title><style>{style}</style></head>\n"
        f"<body><main>{''.join(body)}</main></body></html>\n"
    )


def _head(report: Report) -> str:
    kind = {"verified": "good", "failed": "bad"}.get(report.verdict, "unsure")
    totals = "".join(fact(name, value) for name, value in report.totals.items())
    return (
        f"<header><h1>{safe(report.name)}</h1>"
        f"<p>for {safe(report.target)}, {safe(report.precision)}, run by {safe(report.runtime)}</p>"
        f'<p class="verdict {kind}"><b>{safe(report.verdict)}</b> {safe(report.verdict_reason)}</p></header>'
        f'<div class="facts">{totals}</div>'
    )


def fact(name: object, value: object) -> str:
    """One figure with its name, for a row of them."""
    return f'<div class="fact"><span>{safe(name)}</span><b>{safe(value)}</b></div>'


def _accuracy(report: Report) -> str:
    rows = [
        (
            safe(name),
            _snr(gap),
            f"{gap.max_abs:.3g}",
            f"{gap.max_rel:.3g}",
            _agreement(gap),
            f"{gap.count:,}",
        )
        for name, gap in report.gaps.items()
    ]
    header = ("compared", "SNR", "max abs", "max relative", "argmax equal", "values")
    shapes = ", ".join(f"{safe(name)} {safe(shape)}" for name, shape in report.shapes.items())
    note = f"<p>Inputs: {shapes}.</p>" if shapes else ""
    return section("Does it compute the same?", note + table(header, rows, "12345"))


def measurements(measured: Iterable[Measure], not_measured: Iterable[NotMeasured]) -> str:
    """What was measured and how, and what was not and why."""
    rows = []
    for m in measured:
        spread = "" if m.low is None or m.high is None else f"{m.low:.4g} to {m.high:.4g}"
        rows.append((safe(m.what), f"{m.value:.4g} {safe(m.unit)}", spread, safe(m.how)))
    done = table(("measured", "value", "spread", "how"), rows, "12")
    missing = table(("not measured", "why"), [(safe(n.what), safe(n.why)) for n in not_measured])
    return section("Measured, and not measured", (done or "<p>Nothing was measured.</p>") + missing)


def _layers_pictures(report: Report) -> str:
    layers = report.layers
    names = [f"{i + 1} {layer.source or layer.name} ({layer.op})" for i, layer in enumerate(layers)]
    macs, times = [float(x.macs) for x in layers], [x.ms for x in layers]
    drawn = [
        ("Multiply-accumulates", pictures.columns(macs, names, si, label="multiply-accumulates by layer")),
        ("Time, ms per run", pictures.columns(times, names, _number, label="milliseconds by layer")),
        (
            "Relative error against the source",
            pictures.errors([x.gap.snr_db if x.gap else None for x in layers], names),
        ),
    ]
    figures = [f"<figure><figcaption>{title}</figcaption>{svg}</figure>" for title, svg in drawn if svg]
    note = "<p>Numbers under the columns are the rows of the layer table.</p>" if figures else ""
    return section("By layer", note + "".join(figures)) if figures else ""


def render_placements(name: str, facts: Mapping[str, object], placements: Iterable[Placement]) -> str:
    """A page about files that were judged and not compiled here: facts, and where operations would run."""
    rows = "".join(fact(key, value) for key, value in facts.items())
    head = f'<header><h1>{safe(name)}</h1></header><div class="facts">{rows}</div>'
    return whole_page(name, [head, *map(_placement, placements)])


def _placement(placed: Placement) -> str:
    kinds = [placed.statuses[status] for status, _ in placed.ops]
    titles = [f"{i + 1} {words}: {status}" for i, (status, words) in enumerate(placed.ops)]
    counts = {status: sum(found == status for found, _ in placed.ops) for status in placed.statuses}
    legend = ", ".join(
        f'<b class="{kind}">{counts[status]:,} {safe(status)}</b>' for status, kind in placed.statuses.items()
    )
    svg = pictures.squares(kinds, titles, label=f"{placed.title}: {len(kinds)} operations in order")
    rows = [
        (
            f'<b class="{placed.statuses[row.status]}">{safe(row.status)}</b>',
            f"{row.count:,} {safe(row.op)}",
            f"{safe(row.reason)}<small>{safe(row.remedy)}</small>",
            f"<code>{safe(row.code)}</code><small>{safe(row.source)}</small>",
        )
        for row in placed.outside
    ]
    figure = f"<figure><figcaption>{legend}. {safe(placed.caption)}</figcaption>{svg}</figure>"
    return section(
        safe(placed.title), figure + table(("verdict", "operations", "why, and what helps", "rule"), rows)
    )


def _floor(shown: floor.Floor) -> str:
    """The array to scale, and its layers as a table in their colours."""
    figure = f"<figure><figcaption>{safe(shown.caption)}</figcaption>{floor.inline(shown)}</figure>"
    rows = [
        (f'<i style="background:{floor.colour(i, 66)}">{i}</i>', *map(safe, row))
        for i, row in enumerate(shown.groups)
    ]
    return section(safe(shown.title), figure + table(("#", *map(safe, shown.header)), rows))


def _signal(report: Report) -> str:
    svg = pictures.signal(report.signal) if report.signal else ""
    if not svg or report.signal is None:
        return ""
    caption = f"Read {safe(report.signal.read_id)}. {safe(report.signal.caption)}"
    return section("A read and its calls", f"<figure><figcaption>{caption}</figcaption>{svg}</figure>")


def decisions(made: Iterable[Decision]) -> str:
    """The table of what was decided for the user."""
    rows = [(f"<code>{safe(d.code)}</code>", *map(safe, (d.where, d.what, d.reason))) for d in made]
    body = table(("code", "where", "decision", "reason"), rows) or "<p>Nothing was decided for you.</p>"
    return section("Decisions", body)


def _layers_table(layers: Sequence[LayerRow]) -> str:
    header = ("#", "layer", "operator", "shapes", "bits w/a", "MACs", "parameters", "ms", "SNR")
    rows = [
        (
            str(i + 1),
            f"{safe(layer.source or layer.name)}<small>{safe(layer.name)}</small>",
            safe(layer.op),
            f"{safe(layer.output)}<small>{safe(', '.join(layer.inputs))}</small>",
            _bits(layer),
            si(layer.macs) if layer.macs else "",
            f"{layer.params:,}" if layer.params else "",
            "" if layer.ms is None else f"{layer.ms:.3f}",
            "" if layer.gap is None else _snr(layer.gap),
        )
        for i, layer in enumerate(layers)
    ]
    return section("Layers", table(header, rows, "05678")) if rows else ""


def _bits(layer: LayerRow) -> str:
    pair = (layer.weight_bits, layer.activation_bits)
    return "" if pair == (None, None) else "/".join("-" if b is None else str(b) for b in pair)


def _passes(report: Report) -> str:
    rows = []
    for i, p in enumerate(report.passes):
        moved = ", ".join(f"{op} {count:+d}" for op, count in p.op_diff.items())
        options = ", ".join(f"{key}={value}" for key, value in p.options.items())
        name = f"<code>{safe(p.id)}</code><small>{safe(options)}</small>"
        did = safe(moved) or ("changed" if p.changed else "no change")
        rows.append((str(i + 1), name, did, f"{p.seconds:.3f} s", safe(p.reason)))
    return (
        section("Passes", table(("#", "pass", "what moved", "time", "why here"), rows, "03")) if rows else ""
    )


def provenance(source: Mapping[str, object], machine: Mapping[str, object]) -> str:
    """Facts of what was read and of the machine."""
    left = table(("source", ""), [(safe(k), safe(v)) for k, v in source.items()])
    right = table(("machine", ""), [(safe(k), safe(v)) for k, v in machine.items()])
    return section("Where it comes from", left + right)


def section(title: str, body: str) -> str:
    """A titled part of a page; ``body`` is ready-made."""
    return f"<section><h2>{title}</h2>{body}</section>\n"


def table(header: Sequence[str], rows: Iterable[Sequence[str]], right: str = "") -> str:
    """An HTML table of ready-made cells; empty without rows."""

    def cell(tag: str, i: int, text: str) -> str:
        return f'<{tag} class="n">{text}</{tag}>' if str(i) in right else f"<{tag}>{text}</{tag}>"

    body = "".join("<tr>" + "".join(cell("td", i, c) for i, c in enumerate(row)) + "</tr>" for row in rows)
    if not body:
        return ""
    head = "".join(cell("th", i, c) for i, c in enumerate(header))
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _number(value: float) -> str:
    return f"{value:.3g}"


def _snr(gap: Gap) -> str:
    if gap.failure:
        return f'<b class="bad">failed: {safe(gap.failure)}</b>'
    return "exact" if gap.snr_db == float("inf") else f"{gap.snr_db:.1f} dB"


def _agreement(gap: Gap) -> str:
    return "" if gap.argmax_agreement is None else f"{gap.argmax_agreement:.3%}"


def safe(value: object) -> str:
    """Any value as text that is safe in a page."""
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    if isinstance(value, Mapping):
        value = ", ".join(f"{key} {item}" for key, item in value.items())
    return escape(clean(value), quote=True)
