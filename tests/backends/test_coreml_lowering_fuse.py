"""Arithmetic that becomes one operation: layer norm, GELU, SiLU, linear, einsum; and what only looks so."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from coreml_graphs import Build, Net, compiled, normal

AXES = {1: (2, 5, 1, 6), 2: (2, 4, 5), -1: (2, 4, 5)}


def check(b: Build, target: str = "iOS17") -> Net:
    made = compiled(b.graph(), target=target)
    assert made.gap(b.feeds) < 2e-6
    return made


def normalised(
    b: Build, x: str, axis: int = 1, *, form: str = "div", square: str = "mul", eps: float = 1e-5
) -> str:
    """``(x - mean) / sqrt(variance + eps)`` as exporters and passes spell it."""
    axes = np.array([axis])
    centred = b("Sub", x, b("ReduceMean", x, axes))
    power = b("Mul", centred, centred) if square == "mul" else b("Pow", centred, np.float32(2))
    root = b("Sqrt", b("Add", b("ReduceMean", power, axes), np.float32(eps)))
    if form == "div":
        return b("Div", centred, root)
    inverse = b("Reciprocal", root) if form == "reciprocal" else b("Div", np.float32(1), root)
    return b("Mul", inverse, centred)


@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize("form", ["div", "reciprocal", "one over"])
@pytest.mark.parametrize("square", ["mul", "pow"])
def test_layer_norm_over_any_axis(axis: int, form: str, square: str) -> None:
    shape = AXES[axis]
    channels = [n if k == axis % len(shape) else 1 for k, n in enumerate(shape)]
    b = Build(x=normal(*shape))
    b(
        "Add",
        b("Mul", normalised(b, "x", axis, form=form, square=square), normal(*channels)),
        normal(*channels, seed=1),
    )
    assert check(b).counts == {"layer_norm": 1}


def test_layer_norm_without_scale_or_shift() -> None:
    for build in (
        lambda b, y: y,
        lambda b, y: b("Mul", normal(5, 1, 1), y),
        lambda b, y: b("Add", y, normal(1, 5, 1, 1)),
    ):
        b = Build(x=normal(2, 5, 1, 6))
        build(b, normalised(b, "x"))
        assert check(b).counts == {"layer_norm": 1}


def test_a_zero_scale_is_no_obstacle() -> None:
    """The bias is added after the scale: nothing divides by it."""
    b = Build(x=normal(2, 5, 1, 6))
    gamma = np.float32([0, 1, 0, 2, 0]).reshape(1, 5, 1, 1)
    b("Add", b("Mul", normalised(b, "x"), gamma), normal(1, 5, 1, 1))
    made = check(b)
    assert (
        made.counts == {"layer_norm": 1} and np.isfinite(made.run(b.feeds)[made.graph.outputs[0].name]).all()
    )


def varied(name: str, b: Build) -> None:
    """Near misses of a layer norm."""
    x = "x"
    axes, other = np.array([1]), np.array([3])
    centred = b("Sub", x, b("ReduceMean", x, other if name == "other mean" else axes))
    if name == "mean first":
        centred = b("Sub", b("ReduceMean", x, axes), x)
    power = b("Pow", centred, np.float32(4)) if name == "other power" else b("Mul", centred, centred)
    if name == "other square":
        power = b("Mul", centred, x)
    variance = b("ReduceMean", power, axes)
    total = b("Add", variance, normal(5, 1, 1) ** 2 if name == "epsilon per channel" else np.float32(1e-3))
    root = b("Sqrt", total)
    made = b("Div", x if name == "x divided" else centred, root)
    if name == "scale along time":
        b("Mul", made, normal(1, 1, 1, 6))
    if name == "read between":
        b("Relu", variance)


@pytest.mark.parametrize(
    ("name", "norms"),
    [
        ("other mean", 0), ("mean first", 0), ("other power", 0), ("other square", 0),
        ("epsilon per channel", 0), ("x divided", 0), ("scale along time", 1), ("read between", 0),
    ],
)  # fmt: skip
def test_near_misses_of_layer_norm_stay_right(name: str, norms: int) -> None:
    b = Build(x=normal(2, 5, 1, 6))
    varied(name, b)
    assert check(b).counts["layer_norm"] == norms


ROOT2, ROOT2PI = math.sqrt(2), math.sqrt(2 / math.pi)


def erf_form(b: Build, how: str, *, one: float = 1.0, half: float = 0.5, root: float = ROOT2) -> None:
    """GELU by erf; ``how`` says where the half stands."""
    inner = b("Div", "x", np.float32(root)) if "div" in how else b("Mul", np.float32(1 / root), "x")
    plus = b("Add", b("Erf", inner), np.float32(one))
    if "first" in how:
        b("Mul", b("Mul", "x", np.float32(half)), plus)
    elif "last" in how:
        b("Mul", b("Mul", "x", plus), np.float32(half))
    else:
        b("Mul", "x", b("Mul", plus, np.float32(half)))


@pytest.mark.parametrize("how", ["div first", "mul first", "div last", "mul middle"])
def test_gelu_by_erf(how: str) -> None:
    b = Build(x=2 * normal(2, 3, 8))
    erf_form(b, how)
    assert check(b).counts == {"gelu": 1}


@pytest.mark.parametrize("cube", ["pow", "mul"])
def test_gelu_by_tanh(cube: str) -> None:
    b = Build(x=2 * normal(2, 3, 8))
    third = b("Pow", "x", np.float32(3)) if cube == "pow" else b("Mul", "x", b("Mul", "x", "x"))
    total = b("Add", "x", b("Mul", third, np.float32(0.044715)))
    plus = b("Add", np.float32(1), b("Tanh", b("Mul", total, np.float32(ROOT2PI))))
    b("Mul", b("Mul", np.float32(0.5), "x"), plus)
    made = check(b)
    assert made.counts == {"gelu": 1}
    (operation,) = (op for op in made.package.main.operations() if op.type == "gelu")
    assert "TANH" in str(made.package.main.constant(operation.inputs["mode"]).value())


@pytest.mark.parametrize("change", [{"one": 1.01}, {"half": 0.51}, {"root": 1.4}])
def test_near_misses_of_gelu_stay_right(change: dict[str, float]) -> None:
    b = Build(x=2 * normal(2, 3, 8))
    erf_form(b, "div first", **change)
    assert check(b).counts["gelu"] == 0


def test_silu_and_its_near_misses() -> None:
    b = Build(x=normal(2, 3, 8), y=normal(2, 3, 8, seed=1))
    b("Mul", b("Sigmoid", "x"), "x")
    assert check(b).counts == {"silu": 1}
    for other in (lambda b, s: b("Mul", s, "y"), lambda b, s: (b("Mul", s, "x"), b("Relu", s))):
        b = Build(x=normal(2, 3, 8), y=normal(2, 3, 8, seed=1))
        b("Neg", "y")
        other(b, b("Sigmoid", "x"))
        assert check(b).counts["silu"] == 0


def test_linear_takes_the_bias_and_its_matrix_is_stored_once() -> None:
    w = normal(16, 128)
    b = Build(x=normal(2, 5, 16), y=normal(3, 16))
    name = b.constant(w)
    b("Add", b("MatMul", "x", name), normal(128))
    b("MatMul", "y", name)
    made = check(b)
    assert made.counts == {"linear": 2}
    stored = [
        op
        for op in made.package.main.operations()
        if op.type == "const" and op.outputs[0].type.shape == (128, 16)
    ]
    assert len(stored) == 1


BIASES: dict[str, Callable[[Build, str], Any]] = {
    "per row": lambda b, y: b("Add", y, normal(5, 1)),
    "of four axes": lambda b, y: b("Add", y, normal(1, 1, 1, 7)),
    "computed": lambda b, y: b("Add", y, b("Relu", "y")),
    "read twice": lambda b, y: (b("Add", y, normal(7)), b("Relu", y)),
}


@pytest.mark.parametrize("name", BIASES)
def test_biases_that_linear_does_not_take(name: str) -> None:
    b = Build(x=normal(2, 5, 16), y=normal(7))
    b("Neg", "y")
    BIASES[name](b, b("MatMul", "x", normal(16, 7)))
    counts = check(b).counts
    assert counts["linear"] == 1 and counts["add"] == 1


@pytest.mark.parametrize(
    ("equation", "shapes", "einsums"),
    [
        ("bkhc,bchq->bkhq", ((2, 5, 1, 4), (2, 4, 1, 6)), 1),
        ("bchq,bkhc->bkhq", ((2, 4, 1, 6), (2, 5, 1, 4)), 1),
        ("bkhq,bchk->bchq", ((2, 5, 1, 6), (2, 4, 1, 5)), 1),
        ("abc,cbd->abd", ((2, 3, 4), (4, 3, 5)), 1),
        ("bhqd,bhkd->bhqk", ((2, 3, 5, 4), (2, 3, 6, 4)), 0),
        ("bkhc,bchq->bqhk", ((2, 5, 1, 4), (2, 4, 1, 6)), 0),
        ("bhqd,bhqd->bhq", ((2, 3, 5, 4), (2, 3, 5, 4)), 0),
        ("ij,jk", ((3, 4), (4, 5)), 0),
        ("ijk,k->ij", ((3, 4, 5), (5,)), 0),
    ],
)
def test_einsum_where_mil_has_the_form_and_a_product_elsewhere(
    equation: str, shapes: tuple[tuple[int, ...], ...], einsums: int
) -> None:
    b = Build(x=normal(*shapes[0]), y=normal(*shapes[1], seed=1))
    b("Einsum", "x", "y", equation=equation)
    counts = check(b).counts
    assert (counts["einsum"], counts["matmul"]) == (einsums, 1 - einsums)


def test_attention_keeps_its_operations() -> None:
    """Per head: product, mask, softmax over the keys, product; nothing else."""
    b = Build(q=normal(1, 8, 1, 6), k=normal(1, 5, 1, 8), v=normal(1, 8, 1, 5), mask=normal(1, 5, 1, 1))
    scores = b("Add", b("Einsum", "k", "q", equation="bkhc,bchq->bkhq"), "mask")
    b("Einsum", b("Softmax", scores, axis=1), "v", equation="bkhq,bchk->bchq")
    made = check(b)
    assert made.counts == {"einsum": 2, "add": 1, "softmax": 1}
    half = compiled(made.graph, precision="fp16")
    assert half.counts == {"einsum": 2, "add": 1, "softmax": 1, "cast": 5}
    assert half.gap(b.feeds, "fp16") < 5e-3
