"""Writes a chain of layout nodes on one value."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from rubicc.passes.layout.lengths import Length, LengthNodes
from rubicc.passes.rewrite import Editor, constant, is_standard


class Writer:
    """Nodes that stand for ``like``, before it or, one behind the other, after ``after``.

    With ``stored``, where the value to start from has just been dequantised, the chain works on the integers
    before it and :meth:`done` dequantises: ONNX Runtime fuses a convolution only with the dequantisation
    directly in front of it. OpenVINO wants quantiser and dequantiser side by side, and
    moves bytes all the same.

    Attributes:
        value: what the chain has made so far.
    """

    def __init__(
        self,
        edit: Editor,
        like: ir.Node,
        value: ir.Value,
        *,
        after: ir.Node | None = None,
        stored: bool = False,
    ) -> None:
        self._edit, self._like, self._after = edit, like, after
        self._dims: list[Any] = list(value.shape) if value.shape is not None else [None] * 3
        self._dequantise = _dequantiser(value) if stored else None
        integers = None if self._dequantise is None else self._dequantise.inputs[0]
        self.value = value if integers is None else integers

    def done(self) -> ir.Value:
        """The result, dequantised where the start was."""
        old = self._dequantise
        if old is None:
            return self.value
        dtype = old.outputs[0].dtype
        self.value = self._made("DequantizeLinear", [self.value, *old.inputs[1:]], self._dims, None, dtype)
        self._dequantise = None
        return self.value

    def _zero(self) -> np.ndarray:
        """What stands for zero in the values moved."""
        assert self.value.dtype is not None
        old = self._dequantise
        zero = constant(old.inputs[2]) if old is not None and len(old.inputs) > 2 else None
        return np.zeros((), self.value.dtype.numpy()) if zero is None else zero.reshape(())

    def transpose(self, *perm: int) -> None:
        """Permute the axes."""
        self._then("Transpose", [], [self._dims[axis] for axis in perm], {"perm": list(perm)})

    def reshape(self, *dims: int) -> None:
        """Reshape; 0 keeps a dimension, -1 is what remains."""
        shape = self._numbers(dims)
        self._then("Reshape", [shape], _reshaped(self._dims, dims))

    def gather(self, index: np.ndarray) -> None:
        """Permute the last axis."""
        axis = len(self._dims) - 1
        self._then("Gather", [self._constant("channels", index)], list(self._dims), {"axis": axis})

    def pad(self, axis: int, amount: ir.Value) -> None:
        """Append ``amount`` zeros (a one-element vector) along ``axis`` of three."""
        pads = [self._numbers([0] * (3 + axis)), amount]
        if axis < 2:
            pads.append(self._numbers([0] * (2 - axis)))
        whole = self._made("Concat", pads, [6], {"axis": 0}, ir.DataType.INT64)
        dims = list(self._dims)
        dims[axis] = None
        zero = self._zero()
        fill = [self._constant("zero", zero)] if zero.any() else []
        self._then("Pad", [whole, *fill], dims)

    def crop(self, axis: int, lengths: LengthNodes, length: Length) -> None:
        """Keep the first ``length`` positions along ``axis``."""
        end = lengths.value(length, self._like)
        dims = list(self._dims)
        dims[axis] = length.number
        self._then("Slice", [self._numbers([0]), end, self._numbers([axis])], dims)

    def select(self, mask: ir.Value) -> None:
        """Zero where ``mask`` (bool, broadcast) does not hold."""
        zero = self._constant("zero", self._zero())
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
        return self._constant("numbers", np.asarray(numbers, np.int64))

    def _constant(self, what: str, array: np.ndarray) -> ir.Value:
        return self._edit.initializer(f"{self._like.name}_{what}", array, self._like.graph)

    def _then(
        self, op: str, inputs: list[ir.Value], dims: list[Any], attributes: dict[str, Any] | None = None
    ) -> None:
        self.value = self._made(op, [self.value, *inputs], dims, attributes, self.value.dtype)
        self._dims = dims

    def _made(
        self,
        op: str,
        inputs: Sequence[ir.Value | None],
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


def _dequantiser(value: ir.Value) -> ir.Node | None:
    """The DequantizeLinear that makes ``value``, when it treats all elements alike."""
    node = value.producer()
    if node is None or not is_standard(node, "DequantizeLinear"):
        return None
    alike = all((array := constant(v)) is not None and array.size == 1 for v in node.inputs[1:])
    return node if alike else None


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
