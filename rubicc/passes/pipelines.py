"""Pipelines as data: which passes run, in which order, and why in that order.

A test checks that every property a pass requires is ensured by an earlier one, so that an order that merely
happens to work cannot stay here unnoticed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rubicc.errors import UsageError
from rubicc.passes.registry import get


@dataclass(frozen=True)
class Step:
    """One place in a pipeline.

    Attributes:
        id: pass id.
        reason: why the pass runs, and why here.
        options: options that differ from the defaults of the pass.
    """

    id: str
    reason: str
    options: Mapping[str, Any] = field(default_factory=dict)


CLEANUP: tuple[Step, ...] = (
    Step("cleanup.lift-constants", "first: later passes look for constants among the initializers only"),
    Step("cleanup.infer-shapes", "before folding and no-op removal, which both argue from static shapes"),
    Step(
        "cleanup.fold-constants", "before no-op removal: it turns computed shapes and addends into constants"
    ),
    Step("cleanup.eliminate-identity", "before fusion: an Identity between Conv and BatchNorm would hide it"),
    Step("cleanup.drop-zero-states", "after folding, which shows which states are constant zeros"),
    Step("cleanup.merge-transposes", "after no-op removal, which makes transposes neighbours"),
    Step("cleanup.fuse-batchnorm", "after no-op removal and folding: needs neighbours and constant weights"),
    Step("cleanup.deduplicate", "after fusion, which would have to split weights that two nodes share"),
    Step("cleanup.eliminate-dead", "after all rewrites: each leaves the constants it no longer uses"),
    Step("cleanup.infer-shapes", "rewritten nodes get shapes before a backend plans from them"),
    Step("cleanup.name-nodes", "last: names follow the final nodes and their provenance"),
)

CPU_GPU: tuple[Step, ...] = (
    *CLEANUP[:-1],
    Step("lower.expand-quant", "the runtimes know no QONNX quantisers; after fusion, which those must stop"),
    Step("cleanup.deduplicate", "expanded quantisers share their constants"),
    Step("cleanup.eliminate-dead", "weights behind folded quantisers are no longer used"),
    Step("cleanup.infer-shapes", "the arithmetic of expanded quantisers gets shapes"),
    Step("cleanup.name-nodes", "last: names follow the final nodes and their provenance"),
)

_EXPAND = next(index for index, step in enumerate(CPU_GPU) if step.id == "lower.expand-quant")
CPU_GPU_INTEGER: tuple[Step, ...] = (
    *CPU_GPU[:_EXPAND],
    Step(
        "quantize.to-qdq", "8-bit quantisers of the model become integer kernels; before the rest is expanded"
    ),
    *CPU_GPU[_EXPAND:],
)

COREML: tuple[Step, ...] = (
    *CLEANUP[:-1],
    Step("ane.gelu", "before layout: spelled-out forms are matched as the exporters write them"),
    Step("ane.mask", "before attention, which looks for additive masks"),
    Step("ane.unflatten", "before linear layers, which are looked for in sequences, not in rows"),
    Step("ane.linear-to-conv", "before attention: its projections are then convolutions in one layout"),
    Step("ane.conv1d-to-conv2d", "after linear layers, so that convolutions stand in one layout only"),
    Step("ane.attention", "after the projections: heads are split along their channels"),
    Step("ane.layer-norm", "after attention: what lies between norms is in the new layout by now"),
    Step("ane.layout", "carries the layout through everything between those islands"),
    Step("ane.chunk", "on whole convolutions, before wide ones are taken apart"),
    Step("ane.align", "after chunking, which sets the lengths; still on whole convolutions"),
    Step("ane.wide-kernels", "after chunking and alignment, which argue on whole convolutions"),
    Step("ane.remove-transposes", "views of the rewrites meet each other only when all are there"),
    Step("cleanup.fold-constants", "weights that were moved become constants again"),
    Step("cleanup.eliminate-identity", "views that cancelled out"),
    Step("cleanup.deduplicate", "rewrites make equal constants"),
    Step("cleanup.eliminate-dead", "weights in their old order are no longer used"),
    Step("cleanup.infer-shapes", "the lowering plans from shapes"),
    Step("cleanup.name-nodes", "last: names follow the final nodes and their provenance"),
)

_FUSE = next(index for index, step in enumerate(CLEANUP) if step.id == "cleanup.fuse-batchnorm")
AIE: tuple[Step, ...] = (
    *CLEANUP[:_FUSE],
    Step("integer.strip", "after folding: weights are constants then; before fusion, which quantisers stop"),
    *CLEANUP[_FUSE:-1],
    Step("integer.recurrence", "after folding, which shows constant states: cells are projections and Scans"),
    Step("ane.unflatten", "before blocks: heads are joined in sequences, not in rows"),
    Step("cleanup.fold-constants", "weights that were turned become constants again"),
    Step("integer.blocks", "after folding: the scales and weights that go into one projection are constants"),
    Step("cleanup.eliminate-dead", "weights of recurrent operators and of projections are no longer used"),
    Step("cleanup.infer-shapes", "what cells were made of gets shapes"),
    Step("cleanup.name-nodes", "last: names follow the final nodes and their provenance"),
)

PIPELINES: dict[str, tuple[Step, ...]] = {
    "cleanup": CLEANUP,
    "cpu_gpu": CPU_GPU,
    "cpu_gpu_integer": CPU_GPU_INTEGER,
    "coreml": COREML,
    "aie": AIE,
}


def check_order(steps: Sequence[Step]) -> None:
    """Check that every ``requires`` is satisfied by an earlier ``ensures``.

    Raises:
        UsageError: ``RUB-PASS-006`` naming the step and the missing properties.
    """
    have: set[str] = set()
    for index, step in enumerate(steps):
        cls = get(step.id)
        missing = cls.requires - have
        if missing:
            what = f"step {index} ({step.id}) requires {', '.join(sorted(missing))}"
            raise UsageError("RUB-PASS-006", f"{what}, which no earlier step ensures")
        have |= cls.ensures
