"""The small languages of the command line: input specs, gaps and budgets, with their units."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rubicc.errors import UsageError
from rubicc.spec import Dim, TensorSpec
from rubicc.text import did_you_mean

DTYPES = {
    "f16": "float16",
    "f32": "float32",
    "f64": "float64",
    "bf16": "bfloat16",
    "i8": "int8",
    "i16": "int16",
    "i32": "int32",
    "i64": "int64",
    "u8": "uint8",
    "b": "bool",
}
_SECONDS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}
_BYTES = {
    "B": 1,
    "kB": 10**3,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "KiB": 2**10,
    "MiB": 2**20,
    "GiB": 2**30,
}
_NUMBER = re.compile(r"\s*([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*([^\d\s].*)?\s*")
_SYMBOL = re.compile(r"[A-Za-z_]\w*")
MAX_DIM = 2**31 - 1


@dataclass(frozen=True)
class MaxGap:
    """Largest accepted difference between artefact and source; ``None`` = the driver's own default.

    Attributes:
        snr: lowest accepted signal-to-noise ratio of every output, in dB.
        max_abs: largest accepted absolute difference of any output value.
        identity: largest accepted loss of read identity, in percentage points.
    """

    snr: float | None = None
    max_abs: float | None = None
    identity: float | None = None


@dataclass(frozen=True)
class Budget:
    """Upper limits; ``None`` = none set. ``latency`` in seconds, ``size`` in bytes of the whole artefact."""

    latency: float | None = None
    size: int | None = None


def parse_input(text: str) -> TensorSpec:
    """``x=Nx1xT:f32`` as a TensorSpec; dimensions may also be separated by commas (``x=N,1,max_len``).

    Raises:
        UsageError: ``RUB-CLI-003``.
    """
    name, sep, rest = text.partition("=")
    if not sep or not name.strip():
        raise _bad("--input", text, "write NAME=SHAPE[:DTYPE], for example x=Nx1xT:f32")
    return parse_tensor(name.strip(), rest)


def parse_tensor(name: str, text: str) -> TensorSpec:
    """``Nx1xT:f32`` for the input called ``name``; ``scalar`` is the empty shape. DTYPE defaults to f32.

    Raises:
        UsageError: ``RUB-CLI-003``.
    """
    shape_text, _, dtype_text = str(text).strip().partition(":")
    dtype = DTYPES.get(dtype_text, dtype_text) if dtype_text else "float32"
    if dtype not in DTYPES.values():
        raise _bad("--input", f"{name}={text}", f"known types: {', '.join(DTYPES)}")
    if shape_text == "scalar":
        return TensorSpec(name, (), dtype)
    parts = shape_text.split("," if "," in shape_text else "x")
    return TensorSpec(name, tuple(_dim(part.strip(), f"{name}={text}") for part in parts), dtype)


def _dim(part: str, text: str) -> Dim:
    if part.isascii() and part.isdigit() and 0 < int(part[:12]) <= MAX_DIM and len(part) < 12:
        return int(part)
    if _SYMBOL.fullmatch(part):
        return part
    hint = "a dimension is a positive number or a symbol; separate symbols that contain x by commas"
    raise _bad("--input", text, hint)


def format_tensor(spec: TensorSpec) -> str:
    """Inverse of :func:`parse_tensor`."""
    if not spec.shape:
        return "scalar:" + _short_dtype(spec.dtype)
    sep = "," if any("x" in str(dim) for dim in spec.shape) else "x"
    return sep.join(map(str, spec.shape)) + ":" + _short_dtype(spec.dtype)


def _short_dtype(dtype: str) -> str:
    return next((short for short, full in DTYPES.items() if full == dtype), dtype)


def parse_gap(key: str, value: Any) -> float:
    """Value of ``snr`` (dB), ``max_abs`` or ``identity`` (percentage points, 0..100).

    Raises:
        UsageError: ``RUB-CLI-004``.
    """
    number, unit = _number(f"max_gap.{key}", value)
    units = {"snr": ("", "dB"), "max_abs": ("",), "identity": ("", "%")}[key]
    low, high = {"snr": (-50.0, 400.0), "max_abs": (0.0, math.inf), "identity": (0.0, 100.0)}[key]
    if unit not in units or not low <= number <= high:
        raise _bad(f"max_gap.{key}", value, "snr=30dB, max_abs=1e-4 or identity=0.5 (percentage points)")
    return number


def parse_budget(key: str, value: Any) -> float | int:
    """Value of ``latency`` in seconds (``5ms``) or ``size`` in bytes (``2MiB``); units are required.

    Raises:
        UsageError: ``RUB-CLI-004``.
    """
    number, unit = _number(f"budget.{key}", value)
    units: dict[str, float] | dict[str, int] = _SECONDS if key == "latency" else _BYTES
    if unit not in units or not number > 0:
        raise _bad(f"budget.{key}", value, f"a positive number with a unit: {', '.join(units)}")
    return number * units[unit] if key == "latency" else int(number * units[unit])


def parse_number(key: str, value: Any) -> float | int:
    """A positive number without a unit; whole numbers stay whole.

    Raises:
        UsageError: ``RUB-CLI-004``.
    """
    number, unit = _number(key, value)
    if unit or not 0 < number < math.inf:
        raise _bad(key, value, "a positive number")
    return int(number) if number.is_integer() else number


def format_quantity(group: str, key: str, value: float | int) -> str | float:
    """How a resolved recipe writes a gap or budget: exact, with its unit."""
    if group == "budget":
        return f"{value!r}s" if key == "latency" else f"{value}B"
    return f"{value!r}dB" if key == "snr" else value


def parse_boolean(key: str, raw: Any, where: str) -> bool:
    """True or false, as ``true/false``, ``yes/no``, ``on/off`` or ``1/0``.

    Raises:
        UsageError: ``RUB-CLI-004``.
    """
    text = str(raw).strip().lower()
    if text in ("1", "true", "yes", "on"):
        return True
    if text in ("0", "false", "no", "off"):
        return False
    what = f"{key}: {str(raw)[:80]!r} is neither true nor false"
    raise UsageError("RUB-CLI-004", what, where=where, hint="write true or false")


def parse_whole(key: str, raw: Any, where: str, low: int, high: int) -> int:
    """A whole number from ``low`` to ``high`` (both at least 0).

    Raises:
        UsageError: ``RUB-CLI-004``.
    """
    text = str(raw).strip()
    digits = text.isascii() and text.isdigit() and len(text) < 20 and not isinstance(raw, bool)
    if not digits or not low <= int(text) <= high:
        what = f"{key}: {str(raw)[:80]!r} is not a whole number from {low} to {high}"
        raise UsageError("RUB-CLI-004", what, where=where, hint=f"for example {max(low, 1)}")
    return int(text)


def parse_seconds(key: str, raw: Any, where: str, high: float) -> float:
    """A time from 0 to ``high`` seconds, with or without a unit: ``3``, ``0.5s``, ``500ms``.

    Raises:
        UsageError: ``RUB-CLI-004``.
    """
    number, unit = _number(key, raw)
    value = number * _SECONDS.get(unit or "s", math.nan)
    if not 0.0 <= value <= high:
        what = f"{key}: {str(raw)[:80]!r} is not a time from 0 to {high:g} seconds"
        raise UsageError("RUB-CLI-004", what, where=where, hint="for example 3, 0.5s or 500ms")
    return value


def known_key(key: str, known: Sequence[str], where: str) -> None:
    """Refuse a key that is not in ``known``, naming the nearest one.

    Raises:
        UsageError: ``RUB-CLI-002``.
    """
    if key not in known:
        hint = did_you_mean(key, known, f"known keys: {', '.join(known)}")
        raise UsageError("RUB-CLI-002", f"unknown key {str(key)[:80]!r}", where=where, hint=hint)


def _number(key: str, value: Any) -> tuple[float, str]:
    match = None if isinstance(value, bool) else _NUMBER.fullmatch(str(value)[:64])
    if match is None or not math.isfinite(float(match[1])):
        raise _bad(key, value, "a number, with its unit where one is needed")
    return float(match[1]), (match[2] or "").strip()


def _bad(key: str, value: Any, hint: str) -> UsageError:
    code = "RUB-CLI-003" if key == "--input" else "RUB-CLI-004"
    return UsageError(code, f"{key}: cannot read {str(value)[:80]!r}", hint=hint)
