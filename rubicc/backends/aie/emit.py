"""Writes the artefact's ``aie`` folder: integer graph, plan, picture, Vitis project."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np

from rubicc.backends.aie import artefact
from rubicc.backends.aie.host import Host
from rubicc.backends.aie.plan import picture
from rubicc.backends.aie.plan.model import AiePlan
from rubicc.backends.aie.project import write
from rubicc.backends.aie.project.write import throughput
from rubicc.backends.aie.target_plan import AieTargetPlan
from rubicc.backends.base import EmitResult
from rubicc.ir.graph import Graph
from rubicc.ir.io import save_graph


def emit(graph: Graph, plan: AieTargetPlan, folder: Path) -> EmitResult:
    """Write everything of the target into ``folder`` (created if need be; staging is the caller's).

    Raises:
        Unsupported: the project's and the kernels' codes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    save_graph(graph, folder / artefact.GRAPH)
    artefact.write_json(folder / artefact.PLAN, plan.array.to_dict())
    (folder / artefact.PICTURE).write_text(picture.svg(plan.array), encoding="utf-8")
    example = _example(Host(graph, plan.net), plan)
    written = write(plan.array, plan.net, folder / artefact.PROJECT, name=plan.name, example=example)
    artefact.write_index(folder, batch_axes(graph), name=plan.name, example=example)
    names = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    evidence = {
        "totals": totals(plan.array),
        "kernels": {source: list(classes) for source, classes in sorted(written.kernels.items())},
        "floors": [asdict(picture.floor(plan.array))],
    }
    return EmitResult(folder, tuple(names), evidence)


def batch_axes(graph: Graph) -> dict[str, int]:
    """Axis of the batch of every input and output, by the symbol the model gives it; empty without one."""
    meta = graph.meta
    if meta is None or not meta.inputs or not meta.inputs[0].shape:
        return {}
    symbol = meta.inputs[0].shape[0]
    specs = {spec.name: spec.shape for spec in (*meta.inputs, *meta.outputs)}
    names = [value.name or "" for value in (*graph.inputs, *graph.outputs)]
    if not isinstance(symbol, str) or any(symbol not in specs.get(name, ()) for name in names):
        return {}
    return {name: specs[name].index(symbol) for name in names}


def totals(plan: AiePlan) -> dict[str, str]:
    """What the report shows of a plan; every estimate with its band."""
    found = plan.throughput
    cores = int(plan.facts["columns"]) * int(plan.facts["rows"])
    low, high = found.latency_band
    rows = {
        "tiles": f"{len(plan.tiles)} of {cores} cores, busy {found.busy:.0%} on average",
        "throughput, estimated": throughput(plan),
        "bound by": found.bound,
        "first result, estimated": f"{found.latency * 1e6:.0f} us ({low * 1e6:.0f} to {high * 1e6:.0f})",
    }
    if found.bases > 0:
        low, high = (value / 1e6 for value in found.bases_band)
        rows["bases per second, estimated"] = f"{found.bases / 1e6:.2f} million ({low:.2f} to {high:.2f})"
    return rows


def _example(host: Host, plan: AieTargetPlan) -> dict[str, np.ndarray]:
    """Integers the simulations are fed: the proof's first input, or zeros."""
    if plan.example is not None:
        inputs, _ = plan.example()
        return host.integers(inputs)
    zeros = {
        value.name or "": np.zeros(tuple(int(str(dim)) for dim in value.shape or ()), np.float32)
        for value in host.graph.inputs
    }
    return host.integers(zeros)
