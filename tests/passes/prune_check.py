"""What pruning is checked against: the same network with zeros in place of what is cut out, bit for bit."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import onnx_ir as ir

from rubicc.ir.executor import execute
from rubicc.ir.graph import Graph
from rubicc.ir.ops import KERNELS
from rubicc.ir.ops import recurrent as kernels
from rubicc.ir.verify import verify
from rubicc.passes.harness import random_feeds
from rubicc.passes.prune.groups import Coupling, groups
from rubicc.passes.prune.slicing import cut
from rubicc.passes.rewrite import Editor, constant, is_standard

# Results of these are brought to few bits, so that every sum of products is exact in float64 and does not
# depend on how many zeros stand between its terms. Both networks run on the same kernels.
COARSE = (
    *("Conv", "ConvTranspose", "MatMul", "Gemm", "Einsum", "Add", "Mul", "Sub", "Sigmoid", "Tanh", "Gelu"),
    *("Softmax", "BatchNormalization", "LayerNormalization", "InstanceNormalization", "GRU", "LSTM", "RNN"),
    *("GlobalAveragePool", "Div", "Sqrt", "ReduceMean", "GroupNormalization", "Pow"),
)


def coarse(array: np.ndarray, steps: int = 16, limit: float = 16.0) -> np.ndarray:
    """Multiples of 1/steps within the limit; integers as they are."""
    return array if array.dtype.kind != "f" else np.clip(np.round(array * steps) / steps, -limit, limit)


@contextmanager
def exact_sums() -> Iterator[None]:
    """The executor with coarse results of every operator that could make many bits."""
    kept = {("", op): KERNELS[("", op)] for op in COARSE}
    inner = dict(kernels._ACTIVATIONS)

    def rounded(kernel):  # type: ignore[no-untyped-def]
        def run(call):  # type: ignore[no-untyped-def]
            result = kernel(call)
            many = isinstance(result, (list, tuple))
            return [coarse(np.asarray(a)) for a in result] if many else coarse(np.asarray(result))

        return run

    KERNELS.update({key: rounded(kernel) for key, kernel in kept.items()})
    for name, function in inner.items():
        kernels._ACTIVATIONS[name] = lambda x, f=function: coarse(f(x), 4, 4.0)
    try:
        yield
    finally:
        KERNELS.update(kept)
        kernels._ACTIVATIONS.update(inner)


def masked(graph: Graph, coupling: Coupling, removed: Collection[int]) -> Graph:
    """The graph with every value multiplied by 0 where a channel goes, as soon as it is made.

    Recurrent layers read their own output, so the columns that read a unit become 0 too. Layer
    normalisation runs over what stays.
    """
    work = graph.clone()
    edit = Editor(work, "test.mask")
    for node in list(work.ir):
        if is_standard(node, "GRU", "LSTM", "RNN"):
            hidden = coupling.walk.axes[node.outputs[0].name or node.outputs[1].name or ""][-1]
            recurrence = constant(node.inputs[2])
            stays = coupling.kept(removed, hidden, recurrence.shape[2])
            node.replace_input_with(2, edit.initializer("masked", recurrence * stays.astype(np.float32)))
        if is_standard(node, "LayerNormalization"):
            _normalise_rest(edit, node, coupling, removed)
            continue
        for value in list(node.outputs):
            for axis, vector in enumerate(coupling.walk.axes.get(value.name or "", [])):
                if vector is not None:
                    stays = coupling.kept(removed, vector, vector.size)
                    value = value if stays.all() else _mask(edit, node, value, axis, stays)
    return work


def _mask(edit: Editor, node: ir.Node, value: ir.Value, axis: int, stays: np.ndarray) -> ir.Value:
    rank = len(value.shape)
    array = stays.astype(np.float32).reshape([-1 if k == axis else 1 for k in range(rank)])
    uses = list(value.uses())
    zero = edit.initializer("zero", np.float32(0))
    made = ir.node("Where", [edit.initializer("stays", array != 0), value, zero])
    made.name = edit.fresh_node("mask")
    made.outputs[0].name = edit.fresh("masked")
    made.outputs[0].shape, made.outputs[0].type = value.shape, value.type
    work = node.graph
    last = value.producer()
    work.insert_after(last, made)
    for use in uses:
        use.node.replace_input_with(use.idx, made.outputs[0])
    return made.outputs[0]


def _normalise_rest(edit: Editor, node: ir.Node, coupling: Coupling, removed: Collection[int]) -> None:
    """LayerNormalization of the channels that stay, put back between zeros."""
    value = node.outputs[0]
    vector = coupling.walk.axes[value.name or ""][-1]
    if vector is None:
        return
    stays = coupling.kept(removed, vector, vector.size)
    if stays.all():
        return
    kept = np.flatnonzero(stays)
    uses, owner = list(value.uses()), node.graph

    def made(op: str, inputs: list[ir.Value], **attributes: int) -> ir.Node:
        one = ir.node(op, inputs, attributes)
        one.name, one.outputs[0].name = edit.fresh_node(op), edit.fresh(op)
        return one

    pick = made("Gather", [node.inputs[0], edit.initializer("kept", kept)], axis=-1)
    owner.insert_before(node, pick)
    node.replace_input_with(0, pick.outputs[0])
    for index in (1, 2):
        if index < len(node.inputs) and node.inputs[index] is not None:
            node.replace_input_with(index, edit.initializer("part", constant(node.inputs[index])[stays]))
    rank = len(value.shape)
    pads = np.zeros(2 * rank, np.int64)
    pads[-1] = 1
    wide = made("Pad", [value, edit.initializer("pads", pads)])
    back = np.where(stays, np.cumsum(stays) - 1, len(kept))
    put = made("Gather", [wide.outputs[0], edit.initializer("back", back)], axis=-1)
    owner.insert_after(node, wide)
    owner.insert_after(wide, put)
    for use in uses:
        use.node.replace_input_with(use.idx, put.outputs[0])
    value.shape = None


def some(coupling: Coupling, rng: np.random.Generator) -> frozenset[int]:
    """Any channels of any groups, at least one of each stays."""
    removed: set[int] = set()
    for group in coupling.groups:
        count = int(rng.integers(0, group.size)) if rng.random() < 0.8 else 0
        removed.update(int(label) for label in rng.permutation(group.labels)[:count])
    return frozenset(removed)


def check(
    graph: Graph,
    seed: int,
    *,
    norms: bool = False,
    tolerance: float = 0.0,
    sizes: Mapping[str, int] | None = None,
    couple: Callable[..., Coupling] = groups,
) -> int:
    """Cut anything out of a copy of ``graph`` and compare with zeros in its place.

    Args:
        tolerance: largest difference, as a share of the largest number; 0: none, bit for bit.
        sizes: numbers for free dimensions.
        couple: how channels are coupled; mutants give a wrong one.

    Returns:
        How many channels went.
    """
    rng = np.random.default_rng(seed)
    coupling = couple(graph, norms=norms)
    removed = some(coupling, rng)
    small = graph.clone()
    cut(small, coupling, removed, "test.prune")
    verify(small)
    feeds = random_feeds(graph, seed, sizes or coupling.walk.bound)
    feeds = {name: coarse(array, 4, 2.0) for name, array in feeds.items()}
    old = execute(masked(graph, coupling, removed), feeds, dtype=np.float64)
    new = execute(small, feeds, dtype=np.float64, keep="all")
    for value in [v for node in small.nodes for v in node.outputs if v.name and v.shape is not None]:
        real = new[value.name].shape
        assert all(not isinstance(d, int) or d == n for d, n in zip(value.shape, real, strict=True)), value
    for name, reference in old.items():
        got = new[name]
        assert got.shape == reference.shape
        if tolerance:
            np.testing.assert_allclose(got, reference, rtol=0, atol=tolerance * np.abs(reference).max())
        else:
            assert np.array_equal(got, reference), f"{name} differs by {np.abs(got - reference).max()}"
    return len(removed)
