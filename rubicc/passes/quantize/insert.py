"""Puts 8-bit quantisers before products whose ranges are known."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import onnx_ir as ir

from rubicc.ir.graph import QONNX_DOMAIN, Graph
from rubicc.passes.quantize.quantiser import quantiser
from rubicc.passes.registry import Pass, register
from rubicc.passes.rewrite import Editor, constant, is_standard

PRODUCTS = ("Conv", "MatMul", "Gemm")
RECURRENT = ("GRU", "LSTM")
Recurrence = Literal["none", "weights", "inputs"]
BITS = 8
WEIGHT_LIMIT = 127  # narrow: -127 to 127, so that no product of extremes needs a special case
BIAS_LIMIT = 2.0**30


@dataclass(frozen=True)
class InsertOptions:
    """Formats of values by name: scale and zero point of unsigned 8 bit.

    Attributes:
        formats: a product whose input stands here is quantised, with its weights.
        outputs: also round these values (outputs of products and what joins them in sums).
        recurrent: of GRU and LSTM, ``weights`` are rounded to int8 per row, or ``inputs`` too where their
            formats are known.
        skip: names of nodes that stay in float.
        widths: bits of the weights by node name, 2 to 8; 8 where a node is not named.
    """

    formats: Mapping[str, tuple[float, int]] = field(default_factory=dict)
    outputs: Mapping[str, tuple[float, int]] = field(default_factory=dict)
    recurrent: Recurrence = "none"
    skip: frozenset[str | None] = frozenset()
    widths: Mapping[str, int] = field(default_factory=dict)


@register
class InsertQuantisers(Pass):
    """Quantisers before every product with a known input range, one per value, shared by those that read it.

    ::

        before   x -> Conv(W)                 after   x -> Quant(u8) -> Conv(Quant(W, s8 per channel))
                 x -> Add                             x -> Add
    """

    id = "quantize.insert"
    exact = False
    tolerance = 0.1
    ensures = frozenset({"quantised"})
    Options = InsertOptions
    options: InsertOptions

    def run(self, graph: Graph) -> bool:
        """See :class:`Pass`."""
        edit = Editor(graph, self.id)
        rounded: dict[ir.Value, ir.Value] = {}
        changed = False
        for node in graph.nodes:
            if node.name in self.options.skip:
                continue
            if is_standard(node, *PRODUCTS) and quantisable(node):
                scale = self._round_input(edit, node, rounded)
                if scale is not None:
                    bits = self.options.widths.get(node.name or "", BITS)
                    _round_weight(edit, node, 1, channel_axis(node), _bias_floor(node, scale), bits)
                    changed = True
            elif is_standard(node, *RECURRENT) and self.options.recurrent != "none" and recurrent_float(node):
                if self.options.recurrent == "inputs":
                    self._round_input(edit, node, rounded)
                for index in (1, 2):
                    _round_weight(edit, node, index, 1, bits=self.options.widths.get(node.name or "", BITS))
                changed = True
        for name, (scale, zero) in self.options.outputs.items():
            changed |= self._round_output(graph, edit, name, np.float32(scale), zero)
        graph.model.opset_imports.setdefault(QONNX_DOMAIN, 1)
        return changed

    def _round_input(self, edit: Editor, node: ir.Node, rounded: dict[ir.Value, ir.Value]) -> float | None:
        """One quantiser per value before all that want it; its scale, ``None`` when no format is known."""
        x = node.inputs[0]
        known = self.options.formats.get(x.name or "") if x is not None else None
        if x is None or known is None:
            return None
        scale, zero = known
        if x not in rounded:
            rounded[x] = quantiser(edit, node, x, scale, BITS, zero=zero, signed=False)
        node.replace_input_with(0, rounded[x])
        return scale

    def _round_output(self, graph: Graph, edit: Editor, name: str, scale: np.float32, zero: int) -> bool:
        """A quantiser behind a value, for all that read it."""
        found = [v for node in graph.nodes for v in node.outputs if v.name == name]
        if not found or found[0].is_graph_output():
            return False
        value, producer = found[0], found[0].producer()
        if producer is None or all(_is_quant(use.node) for use in value.uses()):
            return False
        users = [use for use in value.uses() if not _is_quant(use.node)]
        made = quantiser(edit, producer, value, scale, BITS, zero=zero, signed=False, after=True)
        for use in users:
            use.node.replace_input_with(use.idx, made)
        return True


def quantisable(node: ir.Node) -> bool:
    """A float product of a computed value and constant weights that are not quantised yet."""
    weight = constant(node.inputs[1])
    x = node.inputs[0]
    plain = weight is not None and weight.dtype == np.float32 and weight.ndim >= 2 and x is not None
    if not plain or node.attributes.get_int("transA", 0) == 1:
        return False
    return x is not None and constant(x) is None and not _is_quant(x.producer())


def recurrent_float(node: ir.Node) -> bool:
    """A GRU or LSTM whose weights are float constants."""
    arrays = [constant(node.inputs[index]) for index in (1, 2)]
    return all(array is not None and array.dtype == np.float32 for array in arrays)


def channel_axis(node: ir.Node) -> int:
    """Axis of the weights' output channels."""
    if node.op_type == "Conv" or node.attributes.get_int("transB", 0) == 1:
        return 0
    weight = constant(node.inputs[1])
    return 1 if weight is None else weight.ndim - 1


