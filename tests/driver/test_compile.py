"""The compile driver on the embedded basecaller: what it writes, what it refuses, what it leaves alone."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from rubicc import api
from rubicc.backends.cpu_gpu import runtimes
from rubicc.driver.artefact import Artefact
from rubicc.errors import (
    BudgetExceeded,
    OutputExists,
    RubiccError,
    Unsupported,
    UsageError,
    VerificationFailed,
)
from rubicc.evidence import manifest as manifests


def compiled(model: Path, out: Path | None, **flags: Any) -> Artefact:
    return api.compile(model, out=out, **{"target": "cpu", "runtime": "onnxruntime"} | flags)


def littered(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_artefact_holds_what_the_interface_says(demo_artefact: Artefact) -> None:
    folder = demo_artefact.folder
    for name in ("manifest.json", "report.html", "report.json", "recipe.yaml", "cpu_gpu/run.py"):
        assert (folder / name).is_file(), name
    assert littered(folder / "verify") == ["expected.npz", "gap.json", "inputs.npz"]
    report = demo_artefact.report
    assert report.verdict == "verified"
    assert {name.split(": ")[1] for name in report.gaps} == {
        *(f"{runtime} against the source" for runtime in runtimes.installed()),
        "emitted graph against the source, both in float64",
    }
    assert all(gap.snr_db > 100 for gap in report.gaps.values())
    assert report.not_measured and report.signal is not None and report.signal.bases
    convolutions = [row for row in report.layers if row.op == "Conv"]
    assert convolutions and all(row.macs and row.gap and row.source for row in convolutions)
    assert any(row.ms for row in convolutions)
    assert dict(report.totals)["parameters"] == "258,965"


def test_nothing_of_this_machine_stands_in_the_artefact(demo_artefact: Artefact, demo_model: Path) -> None:
    for path in demo_artefact.folder.rglob("*"):
        if path.is_file() and path.name != "measured.json":
            data = path.read_bytes()
            assert str(demo_model.parent).encode() not in data, path
            assert str(demo_artefact.folder.parent).encode() not in data, path


def test_same_input_gives_the_same_bytes_also_from_the_recipe(
    demo_artefact: Artefact, demo_model: Path, tmp_path: Path
) -> None:
    again = compiled(demo_model, tmp_path / "again", dump_stages=True)
    assert again.manifest == demo_artefact.manifest
    recipe = demo_artefact.folder / "recipe.yaml"
    from_recipe = api.compile(demo_model, out=tmp_path / "recipe", recipe=recipe)
    assert from_recipe.manifest == demo_artefact.manifest


@pytest.mark.slow
def test_a_measured_choice_is_a_decision_and_the_recipe_repeats_it(demo_model: Path, tmp_path: Path) -> None:
    first = compiled(demo_model, tmp_path / "first", runtime="auto")
    assert [d.code for d in first.report.decisions] == ["RUB-DRV-D01"]
    second = api.compile(demo_model, out=tmp_path / "second", recipe=tmp_path / "first" / "recipe.yaml")
    assert second.manifest == first.manifest and not second.report.decisions
    with pytest.raises(Unsupported) as caught:
        compiled(demo_model, tmp_path / "third", runtime="auto", strict=True)
    assert caught.value.code == "RUB-DRV-003" and caught.value.findings
    assert littered(tmp_path) == ["first", "second"]


@pytest.mark.parametrize(
    ("flags", "error", "code"),
    [
        ({"max_gap": ["snr=399dB"]}, VerificationFailed, "RUB-DRV-001"),
        ({"max_gap": ["max_abs=1e-12"]}, VerificationFailed, "RUB-DRV-001"),
        ({"budget": ["size=1kB"]}, BudgetExceeded, "RUB-DRV-005"),
        ({"budget": ["latency=1ns"]}, BudgetExceeded, "RUB-DRV-005"),
        ({"until_stage": "cleanup.fold"}, UsageError, "RUB-DRV-002"),
        ({"reference": "missing.fast5"}, UsageError, "RUB-DRV-006"),
        ({"target": "cpx"}, UsageError, "RUB-TGT-001"),
    ],
)
def test_failure_leaves_nothing_and_the_older_artefact_whole(
    demo_artefact: Artefact,
    demo_model: Path,
    tmp_path: Path,
    flags: dict[str, Any],
    error: type[RubiccError],
    code: str,
) -> None:
    with pytest.raises(error) as caught:
        compiled(demo_model, tmp_path / "new", **flags)
    assert caught.value.code == code
    assert littered(tmp_path) == []
    old = tmp_path / "old"
    shutil.copytree(demo_artefact.folder, old)
    with pytest.raises(error):
        compiled(demo_model, old, force=True, **flags)
    assert littered(tmp_path) == ["old"] and manifests.verify_files(old).ok


def test_existing_output_is_kept(demo_artefact: Artefact, demo_model: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years")
    for force in (False, True):
        with pytest.raises(OutputExists) as caught:
            compiled(demo_model, tmp_path / "mine", force=force)
        assert caught.value.code == "RUB-ART-001"
    assert littered(tmp_path / "mine") == ["thesis.tex"]


def test_dry_run_proves_and_writes_nothing(demo_model: Path, tmp_path: Path) -> None:
    done = compiled(demo_model, None, dry_run=True)
    assert done.path is None and done.report.verdict == "verified"
    assert littered(tmp_path) == []


def test_stages_stop_and_continue(demo_artefact: Artefact, demo_model: Path, tmp_path: Path) -> None:
    names = littered(demo_artefact.folder / "stages")
    assert names[0] == "00_lower.onnx" and len(names) == len(demo_artefact.manifest.passes) + 1
    out = tmp_path / "out"
    stopped = compiled(demo_model, out, until_stage="cleanup.fold-constants", dump_stages=True)
    assert stopped.report.verdict == "not verified" and not (out / "cpu_gpu").exists()
    with pytest.raises(RubiccError, match="RUB-DRV-007"):
        stopped.session()
    continued = compiled(demo_model, out, from_stage="cleanup.fold-constants")
    assert continued.report.verdict == "verified"
    assert (
        continued.manifest.files["cpu_gpu/model.onnx"] == demo_artefact.manifest.files["cpu_gpu/model.onnx"]
    )
    assert len(continued.manifest.passes) < len(demo_artefact.manifest.passes)


def test_stages_of_another_model_are_not_continued(
    demo_artefact: Artefact, demo_model: Path, tmp_path: Path
) -> None:
    from rubicc.frontend import checkpoint
    from rubicc.models.registry import get

    other = tmp_path / "other.pt"
    entry = get("demo-ctc")
    checkpoint.save(other, entry.build(seed=5), entry.meta())
    out = tmp_path / "out"
    shutil.copytree(demo_artefact.folder, out)
    with pytest.raises(UsageError) as caught:
        compiled(other, out, from_stage="cleanup.fold-constants")
    assert caught.value.code == "RUB-DRV-004" and "another model" in caught.value.what
    with pytest.raises(UsageError, match="RUB-DRV-004"):
        compiled(demo_model, tmp_path / "nowhere", from_stage="cleanup.fold-constants")


def test_a_wrong_weight_in_the_emitted_file_is_caught(
    demo_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mutant: the emitter writes one weight 1 % off; every runtime agrees with the file, not the source."""
    from rubicc.backends.cpu_gpu import description

    honest = description.model_bytes

    def off(graph: Any) -> bytes:
        model = onnx.load_from_string(honest(graph))
        weight = max(model.graph.initializer, key=lambda i: len(i.raw_data))
        array = np.frombuffer(weight.raw_data, np.float32).copy()
        array[np.abs(array).argmax()] *= 1.01
        weight.raw_data = array.tobytes()
        return model.SerializeToString()

    monkeypatch.setattr(description, "model_bytes", off)
    monkeypatch.setattr("rubicc.backends.cpu_gpu.emit.model_bytes", off, raising=False)
    with pytest.raises(VerificationFailed) as caught:
        compiled(demo_model, tmp_path / "out")
    assert caught.value.code == "RUB-DRV-001" and littered(tmp_path) == []


