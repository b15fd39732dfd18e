"""``torch.split`` and ``chunk`` as the dynamo exporter writes them, made plain.

::

    SplitToSequence(x, sizes) -> SequenceAt(0), SequenceAt(1)   =>   Split(x, sizes) -> first, second

Sequences are values no target has. The rewrite belongs to reading: the two-shape check judges its result.
"""

from __future__ import annotations

import numpy as np
import onnx_ir

from rubicc.ir.graph import Graph


def split_sequences(graph: Graph) -> None:
    """Replace every ``SplitToSequence`` whose parts are all picked by constant index; leave the others."""
    for node in graph.nodes:
        if node.op_type != "SplitToSequence" or node.domain:
            continue
        picks = [user for user, _ in node.outputs[0].uses()]
        indices = [_constant(pick.inputs[1]) if pick.op_type == "SequenceAt" else None for pick in picks]
        sizes = _sizes(node)
        if sizes is None or node.outputs[0].is_graph_output() or any(index is None for index in indices):
            continue
        made = onnx_ir.node(
            "Split",
            [node.inputs[0], _initializer(graph, f"{node.name}_sizes", sizes)],
            {"axis": node.attributes.get_int("axis", 0)},
            num_outputs=len(sizes),
            name=f"{node.name}_split",
        )
        for position, value in enumerate(made.outputs):
            value.name = f"{node.outputs[0].name}_{position}"
        made.metadata_props.update(node.metadata_props)
        graph.ir.insert_before(node, made)
        for pick, index in zip(picks, indices, strict=True):
            assert index is not None
            part = made.outputs[int(index.reshape(-1)[0])]
            old = pick.outputs[0]
            if old.is_graph_output():
                named, old.name = old.name, f"{old.name}_picked"
                keep = onnx_ir.node("Identity", [part], outputs=[onnx_ir.Value(name=named)])
                keep.metadata_props.update(pick.metadata_props)
                graph.ir.insert_before(pick, keep)
                part = keep.outputs[0]
                part.type, part.shape = old.type, old.shape
            old.replace_all_uses_with(part, replace_graph_outputs=True)
            graph.ir.remove(pick, safe=True)
        graph.ir.remove(node, safe=True)


def _sizes(node: onnx_ir.Node) -> np.ndarray | None:
    """Sizes of the parts, where they are constants (a scalar is the size of every part but the last)."""
    given = _constant(node.inputs[1]) if len(node.inputs) > 1 else None
    if given is None:
        return None
    if given.ndim == 1:
        return given.astype(np.int64)
    source = node.inputs[0]
    shape = source.shape if source is not None else None
    length = shape[node.attributes.get_int("axis", 0)] if shape is not None else None
    size = int(given)
    if not isinstance(length, int) or size < 1:
        return None
    return np.array([min(size, length - start) for start in range(0, length, size)], np.int64)


def _constant(value: onnx_ir.Value | None) -> np.ndarray | None:
    tensor = onnx_ir.convenience.get_const_tensor(value) if value is not None else None
    return None if tensor is None else tensor.numpy()


def _initializer(graph: Graph, name: str, array: np.ndarray) -> onnx_ir.Value:
    value = onnx_ir.Value(
        name=name,
        shape=onnx_ir.Shape(array.shape),
        type=onnx_ir.TensorType(onnx_ir.DataType.INT64),
        const_value=onnx_ir.Tensor(array, name=name),
    )
    graph.ir.register_initializer(value)
    return value
