"""``rubicc inspect MODEL|ARTEFACT``: what is in it and what it costs."""

from __future__ import annotations

import argparse
from typing import Any

from rubicc.cli.compile import print_config, resolve_settings
from rubicc.cli.console import Console, decision_line, facts, plain, table
from rubicc.cli.parser import add_reading, add_settings
from rubicc.text import si


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    add_reading(parser)
    add_settings(parser)


def run(args: argparse.Namespace, console: Console) -> int:
    """Print the facts."""
    settings = resolve_settings(args)
    if args.print_config:
        return print_config(settings, console)
    from rubicc import api

    found = api.inspect(args.model, settings=settings)
    console.result(plain(found), _lines(found))
    return 0


def _lines(found: Any) -> list[str]:
    at = ", ".join(f"{name}={size}" for name, size in found.bound.items())
    field = f"{found.receptive_field:,} samples" if found.receptive_field else found.receptive_field_reason
    head: dict[str, object] = {"model": f"{found.name} ({found.kind})", "sha256": found.sha256}
    head |= {f"input {spec.name}": _spec(spec) for spec in found.inputs}
    head |= {f"output {spec.name}": _spec(spec) for spec in found.outputs}
    costs = {
        "parameters": f"{found.parameters:,}",
        "weights": f"{si(found.weight_bytes)}B",
        "MACs": f"{si(found.macs)} at {at}" if at else si(found.macs),
        "BOPs": si(found.bops),
        "activations": None if found.activation_bytes is None else f"{si(found.activation_bytes)}B",
        "bits": ", ".join(f"{bits}: {macs / found.macs:.1%}" for bits, macs in found.bits.items()) or None,
        "receptive field": field or None,
        "stride": found.stride,
        "opset": found.opset,
    }
    if found.meta is not None:
        costs |= {"architecture": found.meta.arch, "task": found.meta.task, "alphabet": found.meta.alphabet}
        costs["normalisation"] = found.meta.signal.normalisation if found.meta.signal else None
        costs["decoder"] = found.meta.decoder.kind if found.meta.decoder else None
    lines = [
        *facts(head),
        "",
        *facts(costs),
        "",
        *table(("operator", "count"), found.operators.items(), right="1"),
    ]
    return [*lines, *map(decision_line, found.decisions)]


def _spec(spec: Any) -> str:
    return f"({', '.join(map(str, spec.shape))}) {spec.dtype}"
