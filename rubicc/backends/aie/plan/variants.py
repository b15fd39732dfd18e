"""The kernels' variants: bytes and slots of each, loop by loop as ``kernels/include`` has them.

=========================  ==================================================================================
entry                      loops of the templates
=========================  ==================================================================================
``conv_sliding[_wide]``    ``convolve.h``, ``walk`` over ``slide<4>``, then over ``slide<taps % 4>``
``conv_windows[_wide]``    ``convolve.h``, ``walk`` over ``step`` with ``load_unaligned_v``
``conv[_wide]``            ``convolve.h``, ``walk`` over ``step`` with ``load_v``
``add``                    ``elementwise.h``, ``add::whole``
``table``                  ``elementwise.h``, ``table::whole``: indices by vectors, entries by the scalar unit
``gru``, ``lstm``          ``cells.h``, ``operand``, ``multiply``, ``whole`` with ``lookup::of`` inside
``norm``                   ``sequence.h``, ``norm::whole``
``attention``              ``sequence.h``, ``attention``: ``score``, ``weigh``, ``mix``
=========================  ==================================================================================

``blocks.h``, ``move`` is the loop of everything that is copied. A register block of a convolution is 16
frames by one or (``wide``) two blocks of 8 output channels; sixteen-bit products have 64-bit accumulators, of
which the registers hold no second block. Weights of a tile lie in one array in the order they are used.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from rubicc.backends.aie.plan.devices import Shape
from rubicc.backends.aie.plan.variant import Footprint, Loop, Schedule, Variant, Work

FRAMES = 16  # of a register block
ROWS = 4  # frames of one product
STACK = 1024
PROGRAM = 6 * 1024
LOOKUPS = 0.5  # table entries per cycle: the scalar unit loads the index, then the entry, and stores
DIVISION = 40  # cycles of a division of 32-bit numbers, which the compiler makes of subtractions
ROOT = 16 * 6  # of an integer root of 32 bits: sixteen steps of six operations
_VECTOR = 32  # bytes of a load and of a store


def _align(value: int, to: int = 32) -> int:
    return -(-value // to) * to


def _gathers(work: Work) -> bool:
    """Whether input is copied into an array of the kernel's own: for frames kept, widening, or two ports."""
    return bool(work.reach) or work.activation != work.stored or (work.kind == "conv" and work.ports > 1)


