"""The reference executor: runs a graph in numpy, independent of every runtime rubicc emits for.

It exists so that lowering and passes are checked against something that shares no code with ONNX Runtime or
OpenVINO, and in float64, where a rewrite's own error can be told from float32 noise.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Literal

import numpy as np
import onnx_ir as ir

from rubicc.errors import RubiccError, Unsupported, UsageError, VerificationFailed
from rubicc.ir.graph import Graph, op_key, source_of
from rubicc.ir.ops import KERNEL_FAILURES, KERNELS, Call, carried

Array = np.ndarray
Keep = Collection[str] | Literal["all"] | None
Sink = Callable[[str, Array], None] | None


def execute(
    graph: Graph,
    feeds: Mapping[str, Array],
    *,
    dtype: np.dtype | type | None = None,
    keep: Keep = None,
    sink: Sink = None,
) -> dict[str, Array]:
    """Run ``graph`` on ``feeds``.

    Args:
        graph: a legal graph in topological order.
        feeds: one array per graph input, by name; floats are converted to the declared type.
        dtype: carry every floating tensor in this type (``np.float64``); ``None`` keeps declared types.
        keep: names of intermediate values (or ``"all"``) to return beside the outputs.
        sink: is given each kept value when it is made, instead of their being held and returned together.

    Returns:
        Outputs, and kept values, by name. Arrays may share memory with weights: do not write into them.

    Raises:
        UsageError: ``RUB-IR-003`` feeds do not fit the inputs, or a kept name does not exist.
        Unsupported: ``RUB-IR-001`` operators without a kernel, all of them listed.
        VerificationFailed: ``RUB-IR-002`` a node failed; ``where`` names it and its source.
    """
    refuse_unknown_ops(graph)
    run = _Run(graph, None if dtype is None else np.dtype(dtype), keep, sink)
    with np.errstate(all="ignore"):
        return run.main(feeds)


def refuse_unknown_ops(graph: Graph) -> None:
    """Raise ``RUB-IR-001`` listing every operator the executor has no kernel for."""
    missing = sorted({op_key(n) for n in graph.all_nodes() if (_domain(n), n.op_type) not in KERNELS})
    if missing:
        raise Unsupported(
            "RUB-IR-001",
            f"no reference kernel for {', '.join(missing)}",
            hint="export the model with standard operators; the graph cannot be verified with these",
        )


def _domain(node: ir.Node) -> str:
    return "" if node.domain == "ai.onnx" else node.domain


class _Run:
    """State of one execution: live arrays by value, and what must be kept."""

    def __init__(self, graph: Graph, float_dtype: np.dtype | None, keep: Keep, sink: Sink) -> None:
        self.graph = graph
        self.float_dtype = float_dtype
        self.keep, self.sink = keep, sink
        self.live: dict[ir.Value, Array] = {}
        self.kept: dict[str, Array] = {}

    def main(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Run the main graph."""
        for value, array in _checked_feeds(self.graph, feeds):
            self._store(value, carried(array, self.float_dtype))
        outputs = self._run_nodes(self.graph.ir)
        named = {value.name or "": array for value, array in zip(self.graph.outputs, outputs, strict=True)}
        self._require_kept()
        return self.kept | named

    def _require_kept(self) -> None:
        if self.keep is None or self.keep == "all" or self.sink is not None:
            return
        for name in self.keep:
            if name not in self.kept:
                value = self.graph.ir.initializers.get(name)
                if value is None:
                    raise UsageError("RUB-IR-003", f"no value named {name!r} to keep")
                self.kept[name] = self._fetch(value)

    def _run_nodes(self, body: ir.Graph) -> list[Array]:
        nodes = list(body)
        reads = [values_read(node) for node in nodes]
        last = {value: index for index, values in enumerate(reads) for value in values}
        results = set(body.outputs)
        for index, node in enumerate(nodes):
            self._run_node(node)
            for value in (*reads[index], *node.outputs):
                producer = value.producer()
                owner = value.graph if producer is None else producer.graph
                if owner is body and last.get(value, -1) <= index and value not in results:
                    self.live.pop(value, None)
        return [self._fetch(value) for value in body.outputs]

    def _run_node(self, node: ir.Node) -> None:
        inputs = [None if value is None else self._fetch(value) for value in node.inputs]
        opset = self.graph.model.opset_imports.get(node.domain, 1)
        call = Call(node, inputs, opset, self.float_dtype, self._run_body)
        try:
            result = KERNELS[(_domain(node), node.op_type)](call)
        except RubiccError:
            raise
        except KERNEL_FAILURES as err:
            shapes = ", ".join("-" if a is None else f"{a.dtype}{list(a.shape)}" for a in inputs)
            raise VerificationFailed(
                "RUB-IR-002",
                f"{op_key(node)} cannot run on ({shapes}): {err or type(err).__name__}",
                where=f"node {node.name!r} from {source_of(node)}",
            ) from err
        arrays = list(result) if isinstance(result, (list, tuple)) else [result]
        for value, array in zip(node.outputs, arrays, strict=False):
            if value.name:
                self._store(value, np.asarray(array))

    def _run_body(self, body: ir.Graph, inputs: Sequence[Array]) -> list[Array]:
        for value, array in zip(body.inputs, inputs, strict=True):
            self._store(value, array)
        return self._run_nodes(body)

    def _store(self, value: ir.Value, array: Array) -> None:
        self.live[value] = array
        if self.keep is not None and value.name and (self.keep == "all" or value.name in self.keep):
            if self.sink is None:
                self.kept[value.name] = array
            else:
                self.sink(value.name, array)

    def _fetch(self, value: ir.Value) -> Array:
        array = self.live.get(value)
        if array is not None:
            return array
        if value.const_value is None:
            raise VerificationFailed("RUB-IR-002", f"value {value.name!r} is read before it is computed")
        return carried(value.const_value.numpy(), self.float_dtype)


