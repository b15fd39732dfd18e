"""``rubicc bench ARTEFACT|MODEL``: how fast, here, with the noise."""

from __future__ import annotations

import argparse

from rubicc.cli.compile import print_config, resolve_settings
from rubicc.cli.console import Console, facts, table
from rubicc.cli.parser import add_reading, add_settings
from rubicc.quantities import parse_whole
from rubicc.text import clean


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    add_reading(parser)
    add_settings(parser)
    parser.add_argument(
        "--runtime", metavar="R", help="onnxruntime or openvino (default: the artefact's own)"
    )
    parser.add_argument("--batch", metavar="N", default="1", help="value of the batch symbol (default 1)")
    parser.add_argument("--length", metavar="T", help="value of the time symbol (default: the model's chunk)")
    parser.add_argument(
        "--repeat", metavar="N", default="30", help="timed runs after the warm-up (default 30)"
    )


def run(args: argparse.Namespace, console: Console) -> int:
    """Measure and print."""
    settings = resolve_settings(args)
    if args.print_config:
        return print_config(settings, console)
    batch = parse_whole("--batch", args.batch, "", 1, 65536)
    length = None if args.length is None else parse_whole("--length", args.length, "", 1, 2**31 - 1)
    repeat = parse_whole("--repeat", args.repeat, "", 2, 1_000_000)
    from rubicc import api

    found = api.bench(args.model, settings=settings, batch=batch, length=length, repeat=repeat)
    rows = [
        (m.what, f"{m.value:.4g} {m.unit}", "" if m.low is None else f"{m.low:.4g} to {m.high:.4g}", m.how)
        for m in found.measures
    ]
    lines = [*table(("measured", "value", "spread", "how"), rows), "", *facts(found.conditions)]
    lines += [f"not measured: {clean(item.what)}: {clean(item.why)}" for item in found.not_measured]
    console.result(found, lines)
    return 0
