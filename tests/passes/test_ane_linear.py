"""Linear layers, rows, layer norms and GELU in Neural Engine form: exactness, what stays, mutants."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from pass_graphs import graph, node, weights

from rubicc.ir.executor import execute
from rubicc.ir.graph import Graph
from rubicc.passes.ane import gelu as gelu_module
from rubicc.passes.ane import layer_norm as norm_module
from rubicc.passes.ane import linear_to_conv as linear_module
from rubicc.passes.ane.forms import SequenceForms
from rubicc.passes.ane.gelu import Gelu
from rubicc.passes.ane.layer_norm import Arithmetic, LayerNorm
from rubicc.passes.ane.linear_to_conv import LinearToConv
from rubicc.passes.ane.matching import BSC, SBC
from rubicc.passes.ane.unflatten import Unflatten
from rubicc.passes.ane.weights import ConvWeights
from rubicc.passes.harness import apply_and_check, assert_mutant_fails
from rubicc.passes.manager import run_pass
from rubicc.passes.registry import get

LINEAR, ROWS, NORM, GELU = "ane.linear-to-conv", "ane.unflatten", "ane.layer-norm", "ane.gelu"
SEQUENCE = {"x": ["N", "T", 6]}


def linear(bias_first: bool = False) -> Graph:
    add = node("Add", "b m" if bias_first else "m b", "y")
    return graph(
        [node("MatMul", "x w", "m"), add], SEQUENCE, {"y": ["N", "T", 4]}, {"w": weights(6, 4),
        "b": weights(4)}
    )  # fmt: skip


@pytest.mark.parametrize("bias_first", [False, True])
def test_a_linear_layer_becomes_a_convolution(bias_first: bool) -> None:
    expected = {"MatMul": -1, "Add": -1, "Conv": 1, "Transpose": 2, "Squeeze": 1, "Unsqueeze": 1}
    done = apply_and_check(LINEAR, linear(bias_first), expect_ops=expected)
    conv = next(n for n in done.graph.nodes if n.op_type == "Conv")
    assert list(conv.inputs[1].shape) == [4, 6, 1, 1]  # type: ignore[union-attr, arg-type]


def test_weights_are_views_of_the_same_memory() -> None:
    before = linear()
    done = apply_and_check(LINEAR, before)
    conv = next(n for n in done.graph.nodes if n.op_type == "Conv")
    old, new = before.ir.initializers["w"].const_value, conv.inputs[1].const_value  # type: ignore[union-attr]
    assert old is not None and new is not None and np.shares_memory(old.numpy(), new.numpy())


def test_neighbours_meet_without_a_view() -> None:
    """Two layers and an activation: `ane.layout` leaves one way in and one way out."""
    before = graph(
        [
            node("MatMul", "x w", "m"), node("Add", "m b", "a"), node("Relu", "a", "r"),
            node("MatMul", "r v", "n"), node("Add", "n c", "y"),
        ],
        SEQUENCE, {"y": ["N", "T", 5]},
        {"w": weights(6, 4), "b": weights(1, 1, 4), "v": weights(4, 5), "c": weights(5)},
    )  # fmt: skip
    done = apply_and_check("ane.layout", apply_and_check(LINEAR, before).graph)
    counts = done.graph.op_counts()
    assert counts == {"Conv": 2, "Relu": 1, "Squeeze": 1, "Transpose": 2, "Unsqueeze": 1}


def test_quantised_weights_keep_their_quantiser() -> None:
    """Scales per output are turned with the weight; integers by DequantizeLinear keep their axis."""
    integers = np.random.default_rng(0).integers(-9, 9, (6, 4)).astype(np.int8)
    before = graph(
        [
            node("Quant", "w s zero four", "q", signed=1, narrow=1), node("MatMul", "x q", "m"),
            node("DequantizeLinear", "i t", "d", axis=1), node("MatMul", "x d", "n"), node("Add", "m n", "y"),
            node("Transpose", "u", "ut", perm=[1, 0]), node("MatMul", "x ut", "z"),
        ],
        SEQUENCE, {"y": ["N", "T", 4], "z": ["N", "T", 3]},
        {
            "w": weights(6, 4), "s": np.abs(weights(1, 4)) / 8 + 0.05, "zero": np.float32(0),
            "four": np.float32(4),
            "i": integers, "t": np.abs(weights(4)) + 0.1, "u": weights(3, 6),
        },
    )  # fmt: skip
    done = apply_and_check(LINEAR, before)
    assert done.graph.op_counts()["Conv"] == 3 and "MatMul" not in done.graph.op_counts()
    quant = next(n for n in done.graph.nodes if n.op_type == "Quant" and n.outputs[0].uses())
    assert list(quant.inputs[1].shape) == [4, 1, 1, 1]  # type: ignore[union-attr, arg-type]


def tied() -> Graph:
    """A head that reads the embedding's own table."""
    return graph(
        [
            node("Gather", "table ids", "e"), node("MatMul", "e w", "h"),
            node("Transpose", "table", "back", perm=[1, 0]), node("MatMul", "h back", "y"),
        ],
        {"ids": ["N", "T"]}, {"y": ["N", "T", 9]}, {"table": weights(9, 6), "w": weights(6, 6)},
        types={"ids": 7},
    )  # fmt: skip


