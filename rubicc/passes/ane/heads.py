"""Which channels of which projection each attention head works on, read off element by element."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from rubicc.passes.ane.attention_core import Core
from rubicc.passes.ane.matching import FORMS, SINGLE, Form, data_uses
from rubicc.passes.ane.movement import Path, Trials, moved, path_to


class NotHeads(Exception):
    """Why an operand is no split of a projection into heads."""


@dataclass(frozen=True)
class Heads:
    """One operand of an attention.

    Attributes:
        root: the projection, (B, C, 1, S) where ``form`` is ``None``, else of rank 3 in ``form``.
        offsets: first channel of every head.
        width: channels of a head.
        path: how the operand comes from the projection.
        lead: per trial, batch of every leading index of the operand.
    """

    root: ir.Value
    form: Form | None
    offsets: tuple[int, ...]
    width: int
    path: Path
    lead: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class _Table:
    form: Form | None
    offsets: tuple[int, ...]
    width: int
    lead: tuple[int, ...]


def operands(trials: Trials, core: Core) -> tuple[Heads, Heads, Heads]:
    """Heads of queries, keys and values of an attention.

    Raises:
        NotHeads: one of them is no split of channels, or shapes are unknown.
    """
    if not trials.runs:
        raise NotHeads("the shapes of the graph are not known")
    shapes = [run.shape(core.scores.outputs[0]) for run in trials.runs]
    leads = [shape[:-2] for shape in shapes if shape is not None]
    if len(leads) != len(shapes):
        raise NotHeads("the shape of its scores is not known")
    query, key, value = core.operands
    return heads(trials, query, leads), heads(trials, key, leads, swapped=True), heads(trials, value, leads)


def heads(
    trials: Trials, value: ir.Value, leads: Sequence[tuple[int, ...]], *, swapped: bool = False
) -> Heads:
    """Heads behind an operand (..., S, D), or (..., D, S) where ``swapped``.

    Args:
        leads: leading dimensions of the scores, per trial; the operand is broadcast to them.

    Raises:
        NotHeads: it is no split of channels, or not the same one at every size.
    """
    path = path_to(value)
    tables = []
    for run, lead in zip(trials.runs, leads, strict=True):
        shape = run.shape(path.root)
        found = None if shape is None else run.follow(shape, path.steps)
        if shape is None or found is None:
            raise NotHeads(f"{_origin(path.root)} has no known shape")
        numbers = found[-1] if found else np.arange(int(np.prod(shape))).reshape(shape)
        numbers = numbers.swapaxes(-1, -2) if swapped else numbers
        try:
            numbers = np.broadcast_to(numbers, (*lead, *numbers.shape[-2:])).reshape(-1, *numbers.shape[-2:])
        except ValueError:
            raise NotHeads("its operands have different leading dimensions") from None
        tables.append(_table(numbers, shape))
    first = tables[0]
    if first is None or any(
        t is None or (t.form, t.offsets, t.width) != (first.form, first.offsets, first.width) for t in tables
    ):
        raise NotHeads(f"an operand is not a split of channels: it comes from {_origin(path.root)}")
    leads_found = tuple(t.lead for t in tables if t is not None)
    return Heads(path.root, first.form, first.offsets, first.width, path, leads_found)


def _origin(value: ir.Value) -> str:
    node = value.producer()
    return f"{node.op_type} {node.name!r}" if node is not None else f"{value.name!r}"


def _table(numbers: np.ndarray, shape: tuple[int, ...]) -> _Table | None:
    """Reads (heads x batches, S, D) element numbers of an array of ``shape``."""
    forms: tuple[Form | None, ...] = FORMS if len(shape) == 3 else ()
    if len(shape) == 4 and shape[SINGLE] == 1:
        forms = (None,)
    where = np.unravel_index(numbers, shape)
    for form in forms:
        batch, channel, sequence = (0, 1, 3) if form is None else form.inward
        table = _read(where[batch], where[channel], where[sequence], shape[batch], shape[sequence])
        if table is not None:
            return _Table(form, *table)
    return None


def _read(
    batch: np.ndarray, channel: np.ndarray, place: np.ndarray, batches: int, length: int
) -> tuple[tuple[int, ...], int, tuple[int, ...]] | None:
    rows, steps, width = batch.shape
    if steps != length or not np.array_equal(place, np.broadcast_to(np.arange(steps)[:, None], place.shape)):
        return None
    first = channel[:, :1, :1]
    if not np.array_equal(batch, np.broadcast_to(batch[:, :1, :1], batch.shape)) or not np.array_equal(
        channel, np.broadcast_to(first + np.arange(width), channel.shape)
    ):
        return None
    lead, offsets = batch[:, 0, 0], channel[:, 0, 0]
    per_batch = {tuple(offsets[lead == b].tolist()) for b in range(batches)}
    if rows % batches or len(per_batch) != 1:
        return None
    return per_batch.pop(), width, tuple(lead.tolist())


@dataclass(frozen=True)
class Joined:
    """The value in which the heads stand side by side again.

    Attributes:
        value: (B, C, 1, S) where ``form`` is ``None``, else of rank 3 in ``form``.
        order: head at every place.
    """

    value: ir.Value
    form: Form | None
    order: tuple[int, ...]


def joined(trials: Trials, context: ir.Value, lead: Sequence[tuple[int, ...]]) -> Joined:
    """The last value moved from ``context`` (..., S, D) that holds all heads along its channels.

    Raises:
        NotHeads: there is none.
    """
    steps = _onward(context)
    arrays, shapes = [], []
    for run in trials.runs:
        shape = run.shape(context)
        found = None if shape is None else run.follow(shape, steps)
        if shape is None or found is None:
            raise NotHeads("its result has no known shape")
        arrays.append(found)
        shapes.append(shape)
    for index in reversed(range(len(steps))):
        places = [
            _placed(found[index], shape, batches)
            for found, shape, batches in zip(arrays, shapes, lead, strict=True)
        ]
        if places[0] is not None and all(place == places[0] for place in places):
            node, output = steps[index]
            return Joined(node.outputs[output], *places[0])
    raise NotHeads("its heads are not joined along the channels again")


def _onward(value: ir.Value) -> list[tuple[ir.Node, int]]:
    """Movement behind ``value`` as long as nothing else reads the numbers."""
    steps: list[tuple[ir.Node, int]] = []
    while not value.is_graph_output():
        uses = data_uses(value)
        node = uses[0][0] if len(uses) == 1 and uses[0][1] == 0 else None
        if node is None or moved(node) is None or len(node.outputs) != 1:
            break
        steps.append((node, 0))
        value = node.outputs[0]
    return steps


def _placed(
    numbers: np.ndarray, shape: tuple[int, ...], lead: tuple[int, ...]
) -> tuple[Form | None, tuple[int, ...]] | None:
    """Form of a value, and head by head its place, from the element numbers (rows, S, D) of ``shape``."""
    steps, width = shape[-2:]
    forms: tuple[Form | None, ...] = FORMS if numbers.ndim == 3 else ()
    if numbers.ndim == 4 and numbers.shape[SINGLE] == 1:
        forms = (None,)
    batches = max(lead) + 1
    seen = [0] * batches
    ranks = []  # which head of its batch every row is
    for batch in lead:
        ranks.append(seen[batch])
        seen[batch] += 1
    head = np.asarray(ranks)
    for form in forms:
        inner = numbers[:, :, 0, :] if form is None else numbers.transpose(form.inward)
        row, place, channel = np.unravel_index(inner, (len(lead), steps, width))
        count = inner.shape[1]
        if inner.shape[0] != batches or inner.shape[2] != steps or count != width * seen[0]:
            continue
        same = [
            (place, np.arange(steps)),
            (channel, (np.arange(count) % width)[:, None]),
            (np.asarray(lead)[row], np.arange(batches)[:, None, None]),
            (head[row], head[row][:1, :, :1]),
        ]
        if all(np.array_equal(a, np.broadcast_to(b, a.shape)) for a, b in same):
            order = head[row][0, :, 0].reshape(-1, width)
            if np.array_equal(order, np.broadcast_to(order[:, :1], order.shape)):
                return form, tuple(order[:, 0].tolist())
    return None
