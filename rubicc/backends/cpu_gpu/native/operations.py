"""The primitive operations between an ONNX graph and a program: single functions on channels x frames.

Values are numbers; a value is written by one operation and read by any number of later ones.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from rubicc.backends.cpu_gpu.native.program import Activation, Quantised


@dataclass(frozen=True)
class Reason:
    """Something the kernels do not take.

    Attributes:
        node, source: where: node name and module path.
        what: a noun phrase for "cannot run ...".
    """

    node: str
    source: str
    what: str


@dataclass(frozen=True)
class Frames:
    """A number of frames, exactly: ``(T + offset) // step`` for an input of T samples.

    Chains of convolutions keep this form, and it is unique: two values have as many frames as each other for
    every T only when these are equal.
    """

    offset: int = 0
    step: int = 1

    def after(self, extra: int, stride: int) -> Frames:
        """Frames of a convolution: ``(frames + extra) // stride + 1``."""
        return Frames(self.offset + (extra + stride) * self.step, self.step * stride)

    def __str__(self) -> str:
        return f"(T + {self.offset}) // {self.step}"


@dataclass(frozen=True, eq=False)
class ConvOp:
    """Convolution or linear layer; ``weight`` (C_out, C_in / groups, taps), int8 with a scale per row."""

    x: int
    y: int
    weight: np.ndarray
    bias: np.ndarray
    weight_scale: np.ndarray | None = None
    stride: int = 1
    dilation: int = 1
    groups: int = 1
    pads: tuple[int, int] = (0, 0)
    source: str = ""


@dataclass(frozen=True, eq=False)
class RecurrentOp:
    """One direction of a GRU or LSTM; scales (G * H,) where the weights are int8 multiples of them."""

    x: int
    y: int
    cell: Literal["gru", "lstm"]
    w_input: np.ndarray
    w_hidden: np.ndarray
    bias_input: np.ndarray
    bias_hidden: np.ndarray
    reverse: bool
    source: str = ""
    scale_input: np.ndarray | None = None
    scale_hidden: np.ndarray | None = None


@dataclass(frozen=True)
class UnaryOp:
    """An elementwise function."""

    x: int
    y: int
    activation: Activation
    source: str = ""


@dataclass(frozen=True, eq=False)
class ChannelOp:
    """``x * scale + shift``, float32 numbers per channel, one of the two trivial."""

    x: int
    y: int
    scale: np.ndarray
    shift: np.ndarray
    source: str = ""


@dataclass(frozen=True)
class AddOp:
    """Sum of two values."""

    x: int
    other: int
    y: int
    source: str = ""


@dataclass(frozen=True)
class QuantOp:
    """Rounding to unsigned 8 bit."""

    x: int
    y: int
    quant: Quantised


@dataclass(frozen=True, eq=False)
class GatherOp:
    """Channels picked by index, -1 for a constant."""

    x: int
    y: int
    index: np.ndarray
    constant: float
    source: str = ""


@dataclass(frozen=True)
class LogSoftmaxOp:
    """Over channels."""

    x: int
    y: int
    source: str = ""


Op = ConvOp | RecurrentOp | UnaryOp | ChannelOp | AddOp | QuantOp | GatherOp | LogSoftmaxOp


@dataclass
class Parsed:
    """A graph as operations.

    Attributes:
        channels, frames, names: by value; names are those of the ONNX values first shown by it.
        reasons: why it could not be read; the rest is incomplete then.
    """

    ops: list[Op] = field(default_factory=list)
    channels: list[int] = field(default_factory=list)
    frames: list[Frames] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    input: int = 0
    output: int = 0
    layout: Literal["TNC", "NCT"] = "TNC"
    input_name: str = ""
    output_name: str = ""
    reasons: tuple[Reason, ...] = ()
