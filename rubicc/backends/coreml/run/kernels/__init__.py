"""Kernels of the interpreter, one module per family; importing this registers them all."""

from rubicc.backends.coreml.run.kernels import (
    elementwise,
    gather,
    linear,
    make,
    normalise,
    recurrent,
    resize,
    shape,
)
from rubicc.backends.coreml.run.kernels.registry import KERNELS

__all__ = ["KERNELS", "elementwise", "gather", "linear", "make", "normalise", "recurrent", "resize", "shape"]
