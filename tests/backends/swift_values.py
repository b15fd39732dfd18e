"""Values of Swift for :mod:`swift_machine`: numbers with a type, arrays and structures that are copied.

Stricter than Python where Swift is: numbers of two types do not meet in one operation, integers do not
wrap, an index out of bounds and a range that goes backwards end the program.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any


class SwiftError(Exception):
    """What Swift's compiler would refuse, or what would stop the app."""


class Thrown(Exception):
    """A Swift error on its way to a ``catch``."""

    def __init__(self, value: Any) -> None:
        super().__init__(repr(value))
        self.value = value


class _Whole(int):
    low, high = 0, 0


class Int(_Whole):
    low, high = -(1 << 63), (1 << 63) - 1


class Int16(_Whole):
    low, high = -(1 << 15), (1 << 15) - 1


class Int32(_Whole):
    low, high = -(1 << 31), (1 << 31) - 1


class UInt8(_Whole):
    low, high = 0, 255


class UInt32(_Whole):
    low, high = 0, (1 << 32) - 1


class Double(float):
    pass


class Float(float):
    pass


class Scalar(str):
    """``Unicode.Scalar``"""


class Character(str):
    pass


NUMBERS = {kind.__name__: kind for kind in (Int, Int16, Int32, UInt8, UInt32, Double, Float)}
NAMED: dict[str, type] = {**NUMBERS, "String": str, "Bool": bool, "Character": Character}
NAMED["Unicode.Scalar"] = Scalar


def typed(kind: Any, value: Any) -> Any:
    """``value`` as ``kind``, rounded, its range checked."""
    if issubclass(kind, _Whole):
        if not kind.low <= value <= kind.high:
            raise SwiftError(f"{value} overflows {kind.__name__}")
        return int.__new__(kind, value)
    return Float(ctypes.c_float(value).value) if kind is Float else kind(value)


def is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def is_literal(value: Any) -> bool:
    """A number without a type yet."""
    return type(value) is int or type(value) is float


def _common(a: Any, b: Any) -> type:
    first, second = type(a), type(b)
    if first is second and is_number(a):
        return first
    if is_number(a) and is_number(b):
        if first is int or (first is float and issubclass(second, float)):
            return second
        if second is int or (second is float and issubclass(first, float)):
            return first
    raise SwiftError(f"{first.__name__} and {second.__name__} in one operation")


class Array(list[Any]):
    """An array; ``element`` is the type of its values once it is known."""

    def __init__(self, values: Iterable[Any] = (), element: Any = None) -> None:
        super().__init__(values)
        self.element = element

    def place(self, index: Any, end: int = 0) -> int:
        if type(index) not in (Int, int) or not 0 <= index < len(self) + end:
            raise SwiftError(f"index {index!r} of {len(self)}")
        return int(index)


class Slice(Array):
    """``ArraySlice``: its indices are those of the array, so nothing here may ask for one."""


class Range:
    def __init__(self, low: Any, high: Any) -> None:
        _common(low, high)
        if low > high:
            raise SwiftError(f"range {low}..<{high}")
        self.low, self.high = int(low), int(high)

    def __iter__(self) -> Iterator[Int]:
        return map(Int, range(self.low, self.high))


class Struct:
    """An instance of a structure or of an enumeration's case with values."""

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self.__dict__ == other.__dict__

    def __repr__(self) -> str:
        return f"{type(self).__name__}{self.__dict__}"


class Labelled(tuple[Any, ...]):
    labels: tuple[str, ...] = ()


def settle(value: Any) -> Any:
    """What a new name holds: literals get their own type, values are copied."""
    if type(value) is int:
        return typed(Int, value)
    if type(value) is float:
        return Double(value)
    if isinstance(value, Array):
        found = type(value)(value, value.element)
        if found.element is None and found:
            kind = Double if any(type(item) is float for item in found) else None
            found[:] = [typed(kind, item) if kind else settle(item) for item in found]
            found.element = type(found[0]) if is_number(found[0]) else None
        return found
    if isinstance(value, Struct):
        copy = object.__new__(type(value))
        copy.__dict__ = {name: settle(held) for name, held in value.__dict__.items()}
        return copy
    return dict(value) if type(value) is dict else value


