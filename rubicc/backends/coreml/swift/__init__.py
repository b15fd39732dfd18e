"""The Swift package beside a model: typed wrapper, tokenizer or basecaller, unit tests.

:func:`write` writes it, :func:`decisions` says beforehand what it will leave out, :func:`verify` runs its
recorded vectors again through the Python ports.
"""

from __future__ import annotations

from rubicc.backends.coreml.swift.vectors import Vectors
from rubicc.backends.coreml.swift.verification import verify
from rubicc.backends.coreml.swift.writer import decisions, write

__all__ = ["Vectors", "decisions", "verify", "write"]
