"""Plans: what issue 5 asks of them, legality recounted, mutants of plans caught, refusals with numbers."""

from __future__ import annotations

import dataclasses
import json
import xml.etree.ElementTree as ET
from collections.abc import Callable
from functools import cache
from typing import Any

import aie_nets as nets
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rubicc.backends.aie.net import Net
from rubicc.backends.aie.plan.audit import audit
from rubicc.backends.aie.plan.devices import device
from rubicc.backends.aie.plan.model import AiePlan, Slice
from rubicc.backends.aie.plan.picture import svg
from rubicc.backends.aie.plan.planner import Options, plan
from rubicc.errors import Unsupported, UsageError

SMALL: dict[str, Callable[[], Net]] = {
    "mlp": nets.mlp,
    "mgru": nets.mgru,
    "residual": lambda: (
        nets.Builder(64).conv("a", 64, 31, 8).conv("b", 64).conv("s", 64, source="x").add("add", "b:y").net()
    ),
    "sixteen": lambda: nets.Builder(40, 16).conv("a", 96, 9, weight=16, bits=16).table("t", 16).net(),
    "four": lambda: nets.Builder(64).conv("a", 128, weight=4).conv("b", 24, weight=4).net(),
    "depthwise": lambda: nets.Builder(48).conv("a", 48, 9, 48).conv("b", 8).net(),
}


@cache
def small(name: str) -> AiePlan:
    return plan(SMALL[name](), device("vek280"), Options(frames=100))


@cache
def large() -> AiePlan:
    return plan(nets.rubicall(), device("vek280"))


def test_rubicall_in_8_bits_keeps_what_the_issue_asks() -> None:
    made = large()
    assert audit(made) == []
    assert made.throughput.busy >= 0.7
    assert made.throughput.bases >= 4e6 and made.throughput.bases_band[0] < made.throughput.bases
    assert len(made.tiles) <= 304 and max(tile.busy for tile in made.tiles) <= 1 + 1e-9
    assert made.stages[0].packing is not None and made.samples_per_frame == 3
    macs = nets.rubicall().macs(3600) / 1200
    assert made.clock * len(made.tiles) * 256 / macs * 3 * 450 / 4000 > made.throughput.bases, (
        "above the peak"
    )


def test_skip_widths_and_devices_are_planned() -> None:
    """The published mixed widths, the residual network bonito-ctc, and a device without memory tiles."""
    made = plan(nets.rubicall(mixed=True), device("vek280"), Options(block=64))
    codes = {note.code for note in made.notes}
    assert {"RUB-AIE-D21", "RUB-AIE-D22", "RUB-AIE-D24", "RUB-AIE-D26"} <= codes
    assert made.throughput.busy >= 0.7 and made.throughput.bases < large().throughput.bases
    deep = plan(nets.bonito(), device("vek280"), Options(block=16))
    assert any(max(stage.delays) > 200 for stage in deep.stages), "branches wait for each other"
    assert max(b.units for link in deep.links for b in link.buffers) >= 8
    old = plan(nets.rubicall(), device("vck190"), Options(block=32))
    assert not any(link.buffers for link in old.links) and old.throughput.bases > 1e6


@pytest.mark.parametrize("name", SMALL)
def test_small_plans_are_legal_and_survive_json(name: str) -> None:
    made = small(name)
    assert audit(made) == []
    assert AiePlan.from_dict(json.loads(json.dumps(made.to_dict()))) == made


def test_tiles_take_turns_when_asked() -> None:
    """Work units dealt out by memory tiles: legal, and more of them where parts run out."""
    net = nets.Builder(256).conv("a", 8).conv("b", 256).conv("c", 8).net()
    alone = plan(net, device("vek280"), Options(frames=256, block=64))
    shared = plan(net, device("vek280"), Options(frames=256, block=64, turns=4))
    assert audit(shared) == [] and max(stage.split.t for stage in shared.stages) > 1
    assert all(stage.split.t == 1 for stage in alone.stages)
    units = {b.units for link in shared.links for b in link.buffers}
    assert max(units) > 1 and shared.throughput.interval <= alone.throughput.interval


def test_plans_are_deterministic() -> None:
    for name in ("residual", "mgru"):
        assert plan(SMALL[name](), device("vek280"), Options(frames=100)) == small(name)


