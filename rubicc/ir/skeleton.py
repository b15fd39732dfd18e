"""A graph's proto without its weights: what can be shown to onnx's C++ code at any model size."""

from __future__ import annotations

import onnx
import onnx_ir as ir

from rubicc.ir.graph import Graph

_ANNOTATIONS = "quant_parameter_tensor_names"  # where onnx_ir keeps TensorAnnotation entries


def skeleton(graph: Graph) -> tuple[onnx.ModelProto, list[tuple[str, ir.TensorProtocol]]]:
    """The model's proto without initializers of the main graph, and those initializers by name.

    No weight is read or copied. Quantisation annotations of the initializers stay in the proto.
    """
    bare = graph.clone()
    values = [(n, v) for n, v in bare.ir.initializers.items() if v.const_value is not None]
    weights = [(name, value.const_value) for name, value in values if value.const_value is not None]
    bare.ir.initializers.clear()
    proto = bare.to_proto()
    for name, value in values:
        notes = value.meta.get(_ANNOTATIONS)
        if notes:
            entry = proto.graph.quantization_annotation.add(tensor_name=name)
            for key in sorted(notes):
                entry.quant_parameter_tensor_names.add(key=key, value=notes[key])
    return proto, weights
