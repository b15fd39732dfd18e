"""``rubicc bench ARTEFACT|MODEL``: how fast, here, with the noise."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from typing import Any

from rubicc.cli.compile import print_config, resolve_settings
from rubicc.cli.console import Console, table
from rubicc.cli.parser import add_reading, add_settings
from rubicc.errors import UsageError
from rubicc.quantities import parse_whole
from rubicc.text import clean, did_you_mean, si


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    add_reading(parser)
    add_settings(parser)
    parser.add_argument("--target", metavar="T[:device]", help="target of a MODEL that is no artefact")
    parser.add_argument(
        "--precision", metavar="P,...", help="of a MODEL that is no artefact: one, several, or all"
    )
    parser.add_argument(
        "--layout", metavar="L,...", help="of a MODEL that is no artefact: one, several, or all"
    )
    parser.add_argument("--runtime", metavar="R,...", help="one, several, or all that there are (default)")
    parser.add_argument("--shapes", metavar="S", help="of a MODEL that is no artefact, for coreml")
    parser.add_argument("--calib", metavar="PATH", help="signal for calibration (default: simulated)")
    parser.add_argument("--batch", metavar="N", help="size of the batch dimension")
    parser.add_argument("--streams", metavar="N", help="calls at the same time (default 1)")
    parser.add_argument(
        "--length", metavar="T", help="size of the time dimension (default: the model's chunk)"
    )
    parser.add_argument("--seconds", metavar="S", default="5", help="time to measure for (default 5)")


def run(args: argparse.Namespace, console: Console) -> int:
    """Measure and print."""
    from rubicc.settings import COMPRESSED, LAYOUTS, ON_PACKAGES, PRECISIONS, RUNTIMES

    lists = {
        "precisions": _several(args, "precision", PRECISIONS, COMPRESSED),
        "layouts": _several(args, "layout", LAYOUTS),
        "runtimes": _several(args, "runtime", RUNTIMES, ON_PACKAGES),
    }
    settings = resolve_settings(args)
    if args.print_config:
        return print_config(settings, console)
    if settings.runtime != "auto" and not lists["runtimes"]:
        lists["runtimes"] = [settings.runtime]
    length = None if args.length is None else parse_whole("--length", args.length, "", 1, 2**31 - 1)
    seconds = _seconds(args.seconds)
    from rubicc import api

    found = api.bench(args.model, settings=settings, seconds=seconds, length=length, **lists)
    console.result(found, _lines(found))
    return 0


def _several(
    args: argparse.Namespace, flag: str, known: Sequence[str], more: Sequence[str] = ()
) -> list[str]:
    """The values of a flag that may hold a list; one alone stays an ordinary setting.

    Args:
        more: values that only some targets have: not part of ``all``.
    """
    text = getattr(args, flag)
    real = [name for name in known if name != "auto"]
    values = [part.strip() for part in text.split(",")] if text is not None else []
    if len(values) < 2 and values != ["all"]:
        return []
    for value in values:
        if value not in (*real, *more, "all"):
            hint = did_you_mean(value, [*real, *more, "all"], f"known: {', '.join((*real, *more))}, all")
            raise UsageError("RUB-CLI-004", f"--{flag}: {value[:80]!r} is not one of them", hint=hint)
    setattr(args, flag, None)
    if "all" in values:
        return ["all"] if flag == "runtime" else real
    return list(dict.fromkeys(values))


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 86400:
        raise UsageError("RUB-CLI-004", f"--seconds: {text[:80]!r} is not a time from 0 to 86400 seconds")
    return value


HEADER = (
    *("candidate", "shapes", "threads", "streams", "min ms", "median ms", "p99", "noise"),
    *("per second", "speed", "gap dB", "memory", "load s"),
)


def _lines(found: Any) -> list[str]:
    rows = []
    for number, row in enumerate(found.rows):
        t = row.timing
        doubt = " UNSURE" if number and row.verdict == "UNSURE" else ""
        snr = "" if row.snr_db is None else "exact" if math.isinf(row.snr_db) else f"{row.snr_db:.1f}"
        rows.append(
            (
                row.name,
                row.shapes,
                row.threads,
                row.streams,
                *(f"{t[key]:.3f}" for key in ("min_ms", "median_ms", "p99_ms")),
                f"{t['noise']:.1%}",
                si(row.positions_per_second),
                f"{row.speed:.2f}x{doubt}",
                snr,
                "" if row.peak_bytes is None else f"{si(row.peak_bytes)}B",
                f"{row.load_seconds:.2f}",
            )
        )
    lines = table(HEADER, rows, right="23456789")
    lines += [f"left out: {clean(name)}: {clean(why)}" for name, why in found.left_out.items()]
    return [
        *lines,
        "per second counts input positions (samples or tokens) of the whole batch; speed is that of the",
        "first candidate times so much, by medians, UNSURE below 5 % or inside the noise; gap is the SNR",
        "against the fp32 source",
    ]
