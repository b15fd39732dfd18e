"""Layer normalisation and attention: what their templates are told."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from rubicc.backends.aie.net import Attention, Net, Norm
from rubicc.backends.aie.plan.model import AiePlan, Stage, Tile

COLUMNS = 8  # channels of one product
MOST_SHIFT = 31


def refusal(layer: Norm | Attention, plan: AiePlan, stage: Stage) -> str:
    """Why a layer has no kernel; empty where it has one."""
    if isinstance(layer, Attention) and (stage.lag or plan.block != plan.period):
        return f"an attention {stage.lag} frames late with work units of {plan.block} frames"
    shifts = (layer.score_shift, layer.output_shift) if isinstance(layer, Attention) else (layer.shift,)
    if min(shifts) < 0 or max(shifts) > MOST_SHIFT:
        return f"it drops {min(shifts)} to {max(shifts)} bits; kernels drop 0 to {MOST_SHIFT}"
    return ""


def spec(
    plan: AiePlan, net: Net, stage: Stage, layer: Norm | Attention, tile: Tile
) -> list[tuple[str, str | int]]:
    """Members of the template's Spec: types, then numbers."""
    to = net.edges[stage.output].type
    if isinstance(layer, Attention):
        slots = layer.depth // COLUMNS
        return [
            ("Y", to.cpp), ("FRAMES", plan.block), ("LENGTH", plan.lengths[layer.inputs[0]]),
            ("HEADS", tile.inputs.count // (3 * slots)), ("DEPTH", slots),
            ("SCORE_SHIFT", layer.score_shift), ("ENTRIES", len(layer.entries)),
            ("SHIFT", layer.output_shift),
        ]  # fmt: skip
    return [
        ("X", net.edges[layer.inputs[0]].type.cpp), ("Y", to.cpp), ("FRAMES", plan.block),
        ("BLOCKS", len(layer.gain) // COLUMNS), ("MEAN", layer.mean_factor), ("FINER", layer.finer),
        ("SPREAD", layer.spread_shift), ("FLOOR", layer.floor), ("SHIFT", layer.shift),
    ]  # fmt: skip


def constants(layer: Norm | Attention) -> Iterator[tuple[str, str, np.ndarray]]:
    """Arrays of the template's function: name, type and values, in the order of its arguments."""
    if isinstance(layer, Attention):
        yield "entries", "uint8", layer.entries
    else:
        yield "gain", "int16", layer.gain
        yield "offset", "int32", layer.offset
