"""The twin computes what the graph computes, and gives the graph back."""

from __future__ import annotations

import copy

import numpy as np
import onnx_ir as ir
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from rubicc.errors import Unsupported, UsageError, VerificationFailed
from rubicc.ir.executor import execute
from rubicc.ir.graph import Graph
from rubicc.ir.ops import KERNELS
from rubicc.training.ops import BUILDERS
from rubicc.training.twin import Twin
from tests.ir.op_cases import CASES, Case
from tests.training.twin_zoo import FLOAT, feeds, gap, net, tensors

ALL = (*FLOAT, "qabas", pytest.param("rubicall", marks=pytest.mark.slow))  # all of rubicall is in qabas
FROM_DATA = ("Range", "ConstantOfShape", "NonZero")  # shapes that hang on data
INTEGER = ("ConvInteger", "MatMulInteger", "DynamicQuantizeLinear")  # no gradient passes


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("form", ["raw", "cleaned"])
def test_forward_is_the_executors(name: str, form: str) -> None:
    graph = getattr(net(name), form)
    exact, single = Twin(graph, dtype=torch.float64).eval(), Twin(graph).eval()
    for length in (60, 87, 60):  # planned, planned anew, from the plan
        given = feeds(graph, length=length, seed=length)
        want = execute(graph, given, dtype=np.dtype(np.float64))
        got = exact(tensors(given))
        assert list(got) == list(want)
        for key in want:
            assert gap(got[key], want[key]) <= 1e-9
            assert want[key].std() > 1e-3
        if name in FLOAT:
            for key, array in execute(graph, given).items():
                assert gap(single(tensors(given))[key], array) <= 1e-5


def test_forward_of_a_whole_network(lowered_zoo) -> None:
    graph = lowered_zoo("demo-ctc")
    given = feeds(graph, batch=2, length=300)
    got = Twin(graph, dtype=torch.float64).eval()(tensors(given))
    assert gap(got["y"], execute(graph, given, dtype=np.dtype(np.float64))["y"]) <= 1e-9


@pytest.mark.parametrize("case", [c for c in CASES if c.op not in (*FROM_DATA, *INTEGER)], ids=str)
def test_every_operator(case: Case) -> None:
    graph = Graph.from_proto(case.model())
    twin = Twin(graph, dtype=torch.float64).eval()
    want = execute(graph, case.feeds(), dtype=np.dtype(np.float64))
    given = {name: torch.from_numpy(np.array(array)) for name, array in case.feeds().items()}
    for got in (twin(given), twin(given)):
        for key, array in want.items():
            np.testing.assert_allclose(got[key].detach().numpy(), array, rtol=1e-9, atol=1e-9, strict=False)
            assert got[key].shape == array.shape


def test_every_kernel_is_trained_or_refused_by_name() -> None:
    nested = {"If", "Loop", "Scan"}
    # what hangs on shapes alone needs no torch form: the plan settles it
    settled = {"Constant", "Shape", "Size", *FROM_DATA}
    trained = {key.rpartition("::")[2] for key in BUILDERS if not key.startswith("rubicc::")}
    assert {name for _, name in KERNELS} - trained == nested | settled | set(INTEGER)


def graph_of(nodes: list, inputs: dict, outputs: dict, weights: dict, **more: object) -> Graph:
    """A float graph from parts; shapes by name."""
    kinds = more.get("kinds", {})
    proto = helper.make_model(
        helper.make_graph(
            nodes,
            "g",
            [helper.make_tensor_value_info(n, kinds.get(n, TensorProto.FLOAT), s) for n, s in inputs.items()],
            [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in outputs.items()],
            [numpy_helper.from_array(np.asarray(a), n) for n, a in weights.items()],
        ),
        opset_imports=[helper.make_opsetid("", 20)],
    )
    return Graph.from_proto(proto)


