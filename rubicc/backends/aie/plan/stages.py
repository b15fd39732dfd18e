"""From the network to stages without tiles: widths, channel units, lags, delays, segments.

Everything here follows from the network and the device's multiplications; nothing is optimised.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from rubicc.backends.aie.net import Add, Attention, Cell, Conv, Layer, Lstm, Net, Norm, Table
from rubicc.backends.aie.plan.devices import Device
from rubicc.backends.aie.plan.model import Note, Packing
from rubicc.backends.base import Finding
from rubicc.errors import Unsupported

OTHER_LAYER = "replace the layer, or choose --target cpu or coreml"
LANES = 4  # sequences a recurrent layer computes at a time


def refusal(code: str, layer: str, source: str, reason: str, remedy: str) -> Finding:
    """A row of the table of what the array cannot take."""
    return Finding(code, "error", layer, source, reason, remedy)


@dataclass(frozen=True)
class Draft:
    """A stage before it has tiles.

    Attributes:
        layer: of the network.
        kind: ``conv``, ``add``, ``table``, ``gru``, ``lstm``, ``norm``, ``attention``.
        widths: (activation, weight) bits as multiplied.
        stored: bits of the input edge.
        out_bits: bits of the output edge.
        in_slots, out_slots: channel blocks of an input edge and of the output edge.
        units: parts the output can be cut into (groups, or blocks of 8 channels).
        unit_in, unit_out: channel blocks of input and output of one unit; ``unit_in`` is all of them where
            output units share the input.
        depth: input channel blocks an output channel depends on.
        taps, dilation, left: of the convolution, ``left`` zero frames before.
        lag, delays, reach: see :class:`~rubicc.backends.aie.plan.model.Stage`.
        segment: index.
        packing: of a strided first layer.
        tables: entries.
        hidden: units of a cell.
        channels: output channels of one unit, padded to blocks of 8.
        heads: of one unit of an attention, whose work unit is a whole sequence; 0 otherwise.
    """

    layer: Layer
    kind: str
    widths: tuple[int, int]
    stored: int
    out_bits: int
    in_slots: int
    out_slots: int
    units: int
    unit_in: int
    unit_out: int
    depth: int = 1
    taps: int = 1
    dilation: int = 1
    left: int = 0
    lag: int = 0
    delays: tuple[int, ...] = (0,)
    reach: int = 0
    segment: int = 0
    packing: Packing | None = None
    tables: int = 0
    hidden: int = 0
    channels: int = 8
    heads: int = 0

    @property
    def stateless(self) -> bool:
        """Whether work units may be computed by tiles that take turns."""
        return self.reach == 0 and not self.hidden


@dataclass(frozen=True)
class Drafted:
    """All stages, and what holds for the whole network.

    Attributes:
        stages: in the network's order.
        lanes: sequences interleaved.
        gap: least zero frames between sequences.
        stride: network input steps per frame.
        reverse: of every segment.
        slots: channel blocks of every edge as the array carries it.
        notes: decisions.
    """

    stages: tuple[Draft, ...]
    lanes: int
    gap: int
    stride: int
    reverse: tuple[bool, ...]
    slots: dict[str, int]
    notes: tuple[Note, ...]


def draft(net: Net, device: Device) -> Drafted:
    """Stages of ``net`` on ``device``.

    Raises:
        Unsupported: RUB-AIE-210 with the table of layers that cannot be streamed.
    """
    lanes = LANES if any(isinstance(layer, Cell) for layer in net.layers) else 1
    notes: list[Note] = []
    if lanes > 1:
        what = f"{lanes} sequences interleaved frame by frame on every edge"
        notes.append(Note("RUB-AIE-D25", "network", what, "rows of the multiplication in recurrent layers"))
    made: list[Draft] = []
    refusals: list[Finding] = []
    for layer in net.layers:
        found = _stage(net, layer, device, lanes, notes)
        if isinstance(found, str):
            refusals.append(refusal("RUB-AIE-210", layer.name, layer.source, found, OTHER_LAYER))
        else:
            made.append(found)
    if refusals or not made:
        first = refusals[0] if refusals else refusal("RUB-AIE-210", "network", "", "it has no layers", "")
        raise Unsupported(
            "RUB-AIE-210", f"{len(refusals)} layers cannot be streamed: {first.node}: {first.reason}",
            where=first.source or first.node, hint=OTHER_LAYER, findings=tuple(refusals),
        )  # fmt: skip
    made = _segments(net, made)
    made = _lags(net, made)
    _whole_sequences(made)
    gap = max(max(d.left, _after(d)) for d in made)
    packed = [d.packing.stride for d in made if d.packing]
    slots = {name: edge.blocks for name, edge in net.edges.items()}
    slots |= {d.layer.inputs[0]: d.in_slots for d in made if d.packing}
    reverse = _reverse(made)
    return Drafted(tuple(made), lanes, gap, packed[0] if packed else 1, reverse, slots, tuple(notes))


def _after(stage: Draft) -> int:
    """Zero frames a stage needs behind a sequence."""
    return 0 if stage.kind != "conv" else (stage.taps - 1) * stage.dilation - stage.left


def _stage(net: Net, layer: Layer, device: Device, lanes: int, notes: list[Note]) -> Draft | str:
    if isinstance(layer, Conv):
        return _conv(net, layer, device, lanes, notes)
    into, out = net.edges[layer.inputs[0]], net.edges[layer.output]
    slots = {net.edges[name].blocks for name in layer.inputs}
    bits = {net.edges[name].type.bits for name in layer.inputs}
    plain = Draft(layer, "add", (into.type.bits, 0), into.type.bits, out.type.bits, into.blocks, out.blocks,
                  1, into.blocks, out.blocks, delays=(0,) * len(layer.inputs))  # fmt: skip
    if isinstance(layer, Cell):
        return _cell(net, layer, device, plain)
    if isinstance(layer, (Norm, Attention)):
        return _block(layer, device, lanes, plain)
    if len(bits) > 1 or len(slots) > 1:
        return f"its inputs have {sorted(bits)} bits and {sorted(slots)} channel blocks"
    if into.type.bits not in (8, 16) or out.type.bits not in (8, 16):
        return f"it turns {into.type.bits} bits into {out.type.bits}; kernels have 8 and 16"
    ratio = _units(into.blocks, out.blocks)
    if isinstance(layer, Add):  # its kernel takes 8 channels at a time
        whole = math.ceil(out.channels / 8)
        ratio = whole, 8 // into.type.block, 8 // out.type.block
        if into.blocks != whole * ratio[1] or out.blocks != whole * ratio[2]:
            return f"{out.channels} channels of 16 bits are no whole blocks of 8 channels"
    plain = replace(plain, units=ratio[0], unit_in=ratio[1], unit_out=ratio[2])
    if isinstance(layer, Add):
        return plain
    if isinstance(layer, Table):
        return replace(plain, kind="table", tables=1 << layer.lookup.bits)
    return f"no kernel computes a {type(layer).__name__}"


def _units(into: int, out: int) -> tuple[int, int, int]:
    """Elementwise layers are cut by the wider block: ``(units, input blocks, output blocks)`` of a unit."""
    if into == out:
        return into, 1, 1
    few = min(into, out)
    return few, -(-into // few), -(-out // few)


def _block(layer: Norm | Attention, device: Device, lanes: int, plain: Draft) -> Draft | str:
    if plain.stored not in (8, 16) or plain.out_bits not in (8, 16):
        return f"it turns {plain.stored} bits into {plain.out_bits}; kernels have 8 and 16"
    if isinstance(layer, Norm):
        if len(layer.gain) % 8:
            return f"it has {len(layer.gain)} channels; the kernel takes multiples of 8"
        return replace(plain, kind="norm", widths=(16, 16), channels=len(layer.gain))
    shape = device.shapes.get((8, 8))
    if shape is None or shape.m != LANES or lanes > 1 or layer.depth % 8:
        why = "recurrent layers beside it" if lanes > 1 else f"heads of {layer.depth} channels"
        return f"an attention with {why} on {device.part}; it takes multiples of 8, one sequence at a time"
    into, out = 3 * layer.depth // 8, layer.depth * plain.out_bits // 64
    return replace(
        plain, kind="attention", widths=(8, 8), units=layer.heads, unit_in=into, unit_out=out, heads=1,
        depth=layer.depth // 8, tables=len(layer.entries), channels=layer.depth,
    )  # fmt: skip


def _cell(net: Net, layer: Cell, device: Device, plain: Draft) -> Draft | str:
    widths = (layer.operand.bits, layer.recurrent_type.bits)
    if plain.stored != 16:
        return f"its gates come in {plain.stored} bits; the kernel takes 16"
    if layer.hidden % 8:
        return f"it has {layer.hidden} units; the kernel takes multiples of 8"
    if widths not in device.shapes or device.shapes[widths].m != LANES:
        return f"{device.part} has no native product of 4 {widths[0]}-bit rows by {widths[1]}-bit weights"
    lstm = isinstance(layer, Lstm)
    entries = len(layer.sigmoid.entries) + len(layer.tanh.entries)
    entries += len(layer.tanh_cell.entries) if isinstance(layer, Lstm) else 0
    return replace(plain, kind="lstm" if lstm else "gru", widths=widths, tables=entries, hidden=layer.hidden)


def _widths(layer: Conv, stored: int, depth: int, device: Device, notes: list[Note]) -> tuple[int, int] | str:
    """Widths that are multiplied; widening is a decision."""
    want = now = (stored, layer.weight_type.bits)
    if now[1] == 4:
        shape = device.shapes.get(now)
        if shape is None or (depth * 64 // now[0]) % shape.k:
            why = f"a product of depth {depth * 64 // now[0]} channels" if shape else "no such product"
            now = (now[0], 8)
            notes.append(Note("RUB-AIE-D22", layer.source or layer.name, "4-bit weights in 8 bits", why))
    if now not in device.shapes and now[0] < now[1]:
        now = (now[1], now[1])
        what, why = (
            f"{want[0]}-bit activations to {now[0]}",
            f"no native {want[0]} x {want[1]} on {device.part}",
        )
        notes.append(Note("RUB-AIE-D21", layer.source or layer.name, what, why))
    if now not in device.shapes:
        return f"no native product of {want[0]} x {want[1]} bits is known for {device.part}"
    return now


def _conv(net: Net, layer: Conv, device: Device, lanes: int, notes: list[Note]) -> Draft | str:
    into, out = net.edges[layer.inputs[0]], net.edges[layer.output]
    outputs, each, taps = layer.weight.shape
    where = layer.source or layer.name
    if into.type.bits not in (8, 16) or out.type.bits not in (8, 16):
        return f"it turns {into.type.bits} bits into {out.type.bits}; kernels have 8 and 16"
    packing, in_slots, left = None, into.blocks, layer.pads[0]
    if layer.stride > 1:
        if layer.inputs[0] not in net.inputs or len(net.consumers(layer.inputs[0])) > 1:
            return f"stride {layer.stride} behind the first layer; only the first may stride"
        if layer.groups > 1 or layer.dilation > 1:
            return f"a strided first layer with {layer.groups} groups, dilation {layer.dilation}"
        in_slots = -(-each * taps // into.type.block)
        packing = Packing(layer.stride, taps, each, layer.pads, in_slots * 8)
        what = f"windows of {taps} x {each} values in {in_slots * 8} bytes a frame, stride {layer.stride}"
        notes.append(Note("RUB-AIE-D24", where, what, "the array has no strided reads of unaligned frames"))
        taps, left = 1, 0
    if left > layer.dilation * (taps - 1) or (not packing and layer.pads[1] > layer.dilation * (taps - 1)):
        return f"{layer.pads} zero frames around a kernel that reaches {layer.reach}"
    per = outputs // layer.groups
    merged = math.lcm(each, per, 8) if layer.groups > 1 else 0
    together = max(1, merged // min(each, per)) if merged else 1
    if layer.groups > 1 and (each % 8 or per % 8):
        if each != per:
            return f"groups of {each} inputs and {per} outputs; unequal ones must be multiples of 8"
        what = f"{layer.groups} groups of {each} channels merged into {-(-layer.groups // together)}"
        notes.append(Note("RUB-AIE-D23", where, what, "the multiplication takes 8 channels"))
    elif layer.groups == 1 and (each % into.type.block or per % 8) and not packing:
        what = f"{each} to {outputs} channels in {in_slots} and {out.blocks} blocks"
        notes.append(Note("RUB-AIE-D23", where, what, "channels travel in blocks of 8 bytes"))
    grouped = layer.groups > 1
    unit_in = in_slots
    units, unit_out, channels = max(1, -(-outputs // 8)), 8 // out.type.block, 8
    if grouped:
        size_in, size_out = (merged, merged) if each % 8 or per % 8 else (each, per)
        units = -(-layer.groups * per // size_out)
        unit_in, unit_out, channels = size_in // into.type.block, size_out // out.type.block, size_out
    if -(-outputs // out.type.block) < units * unit_out:
        units_out = -(-outputs // out.type.block)
        if not grouped and unit_out > 1 and units_out % unit_out:
            return f"{outputs} channels of {out.type.bits} bits are no whole blocks of 8 channels"
    widths = _widths(layer, into.type.bits, unit_in, device, notes)
    if isinstance(widths, str):
        return widths
    return Draft(
        layer, "conv", widths, into.type.bits, out.type.bits, in_slots, out.blocks, units, unit_in, unit_out,
        depth=unit_in * widths[0] // into.type.bits, taps=taps,
        dilation=layer.dilation * lanes, left=left * lanes, reach=(taps - 1) * layer.dilation * lanes,
        packing=packing, channels=channels,
    )  # fmt: skip


def _segments(net: Net, stages: list[Draft]) -> list[Draft]:
    """Number the segments: a new one wherever the direction of time changes.

    A cell has a direction; a layer that does not care (pointwise) takes that of the stage that reads it,
    others run forward.
    """
    by_output = {stage.layer.output: stage for stage in stages}
    direction: dict[str, bool] = {}
    for stage in reversed(stages):
        readers = [layer.name for layer in net.consumers(stage.layer.output)]
        if isinstance(stage.layer, Cell):
            direction[stage.layer.name] = stage.layer.reverse
        else:
            free = stage.taps == 1 and len(readers) > 0 and len({direction[name] for name in readers}) == 1
            direction[stage.layer.name] = free and direction[readers[0]]
    number: dict[str, int] = {}
    for stage in stages:
        before = [by_output[name].layer.name for name in stage.layer.inputs if name in by_output]
        here = direction[stage.layer.name]
        last = max((number[name] for name in before), default=0)
        turned = any(number[name] == last and direction[name] != here for name in before)
        parity = stages[0].layer.name
        at = last + turned
        if (at % 2 == 1) != (here != direction[parity]):
            at += 1
        number[stage.layer.name] = at
    used = {old: new for new, old in enumerate(sorted(set(number.values())))}
    return [replace(stage, segment=used[number[stage.layer.name]]) for stage in stages]


def _reverse(stages: list[Draft]) -> tuple[bool, ...]:
    count = max(stage.segment for stage in stages) + 1
    found = [False] * count
    for stage in stages:
        if isinstance(stage.layer, Cell):
            found[stage.segment] = stage.layer.reverse
    return tuple(found)


def _lags(net: Net, stages: list[Draft]) -> list[Draft]:
    """Lag of every stage behind its segment's input, and the delays that bring branches together."""
    lag: dict[str, tuple[int, int]] = {}  # edge -> (segment, lag)
    done = []
    for stage in stages:
        inside = [lag[n][1] if n in lag and lag[n][0] == stage.segment else 0 for n in stage.layer.inputs]
        latest = max(inside)
        delays = tuple(latest - value for value in inside)
        reach = stage.reach if stage.kind == "conv" else max(delays)
        made = replace(stage, lag=latest + _after(stage), delays=delays, reach=reach)
        lag[stage.layer.output] = (stage.segment, made.lag)
        done.append(made)
    return done


