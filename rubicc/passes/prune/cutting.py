"""Labels through operators that take parts of axes: split, slice, gather, pad."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from rubicc.passes.prune.walk import Axes, Kept, Lost, Results, Rule, Walk
from rubicc.passes.rewrite import Editor, constant


def _set_input(editor: Editor, node: ir.Node, index: int, array: np.ndarray, what: str) -> None:
    """A new constant argument for ``node``; the old one may serve others."""
    if index >= len(node.inputs):
        node.resize_inputs(index + 1)
    old = constant(node.inputs[index])
    if old is not None and old.shape == array.shape and np.array_equal(old, array):
        return
    node.replace_input_with(index, editor.initializer(f"{node.name}_{what}", array, node.graph))
    editor.mark(node)


def _split(walk: Walk, node: ir.Node) -> Results:
    axes: Axes = walk.of(node, 0)
    rank = walk.rank(node.inputs[0])
    along = (node.attributes.get_int("axis", 0) or 0) % rank
    sizes = [walk.shape(value)[along] for value in node.outputs]
    vector = axes[along] if axes else None
    if vector is None:
        return [axes or [None] * rank] * len(sizes)
    parts = np.split(vector, np.cumsum(sizes)[:-1])

    def edit(editor: Editor, real: ir.Node, kept: Kept) -> None:
        new = [int(kept(part, size).sum()) for part, size in zip(parts, sizes, strict=True)]
        if new == sizes:
            return
        if "split" in real.attributes:
            real.attributes["split"] = ir.AttrInt64s("split", new)
            editor.mark(real)
            return
        real.attributes.pop("num_outputs", None)
        _set_input(editor, real, 1, np.asarray(new, np.int64), "split")

    walk.patch(edit)
    return [[part if axis == along else axes[axis] for axis in range(rank)] for part in parts]


def _slice(walk: Walk, node: ir.Node) -> Results:
    axes = list(walk.of(node, 0))
    starts, ends = walk.numbers(node, "starts", 1) or [], walk.numbers(node, "ends", 2) or []
    if not axes:
        return [[]]
    rank = len(axes)
    places = [a % rank for a in walk.numbers(node, "axes", 3) or range(len(starts))]
    steps = walk.numbers(node, "steps", 4) or [1] * len(starts)
    cut = []
    for entry, axis in enumerate(places):
        vector = axes[axis]
        if vector is None:
            continue
        if steps[entry] == 1:
            taken = np.arange(vector.size)[starts[entry] : ends[entry]]
            cut.append((entry, vector, taken))
            axes[axis] = vector[taken]
        elif (steps[entry], starts[entry]) == (-1, -1) and ends[entry] < -vector.size:
            axes[axis] = vector[::-1]
        else:
            walk.fix(node, [vector], "it is sliced in steps")
            axes[axis] = None
    if cut and any(constant(value) is None for value in node.inputs[1:] if value is not None):
        walk.fix(node, [vector for _, vector, _ in cut], "its length is computed")

    def edit(editor: Editor, real: ir.Node, kept: Kept) -> None:
        first, last = list(starts), list(ends)
        for entry, vector, taken in cut:
            mask = kept(vector, vector.size)
            if mask.all():
                continue
            first[entry] = int(mask[: taken[0]].sum()) if taken.size else 0
            last[entry] = first[entry] + int(mask[taken].sum())
        if "starts" in real.attributes:
            real.attributes["starts"] = ir.AttrInt64s("starts", first)
            real.attributes["ends"] = ir.AttrInt64s("ends", last)
        elif (first, last) != (starts, ends):
            _set_input(editor, real, 1, np.asarray(first, np.int64), "starts")
            _set_input(editor, real, 2, np.asarray(last, np.int64), "ends")

    if cut:
        walk.patch(edit)
    return [axes]


def _gather(walk: Walk, node: ir.Node) -> Results:
    axes = walk.of(node, 0)
    rank, places = walk.rank(node.inputs[0]), walk.rank(node.inputs[1])
    if not axes:
        return [[None] * walk.rank(node.outputs[0])]
    along = (node.attributes.get_int("axis", 0) or 0) % rank
    vector, indices = axes[along], constant(node.inputs[1])
    picked: Axes = list(walk.of(node, 1)) if indices is None else [None] * places
    if vector is not None and (indices is None or indices.ndim > 1):
        walk.fix(node, [vector], "it is looked up in")
    elif vector is not None and indices is not None:
        chosen = vector[indices.reshape(-1)]
        if indices.ndim == 0:
            walk.fix(node, [chosen], "one position of it is picked")
        else:
            picked = [chosen]
        wanted = indices.reshape(-1) % vector.size

        def edit(editor: Editor, real: ir.Node, kept: Kept) -> None:
            mask = kept(vector, vector.size)
            if mask.all():
                return
            new = (np.cumsum(mask) - 1)[wanted[mask[wanted]]]
            shape = indices.shape if indices.ndim == 0 else (-1,)
            _set_input(editor, real, 1, new.astype(indices.dtype).reshape(shape), "indices")

        walk.patch(edit)
    if node.outputs[0].shape is not None and len(picked) != places:
        raise Lost("Gather by values of unknown rank")
    return [[*axes[:along], *picked, *axes[along + 1 :]]]


def _pad(walk: Walk, node: ir.Node) -> Results:
    axes: Axes = list(walk.of(node, 0))
    rank = len(axes)
    amounts = walk.numbers(node, "pads", 1) or []
    places = [a % rank for a in walk.numbers(node, "axes", 3) or range(rank)]
    for entry, axis in enumerate(places):
        if amounts[entry] or amounts[entry + len(places)]:
            walk.fix(node, [axes[axis]], "it is padded")
            axes[axis] = None
    return [axes]


CUTTING: dict[str, Rule] = {"Split": _split, "Slice": _slice, "Gather": _gather, "Pad": _pad}
