"""The products of a graph that sum over channels with constant weights: what they read, as rows and columns.

A reader's weights are ``(groups, outputs, K)``: every output is a sum over K numbers. Channels lie along one
axis of the initializer; each takes as many of the K as the kernel has taps.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from rubicc.ir.graph import Graph, is_quantiser
from rubicc.passes.quantize.round_weights import as_rows, bias_is_known, from_rows, read_by
from rubicc.passes.quantize.sites import weight_roles
from rubicc.passes.rewrite import constant, is_standard, only_use

WIDEST = 4096  # numbers that an output may sum over: covariances of more would take too much memory
_PRODUCTS = ("Conv", "MatMul", "Gemm")
_RECURRENT = ("GRU", "LSTM")


@dataclass(frozen=True)
class Reader:
    """One product.

    Attributes:
        node: the product.
        index: which of its inputs the weights are.
        value: the initializer, behind quantisers and transpositions.
        order: permutation of the initializer's axes that gives what the node reads.
        axis: of the initializer, along which channels lie.
        x: name of the value it multiplies; of a recurrence its own states.
    """

    node: ir.Node
    index: int
    value: ir.Value
    order: tuple[int, ...]
    axis: int
    x: str

    @property
    def name(self) -> str:
        """Of the initializer."""
        return self.value.name or ""

    @property
    def key(self) -> str:
        """Equal where products sum over the same numbers."""
        if self.node.op_type != "Conv":
            return f"{self.x} states" if self.index == 2 else self.x
        taps = list(self._array().shape[2:])
        spans = {
            name: list(self.node.attributes.get_ints(name, [])) for name in ("strides", "dilations", "pads")
        }
        return f"{self.x} {taps} {spans} {self.node.attributes.get_int('group', 1)}"

    @property
    def taps(self) -> int:
        """Of the K, how many each channel takes."""
        return int(np.prod(self._array().shape[2:])) if self.node.op_type == "Conv" else 1

    def _array(self) -> np.ndarray:
        array = constant(self.value)
        assert array is not None  # readers() has looked
        return array.transpose(self.order)

    @property
    def split(self) -> bool:
        """Whether it is a convolution in groups, each of which reads other channels."""
        return self.node.op_type == "Conv" and (self.node.attributes.get_int("group", 1) or 1) > 1

    @property
    def shape(self) -> tuple[int, int, int]:
        """(groups, outputs, K)."""
        groups, outputs, width = self._rows(self._array()).shape
        return groups, outputs, width

    def rows(self) -> np.ndarray:
        """The weights, ``(groups, outputs, K)``, float64."""
        return self._rows(self._array()).astype(np.float64)

    def rows_of(self, array: np.ndarray) -> np.ndarray:
        """Anything of the initializer's shape in the order of :meth:`rows`."""
        return self._rows(array.transpose(self.order))

    def _rows(self, array: np.ndarray) -> np.ndarray:
        if self.node.op_type in _RECURRENT:
            return array
        groups = self.node.attributes.get_int("group", 1) if self.node.op_type == "Conv" else 1
        return as_rows(self.node, array, groups or 1)

    def put(self, rows: np.ndarray) -> None:
        """Other weights in the place of these."""
        array = self._array()
        recurrent = self.node.op_type in _RECURRENT
        made = rows.reshape(array.shape) if recurrent else from_rows(self.node, rows, array)
        made = np.ascontiguousarray(made.transpose(np.argsort(self.order)), np.float32)
        self.value.const_value = ir.tensor(made, name=self.name)  # a new tensor: copies share the old

    def columns(self, positions: np.ndarray) -> np.ndarray:
        """Which of the K go with positions along the channels' axis."""
        return (positions[..., None] * self.taps + np.arange(self.taps)).reshape(*positions.shape[:-1], -1)

    def seen(self, x: np.ndarray, most: int) -> np.ndarray | None:
        """What the weights multiply, ``(groups or 1, K, positions)``, where :attr:`x` has this value.

        Args:
            most: positions that are enough of a convolution's; more are thinned out.
        """
        if self.node.op_type not in _RECURRENT:
            return read_by(self.node, self._array(), x, most)
        if self.index == 1:
            return x.reshape(1, -1, x.shape[-1]).transpose(0, 2, 1)
        return x.transpose(1, 3, 0, 2).reshape(x.shape[1], x.shape[3], -1)  # (T, directions, N, H)

    def bias(self) -> Callable[[np.ndarray], None] | None:
        """Adds ``(groups, outputs)`` to a constant that is added to the product; ``None`` without one."""
        found = self._bias()
        if found is None:
            return None
        value, part = found
        array = constant(value)
        assert array is not None

        def add(change: np.ndarray) -> None:
            new = array.astype(np.float64)
            new[part] += change.reshape(new[part].shape)
            value.const_value = ir.tensor(new.astype(np.float32), name=value.name)

        return add

    def _bias(self) -> tuple[ir.Value, tuple[slice, ...]] | None:
        """The constant, and which part of it is this product's."""
        node, inputs, (groups, outputs, _) = self.node, self.node.inputs, self.shape
        value: ir.Value | None = None
        part: tuple[slice, ...] = (slice(None),)
        if node.op_type in _RECURRENT:  # (directions, those of the input and then those of the states)
            value = inputs[3] if len(inputs) > 3 else None
            part = slice(None), slice((self.index - 1) * outputs, self.index * outputs)
        elif node.op_type == "MatMul":
            add = only_use(node.outputs[0])
            if add is not None and is_standard(add, "Add"):
                value = add.inputs[1 if add.inputs[0] is node.outputs[0] else 0]
        elif len(inputs) > 2 and bias_is_known(node):
            value = inputs[2]
        array = constant(value)
        if value is None or array is None or array.dtype != np.float32 or len(list(value.uses())) != 1:
            return None
        return (value, part) if array[part].size == groups * outputs else None


