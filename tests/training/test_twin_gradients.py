"""Gradients of the twin are those of the module its graph came from, or of the definition."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
from onnx import helper
from torch import Tensor

from rubicc.ir.executor import execute
from rubicc.ir.graph import Graph, source_of
from rubicc.training.twin import Twin
from tests.training.test_twin import graph_of
from tests.training.twin_zoo import FLOAT, feeds, gap, net, tensors


def pull(got: torch.Tensor) -> torch.Tensor:
    """A scalar every element of ``got`` counts in."""
    factors = np.random.default_rng(1).standard_normal(tuple(got.shape))
    return (got * torch.from_numpy(factors).to(got.dtype)).sum()


@pytest.mark.parametrize("mode", ["eval", "train"])
@pytest.mark.parametrize("name", FLOAT)
def test_gradients_are_the_source_modules(name: str, mode: str) -> None:
    made = net(name)
    module = made.fresh().double().train(mode == "train")
    twin = Twin(made.raw, dtype=torch.float64).train(mode == "train")
    given = tensors(feeds(made.raw), torch.float64)
    pull(module(*given.values())).backward()
    if mode == "eval":
        twin(given)  # the second call runs the plan
    pull(next(iter(twin(given).values()))).backward()
    found = {tensor: name for name, tensor in twin.names.items()}
    parameters = dict(module.named_parameters())
    assert set(parameters) == {
        tensor for name, tensor in twin.names.items() if name in dict(twin.named_parameters())
    }
    for key, parameter in parameters.items():
        gradient = twin.get_parameter(found[key]).grad
        assert parameter.grad is not None
        # epsilons and scales of the graph are float32 numbers, hence not 1e-12
        assert gap(gradient, parameter.grad) <= 2e-7, key
    if mode == "train":
        for key, buffer in module.named_buffers():
            if key in found:
                assert gap(twin.get_buffer(found[key]), buffer) <= 1e-7, key
    module.float()


@pytest.mark.parametrize("name", ["qabas", pytest.param("rubicall", marks=pytest.mark.slow)])
def test_gradients_are_those_of_brevitas(name: str) -> None:
    """Brevitas takes a weight's scale from its largest element, which alone gets that gradient too."""
    made = net(name)
    module, twin = made.fresh(), Twin(made.raw, learned_scales=True).eval()
    given = tensors(feeds(made.raw))
    want, got = module(*given.values()), next(iter(twin(given).values()))
    assert gap(got, want.detach()) <= 1e-5
    pull(want).backward()
    pull(got).backward()
    found = {tensor: name for name, tensor in twin.names.items()}
    compared = 0
    for key, parameter in module.named_parameters():
        if "scaling_impl" in key:
            continue
        assert parameter.grad is not None
        difference = (twin.get_parameter(found[key]).grad - parameter.grad).abs() / parameter.grad.abs().max()
        if key.endswith("weight") and parameter.ndim == 3:
            difference[parameter.abs() == parameter.abs().max()] = 0.0
        assert float(difference.max()) <= 2e-3, key
        compared += parameter.numel()
    assert compared > 2500


def test_learned_scales_are_brevitas_but_for_their_rate() -> None:
    made = net("qabas")
    module, twin = made.fresh(), Twin(made.raw, learned_scales=True).eval()
    given = tensors(feeds(made.raw))
    pull(module(*given.values())).backward()
    pull(next(iter(twin(given).values()))).backward()
    found = {tensor: name for name, tensor in twin.names.items()}
    parts = dict(module.named_modules())
    compared = 0
    for node in made.raw.nodes:
        part = parts.get(source_of(node).removesuffix(".act_quant.export_handler"))
        if node.op_type != "Quant" or part is None or not hasattr(part, "act_quant"):
            continue
        elements, top = _served(twin, node, given)
        if top > 255:  # of 16 bits, float32 leaves nothing of the small difference a gradient is
            continue
        name = next(v.name for v in twin._graph.nodes[made.raw.nodes.index(node)].inputs[1:2])
        gradient = twin.get_parameter(found[name]).grad
        theirs = part.act_quant.fused_activation_quant_proxy.tensor_quant.scaling_impl.value
        levels = float(part.act_quant.scale().abs() / theirs.abs())  # one level in terms of their threshold
        ratio = float(gradient / (theirs.grad / levels))
        assert 0 < ratio < 1
        assert abs(ratio * np.sqrt(elements * top) - 1) < 2e-2
        compared += 1
    assert compared >= 3


def _served(twin: Twin, node: ir.Node, given: dict[str, Tensor]) -> tuple[int, float]:
    """Elements of one sequence that a quantiser rounds, and its largest level."""
    bits = float(node.inputs[3].const_value.numpy())
    signed = node.attributes["signed"].value
    twin.keep({node.outputs[0].name})
    count = twin(given)[node.outputs[0].name][0].numel()
    twin.keep(())
    return count, 2.0 ** (bits - signed) - 1


