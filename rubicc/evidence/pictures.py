"""Inline SVG for the report: columns over the layers of a network, and a read's signal with its bases.

Colours are CSS variables of the page, so one picture serves light, dark and print.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from html import escape

from rubicc.evidence.report import SignalPicture
from rubicc.text import clean

WIDTH = 960
LEFT = 64
MAX_SHOWN_BASES = 80
MAX_SHOWN_SAMPLES = 1200
SQUARES_PER_ROW = 60
MAX_SQUARES = 3000
# Share of its place that a square fills: what matters is large even without colours.
SQUARE_SIZES = {"good": 0.55, "unsure": 0.8, "bad": 0.95}


def columns(
    values: Sequence[float | None], titles: Sequence[str], show: Callable[[float], str], *, label: str
) -> str:
    """One column per layer from zero; ``None`` (not measured) leaves its place empty.

    Args:
        values: per layer, at least 0.
        titles: tooltip per layer.
        show: a value as text.
        label: what the picture shows, for screen readers.
    """
    top = max((v for v in values if v is not None), default=0.0)
    if top <= 0:
        return ""
    ticks = [top * share for share in (0.0, 0.5, 1.0)]
    grid = [(_y(value / top), show(value)) for value in ticks]
    bars = [
        _bar(i, len(values), value / top, f"{title}: {show(value)}", "bar")
        for i, (value, title) in enumerate(zip(values, titles, strict=True))
        if value is not None and value > 0
    ]
    return _chart(grid, bars, len(values), label)


def errors(snrs: Sequence[float | None], titles: Sequence[str]) -> str:
    """Relative error of each layer, on a logarithmic axis from 1e-16 (``exact`` is a mark on the floor).

    Args:
        snrs: signal-to-noise ratio in dB per layer; ``inf`` exact, ``-inf`` failed, ``None`` not compared.
        titles: tooltip per layer.
    """
    found = [snr for snr in snrs if snr is not None]
    if not found:
        return ""
    finite = [-snr / 20 for snr in found if math.isfinite(snr)]
    low = math.floor(min([*finite, -7])) - 1
    high = max(math.ceil(max(finite, default=-6)), low + 2)
    decades = range(low, high + 1, max(1, (high - low) // 4))
    grid = [(_y((d - low) / (high - low)), "1" if d == 0 else f"1e{d}") for d in decades]
    marks = []
    for i, (snr, title) in enumerate(zip(snrs, titles, strict=True)):
        if snr is None:
            continue
        if math.isinf(snr):
            exact = snr > 0
            share, kind = (0.02, "exact") if exact else (1.0, "bad")
            marks.append(_bar(i, len(snrs), share, f"{title}: {'exact' if exact else 'FAILED'}", kind))
        else:
            share = min(max((-snr / 20 - low) / (high - low), 0.02), 1.0)
            marks.append(_bar(i, len(snrs), share, f"{title}: SNR {snr:.1f} dB", "bar"))
    return _chart(grid, marks, len(snrs), "relative error by layer")


def signal(picture: SignalPicture) -> str:
    """The read's normalised signal as a line, with the called bases at the samples where they begin."""
    samples = picture.signal[:MAX_SHOWN_SAMPLES]
    bases = [(at, base) for at, base in picture.bases if 0 <= at < len(samples)][:MAX_SHOWN_BASES]
    if len(bases) == MAX_SHOWN_BASES:
        samples = samples[: bases[-1][0] + 1]
    finite = [v for v in samples if math.isfinite(v)]
    if len(finite) < 2:
        return ""
    low, high = min(finite), max(finite)
    span = (high - low) or 1.0
    step = (WIDTH - LEFT - 8) / max(len(samples) - 1, 1)

    def place(i: int, value: float) -> str:
        return f"{LEFT + i * step:.1f},{150 - 136 * (value - low) / span:.1f}"

    line = " ".join(place(i, v) for i, v in enumerate(samples) if math.isfinite(v))
    marks = []
    letters = _apart([LEFT + at * step for at, _ in bases], 9.0, WIDTH - 8.0)
    for (at, base), letter_x in zip(bases, letters, strict=True):
        x = LEFT + at * step
        kind = base if base in "ACGT" else "other"
        marks.append(
            f'<line class="move" x1="{x:.1f}" x2="{x:.1f}" y1="10" y2="156"/>'
            f'<text class="base b{kind}" x="{letter_x:.1f}" y="172">{_text(base)}</text>'
        )
    rate = max(picture.sampling_rate, 1)
    seconds = [(i, (picture.start + i) / rate) for i in (0, len(samples) // 2, len(samples) - 1)]
    anchors = ("start", "middle", "end")
    times = [
        f'<text class="tick" x="{LEFT + i * step:.1f}" y="192" text-anchor="{anchor}">{at:.3f} s</text>'
        for (i, at), anchor in zip(seconds, anchors, strict=True)
    ]
    scale = [
        f'<text class="tick" x="{LEFT - 6}" y="{y}" text-anchor="end">{value:.2f}</text>'
        for y, value in ((154, low), (18, high))
    ]
    label = f"signal of read {_text(picture.read_id)} with {len(bases)} called bases"
    inner = "".join(scale + times + marks) + f'<polyline class="signal" points="{line}"/>'
    return f'<svg viewBox="0 0 {WIDTH} 198" role="img" aria-label="{label}">{inner}</svg>'


def squares(kinds: Sequence[str], titles: Sequence[str], *, label: str) -> str:
    """One square per operation, row by row in the order they run; the worse, the larger.

    Args:
        kinds: ``good``, ``unsure`` or ``bad`` per operation. Of more than :data:`MAX_SQUARES` operations,
            neighbours share a square, which shows the worst of them.
        titles: tooltip per operation.
    """
    if not kinds:
        return ""
    step = -(-len(kinds) // MAX_SQUARES)
    cell, drawn = WIDTH / SQUARES_PER_ROW, []
    for number, first in enumerate(range(0, len(kinds), step)):
        group = range(first, min(first + step, len(kinds)))
        shown = max(group, key=lambda i: SQUARE_SIZES[kinds[i]])
        side = cell * SQUARE_SIZES[kinds[shown]]
        row, column = divmod(number, SQUARES_PER_ROW)
        x, y = (place * cell + (cell - side) / 2 for place in (column, row))
        more = f" and {len(group) - 1} beside it" if len(group) > 1 else ""
        drawn.append(
            f'<rect class="{kinds[shown]}" x="{x:.1f}" y="{y:.1f}" width="{side:.1f}" height="{side:.1f}" '
            f'rx="1"><title>{_text(titles[shown] + more)}</title></rect>'
        )
    height = -(-len(drawn) // SQUARES_PER_ROW) * cell
    inner = "".join(drawn)
    return f'<svg viewBox="0 0 {WIDTH} {height:.0f}" role="img" aria-label="{_text(label)}">{inner}</svg>'


def _apart(xs: Sequence[float], gap: float, right: float) -> list[float]:
    """Positions moved as little to the right, then left of ``right``, that neighbours are ``gap`` apart."""
    moved: list[float] = []
    for x in xs:
        moved.append(max(x, moved[-1] + gap) if moved else x)
    limit = right
    for i in reversed(range(len(moved))):
        moved[i] = min(moved[i], limit)
        limit = moved[i] - gap
    return moved


def _chart(grid: Sequence[tuple[float, str]], bars: Sequence[str], count: int, label: str) -> str:
    lines = [
        f'<line class="grid" x1="{LEFT}" x2="{WIDTH}" y1="{y:.1f}" y2="{y:.1f}"/>'
        f'<text class="tick" x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{text}</text>'
        for y, text in grid
    ]
    every = next(step for step in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 10**9) if count / step <= 24)
    numbers = [
        f'<text class="tick" x="{_centre(i, count):.1f}" y="154" text-anchor="middle">{i + 1}</text>'
        for i in range(count)
        if (i + 1) % every == 0 or i == 0
    ]
    inner = "".join([*lines, *bars, *numbers])
    return f'<svg viewBox="0 0 {WIDTH} 160" role="img" aria-label="{_text(label)}">{inner}</svg>'


def _bar(index: int, count: int, share: float, title: str, kind: str) -> str:
    slot = (WIDTH - LEFT) / count
    width = min(max(slot - 2, slot * 0.6), 28)
    x, y = _centre(index, count) - width / 2, _y(share)
    return (
        f'<rect class="{kind}" x="{x:.1f}" y="{y:.1f}" width="{width:.2f}" height="{136 - y:.1f}" rx="1">'
        f"<title>{_text(title)}</title></rect>"
    )


def _centre(index: int, count: int) -> float:
    return LEFT + (index + 0.5) * (WIDTH - LEFT) / count


def _y(share: float) -> float:
    return 136 - 124 * share


def _text(value: object) -> str:
    return escape(clean(value), quote=True)
