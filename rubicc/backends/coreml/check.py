"""Every refusal and warning of the Core ML target at once."""

from __future__ import annotations

from rubicc.backends.base import Finding, Target
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
