"""From a read model to a checked graph.

``lower`` exports, then executes the graph with rubicc's own executor at two shapes and compares with torch.
Success at the shape a model was traced with proves nothing: the dynamo exporter writes recurrent graphs that
are right at exactly that length, and the tracer bakes in every Python branch on a shape.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from rubicc.errors import ModelRefused, Unsupported, UsageError, VerificationFailed
from rubicc.evidence.decision import Decision
from rubicc.frontend.exact import pinned_double
from rubicc.frontend.feeds import SCALES, Feeds, draw, oppose, sizes
from rubicc.frontend.source import Source
from rubicc.ir.graph import Graph, is_quantiser, spec_of
from rubicc.spec import ModelMeta, TensorSpec
from rubicc.text import first_line

if TYPE_CHECKING:
    import onnx_ir
    import torch

# Largest accepted |graph - torch| relative to max(1, max|torch|): float32 reassociation through 100 layers
# measures about 1e-5; quantised graphs are compared in float64, where only real differences remain.
TOLERANCE = 2e-4
TOLERANCE_QUANTISED = 1e-5


@dataclass
class Lowered:
    """A graph that computes what its source computes, with the evidence.

    Attributes:
        graph: verified, shape-inferred, clean provenance.
        evidence: plain JSON values: exporter, per-shape gaps, seed.
        reference: the source itself: feeds to outputs by name (torch, or the untouched ONNX graph).
        exact: the source in float64 with the float32 scales of its quantisers: what rounding edges cannot
            disturb. The difference to ``reference`` is the source's own float32 noise.
        feeds: the inputs of the two-shape check.
        decisions: what lowering chose.
    """

    graph: Graph
    evidence: dict[str, Any]
    reference: Callable[[Feeds], dict[str, np.ndarray]]
    exact: Callable[[Feeds], dict[str, np.ndarray]]
    feeds: list[Feeds]
    decisions: list[Decision] = field(default_factory=list)


def lower(source: Source, inputs: Sequence[TensorSpec] = (), seed: int = 0) -> Lowered:
    """Lower ``source`` to a graph with symbolic batch and time, and prove it at two shapes.

    Args:
        inputs: overrides the source's own input specs (``--input``).
        seed: seeds the example inputs.

    Raises:
        UsageError: ``RUB-LOW-002`` when no input specs are known.
        ModelRefused: the exporter cannot express the model.
        VerificationFailed: ``RUB-LOW-010`` when graph and source differ at either shape.
    """
    from rubicc.ir.shapes import infer_shapes
    from rubicc.ir.verify import verify

    decisions = list(source.decisions)
    if source.graph is not None:
        graph = infer_shapes(_with_inputs(source.graph, inputs))
        try:
            verify(graph)
        except VerificationFailed as err:  # no pass has touched it yet: the file itself is wrong
            hint = "the model is not legal as it was given; mend it where it was made"
            raise ModelRefused(err.code, err.what, where=err.where, hint=hint) from err
        return _lowered_graph(graph, source, seed, decisions)
    specs = tuple(inputs) or (source.meta.inputs if source.meta else ()) or source.inputs
    if not specs:
        raise UsageError(
            "RUB-LOW-002",
            "the model does not say what its inputs are",
            where=source.name,
            hint="give them: --input x=Nx1xT:f32 (letters are symbolic dimensions)",
        )
    reference = _Reference(source, specs, seed)
    graph, exporter, extra = _export(source, reference)
    decisions += extra
    graph = infer_shapes(graph)
    verify(graph)
    evidence = {"exporter": exporter, "seed": seed, "shapes": [_compare(graph, reference, i) for i in (0, 1)]}
    return Lowered(graph, evidence, reference.named, reference.named_double, reference.feeds, decisions)


def _lowered_graph(graph: Graph, source: Source, seed: int, decisions: list[Decision]) -> Lowered:
    """An ONNX file is its own source: later stages are compared with the untouched graph."""
    from rubicc.ir.executor import execute

    untouched = graph.clone()
    specs = tuple(_input_spec(value) for value in graph.inputs)
    limits = _token_limits(specs, source.meta or graph.meta, [])
    feeds = [draw(specs, sizes(specs, i), seed + i, limits) for i in (0, 1)]
    double = np.dtype(np.float64)
    return Lowered(
        graph,
        {"exporter": "none", "source": "the ONNX graph itself", "seed": seed, "shapes": []},
        lambda given: execute(untouched, given),
        lambda given: execute(untouched, given, dtype=double),
        feeds,
        decisions,
    )


class _Reference:
    """The torch side of the check: example feeds at two shapes and the outputs torch gives for them."""

    def __init__(self, source: Source, specs: Sequence[TensorSpec], seed: int) -> None:
        self.name = source.name
        self.meta = source.meta
        self.program = source.program
        self.module = source.module if source.module is not None else source.program.module()  # type: ignore[union-attr]
        if source.module is not None:
            self.module.eval()
        self.specs = tuple(specs)
        self._double: torch.nn.Module | None = None
        limits = _integer_limits(self.module, self.specs, source.meta)
        error = Exception()
        for scale in SCALES:
            self.feeds = [draw(self.specs, sizes(self.specs, i, scale), seed + i, limits) for i in (0, 1)]
            oppose(*self.feeds)
            try:
                self.results = [self.run(feeds) for feeds in self.feeds]
                break
            except Exception as err:  # torch raises anything; too short an input is the usual cause
                error = err
        else:
            raise ModelRefused(
                "RUB-LOW-006",
                f"the model does not run on inputs of the declared form: {first_line(error, 300)}",
                where=source.name,
                hint="check --input: names in the order of forward(), shape and element type",
            ) from error
        self.outputs = _output_specs(self.specs, self.feeds, self.results, source.meta)

    def run(self, feeds: Feeds) -> list[np.ndarray]:
        """Outputs of the module in order."""
        return self._run(self.module, feeds)

    def run_double(self, feeds: Feeds) -> list[np.ndarray]:
        """Outputs of a float64 copy with the float32 scales of the module (see :mod:`.exact`)."""
        if self._double is None:
            self._double = pinned_double(self.module, lambda module: self._run(module, feeds))
        wide = {k: v.astype(np.float64) if v.dtype.kind == "f" else v for k, v in feeds.items()}
        return self._run(self._double, wide)

    def _run(self, module: Any, feeds: Feeds) -> list[np.ndarray]:
        import torch

        with torch.no_grad():
            result = module(*(torch.from_numpy(feeds[spec.name]) for spec in self.specs))
        return [np.asarray(t.detach().cpu().numpy()) for t in _flatten(result)]

    def named(self, feeds: Feeds) -> dict[str, np.ndarray]:
        """Outputs of the source by name."""
        return {spec.name: array for spec, array in zip(self.outputs, self.run(feeds), strict=True)}

    def named_double(self, feeds: Feeds) -> dict[str, np.ndarray]:
        """Float64 outputs of the source by name."""
        return {spec.name: array for spec, array in zip(self.outputs, self.run_double(feeds), strict=True)}


def _export(source: Source, ref: _Reference) -> tuple[Graph, str, list[Decision]]:
    from rubicc.frontend import export

    if ref.program is not None:
        proto = export.export_program(ref.program, ref.specs, ref.outputs)
        return export.to_graph(proto, source.meta or _generic_meta(ref), "program"), "dynamo", []
    meta = source.meta or _generic_meta(ref)
    root = type(ref.module).__name__
    try:
        proto = export.trace(ref.module, ref.specs, ref.feeds[0], ref.outputs)
        weights = {} if export.is_brevitas(ref.module) else export.parameters(ref.module)
        names = {spec.name for spec in ref.specs}
        weights = {name: array for name, array in weights.items() if name not in names}
        return export.to_graph(proto, meta, root, weights), "torchscript", []
    except ModelRefused as refused:
        if refused.code != "RUB-LOW-001" or export.is_recurrent(ref.module) or export.is_brevitas(ref.module):
            raise
        try:
            proto = export.export_program(ref.module, ref.specs, ref.outputs, ref.feeds[0])
        except ModelRefused:
            raise refused from None
        decision = Decision(
            "RUB-LOW-D01", source.name, "exported with the dynamo exporter", f"tracing failed: {refused.what}"
        )
        return export.to_graph(proto, meta, root), "dynamo", [decision]


def _compare(graph: Graph, ref: _Reference, which: int) -> dict[str, Any]:
    from rubicc.ir.executor import execute

    feeds = ref.feeds[which]
    quantised = any(map(is_quantiser, graph.all_nodes()))
    shapes = {name: list(array.shape) for name, array in feeds.items()}
    wanted = ref.run_double(feeds) if quantised else ref.results[which]
    tolerance = TOLERANCE_QUANTISED if quantised else TOLERANCE
    try:
        got = execute(graph, feeds, dtype=np.dtype(np.float64) if quantised else None)
    except (VerificationFailed, Unsupported):
        raise  # the latter: an operator that no reference kernel computes
    except Exception as err:
        raise VerificationFailed(
            "RUB-LOW-010",
            f"the lowered graph does not run at {shapes}: {str(err)[:300]}",
            where=ref.name,
            hint="the model's Python depends on the input's length; make it independent or give fixed shapes",
        ) from err
    rows = []
    for spec, want in zip(ref.outputs, wanted, strict=True):
        have = got[spec.name]
        worst = _worst(want, have)
        rows.append({"output": spec.name, "max_abs": worst[0], "relative": worst[1]})
        if not worst[1] <= tolerance:
            raise VerificationFailed(
                "RUB-LOW-010",
                f"output {spec.name!r} of the lowered graph differs from torch at {shapes}: {worst[2]}, "
                f"largest difference {worst[0]:.3g} ({worst[1]:.3g} of the range; at most {tolerance:g})",
                where=ref.name,
                hint="the model's Python depends on values or lengths; the exporter has baked one case in",
            )
    return {"feeds": shapes, "precision": "float64" if quantised else "float32", "outputs": rows}


def _worst(want: np.ndarray, have: np.ndarray) -> tuple[float, float, str]:
    if want.shape != have.shape:
        return float("inf"), float("inf"), f"shape {have.shape} instead of {want.shape}"
    if want.size == 0:
        return 0.0, 0.0, "empty"
    finite = np.isfinite(want)
    same = np.array_equal(want[~finite], have[~finite], equal_nan=True)
    if not same or not np.array_equal(finite, np.isfinite(have)):
        return float("inf"), float("inf"), "infinities or NaN in other places"
    gap = float(np.abs(want[finite].astype(np.float64) - have[finite]).max(initial=0.0))
    return gap, gap / max(1.0, float(np.abs(want[finite]).max(initial=0.0))), "values"


def _flatten(result: Any) -> list[torch.Tensor]:
    import torch

    if isinstance(result, torch.Tensor):
        return [result]
    items = result.values() if hasattr(result, "values") else result
    return [tensor for item in items if item is not None for tensor in _flatten(item)]


def _output_specs(
    inputs: Sequence[TensorSpec],
    feeds: Sequence[Feeds],
    results: Sequence[list[np.ndarray]],
    meta: ModelMeta | None,
) -> tuple[TensorSpec, ...]:
    """Names from the metadata; a dimension that differs between the two shapes is symbolic."""
    symbols = {
        (feeds[0][spec.name].shape[axis], feeds[1][spec.name].shape[axis]): dim
        for spec in inputs
        for axis, dim in enumerate(spec.shape)
        if isinstance(dim, str)
    }
    named = meta.outputs if meta and len(meta.outputs) == len(results[0]) else ()
    specs = []
    for index, (first, second) in enumerate(zip(results[0], results[1], strict=True)):
        name = named[index].name if named else ("y" if len(results[0]) == 1 else f"y{index}")
        shape = tuple(
            a if a == b else symbols.get((a, b), f"{name}_{axis}")
            for axis, (a, b) in enumerate(zip(first.shape, second.shape, strict=True))
        )
        specs.append(TensorSpec(name, shape, str(first.dtype)))
    return tuple(specs)


def _generic_meta(ref: _Reference) -> ModelMeta:
    return ModelMeta(arch="custom", inputs=ref.specs, outputs=ref.outputs)


def _integer_limits(
    module: torch.nn.Module, specs: Sequence[TensorSpec], meta: ModelMeta | None
) -> dict[str, int]:
    """Exclusive upper bounds for token inputs, so that the check also reaches rare embedding rows."""
    import torch

    tables = [sub.num_embeddings for sub in module.modules() if isinstance(sub, torch.nn.Embedding)]
    return _token_limits(specs, meta, tables)


def _token_limits(
    specs: Sequence[TensorSpec], meta: ModelMeta | None, tables: Sequence[int]
) -> dict[str, int]:
    vocab = int((meta.config if meta else {}).get("vocab_size", 0)) or max(tables, default=2)
    return {spec.name: vocab for spec in specs if spec.name in ("input_ids", "ids", "tokens", "x")}


def _input_spec(value: onnx_ir.Value) -> TensorSpec:
    if value.shape is None or value.dtype is None:
        raise UsageError(
            "RUB-LOW-002",
            f"graph input {value.name!r} has no shape or type",
            hint="give it: --input NAME=Nx1xT:f32",
        )
    return spec_of(value)


def _fits(value: onnx_ir.Value, spec: TensorSpec) -> None:
    """A declared rank or fixed dimension is a fact of the network; another one could only fail later."""
    if value.shape is None:
        return
    declared = tuple(dim if isinstance(dim, int) else str(dim.value or "?") for dim in value.shape)
    pairs = zip(declared, spec.shape, strict=False)
    if len(declared) != len(spec.shape) or any(isinstance(d, int) and d != given for d, given in pairs):
        raise UsageError(
            "RUB-LOW-007",
            f"--input gives {spec.name!r} the shape {'x'.join(map(str, spec.shape)) or 'scalar'}, the graph "
            f"declares {'x'.join(map(str, declared)) or 'scalar'}",
            hint="symbols may be renamed or fixed, the rest stays as it is",
        )


def _with_inputs(graph: Graph, inputs: Sequence[TensorSpec]) -> Graph:
    """Apply ``--input`` to an ONNX graph: names must exist, shapes replace the declared ones."""
    import onnx_ir

    if not inputs:
        return graph
    values = {value.name: value for value in graph.inputs}
    for spec in inputs:
        if spec.name not in values:
            raise UsageError(
                "RUB-LOW-007",
                f"--input names {spec.name!r}, which the graph does not have",
                hint=f"its inputs: {', '.join(sorted(str(name) for name in values))}",
            )
        _fits(values[spec.name], spec)
        values[spec.name].shape = onnx_ir.Shape(spec.shape)
    if graph.meta is not None:
        by_name = {spec.name: spec for spec in inputs}
        graph.meta = replace(graph.meta, inputs=tuple(by_name.get(s.name, s) for s in graph.meta.inputs))
    return graph
