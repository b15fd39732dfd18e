"""The zoo through the Core ML pipeline: same numbers in float64, (B, C, 1, S) everywhere, nothing turned."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ane_nets import KEYS, body_moves

from rubicc.frontend import checkpoint, read_model
from rubicc.frontend.feeds import draw
from rubicc.frontend.lower import lower
from rubicc.ir.executor import execute
from rubicc.ir.graph import Graph, spec_of
from rubicc.ir.shapes import infer_shapes
from rubicc.models import registry
from rubicc.passes.ane.kernel_forms import LIMIT
from rubicc.passes.ane.wide_kernels import width
from rubicc.passes.harness import relative_error
from rubicc.passes.manager import run_pipeline
from rubicc.passes.pipelines import PIPELINES

CONVOLUTIONAL = ["demo-ctc", "rubicall", "rubicall-fp", "bonito-ctc", "quartznet", "qabas"]
RECURRENT = ["taiyaki-mgru", "bonito-crf"]
CUTS = ("Slice", "Concat", "Split", "Pad")  # of wide kernels: they keep the layout
LAYERS, HEADS = 12, 12


def slow_but(names: list[str], quick: set[str]) -> list[object]:
    return [name if name in quick else pytest.param(name, marks=pytest.mark.slow) for name in names]


def graphs(name: str, folder: Path, **bind: int) -> tuple[Graph, Graph]:
    """A network of the zoo with random weights as it is lowered, bound, and after the pipeline."""
    entry = registry.get(name)
    path = folder / f"{name}.pt"
    checkpoint.save(path, entry.build(seed=0), entry.meta())
    before = infer_shapes(lower(read_model(path), (), 0).graph, bind)
    after = before.clone()
    run_pipeline(after, PIPELINES["coreml"], check=True)
    return before, after


def gap(before: Graph, after: Graph, share: float = 1.0) -> float:
    """Largest error in float64: there quantisers round alike, and only real differences remain."""
    specs = [spec_of(value) for value in before.inputs]
    feeds = draw(specs, {}, 3, {spec.name: 1000 for spec in specs if "ids" in spec.name})
    for name, array in feeds.items():
        if "mask" in name:
            array[...] = np.arange(array.shape[-1]) < max(1, round(array.shape[-1] * share))
    old, new = (execute(graph, feeds, dtype=np.float64) for graph in (before, after))
    return max(relative_error(old[name], new[name]) for name in old)


@pytest.mark.parametrize("name", slow_but(CONVOLUTIONAL, {"demo-ctc"}))
def test_convolutional_networks(name: str, tmp_path: Path) -> None:
    """One way in, one way out; every kernel fits; every convolution works on (B, C, 1, S)."""
    before, after = graphs(name, tmp_path, N=1, T=360)
    assert gap(before, after) < 1e-6
    assert [node for node in body_moves(after) if node.op_type not in CUTS] == []
    counts = after.op_counts()
    assert {op: counts.get(op) for op in ("Unsqueeze", "Squeeze", "Transpose", "Reshape")} == {
        "Unsqueeze": 1, "Squeeze": 1, "Transpose": 1, "Reshape": None,
    }  # fmt: skip
    convs = [node for node in after.nodes if node.op_type in ("Conv", "ConvTranspose")]
    assert all(len(node.outputs[0].shape) == 4 for node in convs)  # type: ignore[arg-type]
    assert max(width(node) for node in convs if node.op_type == "Conv") <= LIMIT
    assert counts.get("qonnx.custom_op.general::Quant") == before.op_counts().get(
        "qonnx.custom_op.general::Quant"
    )


@pytest.mark.parametrize("name", slow_but(RECURRENT, {"taiyaki-mgru"}))
def test_recurrent_networks(name: str, tmp_path: Path) -> None:
    """Convolutions in front are channels first; recurrent layers and the head keep their order."""
    before, after = graphs(name, tmp_path, N=1, T=300)
    assert gap(before, after) < 1e-6
    assert [node for node in body_moves(after) if node.op_type not in CUTS] == []
    counts = after.op_counts()
    assert counts["Transpose"] == 1 and counts["Unsqueeze"] == 1 and counts["MatMul"] == 1


@pytest.mark.slow
def test_dna_bert_at_its_own_size(tmp_path: Path) -> None:
    """110 M parameters, 512 tokens: 24 x 12 einsums, one transpose of keys per layer, no weight copied."""
    before, after = graphs("dna-bert", tmp_path, N=1, T=512)
    assert body_moves(after) == []
    counts = after.op_counts()
    assert counts["Einsum"] == 2 * LAYERS * HEADS and counts["Softmax"] == LAYERS * HEADS
    assert "MatMul" not in counts and "LayerNormalization" not in counts and "Reshape" not in counts
    turns = [n for n in after.nodes if n.op_type == "Transpose"]
    assert sum(list(n.attributes["perm"].value) == KEYS for n in turns) == LAYERS and len(turns) == LAYERS + 2
    assert copied(before, after) < 40e6  # bytes: the weights of the queries, which take up the scale
    for share in (1.0, 0.3):
        assert gap(before, after, share) < 1e-6


def copied(before: Graph, after: Graph) -> float:
    """Bytes of initializers that lie in memory of their own."""
    held = [v.const_value.numpy() for v in before.ir.initializers.values() if v.const_value is not None]
    starts = sorted((a.__array_interface__["data"][0], a.nbytes) for a in held)

    def shared(array: np.ndarray) -> bool:
        at = array.__array_interface__["data"][0]
        return any(start <= at < start + size for start, size in starts)

    arrays = [v.const_value.numpy() for v in after.ir.initializers.values() if v.const_value is not None]
    return float(sum(array.nbytes for array in arrays if not shared(array)))