RNN_FORMS: list[tuple[str, dict[str, Any]]] = [
    ("GRU", {"linear_before_reset": 1}),
    ("GRU", {"linear_before_reset": 0}),
    ("GRU", {"linear_before_reset": 1, "direction": "bidirectional"}),
    ("GRU", {"direction": "reverse"}),
    ("GRU", {"linear_before_reset": 1, "direction": "reverse"}),
    ("LSTM", {}),
    ("LSTM", {"direction": "reverse"}),
    ("LSTM", {"direction": "bidirectional"}),
    ("LSTM", {"peepholes": True}),
    ("LSTM", {"peepholes": True, "direction": "bidirectional"}),
    ("LSTM", {"activations": ["HardSigmoid", "Softsign", "Tanh"]}),
    ("RNN", {}),
    ("RNN", {"activations": ["Relu"]}),
    ("RNN", {"direction": "bidirectional", "activations": ["Tanh", "Softplus"]}),
]


def recurrent(kind: str, attributes: dict[str, Any], lengths: list[int] | None) -> Graph:
    """One recurrent node of 3 inputs and 4 units with initial states; all outputs."""
    attributes = dict(attributes)
    rng, gates = np.random.default_rng(0), {"GRU": 3, "LSTM": 4, "RNN": 1}[kind]
    both = 2 if attributes.get("direction") == "bidirectional" else 1

    def draw(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape).astype(np.float32) * 0.5

    weights = {"w": draw(both, 4 * gates, 3), "r": draw(both, 4 * gates, 4), "b": draw(both, 8 * gates)}
    names = ["x", "w", "r", "b", "lengths" if lengths else "", "h"]
    outputs = {"y": ["T", both, "N", 4], "yh": [both, "N", 4]}
    if kind == "LSTM":
        names.append("c")
        outputs["yc"] = [both, "N", 4]
    if attributes.pop("peepholes", False):
        weights["p"] = draw(both, 12)
        names.append("p")
    if lengths:
        weights["lengths"] = np.array(lengths, np.int32)
    inputs = {"x": ["T", "N", 3], **{n: [both, "N", 4] for n in ("h", "c") if n in names}}
    node = helper.make_node(kind, names, list(outputs), name="cell", hidden_size=4, **attributes)
    return graph_of([node], inputs, outputs, weights)


@pytest.mark.parametrize("lengths", [None, [5, 3, 0]], ids=["full", "lengths"])
@pytest.mark.parametrize(("kind", "attributes"), RNN_FORMS, ids=str)
def test_recurrent_forms(kind: str, attributes: dict[str, Any], lengths: list[int] | None) -> None:
    """Values are the executor's; slopes are its differences, for inputs, states and weights."""
    graph = recurrent(kind, attributes, lengths)
    rng = np.random.default_rng(3)
    given = {
        v.name: rng.standard_normal([{"T": 5, "N": 3}.get(str(d), d) for d in map(_plain, v.shape)])
        for v in graph.inputs
    }
    twin = Twin(graph, dtype=torch.float64)
    feed = {name: torch.from_numpy(array).requires_grad_() for name, array in given.items()}
    want = execute(graph, {n: a.astype(np.float32) for n, a in given.items()}, dtype=np.dtype(np.float64))
    rounded = {n: torch.from_numpy(a.astype(np.float32).astype(np.float64)) for n, a in given.items()}
    for key, array in twin(rounded).items():
        assert gap(array, want[key]) <= 1e-12
    sum(pull(out) for out in twin(feed).values()).backward()
    for tensor in (*feed.values(), *twin.parameters()):
        direction = torch.from_numpy(rng.standard_normal(tuple(tensor.shape)))
        step, ends = 1e-5, []
        for sign in (1, -1):
            with torch.no_grad():
                tensor += sign * step * direction
                ends.append(float(sum(pull(out) for out in twin(feed).values())))
                tensor -= sign * step * direction
        slope = (ends[0] - ends[1]) / (2 * step)
        assert abs(float((tensor.grad * direction).sum()) - slope) <= 1e-6 * max(1.0, abs(slope))


def _plain(dim: Any) -> Any:
    return dim if isinstance(dim, int) else dim.value


