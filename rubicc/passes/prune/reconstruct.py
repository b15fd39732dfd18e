"""What is lost with channels or weights, and how the weights that stay make up for it (least squares).

A product ``y = W x`` that may not read all of ``x`` any more still comes nearest to ``y`` with other weights
for the rest: both the loss and those weights follow from the covariance of ``x`` (optimal brain surgeon,
Hassibi and Stork 1993; for whole channels: He et al., "Channel pruning for accelerating very deep neural
networks", 2017; Kurtic et al., "ZipLM", 2023).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from rubicc.passes.prune.groups import Coupling, Group, Member
from rubicc.passes.prune.readers import Reader

DAMPING = 1e-4  # of the mean variance: numbers that never differed must not decide
_EXACT = 1e-6  # of the first slope: where the search for the weights ends
_BATCHES = 256  # removals in which a group is put in order: all one by one up to so many channels


@dataclass(frozen=True)
class Moments:
    """What a product reads, over positions of data.

    Attributes:
        mean: ``(groups, K)``.
        second: ``(groups, K, K)``, mean of ``x x^T``.
    """

    mean: np.ndarray
    second: np.ndarray

    def form(self, *, centred: bool) -> np.ndarray:
        """Quadratic form of the loss: the covariance where a bias takes the mean, damped; float64."""
        found = self.second.astype(np.float64)
        if centred:
            mean = self.mean.astype(np.float64)
            found = found - mean[:, :, None] * mean[:, None, :]
        diagonal = np.einsum("gkk->gk", found)
        damping = DAMPING * diagonal.mean(axis=1, keepdims=True)
        diagonal += np.where(damping > 0, damping, 1.0)
        return found


Known = Mapping[str, Moments]  # by key of the reader


def ranked(group: Group, readers: Sequence[Reader], known: Known) -> np.ndarray | None:
    """What all channels up to each one take with them, when they go from the least on: one number a channel.

    Channels are taken away one after the other, each time the one whose loss is least after those that stay
    have made up for it; the loss is the share of the readers' power that can not be made up for.
    ``None`` where no product that was looked at reads the channels.
    """
    course = [one for member in group.members for one in _courses(member, readers, known)]
    if not course:
        return None
    left, scores, lost = np.arange(group.size), np.zeros(group.size), 0.0
    count = max(1, group.size // _BATCHES)
    while len(left) > 1:
        costs = np.mean([one.costs(left) for one in course], axis=0)
        first = np.argsort(costs, kind="stable")[: min(count, len(left) - 1)]
        for place in first:
            lost += max(float(costs[place]), 0.0) + 1e-12  # strictly rising, so that the order is kept
            scores[left[place]] = lost
        for one in course:
            one.remove(left[first])
        left = np.delete(left, first)
    scores[left] = lost + float(np.mean([one.costs(left) for one in course])) + 1e-12
    return scores


class _Course:
    """One reader while channels are taken away from it."""

    def __init__(self, weight: np.ndarray, form: np.ndarray, places: np.ndarray) -> None:
        self.weight, self.places = weight, places
        self.power = float(np.sum((weight @ form) * weight)) or 1.0
        self.inverse = np.linalg.inv(form)

    def costs(self, left: np.ndarray) -> np.ndarray:
        """Share of the power that each channel of ``left`` would take with it."""
        at = self.places[left]
        rows = self.weight[:, :, at]
        gram = np.einsum("gonb,gonc->gnbc", rows, rows, optimize=True)
        block = self.inverse[:, at[:, :, None], at[:, None, :]]
        return np.einsum("gnbb->n", np.linalg.solve(block, gram)) / self.power

    def remove(self, channels: np.ndarray) -> None:
        """Those that stay make up for ``channels``."""
        at = self.places[channels].reshape(-1)
        share = np.linalg.solve(self.inverse[:, at[:, None], at], self.inverse[:, at])
        self.weight = self.weight - self.weight[:, :, at] @ share
        self.inverse = self.inverse - self.inverse[:, :, at] @ share


def _courses(member: Member, readers: Sequence[Reader], known: Known) -> list[_Course]:
    """The readers that sum over a member's axis, where what they read is known."""
    positions = member.positions
    if not positions or not len(positions[0]) or any(len(one) != len(positions[0]) for one in positions):
        return []
    found = []
    for reader in readers:
        moments = known.get(reader.key)
        if moments is None or (reader.name, reader.axis) != (member.initializer, member.axis):
            continue
        if not reader.split:
            form = moments.form(centred=reader.bias() is not None)
            found.append(_Course(reader.rows(), form, reader.columns(np.stack(positions))))
    return found


