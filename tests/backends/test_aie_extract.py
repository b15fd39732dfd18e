"""The integer network read out of integer-only graphs: the same integers everywhere, refusals by table."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rubicc.backends.aie.check import check
from rubicc.backends.aie.extract import Reader, extract
from rubicc.backends.aie.host import Host, from_net, to_net
from rubicc.backends.aie.net import Add, Cell, Conv, Net, Table
from rubicc.backends.aie.numbers import Type
from rubicc.backends.aie.reference import run
from rubicc.backends.base import Finding, Target, refuse
from rubicc.errors import Unsupported
from rubicc.ir.executor import execute
from rubicc.ir.graph import Graph, source_of
from rubicc.passes.integer.bodies import body_of
from rubicc.passes.integer.fit import Options, quantise
from rubicc.passes.integer.legalise import EDGE_KEY, EXPONENT_KEY
from rubicc.passes.integer.recurrence import Recurrence
from rubicc.passes.rewrite import Editor, constant, is_standard

sys.path.insert(0, str(Path(__file__).parents[1] / "passes"))
from integer_graphs import WIDTHS, alternating, nets, signal, small
from pass_graphs import graph
from pass_graphs import node as op


def same_integers(made: Graph, feeds: dict[str, np.ndarray]) -> Net:
    """Every edge of the network against the value of that name in the graph, executed in float64."""
    reader = Reader(made)
    net = reader.read()
    assert reader.findings == []
    axes = {value.name: tensor.axes for value, tensor in reader.known.items()}
    host = Host(made, net)
    values = execute(made, feeds, dtype=np.float64, keep=list(net.edges))
    got = run(net, host.integers(feeds), keep=True)
    assert set(got) == set(net.edges)
    for name, edge in net.edges.items():
        want = to_net(values[name], axes[name])
        np.testing.assert_array_equal(want, values[name].transpose([axes[name].index(a) for a in "NCT"]))
        np.testing.assert_array_equal(got[name], want, err_msg=name)
        assert edge.type.low <= want.min() and want.max() <= edge.type.high
    ends = host.run(feeds)
    for name, want in execute(made, feeds, dtype=np.float64).items():
        np.testing.assert_allclose(ends[name], want, rtol=1e-4, atol=1e-4 * np.abs(want).max())
    return net


@settings(max_examples=40, deadline=None)
@given(made=nets(), widths=WIDTHS, seed=st.integers(0, 99))
def test_random_networks(made: tuple[Graph, int], widths: tuple[int, int], seed: int) -> None:
    net, channels = made
    options = Options(bits=widths[0], weight_bits=widths[1])
    feeds = signal(seed, channels)
    feeds["x"] *= 2
    same_integers(quantise(net, [signal(1, channels)], options).graph, feeds)


def test_what_is_read() -> None:
    net = same_integers(quantise(small(), [signal(0, 3)]).graph, signal(7, 3))
    kinds = [type(layer) for layer in net.layers]
    assert (kinds.count(Conv), kinds.count(Table), kinds.count(Add)) == (5, 2, 1)
    first = net.layers[0]
    assert isinstance(first, Conv) and (first.stride, first.taps, first.pads) == (2, 5, (2, 2))
    assert {layer.source for layer in net.layers} >= {"m.1", "m.2", "m.3"}
    assert [host.what for host in net.host][-1] == "LogSoftmax"
    tables = [layer for layer in net.layers if isinstance(layer, Table)]
    assert [table.function for table in tables] == ["Tanh", "Sigmoid+Mul"]
    for table in tables:
        assert table.lookup.bits == 12 and net.edges[table.inputs[0]].type == Type(16)
    assert net.edges[net.inputs[0]].type.bits == 8 and net.edges[net.outputs[0]].type == Type(16)
    assert net.meta[f"axes:{net.inputs[0]}"] == "NCT" and net.meta[f"axes:{net.outputs[0]}"] == "TNC"


@pytest.mark.parametrize("kind", ["GRU", "LSTM"])
@pytest.mark.parametrize("state_bits", [8, 16])
def test_recurrent_networks(kind: str, state_bits: int) -> None:
    whole = alternating(kind)
    Recurrence().run(whole)
    made = quantise(whole, [signal(0, 2, 4, 90)], Options(state_bits=state_bits)).graph
    net = same_integers(made, signal(3, 2, 3, 70))
    cells = [layer for layer in net.layers if isinstance(layer, Cell)]
    assert [cell.reverse for cell in cells] == [True, False, True]
    assert {cell.operand for cell in cells} == {Type(state_bits)}
    assert not [host for host in net.host if host.what in ("Shape", "Scan")], "zeros are a part of the layer"


def dense() -> Graph:
    """A multilayer perceptron on rows: Gemm both ways round, MatMul."""
    rng = np.random.default_rng(0)
    sizes = [(16, 6), (8, 16), (5, 8)]
    weights = {f"w{i}": rng.normal(size=s).astype(np.float32) for i, s in enumerate(sizes)}
    weights["w1"] = np.ascontiguousarray(weights["w1"].T)
    weights["w2"] = np.ascontiguousarray(weights["w2"].T)
    weights["b0"] = rng.normal(size=16).astype(np.float32)
    nodes = [
        op("Gemm", "x w0 b0", "a", transB=1),
        op("Relu", "a", "b"),
        op("Gemm", "b w1", "c"),
        op("Relu", "c", "d"),
        op("MatMul", "d w2", "y"),
    ]
    return graph(nodes, {"x": ["N", 6]}, {"y": ["N", 5]}, weights)


def test_rows_are_frames() -> None:
    x = {"x": np.random.default_rng(1).normal(size=(20, 6)).astype(np.float32)}
    made = quantise(dense(), [x]).graph
    net = extract(made)
    host = Host(made, net)
    assert net.meta[f"axes:{net.inputs[0]}"] == "TC"
    assert host.integers(x)[net.inputs[0]].shape == (1, 6, 20)
    np.testing.assert_array_equal(host.run(x)["y"], execute(made, x)["y"])
    assert net.macs(20) == 20 * (6 * 16 + 16 * 8 + 8 * 5)


@given(axes=st.permutations("NCT"), gone=st.sets(st.sampled_from("NT"), max_size=1), one=st.integers(0, 3))
def test_layouts_go_both_ways(axes: list[str], gone: set[str], one: int) -> None:
    letters = [letter for letter in axes if letter not in gone]
    letters.insert(min(one, len(letters)), "1")
    sizes = {"N": 2, "C": 3, "T": 5, "1": 1}
    values = np.arange(np.prod([sizes[x] for x in letters])).reshape([sizes[x] for x in letters])
    made = to_net(values, "".join(letters))
    assert made.shape == tuple(1 if x in gone else sizes[x] for x in "NCT")
    np.testing.assert_array_equal(from_net(made, "".join(letters)), values)


ZOO = [
    "demo-ctc",
    "rubicall-fp",
    "bonito-ctc",
    "quartznet",
    "qabas",
    "rubicall",
    "taiyaki-mgru",
    "bonito-crf",
]


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Graph]:
    """Float graphs of the zoo with seeded weights, ready for integers."""
    from rubicc.frontend import checkpoint, read_model
    from rubicc.frontend.lower import lower
    from rubicc.models import registry
    from rubicc.passes.manager import run_pipeline
    from rubicc.passes.pipelines import PIPELINES

    home = tmp_path_factory.mktemp("zoo")

    def make(name: str) -> Graph:
        entry = registry.get(name)
        checkpoint.save(home / f"{name}.pt", entry.build(seed=0), entry.meta())
        made = lower(read_model(home / f"{name}.pt"), (), 0).graph.clone()
        run_pipeline(made, PIPELINES["aie"])
        return made

    return make


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name in ("demo-ctc", "taiyaki-mgru") else [pytest.mark.slow])
        for name in ZOO
    ],
)
def test_zoo(zoo: Callable[[str], Graph], name: str) -> None:
    rng = np.random.default_rng(0)
    made = quantise(zoo(name), [{"x": rng.normal(size=(1, 1, 900)).astype(np.float32)}]).graph
    net = same_integers(made, {"x": rng.normal(size=(2, 1, 400)).astype(np.float32)})
    kinds = {type(layer).__name__ for layer in net.layers}
    wanted = {"taiyaki-mgru": {"Gru"}, "bonito-crf": {"Lstm", "Table"}, "qabas": {"Add"}, "demo-ctc": {"Add"}}
    assert kinds >= {"Conv"} | wanted.get(name, set())
    assert len(net.inputs) == len(net.outputs) == 1


# Refusals: the same small graph with one thing wrong; the graph itself is taken.


def find(made: Graph, *kinds: str) -> ir.Node:
    return next(n for n in made.nodes if is_standard(n, *kinds) and EDGE_KEY not in n.metadata_props)


def number(made: Graph, node: ir.Node, index: int, change: Callable[[np.ndarray], np.ndarray]) -> None:
    old = constant(node.inputs[index])
    assert old is not None
    node.replace_input_with(
        index, Editor(made, "test").initializer("wrong", np.asarray(change(old), old.dtype))
    )


def between(made: Graph, kind: str, at: ir.Value, **attributes: object) -> ir.Node:
    """A node of ``kind`` on ``at``, for everyone who reads it."""
    like = at.producer()
    assert like is not None and like.graph is not None
    edit = Editor(made, "test")
    node = edit.node(kind, [at], like=like, attributes=attributes, shape=at.shape, dtype=ir.DataType.FLOAT)
    like.graph.remove(node)
    like.graph.insert_after(like, node)
    for use in list(at.uses()):
        if use.node is not node:
            use.node.replace_input_with(use.idx, node.outputs[0])
    return node


def last_integers(made: Graph, which: int = 0) -> ir.Value:
    return [n for n in made.nodes if EXPONENT_KEY in n.metadata_props][which].outputs[-1]


def quantiser_bits(made: Graph, bits: float) -> None:
    node = next(n for n in made.nodes if n.op_type == "Quant" and EXPONENT_KEY in n.metadata_props)
    node.replace_input_with(3, Editor(made, "test").initializer("bits", np.asarray(bits, np.float32)))


def host_between(made: Graph) -> None:
    """Integers become real numbers, the host works on them, and they come back."""
    at = last_integers(made, 1)
    for kind, edge in (("Mul", "output"), ("MaxPool", ""), ("Quant", ""), ("Mul", "input")):
        edit, like = Editor(made, "test"), at.producer()
        assert like is not None and like.graph is not None
        extra = [edit.initializer("one", np.asarray(1, np.float32))]
        attributes: dict[str, object] = {"kernel_shape": [1]} if kind == "MaxPool" else {}
        if kind == "Quant":
            extra += [edit.initializer(n, np.asarray(v, np.float32)) for n, v in (("z", 0), ("b", 8))]
            attributes = {"signed": 1, "narrow": 0, "rounding_mode": "ROUND"}
        inputs = [at, *(extra if kind != "MaxPool" else [])]
        domain = "qonnx.custom_op.general" if kind == "Quant" else ""
        node = ir.node(
            kind, inputs, attributes, domain=domain, num_outputs=1, name=edit.fresh_node("between")
        )
        node.outputs[0].name = edit.fresh("between")
        node.outputs[0].shape, node.outputs[0].type = at.shape, ir.TensorType(ir.DataType.FLOAT)
        if edge:
            node.metadata_props[EDGE_KEY] = edge
            if edge == "output":
                exponent = int(like.metadata_props[EXPONENT_KEY])
                factor = edit.initializer("scale", np.asarray(2.0**exponent, np.float32))
                node.replace_input_with(1, factor)
        like.graph.insert_after(like, node)
        for use in list(at.uses()):
            if use.node is not node:
                use.node.replace_input_with(use.idx, node.outputs[0])
        at = node.outputs[0]


def conv(index: int, change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Graph], object]:
    return lambda made: number(made, find(made, "Conv"), index, change)


def table(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Graph], object]:
    return lambda made: number(made, find(made, "Gather"), 0, change)


def scale(edge: str, factor: float) -> Callable[[Graph], object]:
    """Multiply the scale at an input or output edge, or of the first requantisation."""

    def spoil(made: Graph) -> None:
        kinds = [
            n for n in made.nodes if is_standard(n, "Mul") and n.metadata_props.get(EDGE_KEY, "") == edge
        ]
        number(made, kinds[0], 1, lambda old: old * factor)

    return spoil


def another_grid(made: Graph) -> None:
    node = next(n for n in made.nodes if n.op_type == "Quant" and EXPONENT_KEY in n.metadata_props)
    node.replace_input_with(1, Editor(made, "test").initializer("half", np.asarray(0.5, np.float32)))


FAULTS: dict[str, tuple[str, Callable[[Graph], object]]] = {
    "operator between": ("RUB-AIE-102", lambda g: between(g, "Softmax", last_integers(g, 2), axis=1)),
    "function without a table": ("RUB-AIE-102", lambda g: between(g, "Tanh", last_integers(g, 2))),
    "host in the middle": ("RUB-AIE-104", host_between),
    "weights of half an integer": ("RUB-AIE-105", conv(1, lambda w: w + np.float32(0.5))),
    "weights of 17 bits": ("RUB-AIE-105", conv(1, lambda w: w * 0 + 70000)),
    "accumulator of 32 bits": ("RUB-AIE-106", conv(2, lambda b: b * 0 + 2**31)),
    "bias of a quarter": ("RUB-AIE-105", conv(2, lambda b: b + np.float32(0.25))),
    "biases missing": ("RUB-AIE-105", conv(2, lambda b: b[:5])),
    "scale that is no power of two": ("RUB-AIE-105", scale("", 3)),
    "shift to the left": ("RUB-AIE-105", scale("", 2.0**40)),
    "12 bits in a tensor": ("RUB-AIE-105", lambda g: quantiser_bits(g, 12)),
    "another grid": ("RUB-AIE-102", another_grid),
    "output on a wrong grid": ("RUB-AIE-102", scale("output", 2)),
    "input on a wrong grid": ("RUB-AIE-102", scale("input", 2)),
    "table too short": ("RUB-AIE-105", table(lambda t: t[:100])),
    "table of halves": ("RUB-AIE-105", table(lambda t: t + np.float32(0.5))),
    "table beyond its type": ("RUB-AIE-105", table(lambda t: t * 0 + 300)),
    "channels mixed with time": (
        "RUB-AIE-103",
        lambda g: between(g, "Transpose", last_integers(g, 2), perm=[0, 2, 1]),
    ),
}


def base() -> Graph:
    return quantise(small(), [signal(0, 3)]).graph


@pytest.mark.parametrize("fault", FAULTS)
def test_refusals(fault: str) -> None:
    made = base()
    assert extract(made).layers
    code, spoil = FAULTS[fault]
    spoil(made)
    with pytest.raises(Unsupported) as raised:
        extract(made)
    assert raised.value.exit_code == 4
    rows = raised.value.findings
    assert rows and all(isinstance(row, Finding) and row.remedy and row.reason for row in rows)
    assert code in {row.rule for row in rows if isinstance(row, Finding)}, rows


def test_shifts_within_a_block() -> None:
    """Per channel is taken, unless two channels of a block differ."""
    made = base()
    second = [n for n in made.nodes if is_standard(n, "Conv")][1]
    node = next(use.node for use in second.outputs[0].uses())
    assert is_standard(node, "Mul")
    index = [layer.source for layer in extract(made).layers].index(source_of(second))
    first = extract(made).layers[index]
    blocks = np.where(np.arange(16) < 8, 1, 0.5).reshape(1, 16, 1)
    number(made, node, 1, lambda f: f * blocks)
    moved = extract(made).layers[index]
    assert isinstance(first, Conv) and isinstance(moved, Conv)
    assert (moved.shift - first.shift).tolist() == [0] * 8 + [1] * 8
    number(made, node, 1, lambda f: f * np.where(np.arange(16) == 1, 0.5, 1).reshape(f.shape))
    with pytest.raises(Unsupported, match="shifts differ within a block"):
        extract(made)


def test_a_changed_cell_is_refused() -> None:
    whole = alternating("GRU")
    Recurrence().run(whole)
    made = quantise(whole, [signal(0, 2, 2, 60)]).graph
    assert extract(made).layers
    body = body_of(next(n for n in made.nodes if n.op_type == "Scan"))
    assert body is not None
    clip = next(n for n in body if n.op_type == "Clip")
    clip.inputs[1].const_value = ir.tensor(np.asarray(-7.0), name=clip.inputs[1].name)  # type: ignore[union-attr]
    with pytest.raises(Unsupported) as raised:
        extract(made)
    assert raised.value.code == "RUB-AIE-102" and "was changed" in raised.value.what


def test_nothing_for_the_array() -> None:
    nodes = [op("Softmax", "x", "y", axis=-1)]
    with pytest.raises(Unsupported) as raised:
        extract(graph(nodes, {"x": ["N", 4]}, {"y": ["N", 4]}))
    assert raised.value.code == "RUB-AIE-107"


def test_images_are_refused() -> None:
    rng = np.random.default_rng(0)
    nodes = [op("Conv", "x w", "c", kernel_shape=[3, 3]), op("Conv", "y0 v", "y", kernel_shape=[1])]
    nodes[1].input[0] = "x1"
    net = graph(
        nodes[1:], {"x1": ["N", 2, "T"]}, {"y": ["N", 8, "T"]},
        {"v": rng.normal(size=(8, 2, 1)).astype(np.float32)},
    )  # fmt: skip
    made = quantise(net, [{"x1": rng.normal(size=(2, 2, 20)).astype(np.float32)}]).graph
    edge = next(n for n in made.nodes if n.metadata_props.get(EDGE_KEY) == "input")
    edge.outputs[0].shape = ir.Shape([1, 1, 2, 20])
    with pytest.raises(Unsupported) as raised:
        extract(made)
    assert raised.value.code == "RUB-AIE-103"


def test_operators_without_a_kernel_are_refused_with_the_table() -> None:
    nodes = [
        op("Conv", "x w", "c", kernel_shape=[1]), op("Resize", "c - s", "r", mode="nearest"),
        op("Resize", "r - s", "y", mode="nearest"),
    ]  # fmt: skip
    constants = {"w": np.ones((8, 8, 1), np.float32), "s": np.asarray([1, 1, 2], np.float32)}
    found = check(graph(nodes, {"x": [1, 8, 20]}, {"y": [1, 8, 80]}, constants), Target("aie", "vek280"))
    unknown = [row for row in found if row.rule == "RUB-IR-001"]
    assert len(unknown) == 2 and all("Resize" in row.reason and row.severity == "error" for row in unknown)
    with pytest.raises(Unsupported, match="and 1 more"):
        refuse(unknown, Target("aie", "vek280"))
