"""The strict half of the proof: the same lowering in fp32, held against rubicc's own executor in float64.

fp16 hides small faults: a wrong epsilon or a forgotten small bias stays above 40 dB. The graph that was
lowered is therefore lowered once more with every constant in fp32, written, read back and run in float64,
and must agree with the executor, which shares no code with lowering or interpreter, to :data:`TWIN_SNR`.
What keeps it from being exact is the rounding of folded constants to float32.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from rubicc.backends.base import Twin
from rubicc.backends.coreml.description import CoremlPlan, Once
from rubicc.backends.coreml.emit import write_model
from rubicc.backends.coreml.session import opened
from rubicc.evidence.staging import scratch
from rubicc.ir.executor import execute
from rubicc.ir.graph import Graph
from rubicc.ir.io import weight_bytes
from rubicc.quantities import MaxGap

TWIN_SNR = 90.0
# Above this the float64 copies cost more memory than the proof is worth, as for the emitted graph.
MAX_PARAMETERS = 64_000_000


@contextmanager
def twins(graph: Graph, plan: CoremlPlan) -> Iterator[Sequence[Twin]]:
    """The comparison for ``graph`` as ``plan`` lowers it; none for networks above :data:`MAX_PARAMETERS`.

    Raises:
        RubiccError: as :func:`rubicc.backends.coreml.emit.write_model`.
    """
    if weight_bytes(graph) > 4 * MAX_PARAMETERS:
        yield ()
        return
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
                lambda feeds: execute(graph, dict(feeds), dtype=np.dtype(np.float64)),
                MaxGap(snr=TWIN_SNR),
            ),
        )
