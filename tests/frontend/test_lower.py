"""Lowering: what comes out computes what torch computes, at a length it was not traced at."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from rubicc.errors import ModelRefused, UsageError, VerificationFailed
from rubicc.frontend.feeds import draw, sizes
from rubicc.frontend.lower import Lowered, _worst, lower
from rubicc.frontend.source import Source
from rubicc.ir.executor import execute
from rubicc.ir.graph import SOURCE_KEY
from rubicc.spec import TensorSpec

SIGNAL = (TensorSpec("x", ("N", 1, "T")),)


def lowered(module: nn.Module, inputs: tuple[TensorSpec, ...] = SIGNAL) -> Lowered:
    torch.manual_seed(0)
    return lower(Source("python", "net", "0" * 64, module=module.eval(), inputs=inputs))


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv1d(1, 8, 9, 3, 4)
        self.block = nn.Sequential(nn.Conv1d(8, 8, 5, padding=2, groups=2), nn.BatchNorm1d(8), nn.SiLU())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.stem(x)
        return (y + self.block(y)).permute(2, 0, 1).log_softmax(-1)


class Alternating(nn.Module):
    def __init__(self, cell: type[nn.RNNBase]) -> None:
        super().__init__()
        self.conv = nn.Conv1d(1, 6, 5, 2, 2)
        self.layers = nn.ModuleList(cell(6, 6) for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(x).permute(2, 0, 1)
        for index, layer in enumerate(self.layers):
            y = layer(y.flip(0))[0].flip(0) if index % 2 == 0 else layer(y)[0]
        return y


class Bidirectional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.LSTM(1, 4, num_layers=2, bidirectional=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.rnn(x.permute(2, 0, 1))[0]


@pytest.mark.parametrize(
    "make",
    [Residual, lambda: Alternating(nn.GRU), lambda: Alternating(nn.LSTM), Bidirectional],
    ids=["conv", "gru", "lstm", "bilstm"],
)
def test_equals_torch_at_two_lengths_and_a_third(make: type[nn.Module]) -> None:
    result = lowered(make())
    shapes = result.evidence["shapes"]
    assert shapes[0]["feeds"] != shapes[1]["feeds"]
    assert all(row["relative"] < 1e-5 for shape in shapes for row in shape["outputs"])
    third = {"x": np.random.default_rng(5).standard_normal((1, 1, 97)).astype(np.float32)}
    got = execute(result.graph, third)["y"]
    np.testing.assert_allclose(got, result.reference(third)["y"], atol=1e-5)


def test_batch_and_time_stay_symbolic_and_batchnorm_stays_for_our_passes() -> None:
    graph = lowered(Residual()).graph
    assert [str(dim) for dim in graph.inputs[0].shape or ()] == ["N", "1", "T"]
    assert not isinstance((graph.outputs[0].shape or [0])[0], int)
    assert graph.op_counts()["BatchNormalization"] == 1


def test_every_node_says_its_module_and_nothing_of_this_machine_is_in_the_file() -> None:
    for module in (Residual(), Alternating(nn.GRU)):
        graph = lowered(module).graph
        assert all(node.metadata_props[SOURCE_KEY] for node in graph.all_nodes())
        text = str(graph.to_proto()).replace("\\", "")
        assert "site-packages" not in text and "test_lower" not in text and "/root" not in text
    sources = {n.metadata_props[SOURCE_KEY] for n in lowered(Residual()).graph.nodes}
    assert {"stem", "block.0", "block.1", "Residual"} <= sources


def test_parameters_that_happen_to_be_equal_stay_separate() -> None:
    class Fresh(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norms = nn.Sequential(nn.BatchNorm1d(1), nn.BatchNorm1d(1))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.norms(x)

    graph = lowered(Fresh()).graph
    assert {f"norms.{i}.{kind}" for i in (0, 1) for kind in ("weight", "bias")} <= set(graph.ir.initializers)
    assert "Identity" not in graph.op_counts()


class LengthBaked(nn.Module):
    """Python arithmetic on a length the tracer cannot see."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * float(len(x.flatten().tolist()))


