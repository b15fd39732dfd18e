"""The schedule of ``rubicc skipclip`` in the network itself: a result goes on where its run stopped."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from shrunk_nets import SKIPS, clipped, demo_ctc

from rubicc import api
from rubicc.cli.main import main
from rubicc.errors import UsageError
from rubicc.ir.executor import execute
from rubicc.ir.graph import Graph
from rubicc.ir.io import load_graph, save_graph
from rubicc.passes.prune.channels import ChannelOptions
from rubicc.passes.skip.find import residuals
from rubicc.passes.skip.removing import gone
from rubicc.settings import Settings
from rubicc.shrink import skip_schedule
from rubicc.shrink.prune import PruneSettings
from rubicc.shrink.skip_schedule import PLAN_KEY, Plan, SkipSettings, plan_of
from rubicc.shrink.student import read_student
from rubicc.training.settings import TrainSettings

SHORT = TrainSettings(
    steps=2, batch=2, chunk=300, warmup=1, validate_every=100, validation_items=2, save_every=0
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return demo_ctc(tmp_path_factory.mktemp("model"))


def plan(graph: Graph) -> Plan:
    found = plan_of(graph)
    assert found is not None
    return found


FORMS = ["", "checkpoint.pt", "model.onnx"]


@pytest.fixture(scope="module")
def first(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two skips at a time, the first stage only, without training."""
    out = tmp_path_factory.mktemp("first") / "out"
    clipped(model, out, stride=2, stages=1)
    return out


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_a_result_goes_on_with_its_schedule(first: Path, tmp_path: Path, form: str) -> None:
    """A round trip: what is gone, what remains, stride and stage are read back, and followed."""
    known = plan(read_student(first / form, Settings()).before)
    assert known.gone == (("blocks.1/Add", "blocks.2/Add"),) and known.remaining == (("blocks.3/Add",),)
    assert (known.stride, known.order, known.steps) == (2, "input", (0,))
    made, graph = clipped(first / form, tmp_path / "out")
    assert gone(graph)["removed"] == SKIPS and not residuals(graph).found
    assert plan(graph).gone == (("blocks.1/Add", "blocks.2/Add"), ("blocks.3/Add",))
    assert not plan(graph).remaining and plan(graph).stride == 2
    assert [row[-2] for row in made.report.tables[0].rows] == [2], "stages are counted on"
    (told,) = [one for one in made.report.decisions if one.code == "RUB-SHRINK-D50"]
    assert "stage 1 of 2 done" in told.reason and "blocks.3/Add" in told.what


