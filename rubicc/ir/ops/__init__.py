"""Numpy kernels of every operator rubicc executes; importing this package fills the table."""

from rubicc.ir.ops import control, conv, elementwise, linear, quant, recurrent, shape
from rubicc.ir.ops.registry import KERNEL_FAILURES, KERNELS, Call, KernelError, carried

__all__ = [
    "KERNELS",
    "KERNEL_FAILURES",
    "Call",
    "KernelError",
    "carried",
    "control",
    "conv",
    "elementwise",
    "linear",
    "quant",
    "recurrent",
    "shape",
]