def _whole_sequences(stages: list[Draft]) -> None:
    """Refuse an attention whose sequence would not begin where a work unit does.

    Raises:
        Unsupported: RUB-AIE-210.
    """
    late = [stage for stage in stages if stage.heads and stage.lag]
    if late:
        what = f"its input comes {late[0].lag} frames late, behind convolutions over time"
        remedy = "use linear layers only before attentions"
        raise Unsupported(
            "RUB-AIE-210", f"an attention cannot be streamed: {what}", where=late[0].layer.source,
            hint=remedy,
            findings=tuple(refusal("RUB-AIE-210", s.layer.name, s.layer.source, what, remedy) for s in late),
        )  # fmt: skip


def crossings(net: Net, stages: tuple[Draft, ...]) -> Iterator[tuple[str, int, int]]:
    """Edges with their making and reading stage, ``(edge, producer, consumer)``; -1 is the host's side. An
    edge that leaves its segment appears as going to -1 and coming from -1."""
    made = {stage.layer.output: at for at, stage in enumerate(stages)}
    out: set[str] = set()
    for at, stage in enumerate(stages):
        for edge in dict.fromkeys(stage.layer.inputs):
            before = made.get(edge, -1)
            inside = before >= 0 and stages[before].segment == stage.segment
            if before >= 0 and not inside and edge not in out:
                out.add(edge)
                yield edge, before, -1
            yield edge, before if inside else -1, at
    for edge in net.outputs:
        if edge in made and edge not in out:
            yield edge, made[edge], -1
