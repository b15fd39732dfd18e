"""How much the output changes when one layer alone is quantised on real signal."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from rubicc.ir.graph import Graph
from rubicc.training.twin import Twin

Feeds = Mapping[str, Tensor]


class Reference:
    """A network's outputs on some signal, which changed versions of it are compared with.

    Args:
        feeds: batches by input name.
    """

    def __init__(self, graph: Graph, feeds: Sequence[Feeds]) -> None:
        self.feeds = list(feeds)
        self.outputs = list(_run(graph, self.feeds))

    def divergence(self, graph: Graph) -> float:
        """Power of the outputs' error over the power of the outputs; the largest over the outputs.

        Without unit; 1e-3 is an SNR of 30 dB. Not finite outputs count as infinite.
        """
        error: dict[str, float] = {}
        power: dict[str, float] = {}
        for was, now in zip(self.outputs, _run(graph, self.feeds), strict=True):
            for name, right in was.items():
                wide = right.double()
                error[name] = error.get(name, 0.0) + float((now[name].double() - wide).square().sum())
                power[name] = power.get(name, 0.0) + float(wide.square().sum())
        worst = max(error[name] / max(power[name], 1e-300) for name in error)
        return worst if np.isfinite(worst) else float("inf")


def sensitivity(
    reference: Reference,
    choices: Mapping[str, Iterable[tuple[int, int]]],
    variant: Callable[[str, tuple[int, int]], Graph],
) -> dict[str, dict[tuple[int, int], float]]:
    """Divergence by layer and (weight bits, activation bits), each layer changed alone.

    Args:
        variant: the network with one layer at a pair of widths.
    """
    return {
        name: {pair: reference.divergence(variant(name, pair)) for pair in pairs}
        for name, pairs in choices.items()
    }


def fisher_traces(
    graph: Graph, weights: Iterable[str], feeds: Sequence[Feeds], *, draws: int = 8, seed: int = 0
) -> dict[str, float]:
    """Trace of the Gauss-Newton matrix (the Hessian at the trained point) of the outputs' relative error.

    With J the outputs' derivative by a weight, the trace of J^T J is the mean of |J^T v|^2 over random
    signs v (Hutchinson), which takes first derivatives alone. Trace / elements x |rounding error|^2 then
    predicts a layer's divergence.

    Args:
        weights: names of initializers.
        draws: random vectors; the spread of the estimate falls with their root.

    Returns:
        By initializer name; only those that the outputs hang on.
    """
    twin = Twin(graph).eval()
    wanted = set(weights)
    parameters = {twin.names[n]: p for n, p in twin.named_parameters() if twin.names[n] in wanted}
    generator = torch.Generator().manual_seed(seed)
    sums = dict.fromkeys(parameters, 0.0)
    power = 0.0
    for batch in feeds:
        outputs = list(twin(batch).values())
        power += sum(float(out.detach().double().square().sum()) for out in outputs)
        for draw in range(draws):
            signs = [torch.randint(0, 2, o.shape, generator=generator).to(o.dtype) * 2 - 1 for o in outputs]
            found = torch.autograd.grad(
                outputs,
                list(parameters.values()),
                signs,
                retain_graph=draw + 1 < draws,
                allow_unused=True,
            )
            for name, grad in zip(parameters, found, strict=True):
                sums[name] += 0.0 if grad is None else float(grad.double().square().sum())
    return {name: total / draws / max(power, 1e-300) for name, total in sums.items()}


def _run(graph: Graph, feeds: Sequence[Feeds]) -> Iterable[dict[str, Tensor]]:
    twin = Twin(graph).eval()
    with torch.no_grad():
        for batch in feeds:
            yield twin(batch)
