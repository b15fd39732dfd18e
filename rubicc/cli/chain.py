"""``rubicc chain RECIPE -o OUT``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from rubicc.cli.chain_recipe import read_chain
from rubicc.cli.console import Console, decision_line, facts, table
from rubicc.cli.train import watcher
from rubicc.errors import UsageError
from rubicc.text import clean


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument("recipe", metavar="RECIPE.yaml", help="model and steps; see `rubicc init --chain`")
    group = parser.add_argument_group("chain")
    group.add_argument("-o", "--output", metavar="OUT", help="folder of the results, one per step")
    group.add_argument(
        "--dry-run", "--list", action="store_true", help="print what would be done and reused, and stop"
    )
    group.add_argument("--from", dest="first", metavar="STEP", help="do this step and all after it again")
    group.add_argument("--until", dest="last", metavar="STEP", help="stop after this step")
    group.add_argument("--force", action="store_true", help="do every step again")
    group = parser.add_argument_group("of every step")
    group.add_argument("--threads", metavar="N", help="threads of this process")
    group.add_argument("--allow-code", action="store_true", help="allow python:... models to run")
    group.add_argument(
        "--trust", action="store_true", help="open formats that can run code (pickle, TorchScript)"
    )


def run(args: argparse.Namespace, console: Console) -> int:
    """Carry the chain out, and print what came of every step."""
    if args.output is None and not args.dry_run:
        raise UsageError("RUB-CLI-006", "-o OUT is missing", hint="or --dry-run to write nothing")
    words = [f"--threads={args.threads}"] if args.threads is not None else []
    words += ["--allow-code"] * args.allow_code + ["--trust"] * args.trust
    chain = read_chain(Path(args.recipe), words)
    from rubicc import api
    from rubicc.shrink.chain import Wish

    wish = Wish(args.dry_run, args.force, args.first, args.last)
    made = api.chain(chain, out=args.output, wish=wish, watcher=watcher(console))
    if made is not None:
        console.result(_value(made), _lines(made))
    return 0


def _value(made: Any) -> dict[str, Any]:
    report = {} if made.report is None else made.report.to_dict()
    return {"path": made.path, "steps": made.steps, **report}


def _lines(made: Any) -> list[str]:
    rows = [(step.folder, step.did, step.why) for step in made.steps]
    steps = table(("step", "", "because"), rows)
    if made.report is None:
        return steps
    report = made.report
    (figures,) = report.tables
    out = facts({"results": made.path, "did": report.headline})
    out += [
        "",
        *steps,
        "",
        *table(figures.header[:-1], [row[:-1] for row in figures.rows], right="12345"),
        "",
    ]
    return [*out, *map(decision_line, report.decisions), f"report: {clean(made.path)}/report.html"]
