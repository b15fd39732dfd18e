"""Weights of a matrix product as weights of a 1x1 convolution, without copying them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from rubicc.ir.graph import is_quantiser
from rubicc.passes.cleanup.merge_transposes import permutation
from rubicc.passes.rewrite import Editor, constant, is_constant, is_standard, rank

Move = Callable[[np.ndarray], np.ndarray]
_STORED = ("DequantizeLinear",)


class ConvWeights:
    """Makes ``(O, I, 1, 1)`` weights of ``(I, O)`` ones; each once, as views of the same memory.

    A quantiser between the stored weight and the product is kept, with its scales turned alike, so that the
    integers stay the same.
    """

    def __init__(self, edit: Editor) -> None:
        self._edit = edit
        self._made: dict[tuple[ir.Value, bool], ir.Value] = {}

    def make(self, value: ir.Value, swapped: bool, before: ir.Node) -> ir.Value | None:
        """The weight of a convolution; ``None`` where the weight is neither stored nor quantised.

        Args:
            value: ``(I, O)``, or ``(O, I)`` where ``swapped``.
            before: new quantisers stand in front of it, so nodes must be visited in graph order.
        """
        if (value, swapped) not in self._made:
            made = self._build(value, swapped, before)
            if made is None:
                return None
            self._made[value, swapped] = made
        return self._made[value, swapped]

    def _build(self, value: ir.Value, swapped: bool, before: ir.Node) -> ir.Value | None:
        def move(array: np.ndarray) -> np.ndarray:
            return (array if swapped else array.T)[:, :, np.newaxis, np.newaxis]

        array = constant(value)
        if array is not None:
            return self._edit.initializer(f"{value.name}_conv", move(array), before.graph)
        node = value.producer()
        source = node.inputs[0] if node is not None and node.inputs else None
        if node is None or source is None:
            return None
        if is_standard(node, "Transpose") and permutation(node) == [1, 0]:
            return self.make(source, not swapped, before)
        if not (is_quantiser(node) or is_standard(node, *_STORED)):
            return None
        return self._quantiser(node, source, move, before)

    def _quantiser(self, old: ir.Node, source: ir.Value, move: Move, before: ir.Node) -> ir.Value | None:
        """A copy of ``old`` on the stored weight turned by ``move``, its settings turned alike."""
        stored = constant(source)
        if stored is None or stored.ndim != 2:
            return None
        inputs: list[ir.Value | None] = [
            self._edit.initializer(f"{source.name}_conv", move(stored), before.graph)
        ]
        attributes = {name: attribute.value for name, attribute in old.attributes.items()}
        axis = old.attributes.get_int("axis", 1) % 2 if is_standard(old, *_STORED) else None
        if axis is not None and old.attributes.get_int("block_size", 0) != 0:
            return None
        for value in old.inputs[1:]:
            settings = constant(value)
            if value is None or (settings is not None and settings.size == 1):
                inputs.append(value)
                continue
            if settings is None or settings.ndim > 2 or (axis is not None and settings.ndim != 1):
                return None
            turned = settings if axis is not None else move(np.atleast_2d(settings))
            inputs.append(self._edit.initializer(f"{value.name}_conv", turned, before.graph))
        made = ir.node(
            old.op_type, inputs, attributes, domain=old.domain, num_outputs=1,
            name=self._edit.fresh_node(f"{old.name}/conv"),
        )  # fmt: skip
        shape = move(stored).shape
        if axis is not None:
            outputs_first = move(np.arange(2).reshape(1, 2)).shape[0] == 2  # whether axis 1 became axis 0
            made.attributes.add(ir.AttrInt64("axis", (1 - axis) if outputs_first else axis))
        result = made.outputs[0]
        result.name = self._edit.fresh(f"{old.outputs[0].name}_conv")
        result.shape, result.type = ir.Shape(shape), old.outputs[0].type
        self._edit.stamp(made, old)
        assert before.graph is not None
        before.graph.insert_before(before, made)
        return result


def is_stored(value: ir.Value | None) -> bool:
    """Whether ``value`` is a weight matrix: constant, quantised or transposed constant, of rank 2."""
    if value is None:
        return False
    if is_constant(value):
        return rank(value) == 2
    node = value.producer()
    if node is None or not node.inputs:
        return False
    through = is_quantiser(node) or is_standard(node, *_STORED, "Transpose")
    return through and is_stored(node.inputs[0])


def root(value: ir.Value) -> ir.Value:
    """The initializer behind a stored weight."""
    node = value.producer()
    while node is not None and node.inputs and node.inputs[0] is not None:
        value = node.inputs[0]
        node = value.producer()
    return value
