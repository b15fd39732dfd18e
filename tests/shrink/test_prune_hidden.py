"""Training after a cut: hidden layers are kept like those of the network before any cut."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from shrunk_nets import flipflop

from rubicc import api
from rubicc.cli.main import main
from rubicc.errors import UsageError
from rubicc.ir.io import load_graph
from rubicc.passes.prune.channels import ChannelOptions
from rubicc.passes.prune.weights import WeightOptions
from rubicc.shrink import prune_hidden
from rubicc.shrink.prune import PruneSettings
from rubicc.shrink.prune_scores import Measure
from rubicc.training.data.stream import Batch
from rubicc.training.hidden import Hidden
from rubicc.training.lessons import Lesson
from rubicc.training.loop import Silent
from rubicc.training.network import Network, as_teacher
from rubicc.training.objective import Objective
from rubicc.training.settings import TrainSettings
from rubicc.training.twin import Twin

SHORT = TrainSettings(
    steps=4, batch=2, chunk=300, warmup=1, validate_every=9, validation_items=2, save_every=0, copies=0
)
HALF = PruneSettings(ChannelOptions(ratio=0.5), measure=Measure(reconstruction=True, repair=4))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return flipflop(tmp_path_factory.mktemp("model"))


def pruned(model: Path, out: Path, settings: PruneSettings = HALF, **given: Any) -> Any:
    asked = {"data": ["simulated"], "training": SHORT, "teacher": model} | given
    return api.prune(model, out=out, settings=settings, **asked)


def features(out: Path, number: int = 0) -> list[float]:
    """The part of the hidden layers, step by step."""
    file = out / "training" / (f"round{number}-steps.csv" if number else "steps.csv")
    head, *rows = file.read_text().splitlines()
    at = head.split(",").index("features")
    return [float(row.split(",")[at] or "nan") for row in rows]


def test_a_cut_network_is_compared_with_the_whole_one(model: Path, tmp_path: Path) -> None:
    """It begins where least squares left it, and falls."""
    pruned(model, tmp_path / "off", replace(HALF, match=0.0))
    assert np.isnan(features(tmp_path / "off")).all()
    long = replace(SHORT, steps=25, lr=0.01)
    pruned(model, tmp_path / "on", training=long)
    found = features(tmp_path / "on")
    assert 0 < found[0] < 1 and np.mean(found[-5:]) < 0.8 * np.mean(found[:5])
    pruned(model, tmp_path / "bare", replace(HALF, measure=Measure(repair=0)))
    assert features(tmp_path / "bare")[0] > 2 * found[0]  # maps that only pick what stays


def test_the_maps_stay_behind(model: Path, tmp_path: Path) -> None:
    made = pruned(model, tmp_path / "out")
    graph = load_graph(made.path / "model.onnx")
    assert not [name for name in graph.ir.initializers if "map" in name.lower()]
    assert len(graph.outputs) == 1


def test_rounds_go_on_with_the_maps_of_the_round_before(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[dict[str, tuple[int, ...]]] = []
    real = prune_hidden.Matching.network

    def network(self: Any, run: Any) -> Network:
        seen.append({name: tuple(matrix.shape) for name, (_, matrix) in self.maps.items()})
        return real(self, run)

    monkeypatch.setattr(prune_hidden.Matching, "network", network)
    pruned(model, tmp_path / "out", replace(HALF, rounds=2))
    assert [set(one.values()) for one in seen] == [{(8, 6)}, {(8, 4)}]
    assert not np.isnan(features(tmp_path / "out", 2)).any()


def test_single_weights_are_compared_as_they_are(model: Path, tmp_path: Path) -> None:
    """Nothing gets narrower, so there are no maps; after training there are as many zeros as asked for."""
    settings = PruneSettings(None, WeightOptions(0.5), measure=Measure(repair=4))
    made = pruned(model, tmp_path / "out", settings)
    found = features(tmp_path / "out")
    assert 0 < found[0] < 1
    assert "50.0% of the pruned weights are zero" in made.report.headline


class Stopped(Silent):
    """Ends a run after two steps."""

    def __init__(self) -> None:
        self.left = 2

    def step(self, row: Any, total: int) -> None:
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt


def test_a_killed_run_goes_on_with_its_maps(model: Path, tmp_path: Path) -> None:
    whole = pruned(model, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        pruned(model, tmp_path / "killed", watcher=Stopped())
    resumed = pruned(model, tmp_path / "killed")
    assert features(whole.path) == features(resumed.path)
    assert (whole.path / "model.onnx").read_bytes() == (resumed.path / "model.onnx").read_bytes()


def lesson_of(model: Path, *, teaches: bool) -> tuple[Hidden, Network, list[int]]:
    """A lesson between a network and itself, and how often either of whole network and teacher was run."""
    graph = load_graph(model)
    meta = graph.meta
    assert meta is not None
    runs = [0, 0]

    def counted(place: int, keep: tuple[str, ...]) -> Network:
        network = as_teacher(Twin(graph), meta, keep)
        network.register_forward_hook(lambda *_: runs.__setitem__(place, runs[place] + 1))
        return network

    name = next(node.outputs[0].name for node in graph.nodes if node.op_type == "GRU")
    inner = Lesson(Objective.of(meta), SHORT, counted(1, ()))
    return (
        Hidden(inner, counted(0, (name,)), {name: 0.25}, 2.0, teaches=teaches),
        Network(Twin(graph), meta, (name,)),
        runs,
    )


def test_one_run_of_the_whole_network_gives_scores_and_hidden_layers(model: Path) -> None:
    feeds = {"x": torch.randn(2, 1, 300)}
    for teaches in (True, False):
        lesson, student, runs = lesson_of(model, teaches=teaches)
        with torch.no_grad():
            next(student.inner.parameters()).mul_(1.5)
        lesson.pace = 0.5
        given = lesson.prepare(Batch(feeds))
        parts = lesson.losses(*student(given.feeds), given)
        assert runs == [1, 0 if teaches else 1]
        assert float(parts["distil"]) > 0 and float(parts["features"]) > 0
        assert float(parts["loss"]) == pytest.approx(float(parts["distil"] + 2.0 * 0.5 * parts["features"]))
        # Between steps it is the other lesson: validation is of the scores.
        lesson.pace, runs[:] = 0.0, [0, 0]
        given = lesson.prepare(Batch(feeds))
        parts = lesson.losses(*student(given.feeds), given)
        assert runs == [0, 1] and "features" not in parts


def test_a_network_like_the_whole_one_has_nothing_to_learn(model: Path) -> None:
    lesson, student, _ = lesson_of(model, teaches=True)
    lesson.pace = 1.0
    parts = lesson.losses(*student({"x": torch.randn(2, 1, 300)}), Batch({"x": torch.randn(2, 1, 300)}))
    assert float(parts["features"]) > 0  # another signal
    x = {"x": torch.randn(2, 1, 300)}
    assert float(lesson.losses(*student(x), Batch(x))["features"]) == 0


def test_an_item_does_not_depend_on_those_beside_it(model: Path) -> None:
    lesson, student, _ = lesson_of(model, teaches=True)
    with torch.no_grad():
        next(student.inner.parameters()).mul_(1.5)
    lesson.pace = 1.0
    x = torch.randn(4, 1, 300) * torch.tensor([1.0, 3.0, 0.1, 2.0]).view(4, 1, 1)
    feeds = [{"x": x}, *({"x": part} for part in x.split(1))]
    whole, *alone = (float(lesson.losses(*student(one), Batch(one))["loss"]) for one in feeds)
    assert whole == pytest.approx(np.mean(alone), rel=1e-5)


REFUSED = {
    "match": ["--match=-1"],
    "no-number": ["--match", "much"],
    "items": ["--repair-items=-1"],
    "nothing-to-measure-on": ["--importance", "reconstruction", "--repair-items", "0"],
    "no-channels": ["--importance", "reconstruction", "--sparsity", "50%"],
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_refused(what: str, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = [] if what == "no-channels" else ["--ratio", "50%"]
    words = ["prune", str(model), "-o", str(tmp_path / "out"), "--data", "simulated", *asked, *REFUSED[what]]
    assert main(words) == 2
    assert "RUB-SHRINK-031" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_an_impossible_budget_is_refused_before_the_first_round(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["prune", str(model), "-o", str(tmp_path / "out"), "--data", "simulated", "--teacher", str(model)]
    words += ["--macs", "1%", "--most", "10%", "--rounds", "2", "--chunk", "300", "--validation-items", "1"]
    assert main(words) == 2
    assert "RUB-PASS-051" in capsys.readouterr().err
    assert not list(tmp_path.rglob("round*")) and not list(tmp_path.rglob("importance*"))


def test_reconstruction_needs_data(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["prune", str(model), "-o", str(tmp_path / "out"), "--ratio", "50%"]
    assert main([*words, "--importance", "reconstruction"]) == 2
    assert "RUB-SHRINK-032" in capsys.readouterr().err
    with pytest.raises(UsageError, match="reconstruction"):
        api.prune(model, out=tmp_path / "out", settings=HALF)
