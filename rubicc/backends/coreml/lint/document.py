"""``ane.json``: verdicts with rules and sources, and activation memory, as plain values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rubicc.backends.coreml.lint.memory import memory
from rubicc.backends.coreml.lint.observed import default_shapes, shapes_at
from rubicc.backends.coreml.lint.report import LintReport, lint
from rubicc.backends.coreml.lint.view import legend
from rubicc.backends.coreml.run.program import Package
from rubicc.errors import RubiccError

SCHEMA_VERSION = 1
STORAGES = ("declared", "fp16")


def to_dict(report: LintReport) -> dict[str, Any]:
    """Plain values, no times and no paths; ``legend`` tells every rule that holds somewhere."""
    held = {applied.rule for op in report.ops for applied in op.applied}
    held |= {applied.rule for applied in report.package}
    return {
        "schema_version": SCHEMA_VERSION,
        "package": report.name,
        "function": report.function,
        "specification": report.specification,
        "family": report.family or "all from A13 and M1 on",
        "rules": report.rules,
        "operations": report.operations,
        "counts": report.counts,
        "macs": report.macs,
        "share": round(report.share, 6),
        "weight_bytes": report.weight_bytes,
        "package_rules": [vars(applied) for applied in report.package],
        "hints": report.hints,
        "legend": legend(held),
        "ops": [
            {
                "index": op.index,
                "name": op.name,
                "type": op.kind,
                "path": op.path,
                "status": op.status,
                "rules": [vars(applied) for applied in op.applied],
                "macs": op.macs,
                "results": list(op.results),
            }
            for op in report.ops
            if op.status != "weight" or op.applied
        ],
    }


def audit(package: Package, *, family: str | None = None) -> dict[str, Any]:
    """The content of ``ane.json`` for a package: :func:`to_dict`, and the memory at the default shapes.

    Verdicts are those of the package as it is: a free axis is judged as free. Memory of flexible shapes is
    found by running the package once; where that cannot be, ``memory`` says why under ``unknown``.
    """
    found = to_dict(lint(package, family=family))
    try:
        shapes = shapes_at(package)
        measured = {key: vars(memory(package, shapes=shapes, storage=key)) for key in STORAGES}
        found["memory"] = {"inputs": {k: list(v) for k, v in default_shapes(package).items()}} | measured
    except RubiccError as err:
        found["memory"] = {"unknown": err.what}
    return found


def memory_lines(found: Mapping[str, Any]) -> list[str]:
    """The memory of :func:`audit` as text."""
    memory = found["memory"]
    if "unknown" in memory:
        return [f"activation memory unknown: {memory['unknown']}"]
    half = memory["fp16"]
    inputs = ", ".join(f"{name} {'x'.join(map(str, shape))}" for name, shape in memory["inputs"].items())
    return [
        f"activations in float16 for {inputs}: {half['peak']:,} bytes at most at once (during "
        f"{half['peak_at']}), the largest value {half['largest']:,} ({half['largest_name']})"
    ]