def test_the_report_says_what_remains(first: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = json.loads((first / "report.json").read_text())
    assert "stage 1 of 2 done, stride 2, 1 skip remains" in report["headline"]
    assert main(["skipclip", str(first), "--list"]) == 0
    assert "schedule: stage 1 of 2 done, stride 2, 1 skip remains: blocks.3/Add" in capsys.readouterr().out
    assert main(["skipclip", str(first), "--list", "--format", "json"]) == 0
    told = json.loads(capsys.readouterr().out)["result"]["schedule"]
    assert told["remaining"] == [["blocks.3/Add"]] and told["stride"] == 2


def test_what_remains_goes_at_another_stride(model: Path, tmp_path: Path) -> None:
    made, _ = clipped(model, tmp_path / "one", stages=1)
    words = ["skipclip", str(made.path), "-o", str(tmp_path / "two"), "--stride", "2", "-q"]
    assert main(words) == 0
    found = plan(load_graph(tmp_path / "two" / "model.onnx"))
    assert found.gone == (("blocks.1/Add",), ("blocks.2/Add", "blocks.3/Add")) and found.stride == 2


def test_a_skip_that_was_kept_stays_until_the_schedule_is_through(model: Path, tmp_path: Path) -> None:
    made, _ = clipped(model, tmp_path / "one", keep=("blocks.1",), stages=1)
    made, graph = clipped(made.path, tmp_path / "two")
    assert plan(graph).gone == (("blocks.2/Add",), ("blocks.3/Add",))
    assert [one.name for one in residuals(graph).found] == ["blocks.1/Add"]
    _, graph = clipped(made.path, tmp_path / "three")
    assert not residuals(graph).found and plan(graph).gone[-1] == ("blocks.1/Add",)


def test_anew(first: Path, tmp_path: Path) -> None:
    made, graph = clipped(first, tmp_path / "out", anew=True)
    assert plan(graph) == Plan(1, "input", (("blocks.3/Add",),), (), (0,), {})
    assert "RUB-SHRINK-D50" not in {one.code for one in made.report.decisions}


def test_nothing_is_left_to_do(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made, _ = clipped(model, tmp_path / "all")
    assert main(["skipclip", str(made.path), "-o", str(tmp_path / "out")]) == 2
    told = capsys.readouterr().err
    assert "RUB-SHRINK-050" in told and "stage 3 of 3 done" in told


def test_two_runs_are_one_run(model: Path, tmp_path: Path) -> None:
    """Trained stage by stage, each from the folder before: what one run computes, bit for bit."""
    given: dict[str, Any] = {"data": ["simulated"], "teacher": model, "order": "importance", "stride": 2}
    _, whole = clipped(model, tmp_path / "whole", training=replace(SHORT, steps=4), **given)
    begun, _ = clipped(model, tmp_path / "begun", training=SHORT, stages=1, **given)
    half = plan(load_graph(tmp_path / "begun" / "model.onnx"))
    assert half.steps == (2,) and len(half.importance) == 3 and len(half.to_go) == 1
    later: dict[str, Any] = {"data": ["simulated"], "teacher": model, "training": SHORT}
    made, graph = clipped(begun.path, tmp_path / "made", **later)
    assert plan(graph) == plan(whole), "order, importance and stride came along"
    assert plan(graph).steps == (2, 2)
    x = np.random.default_rng(0).normal(size=(2, 1, 300)).astype(np.float32)
    mine, other, start = (execute(one, {"x": x})["y"] for one in (graph, whole, begun_graph(tmp_path)))
    assert np.array_equal(mine, other) and not np.array_equal(mine, start)
    assert sorted(p.name for p in (made.path / "training").glob("*steps.csv")) == ["steps.csv"]


def begun_graph(home: Path) -> Graph:
    return load_graph(home / "begun" / "model.onnx")


def test_the_state_of_a_killed_run_tells_it_too(model: Path, tmp_path: Path) -> None:
    class Kills:
        """A watcher that ends the run in its second stage."""

        def __init__(self) -> None:
            self.left = 3

        def step(self, row: Any, total: int) -> None:
            self.left -= 1
            if not self.left:
                raise KeyboardInterrupt

        def validated(self, row: Any, total: int) -> None: ...

        def close(self) -> None: ...

    given: dict[str, Any] = {"data": ["simulated"], "stride": 2, "training": replace(SHORT, steps=4)}
    with pytest.raises(KeyboardInterrupt):
        clipped(model, tmp_path / "out", watcher=Kills(), **given)
    state = tmp_path / "out.partial" / skip_schedule.FILE
    now = json.loads(state.read_text())["now"]
    assert now["gone"] == [SKIPS[:2]] and now["remaining"] == [SKIPS[2:]]
    assert now["stride"] == 2 and now["steps"] == [2]
    _, graph = clipped(model, tmp_path / "out", **given)
    assert plan(graph).gone == (tuple(SKIPS[:2]), tuple(SKIPS[2:])) and plan(graph).steps == (2, 2)


def test_other_verbs_keep_it(first: Path, tmp_path: Path) -> None:
    made = api.prune(first, out=tmp_path / "out", settings=PruneSettings(ChannelOptions(ratio=0.25)))
    assert made is not None
    _, graph = clipped(made.path, tmp_path / "rest")
    assert plan(graph).gone == (("blocks.1/Add", "blocks.2/Add"), ("blocks.3/Add",))


GOOD = asdict(Plan(1, "input", (("a",),), (("b",),), (3,), {"a": 0.5}))
DAMAGED = {
    "no JSON": "{",
    "a list": "[]",
    "nothing": "{}",
    "another version": json.dumps({"version": 1, **GOOD}),
    "no stride": json.dumps({"version": 2, **GOOD, "stride": 0}),
    "a stride that is none": json.dumps({"version": 2, **GOOD, "stride": True}),
    "an order of its own": json.dumps({"version": 2, **GOOD, "order": "output"}),
    "a stage that is a word": json.dumps({"version": 2, **GOOD, "gone": ["ab"]}),
    "a number for a name": json.dumps({"version": 2, **GOOD, "remaining": [[1]]}),
    "a skip twice": json.dumps({"version": 2, **GOOD, "remaining": [["a"]]}),
    "steps of more stages": json.dumps({"version": 2, **GOOD, "steps": [1, 2]}),
    "importance that is none": json.dumps({"version": 2, **GOOD, "importance": {"a": float("nan")}}),
    "deeper than anything": "[" * 100_000,
}


@pytest.mark.parametrize("what", DAMAGED)
def test_damaged_schedules(what: str, first: Path) -> None:
    graph = load_graph(first / "model.onnx")
    graph.ir.metadata_props[PLAN_KEY] = json.dumps({"version": 2, **GOOD})
    assert plan(graph).to_go == ["b"], "the good one is read"
    graph.ir.metadata_props[PLAN_KEY] = DAMAGED[what]
    with pytest.raises(UsageError, match="RUB-SHRINK-054"):
        plan_of(graph)


def test_a_damaged_schedule_can_be_left_out(
    first: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    graph = load_graph(first / "model.onnx")
    graph.ir.metadata_props[PLAN_KEY] = "{"
    save_graph(graph, tmp_path / "model.onnx")
    words = ["skipclip", str(tmp_path / "model.onnx"), "-o", str(tmp_path / "out"), "-q"]
    assert main(words) == 2
    told = capsys.readouterr().err
    assert "RUB-SHRINK-054" in told and "--anew" in told
    assert main([*words, "--anew"]) == 0


def test_parts_of_a_schedule_share_their_steps_evenly() -> None:
    assert SkipSettings().steps(7, 3, more=True) == [3, 2, 2]
    assert SkipSettings().steps(8, 1, more=True) == [8]
    for wrong in (0, -1):
        with pytest.raises(UsageError, match="RUB-SHRINK-051"):
            SkipSettings(stages=wrong)
