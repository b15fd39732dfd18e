"""The tuner with engines whose speed and accuracy a test decides, and its cache."""

from __future__ import annotations

import json
import logging
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from rubicc.backends.base import Judgement, Prepared, Target
from rubicc.backends.cpu_gpu import arena, contest, runtimes, tune_cache
from rubicc.backends.cpu_gpu import tune as tuning
from rubicc.backends.cpu_gpu.arena import Ask
from rubicc.backends.cpu_gpu.description import description, digest, model_bytes
from rubicc.backends.cpu_gpu.forms import Form, Maker, auto_precisions
from rubicc.backends.cpu_gpu.plan import plan
from rubicc.backends.cpu_gpu.prepare import choose as choose_form
from rubicc.backends.cpu_gpu.templates import run as runner
from rubicc.backends.cpu_gpu.tune import Tuned, tune
from rubicc.errors import ToolMissing, Unsupported, UsageError, VerificationFailed
from rubicc.evidence import measure

CPU = Target("cpu")
FP32, BF16, INT8, POLY = Form("fp32"), Form("bf16"), Form("int8"), Form("fp32", "polyphase", (("phases", 4),))


class Scripted:
    """An engine with a speed per call and batch item, and an error, by (runtime, precision)."""

    speeds: ClassVar[dict[tuple[str, str], float]] = {}
    errors: ClassVar[dict[tuple[str, str], float]] = {}
    calls: ClassVar[list[tuple[str, str, int, int, int]]] = []
    overhead = 0.0  # seconds of every call, whatever its batch
    serial = False  # whether concurrent calls wait for each other

    def __init__(self, name: str, model: bytes, data: dict[str, Any], threads: int, streams: int) -> None:
        self.key = (name, data["precision"])
        self.how = (threads, streams)
        if self.key not in self.speeds:
            raise runner.ArtefactError("failed", "RUB-CPU-008", f"{name} refuses the model")

    def infer(self, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
        items = len(feeds["x"])
        self.calls.append((*self.key, *self.how, items))
        time.sleep(self.overhead + self.speeds[self.key] * items)
        return [np.full((1, items, 5), 1.0 + self.errors.get(self.key, 0.0), np.float32)]


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(runtimes, "missing", lambda name: "")
    monkeypatch.setattr(runner, "cores", lambda: 2)
    for name in runtimes.RUNTIMES:
        monkeypatch.setitem(runner.ENGINES, name, lambda *args, name=name: Scripted(name, *args))

    def use(
        speeds: dict[tuple[str, str], float], errors: dict[tuple[str, str], float] | None = None, **rest: Any
    ):
        monkeypatch.setattr(Scripted, "speeds", speeds)
        monkeypatch.setattr(Scripted, "errors", errors or {})
        monkeypatch.setattr(Scripted, "calls", [])
        for key, value in rest.items():
            monkeypatch.setattr(Scripted, key, value)

    return use


def gate(precision: str, run: Any) -> Judgement:
    wrong = abs(float(run({"x": np.zeros((1, 1, 60), np.float32)})["y"].mean()) - 1.0)
    return Judgement(20.0 - wrong, "" if wrong <= 0.1 else "too far from the source")


def choose(graph: Any, forms: list[Form], **ask: Any) -> Tuned:
    return tune(
        Maker(lambda form: Prepared(graph)), forms, graph, Ask(CPU, **{"gate": gate, "seconds": 0.4} | ask)
    )


def test_the_fastest_form_and_runtime_win_together(conv, script) -> None:
    script({(r, p): s for r, p, s in (
        ("onnxruntime", "fp32", 0.004), ("openvino", "fp32", 0.003), ("openvino", "int8", 0.002),
        ("native", "fp32", 0.002), ("native", "int8", 0.0005), ("onnxruntime", "int8", 0.005),
    )})  # fmt: skip
    found = choose(conv.graph, [FP32, INT8])
    assert (found.form, found.runtime) == (INT8, "native")
    assert set(found.evidence["measured"]["timings"]) >= {"native int8", "openvino int8"}
    assert found.evidence["reason"] == "fastest by measurement"


def test_a_fast_but_wrong_candidate_never_wins(conv, script) -> None:
    speeds = {("onnxruntime", "fp32"): 0.004, ("openvino", "int8"): 0.0002, ("native", "int8"): 0.0002}
    script(speeds, {("openvino", "int8"): 5.0, ("native", "int8"): float("nan")})
    found = choose(conv.graph, [FP32, INT8])
    assert (found.form, found.runtime) == (FP32, "onnxruntime")
    assert "openvino int8" in found.evidence["rejected"]


def test_nothing_accurate_enough_is_an_error_that_names_each(conv, script) -> None:
    script({("openvino", "int8"): 0.001, ("native", "int8"): 0.001},
           {("openvino", "int8"): 1.0, ("native", "int8"): 2.0})  # fmt: skip
    with pytest.raises(VerificationFailed, match="RUB-CPU-051") as caught:
        choose(conv.graph, [INT8])
    assert "openvino" in str(caught.value) and "native" in str(caught.value) and caught.value.exit_code == 5


def test_in_doubt_the_simpler_form_and_runtime(conv, script) -> None:
    script({(r, "fp32"): 0.002 for r in runtimes.RUNTIMES})
    found = choose(conv.graph, [FP32, POLY], seconds=0.6)
    assert (found.form, found.runtime) == (FP32, "onnxruntime")


def test_what_is_given_is_not_measured(conv, script) -> None:
    script({(r, "fp32"): 0.001 for r in runtimes.RUNTIMES})
    found = choose(conv.graph, [FP32], runtime="openvino", batch=8, streams=1, objective="throughput")
    assert (found.runtime, found.batch, found.streams) == ("openvino", 8, 1)
    assert {call[0] for call in Scripted.calls} <= {"openvino"} and "measured" not in found.evidence


def test_a_form_that_cannot_be_made_is_left_out_with_its_reason(conv, script) -> None:
    script({("onnxruntime", "fp32"): 0.001, ("openvino", "fp32"): 0.002})

    def make(form: Form) -> Prepared:
        if form == INT8:
            raise VerificationFailed("RUB-PASS-999", "int8 reaches 3 dB of 20")
        return Prepared(conv.graph)

    found = tune(Maker(make), [FP32, INT8], conv.graph, Ask(CPU, seconds=0.2))
    assert found.form == FP32 and "3 dB" in found.evidence["refused"]["int8"]
    script({})
    with pytest.raises(Unsupported, match="RUB-CPU-008"):
        choose(conv.graph, [FP32])


def test_streams_and_batch_for_throughput(conv, script) -> None:
    script({("native", "fp32"): 0.0005}, overhead=0.008)  # a call costs: many items in few calls win
    found = choose(conv.graph, [FP32], objective="throughput", seconds=1.5)
    assert found.batch is not None and found.batch >= 32 and found.streams == 2, found.evidence
    assert found.threads is None
    assert {"streams=1", "batch=8"} <= {name.split()[0] for name in found.evidence["refined"]}


def test_latency_measures_one_item_and_chooses_threads(conv, script, monkeypatch: pytest.MonkeyPatch) -> None:
    script({("native", "fp32"): 0.004, ("onnxruntime", "fp32"): 0.008})
    slow_with_two = Scripted.infer

    def infer(self: Scripted, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
        time.sleep(0.004 * (self.how[0] - 1))
        return slow_with_two(self, feeds)

    monkeypatch.setattr(Scripted, "infer", infer)
    found = choose(conv.graph, [FP32], objective="latency", seconds=0.5)
    assert (found.runtime, found.threads, found.streams, found.batch) == ("native", 1, 1, None)
    assert {items for *_, items in Scripted.calls} == {1}


class Clock:
    """Time that passes only in calls of scripted engines, which wait for each other."""

    def __init__(self) -> None:
        self.now = 0.0
        self.lock = threading.Lock()

    def perf_counter(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        with self.lock:
            self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    scripted = Clock()
    for module in (arena, contest, measure, tuning, sys.modules[__name__]):
        monkeypatch.setattr(module, "time", scripted)
    return scripted


def test_the_time_bound_holds(conv, script, clock: Clock) -> None:
    script({(r, p): 0.004 for r in runtimes.RUNTIMES for p in ("fp32", "int8", "bf16")})
    found = choose(conv.graph, [FP32, BF16, POLY, INT8], objective="throughput", seconds=1.0, gate=None)
    assert found.evidence["wall_seconds"] == pytest.approx(clock.now, abs=1e-3)
    assert 0.5 < clock.now <= 1.0, found.evidence  # used, and kept to
    assert found.evidence["measured"]["shapes"]["x"][0] < found.evidence["measured"]["planned_batch"]


def test_a_cache_hit_gives_the_same_plan_without_measuring(conv, script, tmp_path: Path) -> None:
    script({("openvino", "fp32"): 0.001, ("native", "fp32"): 0.003, ("onnxruntime", "fp32"): 0.003})
    ask = {"objective": "throughput", "cache": {"inputs": "a"}}
    first = choose(conv.graph, [FP32], **ask)
    script({("openvino", "fp32"): 0.009, ("native", "fp32"): 0.001, ("onnxruntime", "fp32"): 0.003})
    again = choose(conv.graph, [FP32], **ask)
    assert not Scripted.calls, "nothing ran"
    same = ("form", "runtime", "threads", "batch", "streams")
    assert [getattr(again, n) for n in same] == [getattr(first, n) for n in same]
    assert again.evidence["cached"] is True and first.evidence["cached"] is False
    assert choose(conv.graph, [FP32], **(ask | {"cache": None})).runtime == "native", "switched off"


@pytest.mark.parametrize(
    "other",
    [
        {"cache": {"inputs": "b"}},
        {"batch": 4},
        {"threads": 1},
        {"objective": "latency"},
        {"seconds": 0.3},
    ],
)
def test_another_question_is_a_miss(conv, script, other: dict[str, Any]) -> None:
    script({("openvino", "fp32"): 0.001, ("native", "fp32"): 0.001})
    ask: dict[str, Any] = {"objective": "throughput", "cache": {"inputs": "a"}, "seconds": 0.2}
    choose(conv.graph, [FP32], **ask)
    Scripted.calls.clear()
    choose(conv.graph, [FP32], **(ask | other))
    assert Scripted.calls


def test_another_machine_is_a_miss(conv, script, monkeypatch: pytest.MonkeyPatch) -> None:
    script({("openvino", "fp32"): 0.001, ("native", "fp32"): 0.001})
    ask: dict[str, Any] = {"cache": {}, "seconds": 0.1}
    real = tune_cache.machine()
    choose(conv.graph, [FP32], **ask)
    for change in (
        {"cpu": {**real["cpu"], "flags": [*real["cpu"]["flags"], "amx_int8"]}},
        {"cores": 64},
        {"versions": {**real["versions"], "openvino": "1.0"}},
    ):
        monkeypatch.setattr(tune_cache, "machine", lambda change=change: real | change)
        Scripted.calls.clear()
        choose(conv.graph, [FP32], **ask)
        assert Scripted.calls, change


HOSTILE = (
    "", "[]", "{", "null", '{"schema_version": 1}', "[" * 100_000, "\x00" * 100,
    '{"schema_version": 1, "key": "other", "entry": {}}',
)  # fmt: skip
WRONG: tuple[dict[str, Any], ...] = (
    {"runtime": "../../bin/sh"}, {"runtime": None}, {"form": "int4"}, {"form": 3}, {"batch": -1},
    {"streams": "2"}, {"threads": 1.5}, {"batch": 10**9}, {"evidence": []}, {"streams": True},
)  # fmt: skip


def test_a_corrupt_or_hostile_cache_is_ignored_with_a_warning(
    conv, script, caplog: pytest.LogCaptureFixture
) -> None:
    script({("openvino", "fp32"): 0.001, ("native", "fp32"): 0.004})
    ask: dict[str, Any] = {"cache": {}, "seconds": 0.05}
    choose(conv.graph, [FP32], **ask)
    (path,) = tune_cache.folder().iterdir()
    good = json.loads(path.read_text())
    texts = [*HOSTILE, *(json.dumps(good | {"entry": good["entry"] | wrong}) for wrong in WRONG)]
    for text in [*texts, "x" * (tune_cache.MAX_BYTES + 1)]:
        path.write_text(text)
        caplog.clear()
        Scripted.calls.clear()
        with caplog.at_level(logging.WARNING):
            found = choose(conv.graph, [FP32], **ask)
        # Which of the two is found faster is the machine's affair: it may be busy.
        assert Scripted.calls and found.runtime in ("openvino", "native"), text[:80]
        assert "ignored" in caplog.text, text[:80]
        assert json.loads(path.read_text())["entry"]["runtime"] == found.runtime, "mended"
    path.unlink()
    path.mkdir()
    assert choose(conv.graph, [FP32], **ask).runtime in ("openvino", "native")
    assert not [p for p in path.parent.iterdir() if p.suffix == ".tmp"]


def test_the_plan_repeats_without_measuring_and_holds_no_timing(conv, script) -> None:
    script({("openvino", "fp32"): 0.001, ("native", "fp32"): 0.0004, ("onnxruntime", "fp32"): 0.003})
    made = plan(conv.graph, CPU, objective="throughput", seconds=0.4, gate=gate)
    options = made.resolved()
    assert None not in {options[name] for name in ("runtime", "batch", "streams", "layout", "precision")}
    Scripted.calls.clear()
    again = plan(conv.graph, CPU, objective="throughput", seconds=0.4, **options)
    assert not Scripted.calls and again.resolved() == options
    model = model_bytes(conv.graph)
    data = description(conv.graph, made, model)
    assert data == description(conv.graph, again, model)
    assert data["model"]["sha256"] == digest(model) and "_ms" not in json.dumps(data)
    assert (data["batch"], data["streams"]) == (options["batch"], options["streams"])


def test_tune_nothing_gives_the_rules(conv, script) -> None:
    script({(r, "fp32"): 0.001 for r in runtimes.RUNTIMES})
    made = plan(conv.graph, CPU, objective="throughput", seconds=0.0)
    assert (made.runtime, made.batch, made.streams, made.threads) == ("onnxruntime", 32, None, None)
    assert not Scripted.calls


def test_a_runtime_nobody_asked_for_that_is_wrong_is_left_out_and_said(conv, script) -> None:
    script({(r, "fp32"): 0.001 for r in runtimes.RUNTIMES}, {("native", "fp32"): 3.0})
    made = plan(conv.graph, CPU, seconds=0.0, gate=gate)
    assert made.runtimes == ("onnxruntime", "openvino")
    assert [(d.code, d.where) for d in made.decisions] == [("RUB-CPU-D03", "native")]
    asked = plan(conv.graph, CPU, runtime="native", gate=gate)
    assert "native" in asked.runtimes, "asked for by name: the proof will fail"
    script({("native", "fp32"): 0.001}, {("native", "fp32"): 3.0})
    assert plan(conv.graph, CPU, seconds=0.0, gate=gate).runtimes == ("native",), "the proof judges it"


def test_native_is_offered_only_where_it_can_be_had(conv, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        runtimes, "missing", lambda name: "no C++ compiler is installed" if name == "native" else ""
    )
    made = plan(conv.graph, CPU, seconds=0.0)
    assert "native" not in made.runtimes
    assert any("no C++ compiler" in note for note in made.evidence["notes"])
    with pytest.raises(ToolMissing, match="C\\+\\+ compiler") as caught:
        plan(conv.graph, CPU, runtime="native")
    assert caught.value.exit_code == 7


@pytest.mark.parametrize(
    ("target", "options", "hint"),
    [
        (Target("gpu", "cuda"), {"precision": "bf16"}, "fp16"),
        (Target("gpu", "cuda"), {"precision": "int8"}, "tensorrt"),
        (Target("gpu"), {"runtime": "native"}, "onnxruntime"),
        (CPU, {"layout": "polyphase", "runtime": "native"}, "plain"),
        (CPU, {"layout": "phases"}, "polyphase"),
        (CPU, {"precision": "bf16", "runtime": "onnxruntime"}, "openvino"),
    ],
)
def test_what_cannot_be_is_said_before_any_work(
    conv, target: Target, options: dict[str, Any], hint: str
) -> None:
    for refused in (plan, choose_form):
        with pytest.raises(UsageError, match="RUB-CPU-020") as caught:
            refused(conv.graph, target, **options)
        assert hint in caught.value.hint


def test_forms_know_their_runtimes_and_their_order() -> None:
    assert Form("bf16").runtimes(CPU) == ("openvino", "native")
    assert POLY.runtimes(CPU) == ("onnxruntime", "openvino")
    assert INT8.runtimes(Target("gpu", "tensorrt")) == ("onnxruntime",)
    assert sorted([INT8, POLY, BF16, FP32], key=lambda form: form.rank) == [FP32, POLY, BF16, INT8]
    assert POLY.name == "fp32 polyphase phases=4"
    assert replace(POLY, layout_options=()).name == "fp32 polyphase"
    assert auto_precisions(Target("gpu")) == ("fp32", "fp16") and auto_precisions(CPU)[0] == "fp32"
