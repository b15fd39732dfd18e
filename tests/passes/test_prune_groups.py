"""Groups of coupled channels against those torch-pruning finds in the same networks."""

from __future__ import annotations

import io
import warnings
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from rubicc.ir.graph import Graph
from rubicc.models import registry
from rubicc.passes.pipelines import PIPELINES
from rubicc.passes.prune.groups import Coupling, groups
from rubicc.passes.registry import get as get_pass

Places = frozenset[tuple[str, int]]


class Convolutions(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv1d(1, 8, 5, padding=2), nn.BatchNorm1d(8)
        self.depth, self.point = nn.Conv1d(8, 8, 5, padding=2, groups=8), nn.Conv1d(8, 8, 1)
        self.left, self.right = nn.Conv1d(8, 6, 3, padding=1), nn.Conv1d(8, 10, 3, padding=1)
        self.join, self.up = nn.Conv1d(16, 12, 1), nn.ConvTranspose1d(12, 7, 4, 2, 1)
        self.head = nn.Linear(7, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.norm(self.stem(x)))
        x = x + self.point(self.depth(x))
        x = torch.cat([self.left(x), self.right(x)], 1)
        return self.head(self.up(self.join(x)).transpose(1, 2))


class Bert(nn.Module):
    """Two blocks of the zoo's DNA language model."""

    def __init__(self) -> None:
        super().__init__()
        config = {
            "vocab_size": 30, "hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 3,
            "intermediate_size": 20, "max_position_embeddings": 32,
        }  # fmt: skip
        self.bert = registry.get("dna-bert").build(config, seed=0).bert
        self.head = nn.Linear(12, 4)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(self.bert(ids, (ids * 0)[:, None, None, :].float()))


def seeded(module: Any) -> Any:
    torch.manual_seed(0)
    for parameter in module.parameters():
        parameter.data.normal_()
    return module.eval()


def exported(module: Any, example: torch.Tensor) -> Graph:
    buffer = io.BytesIO()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module, (example,), buffer, dynamo=False, input_names=["x"], output_names=["y"], opset_version=20,
            dynamic_axes={"x": {0: "N", example.ndim - 1: "T"}, "y": {}}, do_constant_folding=False,
        )  # fmt: skip
    graph = Graph.from_proto(onnx.load_from_string(buffer.getvalue()))
    for step in PIPELINES["cleanup"]:
        if step.id not in ("cleanup.deduplicate", "cleanup.fuse-batchnorm"):
            get_pass(step.id)().run(graph)
    return graph


def ours(module: Any, graph: Graph, coupling: Coupling) -> set[Places]:
    """Parameters of the module and their axes, group by group."""
    parameters = {name: p.detach().numpy() for name, p in module.named_parameters()}
    found = set()
    for group in coupling.groups:
        places = set()
        for member in group.members:
            array = graph.ir.initializers[member.initializer].const_value.numpy()
            for name, parameter in parameters.items():
                if parameter.shape == array.shape and np.array_equal(parameter, array):
                    places.add((name, member.axis))
                elif parameter.ndim == 2 and np.array_equal(parameter.T, array):
                    places.add((name, 1 - member.axis))
        if not group.inside:  # torch-pruning has no groups for one feature of every head
            found.add(frozenset(places))
    return found


def theirs(module: Any, example: torch.Tensor) -> set[Places]:
    tp = pytest.importorskip("torch_pruning", reason="torch-pruning is not installed (extra dev)")
    graph = tp.DependencyGraph().build_dependency(module, example_inputs=example)
    names = {part: name for name, part in module.named_modules()}
    kinds = [nn.Conv1d, nn.ConvTranspose1d, nn.Linear, nn.Embedding]
    found = set()
    for group in graph.get_all_groups(ignored_layers=[module.head], root_module_types=kinds):
        places: set[tuple[str, int]] = set()
        for dependency, _ in group:
            part = dependency.target.module
            if part in names:
                out = graph.is_out_channel_pruning_fn(dependency.handler)
                places |= _axes(part, names[part], out)
        found.add(frozenset(places))
    return found


def _axes(part: nn.Module, name: str, out: bool) -> set[tuple[str, int]]:
    if isinstance(part, nn.Embedding):
        return {(f"{name}.weight", 1)}
    if isinstance(part, (nn.BatchNorm1d, nn.LayerNorm)):
        return {(f"{name}.weight", 0), (f"{name}.bias", 0)}
    rows = 1 if isinstance(part, nn.ConvTranspose1d) else 0
    return {(f"{name}.weight", rows), (f"{name}.bias", 0)} if out else {(f"{name}.weight", 1 - rows)}


def test_convolutions_like_torch_pruning() -> None:
    module, x = seeded(Convolutions()), torch.randn(2, 1, 32)
    graph = exported(module, x)
    coupling = groups(graph)
    assert ours(module, graph, coupling) == theirs(module, x)
    assert len(coupling.groups) == 5 and [p.channels for p in coupling.protected] == [5]


def test_bert_like_torch_pruning() -> None:
    module, ids = seeded(Bert()), torch.randint(0, 30, (2, 9))
    graph = exported(module, ids)
    expected = theirs(module, ids)
    assert ours(module, graph, groups(graph, norms=True)) == expected
    hidden = max(expected, key=len)  # everything that stands on the residual stream: norms count it
    assert ours(module, graph, groups(graph)) == expected - {hidden}
    kinds = sorted((group.kind, group.size) for group in groups(graph).groups)
    every = ("features of every head", 4)
    assert kinds == sorted([("heads", 3), every, every, ("features", 20)] * 2)
