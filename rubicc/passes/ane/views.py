"""Reshapes and transposes that only rename axes, as one small algebra.

A *view* says of every result axis which source axis it is. Transpose, Squeeze, Unsqueeze and the Reshape that
adds or drops axes of size 1 are views; so is any chain of them, and the whole chain can be written again with
the fewest nodes: none, one, or two.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from rubicc.ir.shapes import Dim, dims_of
from rubicc.passes.cleanup.merge_transposes import permutation
from rubicc.passes.rewrite import Editor, constant, is_standard, rank

MOVERS = ("Transpose", "Squeeze", "Unsqueeze", "Reshape")
AXES_INPUT = 13  # operator set from which Squeeze and Unsqueeze take their axes as an input


@dataclass(frozen=True)
class View:
    """Which source axis every result axis is.

    Attributes:
        rank: of the source.
        axes: per result axis a source axis, or ``None`` for a new axis of size 1. Source axes that do not
            occur have size 1 and are dropped. No view has both new and dropped axes: a new axis *is* a
            dropped one as long as there are any.
    """

    rank: int
    axes: tuple[int | None, ...]

    @classmethod
    def of(cls, rank: int, axes: Sequence[int | None]) -> View:
        """The view with dropped axes reused as new ones, each in its old place where that is free."""
        made = list(axes)
        dropped = [axis for axis in range(rank) if axis not in made]
        for axis in list(dropped):
            if axis < len(made) and made[axis] is None:
                made[axis] = axis
                dropped.remove(axis)
        for place, old in enumerate(made):
            if old is None and dropped:
                made[place] = dropped.pop(0)
        return cls(rank, tuple(made))

    @property
    def is_identity(self) -> bool:
        """Whether nothing changes."""
        return self.axes == tuple(range(self.rank))

    @property
    def dropped(self) -> tuple[int, ...]:
        """Source axes that do not occur in the result."""
        return tuple(axis for axis in range(self.rank) if axis not in self.axes)

    def then(self, other: View) -> View:
        """First this view, then ``other``."""
        return View.of(self.rank, [None if axis is None else self.axes[axis] for axis in other.axes])

    def inverse(self) -> View:
        """The view that undoes this one."""
        places = {axis: place for place, axis in enumerate(self.axes) if axis is not None}
        return View.of(len(self.axes), [places.get(axis) for axis in range(self.rank)])

    def dims(self, source: Sequence[Dim]) -> list[Dim]:
        """Dims of the result."""
        return [1 if axis is None else source[axis] for axis in self.axes]

    def steps(self) -> list[tuple[str, tuple[int, ...]]]:
        """The nodes that compute it: operator and its axes (``perm`` of a Transpose); at most two."""
        found: list[tuple[str, tuple[int, ...]]] = []
        kept = [axis for axis in self.axes if axis is not None]
        if self.dropped:
            found.append(("Squeeze", self.dropped))
        order = sorted(kept)
        if kept != order:
            found.append(("Transpose", tuple(order.index(axis) for axis in kept)))
        new = tuple(place for place, axis in enumerate(self.axes) if axis is None)
        if new:
            found.append(("Unsqueeze", new))
        return found


def array_as_view(array: np.ndarray, view: View) -> np.ndarray:
    """``array``, which broadcasts against the results of ``view``, for use against its sources.

    A new axis of the view must have size 1 in the array.
    """
    whole = array.reshape((1,) * (len(view.axes) - array.ndim) + array.shape)
    taken = [place for place, axis in enumerate(view.axes) if axis is None]
    if taken:
        whole = whole.squeeze(tuple(taken))
    kept = [axis for axis in view.axes if axis is not None]
    turned = whole.transpose(np.argsort(kept)) if kept else whole
    return np.expand_dims(turned, view.dropped) if view.dropped else turned


def view_of(node: ir.Node) -> View | None:
    """The view that ``node`` computes; ``None`` when it does more, or its ranks are unknown."""
    if not is_standard(node, *MOVERS) or not node.inputs:
        return None
    before, after = rank(node.inputs[0]), rank(node.outputs[0])
    if node.op_type == "Transpose":
        perm = permutation(node)
        return None if perm is None else View.of(len(perm), perm)
    if before is None or after is None:
        return None
    if node.op_type == "Reshape":
        return _of_reshape(node, before)
    axes = _axes(node)
    if axes is None:
        return None
    if node.op_type == "Squeeze":
        gone = {axis % before for axis in axes}
        return View.of(before, [axis for axis in range(before) if axis not in gone])
    new = {axis % after for axis in axes}
    old = iter(range(before))
    return View.of(before, [None if place in new else next(old) for place in range(after)])


def _axes(node: ir.Node) -> list[int] | None:
    """Axes of Squeeze and Unsqueeze; those of a Squeeze that names none, where the dims are known."""
    if "axes" in node.attributes:
        return list(node.attributes.get_ints("axes") or ())
    if len(node.inputs) > 1 and node.inputs[1] is not None:
        array = constant(node.inputs[1])
        return None if array is None else [int(axis) for axis in array.reshape(-1)]
    value = node.inputs[0]
    dims = dims_of(value) if value is not None else None
    if dims is None or not all(isinstance(dim, int) for dim in dims):
        return None
    return [axis for axis, dim in enumerate(dims) if dim == 1]


_ANY = object()  # what -1 stands for


def _of_reshape(node: ir.Node, before: int) -> View | None:
    """A Reshape is a view when, axes of size 1 aside, dims stay the same in the same order."""
    value, target = node.inputs[0], constant(node.inputs[1])
    source = dims_of(value) if value is not None else None
    result = dims_of(node.outputs[0])
    if source is None or result is None or target is None or len(result) != target.size:
        return None
    keeps_zero = node.attributes.get_int("allowzero", 0) == 0
    have: list[object] = [dim if dim is not None else ("axis", axis) for axis, dim in enumerate(source)]
    want: list[object] = []
    for place, number in enumerate(target.reshape(-1).tolist()):
        if number == 0 and keeps_zero and place < before:
            want.append(have[place])
        elif number == -1:
            known = result[place]
            want.append(_ANY if known is None else known)
        else:
            want.append(number)
    old = [axis for axis, dim in enumerate(have) if dim != 1]
    new = [place for place, dim in enumerate(want) if dim != 1]
    if len(old) != len(new):
        return None
    if any(want[p] is not _ANY and want[p] != have[a] for a, p in zip(old, new, strict=True)):
        return None
    pairs = dict(zip(new, old, strict=True))
    return View.of(before, [pairs.get(place) for place in range(len(want))])


def apply_view(
    edit: Editor, value: ir.Value, view: View, like: ir.Node, *, after: ir.Node | None = None
) -> ir.Value:
    """Nodes that compute ``view`` of ``value``, standing for ``like``: before it, or behind ``after``."""
    dims: list[Dim] = list(dims_of(value) or [None] * view.rank)
    for op, axes in view.steps():
        inputs: list[ir.Value | None] = [value]
        attributes: dict[str, object] = {}
        if op == "Transpose":
            dims = [dims[axis] for axis in axes]
            attributes["perm"] = list(axes)
        else:
            if op == "Squeeze":
                dims = [dim for axis, dim in enumerate(dims) if axis not in axes]
            else:
                for axis in axes:
                    dims.insert(axis, 1)
            if edit.graph.opset >= AXES_INPUT:
                inputs.append(edit.initializer(f"{like.name}_axes", np.asarray(axes, np.int64), like.graph))
            else:
                attributes["axes"] = list(axes)
        shape, dtype = ir.Shape(dims), value.dtype
        made = edit.node(op, inputs, like=like, attributes=attributes, shape=shape, dtype=dtype)
        if after is not None:
            move_behind(made, after)
            after = made
        value = made.outputs[0]
    return value


def move_behind(node: ir.Node, after: ir.Node) -> None:
    """Let ``node`` stand directly behind ``after``."""
    graph = after.graph
    assert graph is not None
    graph.remove(node)
    graph.insert_after(after, node)


def origin(value: ir.Value) -> tuple[ir.Value, View, list[ir.Node]]:
    """Where a chain of views that makes ``value`` starts.

    Returns:
        The source, the view of it that ``value`` is, and the chain, last node first (empty: no view).
    """
    dims = rank(value) or 0
    view = View.of(dims, range(dims))
    chain: list[ir.Node] = []
    while True:
        node = value.producer()
        step = view_of(node) if node is not None else None
        if node is None or step is None or node.inputs[0] is None:
            return value, view, chain
        view = step.then(view)
        chain.append(node)
        value = node.inputs[0]


def exclusive(chain: Sequence[ir.Node]) -> int:
    """How many nodes of ``chain`` (last first) go when nobody needs the last one's value any more."""
    count = 0
    for node in chain:
        value = node.outputs[0]
        if count and (value.is_graph_output() or len(value.uses()) != 1):
            break
        count += 1
    return count
