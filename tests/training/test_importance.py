"""Taylor importance against what really happens to the loss, and movement against sums made beside it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from scipy.stats import spearmanr
from torch import Tensor
from twin_zoo import feeds, net

from rubicc.errors import VerificationFailed
from rubicc.ir.graph import Graph
from rubicc.passes.prune.channels import ChannelOptions, PruneChannels
from rubicc.passes.prune.groups import Coupling, Group, groups
from rubicc.passes.prune.importance import importance as magnitude
from rubicc.passes.prune.importance import reading
from rubicc.passes.prune.slicing import cut
from rubicc.shrink.student import cleaned
from rubicc.spec import ModelMeta, TensorSpec
from rubicc.training import importance
from rubicc.training.data.stream import Batch, Item, batch
from rubicc.training.lessons import Labelled, Lesson
from rubicc.training.loop import Silent, fit
from rubicc.training.movement import Movement
from rubicc.training.network import Network, as_teacher
from rubicc.training.objective import Objective
from rubicc.training.settings import TrainSettings
from rubicc.training.twin import Twin

SETTINGS = TrainSettings(
    steps=6, batch=2, accumulate=2, lr=0.01, warmup=2, clip=0.05, save_every=0.0, device="cpu"
)


class Rows:
    """A few fixed items: noise, with random bases or labels."""

    name = "rows"

    def __init__(self, graph: Graph, meta: ModelMeta, count: int = 4, length: int = 200) -> None:
        self.feeds = feeds(graph, count, length)
        self.count, self.called = count, meta.decoder is not None
        self.facts: dict[str, object] = {}
        rng = np.random.default_rng(1)
        self.targets = [rng.integers(1, 5, 20) for _ in range(count)]
        self.labels = rng.integers(0, 50, (count, 24))

    def __len__(self) -> int:
        return self.count

    def item(self, position: int, seed: int) -> Item:
        row = position % self.count
        given = {name: array[row] for name, array in self.feeds.items()}
        return Item(given, self.targets[row]) if self.called else Item(given, labels=self.labels[row])

    def in_order(self) -> Iterator[Item]:
        return (self.item(row, 0) for row in range(self.count))


class Linear:
    """A loss that is linear in the scores, so that first order is all there is."""

    settings = SETTINGS

    def to(self, device: torch.device) -> Linear:
        return self

    def prepare(self, given: Batch) -> Batch:
        return given

    def losses(self, scores: Tensor, kept: Any, given: Batch) -> dict[str, Tensor]:
        weights = torch.linspace(-1, 2, scores.numel(), dtype=torch.float64).view(scores.shape)
        return {"loss": (scores.double() * weights).sum()}


def chain(*, relu: bool = False, scale: np.ndarray | float = 1.0) -> Graph:
    """Two convolutions with 5 channels between; ``scale``: of the channels, undone where they are read."""
    rng = np.random.default_rng(3)
    first, bias, last = rng.normal(size=(5, 2, 3)), rng.normal(size=5), rng.normal(size=(4, 5, 1))
    scale = np.ones(5) * scale
    arrays = {"w": first * scale[:, None, None], "b": bias * scale, "v": last / scale[:, None]}
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["h"], name="first", pads=[1, 1]),
        helper.make_node("Relu" if relu else "Identity", ["h"], ["a"], name="middle"),
        helper.make_node("Conv", ["a", "v"], ["y"], name="last"),
    ]

    def info(name: str, channels: int) -> Any:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", channels, "T"])

    stored = [numpy_helper.from_array(array.astype(np.float32), name) for name, array in arrays.items()]
    made = helper.make_graph(nodes, "chain", [info("x", 2)], [info("y", 4)], stored)
    return cleaned(Graph.from_proto(helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)])))


CHAIN = ModelMeta(
    arch="custom",
    inputs=(TensorSpec("x", ("N", 2, "T"), "float32"),),
    outputs=(TensorSpec("y", ("N", 4, "T"), "float32"),),
)


def loss_of(graph: Graph, meta: ModelMeta, lesson: Any, given: Batch) -> float:
    with torch.no_grad():
        scores, kept = Network(Twin(graph), meta).eval()(given.feeds)
        return float(lesson.losses(scores, kept, given)["loss"])


def without(graph: Graph, coupling: Coupling, label: int) -> Graph:
    """The network without one channel, really cut out."""
    small = graph.clone()
    cut(small, coupling, [label], "test")
    return small


def measured(graph: Graph, meta: ModelMeta, lesson: Any, items: int = 2) -> dict[str, np.ndarray]:
    return importance.taylor(
        graph, groups(graph).groups, meta, lesson, Rows(graph, meta), items=items, seed=0
    )


# ---- exact where it must be


@pytest.fixture
def linear(monkeypatch: pytest.MonkeyPatch) -> Linear:
    """The linear loss in place of that of labels."""
    monkeypatch.setattr(importance, "Labelled", lambda lesson: lesson)
    return Linear()


def gap_to_truth(lesson: Linear) -> float:
    """Largest relative error of the importance of a linear network's channels under a linear loss."""
    graph = chain()
    coupling, data = groups(graph), Rows(graph, CHAIN)
    (group,) = coupling.groups
    found = measured(graph, CHAIN, lesson)[group.name]
    true = np.zeros(group.size)
    for position in range(2):
        given = batch(data, [position], 0)
        whole = loss_of(graph, CHAIN, lesson, given)
        rest = [loss_of(without(graph, coupling, n), CHAIN, lesson, given) for n in group.labels]
        true += np.abs(np.array(rest) - whole) / 2
    assert true.min() > 0.1
    return float(np.abs(found / true - 1).max())


