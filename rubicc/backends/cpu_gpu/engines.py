"""Loaded models by content: what planning has loaded, the proof of the same bytes need not load again.

Loading is what costs memory and time on large networks. A session still reads the emitted files from disk and
checks their hashes; only where they are exactly what a kept engine was made from is that engine used.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Mapping
from typing import Any

from rubicc.backends.cpu_gpu.templates import run as runner

Key = tuple[str, str, str, int, int]
_kept: dict[Key, Any] = {}
_lock = threading.Lock()


def key_of(name: str, model: bytes, data: Mapping[str, Any], threads: int, streams: int) -> Key:
    """Everything an engine depends on."""
    settings = json.dumps(
        {part: data[part] for part in ("precision", "onnxruntime", "openvino")}, sort_keys=True
    )
    return name, hashlib.sha256(model).hexdigest(), settings, threads, streams


def start(name: str, model: bytes, data: Mapping[str, Any], threads: int, streams: int) -> Any:
    """An engine of runtime ``name``: one that was kept for these very bytes, else a new one.

    Raises:
        ArtefactError: the runtime is missing or refuses the model.
    """
    with _lock:
        ready = _kept.pop(key_of(name, model, data, threads, streams), None)
    return ready or runner.ENGINES[name](model, data, threads, streams)


def keep(engine: Any, name: str, model: bytes, data: Mapping[str, Any], threads: int, streams: int) -> None:
    """Hand an engine over to the next :func:`start` of the same; each is taken once."""
    with _lock:
        _kept[key_of(name, model, data, threads, streams)] = engine


def release() -> None:
    """Forget what nobody has taken."""
    with _lock:
        _kept.clear()
