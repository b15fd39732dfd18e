"""``rubicc prune``: what it writes, with and without training, in rounds, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rubicc import api
from rubicc.cli.main import main
from rubicc.errors import UsageError
from rubicc.evidence import change
from rubicc.frontend import read_model
from rubicc.ir.executor import execute
from rubicc.ir.io import load_graph
from rubicc.passes.prune.channels import ChannelOptions
from rubicc.passes.prune.weights import WeightOptions, masks
from rubicc.shrink.prune import PruneSettings
from rubicc.training.settings import TrainSettings

SHORT = TrainSettings(
    steps=4, batch=2, chunk=600, warmup=1, validate_every=4, validation_items=2, save_every=0
)


def pruned(model: Path, out: Path, **options: Any) -> tuple[Any, Any]:
    """Result and graph; options of ``PruneSettings``, or of ``prune`` itself."""
    own = {name: options.pop(name) for name in ("channels", "weights", "rounds", "train") if name in options}
    made = api.prune(model, out=out, settings=PruneSettings(**own), **options)
    assert made is not None
    return made, load_graph(out / "model.onnx")


def test_half_of_the_units(model: Path, tmp_path: Path) -> None:
    made, graph = pruned(model, tmp_path / "out", channels=ChannelOptions(ratio=0.5))
    grus = [node for node in graph.nodes if node.op_type == "GRU"]
    assert [node.attributes.get_int("hidden_size") for node in grus] == [8] * 5
    macs = made.report.figure("MACs")
    assert macs.after < 0.4 * macs.before and "of the multiplications" in made.report.headline
    assert [row[1:3] for row in made.report.tables[0].rows] == [(16, 8)] * 6
    assert change.read(tmp_path / "out") == made.report
    assert graph.meta.outputs[0].shape[-1] == 40, "transitions stay"


def test_the_result_is_a_model_for_every_form_of_it(model: Path, tmp_path: Path) -> None:
    made, graph = pruned(model, tmp_path / "out", channels=ChannelOptions(macs=0.5))
    x = np.random.default_rng(0).normal(size=(1, 1, 200)).astype(np.float32)
    expected = execute(graph, {"x": x})["y"]
    assert read_model(tmp_path / "out" / "checkpoint.pt").meta == graph.meta
    again, smaller = pruned(made.path, tmp_path / "again", channels=ChannelOptions(macs=0.25))
    assert again.report.figure("MACs").after < made.report.figure("MACs").after
    assert execute(smaller, {"x": x})["y"].shape == expected.shape


@pytest.mark.slow
def test_the_result_compiles(model: Path, tmp_path: Path) -> None:
    made, _ = pruned(model, tmp_path / "out", channels=ChannelOptions(ratio=0.5, align=8))
    compiled = api.compile(made.path, out=tmp_path / "compiled", target="cpu")
    assert compiled.path.is_dir()


def test_single_weights_stay_zero_through_training(model: Path, tmp_path: Path) -> None:
    made, graph = pruned(
        model, tmp_path / "out", channels=None, weights=WeightOptions(sparsity=0.75), rounds=2,
        data=["simulated"], training=SHORT,
    )  # fmt: skip
    found = masks(graph)
    assert found and all(mask.mean() == pytest.approx(0.25, abs=0.01) for mask in found.values())
    assert "75.0% of the pruned weights are zero" in made.report.headline
    assert [row[0] for row in made.report.tables[-1].rows] == [1, 2]
    cut, start = pruned(model, tmp_path / "cut", channels=None, weights=WeightOptions(sparsity=0.75))
    assert not cut.report.measured
    name = next(iter(found))
    before, after = (g.ir.initializers[name].const_value.numpy() for g in (start, graph))
    assert not np.array_equal(before, after), "the others were trained"


def test_rounds_cut_step_by_step_and_train(model: Path, tmp_path: Path) -> None:
    made, _ = pruned(
        model, tmp_path / "out", channels=ChannelOptions(ratio=0.5), rounds=2,
        data=["simulated"], training=SHORT, teacher=model,
    )  # fmt: skip
    rounds = made.report.tables[-1].rows
    assert rounds[0][1] > rounds[1][1] and all(row[4] != "-" for row in rounds)
    assert [row[1:3] for row in made.report.tables[0].rows] == [(16, 8)] * 6
    assert made.report.figure("identity").after is not None
    assert (tmp_path / "out" / "training").is_dir() and not (tmp_path / "out.partial").exists()


def test_epochs_0_does_not_train(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args = ["prune", str(model), "-o", str(tmp_path / "out"), "--ratio", "50%", "--epochs", "0"]
    args += ["--data", "simulated", "--chunk", "600", "--validation-items", "2", "--format", "json"]
    args += ["--importance", "l2", "--repair-items", "0"]
    assert main(args) == 0
    told = json.loads(capsys.readouterr().out)["result"]
    assert "identity" in [row["what"] for row in told["figures"]] and not told["measured"]
    cut_only = pruned(model, tmp_path / "cut", channels=ChannelOptions(ratio=0.5))[0]
    assert (tmp_path / "out" / "model.onnx").read_bytes() == (cut_only.path / "model.onnx").read_bytes()


def test_list(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prune", str(model), "--list"]) == 0
    out = capsys.readouterr().out
    assert "gru.4 (hidden units)" in out and "is the model's output 'y'" in out
    assert main(["prune", str(model), "--list", "--format", "json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["result"]["groups"]) == 6


REFUSED = {
    "nothing asked for": ([], 2, "RUB-SHRINK-031"),
    "everything goes": (["--ratio", "1"], 2, "RUB-SHRINK-031"),
    "more than everything": (["--ratio", "150%"], 2, "RUB-SHRINK-031"),
    "no number": (["--macs", "half"], 2, "RUB-SHRINK-031"),
    "not a number": (["--macs", "nan"], 2, "RUB-SHRINK-031"),
    "two budgets": (["--macs", "50%", "--weight-bytes", "50%"], 2, "RUB-SHRINK-031"),
    "a budget below what can be": (["--macs", "0.1%"], 2, "RUB-PASS-051"),
    "a budget of nothing": (["--macs", "-5"], 2, "RUB-SHRINK-031"),
    "rounds of an absolute budget": (["--macs", "1000", "--rounds", "2"], 2, "RUB-SHRINK-031"),
    "no rounds": (["--ratio", "0.5", "--rounds", "0"], 2, "RUB-SHRINK-031"),
    "rounds without training": (["--ratio", "0.5", "--rounds", "2", "--epochs", "0"], 2, "RUB-SHRINK-031"),
    "alignment of nothing": (["--ratio", "0.5", "--align", "0"], 2, "RUB-SHRINK-031"),
    "alignment above the layers": (["--ratio", "0.5", "--align", "64"], 2, "RUB-SHRINK-030"),
    "an unknown group": (["--ratio", "0.5", "--skip", "gru.9*"], 2, "RUB-PASS-050"),
    "everything skipped": (["--ratio", "0.5", "--skip", "*"], 2, "RUB-SHRINK-030"),
    "no layer of the file": (["--layers", "absent.txt"], 2, "RUB-PASS-054"),
    "a pattern the wrong way": (["--pattern", "4:2"], 2, "RUB-SHRINK-031"),
    "Taiyaki's rule over all": (
        ["--sparsity", "0.5", "--all-weights", "--taiyaki-rule"],
        2,
        "RUB-SHRINK-031",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_refused(what: str, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags, status, code = REFUSED[what]
    assert main(["prune", str(model), "-o", str(tmp_path / "out"), *flags]) == status
    assert code in capsys.readouterr().err
    assert not (tmp_path / "out").exists() and not (tmp_path / "out.partial").exists()


def test_a_result_is_not_overwritten(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args = ["prune", str(model), "-o", str(tmp_path / "out"), "--ratio", "0.5"]
    assert main(args) == 0
    before = (tmp_path / "out" / "manifest.json").read_bytes()
    assert main(args) == 8 and (tmp_path / "out" / "manifest.json").read_bytes() == before
    assert main([*args, "--force"]) == 0
    assert (tmp_path / "out" / "manifest.json").read_bytes() == before, "the same again, byte for byte"


def test_rounds_need_shares() -> None:
    with pytest.raises(UsageError, match="RUB-SHRINK-031"):
        PruneSettings(channels=None)
    part = PruneSettings(channels=ChannelOptions(macs=0.25, ratio=0.5), rounds=3).at(1).channels
    assert part is not None and part.macs == pytest.approx(0.75) and part.ratio == pytest.approx(1 / 6)
