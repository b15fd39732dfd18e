"""State of one lowering: which MIL variable holds which value, names, element types, constants, decisions."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import numpy as np
import onnx_ir as ir

from rubicc.backends.coreml import tools
from rubicc.backends.coreml.lowering.facts import Facts, kind_of
from rubicc.backends.coreml.lowering.numbers import FLOAT_TYPES, to_half
from rubicc.backends.coreml.tools import Opset
from rubicc.errors import Unsupported
from rubicc.evidence.decision import Decision
from rubicc.ir.graph import Graph, source_of

Var = Any  # coremltools.converters.mil.mil.Var
Move = Callable[[np.ndarray], np.ndarray]
BUILDER_ERRORS = (
    ValueError, TypeError, AttributeError, AssertionError, IndexError, KeyError, RuntimeError
)  # fmt: skip
_SHARED = 1 << 12  # constants of this many bytes and more are written once however often they occur
_RESERVED = frozenset(
    ["any", "bool", "program", "func", "tensor", "list", "dict", "tuple", "true", "false", "string", "state"]
) | {f"{kind}{bits}" for kind in ("int", "uint", "bf", "fp") for bits in (8, 16, 32, 64)}


@dataclass(frozen=True)
class Weight:
    """Where a constant of the program comes from.

    Attributes:
        initializer: QONNX initializer (or value) that holds it.
        stored: how, e.g. ``fp16``, ``fp32 transposed``, ``int4 per block of 32``.
    """

    initializer: str
    stored: str


class Context(Facts):
    """What converters write with.

    Args:
        precision: ``fp16`` or ``fp32``: the type that floating values are computed in.
    """

    def __init__(self, graph: Graph, opset: Opset, precision: str) -> None:
        super().__init__(graph, opset)
        tools.coremltools()
        from coremltools.converters.mil.mil import Builder, types

        self.mb = Builder
        self.types = types
        self.dtype = precision
        self.decisions: dict[tuple[str, str, str], Decision] = {}
        self.weights: dict[str, Weight] = {}
        self.provenance: dict[str, str] = {}
        # value = expand_dims(variable, axis), if anyone asks
        self.expanded: dict[ir.Value, tuple[Var, int]] = {}
        self.preset: dict[ir.Value, Var] = {}  # values that an earlier node has already made
        self._vars: dict[ir.Value, Var] = {}
        self._lazy: dict[ir.Value, Callable[[], Var]] = {}
        self._constants: dict[tuple[Any, ...], Var] = {}
        self._arrays: dict[tuple[str, bytes], np.ndarray] = {}  # by type and content
        self._casts: dict[tuple[Var, str], Var] = {}
        self._names: set[str] = set()

    # Names -----------------------------------------------------------------------------------------------

    def unique(self, name: str) -> str:
        """A name as MIL wants it, not given before."""
        base = re.sub(r"[^a-zA-Z0-9_]", "_", name) or "value"
        if not re.match(r"[a-zA-Z_]", base):
            base = f"_{base}"
        if base in _RESERVED:
            base += "_"
        made, count = base, 0
        while made in self._names:
            count += 1
            made = f"{base}_{count}"
        self._names.add(made)
        return made

    def op(self, kind: str, node: ir.Node, part: str = "", /, **inputs: Any) -> Any:
        """One MIL operation named after ``node``; its output variable, or a tuple of them.

        Raises:
            Unsupported: ``RUB-COREML-107``, the builder refuses it.
        """
        name = self.unique(f"{node.name}_{part}" if part else f"{node.name}")
        self.provenance[name] = node.name or ""
        try:
            return getattr(self.mb, kind)(name=name, **inputs)
        except BUILDER_ERRORS as err:
            raise Unsupported(
                "RUB-COREML-107",
                f"{kind}: {str(err) or type(err).__name__}",
                where=f"node {node.name!r} from {source_of(node)}",
                hint="report it with `rubicc env`; --shapes fixed may avoid it",
            ) from err

    def decide(self, code: str, where: ir.Node | str, what: str, reason: str) -> None:
        """Record a choice; the same choice at the same place is recorded once."""
        place = where if isinstance(where, str) else source_of(where)
        self.decisions.setdefault((code, place, what), Decision(code, place, what, reason))

    # Values ----------------------------------------------------------------------------------------------

    def set(self, value: ir.Value, var: Var) -> None:
        """``value`` is held by ``var``."""
        self._vars[value] = var

    def postpone(self, value: ir.Value, make: Callable[[], Var]) -> None:
        """``value`` is made by ``make`` when first read."""
        self._lazy[value] = make

    def var(self, value: ir.Value | None, dtype: str | None = None) -> Var:
        """The variable that holds ``value``.

        Args:
            dtype: MIL type wanted; ``None`` casts floats to the program's precision and leaves others;
                ``"keep"`` changes nothing.
        """
        if value is None:
            raise ValueError("a required input is missing")
        if value not in self._vars and value in self._lazy:
            self._vars[value] = self._lazy.pop(value)()
        if value in self._vars:
            return self.cast(self._vars[value], dtype)
        if not self.is_constant(value):
            raise ValueError(f"value {value.name!r} is read before it is made")
        return self._constant_var(value, dtype)

    def _constant_var(self, value: ir.Value, dtype: str | None) -> Var:
        kind = kind_of(value)
        wanted = self.dtype if dtype in (None, "keep") and kind == "float" else dtype
        if kind == "float" and wanted in FLOAT_TYPES:
            return self.weight(value, dtype=wanted)
        array = self.constant(value)
        assert array is not None
        plain = array if kind == "bool" else to_int32(array) if kind == "int" else array.astype(np.float32)
        return self.cast(self.const(plain, value.name or "constant"), None if dtype == "keep" else dtype)

    def weight(
        self,
        value: ir.Value,
        change: Move | None = None,
        how: str = "",
        *,
        moves: bool = True,
        dtype: str | None = None,
        role: str = "mask",
    ) -> Var:
        """A constant floating value, compressed where its graph says so; made once for all who ask alike.

        Args:
            change: applied before conversion (``how`` names it, and tells it from others).
            moves: ``change`` only moves elements; where it computes, a compressed weight is stored plain.
            role: ``mask`` or ``bound``, see :func:`rubicc.backends.coreml.lowering.numbers.to_half`.
        """
        dtype = dtype or self.dtype
        key = ("weight", value, how, dtype, role)
        if key not in self._constants:
            var = self._compressed(value, change) if moves and dtype == self.dtype else None
            self._constants[key] = self._plain(value, change, how, dtype, role) if var is None else var
        return self._constants[key]

    def _compressed(self, value: ir.Value, change: Move | None) -> Var | None:
        from rubicc.backends.coreml import compress

        return compress.constant(value, self, change=change)

    def _plain(self, value: ir.Value, change: Move | None, how: str, dtype: str, role: str) -> Var:
        array = self.constant(value)
        assert array is not None
        name = f"{value.name}_{how}" if how else f"{value.name}"
        var = self.const(self.number(change(array) if change else array, dtype, name, role), name)
        stored = " ".join(part for part in (dtype, how) if part)
        self.weights.setdefault(var.name, Weight(value.name or "", stored))
        return var

    def number(self, array: Any, dtype: str, where: str, role: str = "mask") -> np.ndarray:
        """``array`` in ``dtype``; what leaves float16's range is brought back, with a Decision."""
        array = np.asarray(array)
        if dtype == "fp32":
            return array.astype(np.float32, copy=False)
        half, clipped = to_half(array, role)
        if clipped:
            self.decide(
                "RUB-COREML-D11",
                where,
                f"{clipped.number} of {array.size} values beyond float16 become {clipped.value:g}",
                "float16 ends at 65504, and infinities make NaN of masked softmax rows",
            )
        return half

    def const(self, array: np.ndarray, name: str) -> Var:
        """A constant as it is; large ones with equal content become one, or share memory in another shape."""
        array = np.asarray(array)
        if array.nbytes < _SHARED:
            return self.mb.const(val=array if array.ndim else array[()], name=self.unique(name))
        array = np.ascontiguousarray(array)
        digest = blake2b(array.reshape(-1).view(np.uint8).data, digest_size=16).digest()
        array = self._arrays.setdefault((array.dtype.str, digest), array).reshape(array.shape)
        key = ("bytes", array.dtype.str, array.shape, digest)
        if key not in self._constants:
            self._constants[key] = self.mb.const(val=array, name=self.unique(name))
        return self._constants[key]

    def scalar_like(self, var: Var, number: float, role: str = "mask") -> Any:
        """A numpy scalar of ``var``'s type."""
        dtype = self.type_of(var)
        if dtype in FLOAT_TYPES:
            return self.number(np.float64(number), dtype, "scalar", role)[()]
        return np.int32(number)

    def type_of(self, var: Var) -> str:
        """``fp16``, ``fp32``, ``int32``, ``bool``, ``int8`` …"""
        return self.types.builtin_to_string(var.dtype)

    def cast(self, var: Var, dtype: str | None, name: str = "") -> Var:
        """``var`` in ``dtype`` (``None``: floats in the program's precision, others as they are)."""
        have = self.type_of(var)
        if dtype is None:
            dtype = self.dtype if have in FLOAT_TYPES else have
        if dtype in ("keep", have):
            return var
        key = (var, dtype)
        if key not in self._casts:
            source = var.op
            floats = have in FLOAT_TYPES and dtype in FLOAT_TYPES
            if floats and source is not None and source.op_type == "cast" and self.type_of(source.x) == dtype:
                self._casts[key] = source.x  # there and back: the value before is the more exact one
            else:
                made = self.unique(f"{var.name}_{dtype}")
                self.provenance[made] = self.provenance.get(source.name, "") if source is not None else ""
                self._casts[key] = self.mb.cast(x=var, dtype=dtype, name=made)
        return self._casts[key]


def to_int32(array: np.ndarray) -> np.ndarray:
    """Integers as int32; ``INT64_MAX`` and its kind, which mean "to the end", saturate."""
    info = np.iinfo(np.int32)
    return np.clip(array, info.min, info.max).astype(np.int32)