def weight_scale(weight: np.ndarray, axis: int, limit: int = WEIGHT_LIMIT) -> np.ndarray:
    """Scale per channel, in a shape that broadcasts against ``weight``, for integers up to ``limit``."""
    others = tuple(i for i in range(weight.ndim) if i != axis)
    peak = np.abs(weight).max(axis=others, keepdims=True)
    return np.asarray(np.where(peak > 0, peak, 1.0) / limit, np.float32)


def rounded_weight(weight: np.ndarray, axis: int) -> np.ndarray:
    """What the quantiser makes of ``weight``."""
    scale = weight_scale(weight, axis)
    return np.asarray(np.clip(np.rint(weight / scale), -WEIGHT_LIMIT, WEIGHT_LIMIT) * scale, np.float32)


def _is_quant(node: ir.Node | None) -> bool:
    return node is not None and node.domain == QONNX_DOMAIN and node.op_type in ("Quant", "IntQuant")


def _bias_floor(node: ir.Node, scale: float) -> np.ndarray | float:
    """Smallest weight scales with which the bias, counted in input scale x weight scale, fits an int32.

    It matters for channels whose weights are nearly nothing beside their bias.
    """
    bias = constant(node.inputs[2]) if len(node.inputs) > 2 else None
    return 0.0 if bias is None else np.abs(bias.astype(np.float64)) / (scale * BIAS_LIMIT)


def _round_weight(
    edit: Editor, node: ir.Node, index: int, axis: int, least: np.ndarray | float = 0.0, bits: int = BITS
) -> None:
    value = node.inputs[index]
    weight = constant(value)
    if value is None or weight is None:
        return
    scale = weight_scale(weight, axis) if bits == BITS else _narrow_scale(weight, axis, bits)
    if np.size(least) in (1, scale.size):
        floor = np.broadcast_to(np.reshape(least, -1), scale.size).reshape(scale.shape)
        scale = np.maximum(scale, floor.astype(np.float32))
    node.replace_input_with(index, quantiser(edit, node, value, scale, bits, signed=True, narrow=True))


def _narrow_scale(weight: np.ndarray, axis: int, bits: int) -> np.ndarray:
    """Scale per channel with the least squared error: few levels gain by clipping."""
    from rubicc.passes.quantize.weights import best_scale

    return best_scale(weight, tuple(i for i in range(weight.ndim) if i != axis), bits)