def take(kind: Any, value: Any) -> Any:
    """``value`` where ``kind`` is declared; see :func:`swift_machine.Reader.type`."""
    form, *parts = kind
    if form == "optional":
        return None if value is None else take(parts[0], value)
    if value is None:
        raise SwiftError(f"nil where {kind} belongs")
    if form == "array" and isinstance(value, Array):
        if isinstance(value, Slice):
            raise SwiftError("ArraySlice where an array belongs")
        element = NUMBERS.get(parts[0][-1]) if parts[0][0] == "name" else None
        if value.element is not None and element is not None and value.element is not element:
            raise SwiftError(f"array of {value.element.__name__} where {kind} belongs")
        if element is not None and value.element is element:
            return value
        return Array((take(parts[0], held) for held in value), element)
    if form == "dictionary" and isinstance(value, dict):
        return {take(parts[0], key): take(parts[1], held) for key, held in value.items()}
    if form == "set" and isinstance(value, Array):
        return {take(parts[0], held) for held in value}
    if form == "tuple":
        made = Labelled(take(part, held) for (_, part), held in zip(parts[0], value, strict=True))
        made.labels = tuple(label for label, _ in parts[0])
        return made
    if form == "name" and parts[-1] in NAMED:
        wanted = NAMED[parts[-1]]
        if wanted in NUMBERS.values() and is_literal(value):
            if type(value) is float and issubclass(wanted, int):
                raise SwiftError(f"{value} where {kind} belongs")
            return typed(wanted, value)
        if type(value) is not wanted:
            raise SwiftError(f"{type(value).__name__} where {kind} belongs")
    elif form == "name" and (
        isinstance(value, (int, float, str))
        or (isinstance(value, Struct) and type(value).__name__ != parts[-1])
    ):
        raise SwiftError(f"{type(value).__name__} where {kind} belongs")
    return value


def assign(old: Any, new: Any) -> Any:
    """What ``old = new`` leaves in ``old``."""
    if is_number(old) and is_number(new):
        return typed(_common(old, new), new) if is_literal(new) else settle(_same(old, new))
    return settle(new)


def _same(old: Any, new: Any) -> Any:
    _common(old, new)
    return new


