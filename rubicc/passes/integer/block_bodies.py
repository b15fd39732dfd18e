"""Layer normalisation and attention as bodies of an ONNX ``Scan`` over sequences: in float, and in integers.

A body takes one sequence ``(T, C)``. For attention the channels stand head by head, queries, keys and values
of a head one after the other, and the scale of the scores is in the queries. The integer bodies are standard
ONNX in float64, exact because every number stays below 2**53:

Norm (``q(v, s)`` rounds half to even and saturates to int16; C channels, ``V = ceil(log2 C)``)::

    m = q(sum(x) * round(2**15 / C), 15 - f)            mean, f bits finer than x
    d = sat16((x << f) - m)
    r = floor(2**30 / floor(sqrt(floor_ + sum over lanes of round(sum over blocks of d*d, V))))
    y = requantise(q(d * r, 19) * gain + offset, shift)

Attention, for each head (``g`` is the exponent of the table, entries are round(255 * exp(-i * 2**g)))::

    s = q(Q K', score_shift)                            scores, steps of 2**g
    e = entries[min(max over keys of s - s, 1023)]      softmax without its sum
    y = requantise((e V) * floor(2**30 / sum of e), output_shift)

The sum divides what the weights made of the values, not the weights: 8 bits hold each of them with the same
step whatever the number of keys, and nothing is rounded between the two products. As for cells, bodies are
never read by looking at them but built again and compared.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx_ir as ir

from rubicc.ir.ops.quant import int_range
from rubicc.passes.integer.bodies import Body, Name, Stamp, Written, body_of, is_plain, match, scratch

BLOCK_KEY = "rubicc.block"  # on a Scan: "norm" or "attention"
FLOAT_KEY = "rubicc.block_shape"  # on a float one: what its body is built from
SPEC_KEY = "rubicc.block_spec"  # on an integer one: every number of its body that is no array
LANES = 8  # channels summed side by side
RECIPROCAL = 30  # bits of a reciprocal
NORM_BITS = 11  # behind the point of a normalised value
INDEX_BITS = 10  # of the table of exponentials
LARGEST = 255  # its first entry
_FLOAT, _DOUBLE, _INT64 = ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.INT64


@dataclass(frozen=True, eq=False)
class Norm:
    """Layer normalisation over the channels in float; ``gain`` and ``offset`` are ``(C,)``."""

    gain: np.ndarray
    offset: np.ndarray
    epsilon: float

    kind = "norm"

    @property
    def channels(self) -> tuple[int, int]:
        """Of the input and of the output."""
        return len(self.gain), len(self.gain)

    def shape(self) -> str:
        """For :data:`FLOAT_KEY`."""
        return json.dumps({"channels": len(self.gain), "epsilon": self.epsilon})


@dataclass(frozen=True)
class Attention:
    """Attention in float: ``heads`` of ``depth`` channels."""

    heads: int
    depth: int

    kind = "attention"

    @property
    def channels(self) -> tuple[int, int]:
        """Of the input and of the output."""
        return 3 * self.heads * self.depth, self.heads * self.depth

    def shape(self) -> str:
        """For :data:`FLOAT_KEY`."""
        return json.dumps({"heads": self.heads, "depth": self.depth})


@dataclass(frozen=True, eq=False, kw_only=True)
class Spec(ABC):
    """What both integer blocks have.

    Attributes:
        output_bits, output_signed: of the result.
        entry, exit: exponents of input and output where they are still real numbers on their grids.
    """

    output_bits: int
    output_signed: bool = True
    entry: int = 0
    exit: int = 0

    def scalars(self) -> str:
        """Everything but the arrays, for :data:`SPEC_KEY`."""
        plain = {k: v for k, v in vars(self).items() if not isinstance(v, np.ndarray)}
        return json.dumps({**plain, **self.sizes()}, sort_keys=True)

    @abstractmethod
    def sizes(self) -> dict[str, int]:
        """Sizes of the arrays."""


@dataclass(frozen=True, eq=False, kw_only=True)
class NormSpec(Spec):
    """Layer normalisation in integers.

    Attributes:
        gain, offset: int64 ``(C,)``.
        finer: bits the mean has below the input's step.
        floor: added to the sum of squares.
        shift: bits dropped of the result.
    """

    gain: np.ndarray
    offset: np.ndarray
    finer: int
    floor: int
    shift: int

    kind = "norm"

    @property
    def mean_factor(self) -> int:
        """``2**15 / C``."""
        return round((1 << 15) / len(self.gain))

    @property
    def spread_shift(self) -> int:
        """Bits dropped of sums of squares, so that no sequence whatever leaves 31 bits."""
        return (len(self.gain) - 1).bit_length()

    @property
    def channels(self) -> tuple[int, int]:
        """Of the input and of the output."""
        return len(self.gain), len(self.gain)

    def sizes(self) -> dict[str, int]:
        """See :class:`Spec`."""
        return {"channels": len(self.gain)}


@dataclass(frozen=True, eq=False, kw_only=True)
class AttentionSpec(Spec):
    """Attention in integers.

    Attributes:
        heads, depth: heads and channels of each.
        score_shift: bits dropped of the scores.
        entries: int64 ``(1024,)``, falling, the first one at least 1.
        output_shift: bits dropped of the result, which has 30 too many.
    """

    heads: int
    depth: int
    score_shift: int
    entries: np.ndarray
    output_shift: int

    kind = "attention"

    @property
    def channels(self) -> tuple[int, int]:
        """Of the input and of the output."""
        return 3 * self.heads * self.depth, self.heads * self.depth

    def sizes(self) -> dict[str, int]:
        """See :class:`Spec`."""
        return {}


class _Writer(Body):
    """Nodes on ``(T, ...)`` arrays."""

    def dims(self, array: Sequence[int]) -> ir.Value:
        """Numbers of a shape or of axes."""
        return self.const(list(array), dtype=_INT64)

    def ops(
        self, kind: str, inputs: tuple[ir.Value, ...], outputs: int, width: int, dtype: ir.DataType,
        attributes: dict[str, Any],
    ) -> list[ir.Value]:  # fmt: skip
        """See :class:`Body`; shapes follow from those of the inputs."""
        made = super().ops(kind, inputs, outputs, width, dtype, attributes)
        for value in made:
            value.shape = ir.Shape(_dims(kind, inputs, attributes))
        return made

    def over(self, kind: str, value: ir.Value, axis: int, keep: int = 1) -> ir.Value:
        """A reduction over one axis."""
        return self.op(kind, value, self.dims([axis]), keepdims=keep)

    def clip(self, value: ir.Value, bits: int = 16, signed: bool = True) -> ir.Value:
        """Saturated."""
        low, high = int_range(bits, signed, narrow=False)
        return self.op("Clip", value, self.const(low), self.const(high))

    def rounded(self, value: ir.Value, shift: int) -> ir.Value:
        """``round(value * 2**-shift)``."""
        return self.op("Round", self.op("Mul", value, self.const(2.0**-shift)))

    def turned(self, value: ir.Value, perm: Sequence[int], dtype: ir.DataType) -> ir.Value:
        """Axes in another order."""
        return self.ops("Transpose", (value,), 1, 0, dtype, {"perm": list(perm)})[0]

    def heads(self, x: ir.Value, heads: int, depth: int, dtype: ir.DataType) -> list[ir.Value]:
        """``(heads, T, depth)`` queries, keys turned to ``(heads, depth, T)``, values."""
        split = self.op("Reshape", x, self.dims([-1, heads, 3 * depth]), dtype=dtype)
        split = self.turned(split, (1, 0, 2), dtype)
        query, key, value = self.ops("Split", (split, self.dims([depth] * 3)), 3, 0, dtype, {"axis": -1})
        return [query, self.turned(key, (0, 2, 1), dtype), value]

    def joined(self, made: ir.Value, width: int, dtype: ir.DataType) -> ir.Value:
        """``(heads, T, depth)`` to ``(T, width)``."""
        return self.op("Reshape", self.turned(made, (1, 0, 2), dtype), self.dims([-1, width]), dtype=dtype)


def _dims(kind: str, inputs: tuple[ir.Value, ...], attributes: dict[str, Any]) -> list[Any]:
    """Dimensions of a node's outputs, as far as bodies need it; None where they depend on T."""
    shapes: list[list[Any]] = [list(value.shape) if value.shape is not None else [] for value in inputs]
    numbers = [v.const_value.numpy().tolist() if v.const_value is not None else None for v in inputs]
    if kind == "Reshape":
        return [None if size < 0 else size for size in numbers[1]]  # type: ignore[union-attr]
    if kind == "Transpose":
        return [shapes[0][axis] for axis in attributes["perm"]]
    if kind == "Split":
        return [*shapes[0][:-1], numbers[1][0]]  # type: ignore[index]
    if kind == "MatMul":
        return [*shapes[0][:-1], shapes[1][-1]]
    if kind == "Gather":
        return shapes[1]
    if kind.startswith("Reduce"):
        dims, axis = list(shapes[0]), numbers[1][0]  # type: ignore[index]
        dims[axis] = 1
        return dims if attributes["keepdims"] else [d for n, d in enumerate(dims) if n != axis]
    if kind == "LayerNormalization":
        return shapes[0]
    rank = max(len(shape) for shape in shapes)
    whole = [[1] * (rank - len(shape)) + shape for shape in shapes]
    return [next((size for size in sizes if size != 1), 1) for sizes in zip(*whole, strict=True)]


