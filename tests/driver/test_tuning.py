"""Compiling with what is left open: precisions, layouts, the cache and the gate, on the demo network."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rubicc import api
from rubicc.backends.cpu_gpu import runtimes, tune_cache
from rubicc.driver.inputs import proof_inputs
from rubicc.driver.proof import Limits, SourceGate, SourceOutputs
from rubicc.errors import ToolMissing, UsageError, VerificationFailed
from rubicc.quantities import MaxGap
from rubicc.spec import DecoderSpec, ModelMeta, SignalSpec, TensorSpec


def description(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "cpu_gpu" / "runtime.json").read_text())


@pytest.fixture(scope="module")
def integer(demo_model: Path, tmp_path_factory: pytest.TempPathFactory) -> api.Artefact:
    out = tmp_path_factory.mktemp("int8") / "out"
    return api.compile(demo_model, out=out, target="cpu", precision="int8", tune="300ms")


def test_int8_is_quantised_proven_in_every_runtime_and_said(integer: api.Artefact) -> None:
    import onnx

    ops = [node.op_type for node in onnx.load(integer.folder / "cpu_gpu" / "model.onnx").graph.node]
    assert "QuantizeLinear" in ops and "DequantizeLinear" in ops and "Quant" not in ops
    data = description(integer.folder)
    assert data["precision"] == "int8" and set(data["runtimes"]) == set(runtimes.installed())
    assert {"RUB-DRV-D03", "RUB-DRV-D01"} <= {d.code for d in integer.report.decisions}
    worst = {name.split(": ")[1]: gap.snr_db for name, gap in integer.report.gaps.items()}
    assert all(20 < snr < 80 for snr in worst.values()) and len(worst) == len(data["runtimes"])
    assert integer.manifest.inputs["calibration"] and api.verify(integer.folder).files.ok


def test_the_recipe_of_a_tuned_artefact_gives_the_same_bytes_without_measuring(
    integer: api.Artefact, demo_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rubicc.backends.cpu_gpu import contest

    def fail(*_: object, **__: object) -> None:
        raise AssertionError("measured again")

    monkeypatch.setattr(contest.measure, "interleave", fail)
    recipe = integer.folder / "recipe.yaml"
    again = api.compile(demo_model, out=tmp_path / "again", recipe=recipe, cache=False)
    assert again.manifest == integer.manifest


def test_auto_never_takes_what_misses_the_limit(demo_model: Path, tmp_path: Path) -> None:
    """60 dB: out of reach for int8 and bf16, whatever their speed."""
    flags = {"target": "cpu", "precision": "auto", "tune": "300ms", "max_gap": ["snr=60dB"]}
    made = api.compile(demo_model, out=tmp_path / "out", **flags)
    assert description(tmp_path / "out")["precision"] == made.report.precision == "fp32"
    assert "RUB-DRV-D03" not in {d.code for d in made.report.decisions}, "nothing was calibrated in the end"
    with pytest.raises(VerificationFailed, match="RUB-CPU-051"):
        api.compile(demo_model, out=tmp_path / "no", **(flags | {"precision": "int8"}))
    assert not (tmp_path / "no").exists()


def test_a_second_compilation_takes_the_choice_from_the_cache(
    demo_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    flags = {"target": "cpu", "tune": "200ms"}
    first = api.compile(demo_model, out=tmp_path / "a", **flags)
    assert len(list(tune_cache.folder().iterdir())) == 1
    second = api.compile(demo_model, out=tmp_path / "b", **flags)
    assert second.manifest == first.manifest
    reason = next(d.reason for d in second.report.decisions if d.code == "RUB-DRV-D01")
    assert "earlier" in reason
    api.compile(demo_model, out=tmp_path / "c", **(flags | {"cache": False, "tune": "100ms"}))
    assert len(list(tune_cache.folder().iterdir())) == 1


def test_streams_and_batch_reach_the_session(demo_model: Path, tmp_path: Path) -> None:
    flags = {"target": "cpu", "runtime": "onnxruntime", "layout": "plain", "batch": 6, "streams": 2}
    made = api.compile(demo_model, out=tmp_path / "out", **flags)
    assert not made.report.decisions
    assert not [m for m in made.report.measured if "batch item" in m.what], "nothing was measured"
    with made.session(streams=None, threads=4) as session:
        assert (session.streams, session.description["batch"]) == (2, 6)
    with made.session() as session:
        assert session.streams == 1, "a single call has all threads"


def test_polyphase_is_the_same_function(demo_model: Path, tmp_path: Path) -> None:
    made = api.compile(demo_model, out=tmp_path / "out", target="cpu", layout="polyphase", tune=0)
    data = description(tmp_path / "out")
    assert data["layout"] == "polyphase" and "native" not in data["runtimes"]
    assert all(gap.snr_db > 100 for gap in made.report.gaps.values())
    with pytest.raises(UsageError, match="plain layout"):
        api.compile(demo_model, out=tmp_path / "no", target="cpu", layout="polyphase", runtime="native")


@pytest.mark.skipif("native" not in runtimes.installed(), reason="no C++ compiler")
def test_native_runs_through_the_artefacts_own_runner_where_rubicc_is_there(
    demo_model: Path, tmp_path: Path
) -> None:
    made = api.compile(demo_model, out=tmp_path / "out", target="cpu", runtime="native", tune=0)
    assert made.report.runtime == "native"
    assert any("native" in row.why for row in made.report.not_measured if row.what == "time by layer")
    runner, inputs = tmp_path / "out" / "cpu_gpu" / "run.py", tmp_path / "out" / "verify" / "inputs.npz"
    command = [sys.executable, str(runner), str(inputs), "-o", str(tmp_path / "y.npz")]
    assert subprocess.run(command, timeout=120).returncode == 0
    with np.load(tmp_path / "y.npz") as made_, np.load(tmp_path / "out" / "verify" / "expected.npz") as want:
        for name in want.files:
            np.testing.assert_allclose(made_[name], want[name], atol=1e-3)
    hidden = "import sys; sys.modules['rubicc'] = None; sys.argv = sys.argv[1:]; import runpy; "
    alone = [sys.executable, "-c", hidden + "runpy.run_path(sys.argv[0], run_name='__main__')", *command[1:]]
    done = subprocess.run(alone, capture_output=True, text=True, timeout=120)
    assert done.returncode == 7 and "RUB-CPU-009" in done.stderr and "--runtime onnxruntime" in done.stderr
    other = subprocess.run([*alone, "--runtime", "openvino"], capture_output=True, text=True, timeout=120)
    assert other.returncode == 0, other.stderr


def test_native_asked_for_without_a_compiler_is_tool_missing(
    demo_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", str(tmp_path / "no-such-compiler"))
    with pytest.raises(ToolMissing, match="compiler") as caught:
        api.compile(demo_model, out=tmp_path / "out", target="cpu", runtime="native")
    assert caught.value.exit_code == 7
    made = api.compile(demo_model, out=tmp_path / "plain", target="cpu", tune=0)
    assert "native" not in description(tmp_path / "plain")["runtimes"] and made.report.verdict == "verified"


def test_bench_prints_alternatives_side_by_side(demo_model: Path) -> None:
    found = api.bench(
        demo_model, target="cpu", batch=2, seconds=0.5, length=1200,
        precisions=["fp32", "int8"], layouts=["plain"], runtimes=["onnxruntime", "openvino"],
    )  # fmt: skip
    assert [row.name for row in found.rows] == [
        f"{p} plain {r}" for p in ("fp32", "int8") for r in ("onnxruntime", "openvino")
    ]
    assert found.rows[0].speed == 1.0 and len({row.timing["count"] for row in found.rows}) == 1
    snr = [row.snr_db for row in found.rows]
    assert min(snr[:2]) > 100 > max(snr[2:]) > 20
    assert [c.a for c in found.comparisons] == ["fp32 plain onnxruntime"] * 3


@pytest.mark.slow
def test_bench_names_the_forms_that_cannot_be_had(demo_model: Path, integer: api.Artefact) -> None:
    options: dict[str, Any] = {
        "target": "cpu",
        "batch": 1,
        "seconds": 0.1,
        "length": 600,
        "max_gap": ["snr=70dB"],
    }
    found = api.bench(demo_model, precisions=["fp32", "int8"], runtimes=["openvino"], **options)
    assert [row.name for row in found.rows] == ["fp32 openvino"] and "SNR" in found.left_out["int8"]
    with pytest.raises(VerificationFailed):
        api.bench(demo_model, precisions=["int8"], **options)
    with pytest.raises(UsageError, match="one precision"):
        api.bench(integer.folder, precisions=["fp32", "int8"])


CASES = {"signal": {"x": np.ones((1, 1, 60), np.float32)}}


def gate(limit: MaxGap) -> tuple[SourceGate, list[str]]:
    asked: list[str] = []

    def source(feeds: Any) -> dict[str, np.ndarray]:
        asked.append("source")
        return {"y": np.arange(10, dtype=np.float32)}

    return SourceGate(CASES, SourceOutputs(CASES, source, source), Limits(limit, False)), asked


def test_the_gate_judges_by_the_limits_of_the_proof() -> None:
    judge, asked = gate(MaxGap())
    near = {"y": np.arange(10, dtype=np.float32) + 0.02}
    assert not judge("fp32", lambda _: near).holds and judge("bf16", lambda _: near).holds
    assert "80 dB" in judge("fp32", lambda _: near).reason
    assert judge("int8", lambda _: near).snr_db == pytest.approx(48.5, abs=1)
    assert asked == ["source"], "the source runs once"
    nan = {"y": np.full(10, np.nan, np.float32)}
    assert not judge("int8", lambda _: nan).holds and not judge("int8", lambda _: {}).holds

    def breaks(_: Any) -> dict[str, np.ndarray]:
        raise RuntimeError("kernel failed")

    assert "kernel failed" in judge("int8", breaks).reason
    strict, _ = gate(MaxGap(snr=60.0))
    assert not strict("bf16", lambda _: near).holds


def test_odd_lengths_are_cut_from_the_signal_where_ranges_matter() -> None:
    spec = TensorSpec("x", ("N", 1, "T"))
    meta = ModelMeta(
        arch="custom", inputs=(spec,), outputs=(TensorSpec("y", ("T_out", "N", 5)),), task="basecalling",
        stride=3, alphabet="NACGT", signal=SignalSpec(), decoder=DecoderSpec("ctc"), chunk=900, overlap=90,
    )  # fmt: skip
    noise = [{"x": np.zeros((3, 1, 401), np.float32)}, {"x": np.zeros((2, 1, 613), np.float32)}]
    plain = proof_inputs(meta, [spec], noise, None, 0)
    ranges = proof_inputs(meta, [spec], noise, None, 0, ranges=True)
    assert list(plain.cases) == list(ranges.cases) and plain.digest() != ranges.digest()
    first, one, two = ranges.cases.values()
    assert one["x"].shape == (3, 1, 401) and two["x"].shape == (2, 1, 613)
    np.testing.assert_array_equal(one["x"][0, 0], first["x"][0, 0, -401:])
    assert not plain.cases["odd length 1"]["x"].any()
