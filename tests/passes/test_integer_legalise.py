"""Integer legalisation changes no number, and what it makes are integers within their types."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from integer_graphs import LENGTH, WIDTHS, Net, nets, signal, small
from pass_graphs import graph
from pass_graphs import node as op

from rubicc.errors import Unsupported
from rubicc.ir.executor import execute
from rubicc.ir.graph import Graph, is_quantiser
from rubicc.passes.harness import apply_and_check, assert_mutant_fails
from rubicc.passes.integer.fit import Options, on_grids
from rubicc.passes.integer.legalise import EDGE_KEY, EXPONENT_KEY, Legalise, format_of
from rubicc.passes.integer.place import Place, PlaceOptions
from rubicc.passes.rewrite import constant, is_standard


def legalised(placed: Graph) -> Graph:
    made = placed.clone()
    assert Legalise().run(made)
    return made


def check_integers(made: Graph, feeds: dict[str, np.ndarray]) -> None:
    """Everything between the declared edges is an integer, within the type its quantiser says."""
    inside = [
        node for node in made.nodes
        if EXPONENT_KEY in node.metadata_props or is_standard(node, "Conv", "MatMul", "Relu", "Gather")
    ]  # fmt: skip
    names = [node.outputs[0].name or "" for node in inside]
    values = execute(made, feeds, dtype=np.float64, keep=names)
    for node, name in zip(inside, names, strict=True):
        array = values[name]
        assert np.array_equal(array, np.rint(array)), f"{node.op_type} {name} is no integer"
        form = format_of(node)
        if form is not None:
            assert form.exponent == 0
            assert form.low <= array.min() and array.max() <= form.high
    for node in inside:
        for value in node.inputs[1:] if is_standard(node, "Conv", "MatMul") else ():
            array = constant(value)
            assert array is not None and np.array_equal(array, np.rint(array))


@settings(max_examples=60, deadline=None)
@given(made=nets(), widths=WIDTHS, seed=st.integers(0, 99))
def test_random_networks_keep_every_number(
    made: tuple[Graph, int], widths: tuple[int, int], seed: int
) -> None:
    net, channels = made
    options = Options(bits=widths[0], weight_bits=widths[1])
    placed = on_grids(net, [signal(1, channels)], options)
    whole = legalised(placed)
    feeds = signal(seed, channels)
    feeds["x"] *= 3  # beyond what was calibrated: saturation is part of the numbers
    want, got = (execute(g, feeds, dtype=np.float64) for g in (placed, whole))
    np.testing.assert_array_equal(got["y"], want["y"])
    check_integers(whole, feeds)


@pytest.fixture(scope="module")
def placed() -> Graph:
    return on_grids(small(), [signal(0, 3)])


def test_through_the_harness(placed: Graph) -> None:
    done = apply_and_check(
        "integer.legalise", placed, [signal(2, 3)], expect_changed=True, sizes={"N": 2, "T": LENGTH}
    )
    assert done.graph.op_counts()["Gather"] == 2
    assert not [n for n in done.graph.nodes if is_standard(n, "Tanh", "Sigmoid")]
    edges = [n.metadata_props[EDGE_KEY] for n in done.graph.nodes if EDGE_KEY in n.metadata_props]
    assert edges == ["input", "output"]
    scales = [constant(n.inputs[1]) for n in done.graph.nodes if is_quantiser(n)]
    assert sum(s is not None and np.any(s != 1) for s in scales) == 1, (
        "only the input is rounded to a real grid"
    )
    check_integers(done.graph, signal(3, 3))


class _OneBitLess(Legalise):
    """Mutant: drops one bit too many before it rounds."""

    def _requantised(self, value, left, one, axis=None):  # type: ignore[no-untyped-def]
        return super()._requantised(value, np.asarray(left) - 1, one, axis)


class _NoBias(Legalise):
    """Mutant: forgets biases."""

    def _product(self, one, inputs):  # type: ignore[no-untyped-def]
        made = super()._product(one, inputs)
        for node in self._graph.nodes:
            if (
                is_standard(node, "Conv")
                and len(node.inputs) > 2
                and "integers" in (node.inputs[1].name or "")
            ):
                node.resize_inputs(2)
        return made


class _ReluBehind(Legalise):
    """Mutant: rounds without the ReLU (which an unsigned type would do for it)."""

    def _requantised(self, value, left, one, axis=None):  # type: ignore[no-untyped-def]
        made = super()._requantised(value, left, one, axis)
        for node in self._graph.nodes:
            if is_standard(node, "Relu") and node.metadata_props.get("rubicc.made_by") == self.id:
                node.outputs[0].replace_all_uses_with(node.inputs[0])
        return made


class _UnalignedSum(Legalise):
    """Mutant: adds integers of unlike steps."""

    def _sum(self, one, inputs):  # type: ignore[no-untyped-def]
        other = inputs[1].form
        return super()._sum(one, [type(i)(i.value, other) for i in inputs])


class _TableOffByOne(Legalise):
    """Mutant: reads the entry before."""

    def _function(self, one, inputs):  # type: ignore[no-untyped-def]
        made = super()._function(one, inputs)
        table = made.producer().inputs[0]
        shifted = self._edit.initializer("shifted", np.roll(constant(table), 1))
        made.producer().replace_input_with(0, shifted)
        return made


def test_a_bit_lost(placed: Graph) -> None:
    assert_mutant_fails(_OneBitLess, placed, [signal(2, 3)], code="RUB-PASS-021", sizes={"N": 2, "T": LENGTH})


@pytest.mark.parametrize("mutant", [_NoBias, _ReluBehind, _UnalignedSum, _TableOffByOne])
def test_mutants(mutant: type[Legalise]) -> None:
    """16 bits have a sign behind a ReLU; the two terms of the sum have unlike steps."""
    placed = on_grids(small(3), [signal(0, 3)], Options(bits=16, weight_bits=4))
    apply_and_check("integer.legalise", placed, [signal(2, 3)], sizes={"N": 2, "T": LENGTH})
    assert_mutant_fails(mutant, placed, [signal(2, 3)], code="RUB-PASS-021", sizes={"N": 2, "T": LENGTH})


def test_qonnx_computes_the_same_integers() -> None:
    """qonnx has float32: exact where no accumulator leaves 24 bits, which the weights bound."""
    from qonnx.core.modelwrapper import ModelWrapper
    from qonnx.core.onnx_exec import execute_onnx

    net = small()
    made = legalised(on_grids(net, [signal(0, 3)], Options(bits=8, weight_bits=8, argument_bits=8)))
    for node in made.nodes:
        if is_standard(node, "Conv", "MatMul"):
            weight = constant(node.inputs[1])
            assert weight is not None
            outputs = weight.reshape(weight.shape[0], -1) if node.op_type == "Conv" else weight.T
            assert np.abs(outputs).sum(axis=1).max() * 256 < 1 << 24
    feeds = signal(5, 3)
    names = [n.outputs[0].name or "" for n in made.nodes if EXPONENT_KEY in n.metadata_props]
    want = execute(made, feeds, dtype=np.float64, keep=names)
    fixed = made.clone()
    for value in [*fixed.inputs, *fixed.outputs]:
        value.shape = ir.Shape(want[value.name or ""].shape if value.name in want else feeds["x"].shape)
    model = ModelWrapper(fixed.to_proto())
    got = execute_onnx(model, feeds, return_full_exec_context=True)
    assert len(names) >= 8
    for name in names:
        np.testing.assert_array_equal(got[name], want[name], err_msg=name)
        assert len(np.unique(want[name])) > 15


def test_a_graph_on_no_grids_is_refused() -> None:
    with pytest.raises(Unsupported) as raised:
        Legalise().run(small())
    assert raised.value.code == "RUB-PASS-030"


@pytest.mark.parametrize("scale", [0.3, 0.25])
def test_scales_that_are_no_powers_of_two_are_refused(scale: float) -> None:
    """The same graph with 0.25 is taken, so 0.3 is the reason."""
    constants = {"s": scale, "z": 0.0, "b": 8.0, "w": np.ones((2, 1, 1), np.float32), "t": 2.0**-3}
    nodes = [
        op("Quant", "x s z b", "q", signed=1, narrow=0, rounding_mode="ROUND"),
        op("Quant", "w t z b", "v", signed=1, narrow=0, rounding_mode="ROUND"),
        op("Conv", "q v", "c", kernel_shape=[1]),
        op("Quant", "c s z b", "y", signed=1, narrow=0, rounding_mode="ROUND"),
    ]
    net = graph(nodes, {"x": ["N", 1, "T"]}, {"y": ["N", 2, "T"]}, constants)
    if scale == 0.25:
        assert Legalise().run(net)
        return
    with pytest.raises(Unsupported) as raised:
        Legalise().run(net)
    assert raised.value.code == "RUB-PASS-030"


def test_a_function_without_a_value_is_refused() -> None:
    """1 / x at 0."""
    net = Net(0, 2)
    net.conv(8, 3)
    net.constants["one"] = np.asarray(1, np.float32)
    net.add("Div", f"one {net.value}")
    whole = net.head(3, linear=False)
    with pytest.raises(Unsupported) as raised:
        Legalise().run(on_grids(whole, [signal(0, 2)]))
    assert raised.value.code == "RUB-PASS-031"


def test_place_through_the_harness() -> None:
    net = small()
    first, last = net.nodes[0], net.nodes[-2]
    values = {"x": (-5, 8, True), first.outputs[0].name or "": (-10, 16, True)}
    weights = {first.name or "": (tuple([-8] * 8 + [-7] * 8), 8)}
    options = PlaceOptions(values, weights)
    done = apply_and_check(
        Place(options), net, [signal(1, 3)], expect_changed=True, sizes={"N": 2, "T": LENGTH},
        expect_ops={"qonnx.custom_op.general::Quant": 4},
    )  # fmt: skip
    kinds = [form for node in done.graph.nodes if (form := format_of(node)) is not None]
    assert [(k.exponent, k.bits) for k in kinds] == [(-5, 8), (-10, 16), (-6, 12)], "the table reads 12 bits"
    assert last.op_type != "Quant"


class _Coarse(Place):
    """Mutant: steps 2**12 times as large as they were chosen."""

    def _value(self, graph, edit, value):  # type: ignore[no-untyped-def]
        known = self.options.values.get(value.name or "")
        if known is None:
            return False
        coarse = PlaceOptions({value.name: (known[0] + 12, *known[1:])})
        return Place(coarse)._value(graph, edit, value)


def test_place_with_coarse_steps() -> None:
    net = small()
    values = {"x": (-5, 8, True), net.nodes[0].outputs[0].name or "": (-10, 16, True)}
    sizes = {"N": 2, "T": LENGTH}
    apply_and_check(Place(PlaceOptions(values)), net, [signal(1, 3)], sizes=sizes)
    assert_mutant_fails(_Coarse(PlaceOptions(values)), net, [signal(1, 3)], code="RUB-PASS-021", sizes=sizes)