def test_recurrent_networks_turn_at_every_layer() -> None:
    made = small("mgru")
    assert [segment.reverse for segment in made.segments] == [True, False, True, False, True, False]
    assert made.lanes == 4 and made.frames == 400
    cells = [stage for stage in made.stages if stage.kind == "gru"]
    assert all(len(stage.tiles) == 1 and stage.widths == (8, 8) for stage in cells)
    assert {plio.edge for plio in made.plios} >= {
        edge for s in made.segments for edge in (*s.inputs, *s.outputs)
    }


def test_residual_branches_meet() -> None:
    made = small("residual")
    add = next(stage for stage in made.stages if stage.kind == "add")
    skip, main = made.stages[2], made.stages[1]
    assert (main.lag, skip.lag, sorted(add.delays)) == (15, 0, [0, 15])
    assert add.history == add.delays


def test_objectives_differ_in_what_they_keep() -> None:
    net, on = nets.mlp((256, 256, 256, 64)), device("vek280")
    fast = plan(net, on, Options(frames=512, block=64, busy=0))
    few = plan(net, on, Options(frames=512, objective="tiles"))
    quick = plan(net, on, Options(frames=512, objective="latency"))
    assert len(few.tiles) < len(fast.tiles) and few.throughput.samples < fast.throughput.samples
    assert quick.throughput.latency < min(few.throughput.latency, fast.throughput.latency)
    slow = plan(net, on, Options(frames=512, block=64, interval=400))
    assert slow.throughput.interval <= 400 * 64 and len(slow.tiles) < len(fast.tiles)


