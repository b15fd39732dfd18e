from __future__ import annotations

import time
from typing import Any, ClassVar

import numpy as np
import pytest
from backend_nets import conv_net, export
from test_cpu_gpu_check import chain

from rubicc.backends.base import Target
from rubicc.backends.cpu_gpu import runtimes
from rubicc.backends.cpu_gpu.description import as_text, description, model_bytes
from rubicc.backends.cpu_gpu.plan import plan
from rubicc.backends.cpu_gpu.templates import run as runner
from rubicc.errors import ToolMissing, Unsupported, UsageError
from rubicc.evidence.measure import Timing, compare, interleave

CPU = Target("cpu")


class Sleeper:
    """An engine whose speed a test decides."""

    delays: ClassVar[dict[str, float]] = {}

    def __init__(self, model: bytes, data: dict[str, Any], threads: int, streams: int) -> None:
        pass

    def infer(self, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
        time.sleep(self.delays[type(self).__name__])
        return []


@pytest.fixture
def speeds(monkeypatch: pytest.MonkeyPatch):
    def use(**delays: float) -> None:
        monkeypatch.setattr(Sleeper, "delays", delays)
        monkeypatch.setattr(runtimes, "missing", lambda name: "" if name in delays else "not here")
        for name in delays:
            monkeypatch.setitem(runner.ENGINES, name, type(name, (Sleeper,), {}))

    return use


def test_auto_measures_both_runtimes_on_real_sized_input(conv) -> None:
    start = time.monotonic()
    made = plan(conv.graph, CPU, seconds=1.0)
    assert time.monotonic() - start < 10
    measured = made.evidence["measured"]
    batch, *rest = measured["shapes"]["x"]
    assert rest == [1, 240] and 1 <= batch <= 32
    assert set(measured["timings"]) == set(runtimes.installed()) >= {"onnxruntime", "openvino"}
    for timing in measured["timings"].values():
        assert 0 < timing["min_ms"] <= timing["median_ms"] <= timing["p99_ms"] and timing["count"] >= 2
    assert made.runtime in made.runtimes == runtimes.installed()


@pytest.mark.parametrize(
    ("ort", "ov", "chosen"),
    [(0.004, 0.001, "openvino"), (0.001, 0.004, "onnxruntime"), (0.002, 0.002, "onnxruntime")],
)
def test_auto_takes_the_faster_and_in_doubt_onnxruntime(conv, speeds, ort, ov, chosen) -> None:
    speeds(onnxruntime=ort, openvino=ov)
    made = plan(conv.graph, CPU, seconds=0.2)
    assert made.runtime == chosen, made.evidence


def test_auto_measures_a_smaller_batch_when_time_is_short_and_says_so(conv, speeds) -> None:
    speeds(onnxruntime=0.02, openvino=0.02)
    measured = plan(conv.graph, CPU, seconds=0.5).evidence["measured"]
    assert measured["shapes"]["x"][0] < measured["planned_batch"] == 32


def test_timings_stay_out_of_what_is_emitted_and_the_resolved_plan_gives_the_same_bytes(conv) -> None:
    first = plan(conv.graph, CPU, seconds=0.1)
    again = plan(conv.graph, CPU, **first.resolved())
    model = model_bytes(conv.graph)
    texts = [as_text(description(conv.graph, p, model)) for p in (first, again)]
    assert texts[0] == texts[1] and "_ms" not in texts[0]
    assert first.decisions == again.decisions


def test_a_runtime_that_refuses_the_graph_is_left_out() -> None:
    graph = chain(("Relu", ""), ("Det", ""))
    made = plan(graph, CPU)
    assert made.runtimes == ("onnxruntime",) and "Det" in made.evidence["refused"]["openvino"]
    with pytest.raises(Unsupported, match="RUB-CPU-008"):
        plan(graph, CPU, runtime="openvino")


@pytest.mark.parametrize(
    "options",
    [
        {"runtime": "tflite"},
        {"precision": "int4"},
        {"layout": "polyphase", "runtime": "native"},
        {"streams": 0},
        {"precision": "bf16", "runtime": "onnxruntime"},
        {"threads": 0},
        {"batch": 0},
    ],
)
def test_impossible_plans(conv, options) -> None:
    with pytest.raises(UsageError, match="RUB-CPU-020"):
        plan(conv.graph, CPU, **options)


def test_gpu_without_provider_is_tool_missing(conv) -> None:
    import onnxruntime

    with pytest.raises(UsageError):
        plan(conv.graph, Target("gpu"), runtime="openvino")
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this machine has a CUDA provider")
    with pytest.raises(ToolMissing, match="onnxruntime-gpu") as caught:
        plan(conv.graph, Target("gpu"))
    assert caught.value.exit_code == 7


def test_a_runtime_that_is_not_installed(conv, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = {"openvino": "openvino is not installed", "native": "no C++ compiler"}
    monkeypatch.setattr(runtimes, "missing", lambda name: gone.get(name, ""))
    assert plan(conv.graph, CPU).runtimes == ("onnxruntime",)
    with pytest.raises(ToolMissing, match="pip install openvino"):
        plan(conv.graph, CPU, runtime="openvino")


def test_bf16_is_openvino_and_only_where_asked(conv, tmp_path) -> None:
    made = plan(conv.graph, CPU, precision="bf16")
    data = description(conv.graph, made, b"")
    assert set(made.runtimes) - {"native"} == {"openvino"}
    assert data["openvino"]["inference_precision"] == "bf16"
    fp32 = description(conv.graph, plan(conv.graph, CPU, runtime="openvino"), b"")
    assert fp32["openvino"]["inference_precision"] == "f32"


def test_static_shape_only_where_the_model_knows_its_chunk() -> None:
    graph = export(conv_net(), 3, "ctc")
    assert plan(graph, CPU, runtime="openvino", batch=4).static_shape == {"x": [4, 1, 240]}
    graph.meta = None
    made = plan(graph, CPU, runtime="openvino")
    assert made.static_shape == {} and made.batch == 1


def test_interleave_gives_every_candidate_the_same_number_of_calls_in_turns() -> None:
    order: list[str] = []
    timings = interleave({n: lambda n=n: order.append(n) for n in "abc"}, 0.0, min_rounds=4)
    assert [t.count for t in timings.values()] == [4, 4, 4]
    assert order[:3] == ["a", "b", "c"], "warm-up"
    assert order[3:] == list("abcbcacababc")


def test_verdicts() -> None:
    fast = Timing(tuple(0.9 + i / 1000 for i in range(20)))
    slow = Timing(tuple(1.1 + i / 1000 for i in range(20)))
    near = Timing(tuple(0.92 + i / 1000 for i in range(20)))
    wide = Timing(tuple(0.5 + i / 10 for i in range(20)))
    assert compare(fast, slow) == "faster" and compare(slow, fast) == "slower"
    assert compare(fast, near) == "UNSURE", "below 5 %"
    assert compare(fast, wide) == "UNSURE", "inside the noise"
    assert fast.percentile(50) == fast.seconds[9] and fast.percentile(99) == fast.seconds[-1]
    assert Timing((1.0,)).noise == 0.0
