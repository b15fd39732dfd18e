"""``rubicc passes list|show``: the catalogue of graph passes."""

from __future__ import annotations

import argparse
import inspect
from dataclasses import fields
from typing import Any

from rubicc.cli.console import Console, table
from rubicc.text import clean


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument("action", choices=("list", "show"))
    parser.add_argument("id", nargs="?", metavar="ID", help="pass to show")


def run(args: argparse.Namespace, console: Console) -> int:
    """List every pass, or show one with its options."""
    from rubicc.errors import UsageError
    from rubicc.passes import registry

    if args.action == "list":
        entries = [_entry(registry.get(pass_id)) for pass_id in registry.ids()]
        rows = [(e["id"], "exact" if e["exact"] else "approximate", e["summary"]) for e in entries]
        console.result({"passes": entries}, table(("id", "kind", "summary"), rows))
        return 0
    if args.id is None:
        raise UsageError("RUB-CLI-006", "passes show needs an ID", hint="`rubicc passes list` prints them")
    cls = registry.get(args.id)
    entry = _entry(cls) | {"documentation": inspect.cleandoc(cls.__doc__ or "")}
    lines = [entry["id"], "", *map(clean, entry["documentation"].splitlines()), ""]
    if entry["options"]:
        rows = [(name, o["type"], o["default"]) for name, o in entry["options"].items()]
        lines += table(("option", "type", "default"), rows)
        lines += ["", f"set one with --set passes.{entry['id']}.{rows[0][0]}=VALUE"]
    else:
        lines += ["no options"]
    lines += [
        "requires  " + (", ".join(entry["requires"]) or "-"),
        "ensures   " + (", ".join(entry["ensures"]) or "-"),
    ]
    console.result(entry, lines)
    return 0


def _entry(cls: Any) -> dict[str, Any]:
    options = {}
    for f in fields(cls.Options):
        options[f.name] = {"type": str(f.type), "default": getattr(cls.Options(), f.name)}
    return {
        "id": cls.id,
        "summary": inspect.cleandoc(cls.__doc__ or "").partition("\n")[0],
        "exact": cls.exact,
        "tolerance": cls.tolerance,
        "requires": sorted(cls.requires),
        "ensures": sorted(cls.ensures),
        "options": options,
    }
