"""The first table of kernel variants: bytes and slots of each, as our kernels are built.

Register blocks are 16 frames (as many rows of the native multiplication as that takes) by one or two blocks
of 8 output channels. Weights of a tile lie in one array in the order they are used.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from rubicc.backends.aie.plan.devices import Shape
from rubicc.backends.aie.plan.variant import Footprint, Loop, Schedule, Variant, Work

FRAMES = 16  # of a register block
STACK = 1024
PROGRAM = 6 * 1024
LOOKUPS = 0.5  # table entries per cycle: the scalar unit loads the index, then the entry, and stores


def _align(value: int, to: int = 32) -> int:
    return -(-value // to) * to


def _gathers(work: Work) -> bool:
    """Whether input is copied into an array of the kernel's own: for frames kept, widening, or two ports."""
    return bool(work.reach) or work.activation != work.stored or (work.kind == "conv" and work.ports > 1)


def _copy(work: Work) -> tuple[Loop, ...]:
    """History: the last ``reach`` frames move to the front, the work unit behind them; widened if need be."""
    if not _gathers(work):
        return ()
    wider = work.activation // work.stored
    trips = math.ceil((work.frames + work.reach) / 4)
    return (Loop("history", work.in_blocks, trips, data=32, store=32 * wider, vector=wider - 1),)


