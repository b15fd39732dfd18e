"""What the native kernels execute: a short list of fused steps over buffers of channels x frames.

A program is made from an emitted ONNX file by :mod:`rubicc.backends.cpu_gpu.native.lower` and never stored:
the file stays the one truth, and no artefact can carry something that the kernels would trust.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np

Kind = Literal["f32", "bf16", "u8"]
Function = Literal["relu", "silu", "tanh", "sigmoid", "gelu", "clip", "affine"]


@dataclass(frozen=True)
class Quantised:
    """Unsigned 8-bit storage: ``value = (stored - zero_point) * scale``, rounded half to even, saturated."""

    scale: float
    zero_point: int


@dataclass(frozen=True)
class Buffer:
    """A value of one batch item: ``channels`` x frames; frames follow from the input's length.

    Attributes:
        kind: how an element is stored.
        quant: of a ``u8`` buffer; ``None`` for the others.
        name: the ONNX value it holds.
    """

    channels: int
    kind: Kind
    quant: Quantised | None = None
    name: str = ""


@dataclass(frozen=True)
class Activation:
    """An elementwise function: ``clip`` to [a, b], ``affine`` = x * a + b; the others take no numbers."""

    function: Function
    a: float = 0.0
    b: float = 0.0


@dataclass(frozen=True, eq=False)
class Conv:
    """``y = quantise(activations(output_quant(conv(x) * scale + bias) + add))``; k = 1 is a linear layer.

    Attributes:
        x, y, add: buffer indices; ``add`` has the frames and channels of ``y``, any kind.
        weight: (C_out, C_in / groups, taps); int8 when ``weight_scale`` is given, else float32.
        weight_scale: (C_out,) float32; then ``x`` must be ``u8`` and the sum is exact in int32.
        bias: (C_out,) float32 in real units.
        pads: zeros (real zero, so the zero point of a ``u8`` buffer) before and after.
        output_quant: rounding of the convolution's own result before ``add`` and the activations.
        compute: ``u8`` with int8 weights; ``bf16`` rounds both operands and sums in float32; ``f32``.
        source: provenance, for profiles.
    """

    x: int
    y: int
    weight: np.ndarray
    bias: np.ndarray
    weight_scale: np.ndarray | None = None
    stride: int = 1
    dilation: int = 1
    groups: int = 1
    pads: tuple[int, int] = (0, 0)
    output_quant: Quantised | None = None
    add: int | None = None
    activations: tuple[Activation, ...] = ()
    compute: Kind = "f32"
    source: str = ""


@dataclass(frozen=True, eq=False)
class Recurrent:
    """One unidirectional GRU or LSTM layer from a zero state.

    Attributes:
        w_input: (G * H, C) float32, ``w_hidden``: (G * H, H) float32; gates in ONNX order
            (GRU: z r h with ``linear_before_reset``; LSTM: i o f c).
        bias_input, bias_hidden: (G * H,) float32.
        reverse: runs from the last frame to the first; frames stay in their places.
        compute: ``f32``; ``bf16`` (weights, inputs and state rounded to bf16, sums and cell state in f32);
            ``u8`` (weights int8 per row; inputs and state unsigned 8 bit, sums and cell state in f32).
        weight_scale_input, weight_scale_hidden: (G * H,) float32, for ``u8``: weights are multiples of these.
        x_quant: ``u8``: quantisation of the inputs. The state always has scale 1/127 and zero point 128:
            it lies in [-1, 1].
    """

    cell: Literal["gru", "lstm"]
    x: int
    y: int
    w_input: np.ndarray
    w_hidden: np.ndarray
    bias_input: np.ndarray
    bias_hidden: np.ndarray
    reverse: bool = False
    compute: Kind = "f32"
    weight_scale_input: np.ndarray | None = None
    weight_scale_hidden: np.ndarray | None = None
    x_quant: Quantised | None = None
    source: str = ""


@dataclass(frozen=True)
class Elementwise:
    """``y = quantise(activations(x + add))``; without ``add`` and activations a change of storage."""

    x: int
    y: int
    add: int | None = None
    activations: tuple[Activation, ...] = ()
    source: str = ""


@dataclass(frozen=True, eq=False)
class Gather:
    """Channel ``c`` of ``y`` is channel ``index[c]`` of ``x``, or ``constant`` where the index is -1."""

    x: int
    y: int
    index: np.ndarray
    constant: float = 0.0
    source: str = ""


@dataclass(frozen=True)
class LogSoftmax:
    """Over channels, float32 to float32."""

    x: int
    y: int
    source: str = ""


Step = Conv | Recurrent | Elementwise | Gather | LogSoftmax


@dataclass(frozen=True)
class Program:
    """A whole network.

    Attributes:
        steps: in order; every buffer is written once, before it is read.
        input: buffer that takes the feed (N, C, T) float32; ``output``: float32 buffer that is returned.
        layout: of the returned array, ``TNC`` or ``NCT``.
        input_name, output_name: names in the ONNX file.
    """

    buffers: tuple[Buffer, ...]
    steps: tuple[Step, ...]
    input: int
    output: int
    layout: Literal["TNC", "NCT"]
    input_name: str
    output_name: str
    notes: tuple[str, ...] = field(default=())

    @property
    def recurrent(self) -> bool:
        """Whether batch items must run side by side."""
        return any(isinstance(step, Recurrent) for step in self.steps)


def frames_after(frames: int, conv: Conv) -> int:
    """Frames of ``conv``'s output."""
    span = conv.dilation * (conv.weight.shape[2] - 1) + 1
    return (frames + sum(conv.pads) - span) // conv.stride + 1
