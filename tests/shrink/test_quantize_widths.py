"""``rubicc quantize``: widths a target keeps, budgets of identity and latency, networks of every kind."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.numpy_helper
import pytest

import rubicc.backends.registry
from rubicc import api
from rubicc.cli.main import main
from rubicc.ir.executor import execute
from rubicc.ir.graph import Graph, is_quantiser
from rubicc.ir.io import load_graph, save_graph
from rubicc.passes.quantize.assign import Budgets
from rubicc.passes.rewrite import constant
from rubicc.shrink import result as results
from rubicc.shrink import widths as widths_module
from rubicc.shrink.latency import read_latency
from rubicc.shrink.quantize import QuantizeSettings
from rubicc.shrink.width_search import NARROWINGS, Lost, Meter
from rubicc.training.settings import TrainSettings
from tests.training.twin_zoo import feeds, net

DEMO = Path(rubicc.__file__).parent / "data" / "demo_ctc.pt"
SIGNAL = TrainSettings(
    steps=1, batch=4, chunk=400, warmup=1, validate_every=1, validation_items=4, save_every=0, lr=3.0
)
DATA: dict[str, Any] = {"data": ["simulated"], "training": SIGNAL}


@pytest.fixture(scope="module")
def lstm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Convolutions, three LSTMs, a CRF head; 7 layers with 10 weights."""
    path, graph = tmp_path_factory.mktemp("lstm") / "lstm.onnx", net("bonito-crf").raw.clone()
    assert graph.meta is not None
    graph.meta = replace(graph.meta, chunk=300)
    save_graph(graph, path)
    return path


def quantised(
    model: Path, out: Path, given: dict[str, Any] | None = None, **options: Any
) -> tuple[Any, Graph]:
    made = api.quantize(model, out=out, settings=QuantizeSettings(**options), **(given or {}))
    assert made is not None
    return made.report, load_graph(out / "model.onnx")


def widths(graph: Graph) -> dict[str, int]:
    """Bits of the weights' quantisers by name."""
    quants = [node for node in graph.all_nodes() if is_quantiser(node)]
    return {
        node.name or "": int(np.asarray(constant(node.inputs[3])))
        for node in quants
        if constant(node.inputs[0]) is not None
    }


def codes(report: Any) -> set[str]:
    return {one.code for one in report.decisions}


def points(report: Any) -> dict[str, list[tuple[float, float]]]:
    plot = next(plot for plot in report.plots if plot.title == "Size against identity")
    return {row.name: [point[:2] for point in row.points] for row in plot.series}


def test_the_bound_of_a_loss_is_students() -> None:
    """Mean 0.02, standard error 0.01 / sqrt(4), quantile 2.353 at three degrees of freedom."""
    lost = Lost.of([0.01, 0.03, 0.01, 0.03])
    assert lost.mean == pytest.approx(0.02) and lost.items == 4
    assert lost.most() == pytest.approx(0.02 + 2.35336 * 0.0115470 / 2, rel=1e-5)
    assert lost.most(5) == pytest.approx(0.02 + 4.54070 * 0.0115470 / 2, rel=1e-5), "1 % each"
    assert Lost.of([0.02, 0.02]).most() == pytest.approx(0.02)


def test_an_identity_budget_gives_the_smallest_network_that_keeps_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: dict[float, Lost] = {}

    def lost(meter: Meter, widths: dict[str, int], own: Any = Meter.lost) -> Lost:
        return tried.setdefault(meter.variants.nbytes(widths), own(meter, widths))

    monkeypatch.setattr(Meter, "lost", lost)
    report, graph = quantised(DEMO, tmp_path / "q", DATA, identity_loss=0.08, widths=(2, 4, 8), train=False)
    identity, size = report.figure("identity"), report.figure("bytes of weights")
    assert identity.before > 0.8, "the network calls"
    assert identity.after == pytest.approx(identity.before - tried[size.after].mean)
    assert str(tried[size.after]) in report.headline
    safe = min(nbytes for nbytes, one in tried.items() if one.most(NARROWINGS) <= 0.08)
    assert tried[size.after].most() <= 0.08 and size.after <= safe
    assert any(one.mean <= 0.08 < one.most() for one in tried.values()), "luck is not enough"
    found = points(report)
    ((nbytes, lost),) = found.pop("chosen")
    assert lost == pytest.approx(identity.after, abs=1e-6) and size.after == nbytes
    others = [point for row in found.values() for point in row]
    assert len(others) == 6
    assert any(other < identity.before - 0.08 for _, other in others), "not everything keeps it"
    assert len(set(widths(graph).values())) > 1 and "decoded" in report.headline


