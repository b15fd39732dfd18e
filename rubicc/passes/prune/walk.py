"""One walk through a graph that gives every axis of every value its labels (:mod:`.labels`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from rubicc.errors import VerificationFailed
from rubicc.ir.graph import Graph, op_key, source_of
from rubicc.ir.shapes import KNOWN, dims_of, infer_shapes, static_shape
from rubicc.passes.prune.labels import Labels, Vector
from rubicc.passes.rewrite import Editor, constant, is_constant

Axes = list[Vector]
Results = Sequence[Axes]
Rule = Callable[["Walk", ir.Node], Results]
_BATCH = 3
_LENGTHS = (1009, 251, 61, 31, 64, 16)  # tried for free dimensions; the first that suits the network


class Lost(Exception):
    """Why labels cannot be followed through a node."""


@dataclass(frozen=True)
class Weight:
    """An initializer, or one use of it where every reader may have its own copy.

    Attributes:
        name: of the initializer.
        use: index of the node and of its input; ``None``: all uses together.
        axes: labels of its axes.
    """

    name: str
    use: tuple[int, int] | None
    axes: tuple[Vector, ...]


@dataclass(frozen=True)
class Produced:
    """Channels that a node makes: ``kind`` says what they are (``channels``, ``hidden units``...)."""

    node: int
    source: str
    kind: str
    axis: Vector


Kept = Callable[[Vector, int], np.ndarray]  # labels and length of an axis -> which positions stay
Patch = Callable[[Editor, ir.Node, Kept], None]


class Walk:
    """Labels of a graph.

    Args:
        graph: a legal graph with constants as initializers; left as it is.
        norms: let channels go that a normalisation over them counts (LayerNormalization and its like).

    Attributes:
        axes: labels of every value of the main graph, by its name.
        weights: labelled initializers.
        produced: channels by the nodes that make them.
        normalised: axes over which something is normalised.
        patches: edits of attributes and of constants that count positions, by index of the node.
    """

    def __init__(self, graph: Graph, *, norms: bool = False) -> None:
        self.labels = Labels()
        self.norms = norms
        self.axes: dict[str, Axes] = {}
        self.weights: list[Weight] = []
        self.produced: list[Produced] = []
        self.normalised: list[np.ndarray] = []
        self.patches: list[tuple[int, Patch]] = []
        self.bound, self.shaped = _shaped(graph)
        self.opset = graph.opset
        self._index = -1
        self._labelled: dict[tuple[str, tuple[int, int] | None], Axes] = {}
        for value in self.shaped.inputs:
            self._store(value, [None] * len(dims_of(value) or ()))
        for index, node in enumerate(self.shaped.nodes):
            self._index = index
            self._step(node)
        for value in self.shaped.outputs:
            for axis in self.axes.get(value.name or "", self._labelled.get((value.name or "", None), [])):
                self.labels.fix(axis, f"is the model's output {value.name!r}")

    def _step(self, node: ir.Node) -> None:
        from rubicc.passes.prune.rules import RULES

        rule = RULES.get(op_key(node))
        try:
            if rule is None:
                raise Lost(f"{op_key(node)} cannot be followed")
            results = rule(self, node)
        except Lost as why:
            self._protect(node, str(why))
            results = []
        for index, value in enumerate(node.outputs):
            dims = dims_of(value)
            rank = len(dims) if dims is not None else 0
            axes: Axes = list(results[index]) if index < len(results) else [None] * rank
            self._store(value, axes)

    def _store(self, value: ir.Value, axes: Axes) -> None:
        if value.name:
            self.axes[value.name] = axes

    def _protect(self, node: ir.Node, why: str) -> None:
        from rubicc.ir.executor import values_read

        reason = f"{why} at {source_of(node)}"
        for index in range(len(node.inputs)):
            for axis in self.of(node, index):
                self.labels.fix(axis, reason)
        for value in values_read(node):
            for axis in self.axes.get(value.name or "", []):
                self.labels.fix(axis, reason)
            if is_constant(value) and value not in node.inputs:
                for axis in self._initializer(value, None):
                    self.labels.fix(axis, reason)

    def of(self, node: ir.Node, index: int) -> Axes:
        """Labels of the axes of an input; ``[]`` where it is left out or a number."""
        value = node.inputs[index] if index < len(node.inputs) else None
        if value is None:
            return []
        if value.name in self.axes:
            return self.axes[value.name]
        return self._initializer(value, (self._index, index)) if is_constant(value) else []

    def _initializer(self, value: ir.Value, use: tuple[int, int] | None) -> Axes:
        """Fresh labels; every reader of a vector has its own: equal vectors are often one by chance."""
        shape, name = static_shape(value) or (), value.name or ""
        if sum(size > 1 for size in shape) > 1:
            use = None
        if (name, use) in self._labelled:  # rules may ask twice
            return self._labelled[name, use]
        counts = value.dtype == ir.DataType.INT64 and len(shape) < 2  # positions and lengths, no channels
        axes: Axes = [self.labels.fresh(size) if size > 1 and not counts else None for size in shape]
        self.weights.append(Weight(name, use, tuple(axes)))
        self._labelled[name, use] = axes
        return axes

    # what rules ask for -------------------------------------------------------------------------------------

    def shape(self, value: ir.Value | None) -> tuple[int, ...]:
        """Shape at the probed sizes; :class:`Lost` when it is unknown."""
        shape = static_shape(value)
        if shape is None:
            raise Lost(f"a shape is unknown ({value.name if value is not None else 'input left out'})")
        return shape

    def rank(self, value: ir.Value | None) -> int:
        """Number of axes; :class:`Lost` when it is unknown."""
        dims = None if value is None else dims_of(value)
        if dims is None:
            raise Lost(f"a rank is unknown ({value.name if value is not None else 'input left out'})")
        return len(dims)

    def numbers(self, node: ir.Node, name: str, index: int) -> list[int] | None:
        """Integers from an attribute or from an input that is constant at the probed sizes."""
        if name in node.attributes:
            found = node.attributes[name].value
            return [int(found)] if isinstance(found, int) else [int(n) for n in found]
        value = node.inputs[index] if 0 <= index < len(node.inputs) else None
        if value is None:
            return None
        array = constant(value)
        array = value.meta.get(KNOWN) if array is None else array
        if array is None:
            raise Lost(f"{node.op_type} with a computed {name}")
        return [int(n) for n in np.asarray(array).reshape(-1)]

    def why(self, node: ir.Node) -> str:
        """The reason of a demand that ``node`` makes."""
        return f"meets an axis that cannot shrink at {source_of(node)}"

    def equate(self, node: ir.Node, one: Vector, other: Vector) -> None:
        """Positions of two axes that meet at ``node`` go together."""
        try:
            self.labels.equate(one, other, self.why(node))
        except ValueError as err:
            raise Lost(str(err)) from err

    def fix(self, node: ir.Node, axes: Sequence[Vector], what: str) -> None:
        """These axes cannot shrink because of what ``node`` does."""
        for axis in axes:
            self.labels.fix(axis, f"{what} at {source_of(node)}")

    def normalise(self, node: ir.Node, axis: Vector) -> None:
        """``node`` normalises over an axis: without some of its positions the others change."""
        if axis is None:
            return
        if self.norms:
            self.normalised.append(axis)
        else:
            self.fix(node, [axis], f"{node.op_type} normalises over it")

    def makes(self, node: ir.Node, kind: str, axis: Vector) -> None:
        """Record that ``node`` makes the channels of ``axis``."""
        self.produced.append(Produced(self._index, source_of(node), kind, axis))

    def patch(self, edit: Patch) -> None:
        """When something is cut out, edit the node at hand."""
        self.patches.append((self._index, edit))


def _shaped(graph: Graph) -> tuple[dict[str, int], Graph]:
    """The graph with numbers for its free dimensions, at the first sizes that leave no shape unknown."""
    best: tuple[int, dict[str, int], Graph] | None = None
    for length in _LENGTHS:
        bind: dict[str, int] = {}
        for value in graph.inputs:
            for axis, dim in enumerate(dims_of(value) or ()):
                if isinstance(dim, str):
                    bind.setdefault(dim, _BATCH if axis == 0 else length)
        try:
            shaped = infer_shapes(graph, bind)
        except VerificationFailed:  # the network has a largest length, or only some fit
            continue
        unknown = sum(static_shape(v) is None for node in shaped.nodes for v in node.outputs if v.name)
        if best is None or unknown < best[0]:
            best = unknown, bind, shaped
        if unknown == 0 or not bind:
            break
    if best is None:
        return {}, infer_shapes(graph)
    return best[1], best[2]
