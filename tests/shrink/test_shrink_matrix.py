"""Any network of the zoo x any verb that shrinks: it works, or it is refused with a documented reason."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rubicc import api
from rubicc.cli.main import main
from rubicc.errors import RubiccError
from rubicc.evidence import change
from rubicc.evidence.change import ChangeReport
from rubicc.frontend import checkpoint, read_model
from rubicc.ir.executor import execute
from rubicc.ir.graph import Graph, is_quantiser
from rubicc.ir.io import save_graph
from rubicc.models import registry
from rubicc.passes.prune.channels import ChannelOptions
from rubicc.passes.prune.weights import WeightOptions, masks
from rubicc.passes.skip.find import residuals
from rubicc.shrink.prune import PruneSettings
from rubicc.shrink.quantize import QuantizeSettings
from rubicc.shrink.skip_schedule import SkipSettings
from rubicc.shrink.student import cleaned
from rubicc.training.settings import TrainSettings
from tests.training.twin_zoo import feeds, gap, net, small_config

ROOT = Path(__file__).parents[2]
SHORT = TrainSettings(
    steps=2, batch=1, chunk=90, lr=0.01, warmup=1, validate_every=2, validation_items=1, save_every=0
)
TOKENS, ROWS = 24, 4

# What is refused, and why: nothing else may be. docs/shrink_matrix.md says the same.
NO_SKIPS = ("RUB-SHRINK-050", "the network has no residual connection")
REFUSED = {(name, "skipclip"): NO_SKIPS for name in ("rubicall", "rubicall-fp", "taiyaki-mgru", "bonito-crf")}
# What stays as it is, with the Decision that says so: networks that come with quantisers keep them.
KEPT = {(name, "quantize"): "RUB-SHRINK-D12" for name in ("qabas", "rubicall")}


@dataclass(frozen=True)
class Model:
    """A tiny network as the file that verbs read, and what it can learn from."""

    path: Path
    graph: Graph
    data: str
    teacher: Path | None


@dataclass(frozen=True)
class Verb:
    """One row of the matrix.

    Attributes:
        call: (model, out) -> result, in this process.
        words: the same as a command, without model and output.
        holds: asserts what the verb is for: (graph before, graph after, report).
    """

    call: Callable[[Model, Path], Any]
    words: tuple[str, ...]
    holds: Callable[[Graph, Graph, ChangeReport], None]


def trained(before: Graph, after: Graph, report: ChangeReport) -> None:
    assert "2 steps" in report.headline
    assert share(report, "MACs") == 1


def clipped(before: Graph, after: Graph, report: ChangeReport) -> None:
    """All skips went, with every weight that only they had."""
    found = residuals(cleaned(before)).found
    assert found and not residuals(after).found
    figure, weights = report.figure("parameters"), sum(one.weights for one in found)
    assert figure is not None
    # Untrained norms of skip and branch are equal tensors, stored once: those stay.
    assert 0.8 * weights <= figure.before - figure.after <= weights
    assert (share(report, "MACs") < 1) == (weights > 0)


def cut(before: Graph, after: Graph, report: ChangeReport) -> None:
    # Half of the channels: the first layer keeps its input, the last one its output.
    assert share(report, "MACs") <= 0.51
    assert share(report, "parameters") < 0.75 and share(report, "bytes of weights") < 0.75


def zeroed(before: Graph, after: Graph, report: ChangeReport) -> None:
    found = masks(after)
    assert len(found) >= 4
    kept = sum(int(mask.sum()) for mask in found.values()) / sum(mask.size for mask in found.values())
    assert kept == pytest.approx(0.5, abs=0.01)


def quantised(before: Graph, after: Graph, report: ChangeReport) -> None:
    assert share(report, "bytes of weights") < 0.25 and share(report, "BOPs") < 1
    assert sum(is_quantiser(node) for node in after.all_nodes()) >= 4


def share(report: ChangeReport, what: str) -> float:
    """What is left of a figure."""
    figure = report.figure(what)
    assert figure is not None and figure.before and figure.after is not None
    return figure.after / figure.before


def train_call(model: Model, out: Path) -> Any:
    return api.train(model.path, out=out, settings=SHORT, data=[model.data], teacher=model.teacher)


def verb_call(verb: Callable[..., Any], settings: Any) -> Callable[[Model, Path], Any]:
    return lambda model, out: verb(model.path, out=out, settings=settings)


VERBS = {
    "train": Verb(train_call, ("train",), trained),
    "skipclip": Verb(verb_call(api.skipclip, SkipSettings()), ("skipclip", "--epochs", "0"), clipped),
    "prune channels": Verb(
        verb_call(api.prune, PruneSettings(channels=ChannelOptions(ratio=0.5))),
        ("prune", "--macs", "50%"),
        cut,
    ),
    "prune weights": Verb(
        verb_call(api.prune, PruneSettings(channels=None, weights=WeightOptions(sparsity=0.5))),
        ("prune", "--sparsity", "50%"),
        zeroed,
    ),
    "quantize": Verb(
        verb_call(api.quantize, QuantizeSettings(bits=4)), ("quantize", "--bits", "4"), quantised
    ),
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Model]:
    """Tiny networks by name, each lowered once."""
    home = tmp_path_factory.mktemp("matrix")
    made: dict[str, Model] = {}

    def make(name: str) -> Model:
        if name not in made:
            graph, path = net(name).raw, home / f"{name}.onnx"
            save_graph(graph, path)
            calls = graph.meta is not None and graph.meta.task == "basecalling"
            data = "simulated" if calls else str(rows_of(graph, home / f"{name}.npz"))
            made[name] = Model(
                path, graph, data, None if calls else teacher_of(graph, home / f"{name}-t.onnx")
            )
        return made[name]

    return make


def rows_of(graph: Graph, path: Path) -> Path:
    """Token rows, as networks that call nothing learn from."""
    one = feeds(graph, batch=ROWS)
    np.savez(path, **one)
    return path


def teacher_of(graph: Graph, path: Path) -> Path:
    """The same network with rounded weights: there is something to learn from it."""
    save_graph(graph, path)
    made = api.quantize(path, out=path.with_suffix(""), settings=QuantizeSettings(bits=3))
    assert made is not None
    return made.path


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("name", registry.names())
def test_cell(name: str, verb: str, models: Callable[[str], Model], tmp_path: Path) -> None:
    model, out = models(name), tmp_path / "out"
    if (name, verb) in REFUSED:
        code, why = REFUSED[name, verb]
        with pytest.raises(RubiccError, match=why) as caught:
            VERBS[verb].call(model, out)
        assert caught.value.code == code and not list(tmp_path.iterdir())
        return
    made = VERBS[verb].call(model, out)
    check(name, verb, model.graph, made.report, made.path)


def check(name: str, verb: str, before: Graph, report: ChangeReport, out: Path) -> None:
    """The folder is a MODEL, computes something else of the same form, and costs what it shall."""
    after = read_model(out).graph
    assert after is not None
    given = feeds(before)
    was, now = execute(before, given), execute(after, given)
    assert was.keys() == now.keys()
    if (name, verb) in KEPT:
        assert KEPT[name, verb] in {one.code for one in report.decisions}
        assert all(np.array_equal(now[key], was[key]) for key in was)
        return
    moved = [gap(now[key], was[key]) for key in was]
    assert 1e-4 < max(moved) < 1e3, "it is another function"
    VERBS[verb].holds(before, after, report)


@pytest.mark.slow
@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("name", registry.names())
def test_cell_of_a_checkpoint(
    name: str, verb: str, models: Callable[[str], Model], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same cells by command, from the form in which the zoo saves its networks."""
    entry, config, model = registry.get(name), small_config(name), models(name)
    checkpoint.save(tmp_path / "model.pt", entry.build(config, seed=0), entry.meta(config))
    head, *words = VERBS[verb].words
    if verb == "train":
        words = ["--data", model.data, "--steps", "2", "--batch", "1", "--chunk", "90", "--warmup", "1"]
        words += ["--validation-items", "1", *(["--teacher", str(model.teacher)] if model.teacher else [])]
    out = tmp_path / "out"
    status = main([head, str(tmp_path / "model.pt"), "-o", str(out), *words, "--format", "json"])
    told = json.loads(capsys.readouterr().out)
    if (name, verb) in REFUSED:
        assert status == 2 and told["error"]["code"] == REFUSED[name, verb][0] and not out.exists()
        return
    assert status == 0
    again, graph = read_model(out / "checkpoint.pt").graph, read_model(out).graph
    if again is None:
        assert verb == "train", "its network is still one of the zoo"
    else:
        given = feeds(model.graph)
        assert graph is not None
        found, wanted = execute(again, given), execute(graph, given)
        assert all(np.array_equal(found[key], wanted[key]) for key in wanted)
    check(name, verb, model.graph, change.read(out), out)


def test_no_cell_is_left_out() -> None:
    """Exceptions name cells that exist, and the page names each."""
    said = {key: code for key, (code, _) in REFUSED.items()} | KEPT
    assert set(said) <= {(name, verb) for name in registry.names() for verb in VERBS}
    page = (ROOT / "docs" / "shrink_matrix.md").read_text("utf-8")
    table = [line for line in page.partition("## ")[0].splitlines() if line.startswith("| `")]
    for name in registry.names():
        (row,) = (line for line in table if line.startswith(f"| `{name}` |"))
        codes = {code for (network, _), code in said.items() if network == name}
        assert codes == {code for code in said.values() if code in row}, row
