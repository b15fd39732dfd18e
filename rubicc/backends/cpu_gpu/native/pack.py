"""Lays the weights of a convolution out for the kernels.

The inner loop multiplies one 32-bit word of input (1 float32, 2 bfloat16 or 4 bytes) by vectors of sixteen
output
lanes. A panel is one or two such vectors. Where groups are narrower than a vector, its lanes are several
output
frames times the group's channels: the polyphase form, done while packing, so that activations keep their
layout.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rubicc.backends.cpu_gpu.native.program import Conv, Kind

LANES = 16
PER_WORD = {"f32": 1, "bf16": 2, "u8": 4}
_DTYPE = {"f32": np.float32, "bf16": np.uint16, "u8": np.int8}


@dataclass(frozen=True, eq=False)
class Packed:
    """A convolution as the kernels read it; arrays as in ``program.h``.

    Attributes:
        reach: frames after a panel's first input frame that the inner loop touches.
    """

    phases: int
    vectors: int
    panels: int
    panels_per_group: int
    words: int
    weights: np.ndarray
    word_frame: np.ndarray
    word_channel: np.ndarray
    panel_channel: np.ndarray
    scale: np.ndarray
    bias: np.ndarray
    reach: int


def unsupported(conv: Conv) -> str:
    """Why the kernels cannot take ``conv``; empty when they can."""
    outputs, inputs, _ = conv.weight.shape
    made, words = outputs // conv.groups, PER_WORD[conv.compute]
    if conv.groups == 1:
        return ""
    if inputs % LANES and LANES % inputs:
        return f"groups of {inputs} input channels (the kernels take divisors and multiples of {LANES})"
    if inputs % words and words % inputs:
        return f"groups of {inputs} input channels do not fill words of {words}"
    if (made >= LANES and made % LANES) or (made < LANES and LANES % made):
        return f"groups of {made} output channels (the kernels take divisors and multiples of {LANES})"
    return ""


def to_bf16(values: np.ndarray) -> np.ndarray:
    """Bits of the nearest bfloat16 (ties to even), uint16."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def aligned(array: np.ndarray) -> np.ndarray:
    """A copy that starts on a cache line."""
    raw = np.empty(array.nbytes + 64, np.uint8)
    start = -raw.ctypes.data % 64
    view = raw[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    view[...] = array
    return view


def pack(conv: Conv, channels_in: int) -> Packed:
    """Pack ``conv`` whose input buffer holds ``channels_in`` channels."""
    vectors = _vectors(conv, channels_in)
    outputs, _, _ = conv.weight.shape
    made = outputs // conv.groups
    phases = 1 if made >= LANES or conv.groups == 1 else LANES // made * vectors
    frames, channels, element = _words(conv, phases, channels_in)
    per_group = 1 if phases > 1 else -(-made // (LANES * vectors))
    panels = conv.groups * per_group
    lanes = vectors * LANES
    size = PER_WORD[conv.compute]
    packed = np.zeros((panels, len(frames), lanes, size), _DTYPE[conv.compute])
    scale, bias = np.zeros((panels, lanes)), np.zeros((panels, lanes))
    values = to_bf16(conv.weight) if conv.compute == "bf16" else conv.weight.astype(_DTYPE[conv.compute])
    weight_scale = np.ones(outputs) if conv.weight_scale is None else conv.weight_scale.astype(np.float64)
    for group in range(conv.groups):
        rows = values[group * made : (group + 1) * made]
        tail = group * made
        for phase in range(phases):
            table = _lookup(conv, rows, phase, frames, channels, element, group)
            for part in range(per_group):
                first = part * lanes
                count = min(made - first, lanes)
                panel, lane = group * per_group + part, phase * made
                packed[panel, :, lane : lane + count] = table[:, first : first + count]
                scale[panel, lane : lane + count] = weight_scale[tail + first : tail + first + count]
                bias[panel, lane : lane + count] = conv.bias[tail + first : tail + first + count]
    return Packed(
        phases=phases,
        vectors=vectors,
        panels=panels,
        panels_per_group=per_group,
        words=len(frames),
        weights=aligned(packed),
        word_frame=frames.astype(np.int32),
        word_channel=channels.astype(np.int32),
        panel_channel=np.repeat(_group_base(conv), per_group).astype(np.int32),
        scale=scale,
        bias=bias,
        reach=int(frames.max()) + size,
    )


def zero_corrected(packed: Packed, x_scale: float, zero_point: int) -> np.ndarray:
    """Bias of ``packed`` less what a stored zero point adds to every sum: exact in float64."""
    sums = packed.weights.astype(np.int64).sum(axis=(1, 3))
    return packed.bias - sums * packed.scale * (x_scale * zero_point)


def _vectors(conv: Conv, channels_in: int) -> int:
    """Vectors per panel by the products they cost; two share each input word, so they win ties."""
    made = conv.weight.shape[0] // conv.groups
    if made >= LANES or conv.groups == 1:
        return 1 if made <= LANES else 2
    costs = {}
    for vectors in (1, 2):
        phases = LANES // made * vectors
        costs[vectors] = len(_words(conv, phases, channels_in)[0]) * (vectors + (vectors == 1) * 0.1) / phases
    return min((2, 1), key=lambda vectors: costs[vectors])


def _group_base(conv: Conv) -> np.ndarray:
    """First input channel of each group, on a word's boundary."""
    size = PER_WORD[conv.compute]
    return np.arange(conv.groups) * conv.weight.shape[1] // size * size


def _words(conv: Conv, phases: int, channels_in: int) -> tuple[np.ndarray, np.ndarray, bool]:
    """Frame and channel of every word after the panel's first; whether a word's elements are frames."""
    _, inputs, taps = conv.weight.shape
    size = PER_WORD[conv.compute]
    reads = np.unique(
        np.add.outer(np.arange(phases) * conv.stride, np.arange(taps) * conv.dilation).reshape(-1)
    )
    if channels_in == 1:
        # A row of samples: a word holds neighbouring samples.
        starts = np.unique(reads // size * size)
        return starts, np.zeros_like(starts), True
    span = inputs if inputs % size == 0 or conv.groups == 1 else size
    channels = np.arange(0, span, size)
    return np.repeat(reads, len(channels)), np.tile(channels, len(reads)), False


def _lookup(
    conv: Conv,
    rows: np.ndarray,
    phase: int,
    frames: np.ndarray,
    channels: np.ndarray,
    element_is_frame: bool,
    group: int,
) -> np.ndarray:
    """Weights (words, channels out, elements per word) of one phase: zero where it has no tap."""
    size = PER_WORD[conv.compute]
    _, inputs, taps = rows.shape
    steps = np.arange(size)
    frame = frames[:, None] + (steps if element_is_frame else 0 * steps)
    shift = group * inputs - int(_group_base(conv)[group])
    channel = 0 * frame if element_is_frame else channels[:, None] + steps - shift
    moved = frame - phase * conv.stride
    tap = moved // conv.dilation
    real = (moved % conv.dilation == 0) & (tap >= 0) & (tap < taps) & (channel >= 0) & (channel < inputs)
    table = rows[:, np.where(real, channel, 0), np.where(real, tap, 0)] * real.astype(rows.dtype)
    return np.moveaxis(table, 0, 1)


def kind_bytes(kind: Kind) -> int:
    """Bytes of one stored element."""
    return 4 // PER_WORD[kind]
