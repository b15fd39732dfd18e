"""``rubicc bench ARTEFACT|MODEL``: how fast, here, with the noise."""

from __future__ import annotations

import argparse
from typing import Any

from rubicc.cli.compile import print_config, resolve_settings
from rubicc.cli.console import Console, table
from rubicc.cli.parser import add_reading, add_settings
from rubicc.errors import UsageError
from rubicc.quantities import parse_whole
from rubicc.text import clean, si


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    add_reading(parser)
    add_settings(parser)
    parser.add_argument("--target", metavar="T[:device]", help="target of a MODEL that is no artefact")
    parser.add_argument("--precision", metavar="P", help="precision of a MODEL that is no artefact")
    parser.add_argument(
        "--runtime", metavar="R", help="onnxruntime or openvino (default: all the artefact has)"
    )
    parser.add_argument("--batch", metavar="N", help="size of the batch dimension")
    parser.add_argument(
        "--length", metavar="T", help="size of the time dimension (default: the model's chunk)"
    )
    parser.add_argument("--seconds", metavar="S", default="5", help="time to measure for (default 5)")


def run(args: argparse.Namespace, console: Console) -> int:
    """Measure and print."""
    settings = resolve_settings(args)
    if args.print_config:
        return print_config(settings, console)
    batch = None if args.batch is None else parse_whole("--batch", args.batch, "", 1, 65536)
    length = None if args.length is None else parse_whole("--length", args.length, "", 1, 2**31 - 1)
    seconds = _seconds(args.seconds)
    from rubicc import api

    found = api.bench(args.model, settings=settings, seconds=seconds, batch=batch, length=length)
    console.result(found, _lines(found))
    return 0


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 86400:
        raise UsageError("RUB-CLI-004", f"--seconds: {text[:80]!r} is not a time from 0 to 86400 seconds")
    return value


def _lines(found: Any) -> list[str]:
    header = (
        "candidate",
        "shapes",
        "threads",
        "median ms",
        "p90",
        "p99",
        "noise",
        "per second",
        "memory",
        "load s",
    )
    rows = []
    for row in found.rows:
        t = row.timing
        times = [f"{t[key]:.3f}" for key in ("median_ms", "p90_ms", "p99_ms")]
        memory = "" if row.peak_bytes is None else f"{si(row.peak_bytes)}B"
        rate = si(row.positions_per_second)
        threads = row.threads or "default"
        rows.append(
            (
                row.name,
                row.shapes,
                threads,
                *times,
                f"{t['noise']:.1%}",
                rate,
                memory,
                f"{row.load_seconds:.2f}",
            )
        )
    lines = table(header, rows, right="23456789")
    for c in found.comparisons:
        doubt = " (UNSURE: within the noise)" if c.verdict == "UNSURE" else ""
        lines.append(f"{clean(c.a)} takes {c.ratio:.2f} times as long as {clean(c.b)}{doubt}")
    return [*lines, "per second counts input positions (samples or tokens) of the whole batch"]
