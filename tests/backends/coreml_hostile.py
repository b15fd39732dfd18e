"""What the tests of damaged and contradictory packages start from, and how they are judged."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from coreml_bare import add, bare, constant, main_block

from rubicc.backends.coreml.codes import CODES as WIRING
from rubicc.backends.coreml.run.codes import CODES
from rubicc.backends.coreml.run.limits import MIB, Limits
from rubicc.backends.coreml.run.load import load
from rubicc.errors import ModelRefused

Y = [("y", "fp32", (2, 3))]
X = {"x": np.ones((2, 3), np.float32)}
# Bytes by which the process may grow while it refuses a package; an ordinary small one needs a few.
GROWTH = 600 * MIB


def peak() -> int:
    """Most bytes of this process since :func:`forget_peak` (Linux)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


def forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def refused(path: Path, code: str, limits: Limits | None = None) -> ModelRefused:
    """The error of reading and running a package, which must have this code and need little memory."""
    measured = os.access("/proc/self/clear_refs", os.W_OK)
    if measured:
        forget_peak()
        before = peak()
    with pytest.raises(ModelRefused) as caught:
        load(path, limits).run(X, semantics="fp32")
    assert caught.value.code == code, str(caught.value)
    assert code in CODES or code in WIRING
    assert caught.value.where, "an error says where"
    if measured:
        assert peak() - before < GROWTH
    return caught.value


def relu_of_x() -> Any:
    """A sound model: y = relu(x)."""
    model = bare()
    add(main_block(model), "relu", Y, x="%x")
    return model


def weighted(offset: int = 64, shape: tuple[int, ...] = (2, 3), dtype: str = "fp32") -> Any:
    """A sound model: y = x + weight of the weight file."""
    model = bare()
    constant(main_block(model), "w", (dtype, shape, offset))
    add(main_block(model), "add", Y, x="%x", y="%w")
    return model


DATA = np.arange(6, dtype=np.float32).tobytes()
