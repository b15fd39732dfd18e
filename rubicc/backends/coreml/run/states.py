"""State of a stateful model (iOS 18): tensors that live across calls."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np


class State:
    """Current values by name; made by :meth:`Package.new_state`, changed by every run that is given it."""

    def __init__(self, tensors: Mapping[str, Any]) -> None:
        self.tensors = dict(tensors)

    def __getitem__(self, name: str) -> np.ndarray:
        """A copy of one state, in the float type of the run."""
        found: np.ndarray = self.tensors[name].numpy().copy()
        return found

    def names(self) -> tuple[str, ...]:
        """Names of the states."""
        return tuple(self.tensors)


class Cell:
    """What ``read_state`` and ``write_state`` see of one state during a run."""

    __slots__ = ("dtype", "name", "state")

    def __init__(self, state: State, name: str, dtype: str) -> None:
        self.state = state
        self.name = name
        self.dtype = dtype
