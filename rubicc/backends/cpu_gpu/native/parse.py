"""An ONNX graph as primitive operations, or the reasons why it cannot be."""

from __future__ import annotations

import onnx_ir as ir

from rubicc.backends.cpu_gpu.native import read_elementwise, read_layers, read_shapes
from rubicc.backends.cpu_gpu.native.operations import Frames, Parsed
from rubicc.backends.cpu_gpu.native.reader import Held, Read, Reader, Unknown
from rubicc.ir.graph import Graph, op_key

OLDEST_OPSET = 13  # before, some operators meant something else by the same attributes

READERS: dict[str, Read] = {
    "Add": read_elementwise.add,
    "Clip": read_elementwise.clip,
    "Concat": read_shapes.concat,
    "Conv": read_layers.conv,
    "DequantizeLinear": read_layers.dequantize,
    "GRU": read_layers.recurrent("GRU"),
    "Gather": read_shapes.gather,
    "Gelu": read_elementwise.gelu,
    "Identity": read_shapes.identity,
    "LSTM": read_layers.recurrent("LSTM"),
    "LogSoftmax": read_layers.log_softmax,
    "MatMul": read_layers.matmul,
    "Mul": read_elementwise.multiply,
    "Pad": read_shapes.pad,
    "QuantizeLinear": read_layers.quantize,
    "Relu": read_elementwise.unary("relu"),
    "Reshape": read_shapes.reshape,
    "Shape": read_shapes.shape,
    "Sigmoid": read_elementwise.unary("sigmoid"),
    "Slice": read_shapes.slice_,
    "Squeeze": read_shapes.squeeze,
    "Swish": read_elementwise.unary("silu"),
    "Tanh": read_elementwise.unary("tanh"),
    "Transpose": read_shapes.transpose,
    "Unsqueeze": read_shapes.unsqueeze,
}


def parse(graph: Graph) -> Parsed:
    """Read ``graph``; ``reasons`` of the result is empty when all of it was understood."""
    reader = Reader(graph)
    if _interface(reader):
        for node in graph.nodes:
            _read(reader, node)
        _output(reader)
    else:
        for node in graph.nodes:
            if op_key(node) not in READERS:
                reader.problem(f"operator {op_key(node)}", node)
    reader.out.reasons = tuple(reader.problems)
    return reader.out


def _interface(p: Reader) -> bool:
    """One input and one output, signal or features over time."""
    graph = p.graph
    if graph.opset < OLDEST_OPSET:
        p.problem(f"ONNX operators of version {graph.opset} (the oldest known is {OLDEST_OPSET})")
    if len(graph.inputs) != 1 or len(graph.outputs) != 1:
        p.problem(f"networks with {len(graph.inputs)} inputs and {len(graph.outputs)} outputs")
        return False
    given, made = graph.inputs[0], graph.outputs[0]
    channels = given.shape[1] if given.shape is not None and len(given.shape) == 3 else None
    if not isinstance(channels, int) or given.dtype != ir.DataType.FLOAT:
        p.problem("inputs other than float32 (N, channels, T)")
        return False
    p.out.input, p.out.input_name, p.out.output_name = (
        p.new(channels, Frames()),
        given.name or "",
        made.name or "",
    )
    p.out.names[p.out.input] = p.out.input_name
    p.held[given] = Held(p.out.input, ("N", channels, "T"))
    return True


def _read(p: Reader, node: ir.Node) -> None:
    reader = READERS.get(op_key(node))
    try:
        if reader is None:
            raise Unknown(f"operator {op_key(node)}")
        if all(p.is_known(value) for value in node.inputs if value is not None):
            reader(p, node)  # else something before it is not understood, and is a reason already
    except Unknown as unknown:
        p.problem(str(unknown), node)


def _output(p: Reader) -> None:
    end = p.held.get(p.graph.outputs[0])
    if isinstance(end, Held):
        order = p.order(end)
        if order not in ("TNC", "NCT") or end.backwards or end.stored is not None:
            p.problem(f"an output with axes {order}{', frames reversed' if end.backwards else ''}")
        p.out.output, p.out.layout = end.value, "TNC" if order == "TNC" else "NCT"
    elif not p.problems:
        p.problem("an output that does not depend on the input")
