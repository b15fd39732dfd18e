"""GRU and LSTM: the float rewrite, the integer cell against another executor, changed bodies refused."""

from __future__ import annotations

import json

import numpy as np
import onnx_ir as ir
import pytest
from integer_graphs import HIDDEN, Layers, alternating, network, signal

from rubicc.errors import Unsupported
from rubicc.ir.executor import execute
from rubicc.ir.graph import Graph
from rubicc.passes.harness import apply_and_check, assert_mutant_fails
from rubicc.passes.integer import bodies, cells, recurrence
from rubicc.passes.integer.bodies import body_of
from rubicc.passes.integer.cells import SPEC_KEY, read_spec, read_weights
from rubicc.passes.integer.fit import Options, on_grids, quantise
from rubicc.passes.integer.legalise import EXPONENT_KEY, Legalise
from rubicc.passes.integer.recurrence import Recurrence
from rubicc.passes.quantize.islands import snr_db

SIZES = {"N": 2, "T": 30}


@pytest.mark.parametrize("kind", ["GRU", "LSTM"])
def test_float_rewrite(kind: str) -> None:
    done = apply_and_check(
        "integer.recurrence", alternating(kind), [signal(1, 2)], expect_changed=True, sizes=SIZES
    )
    counts = done.graph.op_counts()
    assert (counts["Scan"], counts.get(kind, 0), counts["MatMul"] >= 4, counts.get("Squeeze", 0)) == (
        3,
        0,
        True,
        0,
    )
    scans = [n for n in done.graph.nodes if n.op_type == "Scan"]
    assert [bodies.is_reversed(n) for n in scans] == [True, False, True]
    assert not any(n.op_type == "Slice" and n.inputs[0] is scans[0].outputs[-1] for n in done.graph.nodes)
    found = [read_weights(n) for n in scans]
    assert all(w is not None and w.recurrent.shape == (GATES[kind] * HIDDEN, HIDDEN) for w in found)
    biases = [w.bias for w in found if w is not None]
    if kind == "GRU":
        assert (
            biases[0] is not None and not np.any(biases[0][: 2 * HIDDEN]) and np.all(biases[0][2 * HIDDEN :])
        )
    assert biases[2] is None


GATES = {"GRU": 3, "LSTM": 4}


@pytest.mark.parametrize("where", ["first", "last", "odd"])
def test_sequences_that_stay_turned_round(where: str) -> None:
    """A turn on one side only remains a turn on the other side."""

    def build(net: Layers) -> None:
        if where in ("first", "odd"):
            net.turn()
        net.layer("GRU")
        if where == "odd":
            net.layer("GRU")
        if where in ("last", "odd"):
            net.turn()

    net = network(build)
    done = apply_and_check("integer.recurrence", net, [signal(1, 2)], expect_changed=True, sizes=SIZES)
    assert done.graph.op_counts()["Scan"] == (2 if where == "odd" else 1)


class _OnnxOrder(Recurrence):
    """Mutant: gates in the order ONNX stores them."""

    def run(self, graph: Graph) -> bool:
        old = dict(recurrence._ORDER)
        recurrence._ORDER.update(GRU=(0, 1, 2), LSTM=(0, 1, 2, 3))
        try:
            return super().run(graph)
        finally:
            recurrence._ORDER.update(old)


class _BiasOutside(Recurrence):
    """Mutant: the hidden bias of the new state is added outside of the reset gate."""

    def _projection(self, edit, node, x, weight, bias):  # type: ignore[no-untyped-def]
        _, _, of, _ = recurrence._weights(node)
        return super()._projection(edit, node, x, weight, bias + (0 if of.bias is None else of.bias))

    def _scan(self, edit, node, gates, of, kind, backward):  # type: ignore[no-untyped-def]
        bare = cells.Weights(of.kind, of.recurrent, None)
        return super()._scan(edit, node, gates, bare, kind, backward)


class _ForwardOnly(Recurrence):
    """Mutant: backward layers run forward."""

    def _scan(self, edit, node, gates, of, kind, backward):  # type: ignore[no-untyped-def]
        return super()._scan(edit, node, gates, of, kind, False)


def test_a_direction_lost() -> None:
    assert_mutant_fails(_ForwardOnly, alternating("LSTM"), [signal(1, 2)], code="RUB-PASS-021", sizes=SIZES)