def test_fp16_is_verified_against_the_fp32_source(demo_model: Path, tmp_path: Path) -> None:
    half = compiled(demo_model, tmp_path / "half", precision="fp16", max_gap=["identity=2"])
    full = (tmp_path / "half" / "cpu_gpu" / "model.onnx").stat().st_size
    assert full < 600_000
    assert all(40 < gap.snr_db < 100 for gap in half.report.gaps.values())
    assert [m for m in half.report.measured if m.what.startswith("identity lost")]


@pytest.mark.slow
def test_reference_data_of_every_kind(demo_model: Path, demo_reads: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    np.save(tmp_path / "chunks.npy", rng.standard_normal((6, 900)).astype(np.float16))
    np.savez(tmp_path / "named.npz", x=rng.standard_normal((2, 1, 700)).astype(np.float32))
    for index, data in enumerate((tmp_path, tmp_path / "chunks.npy", tmp_path / "named.npz", demo_reads)):
        out = tmp_path / f"out{index}"
        done = compiled(demo_model, out, reference=data, max_gap=["identity=0"])
        assert "reference" in done.manifest.inputs
        assert any(name.startswith("reference data") for name in done.report.gaps)
    with pytest.raises(UsageError, match="RUB-DRV-006"):
        np.savez(tmp_path / "bad.npz", y=np.zeros(3))
        compiled(demo_model, tmp_path / "bad", reference=tmp_path / "bad.npz")


def test_identity_limits_need_a_basecaller(tmp_path: Path) -> None:
    import torch

    net = torch.nn.Conv1d(1, 4, 3).eval()
    with pytest.raises(UsageError) as caught:
        api.compile(net, out=tmp_path / "o", target="cpu", runtime="onnxruntime", inputs=["x=Nx1xT:f32"],
                    max_gap=["identity=1"])  # fmt: skip
    assert caught.value.code == "RUB-DRV-011"


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_fixed_input_is_proven_and_calibrated_at_its_own_shape(
    demo_model: Path, tmp_path: Path, precision: str
) -> None:
    made = compiled(demo_model, tmp_path / "o", inputs=["x=3x1x2000:f32"], precision=precision, tune=0.0)
    assert made.path is not None
    with np.load(made.path / "verify" / "inputs.npz") as stored:
        assert stored["x"].shape == (3, 1, 2000)
        assert len({row.tobytes() for row in stored["x"]}) == 3
