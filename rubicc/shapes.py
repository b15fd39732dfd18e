"""Shapes that a target with fixed or bounded inputs is compiled for: the text and meaning of ``--shapes``.

Symbols of a network (``N``, ``T``) become numbers: one each (``fixed``), one of a list (``enumerated``),
or any from a low to a high end (``range``).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from rubicc.errors import UsageError
from rubicc.quantities import MAX_DIM
from rubicc.spec import Dim, ModelMeta, TensorSpec

Kind = Literal["fixed", "enumerated", "range"]
KINDS: tuple[Kind, ...] = ("fixed", "enumerated", "range")
MAX_CHOICES = 128  # Core ML's limit on enumerated shapes
DEFAULT_TOKENS = 512
MAX_BATCH = 8  # of `--shapes range`
_BOUNDS = re.compile(r"(\d{1,10})(?:\.\.(\d{1,10}))?")
_HINT = "fixed, enumerated, range, x=1x1x4000, x=1x1x2000,1x1x4000 or x=1..8x1x400..16000"

Bounds = tuple[int, int]


@dataclass(frozen=True)
class InputShape:
    """What one input may be.

    Attributes:
        dims: the network's own dimensions, with their symbols.
        default: the shape where one is needed, e.g. what Xcode shows.
        bounds: lowest and highest size per axis.
        choices: one shape per assignment, the default first; empty unless the kind is ``enumerated``.
    """

    name: str
    dtype: str
    dims: tuple[Dim, ...]
    default: tuple[int, ...]
    bounds: tuple[Bounds, ...]
    choices: tuple[tuple[int, ...], ...] = ()

    def takes(self, shape: Sequence[int]) -> bool:
        """Whether an array of this shape may be given."""
        if self.choices:
            return tuple(shape) in self.choices
        pairs = zip(shape, self.bounds, strict=False)
        return len(shape) == len(self.bounds) and all(low <= size <= high for size, (low, high) in pairs)

    def describe(self) -> str:
        """For people: ``1 x 1 x 4000``, ``1 x 1 x 2000 or 1 x 1 x 4000``, ``1..8 x 1 x 400..16000``."""
        if self.choices:
            return " or ".join(" x ".join(map(str, shape)) for shape in dict.fromkeys(self.choices))
        return " x ".join(str(low) if low == high else f"{low}..{high}" for low, high in self.bounds)


@dataclass(frozen=True)
class Shapes:
    """Shapes of every input of a network.

    Attributes:
        inputs: in the network's order.
        assignments: numbers for all symbols, one mapping per shape that may be asked for: the default first,
            then the other choices, or the two ends of a range.
    """

    kind: Kind
    inputs: tuple[InputShape, ...]
    assignments: tuple[Mapping[str, int], ...]

    @property
    def default(self) -> Mapping[str, int]:
        """Numbers for all symbols in the default shape."""
        return self.assignments[0]

    @property
    def bound(self) -> dict[str, int]:
        """Symbols that have one number only; the others stay symbols in the program."""
        return {
            symbol: size
            for symbol, size in self.default.items()
            if all(other[symbol] == size for other in self.assignments)
        }

    def of(self, name: str) -> InputShape:
        """The input called ``name``."""
        return next(item for item in self.inputs if item.name == name)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {"kind": self.kind, "inputs": [asdict(item) for item in self.inputs]} | {
            "assignments": [dict(one) for one in self.assignments]
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Shapes:
        """Inverse of :meth:`to_dict` (lists become tuples).

        Raises:
            KeyError, TypeError, ValueError: not such a mapping.
        """
        inputs = tuple(
            InputShape(
                str(item["name"]),
                str(item["dtype"]),
                tuple(item["dims"]),
                _whole(item["default"]),
                tuple((int(low), int(high)) for low, high in item["bounds"]),
                tuple(_whole(shape) for shape in item["choices"]),
            )
            for item in data["inputs"]
        )
        if data["kind"] not in KINDS or not data["assignments"]:
            raise ValueError("not the shapes of a network")
        assignments = tuple({str(k): int(v) for k, v in one.items()} for one in data["assignments"])
        return cls(data["kind"], inputs, assignments)


def _whole(values: Sequence[Any]) -> tuple[int, ...]:
    return tuple(int(value) for value in values)


def parse_shapes(text: str) -> Kind | dict[str, list[tuple[Bounds, ...]]]:
    """``--shapes``: one of :data:`KINDS`, or bounds per axis of every shape by input name.

    ``x=1x1x2000,1x1x4000`` lists shapes, ``x=1..8x1x400..16000`` gives a range; ``;`` stands between
    inputs.

    Raises:
        UsageError: ``RUB-CLI-003``.
    """
    text = str(text).strip()
    for kind in KINDS:
        if text == kind:
            return kind
    found: dict[str, list[tuple[Bounds, ...]]] = {}
    for part in text.split(";"):
        name, sep, shapes = part.partition("=")
        rows = [_shape(shape.strip(), text) for shape in shapes.split(",")]
        ranged = any(low != high for row in rows for low, high in row)
        if not sep or not name.strip() or name.strip() in found or (ranged and len(rows) > 1):
            raise _unreadable(text)
        found[name.strip()] = rows
    return found


def _shape(text: str, whole: str) -> tuple[Bounds, ...]:
    bounds = []
    for part in text.split("x"):
        match = _BOUNDS.fullmatch(part.strip())
        if match is None:
            raise _unreadable(whole)
        low = int(match[1])
        high = int(match[2] or match[1])
        if not 1 <= low <= high <= MAX_DIM:
            raise _unreadable(whole)
        bounds.append((low, high))
    return tuple(bounds)


def resolve_shapes(specs: Sequence[TensorSpec], meta: ModelMeta | None, text: str) -> Shapes:
    """What ``--shapes`` means for a network.

    Where it names a kind only: one item, at the network's chunk length, longest sequence, or
    :data:`DEFAULT_TOKENS` tokens; ``enumerated`` adds a quarter and half of that; ``range`` takes 1 to
    :data:`MAX_BATCH` items of a sixteenth to four times the length (tokens: 1 to the longest sequence).

    Args:
        specs: inputs of the network, free dimensions as symbols.

    Raises:
        UsageError: ``RUB-CLI-003`` the text; ``RUB-SPEC-003`` it does not fit the inputs, or nothing says
            how long they are.
    """
    asked = parse_shapes(text)
    if isinstance(asked, str):
        assignments = _usual(specs, meta, asked)
        return _shapes(asked, specs, assignments)
    known = {spec.name for spec in specs}
    for name in asked:
        if name not in known:
            raise _unfit(f"--shapes names {name!r}", f"inputs: {', '.join(sorted(known))}")
    count = max(map(len, asked.values()))
    if any(len(rows) not in (1, count) for rows in asked.values()):
        raise _unfit("--shapes lists different numbers of shapes", "list as many for every input, or one")
    if count > MAX_CHOICES:
        raise _unfit(f"--shapes lists {count} shapes", f"Core ML takes at most {MAX_CHOICES}")
    rows = [_bounds_of(specs, {name: r[i % len(r)] for name, r in asked.items()}, meta) for i in range(count)]
    if count > 1:
        return _shapes("enumerated", specs, [{s: low for s, (low, _) in row.items()} for row in rows])
    (row,) = rows
    if all(low == high for low, high in row.values()):
        return _shapes("fixed", specs, [{s: low for s, (low, _) in row.items()}])
    default = {s: min(max(_usual_size(specs, meta, s, high), low), high) for s, (low, high) in row.items()}
    ends = [{s: ends[i] for s, ends in row.items()} for i in (0, 1)]
    return _shapes("range", specs, [default, *ends])


def _shapes(kind: Kind, specs: Sequence[TensorSpec], rows: Sequence[Mapping[str, int]]) -> Shapes:
    rows = [dict(row) for row in rows]
    unique = [row for index, row in enumerate(rows) if row not in rows[:index]]
    if len(unique) == 1:
        kind = "fixed"
    return Shapes(kind, tuple(_input(kind, spec, unique) for spec in specs), tuple(unique))


def _input(kind: Kind, spec: TensorSpec, rows: Sequence[Mapping[str, int]]) -> InputShape:
    shapes = [tuple(row[d] if isinstance(d, str) else d for d in spec.shape) for row in rows]
    bounds = tuple((min(sizes), max(sizes)) for sizes in zip(*shapes, strict=True))
    choices = tuple(shapes) if kind == "enumerated" else ()
    return InputShape(spec.name, spec.dtype, spec.shape, shapes[0], bounds, choices)


def _bounds_of(
    specs: Sequence[TensorSpec], asked: Mapping[str, tuple[Bounds, ...]], meta: ModelMeta | None
) -> dict[str, Bounds]:
    """Bounds per symbol from the bounds per axis of some inputs; other symbols take their usual size."""
    found: dict[str, Bounds] = {}
    for spec in specs:
        given = asked.get(spec.name)
        if given is None:
            continue
        if len(given) != len(spec.shape):
            raise _unfit(f"--shapes gives {spec.name!r} {len(given)} dimensions", f"it has {len(spec.shape)}")
        for axis, (dim, bounds) in enumerate(zip(spec.shape, given, strict=True)):
            if isinstance(dim, int) and bounds != (dim, dim):
                raise _unfit(f"--shapes changes axis {axis} of {spec.name!r}", f"the network has {dim}")
            if isinstance(dim, str) and found.setdefault(dim, bounds) != bounds:
                raise _unfit(f"--shapes gives {dim} two sizes", "axes of one symbol are equal")
    missing = {dim for spec in specs for dim in spec.shape if isinstance(dim, str)} - set(found)
    if missing:
        usual = _usual(specs, meta, "fixed", {symbol: high for symbol, (_, high) in found.items()})[0]
        found |= {symbol: (usual[symbol], usual[symbol]) for symbol in missing}
    return found


def _usual(
    specs: Sequence[TensorSpec], meta: ModelMeta | None, kind: Kind, given: Mapping[str, int] | None = None
) -> list[dict[str, int]]:
    """Rows of numbers for all symbols where only the kind was asked for."""
    rows: list[dict[str, int]] = [{}, {}, {}]
    for spec in specs:
        for axis, dim in enumerate(spec.shape):
            if not isinstance(dim, str) or dim in rows[0]:
                continue
            if given is not None and dim in given:
                sizes = [given[dim]] * 3
            elif axis == 0:
                sizes = [1, 1, MAX_BATCH if kind == "range" else 1]
            else:
                sizes = _lengths(spec, dim, meta, kind)
            for row, size in zip(rows, sizes, strict=True):
                row[dim] = size
    return rows[:1] if kind == "fixed" else rows


def _usual_size(specs: Sequence[TensorSpec], meta: ModelMeta | None, symbol: str, other: int) -> int:
    """The usual number for a symbol; ``other`` where nothing says one."""
    try:
        return _usual([spec for spec in specs if symbol in spec.shape], meta, "fixed")[0][symbol]
    except UsageError:
        return other


def _lengths(spec: TensorSpec, symbol: str, meta: ModelMeta | None, kind: Kind) -> list[int]:
    """Usual, shorter and other length (``enumerated``) or usual, lowest and highest (``range``)."""
    config = meta.config if meta is not None else {}
    if not spec.dtype.startswith("float"):
        longest = config.get("max_position_embeddings")
        length = longest if isinstance(longest, int) and longest > 0 else DEFAULT_TOKENS
        return [length, 1, length] if kind == "range" else [length, max(1, length // 4), max(1, length // 2)]
    if meta is None or meta.chunk is None:
        raise _unfit(
            f"nothing says how long {symbol} of input {spec.name!r} is",
            f"give it: --shapes '{spec.name}={'x'.join('4000' if d == symbol else '1' for d in spec.shape)}'",
        )
    chunk, step = meta.chunk, meta.stride or 1
    if kind == "range":
        return [chunk, _round_up(chunk // 16, step), 4 * chunk]
    return [chunk, _round_up(chunk // 4, step), _round_up(chunk // 2, step)]


def _round_up(value: int, step: int) -> int:
    return max(step, -(-value // step) * step)


def _unreadable(text: str) -> UsageError:
    return UsageError("RUB-CLI-003", f"--shapes: cannot read {text[:80]!r}", hint=_HINT)


def _unfit(what: str, hint: str) -> UsageError:
    return UsageError("RUB-SPEC-003", what, hint=hint)
