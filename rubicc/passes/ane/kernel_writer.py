"""Writes the narrow forms of a wide convolution."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from rubicc.ir.graph import is_quantiser
from rubicc.ir.shapes import dims_of
from rubicc.passes.ane.kernel_forms import Form, split, unpadded
from rubicc.passes.layout.geometry import operands, other_pads
from rubicc.passes.layout.operands import Fill, Stays, drop_unused, quantised_alike, rebuilt
from rubicc.passes.layout.phases import Geometry, fold, fold_weight, repeat_channels
from rubicc.passes.rewrite import Editor, constant, is_standard

END = 2**31 - 1
Dims = list[Any]


class KernelWriter:
    """Replaces convolutions of one graph; weights that several of them share are rearranged once."""

    def __init__(self, edit: Editor) -> None:
        self._edit = edit
        self._weights: dict[tuple[object, ...], ir.Value] = {}

    def write(self, node: ir.Node, geometry: Geometry, form: Form, limit: int) -> None:
        """Put ``form`` in the place of ``node``.

        Raises:
            Stays: its weights cannot be cut or rearranged; nothing has changed then.
        """
        if form.name == "phases":
            result = self._phases(node, geometry, form.parts)
        elif form.name == "tall":
            result = self._tall(node, geometry, split(geometry.taps, limit, geometry.dilation))
        else:
            result = self._sum(node, geometry, split(geometry.taps, limit, geometry.dilation))
        old = node.outputs[0]
        self._edit.replace_value(old, result)
        drop_unused(self._edit, old)

    def _sum(self, node: ir.Node, g: Geometry, parts: Sequence[int]) -> ir.Value:
        if self._same_padding(node):
            raise Stays("it pads its other axes by a rule")
        starts = np.cumsum([0, *parts])[:-1].tolist()
        weights = [self._taps(node, start, start + taps) for start, taps in zip(starts, parts, strict=True)]
        bias = list(node.inputs[2:3])
        padded = self._padded(node, g.before, g.after)
        total: ir.Value | None = None
        for start, taps, weight in zip(starts, parts, weights, strict=True):
            piece = self._cut(node, padded, g.dilation * start, g.dilation * (g.taps - taps - start))
            conv = self._conv(node, [piece, weight, *(bias if total is None else [])], [taps])
            total = conv if total is None else self._like_output(node, "Add", [total, conv])
        assert total is not None
        return total

    def _tall(self, node: ir.Node, g: Geometry, parts: Sequence[int]) -> ir.Value:
        rows, taps = len(parts), max(parts)

        def stacked(array: np.ndarray, fill: Fill) -> np.ndarray:
            return stack_taps(array, rows, taps, fill)

        weight = self._rearranged(node, 1, ("tall", rows, taps), stacked, _unchanged)
        padded = self._padded(node, g.before, g.after + g.dilation * (rows * taps - g.taps))
        step = g.dilation * taps
        pieces = [self._cut(node, padded, step * row, step * (rows - 1 - row)) for row in range(rows)]
        dims: Dims = list(dims_of(pieces[0]) or [None] * 4)
        dims[2] = rows
        tall = self._edit.node(
            "Concat", pieces, like=node, attributes={"axis": 2}, shape=ir.Shape(dims), dtype=padded.dtype
        ).outputs[0]
        return self._conv(node, [tall, weight, *node.inputs[2:3]], [rows, taps])

    def _phases(self, node: ir.Node, g: Geometry, count: int) -> ir.Value:
        """Whole steps of zeros before go to the middle convolution: its weights do not depend on them."""
        plain, wide = unpadded(g), count * g.stride

        def folded(array: np.ndarray, fill: Fill) -> np.ndarray:
            return np.expand_dims(fold_weight(array, plain, count, "cp", fill), 2)

        def repeated(array: np.ndarray, fill: Fill) -> np.ndarray:
            return repeat_channels(array, g.groups, count, "cp")

        key = ("phases", count, plain)
        inputs: list[ir.Value | None] = [None, self._rearranged(node, 1, key, folded, repeated)]
        if len(node.inputs) > 2 and node.inputs[2] is not None:
            inputs.append(self._rearranged(node, 2, key, repeated, repeated))
        x, y = node.inputs[0], node.outputs[0]
        assert x is not None
        batch, length = (dims_of(x) or (None,))[0], int((dims_of(x) or ())[-1] or 0)
        out = (length + g.excess) // g.stride + 1
        whole, rest = divmod(g.before, wide)
        steps, wanted = -(-(rest + length) // wide), -(-out // count)
        taps = fold(plain, count).taps
        after = max(0, wanted - steps - whole + taps - 1)
        made = steps + whole + after - taps + 1
        channels, results = g.groups * g.inputs, g.groups * g.outputs
        inputs[0] = self._made(
            node, "Conv", [x, self._identity(node, channels, wide, x.dtype)],
            [batch, channels * wide, 1, steps],
            _spatial(wide, wide, 1, rest, steps * wide - rest - length) | {"group": channels},
        )  # fmt: skip
        between = self._made(
            node, "Conv", inputs, [batch, results * count, 1, made],
            _spatial(taps, 1, 1, whole, after) | {"group": g.groups},
        )  # fmt: skip
        return self._made(
            node, "ConvTranspose", [between, self._identity(node, results, count, y.dtype)],
            [batch, results, 1, out],
            _spatial(count, count, 1, 0, made * count - out) | {"group": results},
        )  # fmt: skip

    def _made(
        self, node: ir.Node, op: str, inputs: list[ir.Value | None], dims: Dims, attributes: dict[str, Any]
    ) -> ir.Value:
        shape, dtype = ir.Shape(dims), node.outputs[0].dtype
        return self._edit.node(
            op, inputs, like=node, attributes=attributes, shape=shape, dtype=dtype
        ).outputs[0]

    def _identity(self, node: ir.Node, channels: int, phases: int, dtype: ir.DataType | None) -> ir.Value:
        """(channels * phases, 1, 1, phases): phase p of a channel is its p-th position of every step."""
        key = ("identity", channels, phases, dtype, node.graph)
        if key not in self._weights:
            kind = np.dtype(dtype.numpy()) if dtype is not None else np.dtype(np.float32)
            array = np.tile(np.eye(phases, dtype=kind), (channels, 1)).reshape(-1, 1, 1, phases)
            name = f"phases_{channels}x{phases}_identity"
            self._weights[key] = self._edit.initializer(name, array, node.graph)
        return self._weights[key]

    def _rearranged(
        self,
        node: ir.Node,
        place: int,
        key: tuple[object, ...],
        main: Callable[[np.ndarray, Fill], np.ndarray],
        channels: Callable[[np.ndarray, Fill], np.ndarray],
    ) -> ir.Value:
        value = node.inputs[place]
        whole = (value, node.graph, *key)
        if whole not in self._weights:
            found = operands(node)[place - 1]
            assert found is not None
            self._weights[whole] = rebuilt(self._edit, found, node, main, channels)
        return self._weights[whole]

    def _taps(self, node: ir.Node, first: int, end: int) -> ir.Value:
        """Weights of taps ``first`` to ``end``, quantised as they were."""
        value = node.inputs[1]
        assert value is not None
        key = (value, node.graph, "taps", first, end)
        if key not in self._weights:
            self._weights[key] = self._cut_weight(value, node, first, end)
        return self._weights[key]

    def _cut_weight(self, value: ir.Value, node: ir.Node, first: int, end: int) -> ir.Value:
        name, array = f"{value.name}_taps{first}", constant(value)
        if array is not None:
            return self._edit.initializer(name, np.ascontiguousarray(array[..., first:end]), node.graph)
        maker = value.producer()
        source = constant(maker.inputs[0]) if maker is not None and maker.inputs else None
        dims: Dims = list(dims_of(value) or ())
        if maker is None or source is None or not _cuts(maker, source.ndim):
            return self._cut(node, value, first, dims[-1] - end)
        inputs: list[ir.Value | None] = []
        for setting in maker.inputs:
            stored = constant(setting)
            along = stored is not None and stored.ndim and stored.shape[-1] == dims[-1] > 1
            if setting is None or stored is None or not along:
                inputs.append(setting)
                continue
            part = np.ascontiguousarray(stored[..., first:end])
            inputs.append(self._edit.initializer(f"{setting.name}_taps{first}", part, node.graph))
        dims[-1] = end - first
        return quantised_alike(self._edit, maker, inputs, ir.Shape(dims), node)

    def _padded(self, node: ir.Node, before: int, after: int) -> ir.Value:
        """The input of ``node`` with zeros along the last axis."""
        x = node.inputs[0]
        assert x is not None
        if not before and not after:
            return x
        dims: Dims = list(dims_of(x) or [None] * 4)
        edge = [0] * (len(dims) - 1)
        dims[-1] = dims[-1] + before + after if isinstance(dims[-1], int) else None
        pads = self._numbers(node, [*edge, before, *edge, after])
        return self._edit.node("Pad", [x, pads], like=node, shape=ir.Shape(dims), dtype=x.dtype).outputs[0]

    def _cut(self, node: ir.Node, value: ir.Value, start: int, rest: int) -> ir.Value:
        """``value`` without ``start`` positions at the begin and ``rest`` at the end of its last axis."""
        if not start and not rest:
            return value
        dims: Dims = list(dims_of(value) or [None] * 4)
        dims[-1] = dims[-1] - start - rest if isinstance(dims[-1], int) else None
        bounds = [self._numbers(node, [number]) for number in (start, -rest if rest else END, len(dims) - 1)]
        shape = ir.Shape(dims)
        return self._edit.node("Slice", [value, *bounds], like=node, shape=shape, dtype=value.dtype).outputs[
            0
        ]

    def _conv(self, node: ir.Node, inputs: list[ir.Value | None], kernel: Sequence[int]) -> ir.Value:
        """A convolution like ``node`` without padding in time; ``kernel`` replaces its last dims."""
        attributes = {
            name: attribute.value
            for name, attribute in node.attributes.items()
            if name in ("group", "strides", "dilations")
        }
        weight = inputs[1]
        shape = list(dims_of(weight) or ()) if weight is not None else []
        attributes["kernel_shape"] = [*shape[2 : len(shape) - len(kernel)], *kernel]
        others = other_pads(node)
        half = len(others) // 2
        attributes["pads"] = [*others[:half], 0, *others[half:], 0] if others else [0] * 4
        return self._like_output(node, "Conv", inputs, attributes)

    def _like_output(
        self,
        node: ir.Node,
        op: str,
        inputs: Sequence[ir.Value | None],
        attributes: dict[str, Any] | None = None,
    ) -> ir.Value:
        out = node.outputs[0]
        made = self._edit.node(op, inputs, like=node, attributes=attributes, shape=out.shape, dtype=out.dtype)
        return made.outputs[0]

    def _same_padding(self, node: ir.Node) -> bool:
        weight = node.inputs[1]
        dims = dims_of(weight) if weight is not None else None
        rule = node.attributes.get_string("auto_pad", "NOTSET") or "NOTSET"
        return rule.startswith("SAME") and any(dim != 1 for dim in (dims or ())[2:-1])

    def _numbers(self, node: ir.Node, numbers: Sequence[int]) -> ir.Value:
        key = ("numbers", tuple(numbers), node.graph)
        if key not in self._weights:
            array = np.asarray(numbers, np.int64)
            self._weights[key] = self._edit.initializer(f"{node.name}_numbers", array, node.graph)
        return self._weights[key]


def stack_taps(weight: np.ndarray, rows: int, taps: int, fill: Fill) -> np.ndarray:
    """``weight`` (M, C, 1, k) as (M, C, rows, taps), row by row; what is beyond k stands for zero."""
    whole = np.empty((*weight.shape[:2], rows * taps), weight.dtype)
    whole[...] = np.broadcast_to(np.asarray(fill, weight.dtype).reshape(-1), weight.shape[:1])[:, None, None]
    whole[..., : weight.shape[-1]] = weight[:, :, 0]
    return whole.reshape(*weight.shape[:2], rows, taps)


def _unchanged(array: np.ndarray, fill: Fill) -> np.ndarray:
    return array


def _cuts(maker: ir.Node, dims: int) -> bool:
    """Whether cutting what ``maker`` quantises is cutting its result."""
    if is_quantiser(maker):
        return True
    if not is_standard(maker, "DequantizeLinear") or maker.attributes.get_int("block_size", 0) != 0:
        return False
    scale = constant(maker.inputs[1])
    axis = maker.attributes.get_int("axis", 1) % dims
    return scale is not None and (scale.size == 1 or axis != dims - 1)


def _spatial(taps: int, stride: int, dilation: int, before: int, after: int) -> dict[str, Any]:
    """Attributes of a kernel of one row."""
    return {
        "kernel_shape": [1, taps],
        "strides": [1, stride],
        "dilations": [1, dilation],
        "pads": [0, before, 0, after],
    }
