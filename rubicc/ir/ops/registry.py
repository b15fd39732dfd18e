"""The table of numpy kernels, keyed by (domain, operator), and what a kernel is called with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

Array = np.ndarray
Result = Array | Sequence[Array]
Kernel = Callable[["Call"], Result]

KERNELS: dict[tuple[str, str], Kernel] = {}


class KernelError(Exception):
    """A kernel cannot run this node; the executor adds the node's name and provenance."""


# What numpy and Python raise when shapes, types or attributes of a node do not fit together.
KERNEL_FAILURES = (
    KernelError,
    ArithmeticError,
    AttributeError,
    IndexError,
    KeyError,
    MemoryError,
    TypeError,
    ValueError,
)


def kernel(*names: str, domain: str = "") -> Callable[[Kernel], Kernel]:
    """Register a kernel under one or more operator names of ``domain``."""

    def add(function: Kernel) -> Kernel:
        for name in names:
            KERNELS[(domain, name)] = function
        return function

    return add


@dataclass(slots=True)
class Call:
    """One node about to run.

    Attributes:
        node: the node.
        inputs: its input arrays, ``None`` for omitted optional inputs.
        opset: version of the node's own domain.
        float_dtype: type every floating tensor is carried in, or ``None`` to keep the declared ones.
        run_body: runs a nested graph with positional inputs and returns its outputs.
    """

    node: ir.Node
    inputs: list[Array | None]
    opset: int
    float_dtype: np.dtype | None
    run_body: Callable[[ir.Graph, Sequence[Array]], list[Array]]

    def __getitem__(self, index: int) -> Array:
        """Required input ``index``."""
        value = self.get(index)
        if value is None:
            raise KernelError(f"required input {index} is missing")
        return value

    def get(self, index: int) -> Array | None:
        """Optional input ``index``, or ``None``."""
        return self.inputs[index] if index < len(self.inputs) else None

    def attr(self, name: str, default: Any = None) -> Any:
        """Attribute value in Python form, or ``default``."""
        attribute = self.node.attributes.get(name)
        return default if attribute is None else attribute.value

    def ints(self, name: str, index: int) -> tuple[int, ...] | None:
        """Integers given as attribute ``name`` (older opsets) or as input ``index`` (newer ones)."""
        value = self.attr(name)
        if value is not None:
            return (int(value),) if isinstance(value, int) else tuple(int(v) for v in value)
        given = self.get(index)
        return None if given is None else tuple(int(v) for v in np.atleast_1d(given))

    def scalar(self, name: str, index: int) -> float | None:
        """A number given as attribute ``name`` or as input ``index``."""
        value = self.attr(name)
        if value is not None:
            return value
        given = self.get(index)
        return None if given is None else given.reshape(-1)[0]

    def numpy_dtype(self, dtype: ir.DataType | int) -> np.dtype:
        """Numpy type in which a tensor of the ONNX type is carried."""
        declared = np.dtype(ir.DataType(int(dtype)).numpy())
        return self.float_dtype if self.float_dtype is not None and is_float(declared) else declared

    def tensor(self, name: str) -> Array | None:
        """Tensor attribute as an array in its carried type."""
        value = self.attr(name)
        return None if value is None else carried(value.numpy(), self.float_dtype)


def is_float(dtype: np.dtype) -> bool:
    """Whether a numpy type (bfloat16 and float8 of ml_dtypes included) is floating."""
    return dtype.kind == "f" or (dtype.kind == "V" and "float" in dtype.name)


def carried(array: Array, float_dtype: np.dtype | None) -> Array:
    """``array`` in the type the executor carries it in; no copy when nothing changes."""
    if float_dtype is not None and is_float(array.dtype) and array.dtype != float_dtype:
        return array.astype(float_dtype)
    return array


def widened(array: Array) -> Array:
    """Half-precision arrays as float32, because runtimes accumulate in float32; others unchanged."""
    return array.astype(np.float32) if is_float(array.dtype) and array.dtype.itemsize < 4 else array
