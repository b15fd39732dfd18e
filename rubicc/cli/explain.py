"""``rubicc explain CODE``: the catalogue of every room, offline."""

from __future__ import annotations

import argparse
import textwrap
from pathlib import Path
from runpy import run_path

import rubicc
from rubicc.cli.console import Console, table
from rubicc.errors import UsageError
from rubicc.text import did_you_mean


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument(
        "code", nargs="?", metavar="CODE", help="such as RUB-CLI-002; without it, list all codes"
    )


def run(args: argparse.Namespace, console: Console) -> int:
    """Print one entry, or the whole list."""
    codes = catalogue()
    if args.code is None:
        rows = [(code, title) for code, (title, _) in codes.items()]
        console.result([{"code": c, "title": t} for c, t in rows], table(("code", "title"), rows))
        return 0
    code = args.code.strip().strip("[]").upper()
    if code not in codes:
        hint = did_you_mean(code, codes, "`rubicc explain` lists all codes", cutoff=0.7)
        raise UsageError("RUB-CLI-014", f"no code {args.code!r}", hint=hint)
    title, text = codes[code]
    lines = [f"{code}: {title}", "", *textwrap.wrap(text, 88, break_on_hyphens=False)]
    console.result({"code": code, "title": title, "explanation": text}, lines)
    return 0


def catalogue() -> dict[str, tuple[str, str]]:
    """Code -> (title, explanation) from every ``codes.py`` of the package, sorted by code."""
    root = Path(rubicc.__file__).parent
    found: dict[str, tuple[str, str]] = {}
    for path in sorted(root.rglob("codes.py")):
        # From the file alone: importing it by name would import its package, which may be heavy.
        found.update(run_path(str(path))["CODES"])
    return dict(sorted(found.items()))
