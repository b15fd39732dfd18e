"""Large networks are proven without their source in memory: its outputs are computed first, then it goes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

import onnx_ir

from rubicc.ir.graph import Graph
from rubicc.ir.io import weight_bytes

if TYPE_CHECKING:
    from rubicc.driver.compile import Build

LARGE = 256 << 20  # bytes of weights, above what is compared in float64 (`proof.EXACT_MAX_PARAMETERS`)
_SMALL = 1 << 10  # constants up to this size stay


def let_go(build: Build) -> None:
    """Drop every reference to the source's weights; its outputs on the inputs of the proof are known.

    What remains of the graphs says names, types and shapes, for the report. A module that the caller owns
    is only forgotten here.
    """
    build.lowered.reference = build.lowered.exact = _gone
    build.source.module = build.source.program = None
    for graph in (build.graph, build.fp32, build.lowered.graph, build.source.graph):
        if graph is not None:
            _hollow(graph)


def can_go(build: Build) -> bool:
    """Whether the target can do without the source, and its weights are worth it.

    Networks of this size are compared with their source in the target's runtimes only.
    """
    return getattr(build.backend, "frees_source", False) and weight_bytes(build.lowered.graph) > LARGE


def _hollow(graph: Graph) -> None:
    for value in graph.ir.initializers.values():
        tensor = value.const_value
        if tensor is not None and tensor.nbytes > _SMALL:
            value.const_value = onnx_ir.LazyTensor(
                _gone, dtype=tensor.dtype, shape=onnx_ir.Shape(tensor.shape.numpy()), name=value.name
            )


def _gone(*_: Any) -> NoReturn:
    raise RuntimeError("the source of a large network is not kept while its artefact is proven")
