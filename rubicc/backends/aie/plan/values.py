"""Dataclasses from JSON values."""

from __future__ import annotations

import dataclasses
import types
import typing
from typing import Any


def build(kind: Any, value: Any) -> Any:
    """``value`` (of JSON) as ``kind``, a dataclass, tuple, union with None, or plain type.

    Raises:
        TypeError, ValueError, KeyError: another form. Sources are written from these values, so that a text
            where a number belongs would be a way into C++.
    """
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        hints = typing.get_type_hints(kind)
        return kind(**{f.name: build(hints[f.name], value[f.name]) for f in dataclasses.fields(kind)})
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is tuple:
        inner = arguments[:1] * len(value) if arguments[-1] is Ellipsis else arguments
        return tuple(build(each, item) for each, item in zip(inner, value, strict=True))
    if origin is types.UnionType:
        return None if value is None else build(arguments[0], value)
    plain = {int: (int,), float: (int, float), str: (str,), bool: (bool,)}.get(kind)
    if plain is not None and (not isinstance(value, plain) or (isinstance(value, bool) and kind is not bool)):
        raise TypeError(f"{type(value).__name__} where {kind.__name__} belongs")
    return value
