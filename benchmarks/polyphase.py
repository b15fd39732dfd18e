"""The polyphase layout on rubicall-fp: runtimes x precisions x formulations, measured in turns.

    python benchmarks/polyphase.py [--seconds 90] [--threads 2] [--arch rubicall-fp] [--cpu] [--nodes]

Random weights, batch 8 x 3,600 samples. int8 is QDQ made here by min and max on the input used (u8
activations, s8 weights per channel), because speed and exactness do not depend on calibration. OpenVINO is
compiled for the shape, as artefacts do; ONNX Runtime gets the graph with symbolic batch and time. ``error``
is the largest difference to the plain graph in the same runtime, over its largest output; ``reorders`` are
the layout conversions OpenVINO inserted. ``--cpu`` counts processor time instead of wall time: with
``--threads 1`` it says more than wall time where other programs run. ``--nodes`` prints where OpenVINO's time
goes, form by form.
"""

from __future__ import annotations

import argparse
import collections
import io
import os
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from rubicc.evidence.measure import Timing, interleave
from rubicc.ir.graph import Graph
from rubicc.passes.manager import run_pipeline
from rubicc.passes.pipelines import PIPELINES, Step

Call = Callable[[], np.ndarray]
FORMS: dict[str, dict[str, Any]] = {
    "plain": {},
    "rows": {"formulation": "rows"},
    "rows s=4": {"formulation": "rows", "phases": 4},
    "gather": {"formulation": "gather"},
    "planes": {"formulation": "planes"},
    "planes s=4": {"formulation": "planes", "phases": 4},
}


def network(arch: str, samples: int) -> Graph:
    """A network of the zoo, cleaned up."""
    import torch

    from rubicc.models import registry

    module, buffer = registry.get(arch).build(seed=0).eval(), io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module, (torch.randn(2, 1, samples),), buffer, dynamo=False, opset_version=20,
            input_names=["x"], output_names=["y"],
            dynamic_axes={"x": {0: "N", 2: "T"}, "y": {0: "F", 1: "N"}},
        )  # fmt: skip
    graph = Graph.from_proto(onnx.load_from_string(buffer.getvalue()), registry.get(arch).meta())
    run_pipeline(graph, PIPELINES["cleanup"])
    return graph


def quantised(graph: Graph, x: np.ndarray) -> Graph:
    """QuantizeLinear and DequantizeLinear on the input and weight of every convolution, ranges from ``x``."""
    model = graph.to_proto()
    net = model.graph
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in net.initializer}
    rectified = {node.output[0] for node in net.node if node.op_type == "Relu"}
    ranges = _ranges(model, x)
    nodes: list[onnx.NodeProto] = []
    done: set[str] = set()

    def add(name: str, array: Any) -> str:
        net.initializer.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    for node in net.node:
        if node.op_type == "Conv":
            value, weight = node.input[0], node.input[1]
            if value not in done:
                unsigned = value in rectified
                scale = add(f"{value}_scale", np.float32(ranges[value] / (255 if unsigned else 127)))
                zero = add(f"{value}_zero", np.uint8(0 if unsigned else 128))
                nodes.append(helper.make_node("QuantizeLinear", [value, scale, zero], [f"{value}_q"]))
                nodes.append(
                    helper.make_node("DequantizeLinear", [f"{value}_q", scale, zero], [f"{value}_f"])
                )
                done.add(value)
            float_weight = arrays[weight]
            scales = (np.abs(float_weight).reshape(len(float_weight), -1).max(axis=1) / 127).astype(
                np.float32
            )
            integers = np.rint(float_weight / scales.reshape(-1, 1, 1)).clip(-127, 127).astype(np.int8)
            stored = [add(f"{weight}_int", integers), add(f"{weight}_scale", scales)]
            nodes.append(helper.make_node("DequantizeLinear", stored, [f"{weight}_f"], axis=0))
            node.input[0], node.input[1] = f"{value}_f", f"{weight}_f"
        nodes.append(node)
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del net.node[:]
    net.node.extend(copies)
    made = Graph.from_proto(model, graph.meta)
    run_pipeline(made, PIPELINES["cleanup"])
    return made


def _ranges(model: onnx.ModelProto, x: np.ndarray) -> dict[str, float]:
    """Largest absolute value of every convolution's input."""
    import onnxruntime as ort

    wide = onnx.ModelProto.FromString(model.SerializeToString())
    names = dict.fromkeys(n.input[0] for n in wide.graph.node if n.op_type == "Conv" and n.input[0] != "x")
    wide.graph.output.extend(helper.make_tensor_value_info(name, 1, None) for name in names)
    session = ort.InferenceSession(wide.SerializeToString(), providers=["CPUExecutionProvider"])
    found = dict(zip(names, session.run(list(names), {"x": x}), strict=True))
    return {name: float(np.abs(array).max()) for name, array in {**found, "x": x}.items()}


