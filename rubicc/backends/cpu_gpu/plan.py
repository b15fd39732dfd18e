"""Runtime, precision, threads and shapes of an artefact; what is left open is measured on this machine.

A plan made again from its own ``resolved()`` options is the same plan: the timings behind a choice stay in
``evidence``, outside hashed content.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from rubicc.backends.base import Gate, Prepared, Target
from rubicc.backends.cpu_gpu import description, engines, runtimes
from rubicc.backends.cpu_gpu.arena import SECONDS, Ask
from rubicc.backends.cpu_gpu.description import CpuGpuPlan
from rubicc.backends.cpu_gpu.forms import INTEGER, LAYOUT_ORDER, Form, Maker, draft
from rubicc.backends.cpu_gpu.runtimes import PRECISIONS, RUNTIMES
from rubicc.backends.cpu_gpu.templates import run as runner
from rubicc.backends.cpu_gpu.tune import Tuned, tune
from rubicc.errors import ToolMissing, Unsupported, UsageError, VerificationFailed
from rubicc.evidence.decision import Decision
from rubicc.ir.graph import Graph, source_of
from rubicc.passes.rewrite import is_standard

LAYOUTS = ("auto", *LAYOUT_ORDER)


def plan(
    graph: Graph,
    target: Target,
    *,
    runtime: str = "auto",
    precision: str = "fp32",
    layout: str = "plain",
    threads: int | None = None,
    batch: int | None = None,
    streams: int | None = None,
    seconds: float = SECONDS,
    objective: str | None = None,
    gate: Gate | None = None,
    feeds: Mapping[str, np.ndarray] | None = None,
    cache: Mapping[str, Any] | None = None,
    tuned: Tuned | None = None,
) -> CpuGpuPlan:
    """Plan a graph that ``prepare`` has made legal.

    Args:
        precision, layout: of the graph, as ``prepare`` was asked for.
        batch: batch items in flight; ``None`` = measured, by rule 32 for basecallers, 8 for masked language
            models, else 1.
        streams: calls they are cut into; ``None`` = measured, by rule one per thread.
        seconds: measuring time in all, loading of the runtimes not counted; 0 = every choice by rule.
        objective: what batch, streams and threads are measured for; ``None`` = they follow their rules.
        gate: judges accuracy; a runtime that misses its limits is left out.
        feeds: real input to measure with; ``None`` = seeded arrays of the batch and the model's chunk length.
        cache: what the choice depends on beside these arguments; ``None`` = measured choices are not kept.
        tuned: what ``prepare`` has measured already.

    Raises:
        UsageError: an impossible combination (RUB-CPU-020).
        ToolMissing: the runtime (RUB-CPU-009) or GPU provider (RUB-CPU-006) is not there.
        Unsupported: no runtime takes the graph (RUB-CPU-008).
        VerificationFailed: no runtime is accurate enough (RUB-CPU-051).
    """
    possible(target, runtime, precision, layout, threads, batch, streams)
    form = Form(precision, layout)
    names = _usable(target, runtime, form)
    ask = Ask(target, runtime, threads, batch, streams, seconds, objective, gate, feeds, cache)
    maker = Maker(lambda _: Prepared(graph)) if tuned is None else tuned.maker
    if tuned is None:
        engines.release()
        if seconds > 0 and (ask.refines or (runtime == "auto" and len(names) > 1)):
            tuned = tune(maker, [form], graph, ask)
    if tuned is not None:
        threads, batch, streams = tuned.threads, tuned.batch, tuned.streams
    made = draft(graph, form, target, names, batch=batch, threads=threads, streams=streams)
    chosen = tuned.runtime if tuned is not None else runtime
    return _loaded(graph, maker.bytes_of(graph), made, chosen, runtime, gate, tuned)


def possible(
    target: Target,
    runtime: str,
    precision: str,
    layout: str,
    threads: int | None,
    batch: int | None,
    streams: int | None,
) -> None:
    """Refuse what cannot be, whatever the model; ``auto`` is always possible.

    Raises:
        UsageError: RUB-CPU-020.
    """
    gpu = target.name == "gpu"
    integers = precision in ("int8", "mixed")
    numbers = {"threads": threads, "as batch": batch, "streams": streams}
    off_cpu = "ONNX Runtime's GPU providers have no bf16 convolutions"
    in_kernels = "the native kernels take the plain layout only"
    problems = [
        (runtime not in ("auto", *RUNTIMES), f"unknown runtime {runtime!r}", f"auto, {', '.join(RUNTIMES)}"),
        (precision not in ("auto", *PRECISIONS), f"unknown precision {precision!r}", ", ".join(PRECISIONS)),
        (layout not in LAYOUTS, f"unknown layout {layout!r}", ", ".join(LAYOUTS)),
        *((n is not None and n < 1, f"{n} {what}", "give at least 1") for what, n in numbers.items()),
        (precision == "bf16" and runtime == "onnxruntime", "ONNX Runtime has no bf16 here", "use openvino"),
        (gpu and precision == "bf16", off_cpu, "--precision fp16"),
        (gpu and integers and target.device != "tensorrt", f"{precision} on a GPU needs TensorRT",
         "--precision fp16, or --target gpu:tensorrt"),
        (gpu and runtime in ("openvino", "native"), f"{runtime} is for CPUs here", "--runtime onnxruntime"),
        (layout == "polyphase" and runtime == "native", in_kernels, "--layout plain"),
    ]  # fmt: skip
    for wrong, what, hint in problems:
        if wrong:
            raise UsageError("RUB-CPU-020", what, where=f"target {target}", hint=hint)


def _usable(target: Target, runtime: str, form: Form) -> tuple[str, ...]:
    """Runtimes that may execute this form on this target, the one asked for first."""
    wanted = form.runtimes(target)
    present = [name for name in wanted if not runtimes.missing(name)]
    for name in [runtime] if runtime != "auto" else wanted[:1] * (not present):
        if why := runtimes.missing(name):
            hint = "install a C++ compiler (g++ or clang++)" if name == "native" else f"pip install {name}"
            raise ToolMissing("RUB-CPU-009", why, hint=hint)
    return tuple(sorted(present, key=lambda name: name != runtime))


def _loaded(
    graph: Graph,
    model: bytes,
    made: CpuGpuPlan,
    chosen: str,
    asked: str,
    gate: Gate | None,
    tuned: Tuned | None,
) -> CpuGpuPlan:
    """The plan with the runtimes that really take the model and are accurate enough."""
    data = description.description(graph, made, model)
    threads = made.threads or runner.cores()
    loaded, refused = _engines(made.runtimes, asked, model, data, threads)
    if not loaded or (asked != "auto" and asked not in loaded):
        what = "; ".join(refused.values())
        raise Unsupported("RUB-CPU-008", what, hint="run `rubicc check` for the nodes behind this")
    missed = _judged(graph, made.precision, loaded, gate, {asked, chosen}) if len(loaded) > 1 else {}
    kept = tuple(name for name in RUNTIMES if name in loaded and name not in missed)
    if not kept:
        what = "; ".join(f"{name}: {why}" for name, why in missed.items())
        raise VerificationFailed(
            "RUB-CPU-051", what, hint="choose a higher --precision, or a lower --max-gap"
        )
    chosen = chosen if chosen in kept else kept[0]
    for name in kept:  # the proof of the emitted files opens the same
        engines.keep(loaded[name], name, model, data, threads, 1)
    reason = (
        "asked for"
        if asked != "auto"
        else "by rule"
        if len(kept) > 1
        else "the only runtime that takes the model"
    )
    evidence: dict[str, Any] = {
        "versions": runtimes.versions(),
        "threads": threads,
        "reason": reason,
        **(tuned.evidence if tuned is not None else {}),
        "refused": refused,
        "chosen": chosen,
        "notes": _notes(chosen, made.precision),
    }
    decisions = tuple(
        Decision("RUB-CPU-D03", name, f"runtime {name} left out", f"it misses the accuracy limit: {why}")
        for name, why in missed.items()
    )
    layers = integer_layers(graph) if "native" in kept and made.precision in INTEGER else []
    if layers:
        what = f"state of {len(layers)} recurrent layers kept in 8 bits by the native kernels"
        why = "their inputs and weights are 8-bit integers; the state, between -1 and 1, is in steps of 1/127"
        decisions += (Decision("RUB-CPU-D04", layers[0], what, why),)
    return replace(made, runtime=chosen, runtimes=kept, evidence=evidence, decisions=decisions)


def integer_layers(graph: Graph) -> list[str]:
    """Sources of GRUs and LSTMs whose input and weights are 8-bit integers."""
    found = []
    for node in graph.nodes:
        if is_standard(node, "GRU", "LSTM"):
            makers = [value.producer() if value is not None else None for value in node.inputs[:3]]
            if all(maker is not None and maker.op_type == "DequantizeLinear" for maker in makers):
                found.append(source_of(node))
    return found


def _engines(
    names: tuple[str, ...], asked: str, model: bytes, data: dict[str, Any], threads: int
) -> tuple[dict[str, Any], dict[str, str]]:
    """Loaded engines by runtime, and the reasons of those that refuse the model."""
    found: dict[str, Any] = {}
    refused: dict[str, str] = {}
    for name in names:
        try:
            found[name] = engines.start(name, model, data, threads, 1)
        except runner.ArtefactError as err:
            if err.kind == "missing" and (name == asked or len(names) == 1):
                raise ToolMissing(err.code, err.what, hint=err.hint) from err
            refused[name] = err.what
    return found, refused


def _judged(
    graph: Graph, precision: str, loaded: Mapping[str, Any], gate: Gate | None, spared: set[str]
) -> dict[str, str]:
    """Runtimes nobody chose that miss the limits, and why; the chosen one is for the proof to judge."""
    names = [str(value.name) for value in graph.outputs]
    missed = {}
    for name, engine in loaded.items():
        if gate is None or name in spared:
            continue

        def run(feeds: Mapping[str, np.ndarray], engine: Any = engine) -> dict[str, np.ndarray]:
            return dict(zip(names, engine.infer(dict(feeds)), strict=True))

        verdict = gate(precision, run)
        if not verdict.holds:
            missed[name] = verdict.reason
    return missed


def _notes(runtime: str, precision: str) -> list[str]:
    """Facts about this machine that a reader of the report should know."""
    why = runtimes.missing("native")
    notes = [f"native is not offered: {why}"] if why else []
    if runtime == "onnxruntime" and precision == "fp16":
        return [*notes, "ONNX Runtime's CPU computes fp16 operators in fp32 between casts"]
    if runtime != "openvino":
        return notes
    has_bf16 = runtimes.openvino_takes_bf16()
    if precision == "bf16" and not has_bf16:
        notes.append("this CPU has no bf16: OpenVINO computes in fp32 here")
    if precision != "bf16" and has_bf16:
        notes.append(
            "OpenVINO would compute in bf16 on this CPU; it is held to f32 (--precision bf16 allows it)"
        )
    return notes


__all__ = ["CpuGpuPlan", "plan", "possible"]
