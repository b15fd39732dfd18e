"""How much each channel of a group matters, from the graph alone or from scores that training gives."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

import numpy as np

from rubicc.errors import UsageError
from rubicc.ir.graph import Graph
from rubicc.passes.prune.groups import Group, Member
from rubicc.passes.prune.readers import behind
from rubicc.passes.quantize.sites import weight_roles
from rubicc.passes.rewrite import constant, is_standard

Importance = Literal["l1", "l2", "bn-scale", "random", "given"]
_NORMS = ("BatchNormalization", "InstanceNormalization", "LayerNormalization", "RMSNormalization")


def importance(
    graph: Graph, group: Group, method: Importance, *, seed: int, scores: Mapping[str, np.ndarray]
) -> np.ndarray | None:
    """One number per channel of ``group``, larger for what matters more; ``None`` where the method has none.

    Magnitudes are of all weights a channel takes (its own rows and the columns that read it), each tensor
    divided by its mean over the group's channels, so that groups can be compared.

    Args:
        method: ``l1``, ``l2``: magnitude of weights; ``bn-scale``: magnitude of the scales of normalisations
            (Liu et al., "Learning efficient convolutional networks through network slimming", 2017);
            ``random``; ``given``: ``scores``.
        seed: of ``random``.
        scores: of ``given``: by name of the group, one number per channel (such as those of
            :func:`rubicc.training.importance.taylor`); or by name of initializer, each as large as the
            initializer, of which a channel's importance is ``|sum|``.

    Raises:
        UsageError: ``RUB-PASS-053``, scores for a tensor or group do not have its shape.
    """
    if method == "random":
        stem = [seed, *(ord(letter) for letter in group.name)]
        return np.random.default_rng(stem).permutation(group.size).astype(np.float64)
    if method == "given":
        return _given(graph, group, scores)
    if method == "bn-scale":
        return _mean([_sums(graph, m, np.abs) for m in group.members if _is_scale(graph, m)])
    if method == "l1":
        return _mean([_sums(graph, m, np.abs) for m in _products(graph, group)])
    return _mean([np.sqrt(_sums(graph, m, np.square)) for m in _products(graph, group)])


def _array(graph: Graph, member: Member) -> np.ndarray | None:
    if member.use is not None:
        return constant(graph.nodes[member.use[0]].inputs[member.use[1]])
    return constant(graph.ir.initializers.get(member.initializer))


def _products(graph: Graph, group: Group) -> list[Member]:
    """Members with more than one axis; vectors where there are no others."""
    arrays = [(member, _array(graph, member)) for member in group.members]
    floats = [(member, array) for member, array in arrays if array is not None and array.dtype.kind == "f"]
    return [member for member, array in floats if array.ndim > 1] or [member for member, _ in floats]


def _is_scale(graph: Graph, member: Member) -> bool:
    return member.use is not None and member.use[1] == 1 and is_standard(graph.nodes[member.use[0]], *_NORMS)


def _sums(graph: Graph, member: Member, size: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    array = _array(graph, member)
    if array is None:
        raise ValueError(f"{member.initializer} is no constant")
    return _by_channel(size(array.astype(np.float64)), member)


def _by_channel(array: np.ndarray, member: Member) -> np.ndarray:
    """Sum over the slices of every channel."""
    flat = array.sum(axis=tuple(axis for axis in range(array.ndim) if axis != member.axis))
    return np.asarray([flat[rows].sum() for rows in member.positions])


def _mean(rows: list[np.ndarray]) -> np.ndarray | None:
    if not rows:
        return None
    return np.mean([row / (row.mean() or 1.0) for row in rows], axis=0)


def _given(graph: Graph, group: Group, scores: Mapping[str, np.ndarray]) -> np.ndarray | None:
    if group.name in scores:
        return _fitting(scores[group.name], group.name, (group.size,))
    found = []
    for member in group.members:
        given, array = scores.get(member.initializer), _array(graph, member)
        if given is not None and array is not None:
            found.append(_by_channel(_fitting(given, member.initializer, array.shape), member))
    return np.abs(np.sum(found, axis=0)) if found else None


def _fitting(given: np.ndarray, name: str, shape: tuple[int, ...]) -> np.ndarray:
    if given.shape != shape:
        raise UsageError(
            "RUB-PASS-053",
            f"scores of {name} have shape {list(given.shape)}, it has {list(shape)}",
            hint="give scores of the graph that is pruned",
        )
    return given.astype(np.float64)


def reading(graph: Graph) -> frozenset[tuple[str, int]]:
    """(initializer, axis) pairs over which a product sums: what reads channels, not what makes them.

    Weights are followed through quantisers and transpositions to the product.
    """
    found = set()
    for node in graph.nodes:
        roles = ((1, 1, 2), (2, 1, 2)) if is_standard(node, "RNN") else weight_roles(node)
        for index, _, into in roles:
            value = node.inputs[index] if index < len(node.inputs) else None
            stored = None if is_standard(node, "Gather") else behind(value)
            if stored is not None:
                found.add((stored.value.name or "", stored.order[into % len(stored.order)]))
    return frozenset(found)
