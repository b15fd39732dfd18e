from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch
from backend_nets import ConvNet, compare, conv_net, export, gru_net, signal
from test_cpu_gpu_check import quantised

from rubicc.backends.base import Target
from rubicc.backends.cpu_gpu.bench import bench
from rubicc.backends.cpu_gpu.compare import layer_gaps
from rubicc.backends.cpu_gpu.emit import emit
from rubicc.backends.cpu_gpu.layers import profile_layers
from rubicc.backends.cpu_gpu.plan import plan
from rubicc.backends.cpu_gpu.prepare import prepare
from rubicc.backends.cpu_gpu.run import open_session
from rubicc.errors import UsageError, VerificationFailed
from rubicc.evidence.gaps import gap, require
from rubicc.ir.executor import execute
from rubicc.ir.graph import Graph
from rubicc.quantities import MaxGap

CPU = Target("cpu")
LIMIT = MaxGap(snr=80.0)


def mutant(graph: Graph, node_type: str, which: int) -> tuple[Graph, ir.Node]:
    """A copy with one weight of the ``which``-th node of a type changed by half of the largest."""
    changed = graph.clone()
    node = [n for n in changed.nodes if n.op_type == node_type][which]
    value = node.inputs[1]
    assert value is not None and value.const_value is not None
    array = value.const_value.numpy().copy()
    array.flat[array.size // 2] += 0.5 * np.abs(array).max()
    value.const_value = ir.tensor(array, name=value.name)
    return changed, node


def emitted(graph: Graph, folder: Path, precision: str = "fp32") -> Path:
    emit(graph, plan(graph, CPU, runtime="openvino", precision=precision, batch=1), folder)
    return folder


def test_every_runtime_holds_the_limit(built) -> None:
    x = signal(2, 300)
    found = compare(built.folder, {"x": x}, built.expected(x))
    assert set(found) - {"native"} == {"onnxruntime", "openvino"}
    for gaps in found.values():
        assert require(gaps, LIMIT, code="RUB-DRV-001").snr_db > 110


@pytest.mark.parametrize(("kind", "which"), [("Conv", 0), ("Conv", 1), ("Conv", 3)])
def test_one_changed_weight_is_caught_and_the_layer_named(
    conv, kind: str, which: int, tmp_path: Path
) -> None:
    changed, node = mutant(conv.graph, kind, which)
    folder = emitted(changed, tmp_path / "m")
    x = signal(2, 300)
    for gaps in compare(folder, {"x": x}, conv.expected(x)).values():
        with pytest.raises(VerificationFailed, match="RUB-DRV-001"):
            require(gaps, LIMIT, code="RUB-DRV-001")
    rows = layer_gaps(folder, {"x": x}, reference=conv.graph)
    wrong = [row for row in rows if row.gap.snr_db < 80]
    assert wrong[0].node == node.name and wrong[0].source


def test_one_changed_recurrent_weight_is_caught(gru, tmp_path: Path) -> None:
    changed, _ = mutant(gru.graph, "GRU", 1)
    x = signal(1, 300)
    for gaps in compare(emitted(changed, tmp_path / "m"), {"x": x}, gru.expected(x)).values():
        with pytest.raises(VerificationFailed):
            require(gaps, LIMIT, code="RUB-DRV-001")


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_profile_has_error_and_time_for_the_layers_that_cost(built, runtime: str, tmp_path: Path) -> None:
    emit(built.graph, plan(built.graph, CPU, runtime=runtime), tmp_path)
    profile = profile_layers(tmp_path, {"x": signal(1, 2400)}, built.graph)
    nodes = {node.name: node.op_type for node in built.graph.nodes}
    assert set(profile.milliseconds) <= set(nodes)
    timed = {nodes[name] for name, ms in profile.milliseconds.items() if ms > 0}
    assert ("GRU" in timed) == ("GRU" in nodes.values()) and "Conv" in timed
    heavy = [name for name, op in nodes.items() if op in ("Conv", "GRU", "MatMul")]
    assert all(profile.gaps[name].snr_db > 100 for name in heavy)


def test_quantisers_are_expanded_to_the_same_numbers(tmp_path: Path) -> None:
    graph = quantised()
    made = prepare(graph)
    assert [d.code for d in made.decisions] == ["RUB-PASS-D02"]
    x = np.linspace(-4, 4, 40, dtype=np.float32).reshape(10, 4)
    want = execute(graph, {"x": x})
    for gaps in compare(emitted(made.graph, tmp_path), {"x": x}, want).values():
        assert gaps["y"].max_abs == 0.0
    profile = profile_layers(tmp_path, {"x": x}, graph)
    assert profile.not_measured


class Sensitive(torch.nn.Module):
    """Adds and takes away 4096 where fp16 has steps of 4: the two nodes that must stay in fp32."""

    def __init__(self, net: ConvNet) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = (self.net.stem(x) + 4096.0) - 4096.0
        return self.net.head(h + self.net.blocks[0](h)).permute(2, 0, 1).log_softmax(-1)


@pytest.mark.parametrize(("net", "stride", "kind"), [(conv_net(32), 3, "ctc"), (gru_net(), 4, "flipflop")])
def test_fp16_graphs_are_small_accurate_and_take_fp32(net, stride: int, kind: str, tmp_path: Path) -> None:
    graph = export(net, stride, kind)
    x = signal(1, 240)
    made = prepare(graph, precision="fp16", feeds={"x": x})
    assert made.decisions == () and made.evidence["snr_db"] >= 46
    assert made.graph.op_counts()["Cast"] >= 2 and "Cast" not in graph.op_counts()
    folder = emitted(made.graph, tmp_path, "fp16")
    with torch.no_grad():
        want = {"y": net(torch.from_numpy(x)).numpy()}
    for gaps in compare(folder, {"x": x}, want).values():
        assert 46 < require(gaps, MaxGap(snr=40), code="RUB-DRV-001").snr_db < 110, "really rounded"
    with open_session(folder) as session:
        assert session.inputs[0].dtype == session.outputs[0].dtype == "float32"


def test_fp16_keeps_exactly_the_nodes_that_need_fp32(tmp_path: Path) -> None:
    net = Sensitive(conv_net()).eval()
    graph = export(net, 3, "ctc")
    x = signal(1, 240)
    made = prepare(graph, precision="fp16", feeds={"x": x})
    assert made.evidence["all_fp16_snr_db"] < 30 and made.evidence["snr_db"] >= 46
    assert [d.code for d in made.decisions] == ["RUB-CPU-D02"] * 2
    assert {d.where for d in made.decisions} == {"Add", "Sub"}
    with torch.no_grad():
        want = net(torch.from_numpy(x)).numpy()
    assert gap(want, execute(made.graph, {"x": x})["y"]).snr_db > 46


def test_fp16_that_cannot_reach_the_limit_is_an_error() -> None:
    graph = export(conv_net(), 3, "ctc")
    with pytest.raises(VerificationFailed, match="RUB-CPU-050"):
        prepare(graph, precision="fp16", feeds={"x": signal(1, 120)}, max_gap=MaxGap(snr=200.0))


def test_bf16_is_coarser_where_the_cpu_has_it(conv, tmp_path: Path) -> None:
    from rubicc.backends.cpu_gpu.runtimes import openvino_takes_bf16

    if not openvino_takes_bf16():
        pytest.skip("this CPU has no bf16")
    x = signal(2, 300)
    found = compare(emitted(conv.graph, tmp_path, "bf16"), {"x": x}, conv.expected(x))
    assert "openvino" in found and all(25 < gaps["y"].snr_db < 80 for gaps in found.values())


def test_bench_measures_candidates_in_turns(conv) -> None:
    result = bench(
        conv.folder, [{"N": 2}, {"N": 1, "T": 90}], seconds=0.2, runtimes=("onnxruntime", "openvino")
    )
    assert [row.shapes for row in result.rows] == ["x 2x1x240", "x 2x1x240", "x 1x1x90", "x 1x1x90"]
    for row in result.rows:
        assert row.timing["min_ms"] <= row.timing["median_ms"] <= row.timing["p90_ms"] <= row.timing["p99_ms"]
        n, _, t = map(int, row.shapes.split()[1].split("x"))
        assert row.positions_per_second == pytest.approx(n * t / row.timing["median_ms"] * 1e3, rel=0.01)
        assert row.peak_bytes is None or row.peak_bytes >= 0
    assert {c.verdict for c in result.comparisons} <= {"faster", "slower", "UNSURE"}
    assert result.to_dict()["rows"][0]["runtime"] == "onnxruntime"


def test_bench_of_the_same_artefact_against_itself_is_unsure(conv) -> None:
    result = bench({"a": conv.folder, "b": conv.folder}, seconds=0.5, feeds={"x": signal(4, 480)})
    assert [c.verdict for c in result.comparisons] == ["UNSURE"]


def test_bench_usage(conv) -> None:
    with pytest.raises(UsageError, match="free dimensions"):
        bench(conv.folder, [{"batch": 2}], seconds=0.1)
    with pytest.raises(UsageError, match="RUB-CPU-020"):
        bench({}, seconds=1)


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_gpu_runs_what_the_source_computes(built, precision: str, tmp_path: Path) -> None:
    import onnxruntime

    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        pytest.skip("ONNX Runtime here has no CUDA provider")
    target = Target("gpu", "cuda")
    x = signal(2, 300)
    made = prepare(built.graph, precision=precision, feeds={"x": x[:1]})
    emit(made.graph, plan(made.graph, target, precision=precision), tmp_path)
    limit = MaxGap(snr=60.0 if precision == "fp32" else 40.0)
    for gaps in compare(tmp_path, {"x": x}, built.expected(x)).values():
        require(gaps, limit, code="RUB-DRV-001")
