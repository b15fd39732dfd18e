"""What a kernel variant must tell the planner: bytes and slots. Kernels own variants; the planner asks.

A variant answers three questions about a :class:`Work` (the share of a layer that one tile computes per work
unit): does it match, how many bytes does it need, and how is its time spent (a :class:`Schedule` of loops,
which :mod:`rubicc.backends.aie.plan.cycles` turns into cycles).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from rubicc.backends.aie.plan.devices import Shape


@dataclass(frozen=True)
class Work:
    """The share of a layer that one tile computes for one work unit.

    Attributes:
        kind: ``conv``, ``add``, ``table``, ``gru``, ``lstm``, ``norm``, ``attention``.
        frames: Tb.
        out_blocks: channel blocks of the output that it computes; a slot of 8 bytes each.
        in_blocks: channel blocks of each input that it uses.
        depth: input channel blocks that one output channel depends on (all of them without groups).
        taps: taps it uses; all taps of the layer are ``reach``.
        reach: frames kept of the input before the work unit (history): ``(k - 1) * dilation`` or a delay.
        activation, weight, output: bits; weight 0 without weights. As multiplied, after widening.
        stored: bits of an activation in memory before widening.
        unaligned: whether taps begin at frames that are no multiple of 4 (dilation not a multiple of 4).
        lead: zero taps in front of this tile's, so that the first one is aligned; only with dilation 1.
        dilation: frames between taps.
        cascade_in, cascade_out: accumulators come from and go to a neighbour.
        ports: input buffers.
        table_entries: entries of all tables together, 2 bytes each.
        hidden: units of a recurrent layer; 0 otherwise.
        channels: output channels of a convolution on this tile, padded to blocks of 8.
        heads: of an attention on this tile.
        together: those of them that read the same input channels (a group's; all of them without groups).
    """

    kind: str
    frames: int
    out_blocks: int
    in_blocks: int
    depth: int = 1
    taps: int = 1
    reach: int = 0
    activation: int = 8
    weight: int = 8
    output: int = 8
    stored: int = 8
    unaligned: bool = True
    lead: int = 0
    dilation: int = 1
    cascade_in: bool = False
    cascade_out: bool = False
    ports: int = 1
    table_entries: int = 0
    hidden: int = 0
    channels: int = 8
    together: int = 8
    heads: int = 0


@dataclass(frozen=True)
class Loop:
    """An innermost loop.

    Attributes:
        name: for reports.
        entries: how often it is entered per work unit.
        trips: iterations per entry.
        mac: multiplication issue slots per iteration.
        data, weight: bytes loaded per iteration of data and of weights (one load unit each).
        unaligned: extra loads of data per iteration because it begins between two vectors.
        store: bytes stored per iteration.
        vector: other vector operations per iteration (moves, permutes, additions, requantisation).
        scalar: scalar operations per iteration.
        outer: cycles around each entry beyond the generation's filling and draining.
        flat: the compiler runs the loop around it as one pipeline (short loops, wholly unrolled).
    """

    name: str
    entries: int
    trips: int
    mac: float = 0
    data: float = 0
    weight: float = 0
    unaligned: int = 0
    store: float = 0
    vector: float = 0
    scalar: float = 0
    outer: float = 0
    flat: bool = False


@dataclass(frozen=True)
class Schedule:
    """How a kernel spends a work unit: loops one after the other, and what stands around them.

    Attributes:
        loops: innermost loops.
        locks: buffer ports acquired and released per call.
        macs: multiplications with weights, for efficiency tables.
    """

    loops: tuple[Loop, ...]
    locks: int
    macs: int


@dataclass(frozen=True)
class Footprint:
    """Bytes of tile memory besides the ping and pong buffers of ports, and of program memory."""

    items: tuple[tuple[str, int], ...]
    program: int


class Variant(Protocol):
    """A kernel variant."""

    @property
    def name(self) -> str:
        """As in plans."""
        ...

    def matches(self, work: Work, shapes: Mapping[tuple[int, int], Shape]) -> bool:
        """Whether it can compute ``work`` on a device whose native mmul shapes by widths are ``shapes``."""
        ...

    def footprint(self, work: Work) -> Footprint:
        """Memory it needs."""
        ...

    def schedule(self, work: Work, shape: Shape) -> Schedule:
        """Where its time goes."""
        ...


@dataclass(frozen=True)
class Estimate:
    """Cycles with their band and the assumptions they rest on."""

    cycles: float
    low: float
    high: float
    assumptions: dict[str, str] = field(default_factory=dict)
