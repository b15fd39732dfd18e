"""Every refusal and warning of the Core ML target at once."""

from __future__ import annotations

from pathlib import Path

from rubicc.backends.base import Checked, Finding, Target
from rubicc.backends.coreml.tools import OPSETS, opset
from rubicc.errors import ToolMissing
from rubicc.ir.graph import Graph
from rubicc.ir.io import weight_bytes
from rubicc.ir.shapes import dims_of

# The operators of small networks are judged as the pipeline leaves them. Of larger ones that would copy every
# weight for a table: those are judged when they are compiled, before anything is emitted.
PROBED_BYTES = 128 << 20
INTERFACE = ("RUB-COREML-104", "RUB-COREML-105")


def check(graph: Graph, target: Target) -> list[Finding]:
    """All findings for ``coreml[:device]``, errors first; the graph given stays as it is."""
    from rubicc.backends.coreml import lowering
    from rubicc.passes.manager import run_pipeline
    from rubicc.passes.pipelines import PIPELINES

    findings = _tools()
    if weight_bytes(graph) > PROBED_BYTES:
        found = lowering.findings(graph, opset(target.device).name)
        findings += [finding for finding in found if finding.rule in INTERFACE]
    else:
        probe = graph.clone()
        run_pipeline(probe, PIPELINES["coreml"])
        findings += lowering.findings(probe, opset(target.device).name)
    return sorted(findings, key=lambda finding: finding.severity != "error")


def check_package(path: Path, target: Target, *, strict: bool = False, audit: Path | None = None) -> Checked:
    """Where a package of any origin would run, by rules; beside them what a Mac says, where a dump is given.

    Args:
        path: the ``.mlpackage`` folder.
        target: its device, where one is named, must be able to read the package.
        strict: operations that are not known to run on the Neural Engine are errors.
        audit: what the ``ane_audit`` script wrote.

    Raises:
        ModelRefused: the package (``RUB-COREML-2xx``) or the dump (``RUB-COREML-401``, ``-402``) is refused.
        ToolMissing: ``RUB-COREML-001``.
    """
    from rubicc.backends.coreml import lint
    from rubicc.backends.coreml.run.load import load

    package = load(path)
    report = lint.lint(package)
    details, told, pictures = lint.audit(package), lint.lines(report), [lint.placement(report)]
    if audit is not None:
        details = lint.merge(details, lint.read_dump(audit))
        told += lint.compared(details)
        pictures.append(lint.planned(details))
    findings = [*_too_new(package.specification, target), *lint.findings(report, strict=strict)]
    return Checked(tuple(findings), (*told, *lint.memory_lines(details)), details, tuple(pictures))


def _too_new(specification: int, target: Target) -> list[Finding]:
    if not target.device or specification <= opset(target.device).specification:
        return []
    needed = next(
        (known.name for known in OPSETS.values() if known.specification >= specification), "a newer one"
    )
    reason = f"the package has specification {specification}: {needed} reads it, {target.device} does not"
    return [
        Finding("RUB-COREML-404", "error", "", "", reason, f"compile with --target coreml:{target.device}")
    ]


def _tools() -> list[Finding]:
    from rubicc.backends.coreml.tools import coremltools

    try:
        coremltools()
    except ToolMissing as err:
        return [Finding(err.code, "error", "", "", err.what, err.hint, missing_tool=True)]
    return []


def enumerated_inputs(graph: Graph, target: Target, kind: str) -> list[Finding]:
    """Before iOS18 one input only may have a list of shapes (coremltools' own rule)."""
    flexible = [
        value.name or ""
        for value in graph.inputs
        if not all(isinstance(dim, int) for dim in dims_of(value) or ())
    ]
    if kind != "enumerated" or len(flexible) < 2 or opset(target.device) >= OPSETS["iOS18"]:
        return []
    reason = f"{len(flexible)} inputs have enumerated shapes; before iOS18 Core ML takes one such input"
    remedy = "--target coreml:iOS18, or --shapes with one shape or a range"
    return [Finding("RUB-COREML-003", "error", flexible[1], "", reason, remedy)]
