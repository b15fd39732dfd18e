"""Weights of a convolution in the order in which a tile's kernel reads them."""

from __future__ import annotations

from dataclasses import dataclass
from math import lcm

import numpy as np

from rubicc.backends.aie.net import Conv, Net
from rubicc.backends.aie.numbers import SLOT_BYTES
from rubicc.backends.aie.plan.model import Stage, Tile

COLUMNS = 8  # output channels of one product
ROWS = 4  # frames of one product


@dataclass(frozen=True)
class Share:
    """What one tile computes of a convolution.

    Attributes:
        groups: blocks of the (block-diagonal) matrix it holds.
        slots: slots of one group's input, as multiplied.
        blocks: blocks of 8 output channels of one group.
        first, taps: its taps; ``first`` is negative where zeros stand in front of the layer's taps.
        weights: in the order of use, flat.
        bias, shift: per output channel, and per block of 8.
    """

    groups: int
    slots: int
    blocks: int
    first: int
    taps: int
    weights: np.ndarray
    bias: np.ndarray
    shift: np.ndarray


def share(layer: Conv, net: Net, stage: Stage, tile: Tile) -> Share:
    """The share of ``tile`` in ``layer``."""
    read, made = net.edges[layer.inputs[0]].type.block, net.edges[layer.output].type.block
    lanes = SLOT_BYTES * 8 // stage.widths[0]  # channels of a slot as multiplied
    whole = matrix(layer, packed=stage.packing is not None)
    begin, size_out = tile.outputs.first * made, -(-tile.outputs.count * made // COLUMNS) * COLUMNS
    into, size_in = tile.inputs.first * read, tile.inputs.count * read
    groups = 1
    if layer.groups > 1:
        wide_in, wide_out = group_sizes(layer)
        groups = -(-size_out // wide_out)
        size_in, size_out = wide_in, wide_out
    first, taps = (0, 1) if stage.packing is not None else (tile.taps.first, tile.taps.count)
    front = zeros_in_front(layer, stage, first)
    parts = []
    for group in range(groups):
        for block in range(size_out // COLUMNS):
            rows = begin + group * size_out + block * COLUMNS
            for slot in range(size_in // lanes):
                columns = into + group * size_in + slot * lanes
                part = _window(whole, rows, first, columns, (COLUMNS, taps, lanes))
                part = np.pad(part, ((0, 0), (front, 0), (0, 0)))
                parts.append(part.transpose(1, 2, 0).reshape(-1))
    count = groups * size_out
    bias, shift = np.zeros(count, np.int64), np.zeros(count, np.int64)
    mine = slice(begin, min(begin + count, len(layer.shift)))
    shift[: mine.stop - mine.start] = layer.shift[mine]
    if layer.bias is not None:
        bias[: mine.stop - mine.start] = layer.bias[mine]
    return Share(
        groups,
        size_in // lanes,
        size_out // COLUMNS,
        first - front,
        taps + front,
        np.concatenate(parts),
        bias,
        shift[::COLUMNS],
    )


def zeros_in_front(layer: Conv, stage: Stage, first: int) -> int:
    """Zero taps before tap ``first`` so that a tile's taps begin at a frame whose operand is aligned."""
    reach = stage.history[0]
    slides = reach > 0 and reach == layer.taps - 1  # taps at every frame
    return (first - reach) % ROWS if slides else 0


def group_sizes(layer: Conv) -> tuple[int, int]:
    """Input and output channels of a group, small ones merged into whole blocks."""
    each, made = layer.weight.shape[1], len(layer.weight) // layer.groups
    merged = lcm(each, made, COLUMNS)
    return (merged, merged) if each % COLUMNS or made % COLUMNS else (each, made)


def matrix(layer: Conv, *, packed: bool) -> np.ndarray:
    """All weights, groups spread out: ``(outputs, taps, inputs)``; of a packed layer ``(outputs, 1, taps *
    inputs)``, tap after tap."""
    outputs, each, taps = layer.weight.shape
    whole = np.zeros((outputs, taps, each * layer.groups), np.int64)
    for group, rows in enumerate(np.split(np.arange(outputs), layer.groups)):
        whole[rows, :, group * each : (group + 1) * each] = layer.weight[rows].transpose(0, 2, 1)
    return whole.reshape(outputs, 1, -1) if packed else whole


def _window(whole: np.ndarray, row: int, tap: int, column: int, size: tuple[int, int, int]) -> np.ndarray:
    """A part of ``whole``, zero where it has nothing."""
    found = whole[row : row + size[0], tap : tap + size[1], column : column + size[2]]
    made = np.zeros(size, np.int64)
    made[tuple(slice(n) for n in found.shape)] = found
    return made