def test_a_tied_head_reads_the_table_either_way() -> None:
    done = apply_and_check(LINEAR, tied(), options={"head": "product"})
    assert done.graph.op_counts()["MatMul"] == 1 and "embedding" in done.record.notes[0].what
    before = tied()
    done = apply_and_check(LINEAR, before)
    assert "MatMul" not in done.graph.op_counts()
    head = [n for n in done.graph.nodes if n.op_type == "Conv"][-1].inputs[1]
    table = before.ir.initializers["table"].const_value
    assert head is not None and head.const_value is not None and table is not None
    assert np.shares_memory(head.const_value.numpy(), table.numpy())


def test_what_follows_a_recurrent_layer_stays() -> None:
    before = graph(
        [
            node("GRU", "x r0 r1", "h -", hidden_size=3), node("Squeeze", "h one", "s"),
            node("MatMul", "s w", "y"),
        ],
        {"x": ["T", "N", 6]}, {"y": ["T", "N", 4]},
        {"r0": weights(1, 9, 6), "r1": weights(1, 9, 3), "one": np.asarray([1]), "w": weights(3, 4)},
    )  # fmt: skip
    done = apply_and_check(LINEAR, before, expect_changed=False)
    assert "recurrent" in done.record.notes[0].what
    old = linear()
    old.model.opset_imports[""] = 12
    record = run_pass(get(LINEAR)(), old)
    assert not record.changed and "older" in record.notes[0].what


def test_time_first_is_told_from_batch_first() -> None:
    """What a Transpose has brought to the front is time, and stays so through operators that keep axes."""
    before = graph(
        [
            node("Squeeze", "x two", "s"), node("Transpose", "s", "t", perm=[2, 0, 1]),
            node("Relu", "t", "r"),
            node("MatMul", "r w", "m"), node("Transpose", "m", "b", perm=[1, 0, 2]),
            node("MatMul", "b v", "y"),
        ],
        {"x": ["N", 6, 1, "T"]}, {"y": ["N", "T", 4]},
        {"w": weights(6, 5), "v": weights(5, 4), "two": np.asarray([2])},
    )  # fmt: skip
    forms = SequenceForms(before)
    first, second = (n for n in before.nodes if n.op_type == "MatMul")
    assert forms.of(first.inputs[0]) == SBC and forms.of(second.inputs[0]) == BSC  # type: ignore[arg-type]
    done = apply_and_check("ane.layout", apply_and_check(LINEAR, before).graph)
    done = apply_and_check("ane.remove-transposes", done.graph)
    assert done.graph.op_counts() == {"Conv": 2, "Relu": 1, "Squeeze": 1, "Transpose": 1}


