"""``rubicc models list|show|create``: the zoo."""

from __future__ import annotations

import argparse
from typing import Any

from rubicc.cli.console import Console, facts, plain, table
from rubicc.errors import UsageError
from rubicc.text import clean


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument("action", choices=("list", "show", "create"))
    parser.add_argument("name", nargs="?", metavar="NAME", help="architecture to show or create")
    parser.add_argument("--arch-config", metavar="FILE", help="YAML or JSON file of its configuration")
    parser.add_argument("--seed", metavar="N", default="0", help="seed of the random weights (default 0)")
    parser.add_argument("-o", "--output", metavar="MODEL", help="create: file to write (.pt or .safetensors)")
    parser.add_argument("--force", action="store_true", help="create: replace the file if it exists")


def run(args: argparse.Namespace, console: Console) -> int:
    """List, show, or create with random weights."""
    from rubicc.models import registry

    if args.action == "list":
        entries = [_listed(name) for name in registry.names()]
        rows = [
            (e["name"], f"{e['parameters']:,}" if e.get("parameters") else "", e.get("error") or e["summary"])
            for e in entries
        ]
        console.result({"models": entries}, table(("name", "parameters", "summary"), rows, right="1"))
        return 0
    if args.name is None:
        raise UsageError("RUB-CLI-006", f"models {args.action} needs a NAME", hint="see `rubicc models list`")
    entry = registry.get(args.name)
    config = _config(entry, args.arch_config)
    return _show(entry, config, console) if args.action == "show" else _create(entry, config, args, console)


def _listed(name: str) -> dict[str, Any]:
    """One row of the list; a plugin that does not load is a row with its reason and spoils no other."""
    from rubicc.models import registry

    try:
        return _summary(registry.get(name))
    except UsageError as error:
        return {"name": name, "error": error.what}


def _config(entry: Any, path: str | None) -> Any:
    from rubicc.recipe import read_yaml_mapping

    if path is None:
        return None
    from pathlib import Path

    return entry.config_from_dict(read_yaml_mapping(Path(path), "architecture configuration"))


def _summary(entry: Any) -> dict[str, Any]:
    return {
        "name": entry.name,
        "parameters": entry.parameters,
        "summary": entry.summary,
        "source": entry.source,
    }


def _show(entry: Any, config: Any, console: Console) -> int:
    meta = entry.meta(config).to_dict()
    value = _summary(entry) | {"presets": sorted(entry.presets), "meta": meta}
    signal, decoder = meta["signal"] or {}, meta["decoder"] or {}
    shown = {
        "name": entry.name,
        "summary": entry.summary,
        "parameters": f"{entry.parameters:,}" if entry.parameters else None,
        "source": entry.source,
        "task": meta["task"],
        "inputs": ", ".join(_spec(spec) for spec in meta["inputs"]),
        "outputs": ", ".join(_spec(spec) for spec in meta["outputs"]),
        "stride": meta["stride"],
        "receptive field": meta["receptive_field"],
        "alphabet": meta["alphabet"],
        "normalisation": signal.get("normalisation"),
        "decoder": decoder.get("kind"),
        "presets": ", ".join(entry.presets) or None,
    }
    rows = [f"  {clean(key)}: {clean(str(item)[:160])}" for key, item in sorted(meta["config"].items())]
    console.result(plain(value), [*facts(shown), "", "configuration:", *rows])
    return 0


def _spec(spec: dict[str, Any]) -> str:
    return f"{spec['name']} ({', '.join(map(str, spec['shape']))}) {spec['dtype']}"


def _create(entry: Any, config: Any, args: argparse.Namespace, console: Console) -> int:
    from pathlib import Path

    from rubicc.evidence.staging import check_file_replaceable
    from rubicc.quantities import parse_whole

    if args.output is None:
        raise UsageError("RUB-CLI-006", "models create needs -o MODEL", hint="for example -o model.pt")
    path = Path(args.output)
    seed = parse_whole("seed", args.seed, "--seed", 0, 2**63 - 1)
    check_file_replaceable(path, force=args.force)  # before the work, not after it
    from rubicc.frontend import checkpoint
    from rubicc.models import registry

    module = entry.build(config, seed=seed)
    checkpoint.save(path, module, entry.meta(config))
    count = registry.network_parameters(module)
    value = {"path": str(path), "name": entry.name, "seed": seed, "parameters": count}
    console.result(
        value, f"wrote {clean(path)}: {entry.name}, {count:,} parameters, seed {seed}, random weights"
    )
    return 0
