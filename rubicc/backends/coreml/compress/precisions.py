"""Precisions that compress weights without data: what their names mean per target, as pipeline steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from rubicc.backends.coreml.tools import OPSETS
from rubicc.errors import UsageError
from rubicc.evidence.decision import Decision
from rubicc.ir.executor import execute
from rubicc.ir.graph import Graph, is_quantiser
from rubicc.passes.manager import make_options, run_pass
from rubicc.passes.pipelines import Step
from rubicc.passes.quantize.products import input_of
from rubicc.passes.quantize.sites import sites
from rubicc.passes.quantize.weights import half_above
from rubicc.passes.registry import get
from rubicc.passes.rewrite import Editor, constant

PALETTES = (1, 2, 3, 4, 5, 6, 7, 8)
NAMES = ("int8", "int4", *(f"palette{bits}" for bits in PALETTES), "sparse")
WIDTHS = {False: (1, 2, 4, 6, 8), True: (1, 2, 3, 4, 6, 8)}  # of indices: before iOS18, and since
BLOCK = 32  # weights per scale of int4
GROUP = 16  # channels per table, where the target has more than one table per weight
LOOKED_AT = 4  # inputs that optimised rounding runs
FINE = 4  # bits up to which more tables pay


def compressed(
    graph: Graph,
    precision: str,
    opset: str,
    *,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    feeds: Sequence[Mapping[str, np.ndarray]] = (),
) -> tuple[Graph, list[Decision]]:
    """A copy of ``graph`` with its weights compressed as ``precision`` says.

    Args:
        options: of passes, by id; ``rounding=optimised`` looks at ``feeds``.
        feeds: inputs of the network; the first four are run.

    Raises:
        KeyError: no such precision here.
        UsageError: ``RUB-PASS-003``, no such option; ``RUB-COREML-303``, nothing to look at.
    """
    made, found = graph.clone(), list(decisions(precision, opset))
    for step in STEPS(precision, opset):
        cls = get(step.id)
        chosen = make_options(cls, {**step.options, **(options or {}).get(step.id, {})})
        if getattr(chosen, "rounding", "nearest") == "optimised":
            chosen = replace(chosen, inputs=seen(made, feeds))
        found += run_pass(cls(chosen), made).decisions
    return made, found


def with_half_scales(graph: Graph) -> None:
    """Scales of all quantisers become the next larger numbers that fp16 holds, in place.

    A package in fp16 stores them so. Grids grow, by less than 0.1 % from 2**-14 on, so nothing is clipped
    that was not.
    """
    edit = Editor(graph, "coreml.half-scales")
    for node in list(graph.all_nodes()):
        scale = constant(node.inputs[1]) if is_quantiser(node) else None
        if scale is not None and not np.array_equal(scale, scale.astype(np.float16)):
            made = edit.initializer(f"{node.name}_scale", half_above(scale), node.graph)
            node.replace_input_with(1, made)


def idle(options: Mapping[str, Mapping[str, Any]], precision: str, opset: str) -> None:
    """Refuse options of compression passes that ``precision`` does not run.

    Raises:
        UsageError: ``RUB-COREML-304``.
    """
    runs = {step.id for step in STEPS(precision, opset)} if precision in NAMES else set()
    for pass_id in sorted(
        {"quantize.weights", "quantize.palettize", "quantize.sparsify"} & set(options) - runs
    ):
        what = f"options for {pass_id}, which --precision {precision} does not run"
        hint = f"it runs {', '.join(sorted(runs)) or 'none of these passes'}"
        raise UsageError("RUB-COREML-304", what, hint=hint)


def seen(graph: Graph, feeds: Sequence[Mapping[str, np.ndarray]]) -> dict[str, list[np.ndarray]]:
    """What the products of ``graph`` whose weights can be rounded for them are given, by value name.

    Raises:
        UsageError: ``RUB-COREML-303``.
    """
    if not feeds:
        what = "rounding=optimised without an input to look at"
        raise UsageError("RUB-COREML-303", what, hint="give --calib, or leave rounding at nearest")
    names = [name for site in sites(graph) if (name := input_of(site))]
    runs = [execute(graph, dict(feed), keep=names) for feed in list(feeds)[:LOOKED_AT]]
    return {name: [run[name] for run in runs] for name in names}


def STEPS(precision: str, opset: str) -> tuple[Step, ...]:
    """Passes that ``precision`` stands for on a target (``iOS17``).

    Raises:
        KeyError: no such precision here.
    """
    recent = _recent(opset)
    if precision == "int8":
        return (
            _step("quantize.weights", "8 bits, one scale per output channel", bits=8, granularity="channel"),
        )
    if precision == "int4" and recent:
        return (
            _step("quantize.weights", "4 bits, a scale per block", bits=4, granularity="block", block=BLOCK),
        )
    if precision == "int4":
        return (
            _step("quantize.palettize", "the target has no scale per block; 16 values per weight", bits=4),
        )
    if precision == "sparse":
        return (_step("quantize.sparsify", "half of the weights become 0", sparsity=0.5),)
    if precision in NAMES:
        bits = _width(precision, opset)
        group = GROUP if recent and bits <= FINE else 0
        reason = f"{2**bits} values per {f'{GROUP} channels' if group else 'weight'}"
        return (_step("quantize.palettize", reason, bits=bits, group=group),)
    raise KeyError(precision)


def decisions(precision: str, opset: str) -> tuple[Decision, ...]:
    """What ``precision`` means on this target beside its name."""
    if precision == "int4" and not _recent(opset):
        return (
            Decision(
                "RUB-COREML-D33",
                "weights",
                "4-bit palettes instead of 4-bit integers",
                f"integers with a scale per block exist from iOS18 on, the target is {opset}",
            ),
        )
    if not precision.startswith("palette") or f"palette{_width(precision, opset)}" == precision:
        return ()
    asked, taken = int(precision.removeprefix("palette")), _width(precision, opset)
    return (
        Decision(
            "RUB-COREML-D34",
            "weights",
            f"tables of {2**taken} values instead of {2**asked}",
            f"{opset} stores indices of {', '.join(map(str, WIDTHS[_recent(opset)]))} bits",
        ),
    )


def _recent(opset: str) -> bool:
    return OPSETS[opset] >= OPSETS["iOS18"]


def _width(precision: str, opset: str) -> int:
    """Bits of an index: as asked for, or the next that the target has."""
    asked = int(precision.removeprefix("palette"))
    return next(bits for bits in WIDTHS[_recent(opset)] if bits >= asked)


def _step(pass_id: str, reason: str, **options: object) -> Step:
    return Step(pass_id, f"--precision: {reason}", options)
