"""Every pass and both pipelines on graphs as exporters really write them."""

from __future__ import annotations

import numpy as np
import pytest

from rubicc.ir.executor import execute
from rubicc.ir.graph import SOURCE_KEY, Graph
from rubicc.passes.harness import apply_and_check, random_feeds, relative_error
from rubicc.passes.manager import interface, run_pass, run_pipeline
from rubicc.passes.pipelines import PIPELINES
from rubicc.passes.registry import get

NAMES = ["residual", "residual (traced)", "gru", "lstm", "encoder", "encoder (traced)"]
SIZES = ({"N": 2, "T": 30}, {"N": 3, "T": 21})


def prepared(graph: Graph, pass_id: str) -> Graph:
    """The graph as the first occurrence of a pass in the pipeline finds it."""
    work = graph.clone()
    for step in PIPELINES["cpu_gpu"]:
        if step.id == pass_id:
            break
        run_pass(get(step.id)(), work)
    return work


@pytest.mark.parametrize("name", NAMES)
def test_every_pass_of_the_pipeline_alone(nets: dict[str, Graph], name: str) -> None:
    for pass_id in dict.fromkeys(step.id for step in PIPELINES["cpu_gpu"]):
        apply_and_check(pass_id, prepared(nets[name], pass_id), sizes=SIZES[0], random=1)


@pytest.mark.parametrize("name", NAMES)
def test_pipelines_keep_numbers_interface_and_come_to_rest(nets: dict[str, Graph], name: str) -> None:
    before, work = nets[name], nets[name].clone()
    run_pipeline(work, PIPELINES["cleanup"], check=True)
    assert [i[:2] for i in interface(work)] == [i[:2] for i in interface(before)]
    for seed, sizes in enumerate(SIZES):
        feeds = random_feeds(before, seed, sizes)
        old, new = execute(before, feeds), execute(work, feeds)
        assert relative_error(old["y"], new["y"]) < 1e-5
    again = run_pipeline(work, PIPELINES["cleanup"], check=True)
    assert [record.id for record in again if record.changed] == []
    assert all(node.metadata_props.get(SOURCE_KEY) for node in work.all_nodes())


def test_cleanup_leaves_what_the_network_says(nets: dict[str, Graph]) -> None:
    """The operators left are those of the modules: no constants, no arithmetic on static shapes."""

    def cleaned(name: str) -> dict[str, int]:
        work = nets[name].clone()
        run_pipeline(work, PIPELINES["cleanup"])
        return work.op_counts()

    for name in ("residual", "residual (traced)"):
        left = cleaned(name)
        assert left["Conv"] == 3 and left["ConvTranspose"] == 1
        assert left["Transpose"] == 1
        assert not {"BatchNormalization", "Constant", "Identity", "Dropout"} & set(left)
    gru = {"Conv": 1, "Tanh": 1, "BatchNormalization": 1, "Transpose": 1, "GRU": 2, "Squeeze": 2, "Slice": 1}
    assert cleaned("gru") == gru  # tanh stands between Conv and BatchNormalization
    lstm = cleaned("lstm")
    assert lstm["LSTM"] == 2 and not {"Shape", "ConstantOfShape", "Concat"} & set(lstm)
    assert "Constant" not in cleaned("encoder (traced)")


@pytest.mark.parametrize("name", NAMES)
def test_fp16_of_real_graphs(nets: dict[str, Graph], name: str) -> None:
    work = nets[name].clone()
    run_pipeline(work, PIPELINES["cleanup"])
    done = apply_and_check("lower.to-fp16", work, sizes=SIZES[0], random=1, expect_changed=True)
    halves = [v for v in done.graph.ir.initializers.values() if str(v.dtype) == "FLOAT16"]
    assert len(halves) >= 5
    assert done.record.op_diff.get("Cast", 0) <= 6


@pytest.mark.parametrize("name", ["residual", "lstm", "encoder"])
def test_cleaned_graphs_run_in_onnxruntime(nets: dict[str, Graph], name: str) -> None:
    import onnxruntime

    work = nets[name].clone()
    run_pipeline(work, PIPELINES["cpu_gpu"])
    feeds = random_feeds(work, 3, SIZES[1])
    session = onnxruntime.InferenceSession(work.to_proto().SerializeToString())
    np.testing.assert_allclose(session.run(None, feeds)[0], execute(nets[name], feeds)["y"], atol=2e-5)