def test_a_weight_that_is_not_turned_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    before = graph([node("MatMul", "x w", "y")], SEQUENCE, {"y": ["N", "T", 6]}, {"w": weights(6, 6)})
    right = ConvWeights.make
    monkeypatch.setattr(
        ConvWeights, "make", lambda self, value, swapped, at: right(self, value, not swapped, at)
    )
    assert_mutant_fails(LinearToConv, before, code="RUB-PASS-021")


def test_a_lost_bias_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    right = linear_module.linear

    def without(one: ir.Node) -> Any:
        found = right(one)
        return found and linear_module.Linear(found.node, found.x, found.weight, None, found.out)

    monkeypatch.setattr(linear_module, "linear", without)
    assert_mutant_fails(LinearToConv, linear(), code="RUB-PASS-021")


def rows(trans: bool = True) -> Graph:
    """GPT-2's way: rows, Gemm, activation, a norm, a residual sum, and back."""
    return graph(
        [
            node("Reshape", "x flat", "f"), node("Gemm", "f w b", "g", transB=int(trans)),
            node("Relu", "g", "r"),
            node("MatMul", "r v", "m"), node("Add", "m f", "s"),
            node("LayerNormalization", "s one b6", "l", axis=1),
            node("Softmax", "l", "p", axis=1), node("Reshape", "p back", "y"), node("Reshape", "s back", "z"),
        ],
        {"x": [2, 5, 6]}, {"y": [2, 5, 6], "z": [2, 5, 6]},
        {
            "flat": np.asarray([-1, 6]), "back": np.asarray([2, 5, 6]),
            "w": weights(4, 6) if trans else weights(6, 4),
            "b": weights(4), "v": weights(4, 6), "one": weights(6), "b6": weights(6, seed=1),
        },
    )  # fmt: skip


@pytest.mark.parametrize("trans", [False, True])
def test_rows_become_sequences(trans: bool) -> None:
    done = apply_and_check(ROWS, rows(trans))
    counts = done.graph.op_counts()
    assert not {"Gemm", "Reshape"} & set(counts) and counts["MatMul"] == 2
    assert all(len(n.outputs[0].shape) == 3 for n in done.graph.nodes if n.op_type != "Transpose")  # type: ignore[arg-type]


def test_rows_of_heads_keep_one_reshape() -> None:
    """(B,S,H,D) flattened to rows, as torch's MultiheadAttention does before its output layer."""
    before = graph(
        [node("Reshape", "x flat", "f"), node("Gemm", "f w", "g"), node("Reshape", "g back", "y")],
        {"x": [2, 5, 3, 2]}, {"y": [2, 5, 4]},
        {"flat": np.asarray([10, 6]), "back": np.asarray([2, 5, 4]), "w": weights(6, 4)},
    )  # fmt: skip
    apply_and_check(ROWS, before, expect_ops={"Gemm": -1, "MatMul": 1, "Reshape": -1})


@pytest.mark.parametrize("how", ["other split", "over rows", "read as rows"])
def test_rows_that_mix_stay(how: str) -> None:
    shape = [5, 2, 4] if how == "other split" else [2, 5, 4]
    middle = node("Softmax", "g", "p", axis=0) if how == "over rows" else node("Relu", "g", "p")
    extra = [node("Neg", "p", "z")] if how == "read as rows" else []
    before = graph(
        [node("Reshape", "x flat", "f"), node("Gemm", "f w", "g"), middle,
        node("Reshape", "p back", "y"), *extra],
        {"x": [2, 5, 6]}, {"y": shape, **({"z": [10, 4]} if extra else {})},
        {"flat": np.asarray([-1, 6]), "back": np.asarray(shape), "w": weights(6, 4)},
    )  # fmt: skip
    apply_and_check(ROWS, before, expect_changed=False)


