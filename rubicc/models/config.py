"""Reading architecture configurations strictly: plain JSON or TOML values to frozen dataclasses."""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping
from dataclasses import is_dataclass
from typing import Any, Literal, TypeVar

from rubicc.errors import UsageError
from rubicc.spec import strict_fields

C = TypeVar("C")


def require(holds: bool, field: str, value: object, rule: str) -> None:
    """Refuse a configuration value that cannot work.

    Raises:
        UsageError: ``RUB-MODEL-002`` naming field, value and rule.
    """
    if not holds:
        raise UsageError("RUB-MODEL-002", f"{field} = {value!r} cannot work: {rule}", where=field)


def config_from_plain(cls: type[C], data: Mapping[str, Any], what: str) -> C:
    """``data`` (JSON or TOML values) as frozen dataclass ``cls``; nested dataclasses and tuples included.

    Raises:
        UsageError: ``RUB-SPEC-001`` unknown key, ``RUB-MODEL-003`` value of another type,
            ``RUB-MODEL-002`` value the architecture cannot take.
    """
    hints = typing.get_type_hints(cls)
    values = strict_fields(cls, data, what)
    try:
        return cls(**{key: _convert(hints[key], value, f"{what}.{key}") for key, value in values.items()})
    except TypeError as err:  # a field without default is missing
        raise UsageError("RUB-MODEL-003", f"incomplete {what}: {err}", where=what) from err


def _convert(hint: Any, value: Any, where: str) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        return _convert(next(a for a in args if a is not type(None)), value, where)
    if origin is tuple and isinstance(value, (list, tuple)):
        return tuple(_convert(args[0], item, f"{where}[{i}]") for i, item in enumerate(value))
    if origin is Literal and value in args:
        return value
    if isinstance(hint, type):
        if is_dataclass(hint):
            if isinstance(value, hint):
                return value
            if isinstance(value, Mapping):
                return config_from_plain(hint, value, where)
        elif hint is float and isinstance(value, (int, float)) and not isinstance(value, bool):
            return float(value)
        elif isinstance(value, hint) and (hint is bool or not isinstance(value, bool)):
            return value
    wanted = " or ".join(map(repr, args)) if origin is Literal else getattr(hint, "__name__", str(hint))
    raise UsageError("RUB-MODEL-003", f"{where} = {value!r} is not {wanted}", where=where)
