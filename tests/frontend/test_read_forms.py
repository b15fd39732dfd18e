"""Each MODEL form reads to the network that was saved."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import onnx
import pytest
import torch
from hostile_base import MGRU, mgru
from hostile_pt2 import Net, doctored
from safetensors.torch import save_file

from rubicc.errors import ModelRefused, UsageError
from rubicc.frontend import checkpoint, ptfile, read_model
from rubicc.frontend.source import Source
from rubicc.models import registry

SIGNAL = torch.randn(2, 1, 60, generator=torch.Generator().manual_seed(3))


def _same(source: Source, module: torch.nn.Module) -> None:
    assert source.module is not None and not source.module.training
    ours, theirs = source.module.state_dict(), module.state_dict()
    assert list(ours) == list(theirs) and all(torch.equal(ours[name], theirs[name]) for name in ours)
    with torch.no_grad():  # equal up to kernel choice, which depends on the alignment of memory
        assert torch.allclose(source.module(SIGNAL), module(SIGNAL), atol=1e-5)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_checkpoint_round_trip(suffix: str, tmp_path: Path) -> None:
    module = mgru()
    meta = registry.get("taiyaki-mgru").meta(module.config)
    path = tmp_path / f"net{suffix}"
    checkpoint.save(path, module, meta)
    first = path.read_bytes()
    for source in (read_model(path), checkpoint.load(path)):
        _same(source, module)
        assert (source.kind, source.name, source.meta, source.decisions) == ("checkpoint", "net", meta, [])
        assert source.sha256 == hashlib.sha256(first).hexdigest()
    checkpoint.save(path, module, meta)
    assert path.read_bytes() == first
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_checkpoint_save_needs_a_known_architecture(tmp_path: Path) -> None:
    meta = registry.get("taiyaki-mgru").meta()
    object.__setattr__(meta, "arch", "custom")
    with pytest.raises(UsageError, match="RUB-READ-034"):
        checkpoint.save(tmp_path / "x.pt", mgru(), meta)
    assert not list(tmp_path.iterdir())


def test_checkpoint_save_keeps_the_old_file_on_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.pt"
    path.write_bytes(b"old")
    monkeypatch.setattr(torch, "save", lambda *a, **k: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        checkpoint.save(path, mgru(), registry.get("taiyaki-mgru").meta())
    assert [p.name for p in tmp_path.iterdir()] == ["x.pt"] and path.read_bytes() == b"old"


def test_checkpoint_load_refuses_other_files(tmp_path: Path) -> None:
    torch.save(mgru().state_dict(), tmp_path / "a.pt")
    save_file(mgru().state_dict(), tmp_path / "a.safetensors")
    for name in ("a.pt", "a.safetensors"):
        with pytest.raises(ModelRefused, match="RUB-READ-030"):
            checkpoint.load(tmp_path / name)


@pytest.mark.parametrize("legacy", [False, True])
def test_state_dict(legacy: bool, tmp_path: Path) -> None:
    module = mgru()
    path = tmp_path / "weights.bin"  # detection is by content
    torch.save(module.state_dict(), path, _use_new_zipfile_serialization=not legacy)
    source = read_model(path, **MGRU)
    _same(source, module)
    assert source.kind == "state-dict" and source.meta is not None and source.meta.stride == 4
    assert not source.decisions


def test_safetensors_state_dict(tmp_path: Path) -> None:
    module = mgru()
    save_file(module.state_dict(), tmp_path / "m")
    _same(read_model(str(tmp_path / "m"), **MGRU), module)


def test_wrapped_half_precision_training_checkpoint(tmp_path: Path) -> None:
    module = mgru().half()
    state = {f"module.{name}": value for name, value in module.state_dict().items()}
    torch.save({"epoch": 3, "state_dict": state}, tmp_path / "m.pt")
    source = read_model(tmp_path / "m.pt", **MGRU)
    _same(source, module.float())
    assert [d.code for d in source.decisions] == ["RUB-READ-D03", "RUB-READ-D02", "RUB-READ-D01"]
    assert "12 from torch.float16" in source.decisions[2].what


def test_wrong_architecture_names_the_right_one(tmp_path: Path) -> None:
    torch.save(registry.get("rubicall-fp").build(seed=0).state_dict(), tmp_path / "m.pt")
    with pytest.raises(ModelRefused, match="did you mean --arch rubicall-fp") as caught:
        read_model(tmp_path / "m.pt", arch="taiyaki-mgru")
    assert caught.value.code == "RUB-READ-013"


def test_misspelt_tensor_is_suggested(tmp_path: Path) -> None:
    state = dict(mgru().state_dict())
    state["heads.bias"] = state.pop("head.bias")
    torch.save(state, tmp_path / "m.pt")
    with pytest.raises(ModelRefused, match=r"'heads.bias': did you mean 'head.bias'"):
        read_model(tmp_path / "m.pt", **MGRU)


def test_exported_program(tmp_path: Path) -> None:
    path = doctored()(tmp_path, tmp_path)
    source = read_model(path)
    assert source.kind == "pt2" and source.program is not None and source.decisions == []
    assert [(s.name, s.shape[1], s.dtype) for s in source.inputs] == [("x", 4, "float32")]
    assert isinstance(source.inputs[0].shape[0], str)
    net = Net().eval()
    net.load_state_dict(source.program.state_dict)
    x = torch.randn(5, 4)
    assert torch.equal(source.program.module()(x), net(x))


def test_exported_networks_of_the_zoo(tmp_path: Path) -> None:
    """What torch writes for a real network, in training and in core operators, passes the allow-lists."""
    module = registry.get("demo-ctc").build(seed=1)
    length = torch.export.Dim("T", min=30, max=3000)
    program = torch.export.export(module, (torch.randn(1, 1, 300),), dynamic_shapes=({2: length},))
    x = torch.randn(1, 1, 450)
    for index, version in enumerate((program, program.run_decompositions())):
        torch.export.save(version, tmp_path / f"{index}.pt2")
        read = read_model(tmp_path / f"{index}.pt2").program
        assert read is not None
        assert torch.allclose(read.module()(x), module(x), atol=1e-6)
        stacks = [node.meta.get("nn_module_stack") for node in read.graph.nodes if node.op == "call_function"]
        assert sum(bool(s) for s in stacks) > len(stacks) // 2, "provenance is kept"


class Attention(torch.nn.Module):
    """Operators language models use: attention, layer norm, embedding, powers of a symbolic size."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = torch.nn.Conv1d(1, 8, 9, stride=3, padding=4)
        self.norm = torch.nn.LayerNorm(8)
        self.qkv = torch.nn.Linear(8, 24)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            h = self.stem(x).transpose(1, 2)
        q, k, v = self.qkv(self.norm(h)).chunk(3, -1)
        return torch.nn.functional.scaled_dot_product_attention(q, k, v).log_softmax(-1)


