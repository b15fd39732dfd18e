"""GRU and LSTM cells: what their template is told, and their weights in the order it reads them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rubicc.backends.aie.net import Cell, Lookup, Lstm, Net
from rubicc.backends.aie.numbers import SLOT_BYTES, Type
from rubicc.backends.aie.plan.model import AiePlan, Port, Stage

COLUMNS = 8  # units of one product
MOST_SHIFT = 31


def refusal(layer: Cell, stage: Stage) -> str:
    """Why a cell has no kernel; empty where it has one."""
    if layer.hidden % COLUMNS:
        return f"{layer.hidden} units; its kernel takes multiples of {COLUMNS}"
    if not layer.operand.signed:
        return f"a state multiplied as {layer.operand}"
    shifts = [*layer.gate_shift.tolist(), layer.operand_shift, layer.output_shift]
    shifts += [lookup.shift for lookup in tables(layer).values()]
    if min(shifts) < 0 or max(shifts) > MOST_SHIFT:
        return f"it drops {min(shifts)} to {max(shifts)} bits; kernels drop 0 to {MOST_SHIFT}"
    return "" if stage.split.tiles == 1 else f"{stage.split.tiles} tiles; its kernel has one"


def tables(layer: Cell) -> dict[str, Lookup]:
    """Its tables by the name of the kernel's argument."""
    found = {"sigmoid": layer.sigmoid, "tanh": layer.tanh}
    return found | {"tanh_cell": layer.tanh_cell} if isinstance(layer, Lstm) else found


def spec(
    plan: AiePlan, net: Net, stage: Stage, layer: Cell, ports: Sequence[Port]
) -> list[tuple[str, str | int]]:
    """Members of the template's Spec: types, then numbers."""
    weight = Type(max(8, layer.recurrent_type.bits))
    sums = "acc64" if layer.operand.bits + weight.bits > 24 else "acc32"
    types: list[tuple[str, str | int]] = [
        ("H", layer.operand.cpp), ("R", weight.cpp), ("Y", net.edges[layer.output].type.cpp), ("SUM", sums),
    ]  # fmt: skip
    for name, lookup in tables(layer).items():
        types.append((name.upper(), f"rubicc::lookup<{lookup.bits}, {lookup.shift}, int16>"))
    numbers: list[tuple[str, str | int]] = [
        ("HIDDEN", layer.hidden), ("FRAMES", plan.block), ("PERIOD", plan.period), ("LAG", stage.lag),
        ("OPERAND_SHIFT", layer.operand_shift), ("OUTPUT_SHIFT", layer.output_shift),
        ("SPLIT", ports[0].blocks.end),
    ]  # fmt: skip
    if isinstance(layer, Lstm):
        numbers.append(("CELL_BITS", layer.cell_bits))
    return types + numbers


def weights(layer: Cell) -> np.ndarray:
    """``recurrent``, flat: 8 gates, slot of the state, then channel of the slot by gate."""
    slot = SLOT_BYTES * 8 // layer.operand.bits
    gates, hidden = layer.recurrent.shape
    parts = layer.recurrent.reshape(gates // COLUMNS, COLUMNS, hidden // slot, slot)
    return np.ascontiguousarray(parts.transpose(0, 2, 3, 1)).reshape(-1)


def bias(layer: Cell) -> np.ndarray:
    """Per gate, zeros where it has none."""
    return np.zeros(len(layer.recurrent), np.int64) if layer.bias is None else layer.bias


def shift(layer: Cell) -> np.ndarray:
    """Per block of 8 gates."""
    return np.asarray(layer.gate_shift)[::COLUMNS]
