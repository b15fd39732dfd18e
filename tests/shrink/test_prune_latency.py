"""``rubicc prune --latency``: budgets of a predicted latency, by a table and by the AI Engine's own plan."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from chain_home import CONFIG

import rubicc
from rubicc import api
from rubicc.backends.base import Predicted
from rubicc.cli.main import main
from rubicc.errors import RubiccError, Unsupported, UsageError
from rubicc.frontend import checkpoint
from rubicc.ir.costs import costs
from rubicc.ir.graph import Graph
from rubicc.ir.io import load_graph
from rubicc.models import registry
from rubicc.passes.prune.channels import ChannelOptions
from rubicc.settings import Settings
from rubicc.shrink import result as results
from rubicc.shrink.latency import LatencyBudget, Table, parse_budget, read_latency
from rubicc.shrink.latency_model import ByTable, ByTarget, Predictions
from rubicc.shrink.prune import PruneSettings
from rubicc.shrink.student import cleaned, read_student
from rubicc.training.settings import TrainSettings

SHORT = TrainSettings(
    steps=4, batch=2, chunk=300, warmup=1, validate_every=4, validation_items=2, save_every=0
)
SECOND = 1e-7  # per multiplication


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Convolutions with random weights."""
    path = tmp_path_factory.mktemp("model") / "small.pt"
    entry = registry.get("demo-ctc")
    checkpoint.save(path, entry.build(CONFIG, seed=1), entry.meta(CONFIG))
    return path


def layers(model: Path) -> tuple[Graph, dict[str, int]]:
    """The graph that is cut, and multiplications by layer."""
    graph = cleaned(read_student(model, Settings()).before)
    return graph, {row.name: row.macs for row in costs(graph, results.bound(graph)).rows if row.macs}


@pytest.fixture(scope="module")
def times(small: Path) -> dict[str, Any]:
    """Every multiplication takes as long as any other."""
    rows = {
        name: {"w32a32": macs * SECOND, "w8a8": macs * SECOND / 4} for name, macs in layers(small)[1].items()
    }
    return {"version": 1, "seconds": rows, "band": [0.8, 1.3]}


@pytest.fixture
def table(times: dict[str, Any], tmp_path: Path) -> Path:
    (tmp_path / "t.json").write_text(json.dumps(times))
    return tmp_path / "t.json"


def pruned(model: Path, out: Path, table: Path, budget: str, *more: str) -> tuple[dict[str, Any], float]:
    """The report's row of the latency, and multiplications after."""
    args = ["prune", str(model), "-o", str(out), "--latency", budget, "--latency-table", str(table), "-q"]
    assert main([*args, *more]) == 0
    report = json.loads((out / "report.json").read_text())
    (row,) = [figure for figure in report["figures"] if figure["what"] == "predicted latency"]
    graph = load_graph(out / "model.onnx")
    return row, results.facts(graph)["MACs"]


@pytest.mark.parametrize("scope", ["uniform", "global"])
def test_a_share_is_kept_and_hardly_less_is_left(
    small: Path, table: Path, tmp_path: Path, scope: str
) -> None:
    row, macs = pruned(small, tmp_path / "out", table, "50%", "--scope", scope)
    whole = sum(layers(small)[1].values())
    assert row["before"] == pytest.approx(whole * SECOND)
    assert row["after"] == pytest.approx(macs * SECOND), "of the network as it was written"
    assert 0.35 * row["before"] < row["after"] <= 0.5 * row["before"]
    assert row["unit"] == "s" and "estimate" in row["how"] and "0.8 to 1.3 times" in row["how"]
    assert "estimate" in (tmp_path / "out" / "report.html").read_text()


