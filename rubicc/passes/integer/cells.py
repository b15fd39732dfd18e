"""Recurrent cells as bodies of ONNX ``Scan``: in float, and in the array's integers.

One step takes the state and the projected input ``x`` (all gates of one frame) and gives the new state and
the output. Gates stand in PyTorch's order: r, z, n (GRU), i, f, g, o (LSTM). The integer body is standard
ONNX in float64, exact far below 2**53, and computes what :mod:`rubicc.backends.aie.net` says, step by step.

A body is never read by looking at it: :func:`read_weights` and :func:`read_spec` build the body again from
what they found and compare, so that a body that was changed is not taken for one that was not.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import onnx_ir as ir

from rubicc.passes.integer.bodies import Body, Name, Stamp, Written, body_of, is_plain, match, scratch

Kind = Literal["gru", "lstm"]
CELL_KEY = "rubicc.cell"  # on a Scan: kind of the cell
SPEC_KEY = "rubicc.cell_spec"  # on a Scan of integers: every number of its body that is no array
GATES: dict[str, int] = {"gru": 3, "lstm": 4}
INT16 = (-(1 << 15), (1 << 15) - 1)
POINT = 15  # bits behind the point of the state and of tables
_FLOAT, _DOUBLE, _INT64 = ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.INT64


@dataclass(frozen=True, eq=False)
class Weights:
    """A cell in float: ``recurrent`` (G * H, H), ``bias`` (G * H,) added to ``R h``, or None."""

    kind: Kind
    recurrent: np.ndarray
    bias: np.ndarray | None

    @property
    def hidden(self) -> int:
        """H."""
        return int(self.recurrent.shape[1])


@dataclass(frozen=True, eq=False)
class Lookup:
    """A table: entry ``clip(round(v * 2**-shift)) + 2**(bits - 1)`` is the function of ``v``."""

    shift: int
    bits: int
    entries: np.ndarray


@dataclass(frozen=True, eq=False)
class Spec:
    """A cell in integers; fields as in :class:`rubicc.backends.aie.net.Cell`.

    Attributes:
        entry, exit: exponents of ``x`` and of the output where they are still real numbers on their grids
            (before legalisation); 0 where they are integers.
    """

    kind: Kind
    recurrent: np.ndarray
    weight_bits: int
    bias: np.ndarray | None
    operand_bits: int
    operand_shift: int
    gate_shift: np.ndarray
    sigmoid: Lookup
    tanh: Lookup
    output_shift: int
    output_bits: int
    cell_bits: int = 0
    tanh_cell: Lookup | None = None
    entry: int = 0
    exit: int = 0

    @property
    def hidden(self) -> int:
        """H."""
        return int(self.recurrent.shape[1])

    def integers(self) -> Spec:
        """The same cell between integers."""
        return replace(self, entry=0, exit=0)

    def scalars(self) -> str:
        """Everything but the arrays, for :data:`SPEC_KEY`."""
        plain: dict[str, Any] = {
            name: getattr(self, name)
            for name in (
                *("kind", "weight_bits", "operand_bits", "operand_shift", "output_shift", "output_bits"),
                *("cell_bits", "entry", "exit"),
            )
        }
        plain["hidden"], plain["biased"] = self.hidden, self.bias is not None
        for name in ("sigmoid", "tanh", "tanh_cell"):
            table: Lookup | None = getattr(self, name)
            plain[name] = None if table is None else [table.shift, table.bits]
        return json.dumps(plain, sort_keys=True)


def float_body(of: Weights, name: Name, stamp: Stamp) -> Written:
    """One step in float32."""
    gates, hidden = GATES[of.kind], of.hidden
    body = Body(name, stamp, hidden)
    state = [body.value(stem, _FLOAT, hidden) for stem in ("h", "c")[: 1 + (of.kind == "lstm")]]
    x = body.value("x", _FLOAT, gates * hidden)
    wide = {"width": gates * hidden, "dtype": _FLOAT}

    def op(kind: str, *inputs: ir.Value) -> ir.Value:
        return body.op(kind, *inputs, dtype=_FLOAT)

    g = body.op("MatMul", state[0], body.const(of.recurrent.T, "recurrent", _FLOAT), **wide)  # type: ignore[arg-type]
    if of.bias is not None:
        g = body.op("Add", g, body.const(of.bias, "bias", _FLOAT), **wide)  # type: ignore[arg-type]
    if of.kind == "gru":
        (xr, xz, xn), (gr, gz, gn) = body.parts(x, 3, _FLOAT), body.parts(g, 3, _FLOAT)
        r, z = op("Sigmoid", op("Add", xr, gr)), op("Sigmoid", op("Add", xz, gz))
        n = op("Tanh", op("Add", xn, op("Mul", r, gn)))
        new = [op("Add", n, op("Mul", z, op("Sub", state[0], n)))]
    else:
        total = body.op("Add", x, g, **wide)  # type: ignore[arg-type]
        i, f, u, o = body.parts(total, 4, _FLOAT)
        kept = op("Mul", op("Sigmoid", f), state[1])
        c = op("Add", kept, op("Mul", op("Sigmoid", i), op("Tanh", u)))
        new = [op("Mul", op("Sigmoid", o), op("Tanh", c)), c]
    y = op("Identity", new[0])
    return Written(body.graph([*state, x], [*new, y]), body.roles)


def integer_body(of: Spec, name: Name, stamp: Stamp) -> Written:
    """One step in integers held as float64."""
    gates, hidden = GATES[of.kind], of.hidden
    body = Body(name, stamp, hidden)
    op, const = body.op, body.const
    state = [body.value(stem, _DOUBLE, hidden) for stem in ("h", "c")[: 1 + (of.kind == "lstm")]]
    entering = body.value("x", _FLOAT, gates * hidden)
    low, high = const(INT16[0]), const(INT16[1])

    def clip(value: ir.Value, width: int = 0) -> ir.Value:
        return op("Clip", value, low, high, width=width)

    def scaled(value: ir.Value, factor: object, role: str = "", width: int = 0) -> ir.Value:
        return op("Round", op("Mul", value, const(factor, role), width=width), width=width)

    def quantised(value: ir.Value, shift: int, bits: int = 16) -> ir.Value:
        """``requantise(value, shift, int<bits>)``."""
        made = scaled(value, 2.0**-shift)
        if bits == 16:
            return clip(made)
        return op("Clip", made, const(-(1 << (bits - 1))), const((1 << (bits - 1)) - 1))

    def look_up(table: Lookup, value: ir.Value, role: str) -> ir.Value:
        half = 1 << (table.bits - 1)
        index = scaled(value, 2.0**-table.shift) if table.shift else value
        index = op("Add", op("Clip", index, const(-half), const(half - 1)), const(half))
        index = op("Cast", index, dtype=_INT64, to=int(_INT64))
        return op("Gather", const(table.entries, role), index)

    x = op("Cast", entering, width=gates * hidden, to=int(_DOUBLE))
    if of.entry:
        x = op("Mul", x, const(2.0**-of.entry), width=gates * hidden)
    operand = state[0]
    if of.operand_shift or of.operand_bits != 16:
        operand = quantised(operand, of.operand_shift, of.operand_bits)
    sums = op("MatMul", operand, const(of.recurrent.T, "recurrent"), width=gates * hidden)
    if of.bias is not None:
        sums = op("Add", sums, const(of.bias, "bias"), width=gates * hidden)
    factors = np.exp2(-np.asarray(of.gate_shift, np.float64))
    g = clip(scaled(sums, factors, "gate_factor", gates * hidden), gates * hidden)
    if of.kind == "gru":
        (xr, xz, xn), (gr, gz, gn) = body.parts(x, 3, _DOUBLE), body.parts(g, 3, _DOUBLE)
        r = look_up(of.sigmoid, clip(op("Add", xr, gr)), "sigmoid")
        z = look_up(of.sigmoid, clip(op("Add", xz, gz)), "sigmoid")
        n = look_up(of.tanh, clip(op("Add", xn, quantised(op("Mul", r, gn), POINT))), "tanh")
        mixed = op("Mul", z, op("Sub", state[0], n))
        new = [quantised(op("Add", op("Mul", n, const(1 << POINT)), mixed), POINT)]
    else:
        if of.tanh_cell is None:
            raise ValueError("an LSTM has a table for its cell state")
        i, f, u, o = body.parts(clip(op("Add", x, g, width=gates * hidden), gates * hidden), 4, _DOUBLE)
        added = quantised(op("Mul", look_up(of.sigmoid, i, "sigmoid"), look_up(of.tanh, u, "tanh")), POINT)
        kept = op("Mul", look_up(of.sigmoid, f, "sigmoid"), state[1])
        c = quantised(op("Add", kept, op("Mul", added, const(1 << of.cell_bits))), POINT)
        shown = op("Mul", look_up(of.sigmoid, o, "sigmoid"), look_up(of.tanh_cell, c, "tanh_cell"))
        new = [quantised(shown, POINT), c]
    y = quantised(new[0], of.output_shift, of.output_bits)
    if of.exit:
        y = op("Mul", y, const(2.0**of.exit))
    y = op("Cast", y, dtype=_FLOAT, to=int(_FLOAT))
    return Written(body.graph([*state, entering], [*new, y]), body.roles)


def read_weights(node: ir.Node) -> Weights | None:
    """The float cell in a Scan; ``None`` where the body is not exactly one."""
    kind, body = node.metadata_props.get(CELL_KEY), body_of(node)
    if kind not in GATES or SPEC_KEY in node.metadata_props or body is None or not is_plain(node):
        return None
    arrays = [
        value.const_value.numpy() for value in body.initializers.values() if value.const_value is not None
    ]
    matrices = [array for array in arrays if array.ndim == 2]
    if len(matrices) != 1:
        return None
    rows, columns = matrices[0].shape[::-1]
    if rows != GATES[kind] * columns:
        return None
    blank, vector = np.zeros((rows, columns), np.float32), np.zeros(rows, np.float32)
    for bias in (None, vector):
        found = match(float_body(Weights("gru" if kind == "gru" else "lstm", blank, bias), *scratch()), body)
        if found is not None:
            made = found["recurrent"].T
            return Weights("gru" if kind == "gru" else "lstm", made, found.get("bias"))
    return None


def read_spec(node: ir.Node) -> Spec | None:
    """The integer cell in a Scan; ``None`` where the body is not exactly one."""
    body, text = body_of(node), node.metadata_props.get(SPEC_KEY)
    if body is None or text is None or not is_plain(node):
        return None
    try:
        plain = json.loads(text)
        template = _template(plain)
    except (ValueError, TypeError, KeyError, OverflowError):
        return None
    found = match(integer_body(template, *scratch()), body)
    if found is None:
        return None
    mantissa, exponent = np.frexp(found["gate_factor"])
    if np.any(mantissa != 0.5):
        return None

    try:
        return _filled(template, found, 1 - exponent.astype(np.int64))
    except ValueError:
        return None


def _filled(template: Spec, found: dict[str, np.ndarray], shift: np.ndarray) -> Spec:
    def table(old: Lookup, name: str) -> Lookup:
        return replace(old, entries=_whole(found[name]))

    inner = template.tanh_cell
    return replace(
        template, recurrent=_whole(found["recurrent"].T), gate_shift=shift,
        bias=None if template.bias is None else _whole(found["bias"]),
        sigmoid=table(template.sigmoid, "sigmoid"), tanh=table(template.tanh, "tanh"),
        tanh_cell=None if inner is None else table(inner, "tanh_cell"),
    )  # fmt: skip


def _template(plain: dict[str, Any]) -> Spec:
    rows = GATES[plain["kind"]] * int(plain["hidden"])

    def table(name: str) -> Lookup | None:
        if plain[name] is None:
            return None
        shift, bits = (int(number) for number in plain[name])
        if not 0 <= shift <= 15 or not 2 <= bits <= 12:
            raise ValueError(name)
        return Lookup(shift, bits, np.zeros(1 << bits))

    names = ("weight_bits", "operand_bits", "operand_shift", "output_shift", "output_bits")
    numbers = {name: int(plain[name]) for name in (*names, "cell_bits", "entry", "exit")}
    if not all(-64 <= number <= 64 for number in numbers.values()) or not 0 < rows < 1 << 20:
        raise ValueError("numbers out of range")
    sigmoid, tanh = table("sigmoid"), table("tanh")
    if sigmoid is None or tanh is None or (plain["tanh_cell"] is None) != (plain["kind"] == "gru"):
        raise ValueError("tables")
    return Spec(
        kind=plain["kind"], recurrent=np.zeros((rows, int(plain["hidden"]))),
        bias=np.zeros(rows) if plain["biased"] else None, gate_shift=np.zeros(rows, np.int64),
        sigmoid=sigmoid, tanh=tanh, tanh_cell=table("tanh_cell"), **numbers,
    )  # fmt: skip


def _whole(array: np.ndarray) -> np.ndarray:
    made = np.asarray(array, np.float64)
    if not np.array_equal(made, np.rint(made)):
        raise ValueError("a cell's array holds other than integers")
    return made.astype(np.int64)