def test_a_linear_network_loses_exactly_that(linear: Linear) -> None:
    assert gap_to_truth(linear) < 1e-4


def _magnitudes_first(products: dict[str, Tensor], *rest: Any) -> Tensor:
    return SUMMED({name: value.abs() for name, value in products.items()}, *rest)


def _other_axis(products: dict[str, Tensor], places: Any, size: int) -> Tensor:
    five = {name: torch.cat([value, value])[:size] for name, value in products.items()}
    return SUMMED(five, [replace(place, axis=0) for place in places], size)


def _rolled(products: dict[str, Tensor], places: Any, size: int) -> Tensor:
    return SUMMED(products, places, size).roll(1)


SUMMED = importance._summed
MUTANTS: dict[str, tuple[str, Callable[..., Any]]] = {
    "rows count beside columns": ("reading", lambda graph: frozenset()),
    "rows instead of columns": ("reading", lambda graph: frozenset({("w", 0)})),
    "magnitudes before the sum": ("_summed", _magnitudes_first),
    "the wrong axis": ("_summed", _other_axis),
    "another channel's": ("_summed", _rolled),
    "half of it": ("_summed", lambda *given: SUMMED(*given) / 2),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_mutants_are_told(mutant: str, linear: Linear, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importance, *MUTANTS[mutant])
    assert gap_to_truth(linear) > 0.01


def test_the_sum_over_a_group_does_not_depend_on_where_the_scale_is(linear: Linear) -> None:
    """Rows times c and columns over c compute the same; magnitudes change, the importance must not."""
    scale = np.array([0.1, 3.0, 1.0, 20.0, 0.5])
    plain, scaled = chain(relu=True), chain(relu=True, scale=scale)
    ((name, one),) = measured(plain, CHAIN, linear).items()
    other = measured(scaled, CHAIN, linear)[name]
    np.testing.assert_allclose(other, one, rtol=1e-4)
    sizes = [magnitude(g, groups(g).groups[0], "l2", seed=0, scores={}) for g in (plain, scaled)]
    assert not np.allclose(*sizes, rtol=0.1)  # type: ignore[misc]


def test_not_finite(linear: Linear) -> None:
    graph = chain()
    broken = Rows(graph, CHAIN)
    broken.feeds["x"][1] = np.nan
    with pytest.raises(VerificationFailed, match="RUB-TRAIN-040"):
        importance.taylor(graph, groups(graph).groups, CHAIN, linear, broken, items=2)


# ---- on networks of the zoo


def ranked(found: dict[str, np.ndarray], true: dict[str, np.ndarray]) -> float:
    """Rank correlation over all groups; of every second channel the truth is known."""
    both = [
        np.concatenate([array[::step] for array in each.values()]) for each, step in ((found, 2), (true, 1))
    ]
    return float(spearmanr(*both)[0])


@pytest.mark.parametrize(
    "name, least",
    [
        ("taiyaki-mgru", 0.7),
        ("bonito-crf", 0.9),
        ("dna-bert", 0.7),
        *(
            pytest.param(n, 0.7, marks=pytest.mark.slow)
            for n in ("bonito-ctc", "quartznet", "qabas", "rubicall")
        ),
    ],
)
def test_it_ranks_channels_as_the_loss_does(name: str, least: float) -> None:
    """Convolutions, GRU, LSTM, attention, quantisers: rank correlation with the loss's change, and l2's."""
    graph, meta = cleaned(net(name).raw), net(name).raw.meta
    assert meta is not None
    lesson, data, coupling = Lesson(Objective.of(meta), SETTINGS), Rows(graph, meta), groups(graph)
    every = [group for group in coupling.groups if not group.inside]
    found = measured(graph, meta, lesson, items=1)
    found = {group.name: found[group.name] for group in every if group.name in found}
    assert len(found) >= len(every) - 1 and all(np.isfinite(v).all() for v in found.values())
    given = batch(data, [0], 0)
    whole = loss_of(graph, meta, lesson, given)

    def change(group: Group) -> np.ndarray:
        rest = [loss_of(without(graph, coupling, n), meta, lesson, given) for n in group.labels[::2]]
        return np.abs(np.array(rest) - whole)

    wanted = [group for group in every if group.name in found]
    true = {group.name: change(group) for group in wanted}
    size = {group.name: magnitude(graph, group, "l2", seed=0, scores={}) for group in wanted}
    assert ranked(found, true) > least > ranked(size, true) + 0.2  # type: ignore[arg-type]


def test_what_reads_channels() -> None:
    for name, pairs in {
        "taiyaki-mgru": [("GRU", 1, 2), ("GRU", 2, 2), ("Conv", 1, 1)],
        "bonito-crf": [("LSTM", 1, 2), ("LSTM", 2, 2)],
    }.items():
        graph = cleaned(net(name).raw)
        read = reading(graph)
        for op, index, axis in pairs:
            values = [node.inputs[index] for node in graph.nodes if node.op_type == op]
            assert values and all((value.name, axis) in read for value in values if value is not None)
    quantised = cleaned(net("rubicall").raw)
    weights = {
        node.inputs[1].producer().inputs[0].name  # type: ignore[union-attr]
        for node in quantised.nodes
        if node.op_type == "Conv" and node.inputs[1] is not None and node.inputs[1].producer() is not None
    }
    assert weights and all((name, 1) in reading(quantised) for name in weights)


def test_it_is_the_same_every_time_and_leaves_the_graph_alone() -> None:
    graph, meta = cleaned(net("taiyaki-mgru").raw), net("taiyaki-mgru").raw.meta
    assert meta is not None
    before = {name: value.const_value.numpy().tobytes() for name, value in graph.ir.initializers.items()}
    lesson = Lesson(Objective.of(meta), SETTINGS)
    one, other = measured(graph, meta, lesson), measured(graph, meta, lesson)
    assert one and all(np.array_equal(one[name], other[name]) for name in one)
    assert before == {n: value.const_value.numpy().tobytes() for n, value in graph.ir.initializers.items()}


def test_the_pass_takes_the_scores_by_group() -> None:
    graph = chain()
    (group,) = groups(graph).groups
    scores = {group.name: np.array([3.0, 1.0, 5.0, 0.5, 4.0])}
    prune = PruneChannels(ChannelOptions(ratio=0.4, importance="given", scores=scores))
    prune.run(graph)
    assert prune.cuts[0].removed == (1, 3)


# ---- a network that is its own teacher


def self_taught(name: str) -> tuple[Graph, ModelMeta, Lesson]:
    graph, meta = cleaned(net(name).raw), net(name).raw.meta
    assert meta is not None
    return graph, meta, Lesson(Objective.of(meta), SETTINGS, as_teacher(Twin(graph), meta))


class Unlabelled(Rows):
    """Nobody knows anything of these."""

    def item(self, position: int, seed: int) -> Item:
        return Item(super().item(position, seed).feeds)


@pytest.mark.parametrize("name", ["taiyaki-mgru", "dna-bert"])
def test_its_distillation_says_nothing_but_its_calls_do(name: str) -> None:
    graph, meta, lesson = self_taught(name)
    data = Unlabelled(graph, meta)
    found = importance.taylor(graph, groups(graph).groups, meta, lesson, data, items=2)
    again = importance.taylor(graph, groups(graph).groups, meta, lesson, data, items=2)
    assert all(np.array_equal(found[name], again[name]) for name in found), "drawn labels hang on the seed"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(importance, "Labelled", lambda lesson: lesson)
        distilled = importance.taylor(graph, groups(graph).groups, meta, lesson, data, items=2)
    for group, array in found.items():
        assert array.max() > 1e-6 and distilled[group].max() < 1e-4 * array.max()


def test_known_bases_stay_what_they_are() -> None:
    graph, meta, lesson = self_taught("taiyaki-mgru")
    given = batch(Rows(graph, meta), [0, 1], 0)
    known = Labelled(lesson).prepare(replace(given, teacher=torch.zeros(1)))
    assert known.targets is given.targets and known.teacher is None
    losses = Labelled(lesson).losses(*Network(Twin(graph), meta)(given.feeds), known)
    assert set(losses) == {"loss", "task"}
    called = Labelled(lesson).prepare(batch(Unlabelled(graph, meta), [0, 1], 0))
    assert called.targets is not None and called.teacher is None


# ---- movement


def training(folder: Path, stop: int = 0) -> tuple[dict[str, np.ndarray], list[dict[str, Tensor]]]:
    """Scores after six steps, and ``-weight x gradient`` as an optimiser that watches itself sees it.

    Both by name of initializer.
    """
    graph, meta = cleaned(net("taiyaki-mgru").raw), net("taiyaki-mgru").raw.meta
    assert meta is not None
    network = Network(Twin(graph), meta)
    twin = network.inner
    assert isinstance(twin, Twin)
    names = {id(value): twin.names[name] for name, value in twin.named_parameters()}
    seen: list[dict[str, Tensor]] = []

    class Watched(torch.optim.AdamW):
        def step(self, closure: Any = None) -> Any:
            every = [value for part in self.param_groups for value in part["params"]]
            seen.append({names[id(v)]: -v.detach() * v.grad for v in every if v.grad is not None})
            return super().step(closure)

    class Killer(Silent):
        def step(self, row: Any, total: int) -> None:
            if row.step == stop:
                raise KeyboardInterrupt

    moved, lesson = Movement(), Lesson(Objective.of(meta), SETTINGS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim, "AdamW", Watched)
        fit(network, Rows(graph, meta), lesson, SETTINGS, state=folder, movement=moved, watcher=Killer())
    return moved.scores(twin), seen


def test_movement_is_the_sum_over_the_steps(tmp_path: Path) -> None:
    """Through warm-up, accumulation and clipping: whatever gradient reaches the optimiser."""
    found, seen = training(tmp_path)
    assert len(seen) == SETTINGS.steps
    weights = {name for name, value in seen[0].items() if value.ndim > 1}
    assert weights == set(found) and len(found) == 11  # three tensors per recurrent layer, convolution, head
    for name, array in found.items():
        total = sum(step[name].double() for step in seen)
        np.testing.assert_allclose(array, total, rtol=1e-4, atol=1e-9)  # type: ignore[arg-type]
        assert np.abs(array).max() > 0


def test_movement_goes_on_after_a_kill_bit_for_bit(tmp_path: Path) -> None:
    whole, _ = training(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        training(tmp_path / "killed", stop=4)
    rest, seen = training(tmp_path / "killed")
    assert 0 < len(seen) < SETTINGS.steps
    assert rest.keys() == whole.keys() and all(np.array_equal(rest[n], whole[n]) for n in whole)


def by_hand(moved: Movement) -> float:
    """Two steps of plain descent of ``(w . x)^2 / 2``; the error of the sum."""
    weight = torch.tensor([[2.0, -1.0, 0.5]])
    x, network = torch.tensor([1.0, 3.0, -2.0]), torch.nn.Linear(3, 1, bias=False)
    network.weight.data = weight.clone()
    expected, w = np.zeros(3), weight.double().numpy()[0]
    for _ in range(2):
        network.zero_grad()
        (network(x).square().sum() / 2).backward()
        moved.add(network)
        with torch.no_grad():
            network.weight -= 0.01 * network.weight.grad
        gradient = (w @ x.double().numpy()) * x.double().numpy()
        expected += -w * gradient
        w = w - 0.01 * gradient
    return float(np.abs(moved.sums["weight"].numpy()[0] - expected).max())


def test_movement_by_hand_and_its_mutants() -> None:
    assert by_hand(Movement()) < 1e-5

    class Sign(Movement):
        def add(self, network: torch.nn.Module) -> None:
            network.weight.grad.neg_()  # type: ignore[union-attr]
            super().add(network)
            network.weight.grad.neg_()  # type: ignore[union-attr]

    class Last(Movement):
        def add(self, network: torch.nn.Module) -> None:
            self.sums.clear()
            super().add(network)

    class Size(Movement):
        def add(self, network: torch.nn.Module) -> None:
            super().add(network)
            self.sums["weight"].abs_()

    assert min(by_hand(mutant()) for mutant in (Sign, Last, Size)) > 0.1
