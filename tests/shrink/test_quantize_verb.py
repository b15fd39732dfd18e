"""``rubicc quantize``: widths by budget, forms of storage, training, what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rubicc import api
from rubicc.cli.main import main
from rubicc.ir.executor import execute
from rubicc.ir.io import load_graph
from rubicc.passes.quantize.assign import Budgets
from rubicc.shrink.quantize import QuantizeSettings
from rubicc.training.settings import TrainSettings

SHORT = TrainSettings(
    steps=3, batch=2, chunk=600, warmup=1, validate_every=3, validation_items=2, save_every=0
)


def outputs(graph: Any) -> np.ndarray:
    signal = np.random.default_rng(1).normal(size=(1, 1, 300)).astype(np.float32)
    return next(iter(execute(graph, {graph.inputs[0].name: signal}).values()))


def quantised(model: Path, out: Path, training: dict[str, Any] | None = None, **options: Any) -> Any:
    made = api.quantize(model, out=out, settings=QuantizeSettings(**options), **(training or {}))
    assert made is not None
    return made, load_graph(out / "model.onnx")


@pytest.mark.slow  # LSTMs do the same in test_quantize_widths.py
@pytest.mark.parametrize("options", [{}, {"symmetric": False, "granularity": "tensor"}])
def test_storages_compute_the_same(model: Path, tmp_path: Path, options: dict[str, Any]) -> None:
    kinds = ("quantisers", "int8", "float")
    graphs = {kind: quantised(model, tmp_path / kind, storage=kind, **options)[1] for kind in kinds}
    right = outputs(graphs["quantisers"])
    for graph in graphs.values():
        np.testing.assert_allclose(outputs(graph), right, atol=2e-6)
    assert any(n.op_type == "DequantizeLinear" for n in graphs["int8"].nodes)
    assert not any(n.op_type == "Quant" for n in graphs["float"].nodes)


def test_a_budget_is_kept_and_training_goes_on(model: Path, tmp_path: Path) -> None:
    training = {"data": ["simulated"], "teacher": str(model), "training": SHORT}
    options = {"budgets": Budgets(mean_bits=5.0), "widths": (4, 8)}
    made, graph = quantised(model, tmp_path / "out", training, **options)
    rows = made.report.tables[0].rows
    assert sum(row[1] * row[3] for row in rows) <= 5.0 * sum(row[1] for row in rows)
    assert {row[3] for row in rows} == {4, 8}
    quants = [n for n in graph.nodes if n.op_type == "Quant"]
    assert len(quants) == 12, "two of each of five GRUs, convolution, head"
    size = made.report.figure("bytes of weights")
    assert size.after < 0.3 * size.before
    plot = next(plot for plot in made.report.plots if plot.title == "Size against identity")
    assert [len(row.points) for row in plot.series] == [2, 3, 1]  # widths, budgets, chosen


def test_activations_too(model: Path, tmp_path: Path) -> None:
    made, _ = quantised(model, tmp_path / "out", activations=8)
    bops = made.report.figure("BOPs")
    assert bops.after < 0.1 * bops.before


REFUSED = {
    "width": (["--bits", "9"], "RUB-SHRINK-070"),
    "no number": (["--bits", "x"], "RUB-SHRINK-070"),
    "activations": (["--activations", "4"], "RUB-SHRINK-070"),
    "both": (["--bits", "4", "--size", "9"], "RUB-SHRINK-070"),
    "asymmetric blocks": (["--asymmetric", "--granularity", "block"], "RUB-SHRINK-070"),
    "no layer": (["--layer", "nowhere"], "RUB-SHRINK-072"),
    "budget": (["--weights-mean-bits", "2", "--widths", "4,8"], "RUB-PASS-033"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_refused(what: str, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags, code = REFUSED[what]
    assert main(["quantize", str(model), "-o", str(tmp_path / "out"), *flags]) == 2
    assert code in capsys.readouterr().err and not (tmp_path / "out").exists()
