"""Moves scale between the channels of a value and the weights that read it, so that 8 bits serve them all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from rubicc.ir.graph import Graph
from rubicc.passes.registry import Pass, register
from rubicc.passes.rewrite import Editor, constant, is_standard, only_use

DONE_KEY = "rubicc.equalised"
LARGEST = 8  # factors from 2^-8 to 2^8: beyond that a channel is as good as dead


@dataclass(frozen=True)
class EqualiseOptions:
    """What is known about the values.

    Attributes:
        peaks: largest magnitude per channel of the inputs of convolutions, by value name; without an entry
            the producer's weights stand for it.
        strength: 0 leaves everything to the weights, 1 makes all channels of a value equally large.
    """

    peaks: Mapping[str, np.ndarray] = field(default_factory=dict)
    strength: float = 0.5


@dataclass(frozen=True)
class Pair:
    """Two convolutions with nothing, or ReLUs, between them, and nobody else reading what lies between."""

    first: ir.Node
    second: ir.Node


@register
class Equalise(Pass):
    """Channel c of a value is divided by a factor, the weights that read it are multiplied by the factor.

    Factors are powers of two, so the network computes the same bits. Only through ReLU, which commutes with
    them: Nagel et al., "Data-free quantization through weight equalization and bias correction", 2019. With
    weights quantised per output channel the producer loses nothing; factors weigh the channel's range against
    the largest relative weight that reads it.

    ::

        before   Conv(A, b) -> Relu -> Conv(B)
        after    Conv(A / f, b / f) -> Relu -> Conv(B * f)
    """

    id = "quantize.equalise"
    ensures = frozenset({"equalised"})
    Options = EqualiseOptions
    options: EqualiseOptions

    def run(self, graph: Graph) -> bool:
        """See :class:`Pass`."""
        edit = Editor(graph, self.id)
        changed = False
        for pair in pairs(graph):
            if DONE_KEY in pair.second.metadata_props:
                continue
            factors = self._factors(pair)
            if np.any(factors != 1.0):
                _apply(edit, pair, factors)
                changed = True
        return changed

    def _factors(self, pair: Pair) -> np.ndarray:
        first, second = _weight(pair.first), _weight(pair.second)
        value = pair.second.inputs[0]
        peaks = self.options.peaks.get(value.name or "") if value is not None else None
        if peaks is None:
            peaks = np.abs(first).max(axis=tuple(range(1, first.ndim)))
        rows = np.abs(second).max(axis=tuple(range(1, second.ndim)), keepdims=True)
        read = _by_input(np.abs(second) / np.where(rows > 0, rows, 1.0), pair.second)
        alive = (peaks > 0) & (read > 0)
        exponents = np.zeros(len(peaks))
        exponents[alive] = self.options.strength * np.log2(peaks[alive])
        exponents[alive] -= (1.0 - self.options.strength) * np.log2(read[alive])
        if np.any(alive):
            exponents[alive] -= np.median(exponents[alive])
        return np.asarray(np.exp2(np.clip(np.rint(exponents), -LARGEST, LARGEST)), np.float32)


def pairs(graph: Graph) -> list[Pair]:
    """Every pair of ``graph``, in graph order of the second."""
    found = []
    for node in graph.nodes:
        value = node.inputs[0] if _is_conv(node) else None
        while value is not None and only_use(value) is not None:
            maker = value.producer()
            if maker is not None and _is_conv(maker):
                found.append(Pair(maker, node))
                break
            value = maker.inputs[0] if maker is not None and is_standard(maker, "Relu") else None
    return found


def _is_conv(node: ir.Node) -> bool:
    """A float convolution whose weights, and bias if any, are constants."""
    if not is_standard(node, "Conv"):
        return False
    weights = [constant(value) for value in node.inputs[1:] if value is not None]
    return len(weights) == sum(w is not None and w.dtype == np.float32 for w in weights) > 0


def _weight(node: ir.Node) -> np.ndarray:
    weight = constant(node.inputs[1])
    if weight is None:
        raise ValueError("the weights are no constant")
    return weight


def _by_input(magnitude: np.ndarray, node: ir.Node) -> np.ndarray:
    """Largest magnitude that reads each input channel."""
    groups = node.attributes.get_int("group", 1)
    by_group = magnitude.reshape(groups, -1, *magnitude.shape[1:])
    return np.asarray(by_group.max(axis=(1, *range(3, by_group.ndim))).reshape(-1))


def _apply(edit: Editor, pair: Pair, factors: np.ndarray) -> None:
    first, second = _weight(pair.first), _weight(pair.second)
    column = factors.reshape(-1, *[1] * (first.ndim - 1))
    pair.first.replace_input_with(1, edit.initializer(f"{pair.first.name}_weight", first / column))
    bias = constant(pair.first.inputs[2]) if len(pair.first.inputs) > 2 else None
    if bias is not None:
        pair.first.replace_input_with(2, edit.initializer(f"{pair.first.name}_bias", bias / factors))
    groups = pair.second.attributes.get_int("group", 1)
    per_group = factors.reshape(groups, 1, second.shape[1], *[1] * (second.ndim - 2))
    wide = second.reshape(groups, -1, *second.shape[1:]) * per_group
    value = edit.initializer(f"{pair.second.name}_weight", wide.reshape(second.shape))
    pair.second.replace_input_with(1, value)
    pair.second.metadata_props[DONE_KEY] = "1"
    edit.mark(pair.first)
    edit.mark(pair.second)