def small(seed: int = 0) -> Graph:
    """Convolution, norm, Relu, dropout, product; one bias of zeros shared by two convolutions."""
    rng = np.random.default_rng(seed)

    def draw(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape).astype(np.float32)

    nodes = [
        helper.make_node("Conv", ["x", "w1", "zero"], ["a"], name="first", pads=[1, 1]),
        helper.make_node("BatchNormalization", ["a", "g", "b", "m", "v"], ["n"], name="norm", momentum=0.8),
        helper.make_node("Relu", ["n"], ["r"], name="relu"),
        helper.make_node("Dropout", ["r", "ratio"], ["d"], name="drop"),
        helper.make_node("Conv", ["d", "w2", "zero"], ["y"], name="second", pads=[1, 1]),
    ]
    weights = {
        "w1": draw(4, 1, 3),
        "w2": draw(4, 4, 3),
        "zero": np.zeros(4, np.float32),
        "g": draw(4),
        "b": draw(4),
        "m": draw(4),
        "v": np.abs(draw(4)) + 0.5,
        "ratio": np.float32(0.5),
    }
    return graph_of(nodes, {"x": ["N", 1, "T"]}, {"y": ["N", 4, "T"]}, weights)


def trained(graph: Graph, steps: int = 3, **options: object) -> Twin:
    """A twin after some steps of gradient descent on noise."""
    torch.manual_seed(0)
    twin = Twin(graph, **options).train()
    optimiser = torch.optim.SGD(twin.parameters(), lr=0.05)
    given = tensors(feeds(graph))
    for _ in range(steps):
        optimiser.zero_grad()
        next(iter(twin(given).values())).square().mean().backward()
        torch.nn.utils.clip_grad_norm_(twin.parameters(), 1.0)
        optimiser.step()
    return twin.eval()


@pytest.mark.parametrize("name", ALL)
def test_an_untouched_twin_gives_the_same_bytes(name: str) -> None:
    for graph in (net(name).raw, net(name).cleaned):
        twin = Twin(graph, learned_scales=True).eval()
        twin(tensors(feeds(graph)))
        assert twin.write_back().to_proto().SerializeToString() == graph.to_proto().SerializeToString()


@pytest.mark.parametrize("name", [*FLOAT, "qabas"])
def test_a_trained_twin_is_the_graph_it_writes(name: str) -> None:
    graph = net(name).raw
    before = graph.to_proto().SerializeToString()
    twin = trained(graph)
    written = twin.write_back()
    assert graph.to_proto().SerializeToString() == before, "the source graph is not touched"
    given = feeds(graph, seed=5)
    want = execute(written, given, dtype=np.dtype(np.float64))
    got = twin.double()(tensors(given))
    for key in want:
        assert gap(got[key], want[key]) <= 1e-9
        assert gap(want[key], execute(graph, given)[key]) > 1e-3, "training has changed something"
    again = Twin(written, dtype=torch.float64).eval()(tensors(given))
    assert gap(again[key], want[key]) <= 1e-9


def test_equal_tensors_of_two_modules_are_trained_apart() -> None:
    graph = small()
    twin = Twin(graph)
    assert sorted(twin.names.values()) == ["b", "g", "m", "second.zero", "v", "w1", "w2", "zero"]
    assert [d.code for d in twin.decisions] == ["RUB-TRAIN-D01"]
    name = next(m for m, n in twin.names.items() if n == "second.zero")
    with torch.no_grad():
        twin.get_parameter(name).add_(1.0)
    written = twin.write_back()
    assert [v.name for v in written.nodes[4].inputs] == ["d", "w2", "second.zero"]
    assert [v.name for v in written.nodes[0].inputs] == ["x", "w1", "zero"]
    given = feeds(graph)
    assert gap(execute(written, given)["y"], execute(graph, given)["y"] + 1.0) < 1e-6


def test_a_tensor_shared_on_purpose_stays_shared() -> None:
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"], name="one"),
        helper.make_node("Tanh", ["a"], ["t"], name="tanh"),
        helper.make_node("MatMul", ["t", "w"], ["y"], name="two"),
    ]
    weights = {"w": rng.standard_normal((4, 4)).astype(np.float32)}
    twin = Twin(graph_of(nodes, {"x": ["N", 4]}, {"y": ["N", 4]}, weights))
    assert list(twin.names.values()) == ["w"]
    assert not twin.decisions


