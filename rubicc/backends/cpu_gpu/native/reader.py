"""What reading a graph keeps track of: how every ONNX value is held, constants, frames, and problems.

An ONNX value is *held*: it is one value of the program (channels x frames) seen with axes in some order,
channels split into factors or not, frames running backwards or not. Reading is strict: whatever is not
recognised for certain raises :class:`Unknown`, and becomes a reason.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from rubicc.backends.cpu_gpu.native.operations import Frames, Op, Parsed, Reason
from rubicc.backends.cpu_gpu.native.program import Quantised
from rubicc.ir.graph import Graph, op_key, source_of
from rubicc.passes.rewrite import constant

Axis = str | int  # "N", "T", or a number: a factor of the channels, outermost first
Read = Callable[["Reader", ir.Node], None]


class Unknown(Exception):
    """This node is not one the kernels take; the text is a noun phrase for what it is."""


@dataclass(frozen=True)
class Held:
    """How an ONNX value shows a value of the program.

    Attributes:
        axes: ``N`` and ``T`` once each; the numbers multiply to the channels, in row-major order.
        backwards: frame ``t`` of the ONNX value is frame ``T - 1 - t`` of ours.
        stored: set while these are the integers of a QuantizeLinear.
    """

    value: int
    axes: tuple[Axis, ...]
    backwards: bool = False
    stored: Quantised | None = None


@dataclass(frozen=True)
class Dims:
    """A shape, or part of one: numbers, ``N``, and numbers of frames."""

    sizes: tuple[int | str | Frames, ...]


@dataclass(frozen=True, eq=False)
class Scaled:
    """A constant stored as int8 with a scale per row along ``axis``, or one for all."""

    integers: np.ndarray
    scale: np.ndarray
    axis: int

    @property
    def real(self) -> np.ndarray:
        """Its values as a runtime computes them, float32."""
        shape = [1] * self.integers.ndim
        if self.scale.size > 1:
            shape[self.axis] = -1
        return self.integers.astype(np.float32) * self.scale.astype(np.float32).reshape(shape)


class Reader:
    """State of reading one graph."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.out = Parsed()
        self.held: dict[ir.Value, Held | Dims] = {}
        self.scaled: dict[ir.Value, Scaled] = {}
        self.folded: dict[ir.Value, np.ndarray] = {}
        self.problems: list[Reason] = []

    def problem(self, what: str, node: ir.Node | None = None) -> None:
        """Note why the kernels cannot run the graph."""
        where = ("", "") if node is None else (node.name or "", source_of(node))
        self.problems.append(Reason(*where, what))

    def new(self, channels: int, frames: Frames) -> int:
        """A value of the program."""
        self.out.channels.append(channels)
        self.out.frames.append(frames)
        self.out.names.append("")
        return len(self.out.channels) - 1

    def like(self, x: Held) -> int:
        """A value with the channels and frames of ``x``."""
        return self.new(self.out.channels[x.value], self.out.frames[x.value])

    def emit(self, node: ir.Node, op: Op, held: Held) -> None:
        """Append an operation whose result the node's output shows as ``held``."""
        self.out.ops.append(op)
        self.out.names[op.y] = node.outputs[0].name or ""
        self.held[node.outputs[0]] = held

    # ---- operands

    def is_known(self, value: ir.Value) -> bool:
        """Whether a value was understood."""
        return value in self.held or self.array(value) is not None

    def array(self, value: ir.Value | None) -> np.ndarray | None:
        """A constant in real units; ``None`` when it is not one."""
        if value in self.scaled:
            return self.scaled[value].real
        return self.folded[value] if value in self.folded else constant(value)

    def constant(self, node: ir.Node, index: int, default: np.ndarray | None = None) -> np.ndarray:
        """An operand that must be constant; ``default`` where it is left out."""
        value = node.inputs[index] if index < len(node.inputs) else None
        array = default if value is None else self.array(value)
        if array is None:
            raise Unknown(f"{op_key(node)} with operand {index} computed or missing")
        return array

    def numbers(self, node: ir.Node, index: int, default: list[int] | None = None) -> list[int]:
        """A constant list of integers."""
        given = None if default is None else np.array(default, np.int64)
        array = self.constant(node, index, given)
        if array.ndim > 1 or array.dtype.kind not in "iu":
            raise Unknown(f"{op_key(node)} with operand {index} other than a list of integers")
        return [int(n) for n in np.atleast_1d(array)]

    def operand(self, node: ir.Node, index: int = 0) -> Held:
        """A real value of the program."""
        value = node.inputs[index] if index < len(node.inputs) else None
        held = None if value is None else self.held.get(value)
        if not isinstance(held, Held):
            found = "no value" if held is None else "a shape"
            raise Unknown(f"{op_key(node)} on {found}")
        if held.stored is not None:
            raise Unknown(f"{op_key(node)} on integers of a quantiser")
        return held

    def ordered(self, node: ir.Node, index: int, *orders: str) -> Held:
        """A value whose axes are in one of ``orders``, such as ``NCT``, all channels on one axis."""
        held = self.operand(node, index)
        if self.order(held) not in orders:
            raise Unknown(f"{op_key(node)} on axes {self.order(held)}")
        return held

    def order(self, held: Held) -> str:
        """Axes as text: ``C`` for all channels on one axis, else the factors."""
        whole = self.out.channels[held.value]
        factors = [axis for axis in held.axes if isinstance(axis, int)]
        if factors == [whole]:
            return "".join("C" if isinstance(axis, int) else axis for axis in held.axes)
        return " ".join(map(str, held.axes))

    def channel_axis(self, held: Held) -> int:
        """Place of the axis that holds all channels, -1 when they are split."""
        whole = self.out.channels[held.value]
        places = [i for i, axis in enumerate(held.axes) if isinstance(axis, int)]
        wide = [i for i in places if held.axes[i] == whole]
        others = math.prod(int(held.axes[i]) for i in places if i not in wide[:1])
        return wide[0] if wide and others == 1 else -1

    def per_channel(self, node: ir.Node, array: np.ndarray, held: Held) -> np.ndarray:
        """A constant that broadcasts against ``held`` as one number (size 1) or one per channel.

        Raises:
            Unknown: it varies along another axis, or would add axes.
        """
        if array.dtype.kind != "f" or array.ndim > len(held.axes):
            raise Unknown(f"{op_key(node)} with a constant of shape {list(array.shape)}")
        if array.size == 1:
            return array.reshape(1)
        array = array.reshape((1,) * (len(held.axes) - array.ndim) + array.shape)
        factors = [(i, axis) for i, axis in enumerate(held.axes) if isinstance(axis, int)]
        fits = all(
            size == 1 or (isinstance(axis, int) and size == axis)
            for size, axis in zip(array.shape, held.axes, strict=True)
        )
        if not fits:
            raise Unknown(f"{op_key(node)} with a constant that varies over frames or items")
        rows = array.reshape([array.shape[i] for i, _ in factors])
        return np.broadcast_to(rows, [axis for _, axis in factors]).reshape(-1)


# ---- attributes


def integer(node: ir.Node, name: str, default: int) -> int:
    """An integer attribute."""
    return node.attributes[name].as_int() if name in node.attributes else default


def integers(node: ir.Node, name: str, default: tuple[int, ...]) -> tuple[int, ...]:
    """An attribute that is a list of integers."""
    return tuple(node.attributes[name].as_ints()) if name in node.attributes else default


def text(node: ir.Node, name: str, default: str) -> str:
    """A text attribute."""
    return node.attributes[name].as_string() if name in node.attributes else default


def only_attributes(node: ir.Node, *known: str) -> None:
    """Refuse attributes that the caller does not look at.

    Raises:
        Unknown: naming them.
    """
    unknown = sorted(set(node.attributes) - set(known))
    if unknown:
        raise Unknown(f"{op_key(node)} with {', '.join(unknown)}")
