"""The folder that a verb leaves: a MODEL for the next one, and the evidence of what was done.

``model.onnx`` (QONNX with metadata), ``checkpoint.pt``, ``report.html`` and ``report.json``, ``training/``
with the logs, ``manifest.json``. It appears whole or not at all.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rubicc.evidence import change
from rubicc.evidence.change import ChangeReport, Figure
from rubicc.evidence.decision import Decision
from rubicc.evidence.environment import cpu, library_versions
from rubicc.evidence.manifest import Manifest
from rubicc.evidence.staging import StagedDir

if TYPE_CHECKING:
    from rubicc.ir.graph import Graph
    from rubicc.shrink.student import Student

MODEL, CHECKPOINT, LOGS = "model.onnx", "checkpoint.pt", "training"
TARGET = "model"  # the manifest's target: not an artefact of a compilation, but a model


@dataclass(frozen=True)
class Result:
    """What a verb made.

    Attributes:
        path: the folder, which is a MODEL.
    """

    path: Path
    report: ChangeReport
    manifest: Manifest


def figures(before: Graph, after: Graph, *, was: Mapping[str, float] | None = None) -> list[Figure]:
    """Parameters, MACs, BOPs, bytes of weights, before and after.

    Args:
        was: facts of ``before``, where they were taken already.
    """
    was, now = was or facts(before), facts(after)
    how = {
        name: f"at {where}" if where else "" for name, where in (("MACs", _at(before)), ("BOPs", _at(before)))
    }
    units = {"parameters": "count", "MACs": "", "BOPs": "", "bytes of weights": "B"}
    return [Figure(name, was[name], now[name], unit, how.get(name, "")) for name, unit in units.items()]


def facts(graph: Graph) -> dict[str, float]:
    """What a graph costs for one item of its usual length."""
    from rubicc.ir.costs import costs

    found = costs(graph, bound(graph))
    return {
        "parameters": found.params,
        "MACs": found.macs,
        "BOPs": found.bops,
        "bytes of weights": found.quantised_weight_bytes,
    }


def bound(graph: Graph) -> dict[str, int]:
    """Sizes of the symbols: one item of the length that inference uses."""
    from rubicc.frontend.feeds import TOKEN_SIZES
    from rubicc.ir.graph import spec_of

    length = graph.meta.chunk if graph.meta and graph.meta.chunk else TOKEN_SIZES[0] * 100
    specs = [spec_of(value) for value in graph.inputs]
    return {
        dim: 1 if axis == 0 else length
        for spec in specs
        for axis, dim in enumerate(spec.shape)
        if isinstance(dim, str)
    }


def _at(graph: Graph) -> str:
    return ", ".join(f"{name}={size}" for name, size in bound(graph).items())


def write(
    staged: StagedDir,
    student: Student,
    graph: Graph,
    report: ChangeReport,
    *,
    logs: Mapping[str, Path],
    inputs: Mapping[str, str],
    seed: int,
    measured: Mapping[str, Any],
) -> Result:
    """Write everything into ``staged`` and swap it in.

    Args:
        graph: the changed network.
        logs: folders whose CSV files are kept, by what their names shall begin with.
        inputs: role -> sha256 of what was read, beside the model.
    """
    from rubicc.frontend import checkpoint
    from rubicc.ir.io import save_graph

    save_graph(graph, staged.path / MODEL)
    if student.zoo:
        checkpoint.save(staged.path / CHECKPOINT, student.inner, student.meta)
    elif graph.meta is not None:
        checkpoint.save_graph(staged.path / CHECKPOINT, graph)
    if logs:
        (staged.path / LOGS).mkdir()
    for prefix, folder in logs.items():
        for file in sorted(folder.glob("*.csv")):
            _copy_without_times(file, staged.path / LOGS / f"{prefix}{file.name}")
    change.write(staged.path, report)
    manifest = Manifest(
        target=TARGET,
        model={"name": student.name, "kind": student.kind, "arch": student.meta.arch},
        inputs={"model": student.sha256, **inputs},
        versions=library_versions(),
        cpu={key: value for key, value in cpu().items() if key != "model"},
        seeds={"seed": seed},
        decisions=tuple(report.decisions),
    )
    path = staged.commit(manifest, measured)
    return Result(path, report, manifest)


def _copy_without_times(log: Path, to: Path) -> None:
    """Times never enter hashed bytes."""
    with log.open(newline="", encoding="utf-8") as given, to.open("w", newline="", encoding="utf-8") as made:
        rows = csv.DictReader(given)
        names = [name for name in rows.fieldnames or () if name != "seconds"]
        writer = csv.DictWriter(made, names, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def graph_decision(student: Student) -> list[Decision]:
    """That the checkpoint carries a graph, where it does."""
    if student.zoo:
        return []
    reason = f"architecture {student.meta.arch!r} is read as a graph"
    return [Decision("RUB-SHRINK-D05", student.name, "checkpoint of form graph", reason)]