def test_train_mode_uses_and_moves_batch_statistics() -> None:
    graph = small()
    twin = Twin(graph, trainable=lambda name: name != "v").train()
    assert "v" not in twin.names.values()
    x = torch.from_numpy(feeds(graph)["x"])
    eager = Twin(graph).train()
    eager({"x": x})
    conv = torch.nn.functional.conv1d(
        x, torch.from_numpy(np.array(graph.ir.initializers["w1"].const_value)), padding=1
    )
    mean = 0.8 * np.array(graph.ir.initializers["m"].const_value) + 0.2 * conv.mean((0, 2)).numpy()
    np.testing.assert_allclose(eager.get_buffer("m").numpy(), mean, rtol=1e-5, atol=1e-6)
    variance = 0.8 * np.array(graph.ir.initializers["v"].const_value) + 0.2 * conv.var((0, 2)).numpy()
    np.testing.assert_allclose(eager.get_buffer("v").numpy(), variance, rtol=1e-5)
    twin({"x": x})  # statistics that may not move are used as they are
    np.testing.assert_array_equal(
        twin.get_buffer("m").numpy(), graph.ir.initializers["m"].const_value.numpy()
    )
    written = eager.write_back()
    np.testing.assert_array_equal(
        written.ir.initializers["m"].const_value.numpy(), eager.get_buffer("m").numpy()
    )


def test_dropout_acts_in_train_mode_only() -> None:
    graph = small()
    twin = Twin(graph)
    twin.keep({"r", "d"})
    x = {"x": torch.from_numpy(feeds(graph, batch=8, length=400)["x"])}
    out = twin.train()(x)
    alive = out["r"] > 0
    dropped = (out["d"] == 0)[alive].float().mean()
    assert 0.45 < float(dropped) < 0.55
    kept = alive & (out["d"] != 0)
    assert torch.equal(out["d"][kept], out["r"][kept] * 2)
    out = twin.eval()(x)
    assert torch.equal(out["d"], out["r"])


@pytest.mark.parametrize("name", ["demo-ctc", "bonito-crf", "dna-bert"])
def test_kept_values_are_the_executors(name: str) -> None:
    graph = net(name).cleaned
    twin = Twin(graph, dtype=torch.float64).eval()
    given = feeds(graph)
    twin(tensors(given))
    names = [v.name for node in graph.nodes for v in node.outputs if v.dtype == ir.DataType.FLOAT]
    twin.keep(names)
    got = twin(tensors(given))
    want = execute(graph, given, dtype=np.dtype(np.float64), keep=names)
    assert set(got) == set(want)
    assert max(gap(got[key], want[key]) for key in want if np.isfinite(want[key]).all()) <= 1e-9
    twin.keep(())
    assert set(twin(tensors(given))) == {v.name for v in graph.outputs}


def test_what_may_not_be_trained_is_folded() -> None:
    graph = net("qabas").raw
    head = Twin(graph, trainable=lambda name: name.startswith("head."))
    assert set(head.names.values()) == {"head.weight", "head.bias"}
    given = tensors(feeds(graph))
    assert gap(head.eval()(given)["y"], Twin(graph).eval()(given)["y"]) == 0.0
    head(given)["y"].sum().backward()
    assert all(p.grad is not None for p in head.parameters())


def test_copies_are_independent() -> None:
    graph = small()
    twin = Twin(graph).eval()
    twin.keep({"r"})
    other = copy.deepcopy(twin)
    given = tensors(feeds(graph))
    assert set(other(given)) == {"r", "y"}
    with torch.no_grad():
        other.get_parameter("w1").mul_(2)
    assert not torch.equal(other(given)["y"], twin(given)["y"])
    other.load_state_dict(twin.state_dict())
    assert torch.equal(other(given)["y"], twin(given)["y"])


def test_weights_may_be_swapped_for_a_call() -> None:
    twin = Twin(small()).eval()
    given = tensors(feeds(twin.source))
    zeros = {name: torch.zeros_like(p) for name, p in twin.named_parameters()}
    out = torch.func.functional_call(twin, zeros, (given,))
    assert float(out["y"].detach().abs().max()) == 0.0
    assert float(twin(given)["y"].detach().abs().max()) > 0.1


