"""The tables as aligned text."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from rubicc.evidence import measure
from speed.results import BUSY, COLUMNS, Identity, Judged, NetworkResult, Row, fraction, ratio, targets


def render(
    machine: Mapping[str, Any], networks: Sequence[NetworkResult], identities: Sequence[Identity]
) -> str:
    """Everything that ``cpu_table.py`` prints."""
    parts = ["\n".join(f"{key}: {value}" for key, value in machine.items())]
    parts += [overview(networks)] if networks else []
    parts += [details(network) for network in networks]
    parts += [accuracy(identities)] if identities else []
    parts.append(goals(targets(networks, identities)))
    return "\n\n".join(parts) + "\n"


def aligned(rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """Columns of equal width; the first ``left`` and the last are flush left, the rest right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [
            cell.ljust(width) if i < left or i == len(row) - 1 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    lines.insert(1, "  ".join("-" * width for width in widths).rstrip())
    return "\n".join(lines)


def overview(networks: Sequence[NetworkResult], columns: Mapping[str, str] = COLUMNS) -> str:
    """One line per network: throughput of every column, and in brackets how many times torch eager."""
    head = ["k samples or tokens per s", *columns.values(), ""]
    rows = [head]
    for network in networks:
        base = network.row("torch")
        cells = []
        for column in columns:
            row = network.row(column)
            if row is None or row.timing is None:
                cells.append("-")
                continue
            times = f" ({ratio(row.timing, base.timing).middle:.1f}x)" if base and base.timing else ""
            cells.append(f"{network.positions / row.timing.median / 1e3:,.0f}{times}")
        rows.append([network.name, *cells, ""])
    return aligned(rows)


DETAIL_HEAD = ("", "min ms", "median", "noise", "k/s", "x torch", "GMAC/s", "of peak", "SNR dB", "argmax", "")


def details(network: NetworkResult, columns: Mapping[str, str] = COLUMNS) -> str:
    """All engines of one network, then the peaks."""
    title = f"{network.name}, {network.shape}, {network.macs / 1e9:.1f} GMAC; {', '.join(network.notes)}"
    if network.disturbed > BUSY:
        share = f"{network.disturbed:.0%}"
        title += f"\nBUSY MACHINE: other programs took {share} of the processors: no verdict holds."
    rows: list[Sequence[str]] = [DETAIL_HEAD]
    rows += [_detail(network, row, columns[row.column]) for row in network.rows]
    rows += [_detail(network, row, f"  tried: {row.detail.split(',')[0]}") for row in network.others]
    for peak in network.peaks:
        timing = peak.timing
        times = [f"{timing.best * 1e3:.1f}", f"{timing.median * 1e3:.1f}", f"{timing.noise:.0%}"]
        rows.append(
            [f"peak {peak.precision}", *times, "", "", f"{peak.rate / 1e9:.0f}", "", "", "", peak.name]
        )
    return f"{title}\n\n{aligned(rows)}"


def _detail(network: NetworkResult, row: Row, label: str) -> list[str]:
    if row.timing is None:
        return [label, *[""] * 9, f"none: {row.refused}"]
    timing, base, peak = row.timing, network.row("torch"), network.peak(row.precision)
    against = ""
    if base is not None and base.timing is not None:
        unsure = "?" if base is not row and measure.compare(timing, base.timing) == "UNSURE" else ""
        against = f"{unsure}{ratio(timing, base.timing).middle:.2f}"
    return [
        label,
        f"{timing.best * 1e3:.1f}",
        f"{timing.median * 1e3:.1f}",
        f"{timing.noise:.0%}",
        f"{network.positions / timing.median / 1e3:,.0f}",
        against,
        f"{network.macs / timing.median / 1e9:.0f}",
        f"{fraction(row, network.macs, peak).middle:.0%} {row.precision}" if peak is not None else "",
        _decibel(row.snr_db),
        "" if row.agreement is None else f"{row.agreement:.2%}",
        f"{row.detail}{', ' if row.detail else ''}ready after {row.load_seconds:.1f} s",
    ]


def _decibel(snr: float | None) -> str:
    if snr is None:
        return ""
    return "exact" if math.isinf(snr) and snr > 0 else f"{snr:.1f}"


def accuracy(identities: Sequence[Identity]) -> str:
    """Identity of calls."""
    rows = [["identity (matches / columns, all reads together)", "fp32", "best", "lost", ""]]
    for item in identities:
        label = f"{item.network} on {item.reads}"
        if item.skipped:
            rows.append([label, "", "", "", f"skipped: {item.skipped}"])
            continue
        note = f"{item.detail}; {item.missing} reads without alignment" if item.missing else item.detail
        rows.append([label, f"{item.fp32:.4f}", f"{item.best:.4f}", f"{item.lost:+.4f}", note])
    return aligned(rows)


def goals(judged: Sequence[Judged]) -> str:
    """The targets and whether they are reached."""
    rows = [["target", "limit", "measured", ""]]
    for goal in judged:
        digits = 4 if goal.way == "at most" else 2
        value = "" if goal.value is None else f"{goal.value:.{digits}f}"
        rows.append([goal.what, f"{goal.way} {goal.limit:g}", value, goal.verdict])
    rule = (
        "UNSURE: within 5 % of the limit, or the middle halves of both timings allow both answers, or other "
        f"programs took more than {BUSY:.0%} of the processors meanwhile."
    )
    return f"{aligned(rows)}\n{rule}"
