"""A small network with everything a project's host and Makefile must manage, and its project."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from rubicc.backends.aie import reference
from rubicc.backends.aie.net import Edge, Gru, Lstm, Net
from rubicc.backends.aie.plan.devices import device
from rubicc.backends.aie.plan.model import AiePlan
from rubicc.backends.aie.plan.planner import Options, plan
from rubicc.backends.aie.project import write
from rubicc.backends.aie.project.framing import Framing
from tests.backends.aie_kernel_nets import INT8, INT16, Random

STRIDE, FRAMES = 5, 30


@dataclass(frozen=True)
class Case:
    """A planned network with integers for it: values by edge name, ``(N, C, T)``."""

    net: Net
    array: AiePlan
    values: dict[str, np.ndarray]

    @property
    def framing(self) -> Framing:
        return Framing(self.array, self.net)

    def part(self, first: int, last: int) -> dict[str, np.ndarray]:
        """Values of some sequences."""
        return {name: array[first:last] for name, array in self.values.items()}

    def write(self, folder: Path, **options: object) -> Path:
        """The project, with one sequence for its simulations."""
        example = {name: self.values[name][:1] for name in self.net.inputs}
        given = {"name": "cells", **options}
        write(self.array, self.net, folder, example=example, **given)  # type: ignore[arg-type]
        return folder


def planned(net: Net, feeds: dict[str, np.ndarray], objective: str = "tiles") -> Case:
    array = plan(net, device("vek280"), Options(frames=FRAMES, objective=objective))
    return Case(net, array, feeds | reference.run(net, feeds, keep=True))


def cells(sequences: int = 1) -> Case:
    """Both directions, so two segments; a strided first layer; four sequences in lanes."""
    made = Random(1, INT8).conv("c", 16, 9, stride=STRIDE, pads=(4, 4))
    made.conv("in", 72, to=INT16, relu=False).cell(Gru, "g", 24, operand=INT16, weight=16, reverse=True)
    made.conv("next", 64, to=INT16, relu=False).cell(Lstm, "l", 16, to=INT16)
    return planned(made.net(), made.feeds(sequences, STRIDE * FRAMES))


def ends(sequences: int) -> Case:
    """Two inputs (one of them strided), two outputs, four segments, one backward."""
    made = Random(1, INT8).conv("c", 24, 9, stride=STRIDE, pads=(4, 4))
    windows = made.last
    made.edges["z"] = Edge("z", 9, INT16, -7)
    made.sample = made.values["z"] = made.made.integers(-3000, 3000, (2, 9, 12))
    made.last = "z"
    made.conv("d", 24, 3, relu=False).add("s", windows)
    made.conv("in", 72, to=INT16, relu=False).cell(Gru, "g", 24, operand=INT16, weight=16, reverse=True)
    first = made.last
    made.conv("next", 64, to=INT16, relu=False).cell(Lstm, "l", 16, to=INT16)
    made.conv("o", 5, to=INT16, relu=False)
    net = replace(made.net(first, made.last), inputs=("x", "z"))
    feeds = {
        "x": made.made.integers(-128, 128, (sequences, 1, STRIDE * FRAMES)),
        "z": made.made.integers(-3000, 3000, (sequences, 9, FRAMES)),
    }
    return planned(net, feeds)
