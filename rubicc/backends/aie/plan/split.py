"""Ways to spread one stage over tiles, with what each costs: the planner picks among them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

from rubicc.backends.aie.net import Conv
from rubicc.backends.aie.plan import variants
from rubicc.backends.aie.plan.cycles import schedule_cycles
from rubicc.backends.aie.plan.devices import Device, Shape
from rubicc.backends.aie.plan.model import Slice, Split
from rubicc.backends.aie.plan.stages import Draft
from rubicc.backends.aie.plan.variant import Footprint, Work

CHAIN = 8  # longest cascade considered
SLOT = 8  # bytes of a channel block of one frame


@dataclass(frozen=True)
class Share:
    """What one tile of a stage does.

    Attributes:
        part, place, turn: position in the split: output part, place in the chain, turn.
        outputs, inputs, taps: slices, see :class:`~rubicc.backends.aie.plan.model.Tile`.
        work: for the kernel.
        cycles: for one work unit.
        footprint: bytes besides ports.
    """

    part: int
    place: int
    turn: int
    outputs: Slice
    inputs: Slice
    taps: Slice
    work: Work
    cycles: float
    footprint: Footprint


@dataclass(frozen=True)
class Candidate:
    """A split of a stage with its costs.

    Attributes:
        split: over tiles.
        cycles: of the slowest tile per work unit.
        floor: least interval between work units that kernels and streams allow.
        memory: bytes of the fullest tile, ports of exactly the blocks used.
        streams: streams it writes and reads (for choosing between equals).
    """

    split: Split
    cycles: float
    floor: float
    memory: int
    streams: int

    def order(self, price: float) -> tuple[float, ...]:
        """Least cost first, a stream at ``price`` tiles; then fewest streams, then the fastest."""
        return self.split.tiles + price * self.streams, self.streams, self.floor, self.split.t


def parts(count: int, into: int, grain: int = 1) -> list[Slice]:
    """``count`` things cut into ``into`` runs whose sizes differ by at most ``grain``."""
    grains = -(-count // grain)
    made, at = [], 0
    for index in range(into):
        size = grains // into + (index < grains % into)
        end = min(count, (at + size) * grain)
        made.append(Slice(at * grain, end - at * grain))
        at += size
    return made


@lru_cache(maxsize=1 << 16)
def _cost(work: Work, device: _Silicon) -> tuple[float, Footprint, str] | None:
    shapes = dict(device.shapes)
    variant = variants.choose(work, shapes)
    if variant is None:
        return None
    shape = shapes.get((work.activation, work.weight)) or next(iter(shapes.values()))
    return (
        schedule_cycles(variant.schedule(work, shape), device.generation),
        variant.footprint(work),
        variant.name,
    )


@dataclass(frozen=True)
class _Silicon:
    generation: str
    shapes: tuple[tuple[tuple[int, int], Shape], ...]


def silicon(device: Device) -> _Silicon:
    """The part of a device that kernels depend on, hashable."""
    return _Silicon(device.generation, tuple(sorted(device.shapes.items(), key=lambda pair: pair[0])))


def grain(stage: Draft, device: Device) -> int:
    """Input channel blocks that one multiplication takes: cascade parts are multiples of it."""
    if stage.kind != "conv":
        return 1
    channels = device.shapes[stage.widths].k
    return max(1, channels * stage.stored // 64)


def lead(stage: Draft) -> int:
    """Zero taps in front that make the first tap begin at a multiple of 4 frames; only with dilation 1."""
    return -stage.reach % 4 if stage.kind == "conv" and stage.dilation == 1 else 0


def _grain_of_taps(stage: Draft) -> int:
    return 4 if stage.dilation % 4 else 1


def _taps(stage: Draft, j: int) -> list[Slice]:
    """Taps of cascade parts: all but the first begin where four taps share their loads."""
    ahead = lead(stage)
    made = parts(stage.taps + ahead, j, _grain_of_taps(stage))
    first = Slice(0, made[0].count - ahead)
    return [first, *(Slice(part.first - ahead, part.count) for part in made[1:])]


def whole(stage: Draft) -> bool:
    """Whether every output part reads all input blocks."""
    return (isinstance(stage.layer, Conv) and stage.layer.groups == 1) or bool(stage.hidden)


def work_of(
    stage: Draft, frames: int, units: Slice, inputs: Slice, taps: Slice, place: int, chain: int
) -> Work:
    """The share of a tile as the kernel sees it."""
    widened = stage.widths[0] // stage.stored if stage.kind == "conv" else 1
    depth = (inputs.count if whole(stage) else stage.unit_in) * widened
    return Work(
        kind=stage.kind, frames=frames, out_blocks=units.count * stage.unit_out, in_blocks=inputs.count,
        depth=depth, taps=taps.count, reach=stage.reach, activation=stage.widths[0], weight=stage.widths[1],
        output=stage.out_bits, stored=stage.stored, unaligned=stage.dilation % 4 != 0,
        lead=0 if taps.first else lead(stage), dilation=stage.dilation, cascade_in=place > 0,
        cascade_out=place < chain - 1, ports=len(stage.layer.inputs), table_entries=stage.tables,
        hidden=stage.hidden, channels=units.count * stage.channels,
        together=stage.channels * (units.count if whole(stage) else 1), heads=units.count * stage.heads,
    )  # fmt: skip


def shares(stage: Draft, split: Split, frames: int, device: Device) -> list[Share]:
    """The tiles of a split in the order part, turn, place."""
    return list(_shares(stage, split, frames, device, split.n, split.t))


def _shares(
    stage: Draft, split: Split, frames: int, device: Device, some: int, turns: int
) -> Iterator[Share]:
    """The first ``some`` parts, ``turns`` turns of each; the first part is the largest."""
    known = silicon(device)
    tap_parts = _taps(stage, split.j)
    for part, units in enumerate(parts(stage.units, split.n)[:some]):
        first, end = units.first * stage.unit_out, units.end * stage.unit_out
        outputs = Slice(first, min(end, stage.out_slots) - first)
        for turn in range(turns):
            for place in range(split.chain):
                inputs = _inputs(stage, units, split, place // split.j, device)
                taps = tap_parts[place % split.j]
                work = work_of(stage, frames, units, inputs, taps, place, split.chain)
                cost = _cost(work, known)
                if cost is None:
                    return
                yield Share(part, place, turn, outputs, inputs, taps, work, cost[0], cost[1])


def _inputs(stage: Draft, units: Slice, split: Split, k: int, device: Device) -> Slice:
    if whole(stage):
        return parts(stage.in_slots, split.k, grain(stage, device))[k]
    first = units.first * stage.unit_in
    return Slice(first, min(units.end * stage.unit_in, stage.in_slots) - first)


def variant_name(share: Share, device: Device) -> str:
    """Name of the variant that computes a share."""
    cost = _cost(share.work, silicon(device))
    return cost[2] if cost else ""


def fed(share: Share, ports: int, device: Device) -> Share:
    """``share`` with its input coming through ``ports`` buffers."""
    if ports == share.work.ports:
        return share
    work = replace(share.work, ports=ports)
    cost = _cost(work, silicon(device))
    assert cost is not None, "what computes it does not depend on ports"
    return replace(share, work=work, cycles=cost[0], footprint=cost[1])


def memory(share: Share, ports: list[tuple[int, int]]) -> int:
    """Bytes of tile memory with ports of ``(bytes, buffers)``."""
    fixed = sum(size for _, size in share.footprint.items)
    return fixed + sum(-(-size // 32) * 32 * buffers for size, buffers in ports)


def buffers(share: Share, sizes: list[int], device: Device) -> int:
    """Buffers of each input port: a cell goes down to one where two do not fit."""
    two = memory(share, [(size, 2) for size in sizes])
    return 1 if share.work.hidden and two > device["memory_bytes"] else 2


def _held(stage: Draft, share: Share, frames: int, device: Device) -> int:
    sizes = port_bytes(stage, share, frames)
    count = buffers(share, sizes, device)
    into = len(stage.layer.inputs)
    return memory(share, [(size, count if at < into else 2) for at, size in enumerate(sizes)])


def candidates(
    stage: Draft, frames: int, device: Device, chain: int, turns: int = 1
) -> tuple[list[Candidate], int]:
    """All splits of ``stage`` that fit tiles, and the least memory of any split.

    Args:
        frames: of a work unit.
        chain: longest cascade the array has.
        turns: most tiles that may take turns.
    """
    found, least = [], 1 << 60
    for split in _splits(stage, chain, device, turns):
        made = list(_shares(stage, split, frames, device, 1, 1))
        if len(made) != split.chain:
            continue
        top = max(_held(stage, share, frames, device) for share in made)
        least = min(least, top)
        if top > device["memory_bytes"] or made[0].footprint.program > device["program_bytes"]:
            continue
        slowest = max(share.cycles for share in made)
        floor = max(slowest, *(_legs(stage, share, frames, device) for share in made)) / split.t
        readers = split.n * split.t if not whole(stage) else split.k
        found.append(Candidate(split, slowest, floor, top, split.n * split.t + readers))
    return found, least


def port_bytes(stage: Draft, share: Share, frames: int) -> list[int]:
    """Bytes of the ports of a share when it reads exactly what it uses."""
    out = [] if share.work.cascade_out else [share.outputs.count * frames * SLOT]
    return [share.inputs.count * frames * SLOT for _ in stage.layer.inputs] + out


def _legs(stage: Draft, share: Share, frames: int, device: Device) -> float:
    channels = device["dma_channels"] // len(stage.layer.inputs)
    into = share.inputs.count * frames * SLOT / device.stream_bytes / max(1, channels)
    out = 0.0 if share.work.cascade_out else share.outputs.count * frames * SLOT / device.stream_bytes
    sizes = port_bytes(stage, share, frames)
    alone = buffers(share, sizes, device) == 1  # filled while the kernel waits
    return share.cycles + into if alone else max(into, out)


def _splits(stage: Draft, chain: int, device: Device, most: int) -> Iterator[Split]:
    longest = min(chain, CHAIN)
    grains = math.ceil(stage.in_slots / grain(stage, device)) if whole(stage) and not stage.hidden else 1
    tap_parts = math.ceil((stage.taps + lead(stage)) / _grain_of_taps(stage)) if stage.kind == "conv" else 1
    last = 0
    for n in range(1, stage.units + 1):
        if -(-stage.units // n) == last:
            continue
        last = -(-stage.units // n)
        for k in range(1, min(grains, longest) + 1):
            for j in range(1, min(tap_parts, longest // k) + 1):
                turns = most if stage.stateless and k * j == 1 and not stage.packing else 1
                yield from (Split(n, k, j, t) for t in range(1, turns + 1))
