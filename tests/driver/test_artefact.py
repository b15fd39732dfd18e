"""Artefacts after compilation: loading, verifying, inspecting, calling, comparing."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

import rubicc
from rubicc import api
from rubicc.backends.cpu_gpu import runtimes
from rubicc.driver.artefact import Artefact
from rubicc.driver.demo import REFERENCE, embedded
from rubicc.driver.vectors import read_npz, write_npz
from rubicc.errors import RubiccError, UsageError, VerificationFailed
from rubicc.evidence import manifest as manifests


def test_load_runs_the_emitted_files(demo_artefact: Artefact) -> None:
    inputs = np.load(demo_artefact.folder / "verify" / "inputs.npz")
    expected = np.load(demo_artefact.folder / "verify" / "expected.npz")
    for runtime in ("onnxruntime", "openvino"):
        with rubicc.load(demo_artefact.folder, runtime=runtime) as session:
            assert session.meta is not None and session.meta.stride == 3
            got = session.run({"x": inputs["x"]})["y"]
        np.testing.assert_allclose(got, expected["y"], atol=1e-4)


def test_verify_passes_and_judges_new_data(demo_artefact: Artefact, demo_reads: Path) -> None:
    done = api.verify(demo_artefact.folder, data=demo_reads)
    assert done.files.ok and done.files.checked > 8
    assert len(done.gaps) == 2 * len(runtimes.installed())
    assert all(gap.snr_db > 100 for gap in done.gaps.values())
    one = api.verify(demo_artefact.folder, runtime="openvino")
    assert list(one.gaps) == ["recorded vectors: openvino against the source"]
    with pytest.raises(UsageError, match="RUB-DRV-007"):
        api.verify(demo_artefact.folder, runtime="tensorflow")


@pytest.mark.parametrize(
    "name", ["cpu_gpu/model.onnx", "verify/expected.npz", "report.html", "cpu_gpu/run.py"]
)
def test_verify_sees_any_changed_byte(demo_artefact: Artefact, tmp_path: Path, name: str) -> None:
    shutil.copytree(demo_artefact.folder, tmp_path / "a")
    data = bytearray((tmp_path / "a" / name).read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "a" / name).write_bytes(data)
    with pytest.raises(VerificationFailed) as caught:
        api.verify(tmp_path / "a")
    assert caught.value.code == "RUB-ART-011" and name in caught.value.what


def test_verify_runs_the_network_and_does_not_only_hash(demo_artefact: Artefact, tmp_path: Path) -> None:
    """Mutant: another weight, with every hash made right again."""
    folder = tmp_path / "a"
    shutil.copytree(demo_artefact.folder, folder)
    path = folder / "cpu_gpu" / "model.onnx"
    model = onnx.load(path)
    weight = max(model.graph.initializer, key=lambda i: len(i.raw_data))
    weight.raw_data = (np.frombuffer(weight.raw_data, np.float32) * np.float32(1.001)).tobytes()
    path.write_bytes(model.SerializeToString())
    description = json.loads((folder / "cpu_gpu" / "runtime.json").read_text())
    description["model"] |= {"sha256": manifests.file_sha256(path), "bytes": path.stat().st_size}
    (folder / "cpu_gpu" / "runtime.json").write_text(json.dumps(description))
    old = manifests.read(folder)
    manifests.seal(folder, replace(old, files={}, volatile=()), {})
    with pytest.raises(VerificationFailed) as caught:
        api.verify(folder)
    assert caught.value.code == "RUB-DRV-001"


def test_verify_holds_the_calls_to_the_recorded_identity(demo_artefact: Artefact, tmp_path: Path) -> None:
    """Mutant: expected scores whose calls differ, close enough for the recorded (loosened) SNR."""
    folder = tmp_path / "a"
    shutil.copytree(demo_artefact.folder, folder)
    expected = read_npz(folder / "verify" / "expected.npz")["y"]
    write_npz(folder / "verify" / "expected.npz", {"y": np.ascontiguousarray(expected[::-1])})
    old = manifests.read(folder)
    for limit, fails in ((None, False), (0.5, True)):
        evidence = {**old.evidence, "max_gap": {"snr": -40.0, "max_abs": None, "identity": limit}}
        manifests.seal(folder, replace(old, evidence=evidence, files={}, volatile=()), {})
        if not fails:
            api.verify(folder)
            continue
        with pytest.raises(VerificationFailed, match="identity lost"):
            api.verify(folder)


def test_inspect_says_the_same_of_model_and_artefact(demo_artefact: Artefact, demo_model: Path) -> None:
    model, artefact = api.inspect(demo_model), api.inspect(demo_artefact.folder)
    assert (model.parameters, model.receptive_field, model.stride) == (258_965, 147, 3)
    assert artefact.kind == "artefact" and artefact.sha256 == model.sha256
    assert artefact.macs == model.macs and artefact.receptive_field == 147
    assert model.inputs[0].shape == ("N", 1, "T")


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_calls_of_the_embedded_reads(
    demo_artefact: Artefact, demo_reads: Path, tmp_path: Path, runtime: str
) -> None:
    out = tmp_path / "calls.fastq"
    summary = api.basecall(demo_artefact.folder, [demo_reads], out=out, runtime=runtime)
    assert summary.problem_count == 0 and summary.reads >= 5
    with embedded(REFERENCE) as reference:
        found = api.evaluate(out, reference=reference)
    assert found.unmapped == 0 and found.mean_identity > 0.93


def test_a_model_that_is_no_basecaller_calls_nothing(tmp_path: Path, demo_reads: Path) -> None:
    import torch

    net = torch.nn.Conv1d(1, 4, 3).eval()
    with pytest.raises(UsageError) as caught:
        api.basecall(
            net, [demo_reads], out=tmp_path / "c.fastq", inputs=["x=Nx1xT:f32"], runtime="onnxruntime"
        )
    assert caught.value.code == "RUB-DRV-008" and not list(tmp_path.iterdir())


def test_diff_names_what_moved(demo_artefact: Artefact, demo_model: Path, tmp_path: Path) -> None:
    other = api.compile(demo_model, out=tmp_path / "b", target="cpu", runtime="openvino")
    changes = api.diff(demo_artefact.folder, other.folder)
    assert any(change.name == "cpu_gpu/runtime.json" for change in changes)
    assert not any(change.name == "cpu_gpu/model.onnx" for change in changes)
    assert api.diff(other.folder, other.folder) == []


def test_not_an_artefact(tmp_path: Path) -> None:
    with pytest.raises(RubiccError):
        rubicc.load(tmp_path)
