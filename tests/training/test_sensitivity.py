"""Sensitivity of layers: against the executor, and traces against the matrix they are of."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from twin_zoo import net

from rubicc.ir.executor import execute
from rubicc.passes.quantize.weights import QuantiseWeights, WeightOptions
from rubicc.training.sensitivity import Reference, fisher_traces
from rubicc.training.twin import Twin


def small():
    graph = net("taiyaki-mgru").cleaned
    name = graph.inputs[0].name
    signal = np.random.default_rng(0).normal(size=(2, 1, 60)).astype(np.float32)
    return graph, name, signal


def test_divergence_is_that_of_the_executor() -> None:
    graph, name, signal = small()
    changed = graph.clone()
    QuantiseWeights(WeightOptions(bits=3, least=1)).run(changed)
    was, now = (next(iter(execute(g, {name: signal}).values())) for g in (graph, changed))
    right = np.square(now - was).sum() / np.square(was).sum()
    reference = Reference(graph, [{name: torch.from_numpy(signal)}])
    assert reference.divergence(changed) == pytest.approx(right, rel=1e-3) and right > 1e-6
    assert reference.divergence(graph) == 0


def test_traces_are_those_of_the_jacobian() -> None:
    graph, name, signal = small()
    feeds = {name: torch.from_numpy(signal[:1])}
    twin = Twin(graph).eval()
    parameter, weight = next((n, twin.names[n]) for n, p in twin.named_parameters() if p.ndim == 3)
    rows, power = 0.0, 0.0
    for out in twin(feeds).values():
        for number in out.reshape(-1):
            grad = torch.autograd.grad(number, twin.get_parameter(parameter), retain_graph=True)[0]
            rows += float(grad.square().sum())
            power += float(number) ** 2
    found = fisher_traces(graph, [weight], [feeds], draws=200)
    assert found[weight] == pytest.approx(rows / power, rel=0.3)
