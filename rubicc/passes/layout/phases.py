"""The arithmetic of polyphase convolutions: weights, taps and padding. No graphs here.

Time is split as ``t = s * tau + p``; the ``s`` phases ``p`` become channels. A convolution with stride ``a``
and ``s`` output phases reads ``S = s * a`` input phases: output ``s * tau + p`` takes tap ``j`` from input
time ``S * tau + u`` with ``u = a * p + d * j - before``: phase ``u mod S``, ``u // S`` steps along tau.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

# Channels of one group: ``cp`` channel by channel, its phases inside; ``pc`` phase by phase.
Order = Literal["cp", "pc"]


@dataclass(frozen=True)
class Geometry:
    """A convolution over one axis, without its weights.

    Attributes:
        groups, inputs, outputs: ``inputs`` and ``outputs`` are channels of one group.
        taps, stride, dilation: of the kernel.
        before, after: zeros padded at the begin and at the end.
    """

    groups: int
    inputs: int
    outputs: int
    taps: int
    stride: int = 1
    dilation: int = 1
    before: int = 0
    after: int = 0

    @property
    def excess(self) -> int:
        """``E`` in output length = floor((L + E) / stride) + 1."""
        return self.before + self.after - self.dilation * (self.taps - 1) - 1

    @property
    def keeps_length(self) -> bool:
        """Whether every input gives an output of the same length."""
        return self.stride == 1 and self.excess == -1


@dataclass(frozen=True)
class Folded:
    """A convolution over tau that computes ``phases`` outputs of the original one at once.

    Attributes:
        phases, input_phases: ``s`` and ``S``.
        taps, before, after: of the new kernel; its stride and dilation are 1.
        first: offset in tau of its first tap.
    """

    phases: int
    input_phases: int
    taps: int
    before: int
    after: int
    first: int


def fold(geometry: Geometry, phases: int) -> Folded:
    """The folded form of ``geometry``.

    With ``ceil(L / S)`` input steps it gives at least ``ceil(L_out / s)`` output steps for every L, and
    exactly as many where the convolution keeps the length.
    """
    g = geometry
    wide = phases * g.stride
    first = -g.before // wide
    last = (g.stride * (phases - 1) + g.dilation * (g.taps - 1) - g.before) // wide
    grown = -(-(g.excess + 1) // wide)  # most that ceil(L_out / s) can exceed ceil(L / S)
    return Folded(phases, wide, last - first + 1, -first, max(0, last + grown), first)


def fold_weight(
    weight: np.ndarray, geometry: Geometry, phases: int, order: Order, fill: np.ndarray | float = 0.0
) -> np.ndarray:
    """``weight`` (M, C / groups, taps) as (M * s, C / groups * S, new taps), for :func:`fold`.

    Args:
        fill: what stands for zero: the zero point of integer weights, per output channel (M,) or scalar.
    """
    g, to = geometry, fold(geometry, phases)
    filled = np.broadcast_to(np.asarray(fill, weight.dtype).reshape(-1), (g.groups * g.outputs,))
    folded = np.empty((g.groups, g.outputs, phases, g.inputs, to.input_phases, to.taps), weight.dtype)
    folded[...] = filled.reshape(g.groups, g.outputs, 1, 1, 1, 1)
    source = weight.reshape(g.groups, g.outputs, g.inputs, g.taps)
    for phase in range(phases):
        for tap in range(g.taps):
            step, of = divmod(g.stride * phase + g.dilation * tap - g.before, to.input_phases)
            folded[:, :, phase, :, of, step - to.first] = source[:, :, :, tap]
    if order == "pc":
        folded = folded.transpose(0, 2, 1, 4, 3, 5)
    return folded.reshape(g.groups * g.outputs * phases, g.inputs * to.input_phases, to.taps)


def spread_geometry(geometry: Geometry, phases: int) -> Geometry:
    """The convolution that reads time as it is and writes ``s`` phases, as :func:`spread_weight` makes it.

    Its stride is ``s * a`` and its kernel spans (s - 1) * a positions more; it gives ceil(L_out / s) steps
    for every length.
    """
    g = geometry
    step = math.gcd(g.dilation, g.stride)
    taps = (g.dilation * (g.taps - 1) + g.stride * (phases - 1)) // step + 1
    after = g.after + g.stride * (phases - 1)
    return Geometry(g.groups, g.inputs, g.outputs * phases, taps, g.stride * phases, step, g.before, after)


def spread_weight(
    weight: np.ndarray, geometry: Geometry, phases: int, order: Order, fill: np.ndarray | float = 0.0
) -> np.ndarray:
    """``weight`` (M, C / groups, taps) as (M * s, C / groups, more taps): a shifted copy for every phase."""
    g, to = geometry, spread_geometry(geometry, phases)
    filled = np.broadcast_to(np.asarray(fill, weight.dtype).reshape(-1), (g.groups * g.outputs,))
    spread = np.empty((g.groups, g.outputs, phases, g.inputs, to.taps), weight.dtype)
    spread[...] = filled.reshape(g.groups, g.outputs, 1, 1, 1)
    source = weight.reshape(g.groups, g.outputs, g.inputs, g.taps)
    for phase in range(phases):
        for tap in range(g.taps):
            place = (g.stride * phase + g.dilation * tap) // to.dilation
            spread[:, :, phase, :, place] = source[:, :, :, tap]
    if order == "pc":
        spread = spread.transpose(0, 2, 1, 3, 4)
    return spread.reshape(g.groups * g.outputs * phases, g.inputs, to.taps)


def repeat_channels(values: np.ndarray, groups: int, phases: int, order: Order) -> np.ndarray:
    """Per-channel ``values`` (M, ...) for the (M * s) channels that a folded convolution writes."""
    grouped = values.reshape(groups, -1, *values.shape[1:])
    axis = 2 if order == "cp" else 1
    repeated = np.repeat(np.expand_dims(grouped, axis), phases, axis=axis)
    return repeated.reshape(values.shape[0] * phases, *values.shape[1:])


def block_moves(groups: int, channels: int, phases: int) -> tuple[np.ndarray, np.ndarray]:
    """Channel indices that bring (phase, group, channel) into (group, phase, channel) order, and back."""
    index = np.arange(phases * groups * channels, dtype=np.int64)
    to = index.reshape(phases, groups, channels).transpose(1, 0, 2).reshape(-1)
    back = index.reshape(groups, phases, channels).transpose(1, 0, 2).reshape(-1)
    return to, back


def macs_per_output(geometry: Geometry, phases: int) -> float:
    """Multiplications per output number: (inputs * taps) plain, (inputs * S * new taps) folded."""
    if phases == 1:
        return geometry.inputs * geometry.taps
    to = fold(geometry, phases)
    return geometry.inputs * to.input_phases * to.taps
