"""Runtime, precision, threads and shapes of an artefact; ``runtime="auto"`` measures on this machine.

A plan made again from its own ``resolved()`` options is the same plan: what was measured is only the choice
of the runtime, and the timings behind it stay in ``evidence``, outside hashed content.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from rubicc.backends.base import Plan, Target
from rubicc.backends.cpu_gpu import description, runtimes, shapes
from rubicc.backends.cpu_gpu.runtimes import CPU_PROVIDER, PRECISIONS, RUNTIMES
from rubicc.backends.cpu_gpu.templates import run as runner
from rubicc.errors import ToolMissing, Unsupported, UsageError
from rubicc.evidence import measure
from rubicc.ir.graph import Graph, spec_of

AUTO_SECONDS = 3.0


@dataclass(frozen=True, kw_only=True)
class CpuGpuPlan(Plan):
    """A plan of the CPU and GPU backend.

    Attributes:
        runtime: what executes by default.
        precision: ``fp32``, ``fp16`` (the graph is fp16) or ``bf16`` (OpenVINO computes in it).
        providers: ONNX Runtime's execution providers.
        threads: threads in all; ``None`` = the CPUs the process may use when it runs.
        batch: batch size inference should use.
        static_shape: input shapes for which OpenVINO compiles a model of its own; empty = none.
    """

    runtime: str
    precision: str = "fp32"
    providers: tuple[str, ...] = (CPU_PROVIDER,)
    threads: int | None = None
    batch: int = 1
    static_shape: Mapping[str, list[int]] = field(default_factory=dict)

    def resolved(self) -> dict[str, Any]:
        """Options that give this plan without measuring."""
        return {
            "runtime": self.runtime,
            "precision": self.precision,
            "threads": self.threads,
            "batch": self.batch,
        }


def plan(
    graph: Graph,
    target: Target,
    *,
    runtime: str = "auto",
    precision: str = "fp32",
    threads: int | None = None,
    batch: int | None = None,
    seconds: float = AUTO_SECONDS,
    feeds: Mapping[str, np.ndarray] | None = None,
) -> CpuGpuPlan:
    """Plan a graph that ``prepare`` has made legal.

    Args:
        batch: inference batch size; ``None`` = 32 for basecallers, 8 for masked language models, else 1.
        seconds: measuring time of ``runtime="auto"`` in all, loading of the runtimes not counted.
        feeds: real input to measure with; ``None`` = seeded arrays of the batch and the model's chunk length.

    Raises:
        UsageError: an impossible combination (RUB-CPU-020).
        ToolMissing: the runtime (RUB-CPU-009) or GPU provider (RUB-CPU-006) is not there.
        Unsupported: no runtime takes the graph (RUB-CPU-008).
    """
    _possible(target, runtime, precision, threads, batch)
    providers = runtimes.gpu_providers(target) if target.name == "gpu" else (CPU_PROVIDER,)
    batch = batch or shapes.default_batch(graph.meta)
    usable = _usable(target, runtime, precision)
    inputs = [spec_of(value) for value in graph.inputs]
    static = {}
    if graph.meta is not None and graph.meta.chunk is not None:
        static = shapes.bound_shapes(inputs, shapes.sizes(inputs, graph.meta, batch))
    draft = CpuGpuPlan(
        target=target,
        runtime=usable[0],
        runtimes=usable,
        precision=precision,
        providers=providers,
        threads=threads,
        batch=batch,
        static_shape=static,
    )
    return _choose(graph, draft, runtime, seconds, feeds)


def _possible(target: Target, runtime: str, precision: str, threads: int | None, batch: int | None) -> None:
    problems = [
        (runtime not in ("auto", *RUNTIMES), f"unknown runtime {runtime!r}", "auto, onnxruntime or openvino"),
        (precision not in PRECISIONS, f"precision {precision!r} is not offered here", "fp32, fp16 or bf16"),
        (threads is not None and threads < 1, f"{threads} threads", "give at least 1"),
        (batch is not None and batch < 1, f"batch of {batch}", "give at least 1"),
        (precision == "bf16" and runtime == "onnxruntime", "ONNX Runtime has no bf16 here", "use openvino"),
        (precision == "bf16" and target.name == "gpu", "bf16 is not offered on GPUs", "--precision fp16"),
        (target.name == "gpu" and runtime == "openvino", "OpenVINO is for CPUs here", "onnxruntime"),
    ]  # fmt: skip
    for wrong, what, hint in problems:
        if wrong:
            raise UsageError("RUB-CPU-020", what, where=f"target {target}", hint=hint)


def _usable(target: Target, runtime: str, precision: str) -> tuple[str, ...]:
    """Runtimes that may execute this target and precision, the one asked for first."""
    wanted = [name for name in runtimes.RUNTIMES if target.name == "cpu" or name == "onnxruntime"]
    if precision == "bf16":
        wanted = ["openvino"]
    present = runtimes.installed()
    asked = [runtime] if runtime != "auto" else []
    for name in asked or wanted[:1] * (not set(wanted) & set(present)):
        if name not in present:
            raise ToolMissing("RUB-CPU-009", f"{name} is not installed", hint=f"pip install {name}")
    return tuple(sorted((n for n in wanted if n in present), key=lambda n: n not in asked))


def _choose(
    graph: Graph,
    draft: CpuGpuPlan,
    runtime: str,
    seconds: float,
    feeds: Mapping[str, np.ndarray] | None,
) -> CpuGpuPlan:
    model = description.model_bytes(graph)
    data = description.description(graph, draft, model)
    threads = draft.threads or runner.cores()
    engines, refused = _engines(draft.runtimes, model, data, threads)
    if not engines or (runtime != "auto" and runtime not in engines):
        what = "; ".join(refused.values())
        raise Unsupported("RUB-CPU-008", what, hint="run `rubicc check` for the nodes behind this")
    evidence: dict[str, Any] = {"versions": runtimes.versions(), "refused": refused, "threads": threads}
    chosen = next(iter(engines))
    reason = "asked for" if runtime != "auto" else "the only runtime that takes the model"
    if runtime == "auto" and len(engines) > 1:
        if feeds is None:
            feeds, static = _affordable_feeds(graph, draft.batch, engines, seconds)
            data["openvino"]["static_shapes"] = static
            engines, _ = _engines(tuple(engines), model, data, threads)
        chosen, reason, timings = _fastest(engines, dict(feeds), seconds)
        shape = {name: list(array.shape) for name, array in feeds.items()}
        evidence["measured"] = {"shapes": shape, "planned_batch": draft.batch, "timings": timings}
    evidence |= {"chosen": chosen, "reason": reason, "notes": _notes(chosen, draft.precision)}
    kept = tuple(name for name in RUNTIMES if name in engines)
    return replace(draft, runtime=chosen, runtimes=kept, evidence=evidence)


def _engines(
    names: tuple[str, ...], model: bytes, data: dict[str, Any], threads: int
) -> tuple[dict[str, Any], dict[str, str]]:
    """Loaded engines by runtime, and the reasons of those that refuse the model."""
    engines: dict[str, Any] = {}
    refused: dict[str, str] = {}
    for name in names:
        try:
            engines[name] = runner.ENGINES[name](model, data, threads, 1)
        except runner.ArtefactError as err:
            if err.kind == "missing":
                raise ToolMissing(err.code, err.what, hint=err.hint) from err
            refused[name] = err.what
    return engines, refused


def _affordable_feeds(
    graph: Graph, batch: int, engines: Mapping[str, Any], seconds: float
) -> tuple[dict[str, np.ndarray], list[dict[str, list[int]]]]:
    """Input of the model's chunk length and the largest batch up to the planned one that the time allows."""
    inputs = [spec_of(value) for value in graph.inputs]
    one = shapes.example_feeds(inputs, shapes.sizes(inputs, graph.meta, 1))
    probe = measure.interleave(_calls(engines, one), 0.0)
    slowest = max(timing.best for timing in probe.values())
    # A warm-up and three rounds per engine must fit; the batch really measured stands in the evidence.
    fits = int(max(1, min(batch, seconds / (4 * len(engines)) / slowest)))
    bound = shapes.sizes(inputs, graph.meta, fits)
    return shapes.example_feeds(inputs, bound), [shapes.bound_shapes(inputs, bound)]


