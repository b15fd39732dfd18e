from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from backend_nets import conv_net, export, signal
from test_cpu_gpu_check import quantised

from rubicc.backends.base import Target
from rubicc.backends.cpu_gpu.emit import emit
from rubicc.backends.cpu_gpu.plan import plan
from rubicc.errors import Unsupported
from rubicc.ir.io import load_graph

CPU = Target("cpu")


def run_py(folder: Path, *args: object) -> subprocess.CompletedProcess[str]:
    """The emitted program in isolated mode: no user site, no PYTHONPATH, not this checkout."""
    command = [sys.executable, "-I", str(folder / "run.py"), *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, timeout=120)


@pytest.fixture
def copy(conv, tmp_path: Path) -> Path:
    return Path(shutil.copytree(conv.folder, tmp_path / "artefact"))


def test_equal_graph_and_plan_give_equal_bytes_without_paths_or_times(conv, tmp_path: Path) -> None:
    graph = export(conv_net(), 3, "ctc")
    result = emit(graph, plan(graph, CPU, runtime="onnxruntime", batch=2), tmp_path / "again")
    assert result.files == ("README.md", "model.onnx", "run.py", "runtime.json")
    for name in result.files:
        body = (tmp_path / "again" / name).read_bytes()
        assert body == (conv.folder / name).read_bytes(), name
        assert str(tmp_path).encode() not in body and b"/work/" not in body


def test_runtime_json_says_everything_inference_must_know(gru) -> None:
    data = json.loads((gru.folder / "runtime.json").read_text())
    assert data["inputs"] == [{"name": "x", "dtype": "float32", "shape": ["N", 1, "T"]}]
    assert data["outputs"][0]["shape"][2] == 40
    assert data["meta"]["stride"] == 4 and data["meta"]["decoder"]["kind"] == "flipflop"
    assert data["meta"]["signal"]["normalisation"] == "med-mad" and data["meta"]["alphabet"] == "ACGT"
    assert data["batch"] == 2 and data["openvino"]["static_shapes"] == [{"x": [2, 1, 240]}]
    assert data["openvino"]["inference_precision"] == "f32"


def test_the_emitted_model_passes_the_safe_reader_with_its_metadata(built) -> None:
    graph = load_graph(built.folder / "model.onnx")
    assert graph.meta == built.graph.meta
    assert graph.op_counts() == built.graph.op_counts()


def test_names_from_models_cannot_become_markup(tmp_path: Path) -> None:
    graph = export(conv_net(), 3, "ctc")
    assert graph.meta is not None
    graph.meta = replace(graph.meta, arch="x|<script>alert(1)</script>`\n# title")
    graph.inputs[0].name = 'x"; import os |'
    emit(graph, plan(graph, CPU, runtime="onnxruntime"), tmp_path)
    text = (tmp_path / "README.md").read_text()
    assert "<script" not in text and "\n# title" not in text and "os |" not in text
    assert (tmp_path / "run.py").read_text().count("import os") == 1


def test_quantisers_are_never_emitted(tmp_path: Path) -> None:
    graph = quantised()
    draft = plan(export(conv_net(), 3, "ctc"), CPU, runtime="onnxruntime")
    with pytest.raises(Unsupported, match="RUB-CPU-003"):
        emit(graph, draft, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_run_py_alone_computes_what_the_source_computes(built, runtime: str, tmp_path: Path) -> None:
    x = signal(3, 251)
    np.savez(tmp_path / "in.npz", x=x)
    done = run_py(built.folder, tmp_path / "in.npz", "-o", tmp_path / "out.npz", "--runtime", runtime)
    assert done.returncode == 0, done.stderr
    with np.load(tmp_path / "out.npz") as got:
        np.testing.assert_allclose(got["y"], built.expected(x)["y"], atol=2e-6)


def test_run_py_needs_numpy_and_one_runtime_only(conv) -> None:
    code = (
        "import sys, runpy; m = runpy.run_path('run.py'); m['load']('.').run\n"
        "bad = {'torch', 'onnx', 'onnx_ir', 'rubicc', 'openvino', 'psutil'} & set(sys.modules)\n"
        "sys.exit(repr(bad) if bad else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", code], cwd=conv.folder, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr


def test_run_py_info_is_json(conv) -> None:
    done = run_py(conv.folder, "--info")
    assert json.loads(done.stdout)["meta"]["stride"] == 3


def flip(path: Path, offset: int) -> None:
    body = bytearray(path.read_bytes())
    body[offset] ^= 1
    path.write_bytes(bytes(body))


@pytest.mark.parametrize("damage", ["one bit", "truncated", "gone", "symlink elsewhere"])
def test_a_damaged_model_is_refused_and_nothing_is_written(copy: Path, damage: str, tmp_path: Path) -> None:
    model = copy / "model.onnx"
    if damage == "one bit":
        flip(model, model.stat().st_size // 2)
    elif damage == "truncated":
        model.write_bytes(model.read_bytes()[:-1])
    else:
        model.unlink()
        if damage == "symlink elsewhere":
            (tmp_path / "other").write_bytes(b"something else")
            model.symlink_to(tmp_path / "other")
    np.savez(tmp_path / "in.npz", x=signal())
    done = run_py(copy, tmp_path / "in.npz", "-o", tmp_path / "out.npz")
    assert done.returncode == 3 and "RUB-CPU-030" in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "out.npz").exists()


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d.update(schema_version=2),
        lambda d: d["model"].update(file="../model.onnx"),
        lambda d: d["model"].update(file="/etc/hostname"),
        lambda d: d["model"].update(file=".."),
        lambda d: d.pop("model"),
        lambda d: d.pop("openvino"),
        lambda d: d["inputs"][0].update(shape="N"),
        lambda d: d["inputs"][0].update(shape=[None, 1]),
        lambda d: d["inputs"][0].update(dtype="no such type"),
        lambda d: d.update(runtime=7),
        lambda d: d.update(threads="many"),
    ],
)
def test_a_damaged_description_is_refused(copy: Path, change) -> None:
    path = copy / "runtime.json"
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))
    done = run_py(copy, "--info")
    assert done.returncode == 3 and "RUB-CPU-031" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff\xfe", b'{"schema_version": 1}', b" " * (5 << 20)])
def test_a_description_that_is_none_is_refused(copy: Path, body: bytes) -> None:
    (copy / "runtime.json").write_bytes(body)
    done = run_py(copy, "--info")
    assert done.returncode == 3 and "RUB-CPU-031" in done.stderr


def test_wrong_input_files_are_usage_errors(conv, tmp_path: Path) -> None:
    cases = {"RUB-CPU-032": {"z": signal()}, "RUB-CPU-033": {"x": signal().astype("f8")}}
    cases["RUB-CPU-034"] = {"x": signal()[:, 0]}
    for code, arrays in cases.items():
        np.savez(tmp_path / "in.npz", **arrays)
        done = run_py(conv.folder, tmp_path / "in.npz", "-o", tmp_path / "out.npz")
        assert done.returncode == 2 and code in done.stderr
    np.save(tmp_path / "pickle.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    np.savez(tmp_path / "pickle.npz", x=np.array([{"a": 1}], dtype=object))
    for name in ("pickle.npz", "pickle.npy", "absent.npz"):
        done = run_py(conv.folder, tmp_path / name, "-o", tmp_path / "out.npz")
        assert done.returncode == 2 and "RUB-CPU-037" in done.stderr, (name, done.stderr)
    assert not (tmp_path / "out.npz").exists()