def formed(graph: Graph, options: dict[str, Any]) -> bytes:
    """The graph in one form, serialised."""
    made = graph.clone()
    if options:
        steps = (
            Step("cleanup.lift-constants", "weights are initializers"),
            Step("cleanup.infer-shapes", "ranks are known"),
            Step("layout.polyphase", "what is measured", options),
        )
        run_pipeline(made, steps)
    return made.to_proto().SerializeToString()


def open_ort(model: bytes, x: np.ndarray, threads: int) -> tuple[Call, Any]:
    """ONNX Runtime."""
    import onnxruntime as ort

    settings = ort.SessionOptions()
    settings.intra_op_num_threads, settings.log_severity_level = threads, 3
    session = ort.InferenceSession(model, settings, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, {"x": x})[0], None


def open_ov(model: bytes, x: np.ndarray, threads: int) -> tuple[Call, Any]:
    """OpenVINO at the shape of ``x``."""
    import openvino

    core = openvino.Core()
    net = core.read_model(model)
    net.reshape(list(x.shape))
    settings = {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": "f32"}
    compiled = core.compile_model(net, "CPU", settings | {"PERF_COUNT": True})
    request = compiled.create_infer_request()
    return lambda: request.infer({"x": x})[0].copy(), request


def node_times(call: Call, request: Any, rounds: int = 5) -> dict[str, tuple[float, int]]:
    """Milliseconds and count by kind of node, each node at its best of ``rounds``."""
    best: dict[tuple[str, str], float] = {}
    for _ in range(rounds):
        call()
        for entry in request.profiling_info:
            key, took = (
                (f"{entry.node_type} {entry.exec_type}", entry.node_name),
                entry.real_time.total_seconds(),
            )
            if took:
                best[key] = min(took, best.get(key, took))
    kinds: dict[str, list[float]] = collections.defaultdict(list)
    for (kind, _), took in best.items():
        kinds[kind].append(took * 1e3)
    return {kind: (sum(times), len(times)) for kind, times in sorted(kinds.items(), key=lambda p: -sum(p[1]))}


def interleave_cpu(calls: dict[str, Call], seconds: float) -> dict[str, Timing]:
    """As :func:`interleave`, in processor time of this process."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times[next(iter(times))]) < 3:
        for name, call in calls.items():
            start = time.process_time()
            call()
            times[name].append(time.process_time() - start)
    return {name: Timing(tuple(sorted(values))) for name, values in times.items()}


def row(name: str, timing: Timing, plain: Timing, best: float, error: float, reorders: str) -> str:
    """One line of the table."""
    return (
        f"| {name} | {timing.best * 1e3:.1f} | {timing.median * 1e3:.1f} | {plain.best / timing.best:.2f} "
        f"| {best / timing.best:.2f} | {error:.1e} | {reorders} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seconds", type=float, default=90.0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--arch", default="rubicall-fp")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--samples", type=int, default=3600)
    parser.add_argument("--cpu", action="store_true")
    parser.add_argument("--nodes", action="store_true")
    args = parser.parse_args()
    x = np.random.default_rng(5).normal(size=(args.batch, 1, args.samples)).astype(np.float32)
    plain = network(args.arch, args.samples)
    openers = {"OpenVINO": open_ov, "ONNX Runtime": open_ort}
    calls: dict[str, Call] = {}
    facts: dict[str, tuple[float, str]] = {}
    for precision, graph in (("fp32", plain), ("int8", quantised(plain, x))):
        for form, options in FORMS.items():
            model = formed(graph, options)
            for runtime, opener in openers.items():
                name = f"{runtime} {precision} {form}"
                call, request = opener(model, x, args.threads)
                result = call()
                reference = calls[f"{runtime} {precision} plain"]() if form != "plain" else result
                error = float(np.abs(result - reference).max() / np.abs(reference).max())
                kinds = node_times(call, request) if request is not None else {}
                reorders = sum(count for kind, (_, count) in kinds.items() if kind.startswith("Reorder"))
                calls[name], facts[name] = call, (error, str(reorders) if kinds else "")
                if args.nodes and kinds:
                    shown = "; ".join(
                        f"{kind} x{count} {ms:.1f}" for kind, (ms, count) in list(kinds.items())[:6]
                    )
                    print(f"{name}: {shown}")
    timings = (interleave_cpu if args.cpu else interleave)(calls, args.seconds)
    clock = "processor time" if args.cpu else "wall time"
    shape = f"batch {args.batch} x {args.samples}, {args.threads} threads"
    print(f"{args.arch}, {shape}, {clock}, load {os.getloadavg()[0]:.1f}\n")
    print("| form | ms min | median | x plain | x best default | error | reorders |")
    print("|---|---|---|---|---|---|---|")
    for precision in ("fp32", "int8"):
        default = min(timings[f"{runtime} {precision} plain"].best for runtime in openers)
        for runtime in openers:
            for form in FORMS:
                name = f"{runtime} {precision} {form}"
                print(
                    row(name, timings[name], timings[f"{runtime} {precision} plain"], default, *facts[name])
                )


if __name__ == "__main__":
    main()
