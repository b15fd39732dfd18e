"""``runtime.json``: everything ``run.py`` must know, as plain values; no times, paths or machine names."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

import rubicc
from rubicc.backends.cpu_gpu.templates.run import SCHEMA_VERSION
from rubicc.ir.graph import Graph, spec_of

if TYPE_CHECKING:
    import onnx_ir

    from rubicc.backends.cpu_gpu.plan import CpuGpuPlan

MODEL_FILE = "model.onnx"
# What OpenVINO is told to compute in. fp16 files are computed in fp32 there: only the weights are rounded.
OPENVINO_PRECISION = {
    "fp32": ("f32", "ACCURACY"),
    "fp16": ("f32", "ACCURACY"),
    "bf16": ("bf16", "PERFORMANCE"),
}


def model_bytes(graph: Graph) -> bytes:
    """The graph as ONNX; equal graphs give equal bytes."""
    return graph.to_proto().SerializeToString(deterministic=True)


def description(graph: Graph, plan: CpuGpuPlan, model: bytes) -> dict[str, Any]:
    """The content of ``runtime.json`` for a graph, its plan and its serialised form."""
    precision, mode = OPENVINO_PRECISION[plan.precision]
    return {
        "schema_version": SCHEMA_VERSION,
        "tool": f"rubicc {rubicc.__version__}",
        "target": str(plan.target),
        "runtime": plan.runtime,
        "runtimes": list(plan.runtimes),
        "precision": plan.precision,
        "threads": plan.threads,
        "batch": plan.batch,
        "model": {"file": MODEL_FILE, "sha256": hashlib.sha256(model).hexdigest(), "bytes": len(model)},
        "inputs": [_tensor(value) for value in graph.inputs],
        "outputs": [_tensor(value) for value in graph.outputs],
        "onnxruntime": {"providers": list(plan.providers), "graph_optimization_level": "all"},
        "openvino": {
            "inference_precision": precision,
            "execution_mode": mode,
            "static_shapes": [dict(plan.static_shape)] if plan.static_shape else [],
        },
        "meta": graph.meta.to_dict() if graph.meta is not None else None,
    }


def as_text(data: dict[str, Any]) -> str:
    """Canonical JSON text: sorted keys, two spaces, newline at the end."""
    return json.dumps(data, indent=2, sort_keys=True, ensure_ascii=True) + "\n"


def _tensor(value: onnx_ir.Value) -> dict[str, Any]:
    spec = spec_of(value)
    return {"name": spec.name, "dtype": spec.dtype, "shape": list(spec.shape)}
