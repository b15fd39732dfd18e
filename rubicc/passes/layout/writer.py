"""Writes a chain of layout nodes on one value."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from rubicc.passes.layout.lengths import Length, LengthNodes
from rubicc.passes.rewrite import Editor


class Writer:
    """Nodes that stand for ``like``, before it or, one behind the other, after ``after``.

    Attributes:
        value: what the chain has made so far.
    """

    def __init__(self, edit: Editor, like: ir.Node, value: ir.Value, after: ir.Node | None = None) -> None:
        self.value = value
        self._edit, self._like, self._after = edit, like, after
        self._dims: list[Any] = list(value.shape) if value.shape is not None else [None] * 3

    def transpose(self, *perm: int) -> None:
        """Permute the axes."""
        self._then("Transpose", [], [self._dims[axis] for axis in perm], {"perm": list(perm)})

    def reshape(self, *dims: int) -> None:
        """Reshape; 0 keeps a dimension, -1 is what remains."""
        shape = self._numbers(dims)
        self._then("Reshape", [shape], _reshaped(self._dims, dims))

    def gather(self, index: np.ndarray) -> None:
        """Permute the last axis."""
        constant = self._edit.initializer(f"{self._like.name}_channels", index, self._like.graph)
        axis = len(self._dims) - 1
        self._then("Gather", [constant], list(self._dims), {"axis": axis})

    def pad(self, axis: int, amount: ir.Value) -> None:
        """Append ``amount`` zeros (a one-element vector) along ``axis`` of three."""
        pads = [self._numbers([0] * (3 + axis)), amount]
        if axis < 2:
            pads.append(self._numbers([0] * (2 - axis)))
        whole = self._made("Concat", pads, [6], {"axis": 0}, ir.DataType.INT64)
        dims = list(self._dims)
        dims[axis] = None
        self._then("Pad", [whole], dims)

    def crop(self, axis: int, lengths: LengthNodes, length: Length) -> None:
        """Keep the first ``length`` positions along ``axis``."""
        end = lengths.value(length, self._like)
        dims = list(self._dims)
        dims[axis] = length.number
        self._then("Slice", [self._numbers([0]), end, self._numbers([axis])], dims)

    def select(self, mask: ir.Value) -> None:
        """Zero where ``mask`` (bool, broadcast) does not hold."""
        assert self.value.dtype is not None
        zero = self._edit.initializer(
            f"{self._like.name}_zero", np.zeros((), self.value.dtype.numpy()), self._like.graph
        )
        self.value = self._made("Where", [mask, self.value, zero], self._dims, None, self.value.dtype)

    def finish(self, old: ir.Value, shape: ir.Shape | None, uses: Sequence[tuple[ir.Node, int]]) -> None:
        """Let the result take the place that ``old`` had for ``uses``, and as a graph output."""
        if shape is not None:
            self.value.shape = shape.copy()
        for node, index in uses:
            node.replace_input_with(index, self.value)
        if not old.is_graph_output():
            return
        outputs = self._edit.graph.ir.outputs
        name, old.name = old.name, self._edit.fresh(f"{old.name}_phases")
        self.value.name = name
        self.value.doc_string = old.doc_string
        self.value.metadata_props.update(old.metadata_props)
        for index, value in enumerate(list(outputs)):
            if value is old:
                outputs[index] = self.value

    def _numbers(self, numbers: Sequence[int]) -> ir.Value:
        array = np.asarray(numbers, np.int64)
        return self._edit.initializer(f"{self._like.name}_numbers", array, self._like.graph)

    def _then(
        self, op: str, inputs: list[ir.Value], dims: list[Any], attributes: dict[str, Any] | None = None
    ) -> None:
        self.value = self._made(op, [self.value, *inputs], dims, attributes, self.value.dtype)
        self._dims = dims

    def _made(
        self,
        op: str,
        inputs: list[ir.Value],
        dims: list[Any],
        attributes: dict[str, Any] | None,
        dtype: ir.DataType | None,
    ) -> ir.Value:
        made = self._edit.node(
            op, inputs, like=self._like, attributes=attributes, shape=ir.Shape(dims), dtype=dtype
        )
        if self._after is not None:
            graph = self._after.graph
            assert graph is not None
            graph.remove(made)
            graph.insert_after(self._after, made)
            self._after = made
        return made.outputs[0]


def _reshaped(old: list[Any], dims: Sequence[int]) -> list[Any]:
    new: list[Any] = [old[axis] if dim == 0 else dim for axis, dim in enumerate(dims)]
    if -1 not in new:
        return new
    place, known = new.index(-1), [dim for dim in new if dim != -1]
    if all(isinstance(dim, int) for dim in old[1:]) and new[0] == old[0]:
        whole = int(np.prod([int(dim) for dim in old[1:]], dtype=np.int64))
        new[place] = whole // int(np.prod([int(dim) for dim in known[1:]], dtype=np.int64))
    else:
        new[place] = None
    return new
