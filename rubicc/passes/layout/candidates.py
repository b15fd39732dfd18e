"""Which forms of the polyphase layout are worth measuring on a graph."""

from __future__ import annotations

from rubicc.ir.graph import Graph
from rubicc.passes.layout.geometry import is_conv1d, is_quantised
from rubicc.passes.layout.polyphase import Polyphase

Options = Polyphase.Options
# For a runtime of its own each: OpenVINO rows, ONNX Runtime planes; of integers, OpenVINO gather, ORT rows.
_FLOAT = (Options("rows"), Options("planes"), Options("rows", phases=4))
_INTEGER = (Options("gather"), Options("rows"), Options("gather", phases=4))


def candidates(graph: Graph) -> tuple[Polyphase.Options, ...]:
    """Options of ``layout.polyphase`` that would change ``graph``, the best guess first; at most three.

    Args:
        graph: with shapes; left as it is. Quantised means that some convolution's weights are.
    """
    quantised = any(is_conv1d(node) and is_quantised(node) for node in graph.ir)
    return tuple(options for options in (_INTEGER if quantised else _FLOAT) if Polyphase(options).pays(graph))