class BranchOnValue(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + 1 if x.flatten()[0].item() > 0 else x * 2


@pytest.mark.parametrize("module", [LengthBaked(), BranchOnValue()])
def test_what_the_tracer_bakes_in_is_caught(module: nn.Module) -> None:
    with pytest.raises(VerificationFailed) as caught:
        lowered(module)
    assert caught.value.code == "RUB-LOW-010" and caught.value.exit_code == 5


def test_a_wrong_weight_in_the_graph_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Mutant: the exporter hands over a graph whose convolution is off in one weight."""
    from rubicc.frontend import export

    honest = export.parameters

    def off_by_one_weight(module: nn.Module) -> dict[str, np.ndarray]:
        found = honest(module)
        found["stem.weight"] = found["stem.weight"].copy()
        found["stem.weight"].reshape(-1)[3] += 0.01
        return found

    monkeypatch.setattr(export, "parameters", off_by_one_weight)
    with pytest.raises(VerificationFailed, match="RUB-LOW-010"):
        lowered(Residual())


def test_quantisers_stay_and_agree_exactly_in_float64() -> None:
    import brevitas.nn as qnn

    class Quantised(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inp = qnn.QuantIdentity(bit_width=16)
            self.conv = qnn.QuantConv1d(1, 8, 9, stride=3, padding=4, bias=False, weight_bit_width=8)
            self.norm = nn.BatchNorm1d(8)
            self.act = qnn.QuantReLU(bit_width=4)
            self.head = qnn.QuantConv1d(8, 5, 1, weight_bit_width=16)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.act(self.norm(self.conv(self.inp(x))))).permute(2, 0, 1)

    torch.manual_seed(1)
    module = Quantised()
    with torch.no_grad():
        module.train()(torch.randn(4, 1, 300))
    result = lowered(module)
    assert result.graph.op_counts()["qonnx.custom_op.general::Quant"] == 4
    assert [shape["precision"] for shape in result.evidence["shapes"]] == ["float64", "float64"]
    assert all(row["max_abs"] < 1e-12 for shape in result.evidence["shapes"] for row in shape["outputs"])


def test_a_quantised_networks_norm_has_the_epsilon_of_its_graph() -> None:
    """A graph holds epsilon in float32; in float64 the difference turns codes over, one in millions."""
    import brevitas.nn as qnn

    class Normed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = qnn.QuantConv1d(1, 8, 9, padding=4, weight_bit_width=8)
            self.norm = nn.BatchNorm1d(8, eps=1e-3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.norm(self.conv(x))

    module = Normed()
    module.norm.running_var.fill_(1e-4)
    found = lowered(module).evidence["shapes"]
    assert all(row["max_abs"] < 1e-12 for shape in found for row in shape["outputs"])


def test_quantised_lstm_is_an_error_and_not_an_empty_graph() -> None:
    import brevitas.nn as qnn

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = qnn.QuantLSTM(1, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.rnn(x.permute(2, 0, 1))[0]

    with pytest.raises(ModelRefused) as caught:
        lowered(Net())
    assert caught.value.code == "RUB-LOW-003" and caught.value.where == "rnn"


def test_an_empty_graph_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    import onnx

    def empty(*args: object, **kwargs: object) -> None:
        args[2].write(onnx.ModelProto(ir_version=9).SerializeToString())  # type: ignore[attr-defined]

    monkeypatch.setattr(torch.onnx, "export", empty)
    with pytest.raises(ModelRefused) as caught:
        lowered(Residual())
    assert caught.value.code == "RUB-LOW-003"


def test_unknown_inputs_and_a_model_that_does_not_run() -> None:
    with pytest.raises(UsageError) as usage:
        lowered(Residual(), ())
    assert usage.value.code == "RUB-LOW-002"
    with pytest.raises(ModelRefused) as refused:
        lowered(Residual(), (TensorSpec("x", ("N", 3, "T")),))
    assert refused.value.code == "RUB-LOW-006"


def test_exported_programs_lower_and_recurrent_ones_with_free_length_are_refused() -> None:
    dims = ({0: torch.export.Dim("N"), 2: torch.export.Dim("T", min=9, max=100000)},)
    program = torch.export.export(Residual().eval(), (torch.randn(2, 1, 300),), dynamic_shapes=dims)
    result = lower(Source("pt2", "program", "0" * 64, program=program, inputs=SIGNAL))
    assert result.evidence["exporter"] == "dynamo"
    recurrent = torch.export.export(
        Alternating(nn.GRU).eval(), (torch.randn(2, 1, 60),), dynamic_shapes=({0: torch.export.Dim("N")},)
    )
    fixed = (TensorSpec("x", ("N", 1, 60)),)
    with pytest.raises(ModelRefused) as caught:
        lower(Source("pt2", "program", "0" * 64, program=recurrent, inputs=fixed))
    assert caught.value.code == "RUB-LOW-004"


class Chunks(nn.Module):
    """chunk inside, and parts of a split as outputs: the dynamo exporter writes sequences for both."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(1, 9, 5, 2, 2)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        gate, value, rest = self.conv(x).chunk(3, 1)
        first, second = torch.split(gate.sigmoid() * value + rest, [1, 2], 1)
        return first, second


def test_splits_of_exported_programs_become_plain_operators() -> None:
    dims = ({0: torch.export.Dim("N"), 2: torch.export.Dim("T", min=9, max=100000)},)
    torch.manual_seed(0)
    program = torch.export.export(Chunks().eval(), (torch.randn(2, 1, 300),), dynamic_shapes=dims)
    result = lower(Source("pt2", "program", "0" * 64, program=program, inputs=SIGNAL))
    assert result.graph.op_counts()["Split"] == 2
    assert not any("Sequence" in op for op in result.graph.op_counts())
    assert [value.name for value in result.graph.outputs] == ["y0", "y1"]


def test_networks_with_few_positions_are_tried_with_shorter_inputs() -> None:
    class Positions(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tokens, self.places = nn.Embedding(7, 4), nn.Parameter(torch.randn(12, 4))

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return self.tokens(ids) + self.places[: ids.shape[1]]

    result = lowered(Positions(), (TensorSpec("ids", ("N", "L"), "int64"),))
    assert [shape["feeds"]["ids"][1] for shape in result.evidence["shapes"]] == [6, 9]


def test_untraceable_modules_go_through_dynamo_with_a_decision(monkeypatch: pytest.MonkeyPatch) -> None:
    from rubicc.frontend import export

    def cannot(*args: object) -> None:
        raise ModelRefused("RUB-LOW-001", "no")

    monkeypatch.setattr(export, "trace", cannot)
    result = lowered(Residual())
    assert result.evidence["exporter"] == "dynamo"
    assert [decision.code for decision in result.decisions] == ["RUB-LOW-D01"]
    with pytest.raises(ModelRefused):
        lowered(Alternating(nn.GRU))


def test_example_feeds_are_seeded_and_masks_differ_by_row() -> None:
    specs = (TensorSpec("ids", ("N", "L"), "int64"), TensorSpec("attention_mask", ("N", "L"), "int64"))
    first, second = (draw(specs, sizes(specs, 1), 7, {"ids": 50}) for _ in range(2))
    assert all(np.array_equal(first[name], second[name]) for name in first)
    assert first["ids"].max() > 40
    assert first["attention_mask"].sum(1).tolist() == [37, 36, 35]


@pytest.mark.parametrize("odd", [np.nan, -np.inf, 0.0])
def test_an_infinity_is_equal_to_itself_only(odd: float) -> None:
    want = np.array([1.0, np.inf, 2.0], np.float32)
    assert _worst(want, want.copy())[1] == 0.0
    assert _worst(want, np.array([1.0, odd, 2.0], np.float32))[1] == np.inf
