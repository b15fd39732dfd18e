"""The strict half of the proof: the same lowering in fp32, held against rubicc's own executor in float64.

fp16 hides small faults: a wrong epsilon or a forgotten small bias stays above 40 dB. The graph that was
lowered is therefore lowered once more with every constant in fp32, written, read back and run in float64,
and must agree with the executor, which shares no code with lowering or interpreter, to :data:`TWIN_SNR`.
What keeps it from being exact is the rounding of folded constants to float32.

Quantisers make a step of the smallest difference, and a deep quantised network enlarges it until nothing can
be compared. In the twin their scales are therefore rounded to 8 bits: codes of up to 16 bits times such a
scale are float32 numbers, so weights that are stored as floats are exact, too, and nothing differs. That the
real scales are stored as they are is tested where they are written (``compress``).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from rubicc.backends.base import Twin
from rubicc.backends.coreml.description import MAX_PARAMETERS, CoremlPlan, Once
from rubicc.backends.coreml.emit import write_model
from rubicc.backends.coreml.session import opened
from rubicc.evidence.staging import scratch
from rubicc.ir.graph import Graph, is_quantiser
from rubicc.ir.io import weight_bytes
from rubicc.passes.rewrite import Editor, constant
from rubicc.quantities import MaxGap

TWIN_SNR = 90.0
SCALE_BITS = 8  # of a scale in the twin, beside 16 of a code: 24, as float32 has


@contextmanager
def twins(graph: Graph, plan: CoremlPlan) -> Iterator[Sequence[Twin]]:
    """The comparison for ``graph`` as ``plan`` lowers it; none for networks above :data:`MAX_PARAMETERS`.

    Raises:
        RubiccError: as :func:`rubicc.backends.coreml.emit.write_model`.
    """
    if weight_bytes(graph) > 4 * MAX_PARAMETERS:
        yield ()
        return
    graph = pinned(graph)
    with scratch() as home:
        path, _, _ = write_model(graph, dataclasses.replace(plan, precision="fp32", lowered=Once()), home)
        package, description = opened(path)
        types = {spec.name: np.dtype(spec.dtype) for spec in description.inputs}
        yield (
            Twin(
                "the program in fp32, run in float64, against the graph it was lowered from",
                lambda feeds: package.run(
                    {name: array.astype(types[name]) for name, array in feeds.items()}, semantics="fp64"
                ),
                graph,
                MaxGap(snr=TWIN_SNR),
            ),
        )


def pinned(graph: Graph) -> Graph:
    """A copy whose quantisers have scales of :data:`SCALE_BITS` bits; the graph itself where it has none."""
    if not any(is_quantiser(node) for node in graph.all_nodes()):
        return graph
    copy = graph.clone()
    edit = Editor(copy, "coreml.twin")
    for node in list(copy.all_nodes()):
        scale = constant(node.inputs[1]) if is_quantiser(node) and len(node.inputs) > 1 else None
        if scale is not None:
            mantissa, exponent = np.frexp(scale.astype(np.float64))
            short = np.ldexp(np.rint(np.ldexp(mantissa, SCALE_BITS)), exponent - SCALE_BITS)
            made = edit.initializer(f"{node.name}_pinned", short.astype(scale.dtype), node.graph)
            node.replace_input_with(1, made)
    return copy
