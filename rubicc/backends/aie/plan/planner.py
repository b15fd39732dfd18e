"""The planner: searches the interval and the work unit for the objective, and writes the plan down."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, replace

from rubicc.backends.aie.net import Net
from rubicc.backends.aie.plan import cycles, place
from rubicc.backends.aie.plan.attempt import Attempt
from rubicc.backends.aie.plan.audit import audit
from rubicc.backends.aie.plan.devices import NEEDED, Device
from rubicc.backends.aie.plan.mapping import Made
from rubicc.backends.aie.plan.model import AiePlan, Note, Segment, Stage, Throughput
from rubicc.backends.aie.plan.split import Candidate, candidates, variant_name
from rubicc.backends.aie.plan.stages import Draft, Drafted, draft, refusal
from rubicc.errors import Unsupported, UsageError, VerificationFailed

OBJECTIVES = ("throughput", "latency", "tiles")
BLOCKS = (16, 32, 64, 128)
MOST_BLOCK = 1024
FEWER = "give fewer bits, prune, or choose another device"
PRICES = (0.0, 0.25, 0.5)  # of a stream, in tiles: what is scarce differs between networks


@dataclass(frozen=True)
class Options:
    """What is asked of the plan.

    Attributes:
        frames: length of a sequence behind the first layer (its output frames), per sequence.
        objective: ``throughput``, ``latency`` or ``tiles``.
        block: Tb; None searches 16, 32, 64 and 128.
        interval: cycles per frame to keep, instead of the best; fewer tiles are used then.
        busy: least mean share of time the planned tiles shall compute, under ``throughput``.
        turns: most tiles of a stage that may take turns with work units (1 to 4): memory tiles then deal them
            out, and all work units fed must be a multiple of it.
        sample_rate, bases_per_second: of the pore, for bases per second.
    """

    frames: int = 1200
    objective: str = "throughput"
    block: int | None = None
    interval: float | None = None
    busy: float = 0.7
    turns: int = 1
    sample_rate: float = 4000.0
    bases_per_second: float = 450.0

    def check(self) -> None:
        """Raises UsageError RUB-AIE-204 for options that mean nothing."""
        wrong = [
            ("objective", self.objective, self.objective in OBJECTIVES),
            ("frames", self.frames, 1 <= self.frames <= 1 << 24),
            (
                "block",
                self.block,
                self.block is None or (self.block % 16 == 0 and 16 <= self.block <= MOST_BLOCK),
            ),
            ("interval", self.interval, self.interval is None or self.interval > 0),
            ("busy", self.busy, 0 <= self.busy <= 1),
            ("turns", self.turns, 1 <= self.turns <= 4),
            ("sample_rate", self.sample_rate, self.sample_rate > 0),
            ("bases_per_second", self.bases_per_second, self.bases_per_second > 0),
        ]
        for name, value, right in wrong:
            if not right:
                raise UsageError(
                    "RUB-AIE-204", f"{name}={value!r} cannot be planned for",
                    hint=f"objectives are {', '.join(OBJECTIVES)}; a work unit has 16 to 1024 frames, a "
                    "multiple of 16; the rest is positive",
                )  # fmt: skip


def plan(net: Net, device: Device, options: Options | None = None) -> AiePlan:
    """A legal plan of ``net`` on ``device``.

    Raises:
        UsageError: RUB-AIE-204.
        Unsupported: RUB-AIE-202, -210, -211, -212 with the numbers that broke.
        VerificationFailed: RUB-AIE-213, the audit found a fault of the planner.
    """
    options = options or Options()
    options.check()
    for fact in NEEDED:
        device[fact]
    drafted = draft(net, device)
    blocks = _blocks(drafted, options)
    best: tuple[Attempt, Made] | None = None
    reasons: list[str] = []
    for block in blocks:
        found = _search(net, drafted, device, block, options, reasons)
        if found is not None and (best is None or _score(found, options) > _score(best, options)):
            best = found
    if best is None:
        tight = [reason for reason in reasons if reason.startswith("RUB-AIE-211")]
        code = "RUB-AIE-211" if len(tight) == len(reasons) else "RUB-AIE-212"
        rows = tuple(
            refusal("RUB-AIE-211" if reason in tight else "RUB-AIE-212", "network", "",
                    reason.removeprefix("RUB-AIE-211 "), FEWER)
            for reason in reasons
        )  # fmt: skip
        shown = next(
            r.reason
            for r, reason in zip(rows, reasons, strict=True)
            if code[-3:] == "211" or reason not in tight
        )
        raise Unsupported(code, f"{device.part} does not take this network: {shown}", findings=rows,
                          hint=FEWER)  # fmt: skip
    made = _write(net, drafted, device, options, *best)
    faults = audit(made)
    if faults:
        raise VerificationFailed(
            "RUB-AIE-213", f"the plan breaks {len(faults)} rules: {faults[0]}", hint="report this network"
        )
    return made


def _blocks(drafted: Drafted, options: Options) -> tuple[int, ...]:
    """Work units to try: attentions want a whole sequence in one."""
    if not any(stage.heads for stage in drafted.stages):
        return (options.block,) if options.block else BLOCKS
    whole = -(-(options.frames * drafted.lanes + drafted.gap) // 16) * 16
    if options.block not in (None, whole) or whole > MOST_BLOCK:
        raise UsageError(
            "RUB-AIE-204", f"block={options.block or whole} cannot be planned for: attentions compute "
            f"sequences as a whole, {whole} frames here",
            hint=f"leave it out; give at most {MOST_BLOCK} frames",
        )  # fmt: skip
    return (whole,)


def _search(
    net: Net, drafted: Drafted, device: Device, block: int, options: Options, reasons: list[str]
) -> tuple[Attempt, Made] | None:
    """The best mapping with work units of ``block`` frames, or None; reasons are appended."""
    splits = []
    known: dict[tuple[object, ...], tuple[list[Candidate], int]] = {}
    for at, stage in enumerate(drafted.stages):
        key = _alike(stage)
        if key not in known:
            known[key] = candidates(stage, block, device, place.longest(device), options.turns)
        found, least = known[key]
        if not found:
            layer = stage.layer
            size = f"{least} bytes at least" if least < 1 << 60 else "no kernel of these widths"
            reasons.append(
                f"RUB-AIE-211 stage {at} ({layer.source or layer.name}) with work units of {block} frames: "
                f"{size}, a tile has {device['memory_bytes']}"
            )
            return None
        splits.append(found)
    best: tuple[Attempt, Made] | None = None
    for price in PRICES:
        ordered = [sorted(found, key=lambda c: c.order(price)) for found in splits]
        attempt = Attempt(net, drafted, device, block, ordered)
        if options.interval is not None:
            made = attempt.make(options.interval * block)
        elif options.objective == "tiles":
            made = attempt.make(float("inf"))
        else:
            made = _fastest(attempt, sorted({c.floor for found in splits for c in found}), options)
        if made is None:
            reason = f"work units of {block} frames: {attempt.why}"
            reasons += [reason] if reason not in reasons else []
        elif best is None or _score((attempt, made), options) > _score(best, options):
            best = attempt, made
    return best


def _alike(stage: Draft) -> tuple[object, ...]:
    """What the splits of a stage depend on."""
    groups = getattr(stage.layer, "groups", 0) == 1
    fields = replace(stage, layer=None, lag=0, segment=0, delays=())  # type: ignore[arg-type]
    return groups, len(stage.layer.inputs), fields


def _fastest(attempt: Attempt, floors: list[float], options: Options) -> Made | None:
    """Shortest interval that fits, by bisection over the intervals splits can have, then a walk upwards
    until the tiles are busy enough."""
    low, high = bisect_left(floors, True, key=lambda floor: _few(attempt, floor)), len(floors) - 1
    best = attempt.make(floors[high])
    if best is None:
        return None
    while low < high:
        middle = (low + high) // 2
        made = attempt.make(floors[middle])
        if made is None:
            low = middle + 1
        else:
            best, high = made, middle
    if options.objective != "throughput":
        return best
    chosen, tried = best, 0
    for floor in floors[high + 1 :]:
        if _busy(chosen) >= options.busy or tried >= 24:
            break
        if floor < chosen.interval * 1.005:
            continue
        made, tried = attempt.make(floor), tried + 1
        if made is not None and _busy(made) > _busy(chosen):
            chosen = made
    return chosen if _busy(chosen) >= options.busy else best


def _few(attempt: Attempt, interval: float) -> bool:
    """Whether the cheapest splits that keep ``interval`` have no more tiles than the array, wires aside."""
    few = [[o.split.tiles for o in options if o.floor <= interval] for options in attempt.options]
    return all(few) and sum(min(tiles) for tiles in few) <= attempt.device.tiles


def _busy(made: Made) -> float:
    tiles = [tile.busy for stage in made.tiles for tile in stage]
    return sum(tiles) / len(tiles)


def _score(found: tuple[Attempt, Made], options: Options) -> tuple[float, ...]:
    """Larger is better."""
    attempt, made = found
    tiles = sum(len(stage) for stage in made.tiles)
    period = _period(attempt.drafted, attempt.frames, options)
    useful = options.frames * attempt.drafted.lanes / period / (made.interval / attempt.frames)
    if options.objective == "latency":
        return -made.latency, useful, -tiles
    if options.objective == "tiles" or options.interval is not None:
        return -tiles, useful
    enough = _busy(made) >= options.busy
    return enough, useful, -tiles


def _period(drafted: Drafted, block: int, options: Options) -> int:
    return -(-(options.frames * drafted.lanes + drafted.gap) // block) * block


def _lengths(net: Net, drafted: Drafted, frames: int) -> dict[str, int]:
    """Frames of every edge, from ``frames`` behind the first layer on; packed inputs count as frames."""
    found = dict.fromkeys(net.inputs, frames)
    for stage in drafted.stages:
        before = found[stage.layer.inputs[0]]
        found[stage.layer.output] = before if stage.packing else stage.layer.frames(before)
    return {edge: length * drafted.lanes for edge, length in found.items()}


def _write(
    net: Net, drafted: Drafted, device: Device, options: Options, attempt: Attempt, made: Made
) -> AiePlan:
    low, high = cycles.band(device.generation)
    stages = tuple(
        Stage(
            at, stage.layer.name, stage.layer.source, stage.kind,
            variant_name(attempt.shares(at, pick)[0], device), stage.widths, pick.split, stage.segment,
            stage.layer.inputs, stage.layer.output, stage.lag, stage.delays,
            tuple(stage.reach if stage.kind == "conv" else delay for delay in stage.delays), stage.packing,
            made.tiles[at], pick.cycles, (pick.cycles * low, pick.cycles * high),
        )
        for at, (stage, pick) in enumerate(zip(drafted.stages, made.picks, strict=True))
    )  # fmt: skip
    period = _period(drafted, attempt.frames, options)
    lengths = _lengths(net, drafted, options.frames)
    speed = _throughput(drafted, device, options, attempt, made, period)
    tiles = sum(len(stage.tiles) for stage in stages)
    what = f"{made.interval:.0f} cycles per {attempt.frames} frames on {tiles} of {device.tiles} tiles"
    why = f"{options.objective}; bound by {made.bound}; mean busy share {speed.busy:.2f}"
    return AiePlan(
        device.name, dict(device.facts) | {"part": device.part, "generation": device.generation},
        options.objective, device.clock, attempt.frames, drafted.lanes, options.frames * drafted.lanes,
        lengths, period - options.frames * drafted.lanes, period, drafted.stride, stages, made.links,
        made.plios,
        _segments(net, drafted, attempt.frames), speed, cycles.assumptions(device.generation),
        (*drafted.notes, Note("RUB-AIE-D26", device.name, what, why)),
    )  # fmt: skip


def _segments(net: Net, drafted: Drafted, block: int) -> tuple[Segment, ...]:
    made = []
    for index, reverse in enumerate(drafted.reverse):
        mine = [stage for stage in drafted.stages if stage.segment == index]
        inner = {stage.layer.output for stage in mine}
        inputs = tuple(dict.fromkeys(e for stage in mine for e in stage.layer.inputs if e not in inner))
        later = {e for stage in drafted.stages if stage.segment != index for e in stage.layer.inputs}
        outputs = tuple(
            stage.layer.output for stage in mine if stage.layer.output in later | set(net.outputs)
        )
        lag = max(stage.lag for stage in mine)
        made.append(Segment(index, reverse, inputs, outputs, -(-lag // block)))
    return tuple(made)


def _throughput(
    drafted: Drafted, device: Device, options: Options, attempt: Attempt, made: Made, period: int
) -> Throughput:
    low, high = cycles.band(device.generation)
    frame = made.interval / attempt.frames
    samples = device.clock / frame * drafted.stride * options.frames * drafted.lanes / period
    bases = samples * options.bases_per_second / options.sample_rate
    fill = max(stage.lag for stage in drafted.stages) * frame
    latency = (made.latency + fill) / device.clock

    def around(value: float, inverse: bool) -> tuple[float, float]:
        return (value / high, value / low) if inverse else (value * low, value * high)

    return Throughput(
        made.interval, around(made.interval, False), made.bound, samples, around(samples, True), bases,
        around(bases, True), latency, around(latency, False), _busy(made),
    )  # fmt: skip
