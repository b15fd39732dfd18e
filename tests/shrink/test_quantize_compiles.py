"""``quantize --target T``, then ``compile --target T``: the widths chosen are those that are kept."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from rubicc.cli.main import main
from rubicc.frontend import checkpoint
from rubicc.ir.graph import is_quantiser
from rubicc.ir.io import load_graph
from rubicc.models import registry

CONFIG = {
    "blocks": [
        {"filters": 16, "kernel": 9, "stride": 3, "separable": False, "dropout": 0.0},
        {"filters": 16, "kernel": 5, "separable": False, "dropout": 0.0},
        {"filters": 32, "kernel": 5, "separable": False, "dropout": 0.0},
    ],
    "channels_per_group": 1,
}
# target -> flags of quantize, flags of compile, widths chosen
CASES: dict[str, tuple[list[str], list[str], set[int]]] = {
    "cpu": (["--activations", "8"], ["--precision", "int8", "--tune", "0"], {8}),
    "coreml:iOS18": (["--weights-mean-bits", "5"], ["--precision", "fp32"], {4, 8}),
    "aie:vek280": (["--bits", "4"], ["--precision", "mixed", "--shapes", "x=1x1x96"], {4, 8}),
}
# Decisions that say a width was not kept: expanded to floats, stored wider, multiplied wider.
WIDER = {
    *("RUB-PASS-D02", "RUB-PASS-D42", "RUB-COREML-D30", "RUB-COREML-D32"),
    *("RUB-AIE-D21", "RUB-AIE-D22"),
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two layers of 16 input channels, which the array multiplies with 4 bits."""
    torch.manual_seed(0)
    entry, path = registry.get("demo-ctc"), tmp_path_factory.mktemp("model") / "m.pt"
    checkpoint.save(path, entry.build(CONFIG, seed=2), entry.meta(CONFIG))
    return path


def decisions(folder: Path) -> list[dict[str, Any]]:
    return json.loads((folder / "report.json").read_text())["decisions"]


@pytest.mark.slow
@pytest.mark.parametrize("target", CASES)
def test_the_widths_are_kept(target: str, model: Path, tmp_path: Path) -> None:
    if target.startswith("aie") and not shutil.which("g++"):
        pytest.skip("the functional emulation needs g++")
    given, compiled, wanted = CASES[target]
    words = ["quantize", str(model), "-o", str(tmp_path / "q"), "--target", target, "-q"]
    assert main([*words, *given]) == 0
    graph = load_graph(tmp_path / "q" / "model.onnx")
    quants = [node for node in graph.all_nodes() if is_quantiser(node)]
    chosen = [int(node.inputs[3].const_value.numpy()) for node in quants]  # type: ignore[union-attr]
    assert set(chosen) == wanted
    words = ["compile", str(tmp_path / "q"), "--target", target, "-o", str(tmp_path / "out"), "-q"]
    assert main([*words, *compiled]) == 0
    told = [one for one in decisions(tmp_path / "out") if one["code"] in WIDER]
    assert not told
    if target == "cpu":
        made = load_graph(tmp_path / "out" / "cpu_gpu" / "model.onnx")
        assert sum(n.op_type == "DequantizeLinear" for n in made.nodes) == len(quants)
    if target.startswith("aie"):
        made = load_graph(tmp_path / "out" / "aie" / "integer.onnx")
        kept = {node.metadata_props.get("rubicc.weight_bits") for node in made.all_nodes()}
        assert kept - {None} == {"4", "8"}
    assert main(["verify", str(tmp_path / "out"), "-q"]) == 0
