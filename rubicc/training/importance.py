"""How much channels matter to the loss, measured on the data a network is trained with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from rubicc.errors import VerificationFailed
from rubicc.ir.graph import Graph
from rubicc.passes.prune.groups import Group, Member
from rubicc.passes.prune.importance import reading
from rubicc.spec import ModelMeta
from rubicc.training.data.stream import DataSet, batch
from rubicc.training.lessons import Labelled, Lesson
from rubicc.training.network import Network
from rubicc.training.twin import Twin


@dataclass(frozen=True)
class _Place:
    """What a group takes of one axis of one parameter.

    Attributes:
        positions, channels: int64, side by side: a position of the axis, and the channel it goes with.
    """

    parameter: str
    axis: int
    positions: Tensor
    channels: Tensor


def taylor(
    graph: Graph,
    groups: Sequence[Group],
    meta: ModelMeta,
    lesson: Lesson,
    data: DataSet,
    *,
    items: int,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> dict[str, np.ndarray]:
    """How much the loss would change without each channel, to first order: one number per channel, by group.

    Imagine a factor on every channel wherever it is read. The loss's derivative by that factor is the sum of
    weight x gradient over the weights that read the channel; its magnitude, averaged over items, is the
    importance (Molchanov et al., "Importance estimation for neural network pruning", 2019, with gates). It is
    taken item by item: over a batch, effects of opposite sign cancel in a trained network.
    Rows that make the channel are left out, for with them the same effect would count twice; where no
    weights read a channel (queries and keys), all that goes with it is summed.

    The loss is that of bases and labels (:class:`rubicc.training.lessons.Labelled`). The network runs as when
    it is used: norms with their running statistics, no dropout. Memory: one gradient of the network.

    Args:
        graph: the graph that is pruned; left as it is.
        groups: of :func:`rubicc.passes.prune.groups.groups` of this graph.
        data: items from position 0 on of the stream of ``seed``.
        items: how many are averaged over.
        seed: of the stream, and of labels that are drawn from a teacher's scores.

    Returns:
        float64 per channel, by name of the group; groups without a trainable weight are left out.

    Raises:
        VerificationFailed: ``RUB-TRAIN-040``: loss or gradient is not finite.
    """
    twin = Twin(graph)
    network = Network(twin, meta).to(device).eval()
    places = _places(graph, twin, groups)
    taught = Labelled(lesson).to(torch.device(device))
    sums = {
        group.name: torch.zeros(group.size, dtype=torch.float64) for group in groups if places[group.name]
    }
    for products in _products(network, taught, data, items, seed):
        for name, total in sums.items():
            total += _summed(products, places[name], len(total)).abs().cpu()
    return {name: (total / items).numpy() for name, total in sums.items()}


def _products(
    network: Network, lesson: Lesson, data: DataSet, items: int, seed: int
) -> Iterator[dict[str, Tensor]]:
    """Weight x gradient of every parameter, item by item."""
    parameters = dict(network.inner.named_parameters())
    device = next(network.parameters()).device
    for position in range(items):
        with torch.random.fork_rng():  # labels may be drawn
            torch.manual_seed(seed + position)
            given = lesson.prepare(batch(data, [position], seed).to(device))
            scores, kept = network(given.feeds)
            loss = lesson.losses(scores, kept, given)["loss"]
            found = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
        products = {
            name: weight.detach() * grad
            for (name, weight), grad in zip(parameters.items(), found, strict=True)
            if grad is not None
        }
        if not all(bool(torch.isfinite(value).all()) for value in (loss, *products.values())):
            raise VerificationFailed(
                "RUB-TRAIN-040",
                f"importance of channels, item {position + 1}: loss {float(loss):g}, or its gradient",
                where=data.name,
                hint="check the data and the model's weights for NaN",
            )
        yield products


def _summed(products: dict[str, Tensor], places: Sequence[_Place], size: int) -> Tensor:
    """Sum over everything that goes with each channel."""
    device = next(iter(products.values())).device
    total = torch.zeros(size, dtype=torch.float64, device=device)
    for place in places:
        product = products.get(place.parameter)
        if product is None:
            continue
        flat = (
            product.double().movedim(place.axis, 0).flatten(1).sum(1)
            if product.ndim > 1
            else product.double()
        )
        total.index_add_(0, place.channels.to(device), flat[place.positions.to(device)])
    return total


def _places(graph: Graph, twin: Twin, groups: Sequence[Group]) -> dict[str, list[_Place]]:
    """By group, the weights that read its channels; all that go with them where none does."""
    learned = {name for name, _ in twin.named_parameters()}
    parameters: dict[str, list[str]] = {}
    for parameter, stored in twin.stored.items():
        if parameter in learned:
            parameters.setdefault(stored, []).append(parameter)
    initializers, read = graph.ir.initializers, reading(graph)
    found = {}
    for group in groups:
        # A vector of several readers, of which only some go, has one gradient for all: it says nothing.
        there = [
            member
            for member in group.members
            if member.initializer in parameters
            and (member.use is None or len(initializers[member.initializer].uses()) == 1)
        ]
        readers = [member for member in there if (member.initializer, member.axis) in read]
        found[group.name] = [
            _place(parameter, member)
            for member in readers or there
            for parameter in parameters[member.initializer]
        ]
    return found


def _place(parameter: str, member: Member) -> _Place:
    channels = np.repeat(np.arange(len(member.positions)), [len(rows) for rows in member.positions])
    positions = np.concatenate([np.zeros(0, np.int64), *member.positions])
    return _Place(parameter, member.axis, torch.from_numpy(positions), torch.from_numpy(channels))