@dataclass(frozen=True)
class ConvVariant:
    """Convolutions, linear layers and pointwise ones.

    Attributes:
        name: in plans.
        wide: output blocks of 8 channels that share every load of data.
        sliding: taps begin at frames that are no multiple of 4: four taps share five aligned loads, and
            operands between two vectors are shifted out of them.
        windows: or every operand is loaded by itself, one load more where it lies between two vectors.
    """

    name: str
    wide: int
    sliding: bool = False
    windows: bool = False

    def matches(self, work: Work, shapes: Mapping[tuple[int, int], Shape]) -> bool:
        """A native multiplication of these widths, and taps as this variant takes them."""
        if work.kind != "conv" or (work.activation, work.weight) not in shapes:
            return False
        kind = (False, False)
        if work.unaligned and work.reach > 0:
            kind = (True, False) if work.dilation == 1 else (False, True)
        if (self.sliding, self.windows) != kind:
            return False
        # Two blocks need eight accumulators, which the registers hold in 32 bits only.
        return self.wide == 1 or (work.shared and work.channels >= 16 and work.activation + work.weight <= 24)

    def taps(self, work: Work) -> int:
        """Taps that are multiplied, zeros included."""
        return work.taps + work.lead * self.sliding

    def footprint(self, work: Work) -> Footprint:
        """Weights, bias and shifts, history."""
        weights = work.channels * self.taps(work) * work.depth * (64 // work.activation) * work.weight // 8
        items = [
            ("stack", STACK),
            ("weights", _align(weights)),
            ("bias", _align(work.channels * 4 + work.channels // 2)),
        ]
        if _gathers(work):
            kept = _align(work.reach + 3 * self.sliding, 4) + work.frames
            items.append(("history:in0", _align(work.in_blocks * kept * 8 * work.activation // work.stored)))
        return Footprint(tuple(items), PROGRAM)

    def schedule(self, work: Work, shape: Shape) -> Schedule:
        """One loop over taps (four at a time when sliding) and input blocks per register block."""
        rows = FRAMES // shape.m
        wide = min(self.wide, work.channels // 8)
        slot = 64 // work.activation  # channels of one block as multiplied
        deep = max(1, shape.k // slot)  # blocks one multiplication takes
        entries = math.ceil(work.frames / FRAMES) * math.ceil(work.channels / (8 * wide))
        issues = rows * wide * (8 / shape.n) * shape.cycles * slot * deep / shape.k
        words = rows * wide * math.ceil(shape.m * 8 * 32 / 512)
        taps, depth = self.taps(work), math.ceil(work.depth / deep)
        four = 4 if self.sliding else 1
        trips, rest = (taps // 4, taps % 4) if self.sliding else (taps, 0)
        loop = Loop(
            self.name, entries, depth * trips, issues * four, data=FRAMES * 8 * deep + 32 * self.sliding,
            unaligned=rows * deep * self.windows, weight=four * wide * 8 * slot * deep * work.weight / 8,
            vector=rows * (deep - 1) + 6 * self.sliding,
            outer=words * (work.cascade_in + work.cascade_out) + rest * depth * issues,
        )  # fmt: skip
        macs = work.frames * work.channels * work.taps * work.depth * slot
        return Schedule((*_copy(work), loop), work.ports + (not work.cascade_out), macs)


@dataclass(frozen=True)
class AddVariant:
    """Residual sums; the input that is held back has a history."""

    name: str = "add"

    def matches(self, work: Work, shapes: Mapping[tuple[int, int], Shape]) -> bool:
        """Any sum."""
        return work.kind == "add"

    def footprint(self, work: Work) -> Footprint:
        """The frames held back."""
        items = [("stack", STACK)]
        if work.reach:
            items.append(("history", _align(work.in_blocks * (_align(work.reach, 4) + work.frames + 4) * 8)))
        return Footprint(tuple(items), PROGRAM)

    def schedule(self, work: Work, shape: Shape) -> Schedule:
        """Two loads, two moves to accumulators, a sum, a requantisation, a store per 4 frames of a slot."""
        trips = math.ceil(work.frames / 4)
        loop = Loop("sum", work.out_blocks, trips, data=64, store=32, vector=5)
        return Schedule((*_copy(work), loop), work.ports + 1, 0)


@dataclass(frozen=True)
class TableVariant:
    """Activations by table."""

    name: str = "table"

    def matches(self, work: Work, shapes: Mapping[tuple[int, int], Shape]) -> bool:
        """Any table."""
        return work.kind == "table"

    def footprint(self, work: Work) -> Footprint:
        """The table."""
        return Footprint((("stack", STACK), ("tables", _align(2 * work.table_entries))), PROGRAM)

    def schedule(self, work: Work, shape: Shape) -> Schedule:
        """The index takes three vector operations; the scalar unit looks up."""
        values = 4 * 64 // max(work.activation, work.output)
        loop = Loop(
            "look-up", work.out_blocks, math.ceil(work.frames / 4), data=32, store=32,
            vector=3, scalar=values / LOOKUPS,
        )  # fmt: skip
        return Schedule((loop,), work.ports + 1, 0)


@dataclass(frozen=True)
class CellVariant:
    """GRU and LSTM: 4 sequences are the rows of the multiplication, one step after the other."""

    name: str
    gates: int

    def matches(self, work: Work, shapes: Mapping[tuple[int, int], Shape]) -> bool:
        """The cell of this name, with four rows."""
        widths = (work.activation, work.weight)
        return work.kind == self.name and widths in shapes and shapes[widths].m == 4

    def footprint(self, work: Work) -> Footprint:
        """Recurrent weights, tables, states of 4 sequences, gates of one step."""
        hidden = _align(work.hidden, 8)
        items = (
            ("stack", STACK),
            ("weights", _align(self.gates * hidden * hidden * work.weight // 8)),
            ("bias", _align(self.gates * hidden * 9 // 2)),
            ("tables", _align(2 * work.table_entries)),
            ("state", _align(4 * hidden * (2 + (self.gates == 4) * 2 + work.activation // 8))),
            ("scratch", _align(4 * self.gates * hidden * 2)),
        )
        return Footprint(items, 10 * 1024)

    def schedule(self, work: Work, shape: Shape) -> Schedule:
        """Per step: R h, one block of 8 gates after the other, then look-ups and sums over the units."""
        hidden, steps = _align(work.hidden, 8), work.frames // 4
        product = Loop(
            "R h", steps * math.ceil(self.gates * hidden / 8), math.ceil(hidden / shape.k),
            8 / shape.n * shape.cycles, data=32, weight=8 * shape.k * work.weight / 8,
        )  # fmt: skip
        tables = self.gates + (self.gates == 4)
        gates = Loop(
            "gates", steps, math.ceil(4 * hidden / 16), data=2 * self.gates * 32, store=64,
            vector=tables * 3 + 12, scalar=tables * 16 / LOOKUPS,
        )  # fmt: skip
        macs = steps * 4 * self.gates * hidden * hidden
        return Schedule((product, gates), work.ports + 1, macs)


TABLE: tuple[Variant, ...] = (
    ConvVariant("conv_sliding_wide", 2, sliding=True),
    ConvVariant("conv_sliding", 1, sliding=True),
    ConvVariant("conv_windows_wide", 2, windows=True),
    ConvVariant("conv_windows", 1, windows=True),
    ConvVariant("conv_wide", 2),
    ConvVariant("conv", 1),
    AddVariant(),
    TableVariant(),
    CellVariant("gru", 3),
    CellVariant("lstm", 4),
)


def choose(work: Work, shapes: Mapping[tuple[int, int], Shape]) -> Variant | None:
    """The first variant that matches."""
    return next((variant for variant in TABLE if variant.matches(work, shapes)), None)
