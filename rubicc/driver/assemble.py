"""From a finished build to its report, manifest and resolved recipe."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rubicc import plugins
from rubicc.driver.inputs import one_item
from rubicc.driver.planning import pipeline_of
from rubicc.evidence.environment import cpu, library_versions, machine
from rubicc.evidence.floor import decode_floor
from rubicc.evidence.manifest import Manifest, PassEntry
from rubicc.evidence.report import (
    LayerRow,
    Measure,
    NotMeasured,
    PassRow,
    Placement,
    Report,
    SignalPicture,
    decode_placement,
)
from rubicc.frontend.feeds import Feeds

if TYPE_CHECKING:
    from rubicc.driver.compile import Build
    from rubicc.ir.costs import Costs
    from rubicc.ir.graph import Graph
    from rubicc.spec import ModelMeta

PICTURE_SAMPLES = 400
# They depend on what was measured, so they stand in the report; compiling again from recipe.yaml, which holds
# their outcome, must give the same manifest.
MEASURED_DECISIONS = ("RUB-DRV-D01", "RUB-DRV-D02")


def make_report(build: Build, folder: Path) -> Report:
    """Everything the report shows; figures that were not taken are listed as such."""
    source_costs = _costs(build, build.lowered.graph)
    layers, missing = _layers(build, folder, source_costs)
    verdict, reason = _verdict(build)
    return Report(
        name=build.source.name,
        target=str(build.target),
        precision=build.settings.precision,
        runtime=str(build.plan.resolved().get("runtime", "")) if build.plan else "none",
        verdict=verdict,
        verdict_reason=reason,
        source=_source_facts(build),
        totals=_totals(build, source_costs, folder),
        gaps=build.proof.gaps if build.proof else {},
        shapes={name: "x".join(map(str, array.shape)) for name, array in _feeds(build).items()},
        layers=layers,
        passes=_passes(build),
        decisions=tuple(build.decisions),
        measured=_measures(build),
        not_measured=tuple(missing),
        signal=_picture(build),
        placements=_placements(build),
        floors=tuple(map(decode_floor, build.evidence.get("emit", {}).get("floors", ()))),
        machine=machine(),
    )


def make_manifest(build: Build) -> Manifest:
    """The deterministic part; ``files`` is filled when the folder is sealed."""
    inputs = {"model": build.source.sha256}
    if build.inputs is not None and build.inputs.sha256:
        inputs["reference"] = build.inputs.sha256
    if build.calibration_sha256:
        inputs["calibration"] = build.calibration_sha256
    meta = build.graph.meta
    return Manifest(
        target=str(build.target),
        model={
            "name": build.source.name,
            "kind": build.source.kind,
            "arch": meta.arch if meta else "unknown",
        },
        inputs=inputs,
        versions=library_versions(),
        plugins=plugins.versions(),
        cpu={key: value for key, value in cpu().items() if key != "model"},
        seeds={"example inputs": build.settings.seed},
        passes=tuple(PassEntry(r.id, dict(r.options), r.changed) for r in build.records),
        decisions=tuple(d for d in build.decisions if d.code not in MEASURED_DECISIONS),
        evidence=build.proof.summary() if build.proof else {"stopped_at": build.stopped_at},
    )


def resolved_recipe(build: Build) -> str:
    """Compiling again with this recipe makes every choice that was measured here without measuring."""
    return build.settings.to_recipe()


def _verdict(build: Build) -> tuple[str, str]:
    if build.proof is None:
        return "not verified", f"compilation stopped at stage {build.stopped_at}; nothing was emitted"
    runtimes = " and ".join(build.plan.runtimes) if build.plan else ""
    cases = len({name.partition(":")[0] for name in build.proof.gaps})
    return "verified", (
        f"the emitted files were read back and executed in {runtimes} on {cases} inputs; "
        f"worst against the source: {build.proof.worst().describe()}"
    )


def _source_facts(build: Build) -> dict[str, Any]:
    meta = build.graph.meta
    facts: dict[str, Any] = {"read as": build.source.kind, "sha256": build.source.sha256}
    facts["exporter"] = build.lowered.evidence.get("exporter", "")
    for row in build.lowered.evidence.get("shapes", ()):
        shape = ", ".join(f"{k} {'x'.join(map(str, v))}" for k, v in row["feeds"].items())
        worst = max(item["relative"] for item in row["outputs"])
        facts[f"lowered graph against torch, {shape}"] = f"{worst:.2g} of the range ({row['precision']})"
    if meta is not None:
        facts |= {"architecture": meta.arch, "task": meta.task}
        if meta.signal is not None:
            facts["normalisation"] = meta.signal.normalisation
            facts["stride"] = meta.stride
    return facts


def _totals(build: Build, costs: Costs, folder: Path) -> dict[str, Any]:
    from rubicc.ir.receptive import receptive_field

    field = receptive_field(build.lowered.graph)
    totals: dict[str, Any] = {
        "parameters": f"{costs.params:,}",
        "MACs": f"{costs.macs:,} for the inputs below",
        "BOPs": f"{costs.bops:,}",
        "weights": f"{costs.quantised_weight_bytes:,} bytes at their bit widths",
        "receptive field": f"{field.samples:,} samples" if field.samples else f"unbounded: {field.reason}",
        "operators": ", ".join(f"{n} {op}" for op, n in build.graph.op_counts().items()),
    }
    home = folder / build.backend.folder
    if home.is_dir():
        size = sum(path.stat().st_size for path in home.rglob("*") if path.is_file())
        totals["emitted files"] = f"{size:,} bytes"
    return totals | build.evidence.get("emit", {}).get("totals", {})


def _feeds(build: Build) -> Feeds:
    if build.proof is not None:
        return build.proof.inputs
    return build.lowered.feeds[0]


def _costs(build: Build, graph: Graph) -> Costs:
    from rubicc.ir.costs import costs

    return costs(graph, _bind(graph, _feeds(build)))


def _bind(graph: Graph, feeds: Feeds) -> dict[str, int]:
    """Numbers for the graph's symbols, taken from the shapes of the feeds."""
    bound: dict[str, int] = {}
    for value in graph.inputs:
        for dim, size in zip(value.shape or (), feeds[str(value.name)].shape, strict=True):
            if not isinstance(dim, int) and dim.value:
                bound[str(dim.value)] = size
    return bound