def test_rows_with_a_wrong_transpose_fail() -> None:
    class Forgets(Unflatten):
        """Mutant: transB is not looked at."""

        def run(self, graph: Graph) -> bool:
            for one in graph.nodes:
                if one.op_type == "Gemm":
                    one.attributes.pop("transB", None)
            return super().run(graph)

    before = graph(
        [node("Reshape", "x flat", "f"), node("Gemm", "f w", "g", transB=1), node("Reshape", "g back", "y")],
        {"x": [2, 5, 6]}, {"y": [2, 5, 6]},
        {"flat": np.asarray([-1, 6]), "back": np.asarray([2, 5, 6]), "w": weights(6, 6)},
    )  # fmt: skip
    apply_and_check(ROWS, before)
    assert_mutant_fails(Forgets, before, code="RUB-PASS-021")


def normalised(form: str, gamma: np.ndarray) -> Graph:
    """A convolution, a view out, a normalisation (an operator or written out), and a bias that is not 0."""
    start = [
        node("Conv", "x w", "c"),
        node("Squeeze", "c two", "s"),
        node("Transpose", "s", "t", perm=[0, 2, 1]),
    ]
    whole = [node("LayerNormalization", "t g b", "y", epsilon=1e-3)]
    spelled = [
        node("ReduceMean", "t last", "mu"), node("Sub", "t mu", "d"), node("Pow", "d p", "q"),
        node("ReduceMean", "q last", "v"), node("Add", "v eps", "e"), node("Sqrt", "e", "r"),
        node("Div", "d r", "n"),
        node("Mul", "n g", "m"), node("Add", "m b", "y"),
    ]  # fmt: skip
    return graph(
        [*start, *(whole if form == "operator" else spelled)],
        {"x": ["N", 3, 1, "T"]}, {"y": ["N", "T", 8]},
        {
            "w": weights(8, 3, 1, 1), "two": np.asarray([2]), "g": gamma, "b": weights(8),
            "last": np.asarray([-1]),
            "p": np.float32(2), "eps": np.float32(1e-3),
        },
    )  # fmt: skip


@pytest.mark.parametrize("form", ["operator", "written out"])
@pytest.mark.parametrize("zeros", [0, 3, 8])
def test_layer_norm_even_where_its_weight_is_zero(form: str, zeros: int) -> None:
    """beta / gamma, as Apple's form has it, would divide by zero here."""
    gamma = weights(8)
    gamma[:zeros] = 0.0
    done = apply_and_check(NORM, normalised(form, gamma))
    counts = done.graph.op_counts()
    assert (counts["ReduceMean"], counts["Div"], counts["Sqrt"], counts["Sub"]) == (2, 1, 1, 1)
    mean = next(n for n in done.graph.nodes if n.op_type == "ReduceMean" and len(n.outputs[0].shape) == 4)  # type: ignore[arg-type]
    assert mean.inputs[1] is not None and mean.inputs[1].const_value.numpy().tolist() == [1]  # type: ignore[union-attr]


def test_layer_norm_away_from_channels_stays() -> None:
    before = graph(
        [node("LayerNormalization", "x g b", "y")], {"x": ["N", "T", 8]}, {"y": ["N", "T", 8]},
        {"g": weights(8), "b": weights(8)},
    )  # fmt: skip
    done = apply_and_check(NORM, before, expect_changed=False)
    assert "nothing around" in done.record.notes[0].what


class BiasFirst(Arithmetic):
    """Mutant: the bias is added before the scale."""

    def result(self) -> ir.Value:
        norm = self._norm
        self._norm = norm_module.Norm(norm.x, None, norm.beta, norm.eps, norm.out, norm.last, norm.nodes)
        y = super().result()
        array = norm_module.constant(norm.gamma)
        assert array is not None
        held = self._edit.initializer("gamma", array.reshape(1, -1, 1, 1))
        return self._node("Mul", [y, held], self._whole)


class NoEpsilon(Arithmetic):
    """Mutant: epsilon is lost."""

    def _number(self, name: str, number: float) -> ir.Value:
        return super()._number(name, 0.0)