@pytest.mark.parametrize("mutant", [_OnnxOrder, _BiasOutside])
def test_mutants(mutant: type[Recurrence]) -> None:
    assert_mutant_fails(mutant, alternating("GRU"), [signal(1, 2)], code="RUB-PASS-021", sizes=SIZES)


@pytest.mark.parametrize(
    ("attributes", "why"),
    [
        ({"direction": "bidirectional"}, "two directions"),
        ({"linear_before_reset": 0}, "before the product"),
        ({"clip": 3.0}, "clipped"),
        ({"activations": ["HardSigmoid", "Tanh"]}, "activations"),
    ],
)
def test_layers_that_are_left(attributes: dict[str, object], why: str) -> None:
    net = alternating("GRU")
    node = next(n for n in net.nodes if n.op_type == "GRU")
    for name, value in attributes.items():
        node.attributes[name] = ir.convenience.convert_attribute(name, value)
    one = Recurrence()
    one.run(net)
    assert [why in note.what for note in one.notes] == [True]
    assert net.op_counts()["GRU"] == 1


def scans(of: Graph) -> list[ir.Node]:
    return [node for node in of.nodes if node.op_type == "Scan"]


def prepared(kind: str, seed: int = 0) -> Graph:
    net = alternating(kind, seed)
    assert Recurrence().run(net)
    return net


@pytest.mark.parametrize("kind", ["GRU", "LSTM"])
@pytest.mark.parametrize("state_bits", [8, 16])
def test_legalisation_is_exact_and_good(kind: str, state_bits: int) -> None:
    net = prepared(kind)
    feeds, test = [signal(0, 2, 4, 120)], signal(5, 2, 2, 120)
    options = Options(bits=16, weight_bits=8, state_bits=state_bits, entry_bits=16)
    placed = on_grids(net, feeds, options)
    made = placed.clone()
    assert Legalise().run(made)
    want, got = (execute(g, test, dtype=np.float64)["y"] for g in (placed, made))
    np.testing.assert_array_equal(got, want)
    assert snr_db(execute(net, test)["y"], got) > (30 if state_bits == 16 else 26)
    specs = [read_spec(scan) for scan in scans(made)]
    assert all(s is not None and (s.entry, s.exit, s.operand_bits) == (0, 0, state_bits) for s in specs)
    narrow = on_grids(net, feeds, Options(state_bits=state_bits, argument_bits=8))  # exact in float32
    through = apply_and_check("integer.legalise", narrow, [test], sizes=SIZES, expect_changed=True)
    assert through.graph.op_counts()["Scan"] == 3


@pytest.mark.parametrize("kind", ["GRU", "LSTM"])
def test_qonnx_and_onnxruntime_compute_the_same_integers(kind: str) -> None:
    from qonnx.core.modelwrapper import ModelWrapper
    from qonnx.core.onnx_exec import execute_onnx

    feeds = signal(5, 2, 2, 60)
    made = quantise(prepared(kind), [signal(0, 2, 4, 60)], Options(argument_bits=8)).graph
    names = [n.outputs[-1].name or "" for n in made.nodes if EXPONENT_KEY in n.metadata_props]
    want = execute(made, feeds, dtype=np.float64, keep=names)
    fixed = made.clone()
    for value in [*fixed.inputs, *fixed.outputs]:
        value.shape = ir.Shape((feeds["x"] if value.name == "x" else want[value.name or ""]).shape)
    got = execute_onnx(ModelWrapper(fixed.to_proto()), feeds, return_full_exec_context=True)
    assert len(names) >= 8
    for name in names:
        np.testing.assert_array_equal(got[name], want[name], err_msg=name)
        assert len(np.unique(want[name])) > 15


