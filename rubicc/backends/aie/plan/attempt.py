"""One attempt at a plan: splits for a given interval, tiles, links, memory; None where something runs out."""

from __future__ import annotations

from rubicc.backends.aie.net import Net
from rubicc.backends.aie.plan import links as wires
from rubicc.backends.aie.plan import place
from rubicc.backends.aie.plan.devices import Device
from rubicc.backends.aie.plan.links import Limits
from rubicc.backends.aie.plan.mapping import Made, Mapping
from rubicc.backends.aie.plan.model import Slice, Split
from rubicc.backends.aie.plan.split import SLOT, Candidate, Share, buffers, fed, memory, shares, whole
from rubicc.backends.aie.plan.stages import Drafted, crossings

_REPAIRS = 60


class Attempt:
    """The network, the device and the work unit; :meth:`make` tries one interval.

    Attributes:
        why: what stopped the last attempt, with its numbers.
    """

    def __init__(
        self, net: Net, drafted: Drafted, device: Device, frames: int, options: list[list[Candidate]]
    ) -> None:
        self.net, self.drafted, self.device, self.frames = net, drafted, device, frames
        self.options = options
        self.limits = Limits.of(device)
        self.edges = list(crossings(net, drafted.stages))
        self.why = ""
        self.waiting, self.parts = -1, 0
        self.least: dict[int, int] = {}
        self.most: dict[int, int] = {}
        self.straight: dict[tuple[int, Split], bool] = {}
        self.wired: dict[tuple[int, Split], list[Share]] = {}
        self._shares: dict[tuple[int, object], list[Share]] = {}
        self._met: dict[tuple[object, ...], tuple[list[Share], float]] = {}

    def shares(self, at: int, candidate: Candidate) -> list[Share]:
        """Tiles of stage ``at``."""
        key = (at, candidate.split)
        if key not in self._shares:
            stage = self.drafted.stages[at]
            self._shares[key] = shares(stage, candidate.split, self.frames, self.device)
        return self._shares[key]

    def pick(self, interval: float) -> list[Candidate] | None:
        """The cheapest split of every stage that keeps ``interval`` and can be wired to those before it.

        Where a stage cannot be wired, the stages it reads are cut into fewer parts, and all is tried again.
        """
        for _ in range(_REPAIRS):
            chosen: list[Candidate] = []
            for at in range(len(self.options)):
                found = self._cheapest(at, interval, chosen)
                if found is None:
                    break
                chosen.append(found)
            else:
                return chosen
            at = len(chosen)
            before = [p for _, p, c in self.edges if c == at and p >= 0 and chosen[p].split.n > 1]
            if not before:
                break
            widest = max(before, key=lambda p: (chosen[p].split.n, p))
            self.most[widest] = chosen[widest].split.n - 1
        self.why = f"{self.name(at)} has no split of {interval:.0f} cycles that can be wired: "
        self.why += self._closest(at, chosen)
        return None

    def _cheapest(self, at: int, interval: float, chosen: list[Candidate]) -> Candidate | None:
        leaves = any(producer == at and consumer < 0 for _, producer, consumer in self.edges)
        for option in self.options[at]:
            split = option.split
            inside = self.least.get(at, 1) <= split.n <= self.most.get(at, 1 << 30)
            keeps = option.floor <= interval + 1e-9 and not (leaves and split.t > 1)
            if inside and keeps and self._wires(at, option, chosen, interval):
                return option
        return None

    def _closest(self, at: int, chosen: list[Candidate]) -> str:
        """The numbers that stop a stage, for the message."""
        writers = max(
            (chosen[p].split.n for _, p, c in self.edges if c == at and 0 <= p < len(chosen)), default=1
        )
        parts = max(
            option.split.k if whole(self.drafted.stages[at]) else option.split.n
            for option in self.options[at]
        )
        tiles = f"{self.device['dma_channels']} DMA channels and {self.device['memory_bytes']} bytes a tile"
        stored = "memory tiles" if self.limits.bytes else "no memory tiles"
        return f"{writers} writers for at most {parts} parts of its input, {tiles}, {stored}"

    def name(self, at: int) -> str:
        """Stage for messages."""
        layer = self.drafted.stages[at].layer
        return f"stage {at} ({layer.source or layer.name})"

    def _outputs(self, at: int, candidate: Candidate) -> list[tuple[Slice, int]]:
        split = candidate.split
        parts = self.shares(at, candidate)[:: split.t * split.chain]
        return [(share.outputs, split.t) for share in parts]

    def _wires(self, at: int, option: Candidate, chosen: list[Candidate], interval: float) -> bool:
        """Whether the tiles of ``option`` have DMA channels and memory for what they read; straight streams
        are tried first, because streams to and from memory tiles are what runs out."""
        waits, limit = len(self.drafted.stages[at].layer.inputs) > 1, interval * option.split.t + 1e-9
        for straight in (True, False):
            turning = option.split.t > 1 or any(
                chosen[producer].split.t > 1 for _, producer, c in self.edges if c == at and producer >= 0
            )
            if straight and self.limits.bytes and (waits or turning):
                continue
            if not straight and not self.limits.bytes:
                continue
            if turning and not self.limits.bytes:
                continue
            shares, slowest = self._all_fed(at, option, straight, chosen)
            if shares and slowest <= limit:
                self.straight[at, option.split] = straight
                self.wired[at, option.split] = shares
                return True
        return False

    def _all_fed(
        self, at: int, option: Candidate, straight: bool, chosen: list[Candidate]
    ) -> tuple[list[Share], float]:
        """Tiles of ``option`` with their ports and the cycles of the slowest; no tiles where one has no room.

        They depend on the splits they read and not on the interval, so every search meets them again.
        """
        before = tuple(chosen[p].split for _, p, c in self.edges if c == at and p >= 0)
        key = (at, option.split, straight, before)
        if key not in self._met:
            made: list[Share] = []
            for share in self.shares(at, option):
                found = self._fed(at, share, straight, chosen)
                if found is None:
                    made = []
                    break
                made.append(found)
            self._met[key] = made, max((share.cycles for share in made), default=0.0)
        return self._met[key]

    def _fed(self, at: int, share: Share, straight: bool, chosen: list[Candidate]) -> Share | None:
        """``share`` with the ports its wires need, or None when those or its memory do not allow."""
        ports = []
        for edge, producer, consumer in self.edges:
            if consumer != at:
                continue
            writers = [(Slice(0, self.drafted.slots[edge]), 1)]
            if producer >= 0:
                writers = self._outputs(producer, chosen[producer])
            if straight:
                ports += [blocks for blocks, _ in writers if blocks.meets(share.inputs)]
            else:
                ports += wires.pieces(share.inputs, writers, self.limits.down)
        if len(ports) > self.device["dma_channels"]:
            return None
        made = fed(share, len(ports), self.device)
        sizes = self._sizes(made, ports)
        return made if memory(made, sizes) <= int(self.device["memory_bytes"]) else None

    def _sizes(self, share: Share, ports: list[Slice]) -> list[tuple[int, int]]:
        sizes = [blocks.count * self.frames * SLOT for blocks in ports]
        out = [] if share.work.cascade_out else [share.outputs.count * self.frames * SLOT]
        count = buffers(share, sizes + out, self.device)
        return [(size, count) for size in sizes] + [(size, 2) for size in out]

    def make(self, interval: float) -> Made | None:
        """A mapping that keeps ``interval``, or None (then :attr:`why` says why)."""
        self.least, self.most = {}, {}
        for _ in range(_REPAIRS):
            self.waiting = -1
            made = self._make(interval)
            if made is not None or self.waiting < 0:
                return made
            # A branch waits for another: more parts of the stage behind it need fewer descriptors each.
            self.least[self.waiting] = self.parts + 1
        return None

    def _make(self, interval: float) -> Made | None:
        picks = self.pick(interval)
        if picks is None:
            return None
        total = sum(pick.split.tiles for pick in picks)
        if total > self.device.tiles:
            self.why = f"{total} tiles of {self.device.tiles} at {interval / self.frames:.1f} cycles a frame"
            return None
        chains = [pick.split.chain for pick in picks for _ in range(pick.split.n * pick.split.t)]
        positions = place.place(chains, self.device)
        if positions is None:
            self.why = f"cascades of {total} tiles do not fit {self.device.tiles} side by side"
            return None
        return Mapping(self, picks, positions).made()
