"""Free dimensions: one program for every shape that is listed or inside the range."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from coreml_graphs import Build, Net, compiled, normal

from rubicc.backends.coreml.lowering import findings, lower
from rubicc.errors import Unsupported


def holds(
    b: Build, shapes: str, sizes: Sequence[tuple[int, ...]], *, target: str = "iOS17", **dims: tuple
) -> Net:
    made = compiled(b.graph(**dims), target=target, shapes=shapes)
    for size in sizes:
        assert made.gap({"x": normal(*size)}) < 2e-6, size
    return made


def convolutional() -> Build:
    """Padding, stride, pooling, norm, log softmax over channels, time to the front."""
    b = Build(x=normal(1, 1, 40))
    y = b("Relu", b("Conv", "x", normal(4, 1, 5), normal(4), pads=[2, 2], strides=[2]))
    y = b("Add", y, b("Conv", y, normal(4, 1, 3), pads=[1, 1], group=4))
    y = b("MaxPool", y, kernel_shape=[2], strides=[2])
    y = b("BatchNormalization", y, normal(4) ** 2, normal(4), normal(4), normal(4, seed=1) ** 2 + 1)
    b("Transpose", b("LogSoftmax", y, axis=1), perm=[2, 0, 1])
    return b


@pytest.mark.parametrize("target", ["iOS16", "iOS18"])
def test_enumerated_lengths(target: str) -> None:
    shapes = "x=1x1x40,1x1x64,1x1x100"
    made = holds(convolutional(), shapes, [(1, 1, 40), (1, 1, 100)], target=target, x=(1, 1, "T"))
    (value,) = made.package.main.inputs
    assert value.type.shape[:2] == (1, 1) and not isinstance(value.type.shape[2], int)


def test_ranges_of_batch_and_time() -> None:
    sizes = [(1, 1, 16), (3, 1, 41), (2, 1, 333)]
    holds(convolutional(), "x=1..4x1x16..400", sizes, x=("N", 1, "T"))


def test_a_symbol_with_one_number_is_a_number() -> None:
    made = holds(convolutional(), "x=1..4x1x40", [(2, 1, 40)], x=("N", 1, "T"))
    (value,) = made.package.main.inputs
    assert value.type.shape[2] == 40 and not isinstance(value.type.shape[0], int)


def heads(x: str = "x") -> Build:
    """(N, T, 8) into two heads and back, attention between positions."""
    b = Build(x=normal(1, 5, 8))
    q, k, v = (b("MatMul", x, normal(8, 8, seed=s)) for s in range(3))
    split = [
        b("Transpose", b("Reshape", one, np.array([0, 0, 2, 4])), perm=[0, 2, 1, 3]) for one in (q, k, v)
    ]
    scores = b("MatMul", split[0], b("Transpose", split[1], perm=[0, 1, 3, 2]))
    joined = b("Transpose", b("MatMul", b("Softmax", scores, axis=-1), split[2]), perm=[0, 2, 1, 3])
    b("Reshape", joined, np.array([0, 0, 8]))
    return b


@pytest.mark.parametrize(
    ("shapes", "dims"),
    [("x=1x4..9x8", (1, "T", 8)), ("x=1..3x5x8", ("N", 5, 8)), ("x=1..3x4..9x8", ("N", "T", 8))],
)
def test_attention_over_free_batch_and_length(shapes: str, dims: tuple) -> None:
    sizes = [
        tuple(high if isinstance(d, str) else d for d, high in zip(dims, top, strict=True))
        for top in ((3, 9, 8), (1, 4, 8))
    ]
    made = holds(heads(), shapes, sizes, x=dims)
    assert made.counts["reshape"] == 4


def test_shapes_that_are_computed() -> None:
    """Sizes read when the program runs: a mask of the input's length, a slice between them, an expansion."""
    b = Build(x=normal(1, 5, 3))
    length = b("Gather", b("Shape", "x"), np.array(1))
    steps = b("Cast", b("Range", np.array(0), length, np.array(1)), to=1)
    b("Mul", "x", b("Unsqueeze", steps, np.array([1])))
    half = b("Unsqueeze", b("Div", length, np.array(2)), np.array([0]))
    b("Slice", "x", np.array([0]), half, np.array([1]))
    wide = b("Concat", np.array([2]), b("Shape", "x", start=1), axis=0)
    b("Expand", "x", wide)
    b("Concat", "x", b("ConstantOfShape", b("Shape", "x")), axis=2)
    b("Add", b("Expand", np.float32([[[1.0]]]), b("Shape", "x")), "x")
    holds(b, "x=1x2..9x3", [(1, 5, 3), (1, 8, 3), (1, 2, 3)], x=(1, "T", 3))


def test_movement_over_a_free_axis() -> None:
    b = Build(x=normal(1, 6, 4))
    b("Slice", "x", np.array([-2]), np.array([2**62]), np.array([1]))
    b("Slice", "x", np.array([1]), np.array([-1]), np.array([1]))
    b("Slice", "x", np.array([0]), np.array([2**62]), np.array([1]), np.array([2]))
    b("Slice", "x", np.array([-1]), np.array([-(2**62)]), np.array([1]), np.array([-1]))
    b("Pad", "x", np.array([0, 1, 0, 0, 2, 0]))
    b("Split", "x", np.array([1, 3]), axis=2, outputs=2)
    b("Flatten", "x", axis=1)
    b("Squeeze", "x", np.array([0]))
    b("GlobalAveragePool", b("Transpose", "x", perm=[0, 2, 1]))
    b("LayerNormalization", "x", normal(4), normal(4, seed=1))
    b("GroupNormalization", b("Transpose", "x", perm=[0, 2, 1]), normal(2), normal(2, seed=1), num_groups=2)
    holds(b, "x=1x3..20x4", [(1, 6, 4), (1, 3, 4), (1, 20, 4)], x=(1, "T", 4))


@pytest.mark.parametrize(
    ("build", "reason"),
    [
        (
            lambda b: b("LayerNormalization", "x", np.float32([1.0]), axis=1),
            "LayerNormalization over an axis of free size",
        ),
        (lambda b: b("Split", "x", axis=1, num_outputs=2, outputs=2), "Split of an axis of free size"),
        (lambda b: b("Gather", "x", np.array([-1]), axis=1), "from the end of an axis of free size"),
        (lambda b: b("Conv", "x", normal(2, 6, 3), auto_pad="SAME_UPPER", strides=[2]), "padding of Conv"),
        (
            lambda b: b("Slice", "x", np.array([-2]), np.array([0]), np.array([1]), np.array([-1])),
            "Slice backwards",
        ),
    ],
)
def test_what_needs_a_number_says_so(build: object, reason: str) -> None:
    b = Build(x=normal(1, 6, 4))
    build(b)  # type: ignore[operator]
    shape = (1, 6, "T") if "Conv" in reason else (1, "T", 4)
    graph = b.graph(x=shape)
    (finding,) = findings(graph)
    assert (
        finding.rule == "RUB-COREML-106" and reason in finding.reason and "--shapes fixed" in finding.remedy
    )
    with pytest.raises(Unsupported) as caught:
        lower(graph)
    assert reason in str(caught.value)
    assert compiled(b.graph()).gap(b.feeds) < 2e-6  # the same with a number
