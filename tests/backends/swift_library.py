"""The part of Swift's standard library and of Foundation that the package's algorithms use."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable
from typing import Any

from swift_values import (
    NUMBERS,
    Array,
    Character,
    Double,
    Float,
    Int,
    Labelled,
    Range,
    Scalar,
    SwiftError,
    UInt8,
    UInt32,
    common,
    is_literal,
    is_number,
    same,
    settle,
    typed,
)


def _largest(*values: Any) -> Any:
    kind = values[0]
    for value in values[1:]:
        kind = typed(common(kind, value), kind)
    return typed(type(kind), max(values))


def _smallest(*values: Any) -> Any:
    kind = values[0]
    for value in values[1:]:
        kind = typed(common(kind, value), kind)
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
        value = typed(array.element, value) if is_literal(value) else same(array.element(0), value)
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
