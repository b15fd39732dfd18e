"""Lowers 8-bit QONNX quantisers to ONNX's own, from which runtimes make integer kernels."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from rubicc.evidence.decision import Decision
from rubicc.ir.graph import QONNX_DOMAIN, Graph
from rubicc.ir.ops.quant import levels
from rubicc.passes.quantize import bias_grid
from rubicc.passes.registry import Pass, register
from rubicc.passes.rewrite import Editor, constant


@register
class ToQdq(Pass):
    """Quant of 8 bits becomes QuantizeLinear + DequantizeLinear; of weights, integers + DequantizeLinear.

    Other widths, other roundings and zero points that are no integers stay for ``lower.expand-quant``. The
    values are those of the quantiser; only where ``x / scale`` lies exactly between two integers and the zero
    point is odd, ONNX, which rounds before adding it, takes the other one (calibration makes zero points
    even).

    ::

        before   x -> Quant -> Conv(Quant(W))
        after    x -> QuantizeLinear -> DequantizeLinear -> Conv(DequantizeLinear(W int8))
    """

    id = "quantize.to-qdq"
    exact = True
    tolerance = 1e-6
    ensures = frozenset({"qdq"})

    def run(self, graph: Graph) -> bool:
        """See :class:`Pass`."""
        edit = Editor(graph, self.id)
        changed = False
        moved = bias_grid.off_grid(graph)
        for node in list(graph.all_nodes()):
            if node.domain == QONNX_DOMAIN and node.op_type in ("Quant", "IntQuant"):
                changed |= self._lower(edit, node)
        if moved and changed:
            self.decisions.append(
                Decision(
                    "RUB-PASS-D05",
                    f"{len(moved)} products with quantised input and weights",
                    f"ONNX Runtime will round their biases, by at most {max(moved.values()):.2g}",
                    "it stores them as whole steps of input scale x weight scale; they are the model's own",
                )
            )
        return changed

    def _lower(self, edit: Editor, node: ir.Node) -> bool:
        value, out = node.inputs[0], node.outputs[0]
        numbers = [constant(v) for v in node.inputs[1:4]]
        mode = node.attributes.get_string("rounding_mode", "ROUND").upper()
        if value is None or any(array is None for array in numbers) or mode not in ("ROUND", "HALF_EVEN"):
            return False
        scale, zero, bits = (np.asarray(array) for array in numbers)
        signed, narrow = (bool(node.attributes.get_int(name, 1)) for name in ("signed", "narrow"))
        if bits.size != 1 or float(bits.reshape(())) != 8 or not np.array_equal(zero, np.rint(zero)):
            return False
        kind = np.int8 if signed else np.uint8
        weight = constant(value)
        if weight is None and (narrow or scale.size != 1 or zero.size != 1):
            return False
        axis = _axis(scale)
        if axis is None or (zero.size not in (1, scale.size)):
            return False
        step = edit.initializer(f"{node.name}_scale", _flat(scale))
        offset = np.array(np.broadcast_to(_flat(zero), _flat(scale).shape), kind)
        start = edit.initializer(f"{node.name}_zero", offset)
        attributes = {"axis": axis} if scale.size > 1 else {}
        if weight is not None:
            whole = levels(weight, scale, zero, bits, signed=signed, narrow=narrow, mode=mode).astype(kind)
            stored = edit.initializer(f"{value.name}_int8", whole)
        else:
            stored = edit.node(
                "QuantizeLinear", [value, step, start], like=node, shape=out.shape,
                dtype=ir.DataType.INT8 if signed else ir.DataType.UINT8,
            ).outputs[0]  # fmt: skip
        made = edit.node(
            "DequantizeLinear", [stored, step, start], like=node, attributes=attributes, shape=out.shape,
            dtype=ir.DataType.FLOAT,
        )  # fmt: skip
        edit.replace_value(out, made.outputs[0])
        edit.remove(node)
        return True


def _axis(scale: np.ndarray) -> int | None:
    """The axis along which ``scale`` varies: 0 when it does not, ``None`` when there are several."""
    wide = [i for i, size in enumerate(scale.shape) if size > 1]
    return wide[0] if len(wide) == 1 else None if wide else 0


def _flat(array: np.ndarray) -> np.ndarray:
    return np.asarray(array.reshape(-1) if array.size > 1 else array.reshape(()), np.float32)
