"""Training settings from plain values, such as YAML and flags give, strictly."""

from __future__ import annotations

import typing
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any, Literal

from rubicc.errors import UsageError
from rubicc.text import did_you_mean
from rubicc.training.data.augment import DEFAULT, OFF, Augment
from rubicc.training.settings import TrainSettings


def train_settings(
    given: Mapping[str, Any], augment: Mapping[str, Any] | None = None, *, off: bool = False
) -> TrainSettings:
    """Settings from values by field name; texts are read as what the field holds.

    Args:
        augment: fields of :class:`Augment`, over the default or, with ``off``, over none.

    Raises:
        UsageError: ``RUB-SHRINK-003`` unknown key or a value of the wrong form; ``RUB-TRAIN-023``, ``-024``.
    """
    changes = _typed(Augment, dict(augment or {}), "augment")
    values = _typed(TrainSettings, {k: v for k, v in given.items() if k != "augment"}, "")
    return TrainSettings(**values, augment=replace(OFF if off else DEFAULT, **changes))


def _typed(cls: type, given: Mapping[str, Any], where: str) -> dict[str, Any]:
    hints = typing.get_type_hints(cls)
    known = [f.name for f in fields(cls)]
    values = {}
    for name, value in given.items():
        if name not in known:
            hint = did_you_mean(name, known, f"known: {', '.join(known)}")
            raise UsageError("RUB-SHRINK-003", f"unknown setting {str(name)[:60]!r}", where=where, hint=hint)
        values[name] = _value(name, hints[name], value)
    return values


def _value(name: str, hint: Any, value: Any) -> Any:
    if name == "features":
        return tuple(tuple(map(str, pair)) for pair in value)
    if typing.get_origin(hint) is Literal:
        options = typing.get_args(hint)
        if value in options:
            return value
        raise _wrong(name, value, f"one of {', '.join(options)}")
    kinds = [kind for kind in (typing.get_args(hint) or (hint,)) if kind is not type(None)]
    if value is None and len(kinds) < len(typing.get_args(hint)):
        return None
    if kinds[0] is bool:
        if isinstance(value, bool):
            return value
        raise _wrong(name, value, "true or false")
    try:
        number = kinds[0](value)
    except (TypeError, ValueError, OverflowError):
        raise _wrong(name, value, "a whole number" if kinds[0] is int else "a number") from None
    if isinstance(value, bool) or number != number or (kinds[0] is int and float(value) != number):
        raise _wrong(name, value, "a number")
    return number


def _wrong(name: str, value: Any, wanted: str) -> UsageError:
    return UsageError(
        "RUB-SHRINK-003",
        f"{name}: {str(value)[:60]!r} is not {wanted}",
        hint="`rubicc train --help` says more",
    )
