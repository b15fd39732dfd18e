"""Error and time of every layer of an emitted artefact, for the report."""

from __future__ import annotations

import json
import statistics
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from rubicc.backends.base import LayerProfile
from rubicc.backends.cpu_gpu.check import quantisers
from rubicc.backends.cpu_gpu.compare import layer_gaps
from rubicc.backends.cpu_gpu.templates import run as runner
from rubicc.errors import Unsupported, UsageError, VerificationFailed
from rubicc.evidence.gaps import Gap, combined
from rubicc.evidence.report import NotMeasured
from rubicc.evidence.staging import scratch
from rubicc.ir.graph import Graph

RUNS = 5
MAX_VALUES = 64 << 20  # intermediate values held at once for the error table


def profile_layers(folder: Path, feeds: Mapping[str, np.ndarray], reference: Graph | None) -> LayerProfile:
    """Gap and time by node name, measured on the files in ``folder`` in the runtime they name.

    Args:
        folder: the emitted ``cpu_gpu`` folder.
        feeds: one batch item.
        reference: fp32 graph whose values of the same name are the reference of an fp16 artefact;
            ``None`` = the emitted graph itself, executed in float64.
    """
    description = runner.read_description(folder)
    model = runner.read_model(folder, description)
    missing: list[NotMeasured] = []
    gaps: dict[str, Gap] = {}
    if len(model) <= MAX_VALUES * 4:
        gaps, problem = _gaps(folder, feeds, reference)
        missing += problem
        missing.append(
            NotMeasured(
                "errors of fused layers inside the runtime",
                "layer errors are taken in ONNX Runtime with its fusions off, against float64; "
                "the outputs are compared with all optimisations on",
            )
        )
    else:
        missing.append(NotMeasured("error by layer", f"the model has {len(model):,} bytes"))
    providers = description["onnxruntime"]["providers"]
    if providers != ["CPUExecutionProvider"]:
        missing.append(NotMeasured("time by layer", "GPU providers report no time by node"))
        return LayerProfile(gaps, {}, tuple(missing))
    if description["runtime"] == "native":
        missing.append(NotMeasured("time by layer", "the native kernels run several nodes in one step"))
        return LayerProfile(gaps, {}, tuple(missing))
    timer = _openvino_times if description["runtime"] == "openvino" else _onnxruntime_times
    times = timer(model, description, feeds)
    lost = times.pop("", 0.0)
    if lost:
        share = lost / (lost + sum(times.values()))
        why = "layout changes and parts of layers that OpenVINO added and that name no node"
        missing.append(NotMeasured(f"{share:.0%} of the time by layer", why))
    missing.append(
        NotMeasured("time of layers without a figure", "the runtime has fused them into a neighbour")
    )
    return LayerProfile(gaps, times, tuple(missing))


def _gaps(
    folder: Path, feeds: Mapping[str, np.ndarray], reference: Graph | None
) -> tuple[dict[str, Gap], list[NotMeasured]]:
    """Gap per node, the worst of its outputs; a reference with quantisers is run in its own float32, because
    a value on a rounding edge falls to either side of it in another precision.
    """
    quantised = reference is not None and bool(quantisers(reference))
    by_node: dict[str, list[Gap]] = {}
    try:
        dtype = None if quantised else np.dtype(np.float64)
        for row in layer_gaps(folder, feeds, reference=reference, dtype=dtype):
            by_node.setdefault(row.node, []).append(row.gap)
    except (Unsupported, UsageError, VerificationFailed) as err:
        return {}, [NotMeasured("error by layer", err.what)]
    return {node: combined(found) for node, found in by_node.items()}, []


def _onnxruntime_times(
    model: bytes, description: Mapping[str, Any], feeds: Mapping[str, np.ndarray]
) -> dict[str, float]:
    """Median milliseconds per node; nodes of the blocked-layout rewrite carry a suffix that is dropped."""
    import onnxruntime as ort

    with scratch() as home:
        options = ort.SessionOptions()
        options.enable_profiling = True
        options.profile_file_prefix = str(home / "run")
        options.intra_op_num_threads = description["threads"] or runner.cores()
        options.log_severity_level = 4
        session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        for _ in range(RUNS + 1):
            session.run(None, dict(feeds))
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    spent: dict[str, list[float]] = defaultdict(list)
    for event in events:
        name = str(event.get("name", ""))
        if event.get("cat") == "Node" and name.endswith("_kernel_time"):
            spent[name.removesuffix("_kernel_time").removesuffix("_nchwc")].append(event["dur"] / 1e3)
    return {name: statistics.median(values[1:] or values) for name, values in spent.items()}


def _openvino_times(
    model: bytes, description: Mapping[str, Any], feeds: Mapping[str, np.ndarray]
) -> dict[str, float]:
    """Median milliseconds per ONNX node; what names no ONNX node is summed under the empty name."""
    ov = runner.import_openvino()
    core = ov.Core()
    config = {
        "PERF_COUNT": True,
        "INFERENCE_PRECISION_HINT": description["openvino"]["inference_precision"],
        "INFERENCE_NUM_THREADS": description["threads"] or runner.cores(),
    }
    request = core.compile_model(core.read_model(model), "CPU", config).create_infer_request()
    nodes = list(onnx.load_from_string(model).graph.node)
    rounds: list[dict[str, float]] = []
    for _ in range(RUNS + 1):
        request.infer(dict(feeds))
        rows = [row for row in request.get_profiling_info() if row.status == ov.ProfilingInfo.Status.EXECUTED]
        owners = _owners([(row.node_name, row.node_type) for row in rows], nodes)
        spent: dict[str, float] = defaultdict(float)
        for row, owner in zip(rows, owners, strict=True):
            spent[owner] += row.real_time.total_seconds() * 1e3
        rounds.append(spent)
    names = {name for spent in rounds[1:] for name in spent}
    return {name: statistics.median(spent.get(name, 0.0) for spent in rounds[1:]) for name in names}


def _owners(executed: list[tuple[str, str]], nodes: list[Any]) -> list[str]:
    """ONNX node of every executed layer, empty where there is none.

    OpenVINO keeps the names of most nodes, adds ``/WithoutBiases`` to convolutions and renames recurrent
    nodes; those keep their order, so the k-th sequence layer is the k-th recurrent node.
    """
    known = {node.name for node in nodes if node.name}
    recurrent = [node.name for node in nodes if node.op_type in ("GRU", "LSTM", "RNN")]
    sequences = [name for name, kind in executed if kind in ("GRUSequence", "LSTMSequence", "RNNSequence")]
    by_order = dict(zip(sequences, recurrent, strict=True)) if len(sequences) == len(recurrent) else {}
    found = []
    for name, _ in executed:
        plain = name.removesuffix("/WithoutBiases")
        found.append(by_order.get(name, plain if plain in known else ""))
    return found
