"""Integers of the network to what flows through a PLIO, and back.

A stream is work units one after the other, each ``[channel block][frame][8 bytes]``. Sequences (groups of
``lanes`` of them, interleaved frame by frame) follow each other every ``period`` frames; the frames between
them, and those that push the last results out, are zeros.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from math import lcm

import numpy as np

from rubicc.backends.aie.net import Edge, Net
from rubicc.backends.aie.numbers import SLOT_BYTES
from rubicc.backends.aie.plan.model import AiePlan, Packing, Plio, Segment, Stage

ANY = np.iinfo(np.int64).min  # a value of an output that nobody looks at


@dataclass(frozen=True)
class Framing:
    """How sequences of a planned network become streams."""

    plan: AiePlan
    net: Net

    @cached_property
    def stages(self) -> dict[str, Stage]:
        """Stage by the edge it makes."""
        return {stage.output: stage for stage in self.plan.stages}

    @cached_property
    def turn(self) -> int:
        """Work units in one iteration of the graph: tiles that take turns share them out."""
        units = {buffer.units for link in self.plan.links for buffer in link.buffers}
        return lcm(*(stage.split.t for stage in self.plan.stages), *units)

    @cached_property
    def step(self) -> int:
        """Work units are fed in multiples of this: whole turns, and whole periods, because the kernels count
        on when the next batch comes."""
        return lcm(self.plan.period // self.plan.block, self.turn)

    def packing(self, edge: str) -> Packing | None:
        """How the host packs an input edge, where its first layer is strided."""
        found = [s.packing for s in self.plan.stages if edge in s.inputs and s.packing is not None]
        return found[0] if found else None

    def slots(self, edge: str) -> int:
        """Slots of a frame of ``edge`` as it is streamed."""
        return max(plio.blocks.end for plio in self.plan.plios if plio.edge == edge)

    def groups(self, sequences: int) -> int:
        """Groups of ``lanes`` sequences."""
        return -(-sequences // self.plan.lanes)

    def units(self, sequences: int, segment: Segment) -> int:
        """Work units for ``sequences`` sequences, those that push out the last results included; the same
        rule as ``units`` in the host program's ``framing.h``."""
        needed = self.groups(sequences) * self.plan.period // self.plan.block + segment.flush
        return -(-needed // self.step) * self.step

    def frames(self, values: np.ndarray, edge: str) -> np.ndarray:
        """``(N, C, T)`` packed where the edge is: ``(N, C', T')``."""
        packing = self.packing(edge)
        if packing is None:
            return values
        padded = np.pad(values, ((0, 0), (0, 0), packing.pads))
        windows = np.lib.stride_tricks.sliding_window_view(padded, packing.taps, axis=2)
        windows = windows[:, :, :: packing.stride]  # (N, C, T', taps)
        return windows.transpose(0, 3, 1, 2).reshape(len(values), -1, windows.shape[2])

    def stream(self, values: np.ndarray, edge: str, segment: Segment) -> np.ndarray:
        """An input edge as bytes, ``(units, slots, block, 8)``.

        Args:
            values: int64 ``(N, C, T)``.
        """
        units = self.units(len(values), segment)
        rows = self.frames(values, edge)  # windows first: their taps keep their order
        rows = rows[:, :, ::-1] if segment.reverse else rows
        made = self._placed(rows, edge, units, 0, 0).astype(_numpy(self.net.edges[edge]))
        return np.ascontiguousarray(made).view(np.uint8)

    def expected(self, values: np.ndarray, plio: Plio, segment: Segment) -> np.ndarray:
        """What an output PLIO gives, flat; :data:`ANY` where nobody looks: between sequences and beyond the
        edge's channels.

        Args:
            values: int64 ``(N, C, T)`` of its edge.
        """
        rows, units = values[:, :, ::-1] if segment.reverse else values, self.units(len(values), segment)
        made = self._placed(rows, plio.edge, units, self.stages[plio.edge].lag, ANY)
        return made[:, plio.blocks.first : plio.blocks.end].reshape(-1)

    def _placed(self, rows: np.ndarray, edge: str, units: int, lag: int, rest: int) -> np.ndarray:
        """``(N, C, T)`` where its frames belong in ``(units, slots, block, channels of a slot)``."""
        count, channels, length = rows.shape
        plan, each = self.plan, self.net.edges[edge].type.block
        groups, lanes, slots = self.groups(count), plan.lanes, self.slots(edge)
        whole = np.full((groups * lanes, slots * each, length), rest, np.int64)
        whole[:count, :channels] = rows
        # (groups, lanes, channels, time) -> (groups, time, lanes, channels): frame 4 * step + sequence
        interleaved = whole.reshape(groups, lanes, -1, length).transpose(0, 3, 1, 2)
        flat = np.full((units * plan.block, slots * each), rest, np.int64)
        for group, frames in enumerate(interleaved.reshape(groups, length * lanes, -1)):
            first = group * plan.period + lag
            flat[first : first + len(frames)] = frames
        return flat.reshape(units, plan.block, slots, each).transpose(0, 2, 1, 3)

    def sequences(self, stream: np.ndarray, edge: str, segment: Segment, count: int) -> np.ndarray:
        """What :meth:`stream` would have made the bytes of an output edge from: int64 ``(N, C, T)``.

        Args:
            stream: uint8 ``(units, slots, block, 8)``.
        """
        plan, about = self.plan, self.net.edges[edge]
        kind, lanes = about.type, plan.lanes
        units, slots = stream.shape[:2]
        values = (
            np.ascontiguousarray(stream).view(_numpy(about)).reshape(units, slots, plan.block, kind.block)
        )
        flat = values.transpose(0, 2, 1, 3).reshape(units * plan.block, slots * kind.block)
        lag, length = self.stages[edge].lag, plan.lengths[edge]
        groups = self.groups(count)
        kept = [flat[g * plan.period + lag : g * plan.period + lag + length] for g in range(groups)]
        made = np.stack(kept).reshape(groups, length // lanes, lanes, -1).transpose(0, 2, 3, 1)
        made = made.reshape(groups * lanes, slots * kind.block, -1)[:count, : about.channels]
        return (made[:, :, ::-1] if segment.reverse else made).astype(np.int64)

    def feeds(self, values: Mapping[str, np.ndarray], segment: Segment) -> dict[str, np.ndarray]:
        """Values of a segment's input PLIOs, in the elements of their ports, flat."""
        made: dict[str, np.ndarray] = {}
        for plio in self.plios(segment, "in"):
            whole = self.stream(values[plio.edge], plio.edge, segment)
            part = np.ascontiguousarray(whole[:, plio.blocks.first : plio.blocks.end])
            made[plio.name] = part.reshape(-1).view(_numpy(self.net.edges[plio.edge]))
        return made

    def results(
        self, outputs: Mapping[str, np.ndarray], segment: Segment, count: int
    ) -> dict[str, np.ndarray]:
        """A segment's output edges, int64 ``(N, C, T)``, from the values of its output PLIOs."""
        made: dict[str, np.ndarray] = {}
        units = self.units(count, segment)
        for edge in segment.outputs:
            kind = _numpy(self.net.edges[edge])
            shape = (units, self.slots(edge), self.plan.block, SLOT_BYTES)
            whole = np.zeros(shape, np.uint8)
            for plio in self.plios(segment, "out"):
                if plio.edge == edge:
                    raw = np.ascontiguousarray(outputs[plio.name].astype(kind)).view(np.uint8)
                    whole[:, plio.blocks.first : plio.blocks.end] = raw.reshape(
                        units, plio.blocks.count, self.plan.block, SLOT_BYTES
                    )
            made[edge] = self.sequences(whole, edge, segment, count)
        return made

    def plios(self, segment: Segment, direction: str) -> tuple[Plio, ...]:
        """PLIOs of a segment, in the plan's order."""
        edges = segment.inputs if direction == "in" else segment.outputs
        return tuple(p for p in self.plan.plios if p.direction == direction and p.edge in edges)


def _numpy(edge: Edge) -> np.dtype[np.generic]:
    return np.dtype(edge.type.cpp).newbyteorder("<")
