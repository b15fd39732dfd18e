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


def common(a: Any, b: Any) -> type:
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
        common(low, high)
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
        return typed(common(old, new), new) if is_literal(new) else settle(same(old, new))
    return settle(new)


def same(old: Any, new: Any) -> Any:
    common(old, new)
    return new


def _calculated(name: str, work: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    def calculate(a: Any, b: Any) -> Any:
        return typed(common(a, b), work(a, b))

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
    return typed(common(a, b), a + b)


def equal(a: Any, b: Any) -> bool:
    if is_number(a) and is_number(b):
        common(a, b)
    return bool(a == b)


def _compared(work: Callable[[Any, Any], bool]) -> Callable[[Any, Any], bool]:
    def compare(a: Any, b: Any) -> bool:
        common(a, b)
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