def changed(how: str, body: ir.Graph) -> None:
    """One thing in a body that makes it compute something else."""
    nodes = list(body)

    def number(value: ir.Value, array: np.ndarray) -> None:
        assert value.const_value is not None
        kind = value.const_value.numpy().dtype
        value.const_value = ir.tensor(np.asarray(array, kind), name=value.name)

    if how == "operator":
        node = next(n for n in nodes if n.op_type == "Round")
        body.insert_after(node, made := ir.node("Floor", [node.inputs[0]], num_outputs=1, name="other"))
        made.outputs[0].name = "other_out"
        node.outputs[0].replace_all_uses_with(made.outputs[0])
        body.remove(node)
    elif how == "wiring":
        split = [n for n in nodes if n.op_type == "Split"][-1]
        first, second = split.outputs[0], split.outputs[1]
        for a, b in ((first, second), (second, first)):
            for use in [u for u in a.uses() if u.node.op_type != "marked"]:
                use.node.replace_input_with(use.idx, b)
            break
    elif how == "constant":
        clip = next(n for n in nodes if n.op_type == "Clip")
        assert clip.inputs[1] is not None
        number(clip.inputs[1], np.asarray(-100))
    elif how == "attribute":
        split = next(n for n in nodes if n.op_type == "Split")
        split.attributes["axis"] = ir.AttrInt64("axis", 1)
    elif how == "more":
        end = nodes[-1]
        made = ir.node("Identity", [body.outputs[-1]], num_outputs=1, name="other")
        made.outputs[0].name = "other_out"
        body.insert_after(end, made)
        body.outputs[-1] = made.outputs[0]
    elif how == "factor":
        for value in body.initializers.values():
            if value.const_value is not None and value.const_value.numpy().shape == (3 * HIDDEN,):
                array = value.const_value.numpy()
                if np.all(array < 1):
                    number(value, array * 1.5)
    elif how == "weights":
        for value in body.initializers.values():
            if value.const_value is not None and value.const_value.numpy().ndim == 2:
                number(value, value.const_value.numpy() + 0.5)


CHANGES = ["operator", "wiring", "constant", "attribute", "more", "factor", "weights"]


@pytest.mark.parametrize("how", CHANGES)
def test_a_changed_body_is_not_read(how: str) -> None:
    made = quantise(prepared("GRU"), [signal(0, 2, 2, 60)], Options()).graph
    scan = scans(made)[0]
    body = body_of(scan)
    assert body is not None and read_spec(scan) is not None
    changed(how, body)
    assert read_spec(scan) is None


@pytest.mark.parametrize(
    "edit", [{"output_shift": 3}, {"kind": "lstm"}, {"sigmoid": [0, 20]}, {"hidden": 10**9}, {"x": 0}]
)
def test_changed_parameters_are_not_read(edit: dict[str, object]) -> None:
    made = quantise(prepared("GRU"), [signal(0, 2, 2, 60)], Options()).graph
    scan = scans(made)[0]
    plain = json.loads(scan.metadata_props[SPEC_KEY])
    plain.update(edit)
    if "x" in edit:
        del plain["tanh"]
    scan.metadata_props[SPEC_KEY] = json.dumps(plain)
    assert read_spec(scan) is None
    scan.metadata_props[SPEC_KEY] = "{"
    assert read_spec(scan) is None


def test_weights_of_a_changed_float_body_are_not_read() -> None:
    net = prepared("GRU")
    scan = scans(net)[0]
    body = body_of(scan)
    assert body is not None and read_weights(scan) is not None
    tanh = next(n for n in body if n.op_type == "Tanh")
    tanh.op_type = "Sigmoid"
    assert read_weights(scan) is None
    with pytest.raises(Unsupported) as raised:
        quantise(net, [signal(0, 2, 2, 60)])
    assert raised.value.code == "RUB-PASS-030"


def test_cell_state_gets_the_bits_its_values_leave() -> None:
    """An LSTM that counts: its cell state grows to the number of frames."""

    def build(net: Layers) -> None:
        net.layer("LSTM")
        recurrent, bias = (net.constants[f"w{index}"] for index in (3, 4))
        recurrent *= 0
        gates = bias[:, : 4 * HIDDEN].reshape(4, HIDDEN)  # i, o, f, c
        bias[:, 4 * HIDDEN :] = 0
        gates[:] = np.asarray([20, 0, 20, 3])[:, None]

    whole = network(build)
    Recurrence().run(whole)
    made = quantise(whole, [signal(0, 2, 2, 60)]).graph
    spec = read_spec(scans(made)[0])
    assert spec is not None and spec.cell_bits == 9, "30 and an eighth: 6 bits before the point"


@pytest.mark.parametrize("kind", ["GRU", "LSTM"])
def test_optimised_rounding_helps(kind: str) -> None:
    """Recurrent weights too: weights still to come make up for each one's error."""
    net = prepared(kind)
    feeds, test = [signal(0, 2, 4, 120)], signal(5, 2, 2, 120)
    want = execute(net, test)["y"]

    def snr(rounding: str) -> float:
        options = Options(bits=16, entry_bits=16, rounding=rounding)  # type: ignore[arg-type]
        return snr_db(want, execute(quantise(net, feeds, options).graph, test, dtype=np.float64)["y"])

    assert snr("optimised") > snr("nearest") + 2
