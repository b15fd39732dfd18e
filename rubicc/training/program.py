"""A graph read once for training: what is constant, what hangs on shapes alone, what is computed."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from rubicc.errors import Unsupported, VerificationFailed
from rubicc.ir.graph import Graph, op_key, source_of
from rubicc.ir.ops import KERNEL_FAILURES, KERNELS, Call, KernelError, carried
from rubicc.training.ops import BUILDERS

SIZES = ("Shape", "Size")
_JOINS_BIAS = ("MatMul",)
# Producers whose backward does not read their result: a Relu may overwrite it.
_FORGETS = ("Conv", "ConvTranspose", "Add", "Sub", "BatchNormalization", "Gemm", "MatMul", "rubicc::Linear")


@dataclass
class Item:
    """One operation of the program.

    Attributes:
        key: entry of the table; an operator key, or ``rubicc::...`` for nodes that were joined.
        node: the node (the last one of a joined group): attributes and provenance.
        inputs, outputs: values read and written.
        known: hangs on shapes alone.
        stored: input 0 is computed from weights alone.
        consumed: input 0 may be overwritten.
        last: values no later item reads.
    """

    key: str
    node: ir.Node
    inputs: list[ir.Value | None]
    outputs: list[ir.Value]
    known: bool = False
    stored: bool = False
    consumed: bool = False
    last: list[ir.Value] = field(default_factory=list)


@dataclass
class Program:
    """Items in order and the constants they read.

    Attributes:
        constants: folded values, floats in the type of the twin.
        items: what depends on shapes, data or weights.
    """

    constants: dict[ir.Value, np.ndarray]
    items: list[Item]


def refuse(graph: Graph) -> None:
    """Raise ``RUB-TRAIN-001`` listing every operator the twin has no form for."""
    rows: dict[str, str] = {}
    for node in graph.nodes:
        key = op_key(node)
        if key not in BUILDERS and key not in _FROM_SHAPES:
            rows.setdefault(key, source_of(node))
    if rows:
        raise Unsupported(
            "RUB-TRAIN-001",
            f"no trainable form of {', '.join(sorted(rows))}",
            where=", ".join(f"{key} from {where}" for key, where in sorted(rows.items())),
            hint="run the cleanup passes first; write Loop, Scan and If as GRU, LSTM or plain operators",
            findings=tuple(sorted(rows.items())),
        )


# Fine where they hang on shapes alone, which the plan finds out.
_FROM_SHAPES = ("Shape", "Size", "Constant", "ConstantOfShape", "Range", "NonZero")


def analyse(graph: Graph, weights: Collection[ir.Value], dtype: np.dtype, keep: Collection[str]) -> Program:
    """Sort the nodes of ``graph``.

    Args:
        weights: initializers that may change: no constant is folded from them.
        dtype: floating type of the twin.
        keep: names of values that must exist, whatever could be joined.

    Raises:
        VerificationFailed: ``RUB-TRAIN-002`` a constant cannot be computed.
    """
    constants = {
        value: carried(value.const_value.numpy(), dtype)
        for value in graph.ir.initializers.values()
        if value not in weights and value.const_value is not None
    }
    changing, known = set(weights), set(constants)
    items: list[Item] = []
    for node in graph.nodes:
        inputs = list(node.inputs)
        present = [value for value in inputs if value is not None]
        if all(value in constants for value in present):
            constants.update(zip(node.outputs, evaluate(graph, node, inputs, constants, dtype), strict=False))
            known.update(node.outputs)
            continue
        key = op_key(node)
        item = Item(key, node, inputs, list(node.outputs))
        item.known = key in SIZES or all(value in known for value in present)
        item.stored = inputs[0] in changing
        if item.known:
            known.update(node.outputs)
        elif all(value in changing or value in known for value in present):
            changing.update(node.outputs)
        items.append(item)
    kept = set(graph.outputs) | {v for i in items for v in i.outputs if v.name in keep}
    items = _joined(items, kept)
    _find_last(items, kept)
    return Program(constants, items)


def evaluate(
    graph: Graph,
    node: ir.Node,
    inputs: list[ir.Value | None],
    known: Mapping[ir.Value, np.ndarray],
    dtype: np.dtype,
) -> list[np.ndarray]:
    """Run one node in numpy, with the kernels of :mod:`rubicc.ir.executor`."""
    arrays = [None if value is None else known[value] for value in inputs]
    opset = graph.model.opset_imports.get(node.domain, 1)
    call = Call(node, arrays, opset, dtype, no_body)
    try:
        with np.errstate(all="ignore"):
            result = KERNELS[(node.domain if node.domain != "ai.onnx" else "", node.op_type)](call)
    except KERNEL_FAILURES as err:
        raise failed(node, err) from err
    return [np.asarray(a) for a in (result if isinstance(result, (list, tuple)) else [result])]


def no_body(*_: object) -> list[np.ndarray]:
    """Nested graphs are not run here."""
    raise KernelError("it has a nested graph")


def failed(node: ir.Node, err: BaseException) -> VerificationFailed:
    """``RUB-TRAIN-002`` naming the node and where it came from."""
    return VerificationFailed(
        "RUB-TRAIN-002",
        f"{op_key(node)} cannot be trained here: {err or type(err).__name__}",
        where=f"node {node.name!r} from {source_of(node)}",
        hint="check the shapes with `rubicc verify`; run the cleanup passes, which make constants of shapes",
    )


def _joined(items: list[Item], kept: set[ir.Value]) -> list[Item]:
    """Pairs that torch has one kernel for: product and bias, ``x * sigmoid(x)``."""
    readers = _readers(items)
    made = {value: item for item in items for value in item.outputs}
    gone: set[int] = set()
    for item in items:
        if item.known or len(item.inputs) != 2:
            continue
        for one, other in ((0, 1), (1, 0)):
            value, partner = item.inputs[one], item.inputs[other]
            before = made.get(value) if value is not None else None
            if value is None or before is None or partner is None or readers[value] != 1 or value in kept:
                continue
            joined = _pair(item, before, partner)
            if joined:
                gone.add(id(before))
                item.key, item.inputs = joined
                break
    return [item for item in items if id(item) not in gone]


def _pair(item: Item, before: Item, partner: ir.Value) -> tuple[str, list[ir.Value | None]] | None:
    """Key and inputs of the one operation that ``before`` then ``item`` are, or ``None``."""
    if item.key == "Mul" and before.key == "Sigmoid" and before.inputs == [partner]:
        return "rubicc::Silu", [partner]
    weight = before.inputs[1] if before.key in _JOINS_BIAS else None
    if item.key != "Add" or weight is None or not (weight.is_initializer() and partner.is_initializer()):
        return None
    if (_rank(weight), _rank(partner)) != (2, 1):
        return None
    return "rubicc::Linear", [before.inputs[0], weight, partner]


def _readers(items: list[Item]) -> dict[ir.Value, int]:
    """How often items read each value."""
    counts: dict[ir.Value, int] = {}
    for item in items:
        for value in item.inputs:
            if value is not None:
                counts[value] = counts.get(value, 0) + 1
    return counts


def _rank(value: ir.Value) -> int | None:
    return None if value.shape is None else len(value.shape)


def _find_last(items: list[Item], kept: set[ir.Value]) -> None:
    """Mark what each item reads last, and whether it may overwrite its input."""
    seen = set(kept)
    made = {value: item for item in items for value in item.outputs}
    for item in reversed(items):
        values = {value for value in (*item.inputs, *item.outputs) if value is not None}
        item.last = [value for value in values if value not in seen]
        seen |= values
    readers = _readers(items)
    for item in items:
        first = item.inputs[0] if item.inputs else None
        if item.key != "Relu" or first is None or readers[first] != 1 or first in kept:
            continue
        maker = made.get(first)
        item.consumed = maker is not None and not maker.known and maker.key in _FORGETS
