"""What a plan is: plain values, JSON both ways, everything emission and audit need and nothing else.

Units: ``blocks`` are channel blocks (slots of 8 bytes a frame), ``frames`` are time steps of the array (with
``lanes`` sequences interleaved, a time step of one sequence is ``lanes`` frames), a work unit is ``Tb``
(:attr:`AiePlan.block`) frames. Buffers hold ``[channel block][frame][8 bytes]``.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rubicc.backends.aie.plan.values import build


@dataclass(frozen=True, order=True)
class Slice:
    """``count`` things from ``first`` on."""

    first: int
    count: int

    @property
    def end(self) -> int:
        """One after the last."""
        return self.first + self.count

    def holds(self, other: Slice) -> bool:
        """Whether ``other`` lies inside."""
        return self.first <= other.first and other.end <= self.end

    def meets(self, other: Slice) -> bool:
        """Whether both share something."""
        return self.first < other.end and other.first < self.end


@dataclass(frozen=True)
class Split:
    """How a layer is spread over tiles; the number of tiles is the product.

    Attributes:
        n: parts of the output channel blocks (whole groups).
        k: parts of the input channel blocks, summed over the cascade.
        j: parts of the taps, summed over the cascade.
        t: tiles that take turns: tile i computes the work units with ``unit % t == i``.
    """

    n: int = 1
    k: int = 1
    j: int = 1
    t: int = 1

    @property
    def tiles(self) -> int:
        """Number of tiles."""
        return self.n * self.k * self.j * self.t

    @property
    def chain(self) -> int:
        """Tiles in one cascade chain."""
        return self.k * self.j


@dataclass(frozen=True)
class Port:
    """A buffer port of a kernel.

    Attributes:
        name: ``in0``, ``in1``, ... or ``out0``; the order of the kernel function's arguments.
        edge: edge of the network it carries.
        blocks: channel blocks of the edge that the buffer holds.
        bytes: size of one buffer: ``blocks.count * Tb * 8``.
        channel: DMA channel of the tile; -1 where neighbours share the buffer's memory.
        buffers: 2 (ping and pong), or 1 (``single_buffer``) where a cell's memory does not hold both.
    """

    name: str
    edge: str
    blocks: Slice
    bytes: int
    channel: int
    buffers: int = 2


@dataclass(frozen=True)
class Item:
    """Something in a tile's data memory.

    Attributes:
        what: ``stack``, ``weights``, ``tables``, ``history:in0``, ``state``, ``scratch``, ``in0.ping``,
            ``in0.pong``, ``out0.ping`` ...
        offset: bytes from the start of the tile's memory.
        bytes: size.
    """

    what: str
    offset: int
    bytes: int


@dataclass(frozen=True)
class Tile:
    """A kernel on its tile.

    Attributes:
        name: unique C identifier, ``s<stage>_n<n>[_c<place in the chain>][_t<turn>]``.
        column, row: place in the array of cores, (0, 0) at the bottom left.
        outputs: channel blocks of the output edge that this kernel computes.
        inputs: channel blocks of (each) input edge that it uses; its ports may hold more.
        taps: taps it uses.
        turn: work units with ``unit % split.t == turn`` are its own.
        place: position in the cascade chain; the last one requantises and writes.
        cascade_from: name of the tile before it in the chain, or "".
        ports: buffer ports, inputs first.
        memory: contents of the data memory, sorted by offset.
        program: bytes of program memory assumed.
        cycles: for one work unit.
        busy: share of the time it computes at the plan's interval.
    """

    name: str
    column: int
    row: int
    outputs: Slice
    inputs: Slice
    taps: Slice
    turn: int
    place: int
    cascade_from: str
    ports: tuple[Port, ...]
    memory: tuple[Item, ...]
    program: int
    cycles: float
    busy: float


@dataclass(frozen=True)
class Packing:
    """A strided first layer as a pointwise one: the host lays each window into one frame.

    Attributes:
        stride, taps, channels: of the layer; a frame holds ``taps * channels`` values, tap after tap, padded
            with zeros to whole blocks.
        pads: zero frames before and after the sequence.
        bytes: per frame.
    """

    stride: int
    taps: int
    channels: int
    pads: tuple[int, int]
    bytes: int


@dataclass(frozen=True)
class Stage:
    """A layer of the network on its tiles.

    Attributes:
        index: place in the plan.
        layer: name of the layer in the network; ``source`` its module path.
        kind: ``conv``, ``add``, ``table``, ``gru``, ``lstm``, ``norm``, ``attention``.
        variant: kernel variant (its name in the variants' table).
        widths: (activation bits, weight bits) as multiplied; (bits, 0) without weights.
        split: over tiles.
        segment: index of the segment.
        inputs, output: edge names.
        lag: frames its output lags behind the segment's input.
        delays: frames each input must be held back so that inputs meet; all 0 with one input.
        history: frames kept of each input (``(taps - 1) * dilation`` or the delay).
        packing: set for a strided first layer.
        tiles: in the order n, t, place in the chain.
        cycles: of the slowest tile for one work unit.
        band: (low, high) cycles of the same.
    """

    index: int
    layer: str
    source: str
    kind: str
    variant: str
    widths: tuple[int, int]
    split: Split
    segment: int
    inputs: tuple[str, ...]
    output: str
    lag: int
    delays: tuple[int, ...]
    history: tuple[int, ...]
    packing: Packing | None
    tiles: tuple[Tile, ...]
    cycles: float
    band: tuple[float, float]


@dataclass(frozen=True)
class End:
    """One end of a stream.

    Attributes:
        at: tile or PLIO name.
        port: the tile's port; "" for a PLIO.
    """

    at: str
    port: str = ""


@dataclass(frozen=True)
class Writer:
    """A stream into a memory tile: one DMA channel; the stream may also go to other buffers (broadcast)."""

    source: End
    blocks: Slice
    channel: int
    turn: int = 0


@dataclass(frozen=True)
class Reader:
    """A stream out of a memory tile, broadcast to all ``targets``: one DMA channel."""

    targets: tuple[End, ...]
    blocks: Slice
    channel: int
    turn: int = 0


@dataclass(frozen=True)
class SharedBuffer:
    """A buffer in a memory tile (``adf::shared_buffer``) of ``[unit][channel block][frame][8 bytes]``.

    Attributes:
        name: unique C identifier.
        column, row: memory tile; row 0 is the one next to the cores' row 0.
        blocks: channel blocks of the edge it holds; slices of writers and readers are of the edge, so offsets
            in the buffer are ``(slice.first - blocks.first) * Tb * 8`` bytes.
        units: work units in one buffer; 1 normally, a multiple of ``t`` of both sides, and more where a
            branch waits for another. A writer or reader with a turn touches every unit of its turn. All work
            units fed to the array must be a multiple of it for the last ones to come out.
        depth: number of such buffers (``num_buffers``), 2: ping and pong.
        offset: bytes from the start of the memory tile.
        bytes: all buffers together.
    """

    name: str
    column: int
    row: int
    blocks: Slice
    units: int
    depth: int
    offset: int
    bytes: int
    writers: tuple[Writer, ...]
    readers: tuple[Reader, ...]


@dataclass(frozen=True)
class Stream:
    """A writer straight to readers' ports, all of the same blocks: one stream, broadcast.

    Attributes:
        shared: the one reader is a neighbour and both use the same buffer in the reader's memory (the
            writer's port then has no memory of its own); nothing is streamed.
    """

    source: End
    targets: tuple[End, ...]
    blocks: Slice
    shared: bool = False


@dataclass(frozen=True)
class Link:
    """An edge from the stage (or PLIOs) that makes it to one that reads it: through memory tiles, or
    straight.

    Attributes:
        edge: edge name.
        producer, consumer: stage indices; -1 for PLIOs.
        buffers: through memory tiles.
        streams: straight ones.
    """

    edge: str
    producer: int
    consumer: int
    buffers: tuple[SharedBuffer, ...]
    streams: tuple[Stream, ...]


@dataclass(frozen=True)
class Plio:
    """A port between the array and the programmable logic.

    Attributes:
        name: unique C identifier.
        direction: ``in`` (to the array) or ``out``.
        edge, blocks: what it carries, per work unit ``blocks.count * Tb * 8`` bytes.
        bits: width.
        mhz: clock of the programmable logic.
        column: of the interface tile.
    """

    name: str
    direction: str
    edge: str
    blocks: Slice
    bits: int
    mhz: float
    column: int


@dataclass(frozen=True)
class Segment:
    """A pipeline of its own in the same graph; DDR between segments.

    Attributes:
        index: order of execution.
        reverse: frames are fed from the last to the first.
        inputs, outputs: edges that come from and go to DDR.
        flush: work units of zeros fed after the last sequence so that all outputs come out.
    """

    index: int
    reverse: bool
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    flush: int


@dataclass(frozen=True)
class Throughput:
    """Estimated speed; every figure with its band ``(low, high)``.

    Attributes:
        interval: cycles between work units.
        bound: what sets it, e.g. ``stage 12 (encoder.b41): kernel``.
        samples: input samples per second of real sequence, gaps counted as lost.
        bases: ``samples * bases_per_second / sample_rate``.
        latency: seconds from the first frame in to the first frame out.
        busy: mean share of time the planned tiles compute.
    """

    interval: float
    interval_band: tuple[float, float]
    bound: str
    samples: float
    samples_band: tuple[float, float]
    bases: float
    bases_band: tuple[float, float]
    latency: float
    latency_band: tuple[float, float]
    busy: float


@dataclass(frozen=True)
class Note:
    """A decision of the planner: ``code`` RUB-AIE-D2x, as :class:`rubicc.evidence.decision.Decision`."""

    code: str
    where: str
    what: str
    reason: str


@dataclass(frozen=True)
class AiePlan:
    """A legal mapping of a network onto a device.

    Attributes:
        device: name in the device table.
        facts: the device's numbers the plan was made with, overridden ones included.
        objective: ``throughput``, ``latency`` or ``tiles``.
        clock: of the cores, Hz.
        block: Tb, frames of a work unit.
        lanes: sequences interleaved frame by frame (4 with recurrent layers, else 1); taps and histories
            count in frames, so a convolution's dilation is multiplied by ``lanes``.
        frames: T of the first edge behind packing, per sequence, in frames of the array (times lanes).
        lengths: the same for every edge.
        gap, period: zero frames between sequences and ``P = frames + gap``; P is a multiple of Tb.
        samples_per_frame: network input steps per frame (stride of the packed layer).
        stages, links, plios, segments: see there.
        throughput: estimate.
        assumptions: every assumption of the cycle model, named.
        notes: decisions.
    """

    device: str
    facts: Mapping[str, Any]
    objective: str
    clock: float
    block: int
    lanes: int
    frames: int
    lengths: Mapping[str, int]
    gap: int
    period: int
    samples_per_frame: int
    stages: tuple[Stage, ...]
    links: tuple[Link, ...]
    plios: tuple[Plio, ...]
    segments: tuple[Segment, ...]
    throughput: Throughput
    assumptions: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[Note, ...] = ()

    @property
    def tiles(self) -> tuple[Tile, ...]:
        """All tiles, stage by stage."""
        return tuple(tile for stage in self.stages for tile in stage.tiles)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> AiePlan:
        """The plan that :meth:`to_dict` wrote."""
        return typing.cast("AiePlan", build(cls, values))