@settings(max_examples=10, deadline=None)
@given(
    channels=st.lists(st.sampled_from([8, 24, 40, 96, 136]), min_size=1, max_size=4),
    taps=st.sampled_from([1, 3, 9, 31, 115]), skip=st.booleans(), bits=st.sampled_from([8, 16]),
    block=st.sampled_from([16, 64]), name=st.sampled_from(["vek280", "vck190"]),
)  # fmt: skip
def test_any_plan_is_legal(
    channels: list[int], taps: int, skip: bool, bits: int, block: int, name: str
) -> None:
    made = nets.Builder(channels[0], bits)
    for at, width in enumerate(channels):
        into = made.edges[made.last].channels
        before = made.last
        made.conv(f"d{at}", into, taps, max(1, into // 8), bits=bits).conv(f"p{at}", width, bits=bits)
        if skip:
            main = made.last
            made.conv(f"s{at}", width, bits=bits, source=before).add(f"a{at}", main, bits)
    try:
        found = plan(made.net(), device(name), Options(frames=200, block=block))
    except Unsupported as refused:
        assert refused.code in ("RUB-AIE-211", "RUB-AIE-212") and any(c.isdigit() for c in refused.what)
        return
    assert audit(found) == []


def change(value: Any, **fields: Any) -> Any:
    return dataclasses.replace(value, **fields)


def first_tile(made: AiePlan, at: int, **fields: Any) -> AiePlan:
    stage = made.stages[at]
    tiles = (change(stage.tiles[0], **fields), *stage.tiles[1:])
    return change(made, stages=(*made.stages[:at], change(stage, tiles=tiles), *made.stages[at + 1 :]))


def first_buffer(made: AiePlan, **fields: Any) -> AiePlan:
    at = next(i for i, link in enumerate(made.links) if link.buffers)
    link = made.links[at]
    buffers = (change(link.buffers[0], **fields), *link.buffers[1:])
    return change(made, links=(*made.links[:at], change(link, buffers=buffers), *made.links[at + 1 :]))


def a_chain(made: AiePlan) -> int:
    return next(s.index for s in made.stages if s.split.k * s.split.j > 1)


def taps_apart(made: AiePlan) -> int:
    return next(s.index for s in made.stages if s.split.j > 1)


def moved(made: AiePlan) -> AiePlan:
    """The second tile of a cascade on a free place far away."""
    stage = made.stages[a_chain(made)]
    taken = {(tile.column, tile.row) for tile in made.tiles}
    free = next((c, r) for c in range(37, -1, -1) for r in range(8) if (c, r) not in taken)
    tiles = (stage.tiles[0], change(stage.tiles[1], column=free[0], row=free[1]), *stage.tiles[2:])
    at = stage.index
    return change(made, stages=(*made.stages[:at], change(stage, tiles=tiles), *made.stages[at + 1 :]))


def buffer_of(made: AiePlan) -> Any:
    return next(link.buffers[0] for link in made.links if link.buffers)


def other_tile(made: AiePlan) -> Any:
    return made.stages[1].tiles[0]


def grown(made: AiePlan) -> AiePlan:
    """Weights of a tile larger than its memory."""
    tile = made.stages[1].tiles[0]
    items = tuple(change(i, bytes=1 << 16) if i.what == "weights" else i for i in tile.memory)
    return first_tile(made, 1, memory=items)


def clashing(made: AiePlan) -> AiePlan:
    tile = made.stages[1].tiles[0]
    return first_tile(made, 1, ports=tuple(change(p, channel=2) for p in tile.ports))


def unread(made: AiePlan) -> AiePlan:
    at = next(i for i, link in enumerate(made.links) if link.consumer >= 0)
    return change(made, links=(*made.links[:at], *made.links[at + 1 :]))


def crowded(made: AiePlan) -> AiePlan:
    """All buffers in one column."""
    links = tuple(
        change(link, buffers=tuple(change(b, column=10) for b in link.buffers)) for link in made.links
    )
    return change(made, links=links)


def far(made: AiePlan) -> AiePlan:
    """All cores' streams over the whole array: half of the tiles swap sides with the PLIOs and memories."""
    links = tuple(
        change(link, buffers=tuple(change(b, column=37 - b.column) for b in link.buffers))
        for link in made.links
    )
    stages = tuple(
        change(s, tiles=tuple(change(t, column=(t.column * 17) % 38) for t in s.tiles)) for s in made.stages
    )
    return change(made, links=links, stages=stages)


def wide_reader(made: AiePlan) -> AiePlan:
    reader = buffer_of(made).readers[0]
    wide = change(reader, blocks=Slice(reader.blocks.first, 999))
    return first_buffer(made, readers=(wide, *buffer_of(made).readers[1:]))


def late(made: AiePlan) -> AiePlan:
    at = next(s.index for s in made.stages if s.kind == "add")
    stage = change(made.stages[at], delays=(0, 0))
    return change(made, stages=(*made.stages[:at], stage, *made.stages[at + 1 :]))


def forgetful(made: AiePlan) -> AiePlan:
    at = next(s.index for s in made.stages if s.kind == "add")
    tile = made.stages[at].tiles[0]
    return first_tile(made, at, memory=tuple(i for i in tile.memory if not i.what.startswith("history")))


MUTANTS: dict[str, tuple[Callable[[AiePlan], AiePlan], str]] = {
    "two kernels on a tile": (
        lambda p: first_tile(p, 1, column=p.stages[2].tiles[0].column, row=p.stages[2].tiles[0].row),
        "kernels on"),
    "outside": (lambda p: first_tile(p, 1, column=38), "outside"),
    "memory": (grown, "overlaps"),
    "no stack": (lambda p: first_tile(p, 1, memory=other_tile(p).memory[:1]), "no stack"),
    "dma channel": (clashing, "DMA channels"),
    "broken cascade": (moved, "no cascade leads"),
    "half a chain": (lambda p: first_tile(p, a_chain(p), place=1), "chain"),
    "outputs missing": (lambda p: first_tile(p, 1, outputs=Slice(1, 1)), "no partition"),
    "taps missing": (lambda p: first_tile(p, taps_apart(p), taps=Slice(0, 1)), "not covered once"),
    "input not fed": (unread, "fed 0 times"),
    "input too small": (lambda p: first_tile(p, 1, inputs=Slice(0, 9999)), "wanted"),
    "memory tile too small": (lambda p: first_buffer(p, bytes=1 << 20, depth=2), "are used"),
    "columns": (crowded, "streams down"),
    "memory tile channel": (
        lambda p: first_buffer(p, readers=tuple(change(r, channel=6) for r in buffer_of(p).readers)),
        "on channels"),
    "no such memory tile": (lambda p: first_buffer(p, row=2), "does not exist"),
    "reader beyond the buffer": (wide_reader, "reads"),
    "rows": (far, "between columns"),
    "period": (lambda p: change(p, period=p.period + 1), "period"),
    "busy": (lambda p: first_tile(p, 1, busy=0.1), "busy share"),
    "too slow": (lambda p: first_tile(p, 1, cycles=1e9), "in an interval"),
    "plio": (lambda p: change(p, plios=tuple(change(x, column=0) for x in p.plios)), "interface column"),
    "name": (lambda p: first_tile(p, 1, name='x";}'), "no identifier"),
}  # fmt: skip


@pytest.mark.parametrize("name", MUTANTS)
def test_mutants_of_a_plan_are_caught(name: str) -> None:
    mutate, message = MUTANTS[name]
    faults = audit(mutate(large()))
    assert any(message in fault for fault in faults), faults[:5]


@pytest.mark.parametrize(("mutate", "message"), [(late, "frames late"), (forgetful, "bytes of history")])
def test_mutants_of_branches_are_caught(mutate: Callable[[AiePlan], AiePlan], message: str) -> None:
    assert any(message in fault for fault in audit(mutate(small("residual"))))


def test_neighbours_that_are_none_are_caught() -> None:
    made = plan(nets.mlp(), device("vek280"), Options(frames=64, objective="tiles", block=16))
    at, stream = next((i, s) for i, link in enumerate(made.links) for s in link.streams if s.shared)
    assert audit(made) == [], "neighbours share memory where they can"
    stage = next(s for s in made.stages for t in s.tiles if t.name == stream.targets[0].at)
    far_away = first_tile(made, stage.index, column=30)
    streams = tuple(change(s, shared=s == stream) for s in made.links[at].streams)
    broken = change(
        far_away, links=tuple(change(k, streams=streams) if i == at else k for i, k in enumerate(made.links))
    )
    assert any("does not reach the memory" in fault for fault in audit(broken))


REFUSED: dict[str, tuple[Callable[[], Net], dict[str, Any], str]] = {
    "stride inside": (
        lambda: nets.Builder(8).conv("a", 8, 3).conv("b", 8, 3, stride=2).net(),
        {},
        "RUB-AIE-210",
    ),
    "32-bit edge": (lambda: nets.Builder(8).conv("a", 8, bits=32).net(), {}, "RUB-AIE-210"),
    "no layers": (lambda: nets.Builder(8).net(), {}, "RUB-AIE-210"),
    "unequal groups": (lambda: nets.Builder(24).conv("a", 48, 3, 6).net(), {}, "RUB-AIE-210"),
    "large cell": (
        lambda: nets.Builder(8).conv("i", 768, bits=16).gru("g", 256, False).net(),
        {},
        "RUB-AIE-211",
    ),
    "too many tiles": (lambda: nets.mlp((2048, 4096, 4096, 8)), {}, "RUB-AIE-212"),
    "interval": (lambda: nets.mlp(), {"interval": 1}, "RUB-AIE-212"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refusals_have_a_code_and_a_table(name: str) -> None:
    made, options, code = REFUSED[name]
    with pytest.raises(Unsupported) as raised:
        plan(made(), device("vek280"), Options(frames=64, block=32, **options))
    assert raised.value.code == code and raised.value.exit_code == 4
    assert raised.value.findings or name == "no layers"
    for row in raised.value.findings:
        assert row.rule.startswith("RUB-AIE-2") and row.severity == "error" and row.reason and row.remedy
    assert any(letter.isdigit() for letter in raised.value.what)


def test_unknown_facts_stop_a_plan_until_given() -> None:
    with pytest.raises(Unsupported, match="memory_tile_rows") as raised:
        plan(nets.mlp(), device("vek385"), Options(frames=64))
    assert raised.value.code == "RUB-AIE-202"
    known = device("vek385", {"memory_tile_rows": 1, "program_bytes": 16384})
    made = plan(nets.mlp(), known, Options(frames=64))
    assert audit(made) == [] and made.facts["memory_tile_rows"] == 1


@pytest.mark.parametrize(
    "wrong", [{"objective": "speed"}, {"frames": 0}, {"block": 24}, {"block": 8}, {"interval": 0},
              {"busy": 2}, {"turns": 5}, {"sample_rate": 0}, {"bases_per_second": -1}],
)  # fmt: skip
def test_options_that_mean_nothing_are_usage_errors(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError) as raised:
        plan(nets.mlp(), device("vek280"), Options(**wrong))
    assert raised.value.code == "RUB-AIE-204"


def test_the_picture_shows_every_tile_and_escapes_names() -> None:
    made = large()
    root = ET.fromstring(svg(made))
    space = "{http://www.w3.org/2000/svg}"
    titles = [node.text or "" for node in root.iter(f"{space}title")]
    assert all(any(title.startswith(f"{tile.name}: ") for title in titles) for tile in made.tiles)
    assert sum(title == "free" for title in titles) == 304 - len(made.tiles)
    evil = change(made.stages[0], source='<script>"&')
    text = svg(change(made, stages=(evil, *made.stages[1:])))
    assert "<script" not in text and ET.fromstring(text) is not None
