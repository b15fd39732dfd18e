"""A small model of what a convolution costs in each form; it proposes, measuring decides.

Times are nanoseconds per output number on one core, from rates measured on an AVX512-VNNI machine
(docs/polyphase.md says how). Only their ratios matter.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import log2
from typing import Literal

from rubicc.passes.layout.phases import Geometry, fold, macs_per_output, spread_geometry

Formulation = Literal["rows", "gather", "planes"]
FORMULATIONS: tuple[Formulation, ...] = ("rows", "gather", "planes")
PHASES = (2, 3, 4, 6, 8, 12, 16, 32)
REGION_PHASES = (2, 4, 8, 16)  # a region has one number, so only those that suit most lengths


@dataclass(frozen=True)
class Rates:
    """Of one form in the runtime it is made for.

    Attributes:
        speed: GMAC/s of a grouped convolution by input channels of a group.
        move: nanoseconds per number to bring it into phases or back.
    """

    speed: tuple[tuple[int, float], ...]
    move: float

    def rate(self, channels: int) -> float:
        """GMAC/s at ``channels`` per group, between the measured points in proportion to their logarithm."""
        low = self.speed[0]
        for high in self.speed:
            if channels <= high[0]:
                if high[0] == low[0]:
                    return high[1]
                share = log2(channels / low[0]) / log2(high[0] / low[0])
                return low[1] + share * (high[1] - low[1])
            low = high
        return self.speed[-1][1]


# OpenVINO 2026.4 (rows, gather), ONNX Runtime 1.31 (planes, and rows of integers).
_OPENVINO_FLOAT = ((1, 40), (4, 31), (8, 48), (16, 66), (24, 85), (32, 100), (48, 120), (64, 124))
_OPENVINO_INTEGER = ((1, 70), (8, 200), (16, 420), (24, 340), (32, 470), (64, 490))
_ORT_FLOAT = ((1, 10), (4, 19), (8, 36), (16, 57), (32, 74), (64, 90), (128, 96), (256, 105))
_ORT_INTEGER = ((1, 68), (2, 10), (8, 22), (32, 200), (64, 330), (128, 410))
RATES: dict[tuple[Formulation, bool], Rates] = {
    ("rows", False): Rates(_OPENVINO_FLOAT, 0.40),
    ("rows", True): Rates(_ORT_INTEGER, 0.20),
    ("gather", False): Rates(_OPENVINO_FLOAT, 0.80),
    ("gather", True): Rates(_OPENVINO_INTEGER, 0.40),
    ("planes", False): Rates(_ORT_FLOAT, 1.5),
    ("planes", True): Rates(_ORT_INTEGER, 0.5),
}


def conv_cost(geometry: Geometry, phases: int, rates: Rates) -> float:
    """Of the convolution alone, per output number of the original one.

    Few inputs are no hindrance where many outputs are made of them.
    """
    wide = geometry.inputs if phases == 1 else geometry.inputs * fold(geometry, phases).input_phases
    return macs_per_output(geometry, phases) / rates.rate(max(wide, min(geometry.outputs * phases, 32)))


def spread_extra(geometry: Geometry, phases: int, rates: Rates) -> float:
    """What :func:`~rubicc.passes.layout.phases.spread_weight` adds to a convolution, per output number.

    Its product is tall (many outputs of a group for every input), so outputs decide its speed.
    """
    to = spread_geometry(geometry, phases)
    return geometry.inputs * (to.taps - geometry.taps) / rates.rate(to.outputs)


def row_cost(geometry: Geometry, phases: int, rates: Rates, frames: int | None = None) -> float:
    """Convolution and both moves of the channels-last form, per output number.

    Args:
        frames: the usual length of the input, where it is known; a remainder costs padding and cropping.
    """
    if phases == 1:
        return conv_cost(geometry, 1, rates)
    cost = conv_cost(geometry, phases, rates)
    numbers = 1 + geometry.inputs * geometry.stride / geometry.outputs
    if geometry.groups > 1:  # in one group nothing moves: frames in a row are its channels
        cost += rates.move * numbers
    if frames is not None and frames % (phases * geometry.stride):
        cost += rates.move * numbers / 2
    return cost


def best_row_phases(
    geometry: Geometry, rates: Rates, choices: tuple[int, ...] = PHASES, frames: int | None = None
) -> int:
    """Phases with the lowest cost in a channels-last form; 1 where the convolution had better stay."""
    return min((1, *choices), key=lambda phases: row_cost(geometry, phases, rates, frames))
