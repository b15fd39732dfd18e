"""Whole transformers through the Core ML pipeline: numbers at several lengths, padding, what still moves."""

from __future__ import annotations

from typing import Any

import ane_nets
import numpy as np
import pytest
from ane_nets import HEADS, LAYERS, body_moves, tokens

from rubicc.ir.executor import execute
from rubicc.ir.graph import Graph
from rubicc.passes.harness import relative_error
from rubicc.passes.manager import PassRecord, run_pipeline
from rubicc.passes.pipelines import PIPELINES

# Rows, positions, and how many of them are tokens, row by row.
FILLS = [(2, 12, (12, 12)), (2, 12, (12, 7)), (3, 17, (17, 9, 2)), (1, 5, (5,))]
NETS = {
    "dna-bert": LAYERS,
    "dna-bert, norm behind": LAYERS,
    "transformers BERT, sdpa": LAYERS,
    "transformers GPT-2, sdpa": LAYERS,
    "torch encoder, time first": LAYERS,
}
MORE = {  # the same attentions in other exports; the dynamo exporter takes seconds
    "transformers BERT, eager": LAYERS,
    "transformers BERT, sdpa, dynamo": LAYERS,
    "transformers GPT-2, eager": LAYERS,
    "torch encoder, norm behind": LAYERS,
    "torch attention": 1,
}
ALL = NETS | MORE
PARAMS = [*NETS, *(pytest.param(name, marks=pytest.mark.slow) for name in MORE)]


@pytest.fixture(scope="module", params=PARAMS)
def net(request: pytest.FixtureRequest) -> tuple[str, Any, Graph, Graph, list[PassRecord]]:
    """Name, torch module, graph before and after the pipeline, what the passes said."""
    module, before = ane_nets.made(request.param)
    after = before.clone()
    return request.param, module, before, after, run_pipeline(after, PIPELINES["coreml"], check=True)


def run(graph: Graph, feeds: dict[str, np.ndarray]) -> np.ndarray:
    (made,) = execute(graph, feeds, dtype=np.float64).values()
    return made


@pytest.mark.parametrize("fill", FILLS, ids=str)
def test_numbers_at_several_lengths(net: Any, fill: tuple[int, int, tuple[int, ...]]) -> None:
    """Against the graph in float64, and against torch at the positions of tokens."""
    import torch

    _, module, before, after, _ = net
    feeds = tokens(*fill)
    new, old = run(after, feeds), run(before, feeds)
    live = feeds["mask"].astype(bool)
    assert relative_error(old[live], new[live]) < 1e-6
    with torch.no_grad():
        wanted = module(*(torch.from_numpy(array) for array in feeds.values())).numpy()
    assert relative_error(wanted[live], new[live]) < 1e-5


def test_padding_is_not_attended_to(net: Any) -> None:
    """Other ids behind a sequence, or no padding at all, change nothing at its tokens."""
    _, _, _, after, _ = net
    feeds = tokens(2, 14, (14, 6))
    first = run(after, feeds)
    other = {**feeds, "ids": np.where(feeds["mask"] == 1, feeds["ids"], 3)}
    assert np.array_equal(run(after, other)[feeds["mask"] == 1], first[feeds["mask"] == 1])
    alone = run(after, {name: array[1:, :6] for name, array in feeds.items()})
    assert relative_error(first[1:, :6], alone) < 1e-12


def test_nothing_is_moved_inside(net: Any) -> None:
    """Linear layers are convolutions, heads einsums; one transpose of keys per layer is left."""
    name, _, _, after, records = net
    counts, layers = after.op_counts(), ALL[name]
    assert body_moves(after) == []
    assert not {"MatMul", "Gemm", "LayerNormalization"} & set(counts) or counts.get("MatMul") == 1
    assert counts["Einsum"] == 2 * HEADS * layers and counts["Softmax"] == HEADS * layers
    turned = [
        n
        for n in after.nodes
        if n.op_type == "Transpose" and list(n.attributes["perm"].value) == ane_nets.KEYS
    ]
    assert len(turned) == layers
    assert not [d for r in records for d in r.decisions if d.code == "RUB-PASS-D20"]


def test_causal_attention_does_not_look_ahead() -> None:
    """GPT-2: what comes later changes nothing before it."""
    _, graph = ane_nets.made("transformers GPT-2, sdpa")
    run_pipeline(graph, PIPELINES["coreml"])
    feeds = tokens(1, 11, (11,))
    first = run(graph, feeds)
    feeds["ids"][0, 7:] = 4
    again = run(graph, feeds)
    assert np.array_equal(first[:, :7], again[:, :7]) and not np.array_equal(first[:, 7:], again[:, 7:])


@pytest.mark.slow
def test_weights_that_are_an_output_keep_attention_whole() -> None:
    """need_weights=True: probabilities are read by more than the values; said, and still right."""
    _, before = ane_nets.made("torch attention with weights")
    after = before.clone()
    records = run_pipeline(after, PIPELINES["coreml"], check=True)
    decisions = [d for r in records for d in r.decisions if d.code == "RUB-PASS-D20"]
    assert (
        len(decisions) == 1 and "probabilities" in decisions[0].reason and "Einsum" not in after.op_counts()
    )
    feeds = tokens(2, 12, (12, 7))
    assert relative_error(run(before, feeds), run(after, feeds)) < 1e-6


@pytest.mark.parametrize(
    "name",
    ["transformers BERT, sdpa", pytest.param("transformers BERT, sdpa, dynamo", marks=pytest.mark.slow)],
)
def test_fixed_shapes_leave_nothing_but_the_ends(name: str) -> None:
    """As `--target coreml` compiles it: one way in, one way out, the keys, and the mask's two new axes."""
    import torch

    build, dynamo = ane_nets.modules()[name]
    torch.manual_seed(0)
    graph = ane_nets.export(build().eval(), dynamo, {"N": 1, "T": 16})
    run_pipeline(graph, PIPELINES["coreml"], check=True)
    counts = graph.op_counts()
    assert {op: counts[op] for op in ane_nets.MOVES if op in counts} == {
        "Transpose": LAYERS + 2, "Squeeze": 1, "Unsqueeze": 2, "Gather": 1,
    }  # fmt: skip