def float_body(of: Norm | Attention, name: Name, stamp: Stamp) -> Written:
    """One sequence in float32."""
    body = _Writer(name, stamp, of.channels[1])
    x = body.value("x", _FLOAT, of.channels[0])
    if isinstance(of, Norm):
        scale, bias = body.const(of.gain, "gain", _FLOAT), body.const(of.offset, "offset", _FLOAT)
        attributes: dict[str, Any] = {"axis": -1, "epsilon": of.epsilon, "stash_type": 1}
        y = body.ops("LayerNormalization", (x, scale, bias), 1, 0, _FLOAT, attributes)[0]
    else:
        query, key, value = body.heads(x, of.heads, of.depth, _FLOAT)
        scores = body.op("MatMul", query, key, dtype=_FLOAT)
        weights = body.op("Softmax", scores, dtype=_FLOAT, axis=-1)
        y = body.joined(body.op("MatMul", weights, value, dtype=_FLOAT), of.channels[1], _FLOAT)
    return Written(body.graph([x], [y]), body.roles)


def integer_body(of: NormSpec | AttentionSpec, name: Name, stamp: Stamp) -> Written:
    """One sequence in integers held as float64."""
    body = _Writer(name, stamp, of.channels[1])
    entering = body.value("x", _FLOAT, of.channels[0])
    x = body.op("Cast", entering, to=int(_DOUBLE))
    if of.entry:
        x = body.op("Mul", x, body.const(2.0**-of.entry))
    y = _norm(body, x, of) if isinstance(of, NormSpec) else _attention(body, x, of)
    y = body.clip(y, of.output_bits, of.output_signed)
    if of.exit:
        y = body.op("Mul", y, body.const(2.0**of.exit))
    y = body.op("Cast", y, dtype=_FLOAT, to=int(_FLOAT))
    return Written(body.graph([entering], [y]), body.roles)


