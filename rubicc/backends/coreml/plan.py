"""From a prepared graph to a plan; nothing about this target is measured here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from rubicc.backends.base import Target
from rubicc.backends.coreml.description import (
    COREML,
    MAX_PARAMETERS,
    MIL,
    MIL_FP32,
    CoremlPlan,
    Example,
    Once,
    describe,
    package_name,
)
from rubicc.backends.coreml.session import on_macos
from rubicc.backends.coreml.tools import OPSETS, opset
from rubicc.errors import UsageError
from rubicc.ir.graph import Graph, spec_of
from rubicc.ir.io import weight_bytes
from rubicc.settings import COMPRESSED
from rubicc.shapes import Shapes, resolve_shapes

PRECISIONS = ("fp16", "fp32", "int8", *COMPRESSED)
RUNTIMES = ("auto", MIL, COREML)
# Integer arithmetic on 8-bit activations: MIL's quantize and dequantize.
SINCE = {"w8a8": "iOS17"}


def plan(
    graph: Graph,
    target: Target,
    *,
    precision: str = "fp16",
    shapes: Shapes | None = None,
    name: str = "Model",
    assets: Mapping[str, bytes] | None = None,
    example: Callable[[], Example] | None = None,
    strict: bool = False,
    **_: Any,
) -> CoremlPlan:
    """The plan for a prepared graph.

    The graph is lowered here, because what lowering decides belongs to the plan; ``emit`` writes the result.

    Args:
        shapes: of the inputs; ``None`` = as the graph has them, all fixed.
        strict: what the Neural Engine does not take is an error when it is emitted.

    Raises:
        UsageError: ``RUB-COREML-010``; ``RUB-SPEC-003`` free dimensions and no shapes for them.
        Unsupported: codes of the lowering.
        ToolMissing: ``RUB-COREML-001``.
    """
    if shapes is None:
        shapes = resolve_shapes([spec_of(value) for value in graph.inputs], graph.meta, "fixed")
    twice = precision != "fp32" and weight_bytes(graph) <= 4 * MAX_PARAMETERS
    runtimes = (MIL, *([MIL_FP32] if twice else []), *([COREML] if on_macos() else []))
    from rubicc.backends.coreml import lowering, swift

    made = CoremlPlan(
        target=target,
        runtimes=runtimes,
        opset=opset(target.device).name,
        precision=precision,
        shapes=shapes,
        name=package_name(name),
        assets=dict(assets or {}),
        example=example,
        strict=strict,
    )
    lowered = lowering.lower(graph, target=made.opset, precision=made.compute, shapes=shapes)
    written = describe(graph, made, lowered)
    left_out = swift.decisions(
        name=made.name,
        meta=graph.meta,
        inputs=written.inputs,
        outputs=written.outputs,
        assets=made.assets,
    )
    return replace(made, decisions=(*lowered.decisions, *left_out), lowered=Once(lowered))


def possible(target: Target, precision: str, runtime: str, layout: str) -> None:
    """Refuse what cannot be, whatever the model.

    Raises:
        UsageError: ``RUB-COREML-010``.
    """
    device = opset(target.device)
    since = SINCE.get(precision, "iOS16")
    problems = [
        (precision not in PRECISIONS, f"unknown precision {precision!r}", f"one of {', '.join(PRECISIONS)}"),
        (runtime not in RUNTIMES, f"runtime {runtime!r}", f"one of {', '.join(RUNTIMES)}"),
        (layout == "polyphase", "layout 'polyphase'", "this target's own passes choose layouts"),
        (
            not device >= OPSETS[since],
            f"{precision} with {device.name}: Core ML stores it from {since} on",
            f"--target coreml:{since}, or another --precision",
        ),
    ]
    for wrong, what, hint in problems:
        if wrong:
            raise UsageError("RUB-COREML-010", what, where=f"target {target}", hint=hint)
