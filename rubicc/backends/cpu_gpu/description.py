"""``runtime.json``: everything ``run.py`` must know, as plain values; no times, paths or machine names."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import rubicc
from rubicc.backends.base import Plan
from rubicc.backends.cpu_gpu.runtimes import CPU_PROVIDER
from rubicc.backends.cpu_gpu.templates.run import SCHEMA_VERSION
from rubicc.ir.graph import Graph, spec_of

if TYPE_CHECKING:
    import onnx_ir

MODEL_FILE = "model.onnx"
# What OpenVINO is told to compute in. fp16 files are computed in fp32 there: only the weights are rounded.
OPENVINO_PRECISION = {
    "fp32": ("f32", "ACCURACY"),
    "fp16": ("f32", "ACCURACY"),
    "bf16": ("bf16", "PERFORMANCE"),
    "int8": ("f32", "ACCURACY"),
    "mixed": ("f32", "ACCURACY"),
}


@dataclass(frozen=True, kw_only=True)
class CpuGpuPlan(Plan):
    """A plan of the CPU and GPU backend.

    Attributes:
        runtime: what executes by default.
        precision: ``fp32``, ``fp16`` (the graph is fp16), ``bf16`` (the runtime computes in it), ``int8`` or
            ``mixed`` (the graph is quantised, wholly or in part).
        layout: ``plain`` or ``polyphase``: how the graph lays time out.
        providers: ONNX Runtime's execution providers.
        threads: threads in all; ``None`` = the CPUs the process may use when it runs.
        batch: batch items that inference should have in flight.
        streams: calls they are cut into, running at the same time; ``None`` = one per thread.
        static_shape: input shapes for which OpenVINO compiles a model of its own; empty = none.
    """

    runtime: str
    precision: str = "fp32"
    layout: str = "plain"
    providers: tuple[str, ...] = (CPU_PROVIDER,)
    threads: int | None = None
    batch: int = 1
    streams: int | None = None
    static_shape: Mapping[str, list[int]] = field(default_factory=dict)

    def resolved(self) -> dict[str, Any]:
        """Options that give this plan without measuring."""
        names = ("runtime", "precision", "layout", "threads", "batch", "streams")
        return {name: getattr(self, name) for name in names}


def model_bytes(graph: Graph) -> bytes:
    """The graph as ONNX; equal graphs give equal bytes."""
    return graph.to_proto().SerializeToString(deterministic=True)


def digest(model: bytes) -> str:
    """sha256 of a serialised model."""
    return hashlib.sha256(model).hexdigest()


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
        "layout": plan.layout,
        "threads": plan.threads,
        "batch": plan.batch,
        "streams": plan.streams,
        "model": {"file": MODEL_FILE, "sha256": digest(model), "bytes": len(model)},
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
