"""Everything between two channels-first values becomes channels first as well."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir

from rubicc.ir.graph import Graph
from rubicc.passes.ane.matching import (
    BCS,
    FORMS,
    MIN_OPSET,
    SINGLE,
    Channels,
    Form,
    axes_of,
    data_inputs,
    drop_unused,
    entered,
    inside,
    is_elementwise,
)
from rubicc.passes.registry import Pass, register
from rubicc.passes.rewrite import Editor, can_replace_output, constant, is_constant, is_standard, rank

AXES_INPUT = 18  # operator set from which reductions take their axes as an input
_REDUCTIONS = ("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceL2", "ReduceSumSquare")
_ALONG_AXIS = ("Softmax", "LogSoftmax", "Concat", "Split")


@register
class Layout(Pass):
    """Operators between views of (B, C, 1, S) work on (B, C, 1, S) themselves.

    ::

        x (B,C,1,S) -> Squeeze -> Transpose -> Add(b (C,)) -> Softmax(-1) -> Transpose -> Unsqueeze -> z
        becomes
        x -> Add(b (1,C,1,1)) -> Softmax(1) -> z

    Carries element-by-element operators (quantisers too), normalisation by channel, softmax, reductions,
    Concat, Split, Slice, and the choice of one position of the sequence. Constants are turned as views. A
    residual sum is carried where its other side is, or has already been made, channels first. In the end a
    view stands only where the sequence comes in, where it goes out, and next to an operator not listed here.
    """

    id = "ane.layout"
    requires = frozenset({"constants-are-initializers", "shapes"})
    ensures = frozenset({"channels-first"})
    tolerance = 1e-6  # sums along another axis may be added up in another order

    def run(self, graph: Graph) -> bool:
        """See :class:`Layout`."""
        if graph.opset < MIN_OPSET:
            self.note("graph", f"operator set {graph.opset} is older than {MIN_OPSET}: no layout change")
            return False
        edit = Editor(graph, self.id)
        channels, changed = Channels(edit), False
        for node in graph.nodes:
            if node.graph is not None:
                changed |= Carried(edit, channels, node).rewrite()
        return changed


@dataclass
class Carried:
    """One node, and its rewriting where it can be carried."""

    edit: Editor
    channels: Channels
    node: ir.Node

    def rewrite(self) -> bool:
        """Whether the node now works on (B, C, 1, S)."""
        node = self.node
        if is_standard(node, "Shape"):
            return self._shape()
        if is_standard(node, "Unsqueeze"):
            return self._meet()
        data = data_inputs(node)
        form = self._form(data)
        if form is None:
            return False
        rule = self._rule()
        return rule is not None and rule(form, data)

    def _rule(self) -> Callable[[Form, list[ir.Value]], bool] | None:
        node = self.node
        if is_elementwise(node):
            return self._elementwise
        if is_standard(node, "BatchNormalization"):
            return self._by_channel
        if is_standard(node, *_ALONG_AXIS):
            return self._along_axis
        if is_standard(node, *_REDUCTIONS):
            return self._reduction
        if is_standard(node, "Slice"):
            return self._slice
        return self._position if is_standard(node, "Gather") else None

    def _form(self, data: Sequence[ir.Value]) -> Form | None:
        """The form in which some input is a view, all others being there or cheap to bring."""
        seen = [form for form in FORMS if any(inside(v, form) is not None for v in data)]
        for form in seen:
            if all(entered(v, form) is not None for v in data):
                return form
        return None

    def _meet(self) -> bool:
        """A way in that reads a way out goes, whatever Transposes stand between as long as they cancel."""
        node, value = self.node, self.node.inputs[0]
        source = inside(value, BCS) if value is not None and axes_of(node) == [SINGLE] else None
        if source is None or not can_replace_output(node.outputs[0], source):
            return False
        self.edit.replace_value(node.outputs[0], source)
        self._finish()
        return True

    def _shape(self) -> bool:
        """Dimensions of a view are those of the value behind it, in another order."""
        node, value = self.node, self.node.inputs[0]
        if value is None or "start" in node.attributes or "end" in node.attributes:
            return False
        form = self._form([value])
        source = inside(value, form) if form is not None else None
        if form is None or source is None:
            return False
        whole = self.edit.node("Shape", [source], like=node, shape=ir.Shape([4]), dtype=ir.DataType.INT64)
        places = self.channels.numbers("places", [form.axis(axis) for axis in range(3)])
        dims = self.edit.node(
            "Gather", [whole.outputs[0], places], like=node, shape=ir.Shape([3]), dtype=ir.DataType.INT64
        )
        self.edit.replace_value(node.outputs[0], dims.outputs[0])
        self._finish()
        return True

    def _elementwise(self, form: Form, data: list[ir.Value]) -> bool:
        node = self.node
        if any(rank(v) != 3 for v in (*data, *node.outputs)):
            return False
        inputs: list[ir.Value | None] = []
        for value in node.inputs:
            if value is None or value in data:
                inputs.append(None if value is None else entered(value, form))
            elif is_constant(value):
                turned = self.channels.constant(value, form)
                if turned is None:
                    return False
                inputs.append(turned)
            else:  # a computed bound of Clip, a computed scale of a quantiser
                return False
        self._replace(form, inputs, self._attributes())
        return True

    def _by_channel(self, form: Form, data: list[ir.Value]) -> bool:
        """Normalisation with constants for every channel, which is axis 1 on both sides or not at all."""
        if form.channel != 1 or len(data) != 1 or any(v.uses() for v in self.node.outputs[1:]):
            return False
        self._replace(form, [entered(data[0], form), *self.node.inputs[1:]], self._attributes())
        return True

    def _along_axis(self, form: Form, data: list[ir.Value]) -> bool:
        node = self.node
        default = 0 if is_standard(node, "Split") else -1
        axis = form.axis(node.attributes.get_int("axis", default))
        inputs: list[ir.Value | None] = [entered(v, form) for v in data]
        if is_standard(node, "Concat") and len(data) != len(node.inputs):
            return False
        if is_standard(node, "Split"):
            inputs += node.inputs[1:]
        self._replace(form, inputs, {**self._attributes(), "axis": axis})
        return True

    def _reduction(self, form: Form, data: list[ir.Value]) -> bool:
        node, axes = self.node, axes_of(self.node)
        if not axes or node.attributes.get_int("keepdims", 1) != 1:
            return axes is not None and self._pooled(form, data, axes)
        moved = sorted(form.axis(axis) for axis in axes)
        inputs, attributes = self._axes(entered(data[0], form), moved)
        self._replace(form, inputs, attributes)
        return True

    def _axes(self, value: ir.Value | None, axes: list[int]) -> tuple[list[ir.Value | None], dict[str, Any]]:
        attributes = {k: v for k, v in self._attributes().items() if k != "axes"} | {"keepdims": 1}
        if self.edit.graph.opset < AXES_INPUT and not is_standard(self.node, "ReduceSum"):
            return [value], attributes | {"axes": axes}
        return [value, self.channels.numbers("axes", axes)], attributes

    def _pooled(self, form: Form, data: list[ir.Value], axes: list[int]) -> bool:
        """A reduction over the sequence that leaves (B, C)."""
        if [axis % 3 for axis in axes] != [form.sequence] or form.batch > form.channel:
            return False
        inputs, attributes = self._axes(entered(data[0], form), [3])
        return self._one_position(inputs, attributes)

    def _position(self, form: Form, data: list[ir.Value]) -> bool:
        """One position of the sequence, as (B, C)."""
        node, place = self.node, constant(self.node.inputs[1])
        axis = node.attributes.get_int("axis", 0) % 3
        if place is None or place.ndim != 0 or axis != form.sequence or form.batch > form.channel:
            return False
        chosen = self.edit.initializer(f"{node.name}_place", place.reshape(1))
        return self._one_position([entered(data[0], form), chosen], {"axis": 3})

    def _one_position(self, inputs: list[ir.Value | None], attributes: dict[str, Any]) -> bool:
        """Make the node, whose result is (B, C, 1, 1), and its view (B, C)."""
        node, out = self.node, self.node.outputs[0]
        dims = list(out.shape) if out.shape is not None else [None] * 2
        made = self.edit.node(
            node.op_type,
            inputs,
            like=node,
            attributes=attributes,
            shape=ir.Shape([*dims, 1, 1]),
            dtype=out.dtype,
        )
        axes = self.channels.numbers("both", [2, 3])
        view = self.edit.node(
            "Squeeze", [made.outputs[0], axes], like=node, shape=ir.Shape(dims), dtype=out.dtype
        )
        self.edit.replace_value(out, view.outputs[0])
        self._finish()
        return True

    def _slice(self, form: Form, data: list[ir.Value]) -> bool:
        node = self.node
        given = [constant(v) for v in node.inputs[3:4]]
        if len(data) != 1 or len(given) != 1 or given[0] is None:
            return False
        axes = self.channels.numbers("axes", [form.axis(int(axis)) for axis in given[0].reshape(-1)])
        inputs = [entered(data[0], form), *node.inputs[1:3], axes, *node.inputs[4:]]
        self._replace(form, inputs, self._attributes())
        return True

    def _attributes(self) -> dict[str, Any]:
        return {name: attribute.value for name, attribute in self.node.attributes.items()}

    def _replace(self, form: Form, inputs: list[ir.Value | None], attributes: dict[str, Any]) -> None:
        """The same operator on ``inputs``, and a view of each of its results."""
        old = self.node
        made = ir.node(
            old.op_type, inputs, attributes, domain=old.domain, num_outputs=len(old.outputs),
            name=self.edit.fresh_node(old.name or old.op_type),
        )  # fmt: skip
        self.edit.stamp(made, old)
        made.metadata_props.update(
            {k: v for k, v in old.metadata_props.items() if k not in made.metadata_props}
        )
        assert old.graph is not None
        old.graph.insert_before(old, made)
        for result, out in zip(made.outputs, old.outputs, strict=True):
            dims: list[Any] = (
                [out.shape[axis] for axis in form.inward] if out.shape is not None else [None] * 3
            )
            result.name = self.edit.fresh(f"{out.name}_channels")
            result.shape, result.type = ir.Shape([*dims[:2], 1, dims[2]]), out.type
            if out.uses() or out.is_graph_output():
                self.channels.leave(result, out, form, old)
        self._finish()

    def _finish(self) -> None:
        for out in list(self.node.outputs):
            drop_unused(self.edit, out)
