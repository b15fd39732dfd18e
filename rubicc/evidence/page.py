"""report.html: one file, no script, nothing loaded from anywhere; readable on paper and in the dark.

Every text of the model (node names, module paths, read ids) is escaped; a content-security policy in the
page makes sure that even a mistake there could load or run nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib.resources import files

from rubicc.evidence import floor, pictures
from rubicc.evidence.gaps import Gap
from rubicc.evidence.report import LayerRow, Placement, Report
from rubicc.text import clean, si

_POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def render(report: Report) -> str:
    """The whole page."""
    body = [
        _head(report),
        _accuracy(report),
        _measurements(report),
        _layers_pictures(report),
        *map(_placement, report.placements),
        *map(_floor, report.floors),
        _signal(report),
        _decisions(report),
        _layers_table(report.layers),
        _passes(report),
        _provenance(report),
    ]
    return _page(f"{report.name} for {report.target}", body)


def _page(title: str, body: Iterable[str]) -> str:
    style = files("rubicc.evidence").joinpath("page.css").read_text("utf-8")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        f"<title>{_t(title)}</title><style>{style}</style></head>\n"
        f"<body><main>{''.join(body)}</main></body></html>\n"
    )


def _head(report: Report) -> str:
    kind = {"verified": "good", "failed": "bad"}.get(report.verdict, "unsure")
    totals = "".join(_fact(name, value) for name, value in report.totals.items())
    return (
        f"<header><h1>{_t(report.name)}</h1>"
        f"<p>for {_t(report.target)}, {_t(report.precision)}, run by {_t(report.runtime)}</p>"
        f'<p class="verdict {kind}"><b>{_t(report.verdict)}</b> {_t(report.verdict_reason)}</p></header>'
        f'<div class="facts">{totals}</div>'
    )


def _fact(name: object, value: object) -> str:
    return f'<div class="fact"><span>{_t(name)}</span><b>{_t(value)}</b></div>'


def _accuracy(report: Report) -> str:
    rows = [
        (_t(name), _snr(gap), f"{gap.max_abs:.3g}", f"{gap.max_rel:.3g}", _agreement(gap), f"{gap.count:,}")
        for name, gap in report.gaps.items()
    ]
    header = ("compared", "SNR", "max abs", "max relative", "argmax equal", "values")
    shapes = ", ".join(f"{_t(name)} {_t(shape)}" for name, shape in report.shapes.items())
    note = f"<p>Inputs: {shapes}.</p>" if shapes else ""
    return _section("Does it compute the same?", note + _table(header, rows, "12345"))


def _measurements(report: Report) -> str:
    rows = []
    for m in report.measured:
        spread = "" if m.low is None or m.high is None else f"{m.low:.4g} to {m.high:.4g}"
        rows.append((_t(m.what), f"{m.value:.4g} {_t(m.unit)}", spread, _t(m.how)))
    done = _table(("measured", "value", "spread", "how"), rows, "12")
    missing = _table(("not measured", "why"), [(_t(n.what), _t(n.why)) for n in report.not_measured])
    return _section("Measured, and not measured", (done or "<p>Nothing was measured.</p>") + missing)


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
    return _section("By layer", note + "".join(figures)) if figures else ""


def render_placements(name: str, facts: Mapping[str, object], placements: Iterable[Placement]) -> str:
    """A page about files that were judged and not compiled here: facts, and where operations would run."""
    rows = "".join(_fact(key, value) for key, value in facts.items())
    head = f'<header><h1>{_t(name)}</h1></header><div class="facts">{rows}</div>'
    return _page(name, [head, *map(_placement, placements)])


def _placement(placed: Placement) -> str:
    kinds = [placed.statuses[status] for status, _ in placed.ops]
    titles = [f"{i + 1} {words}: {status}" for i, (status, words) in enumerate(placed.ops)]
    counts = {status: sum(found == status for found, _ in placed.ops) for status in placed.statuses}
    legend = ", ".join(
        f'<b class="{kind}">{counts[status]:,} {_t(status)}</b>' for status, kind in placed.statuses.items()
    )
    svg = pictures.squares(kinds, titles, label=f"{placed.title}: {len(kinds)} operations in order")
    rows = [
        (
            f'<b class="{placed.statuses[row.status]}">{_t(row.status)}</b>',
            f"{row.count:,} {_t(row.op)}",
            f"{_t(row.reason)}<small>{_t(row.remedy)}</small>",
            f"<code>{_t(row.code)}</code><small>{_t(row.source)}</small>",
        )
        for row in placed.outside
    ]
    figure = f"<figure><figcaption>{legend}. {_t(placed.caption)}</figcaption>{svg}</figure>"
    return _section(
        _t(placed.title), figure + _table(("verdict", "operations", "why, and what helps", "rule"), rows)
    )


def _floor(shown: floor.Floor) -> str:
    """The array to scale, and its layers as a table in their colours."""
    figure = f"<figure><figcaption>{_t(shown.caption)}</figcaption>{floor.inline(shown)}</figure>"
    rows = [
        (f'<i style="background:{floor.colour(i, 66)}">{i}</i>', *map(_t, row))
        for i, row in enumerate(shown.groups)
    ]
    return _section(_t(shown.title), figure + _table(("#", *map(_t, shown.header)), rows))


def _signal(report: Report) -> str:
    svg = pictures.signal(report.signal) if report.signal else ""
    if not svg or report.signal is None:
        return ""
    caption = f"Read {_t(report.signal.read_id)}. {_t(report.signal.caption)}"
    return _section("A read and its calls", f"<figure><figcaption>{caption}</figcaption>{svg}</figure>")


def _decisions(report: Report) -> str:
    rows = [(f"<code>{_t(d.code)}</code>", _t(d.where), _t(d.what), _t(d.reason)) for d in report.decisions]
    body = _table(("code", "where", "decision", "reason"), rows) or "<p>Nothing was decided for you.</p>"
    return _section("Decisions", body)


def _layers_table(layers: Sequence[LayerRow]) -> str:
    header = ("#", "layer", "operator", "shapes", "bits w/a", "MACs", "parameters", "ms", "SNR")
    rows = [
        (
            str(i + 1),
            f"{_t(layer.source or layer.name)}<small>{_t(layer.name)}</small>",
            _t(layer.op),
            f"{_t(layer.output)}<small>{_t(', '.join(layer.inputs))}</small>",
            _bits(layer),
            si(layer.macs) if layer.macs else "",
            f"{layer.params:,}" if layer.params else "",
            "" if layer.ms is None else f"{layer.ms:.3f}",
            "" if layer.gap is None else _snr(layer.gap),
        )
        for i, layer in enumerate(layers)
    ]
    return _section("Layers", _table(header, rows, "05678")) if rows else ""


def _bits(layer: LayerRow) -> str:
    pair = (layer.weight_bits, layer.activation_bits)
    return "" if pair == (None, None) else "/".join("-" if b is None else str(b) for b in pair)


def _passes(report: Report) -> str:
    rows = []
    for i, p in enumerate(report.passes):
        moved = ", ".join(f"{op} {count:+d}" for op, count in p.op_diff.items())
        options = ", ".join(f"{key}={value}" for key, value in p.options.items())
        name = f"<code>{_t(p.id)}</code><small>{_t(options)}</small>"
        did = _t(moved) or ("changed" if p.changed else "no change")
        rows.append((str(i + 1), name, did, f"{p.seconds:.3f} s", _t(p.reason)))
    return (
        _section("Passes", _table(("#", "pass", "what moved", "time", "why here"), rows, "03"))
        if rows
        else ""
    )


def _provenance(report: Report) -> str:
    left = _table(("source", ""), [(_t(k), _t(v)) for k, v in report.source.items()])
    right = _table(("machine", ""), [(_t(k), _t(v)) for k, v in report.machine.items()])
    return _section("Where it comes from", left + right)


def _section(title: str, body: str) -> str:
    return f"<section><h2>{title}</h2>{body}</section>\n"


def _table(header: Sequence[str], rows: Iterable[Sequence[str]], right: str = "") -> str:
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
        return f'<b class="bad">failed: {_t(gap.failure)}</b>'
    return "exact" if gap.snr_db == float("inf") else f"{gap.snr_db:.1f} dB"


def _agreement(gap: Gap) -> str:
    return "" if gap.argmax_agreement is None else f"{gap.argmax_agreement:.3%}"


def _t(value: object) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    if isinstance(value, Mapping):
        value = ", ".join(f"{key} {item}" for key, item in value.items())
    return escape(clean(value), quote=True)