@pytest.mark.slow
def test_training_that_loses_the_identity_is_left(tmp_path: Path) -> None:
    """A step of far too large a rate: the result is the network as it was rounded."""
    report, graph = quantised(DEMO, tmp_path / "q", DATA, identity_loss=0.02, widths=(8,))
    assert "RUB-SHRINK-D13" in codes(report) and report.figure("identity").after > 0.8
    same, _ = quantised(DEMO, tmp_path / "r", bits=8)
    x = np.random.default_rng(0).normal(size=(1, 1, 300)).astype(np.float32)
    one, two = (
        next(iter(execute(load_graph(tmp_path / name / "model.onnx"), {graph.inputs[0].name: x}).values()))
        for name in "qr"
    )
    np.testing.assert_allclose(one, two, atol=1e-5)
    assert same.figure("bytes of weights").after == report.figure("bytes of weights").after


TARGETS = {
    "aie:vek280": ({"layers": ("lstm.0/LSTM", "head/MatMul")}, {8}, {"RUB-SHRINK-D10"}),
    "coreml:iOS17": ({"budgets": Budgets(mean_bits=8.0)}, {8}, {"RUB-SHRINK-D10"}),
    "coreml:iOS18": ({"budgets": Budgets(mean_bits=5.0)}, {4, 8}, {"RUB-SHRINK-D10"}),
    "cpu": ({"budgets": Budgets(mean_bits=8.0), "activations": 8}, {8}, {"RUB-SHRINK-D10"}),
    "gpu:tensorrt": ({}, {8}, {"RUB-SHRINK-D10", "RUB-SHRINK-D11"}),
}


@pytest.mark.parametrize("target", TARGETS)
def test_only_widths_that_the_target_keeps(target: str, lstm: Path, tmp_path: Path) -> None:
    """TensorRT has no integers for LSTMs, the array no inputs in float."""
    options, wanted, said = TARGETS[target]
    report, graph = quantised(lstm, tmp_path / "q", target=target, **options)
    found = widths(graph)
    assert set(found.values()) == wanted and said <= codes(report)
    cells = [bits for name, bits in found.items() if "lstm" in name]
    assert len(cells) == {"gpu": 0, "aie": 2}.get(target[:3], 6)
    rounded = [n for n in graph.all_nodes() if is_quantiser(n) and constant(n.inputs[0]) is None]
    assert bool(rounded) == (target.startswith(("aie", "gpu")) or "activations" in options)


