"""Clean-up: time on about 200 nodes, and peak memory on 100 M parameters.

Run: ``python benchmarks/bench_passes.py``. Memory is the growth of the resident set over the graph itself,
peak, measured in a process of its own.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import time

import numpy as np
import onnx_ir as ir
from onnx import TensorProto, helper, numpy_helper

from rubicc.ir.graph import Graph
from rubicc.passes.manager import run_pipeline
from rubicc.passes.pipelines import PIPELINES
from rubicc.passes.registry import get


def residual_net(blocks: int) -> Graph:
    """Blocks of Conv, BatchNormalization, Relu, Identity and Add: five nodes each."""
    rng = np.random.default_rng(0)
    nodes, weights, value = [], [], "x"
    for i in range(blocks):
        weights += [numpy_helper.from_array(rng.normal(size=(64, 64, 5)).astype(np.float32) / 18, f"w{i}")]
        for part in ("scale", "bias", "mean", "var"):
            weights += [numpy_helper.from_array(rng.uniform(0.5, 1.5, 64).astype(np.float32), f"{part}{i}")]
        norm = [f"c{i}", *(f"{part}{i}" for part in ("scale", "bias", "mean", "var"))]
        nodes += [
            helper.make_node("Conv", [value, f"w{i}"], [f"c{i}"], name=f"conv{i}", pads=[2, 2]),
            helper.make_node("BatchNormalization", norm, [f"b{i}"], name=f"norm{i}"),
            helper.make_node("Relu", [f"b{i}"], [f"r{i}"], name=f"relu{i}"),
            helper.make_node("Identity", [f"r{i}"], [f"i{i}"], name=f"identity{i}"),
            helper.make_node("Add", [f"i{i}", value], [f"y{i}"], name=f"add{i}"),
        ]
        value = f"y{i}"
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 64, "T"]) for name in ("x", value)]
    return _graph(nodes, ends, weights)


def linear_net(layers: int, width: int) -> Graph:
    """Linear layers as exporters write them: Transpose of the weight, MatMul, Add."""
    rng = np.random.default_rng(0)
    nodes, arrays, value = [], {}, "x"
    for i in range(layers):
        arrays[f"w{i}"] = rng.standard_normal((width, width), np.float32)
        arrays[f"b{i}"] = rng.standard_normal(width, np.float32)
        nodes += [
            helper.make_node("Transpose", [f"w{i}"], [f"t{i}"], name=f"transpose{i}", perm=[1, 0]),
            helper.make_node("MatMul", [value, f"t{i}"], [f"m{i}"], name=f"matmul{i}"),
            helper.make_node("Add", [f"m{i}", f"b{i}"], [f"y{i}"], name=f"add{i}"),
        ]
        value = f"y{i}"
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", "T", width]) for name in ("x", value)
    ]
    graph = _graph(nodes, ends, [numpy_helper.from_array(np.zeros((), np.float32), name) for name in arrays])
    for name, array in arrays.items():
        held = graph.ir.initializers[name]
        held.const_value = ir.tensor(array, name=name)
        held.shape = ir.Shape(array.shape)
    return graph


def _graph(nodes: list, ends: list, weights: list) -> Graph:
    proto = helper.make_graph(nodes, "bench", ends[:1], ends[1:], weights)
    return Graph.from_proto(
        helper.make_model(proto, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    )


def speed() -> None:
    """Clean-up of 200 nodes, best and first of five."""
    times = []
    for _ in range(5):
        graph = residual_net(40)
        start = time.perf_counter()
        records = run_pipeline(graph, PIPELINES["cleanup"])
        times.append(time.perf_counter() - start)
    print(f"200 nodes -> {len(graph.nodes)}: first {times[0]:.3f} s, best {min(times):.3f} s")
    for record in sorted(records, key=lambda r: -r.seconds)[:4]:
        print(f"  {record.seconds:.3f} s {record.id}")


def memory() -> None:
    """Clean-up, then half precision, of 100 M parameters."""
    graph = linear_net(24, 2048)
    run_pipeline(
        residual_net(1), PIPELINES["cleanup"]
    )  # imports and first-use buffers are not the passes' own
    weights = sum(v.const_value.nbytes for v in graph.ir.initializers.values())
    base = _peak()
    start = time.perf_counter()
    run_pipeline(graph, PIPELINES["cleanup"])
    clean, seconds = _peak(), time.perf_counter() - start
    print(f"{weights / 4e6:.0f} M parameters, {weights / 2**20:.0f} MiB: clean-up {seconds:.2f} s, "
          f"peak +{clean - base:.0f} MiB, {graph.op_counts()}")  # fmt: skip
    start = time.perf_counter()
    get("lower.to-fp16")().run(graph)
    print(f"  to-fp16 {time.perf_counter() - start:.2f} s, peak +{_peak() - clean:.0f} MiB")


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    if sys.argv[1:] == ["memory"]:
        memory()
    else:
        speed()
        subprocess.run([sys.executable, __file__, "memory"], check=True)
