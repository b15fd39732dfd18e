"""``inspect``: the facts of a model or artefact, without compiling anything."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rubicc.driver.artefact import Artefact, is_artefact, open_artefact
from rubicc.settings import Settings

if TYPE_CHECKING:
    from rubicc.backends.base import Facts
    from rubicc.ir.graph import Graph
    from rubicc.spec import ModelMeta, TensorSpec


@dataclass(frozen=True)
class Inspection:
    """What a model is.

    Attributes:
        bound: the sizes at which MACs, BOPs and activation bytes are counted.
        bits: ``"weight x activation"`` bits -> MACs at them.
        receptive_field: input samples per output frame; ``None`` = unbounded, see the reason.
    """

    name: str
    kind: str
    sha256: str
    meta: ModelMeta | None
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    operators: Mapping[str, int]
    opset: int
    parameters: int
    macs: int
    bops: int
    weight_bytes: int
    activation_bytes: int | None
    bits: Mapping[str, int]
    receptive_field: int | None
    receptive_field_reason: str
    stride: int | None
    bound: Mapping[str, int]
    decisions: tuple[Any, ...] = ()


def inspect_model(model: Any, settings: Settings) -> Inspection:
    """Read and lower a model (or read an artefact back) and count.

    Raises:
        RubiccError: the model cannot be read or lowered.
    """
    from rubicc.driver.compile import read_source
    from rubicc.frontend.lower import lower

    if isinstance(model, str | Path) and is_artefact(model):
        artefact = open_artefact(model)
        graph = artefact.backend.readback(artefact.folder / artefact.backend.folder)
        facts = artefact.manifest
        if graph is None:
            return _inspect_files(artefact)
        return _inspect(graph, facts.model["name"], "artefact", facts.inputs["model"], facts.decisions)
    source = read_source(model, settings)
    lowered = lower(source, settings.inputs, settings.seed)
    return _inspect(lowered.graph, source.name, source.kind, source.sha256, tuple(lowered.decisions))


def _inspect_files(artefact: Artefact) -> Inspection:
    """Facts of an artefact whose files are no graph: its own, and costs as its report recorded them."""
    home = artefact.folder / artefact.backend.folder
    facts: Facts = artefact.backend.facts(home)  # type: ignore[attr-defined]
    bits: dict[str, int] = {}
    for row in artefact.report.layers:
        if row.macs:
            key = f"{row.weight_bits or 32}x{row.activation_bits or 32}"
            bits[key] = bits.get(key, 0) + row.macs
    meta = facts.meta
    return Inspection(
        name=artefact.manifest.model["name"],
        kind="artefact",
        sha256=artefact.manifest.inputs["model"],
        meta=meta,
        inputs=facts.inputs,
        outputs=facts.outputs,
        operators=facts.operators,
        opset=facts.opset,
        parameters=sum(row.params for row in artefact.report.layers),
        macs=sum(bits.values()),
        bops=sum(macs * math.prod(map(int, key.split("x"))) for key, macs in bits.items()),
        weight_bytes=facts.weight_bytes,
        activation_bytes=facts.activation_bytes,
        bits=bits,
        receptive_field=meta.receptive_field if meta else None,
        receptive_field_reason="" if meta and meta.receptive_field else "not recorded",
        stride=meta.stride if meta else None,
        bound={},
        decisions=artefact.manifest.decisions,
    )


def _inspect(graph: Graph, name: str, kind: str, sha256: str, decisions: tuple[Any, ...]) -> Inspection:
    from rubicc.frontend.feeds import TOKEN_SIZES
    from rubicc.ir.costs import costs
    from rubicc.ir.graph import spec_of
    from rubicc.ir.receptive import receptive_field

    inputs = tuple(spec_of(value) for value in graph.inputs)
    length = graph.meta.chunk if graph.meta and graph.meta.chunk else TOKEN_SIZES[0] * 100
    bound = {
        dim: 1 if axis == 0 else length
        for spec in inputs
        for axis, dim in enumerate(spec.shape)
        if isinstance(dim, str)
    }
    found = costs(graph, bound)
    field = receptive_field(graph)
    bits: dict[str, int] = {}
    for row in found.rows:
        if row.macs:
            key = f"{row.weight_bits or 32}x{row.activation_bits or 32}"
            bits[key] = bits.get(key, 0) + row.macs
    return Inspection(
        name=name,
        kind=kind,
        sha256=sha256,
        meta=graph.meta,
        inputs=inputs,
        outputs=tuple(spec_of(value) for value in graph.outputs),
        operators=graph.op_counts(),
        opset=graph.opset,
        parameters=found.params,
        macs=found.macs,
        bops=found.bops,
        weight_bytes=found.weight_bytes,
        activation_bytes=found.activation_bytes,
        bits=bits,
        receptive_field=field.samples,
        receptive_field_reason=field.reason,
        stride=field.stride,
        bound=bound,
        decisions=decisions,
    )
