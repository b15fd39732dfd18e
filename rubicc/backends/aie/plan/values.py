"""Dataclasses from JSON values."""

from __future__ import annotations

import dataclasses
import types
import typing
from typing import Any


def build(kind: Any, value: Any) -> Any:
    """``value`` (of JSON) as ``kind``, a dataclass, tuple, union with None, or plain type."""
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        hints = typing.get_type_hints(kind)
        return kind(**{f.name: build(hints[f.name], value[f.name]) for f in dataclasses.fields(kind)})
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is tuple:
        inner = arguments[:1] * len(value) if arguments[-1] is Ellipsis else arguments
        return tuple(build(each, item) for each, item in zip(inner, value, strict=True))
    if origin is types.UnionType:
        return None if value is None else build(arguments[0], value)
    return value
