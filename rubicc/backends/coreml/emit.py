"""Writes the artefact's ``coreml`` folder: package, Swift package, residency table, README."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

from rubicc.backends.base import EmitResult
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
from rubicc.ir.graph import Graph

if TYPE_CHECKING:
    from rubicc.backends.coreml.lowering import Lowered

_TEMPLATES = files("rubicc.backends.coreml.templates")


def emit(graph: Graph, plan: CoremlPlan, folder: Path) -> EmitResult:
    """Write everything of the target into ``folder`` (created if need be; staging is the caller's).

    Raises:
        Unsupported: an operator has no lowering (codes of the lowering).
        ToolMissing: ``RUB-COREML-001``.
    """
    from rubicc.backends.coreml import lint, swift
    from rubicc.backends.coreml.run import load

    folder.mkdir(parents=True, exist_ok=True)
    path, lowered, written = write_model(graph, plan, folder)
    package = load(path)
    audit = lint.audit(package, plan.opset)
    (folder / "ane.json").write_text(json.dumps(audit, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    lint.write_audit_script(folder)
    example = plan.example() if plan.example is not None else None
    swift.write(
        folder / "Swift",
        name=plan.name,
        meta=graph.meta,
        inputs=written.inputs,
        outputs=written.outputs,
        assets=plan.assets,
        vectors=example,
    )
    (folder / "README.md").write_text(_readme(plan, audit), encoding="utf-8")
    names = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    sizes = {name: (folder / name).stat().st_size for name in names}
    stored = {name: str(how) for name, how in lowered.weights.items()}
    return EmitResult(folder, tuple(names), {"bytes": sizes, "weights": stored})


def write_model(graph: Graph, plan: CoremlPlan, folder: Path) -> tuple[Path, Lowered, Description]:
    """Lower ``graph`` and write only the package; ``plan.compute`` says in which precision.

    Raises:
        Unsupported: an operator has no lowering.
        ToolMissing: ``RUB-COREML-001``.
    """
    from rubicc.backends.coreml.lowering import lower

    lowered = lower(graph, target=plan.opset, precision=plan.compute, shapes=plan.shapes)
    written = describe(graph, plan, lowered.names)
    meta = graph.meta
    facts = Facts(
        summary=_summary(plan, meta),
        author=AUTHOR,
        licence=LICENCE,
        inputs={lowered.names[item.name]: input_text(item, meta) for item in plan.shapes.inputs},
        outputs={lowered.names[spec.name]: output_text(spec, meta) for spec in written.outputs},
        user=metadata(graph, plan) | {KEY: written.to_json()},
    )
    path = folder / f"{plan.name}.mlpackage"
    shapes = {lowered.names[item.name]: item for item in plan.shapes.inputs}
    write_package(path, lowered.program, plan.target_opset, shapes, facts, hash_key=HASH_KEY)
    return path, lowered, written


def _summary(plan: CoremlPlan, meta: Any) -> str:
    what = f"{meta.arch} ({meta.task})" if meta is not None else plan.name
    since = f"{plan.opset} ({plan.target_opset.macos})"
    return f"{what}, {plan.precision}, compiled by rubicc for {since} and later"


def _readme(plan: CoremlPlan, audit: Any) -> str:
    template = Template(_TEMPLATES.joinpath("README.md.tmpl").read_text(encoding="utf-8"))
    return template.substitute(
        name=plan.name, opset=plan.opset, macos=plan.target_opset.macos, precision=plan.precision
    )