def _calculated(name: str, work: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    def calculate(a: Any, b: Any) -> Any:
        return typed(_common(a, b), work(a, b))

    calculate.__name__ = name
    return calculate


def _over(a: Any, b: Any) -> Any:
    if isinstance(a, float) or isinstance(b, float):
        if b == 0:
            return math.nan if a == 0 or math.isnan(a) else math.copysign(math.inf, a)
        return float(a) / float(b)
    if b == 0:
        raise SwiftError("division by zero")
    return -(-a // b) if (a < 0) != (b < 0) else a // b


def add(a: Any, b: Any) -> Any:
    if isinstance(a, str) and type(a) is type(b):
        return a + b
    if isinstance(a, Array) and isinstance(b, Array):
        known = {x.element for x in (a, b) if x.element is not None}
        if len(known) > 1:
            raise SwiftError("arrays of two types")
        element = next(iter(known), None)
        values = [*list.__iter__(a), *list.__iter__(b)]
        return Array((typed(element, v) if element and is_literal(v) else v for v in values), element)
    return typed(_common(a, b), a + b)


def equal(a: Any, b: Any) -> bool:
    if is_number(a) and is_number(b):
        _common(a, b)
    return bool(a == b)


def _compared(work: Callable[[Any, Any], bool]) -> Callable[[Any, Any], bool]:
    def compare(a: Any, b: Any) -> bool:
        _common(a, b)
        return work(a, b)

    return compare


OPERATORS: dict[str, Callable[[Any, Any], Any]] = {
    "+": add,
    "-": _calculated("minus", lambda a, b: a - b),
    "*": _calculated("times", lambda a, b: a * b),
    "/": _calculated("over", _over),
    "%": _calculated("rest", lambda a, b: a - b * _over(a, b)),
    "<<": _calculated("left", lambda a, b: a << b),
    ">>": _calculated("right", lambda a, b: a >> b),
    "|": _calculated("or", lambda a, b: a | b),
    "&": _calculated("and", lambda a, b: a & b),
    "..<": Range,
    "==": equal,
    "!=": lambda a, b: not equal(a, b),
    "<": _compared(lambda a, b: a < b),
    ">": _compared(lambda a, b: a > b),
    "<=": _compared(lambda a, b: a <= b),
    ">=": _compared(lambda a, b: a >= b),
}


def _largest(*values: Any) -> Any:
    kind = values[0]
    for value in values[1:]:
        kind = typed(_common(kind, value), kind)
    return typed(type(kind), max(values))


def _smallest(*values: Any) -> Any:
    kind = values[0]
    for value in values[1:]:
        kind = typed(_common(kind, value), kind)
    return typed(type(kind), min(values))


def _real(work: Callable[..., float]) -> Callable[..., Any]:
    def calculate(*values: Any) -> Any:
        kind = next((type(v) for v in values if not is_literal(v)), Double)
        if not issubclass(kind, float):
            raise SwiftError(f"{work.__name__} of {kind.__name__}")
        return typed(kind, work(*map(float, values)))

    return calculate


def _to(kind: type) -> Callable[[Any], Any]:
    def convert(value: Any) -> Any:
        if not is_number(value):
            raise SwiftError(f"{kind.__name__}({value!r})")
        return typed(kind, int(value) if issubclass(kind, int) else float(value))

    return convert


def _text(value: Any) -> str:
    if isinstance(value, Array) and all(type(v) in (Character, Scalar) for v in value):
        return "".join(map(str, value))
    if isinstance(value, str):
        return str(value)
    raise SwiftError(f"String({value!r})")


def _array(value: Any) -> Array:
    if isinstance(value, str):
        return Array(map(Character, value))
    if isinstance(value, Array):
        return Array(value, value.element)
    raise SwiftError(f"Array({value!r})")


def _scalar(value: Any) -> Scalar | None:
    if type(value) not in (UInt8, UInt32):
        raise SwiftError("a scalar is made of UInt8 or UInt32")
    return None if 0xD800 <= value <= 0xDFFF or value > 0x10FFFF else Scalar(chr(value))


def _pairs(a: Iterable[Any], b: Iterable[Any]) -> Array:
    return Array(zip(a, b, strict=False))


# Functions and initialisers of the standard library and Foundation, by name and labels.
FUNCTIONS: dict[tuple[str, tuple[str | None, ...]], Callable[..., Any]] = {
    ("exp", (None,)): _real(math.exp),
    ("log10", (None,)): _real(math.log10),
    ("pow", (None, None)): _real(math.pow),
    ("abs", (None,)): lambda value: typed(type(value), abs(value)),
    ("min", (None, None)): _smallest,
    ("max", (None, None)): _largest,
    ("zip", (None, None)): _pairs,
    ("String", (None,)): _text,
    ("Array", (None,)): _array,
    ("Unicode.Scalar", (None,)): _scalar,
    ("String.UnicodeScalarView", ()): Array,
    ("Data", ("contentsOf",)): lambda url: url,
    **{(name, (None,)): _to(kind) for name, kind in NUMBERS.items()},
}


def _first(array: Array, test: Callable[[Any], bool]) -> Any:
    return next((value for value in array if test(value)), None)


def _first_index(array: Array, test: Callable[[Any], bool]) -> Any:
    return next((Int(place) for place, value in enumerate(array) if test(value)), None)


def _mapped(array: Iterable[Any], work: Callable[[Any], Any]) -> Array:
    return settle(Array(work(value) for value in array))


def _flat(array: Array, work: Callable[[Any], Any]) -> Array:
    found = [work(value) for value in array]
    element = next((part.element for part in found if part.element is not None), array.element)
    return Array((value for part in found for value in part), element)


def _append(array: Array, value: Any) -> None:
    if array.element is not None:
        value = typed(array.element, value) if is_literal(value) else _same(array.element(0), value)
    list.append(array, settle(value))


def _insert(array: Array, value: Any, at: Any) -> None:
    list.insert(array, array.place(at, 1), settle(value))


def _swap(array: Array, a: Any, b: Any) -> None:
    a, b = array.place(a), array.place(b)
    array[a], array[b] = array[b], array[a]


def _pop(array: Array) -> Any:
    if not array:
        raise SwiftError("removeLast of an empty array")
    return list.pop(array)


def _sorted(array: Array, before: Callable[[Any, Any], bool]) -> Array:
    import functools

    order = functools.cmp_to_key(lambda a, b: -1 if before(a, b) else 1 if before(b, a) else 0)
    return Array(sorted(array, key=order), array.element)


def _split(array: Array, separator: str, omitting: bool) -> Array:
    parts: list[Array] = [Array()]
    for value in array:
        if value == separator:
            parts.append(Array())
        else:
            parts[-1].append(value)
    return Array(part for part in parts if part or not omitting)


def _rounded(value: Any, rule: str) -> Any:
    if rule != "toNearestOrEven":
        raise SwiftError(f"rounding {rule}")
    return typed(type(value), float(round(float(value))))


METHODS: dict[tuple[str, tuple[str | None, ...]], tuple[type | tuple[type, ...], Callable[..., Any]]] = {
    ("append", (None,)): (Array, _append),
    ("insert", (None, "at")): (Array, _insert),
    ("swapAt", (None, None)): (Array, _swap),
    ("removeLast", ()): (Array, _pop),
    ("reserveCapacity", (None,)): (Array, lambda array, count: None),
    ("map", (None,)): ((Array, Range), _mapped),
    ("flatMap", (None,)): (Array, _flat),
    ("first", (None,)): (Array, _first),
    ("firstIndex", (None,)): (Array, _first_index),
    ("sorted", (None,)): (Array, _sorted),
    ("reversed", ()): ((Array, Range), lambda values: Array(reversed(list(values)))),
    ("contains", (None,)): ((Array, set), lambda values, value: value in values),
    ("split", ("separator", "omittingEmptySubsequences")): (Array, _split),
    ("rounded", (None,)): ((Double, Float), _rounded),
}
MUTATING = {"append", "insert", "swapAt", "removeLast", "reserveCapacity"}


def item(base: Any, index: Any) -> Any:
    """``base[index]``"""
    if isinstance(base, dict):
        return base.get(index)
    if isinstance(base, Slice) or not isinstance(base, Array):
        raise SwiftError(f"subscript of {type(base).__name__}")
    if isinstance(index, Range):
        if not 0 <= index.low <= index.high <= len(base):
            raise SwiftError(f"range {index.low}..<{index.high} of {len(base)}")
        return Slice(list.__getitem__(base, slice(index.low, index.high)), base.element)
    return list.__getitem__(base, base.place(index))


def set_item(base: Any, index: Any, value: Any) -> None:
    """``base[index] = value``"""
    if isinstance(base, dict):
        base[index] = settle(value)
    else:
        base[base.place(index)] = assign(item(base, index), value)


def attribute(base: Any, name: str) -> Any:
    """A property of a value of the standard library."""
    if name == "count" and isinstance(base, (Array, str)):
        return Int(len(base))
    if name == "isEmpty" and isinstance(base, (Array, str)):
        return not base
    if name == "indices" and isinstance(base, Array):
        return Array(map(Int, range(len(base))), Int)
    if name == "unicodeScalars" and type(base) is str:
        return Array(map(Scalar, base))
    if name == "value" and isinstance(base, Scalar):
        return UInt32(ord(base))
    if name == "properties" and isinstance(base, Scalar):
        return base
    if name == "lowercaseMapping" and isinstance(base, Scalar):
        return str.lower(base)
    if name == "isFinite" and isinstance(base, (Double, Float)):
        return math.isfinite(base)
    if isinstance(base, Labelled) and name in base.labels:
        return base[base.labels.index(name)]
    raise SwiftError(f"{type(base).__name__} has no {name}")
