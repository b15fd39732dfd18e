"""Bare tensors by name, with the architecture given by the user."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rubicc.errors import UsageError
from rubicc.frontend.fit import as_state_dict, rebuilt
from rubicc.frontend.source import Source
from rubicc.text import printable


def read(path: Path, value: Any, arch: str | None, arch_config: Mapping[str, Any] | None) -> Source:
    """``value`` (what the file held) as the zoo's ``arch``.

    Raises:
        UsageError: RUB-READ-031 without ``arch``; RUB-MODEL-* for an unknown name or configuration.
        ModelRefused: RUB-READ-012, -013, -014, -017, -033.
    """
    tensors, nested = as_state_dict(value, path.name)
    if arch is None:
        names = ", ".join(printable(name) for name in list(tensors)[:3])
        raise UsageError(
            "RUB-READ-031",
            f"a state dict ({len(tensors)} tensors: {names}, ...) does not say which network it is",
            where=path.name,
            hint="give --arch NAME (`rubicc models list`)",
        )
    return rebuilt("state-dict", path, arch, arch_config, tensors, decisions=nested, chosen=True)
