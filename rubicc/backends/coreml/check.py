"""Every refusal and warning of the Core ML target at once."""

from __future__ import annotations

from rubicc.backends.base import Finding, Target
from rubicc.backends.coreml.tools import OPSETS, opset
from rubicc.errors import ToolMissing
from rubicc.ir.graph import Graph
from rubicc.ir.io import weight_bytes
from rubicc.ir.shapes import dims_of

# What Core ML exchanges: floats (halves too), and integers that fit into 32 bits.
EXCHANGED = frozenset(
    ["FLOAT", "FLOAT16", "INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64", "BOOL"]
)
# The operators of small networks are judged as the pipeline leaves them. Of larger ones that would copy every
# weight for a table: those are judged when they are compiled, before anything is emitted.
PROBED_BYTES = 128 << 20


def check(graph: Graph, target: Target) -> list[Finding]:
    """All findings for ``coreml[:device]``, errors first; the graph given stays as it is."""
    findings = [*_tools(), *_interface(graph, target)]
    if not any(finding.severity == "error" for finding in findings):
        findings += _operators(graph, target)
    return sorted(findings, key=lambda finding: finding.severity != "error")


def _tools() -> list[Finding]:
    from rubicc.backends.coreml.tools import coremltools

    try:
        coremltools()
    except ToolMissing as err:
        return [Finding(err.code, "error", "", "", err.what, err.hint, missing_tool=True)]
    return []


def _interface(graph: Graph, target: Target) -> list[Finding]:
    findings = []
    for value in [*graph.inputs, *graph.outputs]:
        name = value.name or ""
        kind = value.dtype.name if value.dtype is not None else "unknown"
        if kind not in EXCHANGED:
            reason = f"{name} has element type {kind}"
            findings.append(Finding("RUB-COREML-002", "error", name, "", reason, "cast inside the network"))
    for value in graph.inputs:
        name = value.name or ""
        dims = dims_of(value)
        if dims is None or not 1 <= len(dims) <= 5:
            found = "unknown rank" if dims is None else f"rank {len(dims)}"
            reason = f"input {name} has {found}; Core ML takes ranks 1 to 5"
            findings.append(
                Finding("RUB-COREML-003", "error", name, "", reason, f"give it with --input {name}=SHAPE")
            )
    return findings


def enumerated_inputs(graph: Graph, target: Target, kind: str) -> list[Finding]:
    """Before iOS18 one input only may have a list of shapes."""
    flexible = [
        value.name or ""
        for value in graph.inputs
        if not all(isinstance(d, int) for d in dims_of(value) or ())
    ]
    if kind != "enumerated" or len(flexible) < 2 or opset(target.device) >= OPSETS["iOS18"]:
        return []
    reason = f"{len(flexible)} inputs have enumerated shapes; before iOS18 Core ML takes one such input"
    remedy = "--target coreml:iOS18, or --shapes with one shape or a range"
    return [Finding("RUB-COREML-003", "error", flexible[1], "", reason, remedy)]


def _operators(graph: Graph, target: Target) -> list[Finding]:
    """What the lowering refuses, of the graph as the pipeline leaves it."""
    from rubicc.backends.coreml import lowering
    from rubicc.passes.manager import run_pipeline
    from rubicc.passes.pipelines import PIPELINES

    if weight_bytes(graph) > PROBED_BYTES:
        return []
    probe = graph.clone()
    run_pipeline(probe, PIPELINES["coreml"])
    return lowering.findings(probe, opset(target.device).name)