def test_exported_attention(tmp_path: Path) -> None:
    module = Attention().eval()
    shapes = ({0: torch.export.Dim("N", max=8), 2: torch.export.Dim("T", min=30, max=3000)},)
    program = torch.export.export(
        module, (torch.randn(2, 1, 300),), dynamic_shapes=shapes
    ).run_decompositions()
    torch.export.save(program, tmp_path / "a.pt2")
    read = read_model(tmp_path / "a.pt2").program
    assert read is not None
    x = torch.randn(3, 1, 600)
    assert torch.allclose(read.module()(x), module(x), atol=1e-6)


def test_python_factory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "rubicc_my_nets.py").write_text(
        "import torch\ndef make():\n    torch.manual_seed(0)\n    return torch.nn.Conv1d(1, 2, 3)\n"
    )
    monkeypatch.chdir(tmp_path)
    source = read_model("python:rubicc_my_nets:make", allow_code=True)
    assert source.kind == "python" and source.name == "make"
    assert [d.code for d in source.decisions] == ["RUB-READ-D05"]
    assert source.sha256 == read_model("python:rubicc_my_nets:make", allow_code=True).sha256
    assert source.module is not None and source.module(SIGNAL).shape == (2, 2, 58)


def test_module_in_memory() -> None:
    module = mgru().train()
    source = read_model(module)
    assert source.module is module and not module.training
    before = source.sha256
    with torch.no_grad():
        module.head.bias[0] += 1
    assert read_model(module).sha256 != before
    with torch.no_grad():
        module.head.bias[0] = float("nan")
    with pytest.raises(ModelRefused, match="RUB-READ-014"):
        read_model(module)


def test_trust_opens_programs(tmp_path: Path) -> None:
    module = torch.nn.Conv1d(1, 2, 3)
    torch.jit.save(torch.jit.script(module), tmp_path / "script.pt")
    torch.save(module, tmp_path / "module.pt")
    torch.save(module, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    for name in ("script.pt", "module.pt", "old.pt"):
        source = read_model(tmp_path / name, trust=True)
        _same(source, module.eval())
        assert [d.code for d in source.decisions] == ["RUB-READ-D05"]
    assert read_model(doctored()(tmp_path, tmp_path), trust=True).program is not None
    with pytest.raises(ModelRefused, match="RUB-READ-090"):
        torch.save({"a": Path("x")}, tmp_path / "none.pt")
        read_model(tmp_path / "none.pt", trust=True)


def test_artefact_folder_is_told_apart(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text(json.dumps({}))
    with pytest.raises(UsageError, match="verify, bench or basecall"):
        read_model(tmp_path)


def test_torch_files_are_mapped_not_copied(tmp_path: Path) -> None:
    path = tmp_path / "m.pt"
    torch.save({"a": torch.zeros(1000), "b": torch.ones(7, dtype=torch.int64)}, path)
    loaded = ptfile.load_zip(path)
    assert str(path) in Path("/proc/self/maps").read_text() and loaded["b"].sum() == 7
    del loaded
    torch.save({"a": torch.arange(1000.0)}, path, _use_new_zipfile_serialization=False)
    value = ptfile.load_legacy(path)[0]["a"]
    value += 1  # the map is private: the file keeps its values
    assert torch.equal(ptfile.load_legacy(path)[0]["a"], torch.arange(1000.0))


def test_onnx(tmp_path: Path) -> None:
    node = onnx.helper.make_node("Relu", ["x"], ["y"])
    values = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["N", 3]) for name in "xy"]
    graph = onnx.helper.make_graph([node], "g", values[:1], values[1:])
    onnx.save(
        onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)]), tmp_path / "net"
    )
    source = read_model(tmp_path / "net")  # no suffix: told by content
    assert source.kind == "onnx" and source.graph is not None and source.meta is None
    assert source.graph.op_counts() == {"Relu": 1}
