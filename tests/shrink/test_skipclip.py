"""``rubicc skipclip``: what it writes, in which order, after a kill, and what it refuses."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from shrunk_nets import SKIPS, clipped, demo_ctc

from rubicc.cli.main import main
from rubicc.errors import OutputExists, UsageError
from rubicc.evidence import change
from rubicc.frontend import checkpoint
from rubicc.ir.executor import execute
from rubicc.ir.io import load_graph
from rubicc.models import registry
from rubicc.passes.manager import run_pass
from rubicc.passes.rewrite import constant
from rubicc.passes.skip.find import residuals
from rubicc.passes.skip.fold import FoldSkips
from rubicc.passes.skip.remove import RemoveSkips
from rubicc.passes.skip.removing import gone
from rubicc.settings import Settings
from rubicc.shrink import result as results
from rubicc.shrink import skip_schedule
from rubicc.shrink.skip_measures import importance, recalibrated
from rubicc.shrink.skip_schedule import SkipSettings
from rubicc.shrink.student import cleaned, lowered_module, read_student
from rubicc.training.settings import TrainSettings

SHORT = TrainSettings(
    steps=4, batch=2, chunk=300, warmup=1, validate_every=4, validation_items=2, save_every=0
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return demo_ctc(tmp_path_factory.mktemp("model"))


@pytest.mark.slow
def test_the_network_of_rubicon_loses_exactly_its_skips() -> None:
    """qabas: 719,872 parameters, 17.84 %, really gone; the same network without skips has as many."""
    start = cleaned(read_student("qabas", Settings()).before)
    found = residuals(start).found
    assert len(found) == 15 and {one.kind for one in found} == {"projected"}
    assert sum(one.weights for one in found) == 719_872
    graph = start.clone()
    run_pass(RemoveSkips(), graph, check=True)
    before, after = results.facts(start), results.facts(graph)
    assert before["parameters"] - after["parameters"] == 719_872
    assert round(719_872 / before["parameters"], 4) == 0.1784
    stored = {name for name in graph.ir.initializers if "skip" in name}
    assert not stored, "nothing of a skip is left in the file"
    fold = FoldSkips()
    run_pass(fold, start.clone())
    assert not fold.folded and len(fold.reasons) == 15


ZOO = {"bonito-ctc": 5, "quartznet": 5, "rubicall-fp": 0, "taiyaki-mgru": 0, "bonito-crf": 0, "dna-bert": 24}


@pytest.mark.slow
@pytest.mark.parametrize("name", ZOO)
def test_the_zoo(name: str) -> None:
    """As docs/skipclip.md says: how many skips each network has, and that none can be folded."""
    graph = cleaned(read_student(name, Settings()).before)
    assert len(residuals(graph).found) == ZOO[name] and not residuals(graph).refused
    fold, remove = FoldSkips(), RemoveSkips()
    run_pass(fold, graph.clone())
    assert not fold.folded and len(fold.reasons) == ZOO[name]
    run_pass(remove, graph, check=True)
    assert len(remove.removed) == ZOO[name] and not residuals(graph).found


def test_epochs_0_removes_and_no_more(model: Path, tmp_path: Path) -> None:
    made, graph = clipped(model, tmp_path / "out")
    assert gone(graph)["removed"] == SKIPS and not residuals(graph).found
    assert made.report.headline.startswith("3 skips removed")
    assert [row[0] for row in made.report.tables[0].rows] == SKIPS
    figure = made.report.figure("parameters")
    assert figure.after < figure.before
    assert change.read(tmp_path / "out") == made.report
    # What stays is what it was: the float network of the branch alone.
    start = cleaned(read_student(model, Settings()).before)
    kept = {name for name in start.ir.initializers if name in graph.ir.initializers}
    assert all(
        np.array_equal(constant(start.ir.initializers[n]), constant(graph.ir.initializers[n])) for n in kept
    )
    assert len(kept) > 20


def test_the_result_is_a_model(model: Path, tmp_path: Path) -> None:
    made, graph = clipped(model, tmp_path / "some", names=("blocks.1",))
    assert gone(graph)["removed"] == SKIPS[:1]
    x = np.random.default_rng(0).normal(size=(1, 1, 300)).astype(np.float32)
    for form in (made.path, made.path / "checkpoint.pt", made.path / "model.onnx"):
        again = read_student(form, Settings()).before
        assert np.allclose(execute(again, {"x": x})["y"], execute(graph, {"x": x})["y"], atol=1e-5)
    _, rest = clipped(made.path, tmp_path / "rest")
    assert gone(rest)["removed"] == SKIPS, "the record goes on"


def test_stage_by_stage(model: Path, tmp_path: Path) -> None:
    made, graph = clipped(
        model, tmp_path / "out", data=["simulated"], training=SHORT, stride=2, recalibrate=1, teacher=model
    )
    stages = made.report.tables[1].rows
    assert [row[1] for row in stages] == ["blocks.1/Add, blocks.2/Add", "blocks.3/Add"]
    assert [row[3] for row in stages] == [2, 2] and stages[0][2] > stages[1][2]
    assert made.report.figure("identity").after is not None
    logs = sorted(path.name for path in (tmp_path / "out" / "training").glob("*steps.csv"))
    assert logs == ["stage1-steps.csv", "stage2-steps.csv"]
    rates = [
        [float(row["lr"]) for row in csv.DictReader((tmp_path / "out" / "training" / name).open())]
        for name in logs
    ]
    assert [rows[-1] / SHORT.lr < 0.9 for rows in rates] == [False, True], "only the last stage cools down"
    assert not residuals(graph).found and not (tmp_path / "out.partial").exists()


class Killed(Exception):
    """In place of a signal, within the training of a stage."""


class KillsAt:
    """A watcher that ends the run at its ``step``-th step."""

    def __init__(self, step: int) -> None:
        self.left = step

    def step(self, row: Any, total: int) -> None:
        self.left -= 1
        if not self.left:
            raise Killed

    def validated(self, row: Any, total: int) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


class Counts(KillsAt):
    """Counts steps."""

    def __init__(self) -> None:
        super().__init__(-1)


def test_a_killed_run_goes_on_at_the_same_skip(model: Path, tmp_path: Path) -> None:
    training = replace(SHORT, steps=6, validate_every=100)
    options: dict[str, Any] = {"data": ["simulated"], "training": training, "order": "importance"}
    whole, _ = clipped(model, tmp_path / "whole", **options)
    with pytest.raises(Killed):
        clipped(model, tmp_path / "out", watcher=KillsAt(3), **options)
    state = tmp_path / "out.partial"
    kept = json.loads((state / skip_schedule.FILE).read_text())
    assert len(kept["scores"]) == 2, "two stages of one step each are done"
    with pytest.raises(OutputExists, match="RUB-SHRINK-052"):
        clipped(model, tmp_path / "out", stride=2, **options)
    counts = Counts()
    made, _ = clipped(model, tmp_path / "out", watcher=counts, **options)
    assert -counts.left - 1 == 4, "only the steps of the last stage are taken"
    mine, other = ((path / "model.onnx").read_bytes() for path in (made.path, whole.path))
    assert mine == other, "bit for bit"
    assert made.report.tables == whole.report.tables


def test_a_damaged_schedule(model: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"data": ["simulated"], "training": SHORT, "train": False}
    state = tmp_path / "out.partial"
    state.mkdir()
    (state / "lock").touch()
    (state / skip_schedule.FILE).write_text('{"version": 2, "stages"')
    with pytest.raises(UsageError, match="RUB-SHRINK-053"):
        clipped(model, tmp_path / "out", **options)
    made, _ = clipped(model, tmp_path / "out", reading=Settings(force=True), **options)
    assert made.report.figure("identity").after is not None and not made.report.measured


# ---- measures


def feeds(count: int) -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return [{"x": torch.randn(2, 1, 300, generator=generator)} for _ in range(count)]


def test_importance_is_what_the_output_moves(model: Path) -> None:
    start = cleaned(read_student(model, Settings()).before)
    batches = feeds(2)
    found = importance(start, SKIPS, batches)
    name = SKIPS[1]
    without = start.clone()
    run_pass(RemoveSkips(RemoveSkips.Options((name,))), without)
    moved = whole = 0.0
    for one in batches:
        old, new = (execute(g, {"x": one["x"].numpy()})["y"] for g in (start, without))
        moved, whole = moved + np.square(new - old).sum(), whole + np.square(old).sum()
    assert found[name] == pytest.approx((moved / whole) ** 0.5, rel=1e-3)
    assert len(set(found.values())) == 3 and min(found.values()) > 0


def test_stages_by_importance() -> None:
    measured = {"a": 3.0, "b": 1.0, "c": 2.0}
    assert skip_schedule.stages_of("abc", 2, measured) == [["b", "c"], ["a"]]
    assert skip_schedule.stages_of("abc", 2, {}) == [["a", "b"], ["c"]]
    assert SkipSettings(share=0.5).steps(100, 6) == [10] * 5 + [50]
    assert SkipSettings().steps(100, 1) == [100]


def test_recalibration_gives_norms_the_statistics_of_what_they_read(model: Path) -> None:
    start = cleaned(read_student(model, Settings()).before)
    cut = start.clone()
    run_pass(RemoveSkips(), cut)
    batches = feeds(3)
    after = recalibrated(start, cut, batches)
    norm = [node for node in after.nodes if node.op_type == "BatchNormalization"][-1]
    given = norm.inputs[0]
    probe = after.clone()
    value = next(v for node in probe.nodes for v in node.outputs if v.name == given.name)  # type: ignore[union-attr]
    value.shape = None
    probe.ir.outputs.append(value)
    # On the way each batch is normalised by its own statistics: the first norm is exact, the last is near.
    first = next(node for node in after.nodes if node.op_type == "BatchNormalization")
    conv = next(node for node in after.nodes if node.op_type == "Conv")
    weight = torch.from_numpy(np.array(constant(conv.inputs[1])))
    pads = conv.attributes.get_ints("pads")[0]
    stride = conv.attributes.get_ints("strides")[0]
    outs = [torch.nn.functional.conv1d(b["x"], weight, None, stride, pads) for b in batches]
    expected = torch.stack([one.mean((0, 2)) for one in outs]).mean(0).numpy()
    assert np.allclose(constant(first.inputs[3]), expected, atol=1e-6)
    seen = np.concatenate([execute(probe, {"x": b["x"].numpy()})[given.name] for b in batches])  # type: ignore
    kept, was = (
        constant(norm.inputs[3]),
        constant(next(n for n in cut.nodes if n.name == norm.name).inputs[3]),
    )
    truth = seen.mean((0, 2))
    assert np.abs(kept - truth).mean() < 0.2 * np.abs(was - truth).mean()


# ---- the command


def test_list(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["skipclip", str(model), "--list"]) == 0
    assert "Relu lies between" in capsys.readouterr().out
    assert main(["skipclip", str(model), "--list", "--format", "json"]) == 0
    told = json.loads(capsys.readouterr().out)["result"]
    assert [one["name"] for one in told["skips"]] == SKIPS and told["refused"] == []


def test_fold_says_what_it_cannot(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args = ["skipclip", str(model), "-o", str(tmp_path / "out"), "--fold", "--keep", "blocks.3"]
    assert main(args) == 0
    assert capsys.readouterr().out.count("RUB-SHRINK-D06") == 2
    assert len(residuals(load_graph(tmp_path / "out" / "model.onnx")).found) == 1
    assert main([*args, "--force", "--strict"]) == 2


class RepBlock(torch.nn.Module):
    """A network whose skip folds: a convolution and its norm beside an identity."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = torch.nn.Conv1d(1, 8, 3, padding=1)
        self.conv, self.norm = torch.nn.Conv1d(8, 8, 5, padding=2, groups=8), torch.nn.BatchNorm1d(8)
        self.head = torch.nn.Conv1d(8, 5, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        return self.head(torch.relu(self.norm(self.conv(x)) + x)).permute(2, 0, 1).log_softmax(-1)


def test_folding_costs_nothing(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = RepBlock().eval()
    module.norm.running_mean.normal_()  # type: ignore[union-attr]
    start = cleaned(lowered_module(module, registry.get("demo-ctc").meta(), "rep"))
    x = np.random.default_rng(0).normal(size=(2, 1, 50)).astype(np.float32)
    folded, removed = start.clone(), start.clone()
    run_pass(FoldSkips(), folded, check=True)
    run_pass(RemoveSkips(), removed, check=True)
    was, kept, lost = (execute(g, {"x": x})["y"] for g in (start, folded, removed))
    assert np.abs(was - kept).max() < 1e-5 < 0.05 < np.abs(was - lost).max()


REFUSED = {
    "no such skip": (["--only", "blocks.9"], 2, "RUB-PASS-060"),
    "all of them kept": (["--keep", "*"], 2, "RUB-SHRINK-050"),
    "no stride": (["--stride", "0"], 2, "RUB-SHRINK-051"),
    "half a stride": (["--stride", "1.5"], 2, "RUB-SHRINK-051"),
    "a share of everything": (["--share", "100%"], 2, "RUB-SHRINK-051"),
    "importance of nothing": (["--order", "importance"], 2, "RUB-SHRINK-051"),
    "re-calibration on nothing": (["--recalibrate", "2"], 2, "RUB-SHRINK-051"),
    "fewer steps than stages": (
        ["--data", "simulated", "--steps", "2", "--chunk", "300"],
        2,
        "RUB-SHRINK-051",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_refused(what: str, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags, status, code = REFUSED[what]
    assert main(["skipclip", str(model), "-o", str(tmp_path / "out"), *flags]) == status
    assert code in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_network_without_skips(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "plain.pt"
    entry = registry.get("taiyaki-mgru")
    checkpoint.save(path, entry.build({"size": 16}, seed=0), entry.meta({"size": 16}))
    assert main(["skipclip", str(path), "-o", str(tmp_path / "out")]) == 2
    assert "RUB-SHRINK-050" in capsys.readouterr().err
