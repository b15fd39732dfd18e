"""Convolutions and pooling over (N, C, T) become two-dimensional ones over (N, C, 1, T)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import onnx_ir as ir

from rubicc.ir.graph import Graph, is_quantiser, source_of
from rubicc.passes.ane.matching import BCS, MIN_OPSET, Channels, drop_unused
from rubicc.passes.ane.views import View, array_as_view
from rubicc.passes.layout.operands import quantised_alike
from rubicc.passes.registry import Pass, register
from rubicc.passes.rewrite import Editor, constant, is_constant, is_standard, nodes_of, rank

CONVOLUTIONS = ("Conv", "ConvTranspose")
POOLS = ("MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool")
_PER_AXIS = {"kernel_shape": 1, "strides": 1, "dilations": 1, "output_padding": 0, "output_shape": 1}
TIME = View.of(4, (0, 1, 3))  # (N, C, T) of (N, C, 1, T)


@register
class Conv1dToConv2d(Pass):
    """A convolution over time gets a second spatial axis of size 1; time stays last.

    ::

        x (N,C,T) -> Conv (M, C/g, k) -> y (N,M,T')
        becomes
        x -> Unsqueeze(2) -> Conv (M, C/g, 1, k) -> Squeeze(2) -> y
             (N,C,1,T)       pads (0,b,0,a), strides (1,s), dilations (1,d)

    The Neural Engine holds tensors as (N, C, 1, T) with time contiguous (Apple, "Deploying Transformers on
    the Apple Neural Engine", principle 1). Between neighbouring convolutions no view is made, and
    `ane.layout` carries norms, activations, residual additions and the final log-softmax, so that a
    convolutional network keeps one Unsqueeze at its beginning and the views its own output needs at its end.

    Transposed convolutions and pooling change in the same way. Weights are views of the same memory; behind
    a quantiser they stay behind it, and its scales get the new axis. ``auto_pad`` becomes explicit padding
    where the length, or a stride of 1, tells how much. Exact bit for bit: the sums are the same, in the same
    order.
    """

    id = "ane.conv1d-to-conv2d"
    requires = frozenset({"constants-are-initializers", "shapes"})
    ensures = frozenset({"time-last"})

    def run(self, graph: Graph) -> bool:
        """See :class:`Conv1dToConv2d`."""
        if graph.opset < MIN_OPSET:
            self.note(
                "graph", f"operator set {graph.opset} is older than {MIN_OPSET}: no convolution changed"
            )
            return False
        edit = Editor(graph, self.id)
        made = _Maker(edit, Channels(edit))
        changed = False
        for node in nodes_of(graph, *CONVOLUTIONS, *POOLS):
            if not node.inputs or rank(node.inputs[0]) != 3 or rank(node.outputs[0]) != 3:
                continue
            if node.graph is not graph.ir:
                self.note(source_of(node), f"{node.op_type} over time stays: it is inside a nested graph")
            elif any(value.uses() or value.is_graph_output() for value in node.outputs[1:]):
                self.note(source_of(node), f"{node.op_type} over time stays: its indices are used")
            else:
                made.replace(node)
                changed = True
        return changed


class _Maker:
    """Makes two-dimensional nodes; a weight that several nodes share is turned once."""

    def __init__(self, edit: Editor, channels: Channels) -> None:
        self._edit, self._channels = edit, channels
        self._weights: dict[ir.Value, ir.Value] = {}

    def replace(self, old: ir.Node) -> None:
        """Put a node over (N, C, 1, T) in the place of ``old``."""
        x = old.inputs[0]
        assert x is not None
        inputs: list[ir.Value | None] = [self._channels.enter(x, BCS, old)]
        if is_standard(old, *CONVOLUTIONS):
            weight = old.inputs[1]
            assert weight is not None
            inputs += [self._weight(weight, old), *old.inputs[2:]]
        result = old.outputs[0]
        dims: list[Any] = list(result.shape) if result.shape is not None else [None] * 3
        dims.insert(2, 1)
        made = self._edit.node(
            old.op_type,
            inputs,
            like=old,
            attributes=spatial_attributes(old),
            shape=ir.Shape(dims),
            dtype=result.dtype,
        )
        self._channels.leave(made.outputs[0], result, BCS, old)
        drop_unused(self._edit, result)

    def _weight(self, value: ir.Value, conv: ir.Node) -> ir.Value:
        if value not in self._weights:
            self._weights[value] = self._turned(value, conv)
        return self._weights[value]

    def _turned(self, value: ir.Value, conv: ir.Node) -> ir.Value:
        array = constant(value)
        if array is not None:
            return self._edit.initializer(f"{value.name}_2d", array_as_view(array, TIME), conv.graph)
        node = value.producer()
        quantised = node is not None and (is_quantiser(node) or is_standard(node, "DequantizeLinear"))
        if node is None or not quantised or not all(is_constant(v) for v in node.inputs if v is not None):
            return self._channels.enter(value, BCS, conv)  # computed: its own Unsqueeze
        inputs: list[ir.Value | None] = []
        for place, setting in enumerate(node.inputs):
            stored = constant(setting)
            if setting is None or stored is None or (place and (stored.size == 1 or stored.ndim < 2)):
                inputs.append(setting)  # single numbers broadcast; a vector follows the attribute axis
                continue
            inputs.append(
                self._edit.initializer(f"{setting.name}_2d", array_as_view(stored, TIME), conv.graph)
            )
        first = inputs[0]
        assert first is not None and first.shape is not None
        made = quantised_alike(self._edit, node, inputs, first.shape, conv)
        turned = made.producer()
        if turned is not None and is_standard(turned, "DequantizeLinear"):
            axis = turned.attributes.get_int("axis", 1) % 3
            turned.attributes["axis"] = ir.AttrInt64("axis", 3 if axis == 2 else axis)
        return made


def spatial_attributes(node: ir.Node) -> Mapping[str, Any]:
    """Attributes of ``node`` (one spatial axis) with an axis of size 1 before it."""
    found: dict[str, Any] = {}
    for name, attribute in node.attributes.items():
        if name in _PER_AXIS:
            found[name] = [_PER_AXIS[name], *attribute.value]
        elif name == "pads":
            before, after = attribute.value
            found[name] = [0, before, 0, after]
        else:
            found[name] = attribute.value
    pads = _resolved(node)
    if pads is not None:
        found.pop("auto_pad")
        found["pads"] = [0, pads[0], 0, pads[1]]
    return found


def _resolved(node: ir.Node) -> tuple[int, int] | None:
    """What ``auto_pad`` comes to, where that does not depend on an unknown length."""
    mode = node.attributes.get_string("auto_pad", "NOTSET")
    if is_standard(node, "ConvTranspose") or mode == "NOTSET":
        return None
    kernel = node.attributes.get_ints("kernel_shape")
    weight = node.inputs[1] if len(node.inputs) > 1 else None
    taps = (
        kernel[0] if kernel else weight.shape[2] if weight is not None and weight.shape is not None else None
    )
    if mode == "VALID":
        return 0, 0
    if not isinstance(taps, int):
        return None
    stride = (node.attributes.get_ints("strides") or [1])[0]
    reach = (node.attributes.get_ints("dilations") or [1])[0] * (taps - 1)
    x = node.inputs[0]
    length = x.shape[-1] if x is not None and x.shape is not None else None
    if stride == 1:
        total = reach
    elif isinstance(length, int):
        total = max((-(-length // stride) - 1) * stride + reach + 1 - length, 0)
    else:
        return None
    small, large = total // 2, total - total // 2
    return (small, large) if mode == "SAME_UPPER" else (large, small)
