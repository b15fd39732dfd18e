"""Peak activation memory, computed without running: what is live while each operation runs, in program order.

A value lives from the operation that makes it to the last one that reads it; inputs from the start, outputs
to the end. Reshapes share storage with what they read, which favours networks that have many. Nothing is
computed in place and weights are not counted. Core ML's real schedule and reuse are not known: the figures
compare graphs with each other, they do not predict what a device reports.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod

from rubicc.backends.coreml.lint.facts import Facts, Op, is_weight_op
from rubicc.backends.coreml.run.program import BITS, FLOATS, Block, Package, TensorType
from rubicc.errors import UsageError
from rubicc.ir.graph import Graph, op_key
from rubicc.ir.shapes import KNOWN, infer_shapes, static_shape

ALIGN = 64
STORAGE = {"fp16": 2, "fp32": 4}
_VIEWS = frozenset({"reshape", "squeeze", "expand_dims", "identity", "flatten2d"})
_GRAPH_VIEWS = frozenset({"Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity"})


@dataclass(frozen=True)
class ActivationMemory:
    """Memory of one run.

    Attributes:
        peak, peak_at: most bytes live at once, and the operation during which they are.
        largest, largest_name: bytes of the largest value, and its name.
        aligned_peak, aligned_largest: the same with every last axis rounded up to 64 bytes, as the Neural
            Engine stores it (Apple, Deploying Transformers on the Apple Neural Engine).
        storage: width of floating numbers: ``fp16``, ``fp32``, or ``declared``.
    """

    peak: int
    peak_at: str
    largest: int
    largest_name: str
    aligned_peak: int
    aligned_largest: int
    storage: str


@dataclass(frozen=True)
class _Step:
    """One operation: what it reads and makes; ``view`` if its result shares storage with what it reads."""

    name: str
    reads: tuple[str, ...]
    makes: tuple[str, ...]
    view: bool = False
    inside: int = 0  # bytes live within nested blocks, packed
    inside_aligned: int = 0


Sizes = Mapping[str, tuple[int, int]]  # value -> bytes packed, bytes aligned


def memory(
    package: Package,
    *,
    function: str | None = None,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    storage: str = "declared",
) -> ActivationMemory:
    """Activation memory of one call of a package.

    Args:
        package: as read from disk.
        function: which function; the default one when ``None``.
        shapes: value name -> shape where the package leaves axes free.
        storage: ``declared`` types, or ``fp16`` / ``fp32`` for every floating number.

    Raises:
        UsageError: ``RUB-COREML-403``, a value has no known shape.
    """
    inputs, steps, outputs, sizes = _of_package(package, function, shapes, storage)
    return _measure(inputs, steps, outputs, sizes, storage)


def timeline(
    package: Package,
    *,
    function: str | None = None,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    storage: str = "declared",
) -> list[tuple[str, int]]:
    """Operation in program order -> bytes alive while it runs; arguments and errors as :func:`memory`."""
    inputs, steps, outputs, sizes = _of_package(package, function, shapes, storage)
    return [(step.name, live[0]) for step, live in _sweep(inputs, steps, outputs, sizes)]


def _of_package(
    package: Package, function: str | None, shapes: Mapping[str, tuple[int, ...]] | None, storage: str
) -> tuple[list[str], list[_Step], tuple[str, ...], Sizes]:
    facts = Facts(package, function, shapes)
    sizes: dict[str, tuple[int, int]] = {}
    for name in (*(value.name for value in facts.function.inputs), *_made(facts.ops)):
        kind = facts.type(name)
        if kind is not None:
            sizes[name] = _sizes(name, kind, storage)
    block = facts.function.block
    inputs = [value.name for value in facts.function.inputs]
    return inputs, _steps(facts, block, sizes), block.outputs, sizes


def memory_of_graph(graph: Graph, bind: Mapping[str, int], storage: str = "fp16") -> ActivationMemory:
    """The same for a QONNX graph with its symbols bound; what follows from constants is not counted.

    Raises:
        UsageError: ``RUB-COREML-403``, a value has no known shape.
    """
    shaped = infer_shapes(graph, bind)
    constant = set(shaped.ir.initializers)
    sizes: dict[str, tuple[int, int]] = {}
    steps = []
    values = list(shaped.inputs)
    for node in shaped.nodes:
        reads = tuple(v.name for v in node.inputs if v is not None and v.name and v.name not in constant)
        known = all(KNOWN in value.meta for value in node.outputs)
        if known or (not reads and node.op_type != "RandomNormal"):
            constant |= {value.name for value in node.outputs if value.name}
            continue
        values += node.outputs
        makes = tuple(value.name for value in node.outputs if value.name)
        steps.append(_Step(node.name or "", reads, makes, op_key(node) in _GRAPH_VIEWS))
    for value in values:
        shape = static_shape(value)
        if not value.name:
            continue
        if shape is None:
            raise _unknown(value.name)
        stored = value.dtype
        floating = stored is None or stored.is_floating_point()
        sizes[value.name] = _bytes(
            shape, STORAGE[storage] if floating or stored is None else int(stored.itemsize)
        )
    inputs = [value.name for value in shaped.inputs if value.name]
    outputs = [value.name for value in shaped.outputs if value.name]
    return _measure(inputs, steps, outputs, sizes, storage)


def _made(ops: Iterable[Op]) -> list[str]:
    names = []
    for op in ops:
        if not op.is_weight:
            names += [value.name for value in op.operation.outputs]
            names += [value.name for block in op.operation.blocks for value in block.inputs]
    return names


def _steps(facts: Facts, block: Block, sizes: Sizes) -> list[_Step]:
    steps = []
    for operation in block.operations:
        if is_weight_op(operation.type):
            continue
        reads = [name for argument in operation.inputs.values() for name in argument.names if name in sizes]
        inside = aligned = 0
        for inner in operation.blocks:
            names = [value.name for value in inner.inputs]
            taken = _measure(names, _steps(facts, inner, sizes), inner.outputs, sizes, "")
            inside, aligned = max(inside, taken.peak), max(aligned, taken.aligned_peak)
        makes = tuple(value.name for value in operation.outputs if value.name in sizes)
        view = operation.type in _VIEWS and len(reads) == 1
        steps.append(_Step(operation.name, tuple(reads), makes, view, inside, aligned))
    return steps


def _measure(
    inputs: Sequence[str], steps: Sequence[_Step], outputs: Sequence[str], sizes: Sizes, storage: str
) -> ActivationMemory:
    """What the sweep adds up to."""
    given = [sum(sizes[name][kind] for name in set(inputs) if name in sizes) for kind in (0, 1)]
    peak, where, aligned = given[0], "the inputs", given[1]
    for step, live in _sweep(inputs, steps, outputs, sizes):
        if live[0] > peak:
            peak, where = live[0], step.name
        aligned = max(aligned, live[1])
    largest = max(sizes, key=lambda name: sizes[name][0], default="")
    packed, _ = sizes.get(largest, (0, 0))
    widest = max((both[1] for both in sizes.values()), default=0)
    return ActivationMemory(peak, where, packed, largest, aligned, widest, storage)


def _sweep(
    inputs: Sequence[str], steps: Sequence[_Step], outputs: Sequence[str], sizes: Sizes
) -> Iterator[tuple[_Step, tuple[int, int]]]:
    """Each step with the bytes alive while it runs, packed and aligned."""
    owner = {name: name for name in inputs}
    for step in steps:
        for name in step.makes:
            owner[name] = owner.get(step.reads[0], step.reads[0]) if step.view and step.reads else name
    last: dict[str, int] = {}
    for index, step in enumerate(steps):
        for name in (*step.reads, *step.makes):
            last[owner.get(name, name)] = index
    last.update({owner.get(name, name): len(steps) for name in outputs})
    live = {name for name in inputs if name in sizes}
    now = [sum(sizes[name][kind] for name in live) for kind in (0, 1)]
    for index, step in enumerate(steps):
        for name in step.makes:
            if owner[name] == name and name not in live:
                live.add(name)
                now = [total + sizes[name][kind] for kind, total in enumerate(now)]
        yield step, (now[0] + step.inside, now[1] + step.inside_aligned)
        for name in {owner.get(n, n) for n in (*step.reads, *step.makes)}:
            if name in live and last[name] <= index:
                live.remove(name)
                now = [total - sizes[name][kind] for kind, total in enumerate(now)]


def _sizes(name: str, kind: TensorType, storage: str) -> tuple[int, int]:
    if None in kind.shape:
        raise _unknown(name)
    shape = tuple(size for size in kind.shape if size is not None)
    width = STORAGE[storage] if storage in STORAGE and kind.dtype in FLOATS else max(1, BITS[kind.dtype] // 8)
    return _bytes(shape, width)


def _bytes(shape: Sequence[int], width: int) -> tuple[int, int]:
    if not shape:
        return width, ALIGN
    rows, last = prod(shape[:-1]), shape[-1] * width
    return rows * last, rows * (-(-last // ALIGN) * ALIGN)


def _unknown(name: str) -> UsageError:
    return UsageError(
        "RUB-COREML-403",
        f"the shape of {name!r} is not known",
        hint="give shapes, or compile with fixed ones",
    )