def _fastest(
    engines: Mapping[str, Any], feeds: dict[str, np.ndarray], seconds: float
) -> tuple[str, str, dict[str, Any]]:
    """Engine with the smallest median; ONNX Runtime where the difference is in doubt."""
    timings = measure.interleave(_calls(engines, feeds), seconds)
    best, reason = min(timings, key=lambda name: timings[name].median), "fastest by measurement"
    if best != "onnxruntime" and measure.compare(timings[best], timings["onnxruntime"]) == "UNSURE":
        best, reason = "onnxruntime", "no difference beyond the noise: ONNX Runtime by rule"
    return best, reason, {name: timing.to_dict() for name, timing in timings.items()}


def _calls(engines: Mapping[str, Any], feeds: dict[str, np.ndarray]) -> dict[str, Callable[[], object]]:
    return {name: functools.partial(engine.infer, feeds) for name, engine in engines.items()}


def _notes(runtime: str, precision: str) -> list[str]:
    """Facts about this machine that a reader of the report should know."""
    if runtime != "openvino":
        return ["ONNX Runtime's CPU computes fp16 operators in fp32 between casts"] * (precision == "fp16")
    has_bf16 = runtimes.openvino_takes_bf16()
    if precision == "bf16":
        return [] if has_bf16 else ["this CPU has no bf16: OpenVINO computes in fp32 here"]
    if has_bf16:
        return ["OpenVINO would compute in bf16 on this CPU; it is held to f32 (--precision bf16 allows it)"]
    return []
