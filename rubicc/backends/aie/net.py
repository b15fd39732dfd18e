"""The integer network as plain values: what the planner plans, the kernels compute and the reference
executes.

A :class:`Net` is read out of an integer-only graph (:mod:`rubicc.backends.aie.extract`) and holds nothing but
integers, exponents and names. Tensors are ``(N, C, T)``: sequences, channels, frames. An edge's real values
are ``integer * 2**exponent``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from rubicc.backends.aie.numbers import Type


@dataclass(frozen=True)
class Edge:
    """A tensor between layers.

    Attributes:
        name: value name in the integer graph.
        channels: C, without padding to channel blocks.
        type: integers it holds.
        exponent: real value = integer * 2**exponent.
    """

    name: str
    channels: int
    type: Type
    exponent: int

    @property
    def blocks(self) -> int:
        """Channel blocks (slots per frame)."""
        return -(-self.channels // self.type.block)


@dataclass(frozen=True, kw_only=True)
class Layer:
    """What every layer has.

    Attributes:
        name: unique; the node of the integer graph that begins it.
        source: module path in the source network, for comments and tables.
        inputs: edge names.
        output: edge name.
    """

    name: str
    source: str
    inputs: tuple[str, ...]
    output: str

    def frames(self, before: int) -> int:
        """Frames of the output for ``before`` frames of the input."""
        return before

    def macs(self, frames: int) -> int:
        """Multiplications with weights for ``frames`` frames of output of one sequence."""
        return 0

    @property
    def weight_bits(self) -> int:
        """Width the weights are stored in; 0 without weights."""
        return 0


@dataclass(frozen=True, kw_only=True, eq=False)
class Conv(Layer):
    """Convolution over time with requantisation; a linear layer is one of a single tap.

    Attributes:
        weight: int64 ``(O, I / groups, k)``.
        weight_type: type the weights are stored and multiplied in.
        bias: int64 ``(O,)`` on the accumulator's grid, or None.
        groups, stride, dilation: as in PyTorch.
        pads: zero frames before and after.
        relu: negative sums become 0 before they are shifted.
        shift: int64 ``(O,)``; bits dropped per output channel, equal within each block of 8 output channels.
    """

    weight: np.ndarray
    weight_type: Type
    bias: np.ndarray | None = None
    groups: int = 1
    stride: int = 1
    dilation: int = 1
    pads: tuple[int, int] = (0, 0)
    relu: bool = False
    shift: np.ndarray

    @property
    def taps(self) -> int:
        """Kernel length k."""
        return int(self.weight.shape[2])

    @property
    def reach(self) -> int:
        """Frames from the first tap to the last, both counted."""
        return self.dilation * (self.taps - 1) + 1

    def frames(self, before: int) -> int:
        """Frames of the output for ``before`` frames of the input; 0 when the kernel does not fit."""
        return max(0, (before + sum(self.pads) - self.reach) // self.stride + 1)

    def macs(self, frames: int) -> int:
        """Multiplications for ``frames`` frames of output."""
        return int(self.weight.size) * frames

    @property
    def weight_bits(self) -> int:
        """Width the weights are stored in."""
        return self.weight_type.bits

    @cached_property
    def gain(self) -> int:
        """Largest sum of absolute weights of an output channel: |accumulator| <= gain * max |x| + |bias|."""
        return int(np.abs(self.weight).sum(axis=(1, 2)).max(initial=0))


@dataclass(frozen=True, kw_only=True)
class Add(Layer):
    """Sum of two tensors on a common grid: ``requantise((a << left[0]) + (b << left[1]), shift)``.

    Attributes:
        left: bits each input is moved to the left, at least 0.
        shift: bits dropped of the sum.
        relu: negative sums become 0 before they are shifted.
    """

    left: tuple[int, int]
    shift: int
    relu: bool = False


@dataclass(frozen=True, kw_only=True, eq=False)
class Lookup:
    """A function by table: ``entries[requantise(x, shift, int<bits>) + 2**(bits - 1)]``.

    Attributes:
        shift: bits dropped of the argument.
        bits: width of the index, 2 to 12.
        entries: int64 ``(2**bits,)``.
    """

    shift: int
    bits: int
    entries: np.ndarray

    def __post_init__(self) -> None:
        if not 2 <= self.bits <= 12 or self.entries.shape != (1 << self.bits,):
            raise ValueError(f"a table of {self.bits} bits has {self.entries.shape} entries")


@dataclass(frozen=True, kw_only=True, eq=False)
class Table(Layer):
    """An activation by table (sigmoid, tanh, SiLU, GELU ...)."""

    lookup: Lookup
    function: str


@dataclass(frozen=True, kw_only=True, eq=False)
class Cell(Layer):
    """A recurrent layer whose input projection is the :class:`Conv` before it.

    The one input edge holds ``W x`` with all input biases for every gate, int16 on the gate grid, gates one
    after the other: ``(N, G * H, T)``; G is 3 (r, z, n) for a GRU, 4 (i, f, g, o) for an LSTM. The output
    edge is ``(N, H, T)``.

    Attributes:
        recurrent: int64 ``(G * H, H)``.
        recurrent_type: type the recurrent weights are multiplied in.
        bias: int64 ``(G * H,)`` on the accumulator's grid, or None (hidden biases).
        operand: type of the state where it is multiplied by ``recurrent``; the state itself is int16.
        operand_shift: bits dropped of the state for that.
        gate_shift: int64 ``(G * H,)``: accumulator to gate grid (int16), equal within blocks of 8.
        sigmoid, tanh: tables from the gate grid to int16 with 15 bits behind the point.
        output_shift: bits dropped of the state (15 bits behind the point) for the output edge's type.
        reverse: time runs from the last frame to the first.
    """

    recurrent: np.ndarray
    recurrent_type: Type
    bias: np.ndarray | None = None
    operand: Type
    operand_shift: int
    gate_shift: np.ndarray
    sigmoid: Lookup
    tanh: Lookup
    output_shift: int
    reverse: bool = False

    @cached_property
    def gain(self) -> int:
        """Largest sum of absolute recurrent weights of a gate."""
        return int(np.abs(self.recurrent).sum(axis=1).max(initial=0))

    @property
    def hidden(self) -> int:
        """H."""
        return int(self.recurrent.shape[1])

    def macs(self, frames: int) -> int:
        """Multiplications of the state with the recurrent weights for ``frames`` frames."""
        return int(self.recurrent.size) * frames

    @property
    def weight_bits(self) -> int:
        """Width the recurrent weights are stored in."""
        return self.recurrent_type.bits


@dataclass(frozen=True, kw_only=True, eq=False)
class Gru(Cell):
    """GRU in PyTorch's form (reset after), int16 throughout; ``q(v, s)`` is ``requantise(v, s, int16)``.

    ``g = q(R h + b, gate_shift)``; ``r = sigmoid(sat(x_r + g_r))``, ``z = sigmoid(sat(x_z + g_z))``;
    ``n = tanh(sat(x_n + q(r * g_n, 15)))``; ``h = q((n << 15) + z * h - z * n, 15)``.
    """


@dataclass(frozen=True, kw_only=True, eq=False)
class Lstm(Cell):
    """LSTM, int16 throughout.

    ``g = q(R h + b, gate_shift)``; ``i, f, o = sigmoid(sat(x + g))``, ``u = tanh(sat(x_g + g_g))``;
    ``c = q(f * c + (q(i * u, 15) << cell_bits), 15)``; ``h = q(o * tanh_cell(c), 15)``.

    Attributes:
        cell_bits: bits behind the point of the cell state, 8 to 15.
        tanh_cell: table from the cell state's grid.
    """

    cell_bits: int
    tanh_cell: Lookup


@dataclass(frozen=True, kw_only=True, eq=False)
class Norm(Layer):
    """Layer normalisation over the channels of a frame; the arithmetic is in
    :mod:`rubicc.passes.integer.block_bodies`.

    Attributes:
        gain, offset: int64 ``(C,)``; C is a multiple of 8.
        finer: bits the mean has below the input's step.
        floor: added to the sum of squares, at least 1.
        shift: bits dropped of the result.
    """

    gain: np.ndarray
    offset: np.ndarray
    finer: int
    floor: int
    shift: int

    @property
    def mean_factor(self) -> int:
        """``2**15 / C``."""
        return round((1 << 15) / len(self.gain))

    @property
    def spread_shift(self) -> int:
        """Bits dropped of sums of squares."""
        return (len(self.gain) - 1).bit_length()


@dataclass(frozen=True, kw_only=True, eq=False)
class Attention(Layer):
    """Attention of a whole sequence; the arithmetic is in :mod:`rubicc.passes.integer.block_bodies`.

    The one input edge holds queries, keys and values of a head one after the other, head by head:
    ``(N, heads * 3 * depth, T)`` of int8; the output edge is ``(N, heads * depth, T)``.

    Attributes:
        heads, depth: heads and channels of each, a multiple of 8.
        score_shift: bits dropped of the scores.
        entries: int64 ``(1024,)``, 0 to 255, the first one at least 1: exponentials of what a score is below
            the largest of its query.
        output_shift: bits dropped of the result, which has 30 too many.
    """

    heads: int
    depth: int
    score_shift: int
    entries: np.ndarray
    output_shift: int

    def macs(self, frames: int) -> int:
        """Multiplications of two values with each other for a sequence of ``frames`` frames."""
        return 2 * self.heads * self.depth * frames * frames


@dataclass(frozen=True)
class Host:
    """Work that stays on the host, at a declared float edge.

    Attributes:
        what: what is computed, for the plan's table.
        node: node of the graph.
    """

    what: str
    node: str


@dataclass(frozen=True)
class Net:
    """An integer network.

    Attributes:
        inputs: edge names fed from outside, integers.
        outputs: edge names handed out.
        edges: by name.
        layers: in an order that can be executed.
        host: what stays on the host before the inputs and behind the outputs.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    edges: Mapping[str, Edge]
    layers: tuple[Layer, ...]
    host: tuple[Host, ...] = ()
    meta: Mapping[str, str] = field(default_factory=dict)

    def frames(self, length: int) -> dict[str, int]:
        """Frames of every edge when the inputs have ``length`` frames."""
        found = dict.fromkeys(self.inputs, length)
        for layer in self.layers:
            found[layer.output] = layer.frames(found[layer.inputs[0]])
        return found

    def consumers(self, edge: str) -> tuple[Layer, ...]:
        """Layers that read ``edge``."""
        return tuple(layer for layer in self.layers if edge in layer.inputs)

    def macs(self, length: int) -> int:
        """Multiplications with weights for one sequence of ``length`` input frames."""
        frames = self.frames(length)
        return sum(layer.macs(frames[layer.output]) for layer in self.layers)