def _copy(work: Work) -> tuple[Loop, ...]:
    """The work unit goes behind the frames kept, widened if need be; its last frames move to the front."""
    if not _gathers(work):
        return ()
    wider, pieces = work.activation // work.stored, math.ceil(work.frames / ROWS)
    if wider > 1:
        take = Loop("widen", work.in_blocks, pieces, data=_VECTOR, store=_VECTOR * wider, vector=4)
    else:
        ports = work.ports if work.kind == "conv" else 1
        take = Loop("take", ports, math.ceil(work.in_blocks * pieces / ports), data=_VECTOR, store=_VECTOR)
    forget = Loop(
        "forget", 1, work.in_blocks * wider * math.ceil(work.reach / ROWS), data=_VECTOR, store=_VECTOR
    )
    return take, forget


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
        return self.wide == 1 or (work.together >= 16 and work.activation + work.weight <= 24)

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
        """``walk`` over input blocks and taps, four at a time when sliding, per register block."""
        rows = FRAMES // ROWS
        wide = min(self.wide, work.together // 8)
        groups = work.channels // work.together
        entries = math.ceil(work.frames / FRAMES) * groups * math.ceil(work.together / (8 * wide))
        cascades = rows * wide * math.ceil(ROWS * 8 * 32 / 512) * (work.cascade_in + work.cascade_out)
        taps = self.taps(work)
        if self.sliding:
            fours = self._walk(work, shape, wide, entries, taps // 4, 4)
            rest = self._walk(work, shape, wide, entries, 1, taps % 4)
        else:
            fours, rest = self._walk(work, shape, wide, entries, taps, 1), None
        loops = [loop for loop in (fours, rest) if loop is not None and loop.trips]
        if len(loops) == 2 and loops[1].trips == 1:  # no loop: it follows the first one as it is
            loops = [replace(loops[0], outer=loops[1].mac)]
        loops[0] = replace(loops[0], outer=loops[0].outer + cascades)
        macs = work.frames * work.channels * work.taps * work.depth * (64 // work.activation)
        return Schedule((*_copy(work), *loops), work.ports + (not work.cascade_out), macs)

    def _walk(self, work: Work, shape: Shape, wide: int, entries: int, steps: int, taps: int) -> Loop | None:
        """``steps`` steps of ``taps`` taps in each input block."""
        if not taps:
            return None
        rows, slot = FRAMES // ROWS, 64 // work.activation  # channels of one block as multiplied
        deep = max(1, shape.k // slot)  # blocks one multiplication takes
        issues = rows * wide * max(1.0, 8 / shape.n) * shape.cycles * slot * deep / shape.k
        return Loop(
            self.name, entries, math.ceil(work.depth / deep) * steps, issues * taps,
            data=FRAMES * 8 * deep + _VECTOR * deep * (taps > 1), unaligned=rows * deep * self.windows,
            weight=taps * wide * 8 * slot * deep * work.weight / 8, vector=2 * deep * (taps - 1),
        )  # fmt: skip


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
            items.append(("history", _align(work.in_blocks * (_align(work.reach, 4) + work.frames) * 8)))
        return Footprint(tuple(items), PROGRAM)

    def schedule(self, work: Work, shape: Shape) -> Schedule:
        """Per 4 frames of 8 channels: loads, two moves to accumulators, a sum, a requantisation, a maximum;
        16-bit values lie in two slots, which are zipped."""
        read, made = work.stored // 8, work.output // 8
        loop = Loop(
            "sum", work.out_blocks // made, math.ceil(work.frames / ROWS), data=2 * read * _VECTOR,
            unaligned=read * (work.reach % ROWS > 0), store=made * _VECTOR,
            vector=5 + 4 * (read - 1) + 2 * (made - 1),
        )  # fmt: skip
        return Schedule((*_copy(work), loop), work.ports + 1, 0)


@dataclass(frozen=True)
class TableVariant:
    """Activations by table."""

    name: str = "table"

    def matches(self, work: Work, shapes: Mapping[tuple[int, int], Shape]) -> bool:
        """Any table."""
        return work.kind == "table"

    def footprint(self, work: Work) -> Footprint:
        """The table, and the indices of a line."""
        items = (
            ("stack", STACK),
            ("tables", _align(2 * work.table_entries)),
            ("scratch", _align(16 * work.frames)),
        )
        return Footprint(items, PROGRAM)

    def schedule(self, work: Work, shape: Shape) -> Schedule:
        """Per line: the indices by five vector operations each, then an entry for each."""
        width = 64 // min(work.stored, work.output) if work.stored != work.output else 64 // work.stored
        lines = math.ceil(work.out_blocks * 64 // work.output / width)
        index = Loop(
            "index", lines, math.ceil(work.frames / ROWS), data=_VECTOR * (width // (64 // work.stored)),
            store=width * ROWS * 2, vector=5 + 2 * (work.stored != work.output),
        )  # fmt: skip
        read = Loop("look-up", lines, work.frames * width, scalar=1 / LOOKUPS)
        return Schedule((index, read), work.ports + 1, 0)


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
        hidden, steps = _align(work.hidden, 8), work.frames // ROWS
        blocks, state = hidden // 8, work.activation // 8
        operand = Loop("operand", steps, blocks, data=64, store=state * _VECTOR, vector=2 * state)
        product = Loop(
            "R h", steps * self.gates * blocks, math.ceil(hidden / shape.k),
            max(1.0, 8 / shape.n) * shape.cycles, data=32, weight=8 * shape.k * work.weight / 8,
        )  # fmt: skip
        tables = steps * blocks * (self.gates + (self.gates == 4))
        read = Loop("look-up", tables, ROWS * 8, scalar=1 / LOOKUPS)
        # Sums, products and requantisations of 32 values; each is entered once more than a table is read.
        gates = Loop("gates", steps, blocks, data=(2 * self.gates + 2) * 64, store=64, vector=8 * self.gates)
        macs = steps * ROWS * self.gates * hidden * hidden
        return Schedule((operand, product, read, gates), work.ports + 1, macs)


@dataclass(frozen=True)
class NormVariant:
    """Layer normalisations: 4 frames at a time, all channels on one tile."""

    name: str = "norm"

    def matches(self, work: Work, shapes: Mapping[tuple[int, int], Shape]) -> bool:
        """Any of them."""
        return work.kind == "norm"

    def footprint(self, work: Work) -> Footprint:
        """Gains and offsets, and the deviations of 4 frames."""
        items = (
            ("stack", STACK),
            ("weights", _align(2 * work.channels)),
            ("bias", _align(4 * work.channels)),
            ("scratch", _align(2 * ROWS * work.channels)),
        )
        return Footprint(items, PROGRAM)

    def schedule(self, work: Work, shape: Shape) -> Schedule:
        """Per 4 frames: means, deviations and their squares, then a root and a reciprocal of each frame by
        the scalar unit, and the results."""
        fours, blocks = math.ceil(work.frames / ROWS), work.channels // 8
        wide, made = work.stored // 8, work.output // 8
        loops = (
            Loop("means", fours, blocks, data=wide * _VECTOR, vector=1 + wide),
            Loop("squares", fours, blocks, mac=2, data=wide * _VECTOR, store=64, vector=5 + 2 * wide),
            Loop("roots", fours * ROWS, 1, scalar=ROOT + DIVISION),
            # A product of two 32-bit numbers is four of 16 bits; 32 of them in two halves.
            Loop("results", fours, blocks, mac=9, data=64, weight=48, store=made * _VECTOR, vector=10),
        )
        return Schedule(loops, work.ports + 1, 0)


@dataclass(frozen=True)
class AttentionVariant:
    """Attention: scores, softmax and weighted sums of 4 queries at a time, head by head."""

    name: str = "attention"

    def matches(self, work: Work, shapes: Mapping[tuple[int, int], Shape]) -> bool:
        """Products of 8 by 8 bits with four rows."""
        return work.kind == "attention" and (8, 8) in shapes and shapes[8, 8].m == ROWS

    def footprint(self, work: Work) -> Footprint:
        """The table; scores, indices and weights of 4 queries."""
        keys = _align(work.frames, 8)
        items = (
            ("stack", STACK),
            ("tables", _align(work.table_entries)),
            ("scratch", _align(ROWS * keys * 5 + 256)),
        )
        return Footprint(items, PROGRAM)

    def schedule(self, work: Work, shape: Shape) -> Schedule:
        """Per 4 queries: a product for 8 keys at a time, their largest, an entry for each, a reciprocal of
        each query by the scalar unit, and a product for 8 channels at a time."""
        keys = math.ceil(work.frames / 8)
        queries = work.heads * math.ceil(work.frames / ROWS)
        issue, made = max(1.0, 8 / shape.n) * shape.cycles, work.output // 8
        loops = (
            Loop("scores", queries * keys, work.depth, issue, data=_VECTOR, weight=64, vector=2),
            Loop("largest", queries, keys, data=64, vector=1),
            Loop("indices", queries, keys, data=64, store=64, vector=5),
            Loop("look-up", queries, keys * ROWS * 8, scalar=1 / LOOKUPS),
            Loop("sums", queries, keys, issue, data=_VECTOR),
            Loop("reciprocals", queries * ROWS, 1, scalar=DIVISION),
            Loop("mixes", queries * work.depth, keys, issue, data=_VECTOR, weight=64, outer=8 + made * 2),
        )
        macs = 2 * work.heads * work.depth * 8 * work.frames * work.frames
        return Schedule(loops, work.ports + 1, macs)


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
    NormVariant(),
    AttentionVariant(),
)


def choose(work: Work, shapes: Mapping[tuple[int, int], Shape]) -> Variant | None:
    """The first variant that matches."""
    return next((variant for variant in TABLE if variant.matches(work, shapes)), None)