def repair(
    coupling: Coupling, removed: Collection[int], readers: Sequence[Reader], known: Known
) -> list[tuple[Reader, float]]:
    """Let what reads the channels ``removed`` make up for them with those that stay, before they are cut out.

    Args:
        removed: labels of ``coupling``.

    Returns:
        The products that were changed, and the share of each one's power that is lost all the same.
    """
    axes = {weight.name: weight.axes for weight in coupling.walk.weights if weight.use is None}
    changed = []
    for reader in readers:
        moments, vectors = known.get(reader.key), axes.get(reader.name)
        vector = vectors[reader.axis] if vectors else None
        if moments is None or vector is None or reader.split:
            continue
        stays = coupling.kept(removed, vector, vector.size)
        if not stays.all() and stays.any():
            columns = np.repeat(stays, reader.taps)
            changed.append((reader, _refit(reader, np.broadcast_to(columns, reader.shape), moments)))
    return changed


def narrowed(
    coupling: Coupling, removed: Collection[int], readers: Sequence[Reader], known: Known
) -> dict[str, tuple[int, np.ndarray]]:
    """What products read with fewer channels, and how the whole of it follows from those that stay.

    Returns:
        By name of the value: axis of the channels, and the matrix ``(C, c)`` that takes those that stay
        nearest to all ``C`` there were (of what is not known: those that stay as they are, 0 for the others).
    """
    found = {}
    for reader in readers:
        axes = coupling.walk.axes.get(reader.x, [])
        axis = 1 if reader.node.op_type == "Conv" else len(axes) - 1
        vector = axes[axis] if axes and reader.index != 2 else None
        if vector is None or reader.x in found:
            continue
        stays = coupling.kept(removed, vector, vector.size)
        if not stays.all():
            found[reader.x] = axis, _whole(reader, stays, known.get(reader.key))
    return found


def _whole(reader: Reader, stays: np.ndarray, moments: Moments | None) -> np.ndarray:
    if moments is None or reader.split:
        return np.eye(len(stays), dtype=np.float32)[:, stays]
    middle = np.arange(len(stays)) * reader.taps + reader.taps // 2
    form = moments.form(centred=False)[0][np.ix_(middle, middle)]
    return np.linalg.solve(form[np.ix_(stays, stays)], form[stays]).T.astype(np.float32)


def refit(reader: Reader, zeros: np.ndarray, known: Known) -> float | None:
    """Let the weights that stay make up for those at ``zeros`` (of the initializer's shape), which become 0.

    Returns:
        The share of the product's power that is lost all the same; ``None`` where nothing is known of it.
    """
    moments = known.get(reader.key)
    return None if moments is None else _refit(reader, ~reader.rows_of(zeros), moments)


def _refit(reader: Reader, stays: np.ndarray, moments: Moments) -> float:
    add, old = reader.bias(), reader.rows()
    form = moments.form(centred=add is not None)
    new = nearest(old, stays, form)
    reader.put(new)
    lost = old - new
    if add is not None:
        add((lost @ moments.mean.astype(np.float64)[:, :, None])[:, :, 0])
    return float(np.sum((lost @ form) * lost) / (np.sum((old @ form) * old) or 1.0))


def nearest(weight: np.ndarray, stays: np.ndarray, form: np.ndarray) -> np.ndarray:
    """Weights that are 0 where not ``stays`` and lose least: conjugate gradients, all outputs at once.

    Args:
        weight, stays: ``(groups, outputs, K)``.
        form: ``(groups or 1, K, K)``, symmetric and positive.
    """
    found = np.where(stays, weight, 0.0)
    scale = 1.0 / np.einsum("gkk->gk", form)[:, None, :]
    slope = np.where(stays, (weight - found) @ form, 0.0)
    way, size = slope * scale, np.sum(slope * slope * scale, axis=2, keepdims=True)
    small = _EXACT**2 * np.maximum(size, 1e-300)
    for _ in range(2 * weight.shape[2]):
        if np.all(size <= small):
            break
        onward = np.where(stays, way @ form, 0.0)
        step = size / np.maximum(np.sum(way * onward, axis=2, keepdims=True), 1e-300)
        found = found + step * way
        slope = slope - step * onward
        before, size = size, np.sum(slope * slope * scale, axis=2, keepdims=True)
        way = slope * scale + size / np.maximum(before, 1e-300) * way
    return found