def test_the_table_decides_not_the_multiplications(
    small: Path, times: dict[str, Any], tmp_path: Path
) -> None:
    """Where nearly all the time is in one layer, its share of the time is what is counted."""
    graph, macs = layers(small)
    slow = max(macs, key=lambda name: macs[name])
    rows = {name: {(32, 32): 1.0 if name == slow else 1e-6} for name in macs}
    model = ByTable(Table(rows), graph)
    assert model.seconds(graph) == pytest.approx(1.0, abs=1e-4)
    made = api.prune(small, out=tmp_path / "out", settings=PruneSettings(channels=ChannelOptions(ratio=0.5)))
    assert made is not None
    after = load_graph(tmp_path / "out" / "model.onnx")
    left = {row.name: row.macs for row in costs(after, results.bound(after)).rows if row.macs}
    assert model.seconds(after) == pytest.approx(left[slow] / macs[slow], abs=1e-4)
    assert model.seconds(after) != pytest.approx(sum(left.values()) / sum(macs.values()), abs=1e-2)


def test_a_time_is_kept_in_rounds_with_training(small: Path, times: dict[str, Any], tmp_path: Path) -> None:
    """A time, unlike other absolute budgets, goes in rounds: half of the way, then all of it."""
    read = Table({n: {(32, 32): row["w32a32"]} for n, row in times["seconds"].items()})
    whole = sum(layers(small)[1].values()) * SECOND
    made = api.prune(
        small, out=tmp_path / "out", data=["simulated"], training=SHORT, teacher=small,
        settings=PruneSettings(latency=LatencyBudget(seconds=whole / 2, table=read), rounds=2),
    )  # fmt: skip
    assert made is not None
    first, second = (row[1] * SECOND for row in made.report.tables[-1].rows)
    assert whole / 2 < first <= 0.75 * whole and second <= whole / 2