def _layers(
    build: Build, folder: Path, source_costs: Costs
) -> tuple[tuple[LayerRow, ...], list[NotMeasured]]:
    """Rows in graph order: costs, error and time by node."""
    gaps: Mapping[str, Any] = {}
    times: Mapping[str, float] = {}
    missing = [NotMeasured("energy", "no sensor is read"), NotMeasured("other machines", "this one only")]
    if build.proof is not None and not build.exact:
        why = "the precision is not fp32, or the network is too large for float64 copies"
        missing.append(NotMeasured("emitted graph against the source in float64", why))
    if build.proof is None:
        missing.append(NotMeasured("error and time by layer", "nothing was emitted"))
    else:
        home = folder / build.backend.folder
        profile = build.backend.profile_layers(home, one_item(build.proof.inputs, build.graph), build.fp32)
        gaps, times = profile.gaps, profile.milliseconds
        missing += profile.not_measured
    # Targets expand quantisers, so bit widths come from the lowered graph, by module path and operator.
    bits = {(r.source, r.op): (r.weight_bits, r.activation_bits) for r in source_costs.rows if r.macs}
    rows = []
    for row in _costs(build, build.graph).rows:
        weight_bits, activation_bits = (
            bits.get((row.source, row.op), (None, None)) if row.macs else (None, None)
        )
        rows.append(
            LayerRow(
                name=row.name,
                op=row.op,
                source=row.source,
                inputs=tuple(_text(shape) for shape in row.inputs if shape is not None),
                output=_text(row.outputs[0]) if row.outputs else "",
                weight_bits=weight_bits,
                activation_bits=activation_bits,
                macs=row.macs,
                params=row.params,
                ms=times.get(row.name),
                gap=gaps.get(row.name),
            )
        )
    return tuple(rows), missing


def _text(shape: Any) -> str:
    return "?" if shape is None else "x".join(map(str, shape))


def _passes(build: Build) -> tuple[PassRow, ...]:
    from rubicc.passes.pipelines import PIPELINES

    reasons = {step.id: step.reason for step in PIPELINES[pipeline_of(build)]}
    return tuple(
        PassRow(r.id, r.changed, r.seconds, dict(r.options), dict(r.op_diff), reasons.get(r.id, ""))
        for r in build.records
    )


def _measures(build: Build) -> tuple[Measure, ...]:
    rows = [
        Measure(f"compile: {name}", seconds, "s", "wall time of this run")
        for name, seconds in build.seconds.items()
    ]
    measured = build.evidence.get("plan", {}).get("measured")
    if measured:
        shapes = ", ".join(f"{k} {'x'.join(map(str, v))}" for k, v in measured["shapes"].items())
        for name, timing in measured["timings"].items():
            how = f"{timing['count']} interleaved runs at {shapes}"
            value, low = timing["median_ms"], timing["min_ms"]
            rows.append(Measure(f"{name}, one batch item", value, "ms", how, low=low))
    for name, lost in (build.proof.calls if build.proof else {}).items():
        rows.append(Measure(f"identity lost, {name}", lost, "percentage points", "edlib on the calls"))
    latency = build.measured.get("latency")
    if latency:
        low, high = latency["minimum"] * 1e3, latency["maximum"] * 1e3
        rows.append(
            Measure(
                "latency of one input", latency["median"] * 1e3, "ms", f"{latency['runs']} runs", low, high
            )
        )
    return tuple(rows)


def _placements(build: Build) -> tuple[Placement, ...]:
    """Where a target says its operations would run, as ``emit`` has found it."""
    return tuple(map(decode_placement, build.evidence.get("emit", {}).get("placements", ())))


def _picture(build: Build) -> SignalPicture | None:
    """The first case's signal with the bases the artefact's own output decodes to."""
    meta = build.graph.meta
    if build.proof is None or meta is None or meta.decoder is None or not meta.stride:
        return None
    from rubicc.genomics.decode import decode_read

    (signal,) = build.proof.inputs.values()
    (scores,) = build.proof.expected.values()
    if signal.ndim != 3 or scores.ndim != 3:
        return None
    call = decode_read(np.ascontiguousarray(scores[:, 0, :], dtype=np.float32), meta)
    frames = np.flatnonzero(call.moves)
    middle = max(0, (signal.shape[-1] - PICTURE_SAMPLES) // 2)
    shown = signal[0, 0, middle : middle + PICTURE_SAMPLES]
    bases = tuple(
        (int(frame * meta.stride) - middle, base)
        for frame, base in zip(frames, call.sequence, strict=False)
        if 0 <= frame * meta.stride - middle < len(shown)
    )
    caption = next(iter(build.inputs.cases)) if build.inputs else ""
    return SignalPicture(
        read_id="verification input 0",
        signal=tuple(round(float(v), 4) for v in shown),
        bases=bases,
        sampling_rate=_rate(meta),
        start=middle,
        caption=caption,
    )


def _rate(meta: ModelMeta) -> int:
    return meta.signal.sampling_rate if meta.signal is not None else 0
