"""Recurrent layers of the integer network, out of the bodies of Scans."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import onnx_ir as ir

from rubicc.backends.aie import net
from rubicc.backends.aie.extract_parts import RERUN, NotRead, fits, shifts
from rubicc.backends.aie.numbers import Type
from rubicc.ir.graph import source_of
from rubicc.passes.cleanup.drop_zero_states import is_zero
from rubicc.passes.integer import cells
from rubicc.passes.integer.bodies import is_reversed

if TYPE_CHECKING:
    from rubicc.backends.aie.extract import Reader

_ZEROS = ("Shape", "Slice", "Concat", "ConstantOfShape")


def read_cell(reader: Reader, node: ir.Node) -> None:
    """Take the recurrent layer of a Scan into the network.

    Raises:
        NotRead: the body is not exactly the integer cell its parameters say, or begins from other than zeros.
    """
    gates = reader.tensor(node.inputs[-1])
    spec = cells.read_spec(node)
    if spec is None or (spec.entry, spec.exit) != (0, 0):
        raise NotRead("RUB-AIE-102", "Scan is no recurrent cell of integers, or was changed", RERUN)
    if gates is None or gates.axes != "TNC" or gates.edge.type != Type(16):
        raise NotRead("RUB-AIE-103", "a recurrent cell reads no int16 (time, batch, channels)", RERUN)
    if gates.edge.channels != len(spec.recurrent):
        reason = f"a cell of {len(spec.recurrent)} gates reads {gates.edge.channels} channels"
        raise NotRead("RUB-AIE-103", reason, RERUN)
    if not all(is_zero(value) for value in node.inputs[:-1]):
        raise NotRead("RUB-AIE-102", "a recurrent cell begins from a state that is not zero", RERUN)
    if any(out.uses() or out.is_graph_output() for out in node.outputs[:-1]):
        raise NotRead("RUB-AIE-102", "the last state of a recurrent cell is read", RERUN)
    operand, weights = Type(spec.operand_bits), Type(spec.weight_bits)
    shift = shifts(2.0 ** -spec.gate_shift.astype(float), len(spec.gate_shift))
    if shift.min() < 0 or not 0 <= spec.output_shift <= cells.POINT or spec.output_bits not in (8, 16):
        raise NotRead("RUB-AIE-105", "a recurrent cell moves its sums to finer steps", RERUN)
    largest = max(int(spec.recurrent.max()), -int(spec.recurrent.min()) - 1)
    if largest > weights.high:
        raise NotRead("RUB-AIE-105", f"recurrent weights up to {largest} in {weights}", RERUN)
    fields: dict[str, Any] = {
        "name": node.name or "", "source": source_of(node), "inputs": (gates.edge.name,),
        "output": node.outputs[-1].name or "", "recurrent": spec.recurrent, "recurrent_type": weights,
        "bias": spec.bias, "operand": operand, "operand_shift": spec.operand_shift, "gate_shift": shift,
        "sigmoid": _lookup(spec.sigmoid), "tanh": _lookup(spec.tanh), "output_shift": spec.output_shift,
        "reverse": is_reversed(node),
    }  # fmt: skip
    if spec.kind == "lstm" and spec.tanh_cell is not None:
        inner = _lookup(spec.tanh_cell)
        layer: net.Cell = net.Lstm(**fields, cell_bits=spec.cell_bits, tanh_cell=inner)
    else:
        layer = net.Gru(**fields)
    fits(layer.gain, layer.bias, operand, weights)
    chain = [node, *_zeros(node)]
    reader.finish(node, layer, layer.hidden, Type(spec.output_bits), "TNC", chain)


def _lookup(table: cells.Lookup) -> net.Lookup:
    return net.Lookup(shift=table.shift, bits=table.bits, entries=table.entries)


def _zeros(node: ir.Node) -> list[ir.Node]:
    """Nodes that make the initial state."""
    found: list[ir.Node] = []
    behind = list(node.inputs[:-1])
    while behind:
        value = behind.pop()
        maker = value.producer() if value is not None else None
        if maker is not None and maker.op_type in _ZEROS and maker not in found:
            found.append(maker)
            behind += [] if maker.op_type == "Shape" else list(maker.inputs)
    return found
