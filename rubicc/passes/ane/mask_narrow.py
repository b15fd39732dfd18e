"""Masks without the copies that exporters spread over queries and batches."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from rubicc.passes.ane.movement import Trials, moved, path_to
from rubicc.passes.rewrite import Editor, constant, is_constant, is_standard

_KEEPING = ("Cast", "Not", "Neg", "Where", "Mul", "Sub", "Add", "And", "Identity")


class Narrow:
    """Finds values that broadcast to what a mask is, and takes them where they are smaller.

    ::

        mask (B,K) -> Flatten -> Gather -> Reshape -> And(all true) -> (B,1,Q,K) -> Where(., 0, -1e4)
        becomes
        mask (B,K) -> Unsqueeze(1, 2) -> (B,1,1,K) -> Where(., 0, -1e4)

    Args:
        trials: sizes at which movement is run; constants are compared as they are.
    """

    def __init__(self, edit: Editor, trials: Trials) -> None:
        self._edit = edit
        self._trials = trials
        self._found: dict[ir.Value, ir.Value] = {}

    def of(self, value: ir.Value) -> ir.Value:
        """A value that broadcasts to ``value``; itself where there is none smaller."""
        if value not in self._found:
            self._found[value] = self._narrow(value)
        return self._found[value]

    def _narrow(self, value: ir.Value) -> ir.Value:
        node = value.producer()
        if node is None:
            return value
        if is_standard(node, "Expand") and node.inputs[0] is not None:
            return self.of(node.inputs[0])
        if is_standard(node, "And"):
            for kept, other in ((0, 1), (1, 0)):
                truth, rest = constant(node.inputs[other]), node.inputs[kept]
                if truth is not None and rest is not None and bool(np.all(truth)):
                    return self.of(rest)
        if moved(node) is not None:
            return self._moved(node, value)
        if not is_standard(node, *_KEEPING):
            return value
        inputs = [v if v is None or is_constant(v) else self.of(v) for v in node.inputs]
        if all(new is old for new, old in zip(inputs, node.inputs, strict=True)):
            return value
        attributes = {name: attribute.value for name, attribute in node.attributes.items()}
        dims = _broadcast([v for v in inputs if v is not None])
        made = self._edit.node(
            node.op_type, inputs, like=node, attributes=attributes, shape=dims, dtype=value.dtype
        )
        return made.outputs[0]

    def _moved(self, node: ir.Node, value: ir.Value) -> ir.Value:
        """(B, K) brought to (B, 1, 1 or Q, K) by whatever means, as one Unsqueeze."""
        path = path_to(value)
        root = path.root
        done = len(path.steps) == 1 and is_standard(node, "Unsqueeze")
        if path.factor != 1.0 or root.shape is None or len(root.shape) != 2 or done:
            return value
        for run in self._trials.runs:
            shape = run.shape(root)
            found = None if shape is None else run.follow(shape, path.steps)
            if shape is None or found is None or found[-1].ndim != 4:
                return value
            plain = np.arange(int(np.prod(shape))).reshape(shape)[:, None, None, :]
            if found[-1].shape[::3] != shape or not np.array_equal(
                found[-1], np.broadcast_to(plain, found[-1].shape)
            ):
                return value
        if not self._trials.runs:
            return value
        axes = self._edit.initializer("ane_mask_axes", np.asarray([1, 2], np.int64))
        dims: list[Any] = [root.shape[0], 1, 1, root.shape[1]]
        made = self._edit.node("Unsqueeze", [root, axes], like=node, shape=ir.Shape(dims), dtype=value.dtype)
        return made.outputs[0]


def _broadcast(values: list[ir.Value]) -> ir.Shape | None:
    """Shape of an elementwise result; ``None`` where a dimension is not known to be one of two."""
    dims: list[Any] = []
    for value in values:
        if value.shape is None:
            return None
        own = [1] * (len(dims) - len(value.shape)) + list(value.shape)
        dims = [1] * (len(own) - len(dims)) + dims
        for axis, dim in enumerate(own):
            if dims[axis] == 1:
                dims[axis] = dim
            elif dim not in (1, dims[axis]):
                return None
    return ir.Shape(dims)