@pytest.mark.parametrize("mutant", [BiasFirst, NoEpsilon])
def test_wrong_layer_norms_fail(monkeypatch: pytest.MonkeyPatch, mutant: type[Arithmetic]) -> None:
    monkeypatch.setattr(norm_module, "Arithmetic", mutant)
    assert_mutant_fails(LayerNorm, normalised("operator", weights(8)), code="RUB-PASS-021")


ROOT, CUBIC = math.sqrt(2.0), 0.044715
ERF: dict[str, list[Any]] = {
    "torch": [node("Div", "x root", "a"), node("Erf", "a", "e"), node("Add", "e one", "p"),
              node("Mul", "x p", "m"), node("Mul", "m half", "y")],
    "half first": [node("Mul", "x half", "h"), node("Mul", "x inverse", "a"), node("Erf", "a", "e"),
                   node("Add", "one e", "p"), node("Mul", "h p", "y")],
    "half outside": [node("Mul", "inverse x", "a"), node("Erf", "a", "e"), node("Add", "e one", "p"),
                     node("Mul", "p half", "m"), node("Mul", "m x", "y")],
}  # fmt: skip
TANH: dict[str, list[Any]] = {
    "pow": [node("Pow", "x three", "c"), node("Mul", "c cubic", "k"), node("Add", "x k", "s"),
            node("Mul", "s root2pi", "u"), node("Tanh", "u", "t"), node("Add", "t one", "p"),
            node("Mul", "x half", "h"), node("Mul", "h p", "y")],
    "products": [node("Mul", "x x", "q"), node("Mul", "q x", "c"), node("Mul", "cubic c", "k"),
    node("Add", "k x", "s"),
                 node("Mul", "root2pi s", "u"), node("Tanh", "u", "t"), node("Add", "one t", "p"),
                 node("Mul", "p x", "m"), node("Mul", "half m", "y")],
}  # fmt: skip


def spelled(nodes: list[Any], **other: float) -> Graph:
    numbers = {
        "root": ROOT, "inverse": 1 / ROOT, "one": 1.0, "half": 0.5, "three": 3.0, "cubic": CUBIC,
        "root2pi": math.sqrt(2 / math.pi), **other,
    }  # fmt: skip
    return graph(
        nodes, {"x": ["N", 8]}, {"y": ["N", 8]}, {name: np.float32(v) for name, v in numbers.items()}
    )


@pytest.mark.parametrize("name", [*ERF, *TANH])
def test_gelu_under_one_name(name: str) -> None:
    """The two functions differ by 1e-3 and are not taken for each other."""
    done = apply_and_check(GELU, spelled((ERF | TANH)[name]))
    (made,) = done.graph.nodes
    assert made.op_type == "Gelu"
    assert made.attributes.get_string("approximate") == ("none" if name in ERF else "tanh")


@pytest.mark.parametrize("change", [{"root": 1.4}, {"half": 0.4}, {"one": 1.1}])
def test_what_is_not_quite_gelu_stays(change: dict[str, float]) -> None:
    apply_and_check(GELU, spelled(ERF["torch"], **change), expect_changed=False)


def test_a_read_in_the_middle_stays() -> None:
    before = graph(
        [*ERF["torch"], node("Neg", "p", "z")], {"x": ["N", 8]}, {"y": ["N", 8], "z": ["N", 8]},
        {"root": np.float32(ROOT), "one": np.float32(1), "half": np.float32(0.5)},
    )  # fmt: skip
    apply_and_check(GELU, before, expect_changed=False)


def test_the_other_gelu_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """Mutant: the exact form is written where the approximation stood."""
    monkeypatch.setattr(gelu_module, "_of_erf", gelu_module._of_tanh)
    right = gelu_module.is_standard
    monkeypatch.setattr(
        gelu_module, "is_standard", lambda n, *ops: right(n, *ops) or (ops == ("Erf",) and right(n, "Tanh"))
    )
    before = spelled(TANH["pow"])
    x = {"x": np.linspace(-3, 3, 80, dtype=np.float32).reshape(10, 8)}
    assert execute(before, x)["y"].shape == (10, 8)
    assert_mutant_fails(Gelu, before, [x], code="RUB-PASS-021")