@pytest.mark.parametrize("name", ["demo-ctc", "taiyaki-mgru", "bonito-crf", "dna-bert", "qabas"])
def test_half_precision_around_the_call(name: str) -> None:
    graph = net(name).raw
    twin = Twin(graph).eval()
    given = tensors(feeds(graph))
    want = next(iter(twin(given).values()))
    with torch.autocast("cpu", torch.bfloat16):
        got = next(iter(twin(given).values()))
    assert gap(got.float(), want) < (0.25 if name == "qabas" else 0.06)
    got.float().square().mean().backward()
    assert all(p.grad is not None and bool(torch.isfinite(p.grad).all()) for p in twin.parameters())


@pytest.mark.parametrize("name", ["taiyaki-mgru", "bonito-crf", "dna-bert"])
def test_a_plan_made_without_gradients_serves_with_them(name: str) -> None:
    graph = net(name).raw
    twin = Twin(graph).eval()
    given = tensors(feeds(graph))
    with torch.inference_mode():
        want = next(iter(twin(given).values()))
    got = next(iter(twin(given).values()))
    got.square().mean().backward()
    assert gap(got, want) <= 1e-5
    assert all(p.grad is not None for p in twin.parameters())


def loops() -> Graph:
    """A Scan and an If."""
    body = helper.make_graph(
        [helper.make_node("Add", ["s", "e"], ["t"]), helper.make_node("Identity", ["t"], ["o"])],
        "body",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, [2]) for n in ("s", "e")],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, [2]) for n in ("t", "o")],
    )
    nodes = [
        helper.make_node("Scan", ["zero", "x"], ["last", "y"], name="scan", body=body, num_scan_inputs=1)
    ]
    return graph_of(nodes, {"x": [5, 2]}, {"y": [5, 2]}, {"zero": np.zeros(2, np.float32)})


def test_loops_are_refused_by_name() -> None:
    with pytest.raises(Unsupported, match="Scan") as caught:
        Twin(loops())
    assert caught.value.code == "RUB-TRAIN-001"
    assert caught.value.findings == (("Scan", "scan"),)


@pytest.mark.parametrize("op", [*FROM_DATA, *INTEGER])
def test_what_no_plan_or_gradient_can_hold_is_refused(op: str) -> None:
    case = next(c for c in CASES if c.op == op)
    graph = Graph.from_proto(case.model())
    given = {name: torch.from_numpy(np.array(array)) for name, array in case.feeds().items()}
    with pytest.raises((Unsupported, VerificationFailed), match=op) as caught:
        Twin(graph)(given)
    assert caught.value.code == ("RUB-TRAIN-001" if op in INTEGER else "RUB-TRAIN-002")


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({}, "inputs missing: .'x'."),
        ({"x": torch.zeros(1, 1, 9), "z": torch.zeros(1)}, "unknown: .'z'."),
        ({"x": torch.zeros(1, 2, 9)}, r"\[1, 2, 9\], declared"),
        ({"x": torch.zeros(1, 9)}, r"\[1, 9\], declared"),
        ({"x": torch.zeros(1, 1, 9, dtype=torch.int64)}, "torch.int64"),
    ],
)
def test_feeds_that_do_not_fit(given: dict[str, torch.Tensor], says: str) -> None:
    with pytest.raises(UsageError, match=says) as caught:
        Twin(small())(given)
    assert caught.value.code == "RUB-TRAIN-003"


def test_unknown_values_cannot_be_kept() -> None:
    with pytest.raises(UsageError, match="nowhere") as caught:
        Twin(small()).keep({"nowhere", "r"})
    assert caught.value.code == "RUB-TRAIN-004"


def test_too_short_an_input_names_the_node() -> None:
    nodes = [helper.make_node("Conv", ["x", "w"], ["y"], name="wide")]
    graph = graph_of(nodes, {"x": ["N", 1, "T"]}, {"y": ["N", 1, "U"]}, {"w": np.ones((1, 1, 9), np.float32)})
    with pytest.raises(VerificationFailed, match=r"Conv .* node 'wide'") as caught:
        Twin(graph)({"x": torch.zeros(1, 1, 4)})
    assert caught.value.code == "RUB-TRAIN-002"
