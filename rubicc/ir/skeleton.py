"""A graph's proto without its weights: what can be shown to onnx's C++ code at any model size."""

from __future__ import annotations

import onnx
import onnx_ir as ir

from rubicc.ir.graph import Graph

_ANNOTATIONS = "quant_parameter_tensor_names"  # where onnx_ir keeps TensorAnnotation entries


def skeleton(graph: Graph) -> tuple[onnx.ModelProto, list[tuple[str, ir.TensorProtocol]]]:
    """The model's proto without initializers of the main graph, and those initializers by name.

    No weight is read or copied. Quantisation annotations of the initializers stay in the proto. The graph is
    without its initializers for a moment, so that it need not be copied.
    """
    initializers = graph.ir.initializers
    everything = dict(initializers)
    values = [(n, v) for n, v in everything.items() if v.const_value is not None]
    weights = [(name, value.const_value) for name, value in values if value.const_value is not None]
    initializers.clear()
    try:
        proto = graph.to_proto()
    finally:
        initializers.update(everything)
    for name, value in values:
        notes = value.meta.get(_ANNOTATIONS)
        if notes:
            entry = proto.graph.quantization_annotation.add(tensor_name=name)
            for key in sorted(notes):
                entry.quant_parameter_tensor_names.add(key=key, value=notes[key])
    return proto, weights
