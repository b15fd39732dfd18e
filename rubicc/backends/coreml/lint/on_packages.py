"""Tests of rules about a package as a whole: its interface, its size, its work."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from rubicc.backends.coreml.lint.facts import FP16_BYTES, Facts
from rubicc.backends.coreml.lint.hits import Hit
from rubicc.backends.coreml.run.program import Feature

LARGEST_BYTES = 10**9
LARGE_BYTES = 500 * 10**6
SMALLEST_SURFACE = 48 << 10
SMALL_WORK = 512**3  # one product of 512 x 512 x 512, the smallest seen to be preferred
ENUMERATED_AT_MOST = 128
SEVERAL_FLEXIBLE_FROM = 9  # specification version of iOS 18
LANES = 32


@dataclass(frozen=True)
class Whole:
    """A package and what was counted over its operations.

    Attributes:
        facts: its function.
        weight_bytes: size of the weight files.
        macs: multiply-accumulates of one run; ``None`` where shapes are unknown.
    """

    facts: Facts
    weight_bytes: int
    macs: int | None


def several_items(whole: Whole) -> Hit | None:
    """An input whose first axis is a batch."""
    for feature in _arrays(whole):
        shape = feature.shapes.default if feature.shapes else ()
        if len(shape) > 1 and shape[0] > 1:
            return Hit(f"input {feature.name!r} takes {shape[0]} items per call")
    return None


def narrow_output(whole: Whole) -> Hit | None:
    """A float16 output whose last axis is no multiple of 32."""
    for name in whole.facts.function.block.outputs:
        kind = whole.facts.type(name)
        if kind is None or kind.dtype != "fp16" or len(kind.shape) < 2:
            continue
        if kind.shape[-1] is None or kind.shape[-1] % LANES:
            return Hit(f"output {name!r} is {kind}")
    return None


def enumerated(whole: Whole) -> Hit | None:
    """Enumerated shapes; several such inputs before iOS 18 and more than 128 shapes are not taken."""
    found = [feature for feature in _arrays(whole) if feature.shapes and feature.shapes.enumerated]
    if not found:
        return None
    count = max(len(feature.shapes.enumerated) for feature in found if feature.shapes)
    reason = f"{len(found)} input(s) with up to {count} shapes"
    too_early = len(found) > 1 and whole.facts.package.specification < SEVERAL_FLEXIBLE_FROM
    if too_early or count > ENUMERATED_AT_MOST:
        return Hit(f"{reason}, for specification {whole.facts.package.specification}", "not")
    return Hit(reason)


def too_large(whole: Whole) -> Hit | None:
    """Over 1 GB."""
    large = whole.weight_bytes > LARGEST_BYTES
    return Hit(f"{whole.weight_bytes / 1e9:.2f} GB of weights") if large else None


def rather_large(whole: Whole) -> Hit | None:
    """Over half of that."""
    large = LARGE_BYTES < whole.weight_bytes <= LARGEST_BYTES
    return Hit(f"{whole.weight_bytes / 1e6:.0f} MB of weights") if large else None


def small_surface(whole: Whole) -> Hit | None:
    """An input below 48 KB in float16."""
    for feature in _arrays(whole):
        nbytes = prod(feature.shapes.default) * FP16_BYTES if feature.shapes else SMALLEST_SURFACE
        if nbytes < SMALLEST_SURFACE:
            return Hit(f"input {feature.name!r} takes {nbytes:,} bytes in float16")
    return None


def little_work(whole: Whole) -> Hit | None:
    """Fewer multiplications than the smallest product seen to be preferred."""
    if whole.macs is None or whole.macs >= SMALL_WORK:
        return None
    return Hit(f"{whole.macs / 1e6:.1f} M multiply-accumulates, below {SMALL_WORK / 1e6:.0f} M")


def _arrays(whole: Whole) -> list[Feature]:
    return [feature for feature in whole.facts.interface.inputs if feature.kind == "array"]