@pytest.mark.parametrize("name", ["taiyaki-mgru", "bonito-ctc"])
def test_gradients_of_gradients(name: str) -> None:
    """A Hessian product is the difference of two gradients."""
    graph = net(name).raw
    twin = Twin(graph, dtype=torch.float64, second_order=True).eval()
    given = tensors(feeds(graph, batch=1, length=40))
    weights = [p for p in twin.parameters() if p.ndim > 1]
    rng = np.random.default_rng(4)
    along = [torch.from_numpy(rng.standard_normal(tuple(p.shape))) for p in weights]

    def slopes(**options: bool) -> tuple[Tensor, ...]:
        loss = next(iter(twin(given).values())).square().mean()
        return torch.autograd.grad(loss, weights, **options)

    first = slopes(create_graph=True)
    product = torch.autograd.grad(sum((a * g).sum() for a, g in zip(along, first, strict=True)), weights)
    ends = []
    for sign in (1, -1):
        with torch.no_grad():
            for weight, direction in zip(weights, along, strict=True):
                weight += sign * 1e-6 * direction
        ends.append(slopes())
        with torch.no_grad():
            for weight, direction in zip(weights, along, strict=True):
                weight -= sign * 1e-6 * direction
    for got, plus, minus in zip(product, *ends, strict=True):
        assert gap(got, (plus - minus) / 2e-6) <= 1e-4


@pytest.mark.parametrize(("rows", "per", "groups"), [(6, 1, 6), (4, 1, 2), (16, 8, 2), (6, 3, 2)])
@pytest.mark.parametrize("pads", [(0, 0), (15, 15), (40, 3), (-2, 20)])
def test_long_grouped_convolutions(rows: int, per: int, groups: int, pads: tuple[int, int]) -> None:
    """Written as phases on CPUs: values are the executor's, gradients those of torch's own convolution."""
    rng = np.random.default_rng(rows)
    weights = {"w": rng.standard_normal((rows, per, 33)), "b": rng.standard_normal(rows)}
    weights = {name: array.astype(np.float32) for name, array in weights.items()}
    node = helper.make_node("Conv", ["x", "w", "b"], ["y"], group=groups, pads=pads)
    channels = per * groups
    graph = graph_of([node], {"x": ["N", channels, "T"]}, {"y": ["N", rows, "U"]}, weights)
    twin = Twin(graph, dtype=torch.float64)
    for length in (40, 57, 64):
        x = rng.standard_normal((2, channels, length)).astype(np.float32)
        feed = torch.from_numpy(x.astype(np.float64)).requires_grad_()
        plain = feed.detach().clone().requires_grad_()
        got = twin({"x": feed})["y"]
        assert gap(got, execute(graph, {"x": x}, dtype=np.dtype(np.float64))["y"]) <= 1e-12
        own = [torch.from_numpy(weights[n].astype(np.float64)).requires_grad_() for n in ("w", "b")]
        want = torch.nn.functional.conv1d(torch.nn.functional.pad(plain, pads), *own, groups=groups)
        twin.zero_grad()
        pull(got).backward()
        pull(want).backward()
        assert gap(feed.grad, plain.grad) <= 1e-12
        for name, tensor in zip(("w", "b"), own, strict=True):
            assert gap(twin.get_parameter(name).grad, tensor.grad) <= 1e-12


def test_rounding_passes_its_gradient() -> None:
    """Round, Floor and Ceil of an expanded quantiser would otherwise end every gradient."""
    for kind in ("Round", "Floor", "Ceil"):
        nodes = [helper.make_node("Mul", ["x", "w"], ["a"]), helper.make_node(kind, ["a"], ["y"])]
        twin = Twin(graph_of(nodes, {"x": ["N", 3]}, {"y": ["N", 3]}, {"w": np.float32([1.2, -0.7, 0.4])}))
        x = torch.tensor([[1.0, 2.0, 3.0]])
        twin({"x": x})["y"].sum().backward()
        assert torch.equal(twin.get_parameter("w").grad, x[0])


def test_an_overwritten_input_is_one_nobody_needs() -> None:
    """Relu works in place behind a convolution; not where the value is read again, kept or an output."""
    rng = np.random.default_rng(0)
    weights = {"w": rng.standard_normal((2, 1, 3)).astype(np.float32)}
    conv = helper.make_node("Conv", ["x", "w"], ["a"], pads=[1, 1])
    relu = helper.make_node("Relu", ["a"], ["r"])
    again = helper.make_node("Sub", ["a", "r"], ["y"])
    shapes = {"x": ["N", 1, "T"]}, {"y": ["N", 2, "T"]}
    x = torch.from_numpy(rng.standard_normal((1, 1, 9)).astype(np.float32))
    twin = Twin(graph_of([conv, relu, again], *shapes, weights))
    for _ in range(2):
        assert (
            float(twin({"x": x})["y"].detach().max()) == 0.0 and float(twin({"x": x})["y"].detach().min()) < 0
        )
    single = graph_of([conv, relu], {"x": ["N", 1, "T"]}, {"r": ["N", 2, "T"]}, weights)
    twin = Twin(single)
    assert float(twin({"x": x})["r"].detach().min()) == 0.0
    twin.keep({"a"})
    assert float(twin({"x": x})["a"].detach().min()) < 0
