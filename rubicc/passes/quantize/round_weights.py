"""Rounds weights so that products change least, not so that each weight changes least."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.lib.stride_tricks import sliding_window_view

from rubicc.ir.graph import MADE_BY_KEY, Graph
from rubicc.passes.quantize.insert import channel_axis, quantisable, weight_scale
from rubicc.passes.registry import Pass, register
from rubicc.passes.rewrite import Editor, constant, is_standard

DAMPING = 0.01  # of the mean variance: inputs that were never seen apart must not decide
ROWS_PER_WEIGHT, LEAST_ROWS = 4, 4096  # positions of the calibration data that are looked at
BLOCK_BYTES = 256 * 2**20  # covariances held at the same time
COLUMNS = 128  # inputs whose errors are handed on together
Choose = Callable[[slice, np.ndarray, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class RoundOptions:
    """Calibration data and format.

    Attributes:
        inputs: arrays seen at the inputs of products, by value name.
        bits: of the weights, signed and narrow: 8 = -127 to 127.
        skip: names of nodes that stay in float.
    """

    inputs: Mapping[str, Sequence[np.ndarray]] = field(default_factory=dict)
    bits: int = 8
    skip: frozenset[str | None] = frozenset()


@register
class RoundWeights(Pass):
    """Moves weights onto their grid one input after the other; those still to come make up for the error.

    Each output channel's error ``E[((W - Q)(x - E[x]))^2]`` is a quadratic form in the covariance of what the
    product reads. Rounding a weight, the best change of the free ones follows from the inverse covariance
    (optimal brain surgeon; Frantar et al., "GPTQ", 2022). The mean's part goes into the bias. The
    largest weight of a channel stays the largest, so the scale does too.

    ::

        before   x -> Conv(W, b)              after   x -> Conv(s * Q, b + (W - s * Q) E[x])
    """

    id = "quantize.round-weights"
    exact = False
    tolerance = 0.1
    ensures = frozenset({"bias-corrected"})
    Options = RoundOptions
    options: RoundOptions

    def run(self, graph: Graph) -> bool:
        """See :class:`Pass`."""
        edit = Editor(graph, self.id)
        changed = False
        for node in graph.nodes:
            x = node.inputs[0] if node.inputs else None
            seen = self.options.inputs.get(x.name or "") if x is not None else None
            wanted = is_standard(node, "Conv", "MatMul", "Gemm") and node.name not in self.options.skip
            done = node.metadata_props.get(MADE_BY_KEY) == self.id
            if seen and wanted and not done and quantisable(node) and bias_is_known(node):
                changed |= self._round(edit, node, seen)
        return changed

    def _round(self, edit: Editor, node: ir.Node, seen: Sequence[np.ndarray]) -> bool:
        weight = constant(node.inputs[1])
        if weight is None or (node.op_type != "Conv" and weight.ndim != 2):
            return False
        x = multiplied(node, weight, seen)
        if x is None:
            return False
        rows = as_rows(node, weight, x.shape[0])
        limit = 2 ** (self.options.bits - 1) - 1
        scale = as_rows(
            node, np.broadcast_to(weight_scale(weight, channel_axis(node), limit), weight.shape), len(x)
        )
        chosen = rounded(rows, scale[:, :, :1], x, limit)
        lost = ((rows - chosen) @ x.mean(axis=2, keepdims=True)).reshape(-1)
        edit_weight = from_rows(node, chosen, weight)
        node.replace_input_with(1, edit.initializer(f"{node.name}_rounded", edit_weight))
        self._bias(edit, node, lost)
        edit.mark(node)
        return True

    def _bias(self, edit: Editor, node: ir.Node, lost: np.ndarray) -> None:
        if node.op_type == "MatMul":
            return  # its bias is another node's; the mean error stays
        old = constant(node.inputs[2]) if len(node.inputs) > 2 else None
        total = lost if old is None else old.astype(np.float64) + lost
        value = edit.initializer(f"{node.name}_bias", np.asarray(total, np.float32))
        if len(node.inputs) < 3:
            node.resize_inputs(3)
        node.replace_input_with(2, value)


def rounded(weight: np.ndarray, scale: np.ndarray, x: np.ndarray, limit: int) -> np.ndarray:
    """Weights on the grid that change ``weight @ x`` least; the mean of ``x`` does not count.

    Args:
        weight: (groups, outputs, K), float.
        scale: (groups, outputs, 1), grid steps.
        x: (groups, K, positions), what the weights are multiplied with.
        limit: largest magnitude on the grid.

    Returns:
        Float64 ``scale * integers`` of the shape of ``weight``.
    """
    size = np.abs(weight)
    peaks, signs = size >= size.max(axis=2, keepdims=True), np.sign(weight)

    def choose(part: slice, column: np.ndarray, which: np.ndarray) -> np.ndarray:
        step, rows = scale[part, :, 0].astype(np.float64), np.arange(len(which))
        grid = np.clip(np.rint(column / step), -limit, limit)
        grid = np.where(peaks[part][rows, :, which], limit * signs[part][rows, :, which], grid)
        return grid * step

    return compensated(weight, x, choose)


def compensated(weight: np.ndarray, x: np.ndarray, choose: Choose, *, centred: bool = True) -> np.ndarray:
    """Weights of a kind that change ``weight @ x`` least, chosen one after the other.

    Args:
        weight: (groups, outputs, K), float.
        x: (groups, K, positions), what the weights are multiplied with.
        choose: what weights become: given the groups at hand, their weights (groups, outputs) as they are
            when their turn has come, and which of the K they are (groups,).
        centred: changes that are the same at all positions do not count.

    Returns:
        Float64 of the shape of ``weight``.
    """
    out = np.empty(weight.shape)
    step = max(1, BLOCK_BYTES // (16 * weight.shape[2] ** 2))
    for at in range(0, len(weight), step):
        part = slice(at, min(at + step, len(weight)))
        out[part] = _compensated_block(part, weight[part].astype(np.float64), x[part], choose, centred)
    return out


def _compensated_block(
    part: slice, weight: np.ndarray, x: np.ndarray, choose: Choose, centred: bool
) -> np.ndarray:
    seen = x.astype(np.float64)
    if centred:
        seen -= x.mean(axis=2, keepdims=True, dtype=np.float64)
    covariance = seen @ seen.transpose(0, 2, 1) / x.shape[2]
    diagonal = np.einsum("gkk->gk", covariance)
    damping = DAMPING * diagonal.mean(axis=1, keepdims=True)
    diagonal += np.where(damping > 0, damping, 1.0)
    # Inputs that vary most first: the errors they leave are made up for by all others.
    order = np.argsort(-diagonal, axis=1, kind="stable")
    back = np.argsort(order, axis=1)
    groups = np.arange(len(weight))[:, None]
    covariance = covariance[groups[:, :, None], order[:, :, None], order[:, None, :]]
    upper = np.linalg.cholesky(np.linalg.inv(covariance)).transpose(0, 2, 1)
    free = np.take_along_axis(weight, order[:, None, :], axis=2)
    made = np.empty_like(free)
    for start in range(0, free.shape[2], COLUMNS):
        stop = min(start + COLUMNS, free.shape[2])
        errors = np.empty((*free.shape[:2], stop - start))
        for k in range(start, stop):
            made[:, :, k] = choose(part, free[:, :, k], order[:, k])
            error = (free[:, :, k] - made[:, :, k]) / upper[:, None, k, k]
            errors[:, :, k - start] = error
            free[:, :, k + 1 : stop] -= error[:, :, None] * upper[:, None, k, k + 1 : stop]
        free[:, :, stop:] -= errors @ upper[:, start:stop, stop:]  # the rest of the inputs, all at once
    return np.take_along_axis(made, back[:, None, :], axis=2)


def multiplied(node: ir.Node, weight: np.ndarray, seen: Sequence[np.ndarray]) -> np.ndarray | None:
    """What each group's weights multiply, (groups, K, positions); ``None`` where that is not known.

    Args:
        seen: arrays at the product's input.
    """
    most = max(LEAST_ROWS, ROWS_PER_WEIGHT * weight[0].size) // len(seen)
    columns = [part for array in seen if (part := read_by(node, weight, array, most)) is not None]
    return np.concatenate(columns, axis=2) if len(columns) == len(seen) else None


def read_by(node: ir.Node, weight: np.ndarray, x: np.ndarray, most: int) -> np.ndarray | None:
    """What each group's weights multiply, (groups, K, positions); ``None`` where that is not known.

    Args:
        most: positions wanted; of more, about so many are taken, evenly spread.
    """
    if node.op_type != "Conv":
        rows = np.asarray(x, np.float32).reshape(1, -1, x.shape[-1])
        return rows[:, :: max(1, rows.shape[1] // most)].transpose(0, 2, 1)
    dims = weight.ndim - 2
    if node.attributes.get_string("auto_pad", "NOTSET") != "NOTSET":
        return None
    pads = node.attributes.get_ints("pads", [0] * 2 * dims)
    strides = node.attributes.get_ints("strides", [1] * dims)
    dilations = node.attributes.get_ints("dilations", [1] * dims)
    groups = node.attributes.get_int("group", 1)
    padded = np.pad(x, [(0, 0), (0, 0), *((pads[i], pads[dims + i]) for i in range(dims))])
    spans = tuple(d * (k - 1) + 1 for d, k in zip(dilations, weight.shape[2:], strict=True))
    # (N, C, places..., 1, 1, taps...)
    seen = sliding_window_view(padded, (1, 1, *spans)).squeeze((2 + dims, 3 + dims))
    places = tuple(range(2, 2 + dims))
    taps = tuple(range(2 + dims, 2 + 2 * dims))
    taken: tuple[Any, ...] = (
        slice(None),
        slice(None),
        *(slice(None, None, s) for s in strides),
        *(slice(None, None, d) for d in dilations),
    )
    seen = seen[taken]
    thinned = max(1, len(x) * int(np.prod(seen.shape[2 : 2 + dims])) // most)
    fewer: tuple[Any, ...] = (..., slice(None, None, thinned), *[slice(None)] * dims)
    seen = seen[fewer]
    # to (groups, C / groups * taps, N * places)
    ordered = seen.transpose(1, *taps, 0, *places)
    return np.asarray(ordered, np.float32).reshape(groups, weight[0].size, -1)


def as_rows(node: ir.Node, weight: np.ndarray, groups: int) -> np.ndarray:
    """Weights as (groups, outputs, K)."""
    if channel_axis(node) != 0:
        weight = weight.T
    return weight.reshape(groups, weight.shape[0] // groups, -1)


def from_rows(node: ir.Node, rows: np.ndarray, like: np.ndarray) -> np.ndarray:
    """Rows back in the shape of the weight ``like``, float32: undoes :func:`as_rows`."""
    turned = channel_axis(node) != 0
    shape = like.T.shape if turned else like.shape
    weight = rows.reshape(shape)
    return np.ascontiguousarray(weight.T if turned else weight, dtype=np.float32)


def bias_is_known(node: ir.Node) -> bool:
    """Whether the bias, if any, is a constant with one number per output channel, added as it is."""
    if len(node.inputs) < 3 or node.inputs[2] is None:
        return node.op_type != "Gemm" or node.attributes.get_float("alpha", 1.0) == 1.0
    bias, weight = constant(node.inputs[2]), constant(node.inputs[1])
    plain = node.op_type != "Gemm" or (
        node.attributes.get_float("alpha", 1.0) == node.attributes.get_float("beta", 1.0) == 1.0
    )
    if bias is None or weight is None:
        return False
    return plain and bias.ndim == 1 and bias.size == weight.shape[channel_axis(node)]