def _norm(body: _Writer, x: ir.Value, of: NormSpec) -> ir.Value:
    op, const = body.op, body.const
    mean = op("Mul", body.over("ReduceSum", x, -1), const(float(of.mean_factor)))
    mean = body.clip(body.rounded(mean, 15 - of.finer))
    away = body.clip(op("Sub", op("Mul", x, const(2.0**of.finer)), mean))
    lanes = op("Reshape", op("Mul", away, away), body.dims([-1, len(of.gain) // LANES, LANES]))
    lanes = body.rounded(body.over("ReduceSum", lanes, 1, keep=0), of.spread_shift)
    spread = op("Add", body.over("ReduceSum", lanes, -1), const(float(of.floor)))
    root = op("Floor", op("Sqrt", spread))
    inverse = op("Floor", op("Div", const(2.0**RECIPROCAL), root))
    normal = body.clip(body.rounded(op("Mul", away, inverse), RECIPROCAL - NORM_BITS))
    made = op("Add", op("Mul", normal, const(of.gain, "gain")), const(of.offset, "offset"))
    return body.rounded(made, of.shift)


def _attention(body: _Writer, x: ir.Value, of: AttentionSpec) -> ir.Value:
    op, const = body.op, body.const
    query, key, value = body.heads(x, of.heads, of.depth, _DOUBLE)
    scores = body.clip(body.rounded(op("MatMul", query, key), of.score_shift))
    below = op("Sub", body.over("ReduceMax", scores, -1), scores)
    index = op("Cast", op("Min", below, const(float(len(of.entries) - 1))), dtype=_INT64, to=int(_INT64))
    weights = op("Gather", const(of.entries, "entries"), index)
    inverse = op("Floor", op("Div", const(2.0**RECIPROCAL), body.over("ReduceSum", weights, -1)))
    made = op("Mul", op("MatMul", weights, value), inverse)
    return body.joined(body.rounded(made, of.output_shift), of.channels[1], _DOUBLE)


def read_float(node: ir.Node) -> Norm | Attention | None:
    """The float block in a Scan; ``None`` where the body is not exactly one."""
    body, text = body_of(node), node.metadata_props.get(FLOAT_KEY)
    if body is None or text is None or not is_plain(node):
        return None
    try:
        plain = json.loads(text)
        if node.metadata_props.get(BLOCK_KEY) == "norm":
            blank = np.zeros(int(plain["channels"]), np.float32)
            template: Norm | Attention = Norm(blank, blank, float(plain["epsilon"]))
        else:
            template = Attention(int(plain["heads"]), int(plain["depth"]))
    except (ValueError, TypeError, KeyError):
        return None
    found = match(float_body(template, *scratch()), body)
    if found is None:
        return None
    if isinstance(template, Norm):
        return replace(template, gain=found["gain"], offset=found["offset"])
    return template


def read_spec(node: ir.Node) -> NormSpec | AttentionSpec | None:
    """The integer block in a Scan; ``None`` where the body is not exactly one."""
    body, text = body_of(node), node.metadata_props.get(SPEC_KEY)
    if body is None or text is None or not is_plain(node):
        return None
    try:
        plain = dict(json.loads(text))
        if not all(isinstance(v, (int, bool)) and -(1 << 31) <= v < 1 << 31 for v in plain.values()):
            return None
        if node.metadata_props.get(BLOCK_KEY) == "norm":
            blank = np.zeros(int(plain.pop("channels")), np.int64)
            template: NormSpec | AttentionSpec = NormSpec(**plain, gain=blank, offset=blank)
        else:
            template = AttentionSpec(**plain, entries=np.zeros(1 << INDEX_BITS, np.int64))
        found = match(integer_body(template, *scratch()), body)
    except (ValueError, TypeError, KeyError, OverflowError, ZeroDivisionError):
        return None
    if found is None:
        return None
    whole = {name: np.asarray(array, np.float64) for name, array in found.items()}
    if any(not np.array_equal(array, np.rint(array)) for array in whole.values()):
        return None
    arrays = {name: array.astype(np.int64) for name, array in whole.items()}
    if isinstance(template, NormSpec):
        return replace(template, gain=arrays["gain"], offset=arrays["offset"])
    return replace(template, entries=arrays["entries"])
