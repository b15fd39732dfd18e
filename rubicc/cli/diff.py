"""``rubicc diff A B``: what moved between two artefacts."""

from __future__ import annotations

import argparse

from rubicc.cli.console import Console, table


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument("a", metavar="A", help="artefact folder or manifest.json")
    parser.add_argument("b", metavar="B", help="the newer one")


def run(args: argparse.Namespace, console: Console) -> int:
    """Print the changes; exit code 0 whether or not there are any."""
    from rubicc.evidence.diff import diff

    changes = diff(args.a, args.b)
    rows = [(c.section, c.name, _short(c.before), _short(c.after)) for c in changes]
    lines = table(("section", "name", "before", "after"), rows) if rows else ["no differences"]
    console.result({"changes": changes}, lines)
    return 0


def _short(value: object) -> str:
    text = "-" if value is None else str(value)
    digest = len(text) == 64 and all(c in "0123456789abcdef" for c in text)
    return text[:12] if digest else text
