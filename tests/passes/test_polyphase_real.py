"""The polyphase layout on the networks it was made for, with real signal."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import numpy as np
import onnx
import pytest

from rubicc.ir.graph import Graph
from rubicc.passes.harness import apply_and_check
from rubicc.passes.layout.polyphase import candidates
from rubicc.passes.manager import run_pipeline
from rubicc.passes.pipelines import PIPELINES


@pytest.fixture(scope="module")
def rubicall() -> Graph:
    """rubicall-fp with random weights, cleaned up; batch and time symbolic."""
    import torch

    from rubicc.models import registry

    module, buffer = registry.get("rubicall-fp").build(seed=0).eval(), io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module, (torch.randn(2, 1, 600),), buffer, dynamo=False, opset_version=20, input_names=["x"],
            output_names=["y"], dynamic_axes={"x": {0: "N", 2: "T"}, "y": {0: "T_out", 1: "N"}},
        )  # fmt: skip
    made = Graph.from_proto(onnx.load_from_string(buffer.getvalue()))
    run_pipeline(made, PIPELINES["cleanup"])
    return made


def signal(shared_data: Path, samples: int) -> np.ndarray:
    """Two windows of real signal, scaled by median and MAD."""
    chunks = np.load(shared_data / "chunks" / "chunks.npy", mmap_mode="r")
    raw = np.asarray(chunks[:2], np.float32).reshape(2, -1)[:, :samples]
    middle = np.median(raw, axis=1, keepdims=True)
    spread = 1.4826 * np.median(np.abs(raw - middle), axis=1, keepdims=True)
    return ((raw - middle) / spread)[:, None].astype(np.float32)


@pytest.mark.real_data
@pytest.mark.parametrize("formulation", ["rows", "gather", "planes"])
def test_rubicall_on_real_signal(shared_data: Path, rubicall: Graph, formulation: str) -> None:
    """Lengths with and without a remainder; every long kernel folds."""
    feeds = [{"x": signal(shared_data, samples)} for samples in (216, 205)]
    done = apply_and_check(
        "layout.polyphase", rubicall, feeds, options={"formulation": formulation}, random=0
    )
    folded = [
        node
        for node in done.graph.nodes
        if node.op_type == "Conv" and node.metadata_props.get("rubicc.made_by") == "layout.polyphase"
    ]
    assert len(folded) >= 16  # of 27 grouped convolutions, 16 have 25 taps or more
    assert [one.formulation for one in candidates(rubicall)] == ["rows", "planes", "gather"]
    assert candidates(done.graph) == ()
