"""Compiled kernels: numba, with its on-disk cache where there is a place for one. Import lazily."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import njit

REASSOCIATE = {"reassoc", "contract", "nsz"}
"""Lets sums be vectorised. Infinities and NaN keep their meaning; inputs are checked for both anyway."""


def kernel(function: Callable[..., Any] | None = None, *, fastmath: set[str] | bool = False) -> Any:
    """Compile on first call, without the GIL, caching the machine code beside the source or under the home.

    Where neither folder can be written (read-only container), numba refuses the cache; then each process
    compiles for itself, which costs about two seconds.
    """
    if function is None:
        return lambda inner: kernel(inner, fastmath=fastmath)
    try:
        return njit(cache=True, nogil=True, fastmath=fastmath)(function)
    except RuntimeError:
        return njit(nogil=True, fastmath=fastmath)(function)
