"""``rubicc targets``: what can be compiled for."""

from __future__ import annotations

import argparse

from rubicc.cli.console import Console, table


def configure(parser: argparse.ArgumentParser) -> None:
    """The verb has no arguments of its own."""


def run(args: argparse.Namespace, console: Console) -> int:
    """Print every target, broken plugins included with their reason."""
    from rubicc.backends import registry

    targets = list(registry.targets())
    rows = [(t.name, ", ".join(t.devices), t.error or t.summary, t.origin) for t in targets]
    console.result({"targets": targets}, table(("target", "devices", "summary", "origin"), rows))
    return 0
