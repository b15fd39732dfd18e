"""Precisions that compress weights without data: what their names mean per target, as pipeline steps."""

from __future__ import annotations

from rubicc.backends.coreml.tools import OPSETS
from rubicc.evidence.decision import Decision
from rubicc.passes.pipelines import Step

PALETTES = (1, 2, 3, 4, 6, 8)
NAMES = ("int8", "int4", *(f"palette{bits}" for bits in PALETTES), "sparse")
BLOCK = 32  # weights per scale of int4
GROUP = 16  # channels per table, where the target has more than one table per weight
FINE = 4  # bits up to which more tables pay


def STEPS(precision: str, opset: str) -> tuple[Step, ...]:
    """Passes that ``precision`` stands for on a target (``iOS17``).

    Raises:
        KeyError: no such precision here.
    """
    recent = OPSETS[opset] >= OPSETS["iOS18"]
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
        bits = int(precision.removeprefix("palette"))
        group = GROUP if recent and bits <= FINE else 0
        reason = f"{2**bits} values per {'16 channels' if group else 'weight'}"
        return (_step("quantize.palettize", reason, bits=bits, group=group),)
    raise KeyError(precision)


def decisions(precision: str, opset: str) -> tuple[Decision, ...]:
    """What ``precision`` means on this target beside its name."""
    if precision != "int4" or OPSETS[opset] >= OPSETS["iOS18"]:
        return ()
    return (
        Decision(
            "RUB-COREML-D33",
            "weights",
            "4-bit palettes instead of 4-bit integers",
            f"integers with a scale per block exist from iOS18 on, the target is {opset}",
        ),
    )


def _step(pass_id: str, reason: str, **options: object) -> Step:
    return Step(pass_id, f"--precision: {reason}", options)