def values_read(node: ir.Node) -> list[ir.Value]:
    """Values a node reads, those captured by its nested graphs included."""
    values = [value for value in node.inputs if value is not None]
    for attribute in node.attributes.values():
        if attribute.is_ref():
            continue
        graphs = (
            [attribute.value]
            if attribute.type == ir.AttributeType.GRAPH
            else attribute.value
            if attribute.type == ir.AttributeType.GRAPHS
            else []
        )
        for body in graphs:
            values += [value for inner in body for value in values_read(inner)]
            values += list(body.outputs)
    return values


def _checked_feeds(graph: Graph, feeds: Mapping[str, Array]) -> list[tuple[ir.Value, Array]]:
    wanted = {value.name or "": value for value in graph.inputs}
    missing, unknown = sorted(set(wanted) - set(feeds)), sorted(set(feeds) - set(wanted))
    if missing or unknown:
        raise UsageError(
            "RUB-IR-003",
            f"inputs missing: {missing or 'none'}; unknown: {unknown or 'none'}",
            hint=f"the graph's inputs are {', '.join(wanted)}",
        )
    return [(value, _fitted(value, np.asarray(feeds[name]))) for name, value in wanted.items()]


def _fitted(value: ir.Value, array: Array) -> Array:
    declared = list(value.shape) if value.shape is not None else None
    if declared is not None and (
        len(declared) != array.ndim
        or any(isinstance(d, int) and d != n for d, n in zip(declared, array.shape, strict=True))
    ):
        raise UsageError(
            "RUB-IR-003",
            f"input {value.name!r} has shape {list(array.shape)}, declared [{', '.join(map(str, declared))}]",
        )
    if value.dtype is None:
        return array
    dtype = np.dtype(value.dtype.numpy())
    if dtype.kind != array.dtype.kind and not (array.dtype.kind in "iu" and dtype.kind in "iu"):
        raise UsageError("RUB-IR-003", f"input {value.name!r} has type {array.dtype}, declared {dtype}")
    return array.astype(dtype, copy=False)
