"""Writes the artefact's ``coreml`` folder: package, Swift package, residency table, README."""

from __future__ import annotations

import gc
import json
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

from rubicc.backends.base import EmitResult, refuse
from rubicc.backends.coreml.description import (
    AUTHOR,
    HASH_KEY,
    KEY,
    LICENCE,
    CoremlPlan,
    Description,
    describe,
    input_text,
    metadata,
    output_text,
)
from rubicc.backends.coreml.package import Facts, write_package
from rubicc.evidence.gaps import DEFAULT_SNR
from rubicc.ir.graph import Graph

if TYPE_CHECKING:
    from rubicc.backends.coreml.lint import LintReport
    from rubicc.backends.coreml.lowering import Lowered
    from rubicc.backends.coreml.swift import Vectors


def emit(graph: Graph, plan: CoremlPlan, folder: Path) -> EmitResult:
    """Write everything of the target into ``folder`` (created if need be; staging is the caller's).

    Raises:
        Unsupported: an operator has no lowering; under ``--strict`` one that the Neural Engine does not take.
        ToolMissing: ``RUB-COREML-001``.
    """
    from rubicc.backends.coreml import lint, swift
    from rubicc.backends.coreml.run.load import load

    folder.mkdir(parents=True, exist_ok=True)
    path, lowered, written = write_model(graph, plan, folder)
    package = load(path)
    linted = lint.lint(package)
    refuse(lint.findings(linted, strict=plan.strict), plan.target)
    _write_json(folder / "ane.json", lint.audit(package))
    lint.write_audit_script(folder)
    swift.write(
        folder,
        name=plan.name,
        meta=graph.meta,
        inputs=written.inputs,
        outputs=written.outputs,
        assets=plan.assets,
        vectors=_vectors(plan, written),
        target=plan.opset,
        features=written.names,
    )
    (folder / "README.md").write_text(_readme(plan), encoding="utf-8")
    names = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    sizes = {name: (folder / name).stat().st_size for name in names}
    stored = {name: weight.stored for name, weight in lowered.weights.items()}
    evidence = {
        "bytes": sizes,
        "weights": stored,
        "totals": _totals(linted),
        "lint": lint.lines(linted),
        "placements": [lint.placement(linted)],
    }
    return EmitResult(folder, tuple(names), evidence)


def write_model(graph: Graph, plan: CoremlPlan, folder: Path) -> tuple[Path, Lowered, Description]:
    """Write only the package, in the precision that ``plan.compute`` says.

    Returns:
        Its path, the lowering without its program, and the description.

    Raises:
        Unsupported: an operator has no lowering.
        ToolMissing: ``RUB-COREML-001``.
    """
    from rubicc.backends.coreml.lowering import lower

    lowered = plan.lowered.take()
    if lowered is None:
        lowered = lower(graph, target=plan.opset, precision=plan.compute, shapes=plan.shapes)
    written = describe(graph, plan, lowered)
    meta = graph.meta
    facts = Facts(
        summary=_summary(plan, meta),
        author=AUTHOR,
        licence=LICENCE,
        inputs={
            lowered.names[item.name]: input_text(item, lowered.types[item.name], meta)
            for item in plan.shapes.inputs
        },
        outputs={lowered.names[spec.name]: output_text(spec, meta) for spec in written.outputs},
        user=metadata(graph, plan) | {KEY: written.to_json()},
    )
    path = folder / f"{plan.name}.mlpackage"
    shapes = {lowered.names[item.name]: item for item in plan.shapes.inputs}
    write_package(path, lowered.program, plan.target_opset, shapes, facts, hash_key=HASH_KEY)
    lowered = replace(lowered, program=None)
    gc.collect()  # operations and variables of a program refer to each other, and they hold the weights
    return path, lowered, written


def _vectors(plan: CoremlPlan, written: Description) -> Vectors | None:
    """The example in the package's own types, with the accuracy its precision is held to."""
    from rubicc.backends.coreml.swift import Vectors

    if plan.example is None:
        return None
    inputs, outputs = plan.example()
    types = {spec.name: spec.dtype for spec in (*written.inputs, *written.outputs)}
    return Vectors(
        {name: array.astype(types[name]) for name, array in inputs.items()},
        {name: array.astype(types[name]) for name, array in outputs.items()},
        DEFAULT_SNR[plan.precision],
    )


def _totals(linted: LintReport) -> dict[str, str]:
    """What the report shows of the residency."""
    counts = linted.counts
    told = ", ".join(f"{counts[key]} {key}" for key in ("eligible", "not", "unknown"))
    return {
        "Neural Engine, by rules": f"{told} of {linted.operations} operations; {linted.share:.2%} of the MACs"
    }


def _summary(plan: CoremlPlan, meta: Any) -> str:
    what = f"{meta.arch} ({meta.task})" if meta is not None else plan.name
    since = f"{plan.opset} ({plan.target_opset.macos})"
    return f"{what}, {plan.precision}, compiled by rubicc for {since} and later"


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _readme(plan: CoremlPlan) -> str:
    text = files("rubicc.backends.coreml.templates").joinpath("README.md.tmpl").read_text(encoding="utf-8")
    return Template(text).substitute(
        name=plan.name, opset=plan.opset, macos=plan.target_opset.macos, precision=plan.precision
    )
