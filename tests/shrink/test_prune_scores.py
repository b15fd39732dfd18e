"""``rubicc prune`` by what is measured on the data: what goes, what a killed run does, what is refused."""

from __future__ import annotations

import errno
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file
from shrunk_nets import flipflop

from rubicc import api
from rubicc.cli.main import main
from rubicc.errors import OutputExists, UsageError
from rubicc.ir.graph import Graph
from rubicc.ir.io import load_graph
from rubicc.passes.prune.channels import ChannelOptions, PruneChannels
from rubicc.passes.prune.weights import WeightOptions, masks
from rubicc.shrink import prune as verb
from rubicc.shrink import prune_scores, scores
from rubicc.shrink.prune import PruneSettings
from rubicc.shrink.prune_scores import Measure
from rubicc.training.loop import Silent
from rubicc.training.movement import Movement
from rubicc.training.settings import TrainSettings

SHORT = TrainSettings(
    steps=4, batch=2, chunk=300, warmup=1, validate_every=9, validation_items=1, save_every=0
)
TAYLOR = PruneSettings(ChannelOptions(ratio=0.5), rounds=2, measure=Measure(taylor=2))
MOVEMENT = PruneSettings(
    None, WeightOptions(0.5, method="given"), rounds=2, measure=Measure(movement=True, movement_steps=2)
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return flipflop(tmp_path_factory.mktemp("model"))


def pruned(model: Path, out: Path, settings: PruneSettings, **given: Any) -> Any:
    return api.prune(model, out=out, settings=settings, data=["simulated"], training=SHORT, **given)


class Killer(Silent):
    """Ends a run after so many steps in all."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    def step(self, row: Any, total: int) -> None:
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt


@pytest.mark.parametrize("settings", [TAYLOR, MOVEMENT], ids=["taylor", "movement"])
def test_a_killed_run_cuts_the_same(
    settings: PruneSettings, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = pruned(model, tmp_path / "whole", settings)
    with pytest.raises(KeyboardInterrupt):
        pruned(model, tmp_path / "out", settings, watcher=Killer(5 if settings is MOVEMENT else 3))

    def measured(*given: Any, **more: Any) -> Any:
        raise AssertionError("measured again")

    monkeypatch.setattr(prune_scores, "taylor", measured)
    if settings is TAYLOR:
        files = [tmp_path / "out.partial" / f"importance{number}.safetensors" for number in (1, 2)]
        sizes = [[array.shape for array in load_file(file).values()] for file in files]
        assert sizes == [[(8,)] * 3, [(6,)] * 3], "measured again of what is left"
    with pytest.raises(OutputExists, match="RUB-TRAIN-042"):
        pruned(model, tmp_path / "out", replace(settings, rounds=3))
    made = pruned(model, tmp_path / "out", settings)
    for name in ("model.onnx", "checkpoint.pt"):
        assert (made.path / name).read_bytes() == (whole.path / name).read_bytes()
    assert not (tmp_path / "out.partial").exists()


def test_the_weights_that_go_moved_least(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[dict[str, np.ndarray]] = []
    real = Movement.scores
    monkeypatch.setattr(Movement, "scores", lambda *given: seen.append(real(*given)) or seen[-1])
    measure = Measure(movement=True, movement_steps=2, repair=0)
    options = WeightOptions(0.5, method="given")
    made = pruned(model, tmp_path / "out", PruneSettings(None, options, train=False, measure=measure))
    before, after = (load_graph(p) for p in (start_of(model, tmp_path), made.path / "model.onnx"))
    found = masks(after)
    assert len(seen) == 1 and len(found) == 6
    for name, kept in found.items():
        moved = seen[0][name]
        assert moved[~kept].max() <= moved[kept].min()
        values = [graph.ir.initializers[name].const_value.numpy() for graph in (before, after)]
        both = kept & (values[0] != 0)
        assert np.array_equal(values[0][both], values[1][both]), "measuring changes no weight"
    assert made.report.settings["weights: method"] == "movement"


def start_of(model: Path, folder: Path) -> Path:
    """The graph with a few zeros; nothing else is changed."""
    options = PruneSettings(None, WeightOptions(0.1))
    made = api.prune(model, out=folder / "start", settings=options)
    assert made is not None
    return made.path / "model.onnx"


def test_the_first_of_several_cuts_is_by_magnitude_and_says_so(model: Path, tmp_path: Path) -> None:
    settings = PruneSettings(
        None, WeightOptions(0.5, method="given"), rounds=2, measure=Measure(movement=True)
    )
    made = pruned(model, tmp_path / "out", settings)
    assert "RUB-SHRINK-D30" in [one.code for one in made.report.decisions]
    assert all(abs(mask.mean() - 0.5) < 0.02 for mask in masks(load_graph(made.path / "model.onnx")).values())


def test_scores_that_cannot_be_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, found = tmp_path / "scores.safetensors", {"a": np.arange(3.0)}
    assert scores.kept(file, "run", lambda: found) is found

    def never() -> dict[str, np.ndarray]:
        raise AssertionError

    assert np.array_equal(scores.kept(file, "run", never)["a"], found["a"])
    with pytest.raises(OutputExists, match="RUB-TRAIN-042"):
        scores.kept(file, "another", never)
    file.write_bytes(b"damaged")
    with pytest.raises(UsageError, match="RUB-TRAIN-043"):
        scores.kept(file, "run", never)

    def full(*given: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(UsageError, match=r"RUB-TRAIN-041.*No space"):
        scores.kept(tmp_path / "new.safetensors", "run", lambda: found)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["scores.safetensors"]


DATA = ["--data", "simulated"]
REFUSED = {
    "taylor without data": (["--ratio", "0.5", "--importance", "taylor"], "RUB-SHRINK-032"),
    "movement without data": (
        ["--sparsity", "0.5", "--weights", "movement", "--movement-steps", "4"],
        "RUB-SHRINK-032",
    ),
    "nothing trained before the cut": (
        ["--sparsity", "0.5", "--weights", "movement", *DATA],
        "RUB-SHRINK-031",
    ),
    "movement of channels": (["--ratio", "0.5", "--weights", "movement", *DATA], "RUB-SHRINK-031"),
    "channels and movement": (
        ["--ratio", "0.5", "--sparsity", "0.5", "--weights", "movement", "--movement-steps", "2", *DATA],
        "RUB-SHRINK-031",
    ),
    "taylor of single weights": (["--sparsity", "0.5", "--importance", "taylor", *DATA], "RUB-SHRINK-031"),
    "no items": (
        ["--ratio", "0.5", "--importance", "taylor", "--taylor-items", "0", *DATA],
        "RUB-SHRINK-031",
    ),
    "items of nothing": (["--ratio", "0.5", "--taylor-items", "4", *DATA], "RUB-SHRINK-031"),
    "steps of nothing": (["--sparsity", "0.5", "--movement-steps", "4", *DATA], "RUB-SHRINK-031"),
    "steps below 0": (
        ["--sparsity", "0.5", "--weights", "movement", "--movement-steps", "-4", *DATA],
        "RUB-SHRINK-031",
    ),
    "Taiyaki's rule": (
        ["--sparsity", "0.5", "--weights", "movement", "--movement-steps", "4", "--taiyaki-rule", *DATA],
        "RUB-SHRINK-031",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_refused(what: str, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags, code = REFUSED[what]
    assert main(["prune", str(model), "-o", str(tmp_path / "out"), *flags]) == 2
    assert code in capsys.readouterr().err
    assert not (tmp_path / "out").exists() and not (tmp_path / "out.partial").exists()


def test_the_command_cuts_channels_of_the_smallest_scores(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    passes: list[PruneChannels] = []

    class Seen(PruneChannels):
        def run(self, graph: Graph) -> bool:
            passes.append(self)
            return super().run(graph)

    monkeypatch.setattr(verb, "PruneChannels", Seen)
    args = ["prune", str(model), "-o", str(tmp_path / "out"), "--ratio", "50%", "--importance", "taylor"]
    args += ["--taylor-items", "2", *DATA, "--teacher", str(model), "--steps", "1", "--batch", "2"]
    assert main([*args, "--chunk", "300", "--validation-items", "1", "--epochs", "0"]) == 0
    assert "RUB-SHRINK-D31" in capsys.readouterr().out
    assert len(passes) == 1 and len(passes[0].cuts) == 3
    for one in passes[0].cuts:
        measured = passes[0].options.scores[one.group]
        assert one.removed == tuple(np.sort(np.argsort(measured)[:4])) and len(set(measured)) == 8
    assert "taylor, mean over 2 items" in (tmp_path / "out" / "report.json").read_text()
