"""Choices measured earlier on this machine, so that the same compilation need not measure again.

One small JSON file per key under ``$XDG_CACHE_HOME/rubicc/tune``. The key covers all that the choice depends
on, so a stale entry is never found rather than found and judged. The files are written by us and read like
anybody else's: what is not of the expected form is ignored with a warning, and measured again.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import logging
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rubicc.backends.compiled import cache_home
from rubicc.backends.cpu_gpu.templates.run import cores, read_file
from rubicc.evidence.environment import cpu, library_versions

SCHEMA_VERSION = 1
MAX_BYTES = 1 << 20
LIBRARIES = ("numpy", "onnx", "onnxruntime", "onnxruntime-gpu", "openvino")
log = logging.getLogger("rubicc.tune")


def folder() -> Path:
    """Where entries lie."""
    return cache_home() / "tune"


def machine() -> dict[str, Any]:
    """What a measured choice depends on beside the model and the settings."""
    return {"cpu": cpu(), "cores": cores(), "versions": library_versions(LIBRARIES), "rubicc": _sources()}


@functools.cache
def _sources() -> str:
    """Digest of what makes and runs forms in this rubicc: in a checkout the version says too little."""
    root = Path(__file__).parents[2]
    whole = hashlib.sha256()
    for room in ("passes", "backends"):
        for path in sorted((root / room).rglob("*")):
            if path.suffix in (".py", ".h", ".cpp"):
                whole.update(f"{path.relative_to(root)}\n".encode() + path.read_bytes())
    return whole.hexdigest()


def key_of(**parts: Any) -> str:
    """Content hash of everything a choice depends on: ``parts`` and this machine."""
    text = json.dumps({"schema": SCHEMA_VERSION, "machine": machine(), **parts}, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def get(key: str) -> dict[str, Any] | None:
    """The entry, or ``None`` where there is none that can be used."""
    path = folder() / f"{key}.json"
    try:
        raw = read_file(path, MAX_BYTES)
        if len(raw) > MAX_BYTES:
            raise ValueError(f"over {MAX_BYTES} bytes")
        data = json.loads(raw.decode("utf-8"))
        if (
            not isinstance(data, dict)
            or data.get("schema_version") != SCHEMA_VERSION
            or data.get("key") != key
        ):
            raise ValueError("not an entry for this key")
        entry = data["entry"]
        if not isinstance(entry, dict):
            raise ValueError("its entry is no mapping")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, RecursionError) as err:
        ignored(key, f"{type(err).__name__}: {err}")
        return None
    return entry


def ignored(key: str, why: str) -> None:
    """Say that an entry is not used."""
    log.warning("tuning cache: %s.json is ignored and measured again: %s", key[:16], why[:200])


def put(key: str, entry: Mapping[str, Any]) -> None:
    """Write an entry whole or not at all; a cache that cannot be written is said and no error."""
    home = folder()
    staged = home / f".{key[:16]}-{os.getpid()}-{secrets.token_hex(4)}.tmp"
    body = {"schema_version": SCHEMA_VERSION, "key": key, "entry": dict(entry)}
    try:
        home.mkdir(parents=True, exist_ok=True)
        staged.write_text(json.dumps(body, indent=1, sort_keys=True, allow_nan=False), encoding="utf-8")
        os.replace(staged, home / f"{key}.json")
    except (OSError, ValueError) as err:
        with contextlib.suppress(OSError):
            staged.unlink(missing_ok=True)
        log.warning("tuning cache cannot be written: %s", err)
