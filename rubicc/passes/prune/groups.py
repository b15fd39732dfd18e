"""Which channels of a graph can be cut out, and what goes with each."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from rubicc.ir.graph import Graph
from rubicc.passes.prune.labels import Vector
from rubicc.passes.prune.walk import Produced, Walk
from rubicc.passes.rewrite import unique

_WHOLE = {"features": "heads"}  # features are cut into axes by attention only
_EACH = {"features": "features of every head"}


@dataclass(frozen=True)
class Member:
    """What a group cuts out of one axis of one initializer.

    Attributes:
        initializer: its name.
        axis: the axis that shrinks.
        positions: per channel of the group, which positions of the axis go with it.
        use: (node, input) by index where only that reader's copy shrinks; ``None``: the initializer.
    """

    initializer: str
    axis: int
    positions: tuple[np.ndarray, ...]
    use: tuple[int, int] | None = None


@dataclass(frozen=True)
class Group:
    """Channels of which any may be cut out, as long as one stays.

    Attributes:
        name: module path of the first layer that makes them and the kind, unique in the graph.
        kind: what they are: ``channels``, ``hidden units``, ``features``, ``weights``.
        labels: one per channel.
        members: what goes with the channels; the same order in each.
        width: positions that one channel takes of the axis its first layer makes.
        normalised: a layer normalises over them, so that what stays changes when some go.
        inside: one from every group of a grouped layer, or from every head; another group holds those whole.
        sources: all layers that make them.
    """

    name: str
    kind: str
    labels: tuple[int, ...]
    members: tuple[Member, ...]
    width: int
    normalised: bool
    inside: bool = False
    sources: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        """Number of channels."""
        return len(self.labels)


@dataclass(frozen=True)
class Protected:
    """Channels that must stay: the layer that makes them, how many, and why."""

    source: str
    channels: int
    reason: str


@dataclass
class Coupling:
    """Everything that pruning must know about a graph.

    Attributes:
        groups: in graph order.
        protected: layers whose channels must all stay.
        walk: labels behind them.
    """

    groups: tuple[Group, ...]
    protected: tuple[Protected, ...]
    walk: Walk = field(repr=False)

    def kept(self, removed: Collection[int], vector: Vector, size: int) -> np.ndarray:
        """Which positions of an axis stay when the channels with these labels go."""
        if vector is None or not removed:
            return np.ones(size, bool)
        gone = frozenset(removed)
        unique, inverse = np.unique(vector, return_inverse=True)
        stays = np.asarray([not (self.walk.labels.leaves(label) & gone) for label in unique])
        return stays[inverse.reshape(-1)]


def groups(graph: Graph, *, norms: bool = False) -> Coupling:
    """Coupled channels of ``graph``.

    Args:
        graph: a legal graph whose weights are initializers (``cleanup.lift-constants`` and folding before);
            left as it is.
        norms: also channels that LayerNormalization and its like count (the hidden size of a transformer).
            Without some of them the others come out otherwise than with zeros in their place.
    """
    walk = Walk(graph, norms=norms)
    places = _Places(walk)
    found = [places.group(leaves) for leaves in places.together() if places.cuts(leaves)]
    protected = [
        Protected(made.source, made.axis.size, walk.labels.reason(int(made.axis[0])))
        for made in walk.produced
        if made.axis is not None and made.axis.size > 1 and not places.free(made.axis)
    ]
    return Coupling(_named(found), tuple(protected), walk)


class _Places:
    """Where every free label stands."""

    def __init__(self, walk: Walk) -> None:
        self.walk = walk
        self._sets: dict[bytes, dict[int, list[int]]] = {}
        self._joint: dict[bytes, frozenset[int]] = {}
        self.in_weights: dict[int, list[tuple[int, int]]] = {}
        for made in walk.produced:
            self.free(made.axis)
        for axes in walk.axes.values():
            for axis in axes:
                self.free(axis)
        for number, weight in enumerate(walk.weights):
            for index, vector in enumerate(weight.axes):
                for leaf in self.free(vector):
                    self.in_weights.setdefault(leaf, []).append((number, index))
        self._normalised = {leaf for axis in walk.normalised for leaf in self.free(axis)}
        self._makers: dict[int, list[Produced]] = {}
        for made in walk.produced:
            for leaf in self.free(made.axis):
                self._makers.setdefault(leaf, []).append(made)

    def free(self, vector: Vector) -> dict[int, list[int]]:
        """Positions of every free label of an axis."""
        if vector is None:
            return {}
        key = vector.tobytes()
        if key not in self._sets:
            found: dict[int, list[int]] = {}
            joint: set[int] = set()
            for index, leaves in enumerate(self.walk.labels.resolve(vector)):
                for leaf in leaves:
                    found.setdefault(leaf, []).append(index)
                if len(leaves) > 1:
                    joint.update(leaves)
            self._sets[key] = found
            self._joint[key] = frozenset(joint)
        return self._sets[key]

    def together(self) -> list[list[int]]:
        """Free labels that stand on the same axes equally often, in order of appearance."""
        seen: dict[int, list[tuple[int, int]]] = {}
        for number, found in enumerate(self._sets.values()):
            for leaf, positions in found.items():
                seen.setdefault(leaf, []).append((number, len(positions)))
        same: dict[tuple[tuple[int, int], ...], list[int]] = {}
        for leaf, where in seen.items():
            same.setdefault(tuple(where), []).append(leaf)
        return list(same.values())

    def cuts(self, leaves: Sequence[int]) -> bool:
        """Whether anything shrinks with these labels."""
        return leaves[0] in self.in_weights

    def _member(self, number: int, axis: int, leaves: Sequence[int]) -> Member:
        weight = self.walk.weights[number]
        places = self.free(weight.axes[axis])
        rows = tuple(np.asarray(places.get(leaf, []), np.int64) for leaf in leaves)
        return Member(weight.name, axis, rows, weight.use)

    def group(self, leaves: Sequence[int]) -> Group:
        """The group of labels that stand on the same axes."""
        first = leaves[0]
        makers = self._makers.get(first, [])
        axis = makers[0].axis if makers else None
        row = self.free(axis).get(first, [0])
        inside = axis is not None and first in self._joint[axis.tobytes()]
        run = len(row) > 1 and row[-1] - row[0] == len(row) - 1
        kind = makers[0].kind if makers else "weights"
        if inside:
            kind = _WHOLE.get(kind, f"groups of {kind}") if run else _EACH.get(kind, f"{kind} of every group")
        if makers:
            order = self.free(axis)
            leaves = sorted(leaves, key=lambda leaf: order[leaf][0])
        members = tuple(self._member(number, axis, leaves) for number, axis in self.in_weights.get(first, []))
        return Group(
            name=makers[0].source if makers else members[0].initializer,
            kind=kind,
            labels=tuple(leaves),
            members=members,
            width=len(row),
            normalised=first in self._normalised,
            inside=inside and not run,
            sources=tuple(dict.fromkeys(made.source for made in makers)),
        )


def _named(found: Sequence[Group]) -> tuple[Group, ...]:
    """The groups under names of their own."""
    taken: set[str] = set()
    return tuple(replace(group, name=unique(f"{group.name} ({group.kind})", taken)) for group in found)