def test_a_target_that_says_nothing_is_refused(
    lstm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(rubicc.backends.registry, "get", lambda target: object())
    assert main(["quantize", str(lstm), "-o", str(tmp_path / "q"), "--target", "cpu"]) == 2
    assert "RUB-SHRINK-073" in capsys.readouterr().err


def table(model: Path) -> dict[str, Any]:
    """Seconds of the network's layers: wide ones cost more."""
    report, _ = quantised(model, model.parent / "any")
    rows = {name: {"w4a32": 1e-3, "w8a32": 2e-3} for name, _ in report.tables[0].rows}
    return {"version": 1, "seconds": rows}


@pytest.fixture(scope="module")
def times(lstm: Path) -> dict[str, Any]:
    return table(lstm)


def test_nothing_is_looked_at_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One width and a plot of others: one scan of the layers, costs once before and once after."""
    counts = {"sites": 0, "facts": 0}

    def counted(name: str, where: str) -> None:
        real = getattr({"sites": widths_module, "facts": results}[name], name)

        def call(*args: Any, **given: Any) -> Any:
            counts[name] += 1
            return real(*args, **given)

        monkeypatch.setattr(where, call)

    counted("sites", "rubicc.shrink.widths.sites")
    counted("facts", "rubicc.shrink.result.facts")
    few = {**DATA, "training": replace(SIGNAL, validation_items=1)}
    report, _ = quantised(DEMO, tmp_path / "q", few, bits=8, widths=(6,), train=False)
    assert len(points(report)["one width for all"]) == 2, "that asked for, and another"
    assert counts == {"sites": 1, "facts": 2}


def test_a_latency_budget_is_kept(lstm: Path, times: dict[str, Any], tmp_path: Path) -> None:
    """Seven layers at 1 or 2 ms each: in 11 ms four of them have 8 bits."""
    (tmp_path / "t.json").write_text(json.dumps(times))
    words = ["quantize", str(lstm), "-o", str(tmp_path / "q"), "--latency-table", str(tmp_path / "t.json")]
    assert main([*words, "--latency", "11.0001ms", "--widths", "4,8", "--no-refine", "-q"]) == 0
    report = json.loads((tmp_path / "q" / "report.json").read_text())
    (row,) = [figure for figure in report["figures"] if figure["what"] == "latency"]
    assert row["after"] == pytest.approx(11e-3) and row["unit"] == "s"
    assert sorted(cells[3] for cells in report["tables"][0]["rows"]) == [4] * 3 + [8] * 4
    (size,) = [figure["after"] for figure in report["figures"] if figure["what"] == "bytes of weights"]
    assert report["plots"][0]["series"][-1]["points"][0][0] == size
    titles = [plot["title"] for plot in report["plots"]]
    assert titles == ["Size against divergence", "Latency against divergence"]


def test_fisher_through_the_verb(lstm: Path, tmp_path: Path) -> None:
    """Predicted divergences rank layers as measured ones do, and the budget of bytes counts scales."""
    words = ["quantize", str(lstm), "--widths", "2,4,8", "--size", "1000", "--no-refine", "-q"]
    for name in ("lstm.0/LSTM", "stem.1.conv/Conv", "head/MatMul"):
        words += ["--layer", name]
    found = []
    for how in ("output", "fisher"):
        assert main([*words, "--sensitivity", how, "-o", str(tmp_path / how)]) == 0
        rows = json.loads((tmp_path / how / "report.json").read_text())["tables"][0]["rows"]
        assert sum(row[4] for row in rows) <= 1000
        scales = [row[4] - row[1] * row[3] / 8 for row in rows]
        assert all(scale >= 4 for scale in scales)
        found.append(np.log([[float(cell) for cell in row[5:]] for row in rows]))
    assert np.corrcoef(found[0].ravel(), found[1].ravel())[0, 1] > 0.9
    assert not np.allclose(*found)


@pytest.mark.parametrize(
    "options",
    [pytest.param({}, marks=pytest.mark.slow), {"symmetric": False, "granularity": "tensor"}],
)
def test_lstm_storages_compute_the_same(lstm: Path, tmp_path: Path, options: dict[str, Any]) -> None:
    kinds = ("quantisers", "int8", "float")
    graphs = {kind: quantised(lstm, tmp_path / kind, storage=kind, **options)[1] for kind in kinds}
    given = feeds(graphs["float"], batch=2)
    right = next(iter(execute(graphs["quantisers"], given).values()))
    for graph in graphs.values():
        np.testing.assert_allclose(next(iter(execute(graph, given).values())), right, atol=2e-5)
    stored = [n for n in graphs["int8"].all_nodes() if n.op_type == "DequantizeLinear"]
    assert len(stored) == 10 and all(constant(n.inputs[0]).dtype == np.int8 for n in stored)  # type: ignore[union-attr]
    assert not any(map(is_quantiser, graphs["float"].all_nodes()))


def test_brevitas_models_enter_as_they_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = net("qabas").raw
    save_graph(before, tmp_path / "m.onnx")
    report, graph = quantised(tmp_path / "m.onnx", tmp_path / "q", bits=4)
    count = sum(map(is_quantiser, before.all_nodes()))
    (told,) = [one for one in report.decisions if one.code == "RUB-SHRINK-D12"]
    assert count > 10 and told.what.startswith(f"{count} quantisers")
    given = feeds(before, batch=1)
    for one, two in zip(execute(before, given).values(), execute(graph, given).values(), strict=True):
        np.testing.assert_array_equal(one, two)
    words = ["quantize", str(tmp_path / "m.onnx"), "-o", str(tmp_path / "r"), "--size", "1000"]
    assert main(words) == 2 and "RUB-SHRINK-072" in capsys.readouterr().err


def test_quantisers_stay_while_other_layers_get_theirs(lstm: Path, tmp_path: Path) -> None:
    """A network quantised in part is quantised further: its 4 bits stay, the rest gets 8."""
    part, first = quantised(lstm, tmp_path / "p", bits=4, layers=("lstm.0/LSTM",))
    report, graph = quantised(
        tmp_path / "p", tmp_path / "q", {**DATA, "training": SIGNAL}, bits=8, train=False
    )
    assert sorted(widths(first).values()) == [4, 4]
    assert sorted(widths(graph).values()) == [4, 4] + [8] * 8
    assert "RUB-SHRINK-D12" in codes(report) and "RUB-SHRINK-D12" not in codes(part)


BAD_TABLES: dict[str, Any] = {
    "not json": "{",
    "a key twice": '{"version": 1, "version": 1, "seconds": {}}',
    "no object": "[1]",
    "another version": {"version": 2, "seconds": {"a": {"w8a8": 1}}},
    "a version that is true": {"version": True, "seconds": {"a": {"w8a8": 1}}},
    "one key more": {"version": 1, "seconds": {"a": {"w8a8": 1}}, "unit": "s"},
    "no layers": {"version": 1, "seconds": {}},
    "a layer without pairs": {"version": 1, "seconds": {"a": {}}},
    "a pair by another name": {"version": 1, "seconds": {"a": {"8x8": 1}}},
    "NaN": '{"version": 1, "seconds": {"a": {"w8a8": NaN}}}',
    "a text": {"version": 1, "seconds": {"a": {"w8a8": "1ms"}}},
    "true": {"version": 1, "seconds": {"a": {"w8a8": True}}},
    "zero": {"version": 1, "seconds": {"a": {"w8a8": 0}}},
    "more than float holds": '{"version": 1, "seconds": {"a": {"w8a8": 1' + "0" * 400 + "}}}",
}


@pytest.mark.parametrize("what", BAD_TABLES)
def test_tables_are_read_strictly(what: str, tmp_path: Path) -> None:
    given = BAD_TABLES[what]
    (tmp_path / "t.json").write_text(given if isinstance(given, str) else json.dumps(given))
    with pytest.raises(rubicc.errors.UsageError, match="RUB-SHRINK-076") as told:
        read_latency(tmp_path / "t.json")
    assert "write seconds" in str(told.value)


HOSTILE = {
    "no such table": (["--latency-table", "nowhere.json", "--latency", "1ms"], "RUB-SHRINK-076"),
    "a table without its budget": (["--latency-table", "TABLE"], "RUB-SHRINK-070"),
    "a budget without its table": (["--latency", "1ms"], "RUB-SHRINK-070"),
    "a budget that is no time": (["--latency-table", "TABLE", "--latency", "1 bit"], "RUB-CLI-004"),
    "a budget below all": (
        ["--latency-table", "TABLE", "--latency", "1ms", "--widths", "4,8"], "RUB-PASS-033"
    ),
    "widths that the table lacks": (["--latency-table", "TABLE", "--latency", "1s"], "RUB-PASS-033"),
    "a table of another network": (["--latency-table", "OTHER", "--latency", "1s"], "RUB-SHRINK-072"),
    "an unknown target": (["--target", "cpuu"], "RUB-TGT-001"),
    "an unknown device": (["--target", "aie:vek281"], "RUB-TGT-002"),
    "a target that computes in floats": (["--target", "gpu:cuda"], "RUB-SHRINK-073"),
    "a width it does not keep": (["--target", "coreml:iOS17", "--granularity", "block"], "RUB-SHRINK-073"),
    "a width none of its layers keeps": (["--target", "aie", "--bits", "4"], "RUB-SHRINK-073"),
    "inputs it does not keep": (["--target", "aie", "--activations", "32"], "RUB-SHRINK-073"),
    "scales beside rounded inputs": (["--target", "aie", "--granularity", "tensor"], "RUB-SHRINK-070"),
    "identity without data": (["--identity-loss", "0.01"], "RUB-SHRINK-071"),
    "identity below nothing": (["--identity-loss", "-0.1"], "RUB-SHRINK-070"),
    "identity that is no number": (["--identity-loss", "nan"], "RUB-SHRINK-070"),
    "identity beside one width": (["--identity-loss", "1%", "--bits", "8"], "RUB-SHRINK-070"),
    "an empty size": (["--size", ""], "RUB-SHRINK-070"),
    "a layer that is misspelt": (["--skip", "haed"], "RUB-SHRINK-072"),
}  # fmt: skip


@pytest.mark.parametrize("what", HOSTILE)
def test_refused(
    what: str, lstm: Path, times: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags, code = HOSTILE[what]
    other = {**times, "seconds": {**times["seconds"], "elsewhere": {"w8a32": 1.0}}}
    for name, content in (("TABLE", times), ("OTHER", other)):
        (tmp_path / name).write_text(json.dumps(content))
    words = [str(tmp_path / word) if word in ("TABLE", "OTHER") else word for word in flags]
    assert main(["quantize", str(lstm), "-o", str(tmp_path / "out"), *words]) == 2
    assert code in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_a_loss_that_rounding_cannot_keep(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["quantize", str(DEMO), "-o", str(tmp_path / "q"), "--data", "simulated", "--epochs", "0"]
    few = ["--validation-items", "4", "--chunk", "500", "--widths", "2", "--identity-loss", "0.1%"]
    assert main([*words, *few]) == 2
    assert "RUB-SHRINK-074" in capsys.readouterr().err and not (tmp_path / "q").exists()


def test_outputs_that_are_not_finite(lstm: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = onnx.load(lstm)
    bias = next(one for one in model.graph.initializer if one.name.endswith("conv.bias"))
    vast = np.full(onnx.numpy_helper.to_array(bias).shape, 3e38, np.float32)
    bias.CopyFrom(onnx.numpy_helper.from_array(vast, bias.name))
    onnx.save(model, tmp_path / "m.onnx")
    words = ["quantize", str(tmp_path / "m.onnx"), "-o", str(tmp_path / "q"), "--weights-mean-bits", "4"]
    assert main(words) == 5
    assert "RUB-SHRINK-075" in capsys.readouterr().err and not (tmp_path / "q").exists()
