"""Every refusal and warning of the CPU and GPU targets at once, with rule, node, module path and remedy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import onnx
import onnx_ir as ir

from rubicc.backends.base import Finding, Severity, Target
from rubicc.backends.cpu_gpu import runtimes
from rubicc.errors import ToolMissing
from rubicc.ir.graph import Graph, is_quantiser, op_key, source_of
from rubicc.ir.io import weight_bytes

EXCHANGED = frozenset(
    [
        "FLOAT",
        "FLOAT16",
        "DOUBLE",
        "INT8",
        "INT16",
        "INT32",
        "INT64",
        "UINT8",
        "UINT16",
        "UINT32",
        "UINT64",
        "BOOL",
    ]
)  # types numpy holds and both runtimes exchange
BIG_MODEL, BIG_WEIGHT = 64 << 20, 1 << 16
MAX_MODEL_BYTES = (1 << 31) - (1 << 20)  # protobuf's limit, less room for metadata


def check(graph: Graph, target: Target) -> list[Finding]:
    """All findings for ``target`` (``cpu``, ``gpu[:device]``), errors first; reads nothing but the graph.

    Operators are judged by the runtimes themselves: the model is given to each installed runtime, and where
    one refuses it, the nodes behind the refusal are named. Graphs with quantisers are judged as they will be
    emitted, with the quantisers expanded.
    """
    findings = [*_runtime_present(target), *_interface(graph), *_foreign(graph), *_quantisers(graph)]
    size = weight_bytes(graph)
    if size > MAX_MODEL_BYTES:
        reason = f"weights take {size} bytes, an ONNX file holds at most {MAX_MODEL_BYTES}"
        findings.append(Finding("RUB-CPU-007", "error", "", "", reason, "prune or quantise the model"))
    if not any(finding.severity == "error" for finding in findings if finding.rule != "RUB-CPU-006"):
        findings += _operators(graph, target)
    return sorted(findings, key=lambda finding: finding.severity != "error")


def quantisers(graph: Graph) -> list[ir.Node]:
    """QONNX quantiser nodes, which no runtime executes."""
    return [node for node in graph.all_nodes() if is_quantiser(node)]


def _runtime_present(target: Target) -> list[Finding]:
    if target.name == "gpu":
        try:
            runtimes.gpu_providers(target)
        except ToolMissing as err:
            return [Finding(err.code, "error", "", "", err.what, err.hint, missing_tool=True)]
    if not runtimes.installed():
        return [
            Finding(
                "RUB-CPU-009", "error", "", "", "no runtime is installed", "pip install onnxruntime", True
            )
        ]
    return []


def _interface(graph: Graph) -> list[Finding]:
    findings = []
    for value in [*graph.inputs, *graph.outputs]:
        name = value.name or ""
        kind = value.dtype.name if value.dtype is not None else "unknown"
        if kind not in EXCHANGED:
            reason = f"{name} has element type {kind}"
            findings.append(Finding("RUB-CPU-004", "error", name, "", reason, "cast inside the network"))
    known = graph.meta is not None and graph.meta.chunk is not None
    for value in graph.inputs:
        name = value.name or ""
        if value.shape is None:
            reason = f"the rank of input {name} is unknown"
            findings.append(
                Finding("RUB-CPU-005", "error", name, "", reason, f"give it with --input {name}=SHAPE")
            )
            continue
        free = [str(dim) for dim in list(value.shape)[1:] if not isinstance(dim, int)]
        if free and not known:
            reason = f"nothing says how long {', '.join(free)} of input {name} usually is"
            remedy = "set the chunk length in the model's metadata, or measure with `rubicc bench --length`"
            findings.append(Finding("RUB-CPU-005", "warning", name, "", reason, remedy))
    return findings


def _foreign(graph: Graph) -> list[Finding]:
    return [
        Finding(
            "RUB-CPU-002",
            "error",
            node.name or "",
            source_of(node),
            f"operator {op_key(node)} is not ONNX",
            "export the network without it",
        )
        for node in graph.all_nodes()
        if node.domain not in ("", "ai.onnx", "ai.onnx.ml")
        and not is_quantiser(node)
        and (node.domain, node.op_type, node.overload) not in graph.model.functions
    ]


def _quantisers(graph: Graph) -> list[Finding]:
    return [
        Finding(
            "RUB-CPU-003",
            "warning",
            node.name or "",
            source_of(node),
            f"{node.op_type} will be expanded into fp32 arithmetic",
            "nothing to do; integer execution needs --precision int8",
        )
        for node in quantisers(graph)
    ]


def _operators(graph: Graph, target: Target) -> list[Finding]:
    """Real session creation in each runtime; an error only when none the target may use takes it."""
    if quantisers(graph):
        from rubicc.backends.cpu_gpu.prepare import expand_quantisers

        graph, _ = expand_quantisers(graph)
    model = _probe(graph).to_proto().SerializeToString()
    probes: dict[str, Callable[[bytes], runtimes.Refusal | None]] = {
        "onnxruntime": runtimes.try_onnxruntime,
        "openvino": runtimes.try_openvino,
    }
    # native takes what its own lowering says, and says it in the plan: it refuses nothing the others take.
    wanted = ["onnxruntime"] if target.name == "gpu" else list(probes)
    usable = [name for name in wanted if name in runtimes.installed()]
    refusals = [refusal for name in usable if (refusal := probes[name](model)) is not None]
    if refusals and weight_bytes(graph) > BIG_MODEL:  # it may have missed its weights
        model = graph.to_proto().SerializeToString()
        refusals = [refusal for name in usable if (refusal := probes[name](model)) is not None]
    severity: Severity = "error" if usable and len(refusals) == len(usable) else "warning"
    return [finding for refusal in refusals for finding in _explain(graph, refusal, severity)]


def _probe(graph: Graph) -> Graph:
    """The graph as it is given to the runtimes: of a big one a copy that takes its large matrices as inputs.

    Whether a runtime has an operator does not depend on the weights, and loading them costs each runtime
    seconds and gigabytes. The plan loads the emitted files whole.
    """
    if weight_bytes(graph) <= BIG_MODEL:
        return graph
    light = graph.clone()
    for name, value in list(light.ir.initializers.items()):
        big = value.const_value is not None and value.const_value.nbytes > BIG_WEIGHT
        if big and all(node.op_type in ("MatMul", "Gather", "Add") for node, _ in value.uses()):
            value.const_value = None
            del light.ir.initializers[name]
            light.ir.inputs.append(value)
    return light


def _explain(graph: Graph, refusal: runtimes.Refusal, level: Severity) -> list[Finding]:
    """One finding per node the runtime cannot run, or one for the model when no node explains the refusal."""
    remedy = (
        "replace the operator in the source network"
        if level == "error"
        else f"nothing to do: --runtime auto leaves {refusal.runtime} out"
    )
    rows = [
        Finding(
            "RUB-CPU-001",
            level,
            node.name or "",
            source_of(node),
            f"{refusal.runtime} has no {_described(node)}",
            remedy,
        )
        for node in graph.all_nodes()
        if _cannot(node, graph.opset, refusal)
    ]
    if rows:
        return rows
    blamed = next((n for n in graph.all_nodes() if n.name and f"({n.name})" in refusal.message), None)
    where = ("", "") if blamed is None else (blamed.name or "", source_of(blamed))
    reason = f"{refusal.runtime} refuses the model: {refusal.message}"
    return [Finding("RUB-CPU-008", level, *where, reason, remedy)]


def _cannot(node: ir.Node, opset: int, refusal: runtimes.Refusal) -> bool:
    if refusal.runtime == "openvino":
        return node.op_type in {op.rpartition(".")[2] for op in refusal.ops}
    return not _has_ort_kernel(node, opset)


def _has_ort_kernel(node: ir.Node, opset: int) -> bool:
    domain = "" if node.domain == "ai.onnx" else node.domain
    if domain == "" and onnx.defs.has(node.op_type) and _is_function(node.op_type, opset):
        return True  # ONNX Runtime expands operators that ONNX defines as functions
    rows = runtimes.ort_kernels().get((domain, node.op_type), ())
    version = opset if domain == "" else 1
    types = {_ort_type(value) for value in [*node.inputs, *node.outputs] if value is not None and value.dtype}
    return any(first <= version <= last and (not known or types <= known | {"int64", "bool"})
               for first, last, known in rows)  # fmt: skip


def _is_function(op_type: str, opset: int) -> bool:
    try:
        schema: Any = onnx.defs.get_schema(op_type, opset, "")
    except onnx.defs.SchemaError:
        return False
    return bool(schema.has_function or schema.has_context_dependent_function)


def _ort_type(value: ir.Value) -> str:
    return value.dtype.name.lower() if value.dtype is not None else ""


def _described(node: ir.Node) -> str:
    types = [_ort_type(value) for value in node.inputs if value is not None and value.dtype is not None]
    return f"{op_key(node)} for {', '.join(dict.fromkeys(types))}" if types else op_key(node)
