"""Labels through operators that move elements: reshapes, transpositions, joins of axes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from rubicc.ir.shapes import static_shape
from rubicc.passes.prune.walk import Axes, Kept, Lost, Results, Rule, Walk
from rubicc.passes.rewrite import Editor, constant, is_constant, is_standard


def _transpose(walk: Walk, node: ir.Node) -> Results:
    rank = walk.rank(node.inputs[0])
    axes = walk.of(node, 0)
    perm = walk.numbers(node, "perm", -1) or list(reversed(range(rank)))
    return [[axes[axis] for axis in perm]] if axes else [[None] * rank]


def _squeeze(walk: Walk, node: ir.Node) -> Results:
    axes, shape = walk.of(node, 0), walk.shape(node.inputs[0])
    gone = walk.numbers(node, "axes", 1)
    places = [k for k, n in enumerate(shape) if n == 1] if gone is None else [a % len(shape) for a in gone]
    return [[vector for axis, vector in enumerate(axes) if axis not in places]]


def _unsqueeze(walk: Walk, node: ir.Node) -> Results:
    axes, new = list(walk.of(node, 0)), walk.numbers(node, "axes", 1) or []
    rank = walk.rank(node.inputs[0]) + len(new)
    for axis in sorted(a % rank for a in new):
        axes.insert(axis, None)
    return [axes]


def _shape(walk: Walk, node: ir.Node) -> Results:
    """A size that is read off a channel axis pins it."""
    axes = walk.of(node, 0)
    for axis in _read_entries(node, len(axes)):
        walk.fix(node, [axes[axis]], "its size is computed with")
    return [[None]]


def _read_entries(node: ir.Node, rank: int) -> set[int]:
    """Which entries of a Shape its readers take."""
    start, end = node.attributes.get_int("start", 0) or 0, node.attributes.get_int("end", rank)
    entries = list(range(rank))[start:end]
    if node.outputs[0].is_graph_output():
        return set(entries)
    taken: set[int] = set()
    for use in node.outputs[0].uses():
        reader, indices = use.node, [constant(value) for value in use.node.inputs[1:]]
        if is_standard(reader, "Gather") and indices[0] is not None:
            taken.update(entries[int(k)] for k in indices[0].reshape(-1))
        elif (
            is_standard(reader, "Slice") and all(index is not None for index in indices) and len(indices) < 4
        ):
            taken.update(entries[int(indices[0].item()) : int(indices[1].item())])  # type: ignore[union-attr]
        elif is_standard(reader, "Slice") and all(index is not None for index in indices):
            begin, stop, step = (int(indices[k].item()) for k in (0, 1, 3))  # type: ignore[union-attr]
            taken.update(entries[begin:stop:step])
        else:
            taken.update(entries)
    return taken


def _flatten(walk: Walk, node: ir.Node) -> Results:
    shape, axes = walk.shape(node.inputs[0]), walk.of(node, 0)
    cut = node.attributes.get_int("axis", 1) or 0
    cut = cut % len(shape) if cut < 0 else cut
    return [
        [walk.labels.combine(axes[:cut], shape[:cut]), walk.labels.combine(axes[cut:], shape[cut:])]
        if axes
        else [None, None]
    ]


def _reshape(walk: Walk, node: ir.Node) -> Results:
    """Axes are joined and cut in blocks of equal size; cut channels go by rows and columns."""
    shape, target = walk.shape(node.inputs[0]), walk.shape(node.outputs[0])
    axes: Axes = list(walk.of(node, 0)) or [None] * len(shape)
    result: Axes = [None] * len(target)
    for ins, outs in _blocks(shape, target):
        if all(axes[i] is None for i in ins):
            continue
        sizes = [shape[i] for i in ins]
        joined = walk.labels.combine([axes[i] for i in ins], sizes)
        parts = walk.labels.factor(joined, [target[o] for o in outs], walk.why(node))
        for place, vector in zip(outs, parts, strict=True):
            result[place] = vector
    _keep_computed(walk, node, result)

    def edit(editor: Editor, real: ir.Node, kept: Kept) -> None:
        new = [int(kept(vector, size).sum()) for vector, size in zip(result, target, strict=True)]
        old = [int(kept(vector, size).sum()) for vector, size in zip(axes, shape, strict=True)]
        _write_shape(editor, real, target, new, old)

    walk.patch(edit)
    return [result]


def _blocks(shape: Sequence[int], target: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """Smallest runs of axes of both shapes that hold equally many elements; axes of length 1 in none."""
    ins = [k for k, n in enumerate(shape) if n != 1]
    outs = [k for k, n in enumerate(target) if n != 1]
    found = []
    while ins and outs:
        left, right = [ins.pop(0)], [outs.pop(0)]
        a, b = shape[left[0]], target[right[0]]
        while a != b:
            if a < b and ins:
                left.append(ins.pop(0))
                a *= shape[left[-1]]
            elif b < a and outs:
                right.append(outs.pop(0))
                b *= target[right[-1]]
            else:
                raise Lost("Reshape of unequal sizes")
        found.append((left, right))
    return found


def _keep_computed(walk: Walk, node: ir.Node, result: Axes) -> None:
    """Axes whose new length stands in no constant keep it."""
    entries = _entries(node.inputs[1], len(result))
    for axis, vector in enumerate(result):
        if entries[axis] is None:
            walk.fix(node, [vector], "its length is computed")


def _entries(value: ir.Value | None, count: int) -> list[int | None]:
    """Entries of a shape that stand in constants, directly or joined with computed ones; else ``None``."""
    array = constant(value)
    if array is not None:
        return [int(n) for n in array.reshape(-1)]
    found: list[int | None] = []
    for piece in _pieces(value) or []:
        inner = constant(piece)
        shape = static_shape(piece)
        if inner is not None:
            found += [int(n) for n in inner.reshape(-1)]
        elif shape is None or len(shape) != 1:
            return [None] * count
        else:
            found += [None] * shape[0]
    return found if len(found) == count else [None] * count


def _pieces(value: ir.Value | None) -> list[ir.Value] | None:
    maker = value.producer() if value is not None else None
    if maker is None or not is_standard(maker, "Concat"):
        return None
    return [piece for piece in maker.inputs if piece is not None]


def _write_shape(
    editor: Editor, node: ir.Node, target: Sequence[int], new: Sequence[int], old: Sequence[int]
) -> None:
    """Lengths that changed into the shape argument of ``node``; a new argument, since others may share it."""
    literal = _entries(node.inputs[1], len(target))
    wanted = list(literal)
    for axis, entry in enumerate(literal):
        copied = entry == 0 and not node.attributes.get_int("allowzero", 0)
        same = copied and axis < len(old) and old[axis] == new[axis]
        if entry is not None and entry != -1 and not same and (new[axis] != target[axis] or copied):
            wanted[axis] = new[axis]
    if wanted == literal:
        return
    if is_constant(node.inputs[1]):
        value = editor.initializer(f"{node.name}_shape", np.asarray(wanted, np.int64), node.graph)
    else:
        value = _joined(editor, node, wanted)
    node.replace_input_with(1, value)
    editor.mark(node)


def _joined(editor: Editor, node: ir.Node, wanted: Sequence[int | None]) -> ir.Value:
    """The Concat before ``node`` again with other constants; the old one stays for whoever shares it."""
    old = node.inputs[1]
    pieces, place = [], 0
    for piece in _pieces(old) or []:
        array = constant(piece)
        size = array.size if array is not None else int(piece.shape[0])  # type: ignore[index, arg-type]
        if array is not None and size:
            numbers = np.asarray(wanted[place : place + size], np.int64)
            piece = editor.initializer(f"{node.name}_lengths", numbers, node.graph)
        pieces.append(piece)
        place += size
    assert old is not None
    made = editor.node(
        "Concat", pieces, like=node, attributes={"axis": 0}, shape=old.shape, dtype=ir.DataType.INT64
    )
    return made.outputs[0]


def _expand(walk: Walk, node: ir.Node) -> Results:
    shape, target = walk.shape(node.inputs[0]), walk.shape(node.outputs[0])
    axes: Axes = walk.of(node, 0) or [None] * len(shape)
    lead = len(target) - len(shape)
    result: Axes = [None] * lead
    result += [vector if size > 1 else None for vector, size in zip(axes, shape, strict=True)]
    wanted = walk.numbers(node, "shape", 1) or []
    unnamed: list[int | None] = [None] * (len(target) - len(wanted))
    entries = unnamed + _entries(node.inputs[1], len(wanted))
    for axis, vector in enumerate(result):
        if entries[axis] is None and len(target) - axis <= len(wanted):
            walk.fix(node, [vector], "its length is computed")

    def edit(editor: Editor, real: ir.Node, kept: Kept) -> None:
        cut = len(target) - len(wanted)
        sizes = [int(kept(vector, size).sum()) for vector, size in zip(result, target, strict=True)]
        ones = [1 if entry == 1 else size for entry, size in zip(entries[cut:], sizes[cut:], strict=True)]
        _write_shape(editor, real, wanted, ones, [])

    walk.patch(edit)
    return [result]


def _tile(walk: Walk, node: ir.Node) -> Results:
    axes = walk.of(node, 0)
    counts = walk.numbers(node, "repeats", 1) or [1] * len(axes)
    return [
        [
            vector if count == 1 or vector is None else np.tile(vector, count)
            for vector, count in zip(axes, counts, strict=True)
        ]
    ]


def _concat(walk: Walk, node: ir.Node) -> Results:
    rank = walk.rank(node.outputs[0])
    along = (node.attributes.get_int("axis", 0) or 0) % rank
    result: Axes = [None] * rank
    pieces: list[np.ndarray] = []
    first = True
    for index, value in enumerate(node.inputs):
        axes: Axes = list(walk.of(node, index)) or [None] * rank
        size = walk.shape(value)[along]
        vector = axes[along]
        pieces.append(np.zeros(size, np.int64) if vector is None else vector)
        for axis in range(rank):
            if axis != along and first:
                result[axis] = axes[axis]
            elif axis != along:
                walk.equate(node, result[axis], axes[axis])
        first = False
    joined = np.concatenate(pieces)
    result[along] = joined if np.any(joined != 0) else None
    return [result]


MOVING: dict[str, Rule] = {
    "Transpose": _transpose,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Shape": _shape,
    "Flatten": _flatten,
    "Reshape": _reshape,
    "Expand": _expand,
    "Tile": _tile,
    "Concat": _concat,
}
