from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from backend_nets import conv_net, export, signal

from rubicc.backends import registry
from rubicc.backends.base import Backend, Target, refuse
from rubicc.errors import ToolMissing, UsageError

ROOT = Path(__file__).resolve().parents[2]


def install(folder: Path, monkeypatch: pytest.MonkeyPatch, entries: str, **modules: str) -> None:
    """A distribution with entry points, as pip would have installed it."""
    for name, body in modules.items():
        (folder / f"{name}.py").write_text(body)
    info = folder / "example_targets-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: example-targets\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text(f"[rubicc.backends]\n{entries}\n")
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.delenv("RUBICC_PLUGINS", raising=False)


def test_listing_targets_imports_nothing_heavy() -> None:
    code = (
        "import sys; from rubicc.backends import registry\n"
        "registry.targets(); registry.parse_target('gpu:cuda')\n"
        "heavy = {'torch', 'onnxruntime', 'openvino', 'onnx', 'onnx_ir', 'numpy'} & set(sys.modules)\n"
        "sys.exit(repr(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_builtin_targets() -> None:
    assert [row.name for row in registry.targets()][:2] == ["cpu", "gpu"]
    assert registry.parse_target("cpu") == Target("cpu") and str(Target("gpu", "cuda")) == "gpu:cuda"
    for name in ("cpu", "gpu:tensorrt"):
        backend: Backend = registry.get(name)
        assert backend.name == name.partition(":")[0] and backend.folder == "cpu_gpu"
        assert all(hasattr(backend, attribute) for attribute in registry.REQUIRED)


@pytest.mark.parametrize(
    ("text", "code", "hint"),
    [
        ("gpuu", "RUB-TGT-001", "did you mean 'gpu'"),
        ("", "RUB-TGT-001", "known: cpu, gpu"),
        ("gpu:cude", "RUB-TGT-002", "did you mean 'cuda'"),
        ("cpu:0", "RUB-TGT-002", "write --target cpu"),
    ],
)
def test_unknown_targets_and_devices(text: str, code: str, hint: str) -> None:
    with pytest.raises(UsageError, match=code) as caught:
        registry.parse_target(text)
    assert hint in caught.value.hint


def test_a_broken_plugin_is_named_and_harms_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(
        tmp_path,
        monkeypatch,
        "npu = broken_npu:BACKEND\ntpu = empty_tpu:BACKEND\nodd = empty_tpu:ODD\ncpu = broken_npu:BACKEND",
        broken_npu="raise OSError('driver 9 is too old')",
        empty_tpu=(
            "class B:\n    name = 'tpu'\nBACKEND = B()\n"
            "from rubicc.backends.cpu_gpu.backend import CPU as ODD\n"
        ),
    )
    rows = {row.name: row for row in registry.targets()}
    assert rows["npu"].error == "OSError: driver 9 is too old" and rows["npu"].origin == "example-targets 1.2"
    assert "offers no devices" in rows["tpu"].error and "calls itself 'cpu'" in rows["odd"].error
    assert rows["cpu"].origin == "builtin" and not rows["cpu"].error
    with pytest.raises(ToolMissing, match="driver 9 is too old") as caught:
        registry.get("npu")
    assert caught.value.code == "RUB-TGT-003" and "RUBICC_PLUGINS=0" in caught.value.hint
    assert registry.plugin_versions()["npu"] == "example-targets 1.2"
    monkeypatch.setenv("RUBICC_PLUGINS", "0")
    assert {row.origin for row in registry.targets()} == {"builtin"} and registry.plugin_versions() == {}
    with pytest.raises(UsageError, match="RUB-TGT-001"):
        registry.get("npu")


def test_the_documented_backend_works_from_check_to_session(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (ROOT / "docs" / "adding_a_backend.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", text, flags=re.S)
    install(tmp_path, monkeypatch, "reference = documented:ReferenceBackend", documented=code)
    target = registry.parse_target("reference")
    backend = registry.get(target)
    graph = export(conv_net(), 3, "ctc")
    refuse(backend.check(graph, target), target)
    prepared = backend.prepare(graph, target)
    made = backend.plan(prepared.graph, target)
    out = tmp_path / "out"
    out.mkdir()
    assert backend.emit(prepared.graph, made, out).files == ("model.onnx",)
    readback = backend.readback(out)
    assert readback is not None and readback.op_counts() == graph.op_counts()
    assert backend.profile_layers(out, {"x": signal()}, graph).not_measured
    import torch

    x = signal(2, 100)
    with backend.open_session(out) as session, torch.no_grad():
        assert session.meta == graph.meta
        want = conv_net()(torch.from_numpy(x)).numpy()
        np.testing.assert_allclose(session.run({"x": x})["y"], want, atol=2e-6)