def readers(graph: Graph) -> list[Reader]:
    """Products whose weights are constants that nothing else reads, and of at most ``WIDEST`` numbers."""
    found = []
    for node in graph.nodes:
        if is_standard(node, *_PRODUCTS) or is_standard(node, *_RECURRENT):
            found += [one for role in weight_roles(node) if (one := _reader(node, *role)) is not None]
    return found


def _reader(node: ir.Node, index: int, _: int, into: int) -> Reader | None:
    recurrent = node.op_type in _RECURRENT
    if not 0 < index < len(node.inputs) or node.attributes.get_int("transA", 0) == 1:
        return None
    # Otherwise a GRU multiplies the weights of its new gate by r * h, which is no value of a graph.
    if index == 2 and node.op_type == "GRU" and node.attributes.get_int("linear_before_reset", 0) != 1:
        return None
    stored = behind(node.inputs[index])
    x = node.outputs[0] if index == 2 else node.inputs[0]
    array = constant(stored.value) if stored is not None else None
    if stored is None or array is None or not stored.alone or x is None or not x.name:
        return None
    rank = 3 if recurrent else array.ndim if node.op_type == "Conv" else 2
    if array.dtype != np.float32 or array.ndim != rank:
        return None
    found = Reader(node, index, stored.value, stored.order, stored.order[into % rank], x.name)
    return found if found.shape[2] <= WIDEST else None


@dataclass(frozen=True)
class Stored:
    """Where weights come from.

    Attributes:
        value: the initializer.
        order: permutation of its axes on the way to the product.
        alone: nothing else reads it, or what it becomes on the way.
    """

    value: ir.Value
    order: tuple[int, ...]
    alone: bool


def behind(value: ir.Value | None) -> Stored | None:
    """The initializer that ``value`` is a quantised or transposed form of; ``None``: it is computed."""
    turns: list[list[int]] = []
    alone = True
    while value is not None:
        array, maker = constant(value), value.producer()
        alone &= len(list(value.uses())) == 1 and not value.is_graph_output()
        if array is not None:
            order = list(range(array.ndim))
            for turn in reversed(turns):
                order = [order[axis] for axis in turn or order[::-1]]
            return Stored(value, tuple(order), alone and maker is None)
        if maker is None:
            return None
        if is_standard(maker, "Transpose"):
            turns.append(list(maker.attributes.get_ints("perm", ())))
        elif not (is_quantiser(maker) or is_standard(maker, "Identity", "Cast")):
            return None
        value = maker.inputs[0]
    return None