def test_an_impossible_budget_names_the_least(
    small: Path, table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    args = ["prune", str(small), "-o", str(tmp_path / "out"), "--latency-table", str(table), "--latency"]
    assert main([*args, "1ns"]) == 2
    told = capsys.readouterr().err
    assert "RUB-SHRINK-042" in told and not (tmp_path / "out").exists()
    least = float(told.split("predicted to take ")[1].split(" ms")[0])
    assert main([*args, f"{least * 1.0001}ms"]) == 0, "what it names can be had"
    assert main([*args[:-1], "--force", "--latency", f"{least * 0.999}ms"]) == 2


def test_impossible_rounds_are_refused_before_training(
    small: Path, times: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = Table({n: {(32, 32): row["w32a32"]} for n, row in times["seconds"].items()})
    monkeypatch.setattr("rubicc.shrink.session.fit", lambda *a, **k: pytest.fail("it was trained"))
    with pytest.raises(UsageError, match="RUB-SHRINK-042"):
        api.prune(
            small, out=tmp_path / "out", data=["simulated"], training=SHORT, teacher=small,
            settings=PruneSettings(latency=LatencyBudget(seconds=1e-9, table=read), rounds=2),
        )  # fmt: skip


def test_layers_without_a_row_count_as_nothing_and_that_is_told(
    small: Path, times: dict[str, Any], tmp_path: Path
) -> None:
    left = sorted(times["seconds"])[0]
    rows = {name: row for name, row in times["seconds"].items() if name != left}
    (tmp_path / "t.json").write_text(json.dumps({"version": 1, "seconds": rows}))
    row, _ = pruned(small, tmp_path / "out", tmp_path / "t.json", "60%")
    assert row["before"] == pytest.approx(sum(r["w32a32"] for r in rows.values()))
    assert "error is not known" in row["how"]
    told = json.loads((tmp_path / "out" / "report.json").read_text())["decisions"]
    (one,) = [d for d in told if d["code"] == "RUB-SHRINK-D40"]
    assert left in one["what"] and "%" in one["reason"]


class Board:
    """A target whose time is a known function of the weights, and which takes no large network."""

    def __init__(self, most: int = 1 << 60) -> None:
        self.most, self.calls = most, 0

    def predict(self, graph: Graph, target: object, feeds: dict[str, Any]) -> Predicted:
        self.calls += 1
        (signal,) = feeds.values()
        assert signal.shape[:2] == (1, 1) and all(isinstance(d, int) for d in graph.inputs[0].shape or ())
        size = int(results.facts(graph)["parameters"])
        if size > self.most:
            raise Unsupported("RUB-AIE-201", f"{size} weights", where="board", hint="make it smaller")
        return Predicted(size * 1e-6, (0.5, 2.0), "counted weights")


def test_a_target_predicts(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    board = Board()
    monkeypatch.setattr("rubicc.backends.registry.get", lambda target: board)
    budget = LatencyBudget(share=0.6, target="aie:vek280")
    made = api.prune(small, out=tmp_path / "out", settings=PruneSettings(latency=budget))
    assert made is not None
    row, size = made.report.figure("predicted latency"), made.report.figure("parameters")
    assert row.before == pytest.approx(size.before * 1e-6) and row.after == pytest.approx(size.after * 1e-6)
    assert row.after <= 0.6 * row.before and "aie:vek280: counted weights; error band 0.5 to 2" in row.how
    assert "RUB-SHRINK-D41" in {one.code for one in made.report.decisions}
    assert board.calls <= 12, "equal sizes are not predicted twice"


def test_a_network_too_large_for_its_target_is_cut_until_it_fits(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = int(results.facts(layers(small)[0])["parameters"])
    monkeypatch.setattr("rubicc.backends.registry.get", lambda target: Board(most=whole // 2))
    given = PruneSettings(latency=LatencyBudget(seconds=1.0, target="aie"))
    made = api.prune(small, out=tmp_path / "out", settings=given)
    assert made is not None
    row = made.report.figure("predicted latency")
    assert row.before is None and row.after <= whole / 2 * 1e-6
    with pytest.raises(Unsupported, match="RUB-AIE-201"):
        share = PruneSettings(latency=LatencyBudget(share=0.5, target="aie"))
        api.prune(small, out=tmp_path / "share", settings=share)
    monkeypatch.setattr("rubicc.backends.registry.get", lambda target: Board(most=1))
    with pytest.raises(Unsupported, match="RUB-AIE-201"):
        api.prune(small, out=tmp_path / "none", settings=given)


def test_the_array_s_own_plan(small: Path) -> None:
    """A time with the planner's band; the graph given stays as it is."""
    graph, _ = layers(small)
    before = graph.to_proto().SerializeToString(deterministic=True)
    model = ByTarget("aie:vek280", "small")
    whole = model.seconds(graph)
    assert graph.to_proto().SerializeToString(deterministic=True) == before
    assert model.band is not None and 0.5 < model.band[0] < 1 < model.band[1] < 2
    assert "plan of int8" in model.how and "error band 0.832 to 1.33 times" in model.how
    assert 1e-7 < whole < 1e-2


@pytest.mark.slow
def test_the_array_keeps_a_budget(tmp_path: Path) -> None:
    """The embedded network (a smaller one is all latency of its pipeline) to 85 % of its planned time."""
    demo = Path(rubicc.__file__).parent / "data" / "demo_ctc.pt"
    budget = LatencyBudget(share=0.85, target="aie:vek280")
    channels = ChannelOptions(align=8)
    made = api.prune(demo, out=tmp_path / "out", settings=PruneSettings(channels, latency=budget))
    assert made is not None
    row = made.report.figure("predicted latency")
    assert row is not None and row.before is not None and row.after is not None
    assert 0.7 * row.before < row.after <= 0.85 * row.before
    again = Predictions.of(budget, load_graph(tmp_path / "out" / "model.onnx"), "demo")
    assert again.first == pytest.approx(row.after, rel=1e-6), "of the network as it was written"


REFUSED: dict[str, tuple[list[str], str]] = {
    "no unit": (["--latency", "0.5", "--latency-table", "TABLE"], "RUB-SHRINK-040"),
    "no number": (["--latency", "fast", "--latency-table", "TABLE"], "RUB-SHRINK-040"),
    "the table for a budget": (["--latency", "TABLE"], "RUB-SHRINK-040"),
    "not a number": (["--latency", "nan%", "--latency-table", "TABLE"], "RUB-SHRINK-040"),
    "nothing": (["--latency", "0%", "--latency-table", "TABLE"], "RUB-SHRINK-040"),
    "no time": (["--latency", "0ms", "--latency-table", "TABLE"], "RUB-SHRINK-040"),
    "all of it": (["--latency", "100%", "--latency-table", "TABLE"], "RUB-SHRINK-040"),
    "no source": (["--latency", "50%"], "RUB-SHRINK-040"),
    "two sources": (["--latency", "50%", "--latency-table", "TABLE", "--target", "aie"], "RUB-SHRINK-040"),
    "a table without its budget": (["--latency-table", "TABLE", "--ratio", "50%"], "RUB-SHRINK-040"),
    "a target without a budget": (["--target", "aie", "--ratio", "50%"], "RUB-SHRINK-040"),
    "two budgets": (["--latency", "50%", "--latency-table", "TABLE", "--macs", "50%"], "RUB-SHRINK-031"),
    "shares beside": (["--latency", "50%", "--latency-table", "TABLE", "--share", "a=1%"], "RUB-SHRINK-031"),
    "a target without a model": (["--latency", "50%", "--target", "cpu"], "RUB-SHRINK-041"),
    "an unknown target": (["--latency", "50%", "--target", "fpga"], "RUB-TGT-001"),
    "a table of another network": (["--latency", "50%", "--latency-table", "OTHER"], "RUB-SHRINK-041"),
    "a table of other widths": (["--latency", "50%", "--latency-table", "WIDTHS"], "RUB-SHRINK-041"),
    "no table there": (["--latency", "50%", "--latency-table", "nowhere.json"], "RUB-SHRINK-076"),
    "a band of nonsense": (["--latency", "50%", "--latency-table", "BAND"], "RUB-SHRINK-076"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_refused(
    what: str, small: Path, times: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seconds = times["seconds"]
    files = {
        "TABLE": times,
        "OTHER": {**times, "seconds": {**seconds, "elsewhere": {"w32a32": 1.0}}},
        "WIDTHS": {**times, "seconds": {name: {"w8a8": 1.0} for name in seconds}},
        "BAND": {**times, "band": [1.1, 0.9]},
    }
    for name, content in files.items():
        (tmp_path / name).write_text(json.dumps(content))
    flags, code = REFUSED[what]
    words = [str(tmp_path / word) if word in files else word for word in flags]
    assert main(["prune", str(small), "-o", str(tmp_path / "out"), *words]) == 2
    assert code in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_bands_are_read_strictly(tmp_path: Path) -> None:
    bad: list[Any] = [[1], [0, 2], [1.1, 2], [0.5, 0.9], ["0.9", 2], {"low": 1}, [True, 2], "0.9 to 1.1"]
    for band in bad:
        (tmp_path / "t.json").write_text(
            json.dumps({"version": 1, "seconds": {"a": {"w8a8": 1}}, "band": band})
        )
        with pytest.raises(UsageError, match="RUB-SHRINK-076"):
            read_latency(tmp_path / "t.json")


def test_budgets_are_times_or_shares() -> None:
    assert parse_budget("5ms") == {"seconds": pytest.approx(5e-3)} and parse_budget("50%") == {"share": 0.5}
    one = LatencyBudget(share=0.5, target="aie")
    assert one.limit(4.0) == 2.0 and LatencyBudget(seconds=3.0, target="aie").limit(4.0) == 3.0
    wrong: list[Callable[[], LatencyBudget]] = [
        lambda: LatencyBudget(target="aie"),
        lambda: LatencyBudget(seconds=1.0, share=0.5, target="aie"),
        lambda: LatencyBudget(seconds=float("inf"), target="aie"),
    ]
    for make in wrong:
        with pytest.raises(RubiccError, match="RUB-SHRINK-040"):
            make()
