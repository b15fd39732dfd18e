"""``rubicc passes list|show``: the catalogue of graph passes."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rubicc.cli.console import Console, table
from rubicc.errors import UsageError
from rubicc.text import clean

if TYPE_CHECKING:
    from rubicc.passes.registry import PassInfo


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument("action", choices=("list", "show"))
    parser.add_argument("id", nargs="?", metavar="ID", help="pass to show")


def run(args: argparse.Namespace, console: Console) -> int:
    """List every pass, or show one with its options."""
    from rubicc.passes import registry

    if args.action == "list":
        entries = [_listed(pass_id) for pass_id in registry.ids()]
        rows = [(e["id"], _kind(e), e.get("error") or e["summary"]) for e in entries]
        console.result({"passes": entries}, table(("id", "kind", "summary"), rows))
        return 0
    if args.id is None:
        raise UsageError("RUB-CLI-006", "passes show needs an ID", hint="`rubicc passes list` prints them")
    info = registry.info(args.id)
    entry = _entry(info) | {"documentation": info.text}
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


def _listed(pass_id: str) -> dict[str, Any]:
    """One row of the list; a plugin that does not load is a row with its reason and spoils no other."""
    from rubicc.passes import registry

    try:
        return _entry(registry.info(pass_id))
    except UsageError as error:
        return {"id": pass_id, "error": error.what}


def _entry(info: PassInfo) -> dict[str, Any]:
    entry = asdict(info)
    del entry["text"]
    return entry


def _kind(entry: dict[str, Any]) -> str:
    return "" if "error" in entry else "exact" if entry["exact"] else "approximate"
