"""The table of torch operators, keyed as :func:`rubicc.ir.graph.op_key`, and what a builder is given.

A builder runs once per input shape and returns a function of tensors alone: every attribute is read, every
shape computed and every branch decided before the first training step.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rubicc.ir.ops.registry import Call, KernelError

Run = Callable[..., Any]
Builder = Callable[["Site"], Run]

BUILDERS: dict[str, Builder] = {}


class DataDependent(KernelError):
    """An input that decides a shape or a parameter of the operator is computed from data."""


def op(*keys: str) -> Callable[[Builder], Builder]:
    """Register a builder under one or more operator keys."""

    def add(builder: Builder) -> Builder:
        for key in keys:
            BUILDERS[key] = builder
        return builder

    return add


@dataclass(slots=True)
class Site(Call):
    """One node about to be planned for one set of input shapes.

    ``inputs`` holds what is known without data (constants, shapes) as arrays, ``None`` elsewhere; so
    ``site[1]``, ``site.ints`` and ``site.scalar`` read facts only, and refuse what depends on data.

    Attributes:
        tensors: every input as the tensor of the first run, ``None`` for omitted ones.
        dtype: floating type of the twin.
        training: plan for train mode (batch statistics, dropout) or for eval mode.
        stored: type a weight is stored in when input 0 is computed from weights alone, else ``None``.
        statistics: whether train mode may update running statistics of this node.
        consumed: input 0 has no other reader and its producer does not need it again: may be overwritten.
        second_order: gradients of gradients are wanted.
    """

    tensors: list[Tensor | None] = field(default_factory=list)
    dtype: torch.dtype = torch.float32
    training: bool = False
    stored: torch.dtype | None = None
    statistics: bool = True
    consumed: bool = False
    second_order: bool = False

    def get(self, index: int) -> np.ndarray | None:
        """What is known of optional input ``index`` before any data, or ``None`` when it is omitted.

        Raises:
            DataDependent: the input is there and is computed from data or weights.
        """
        known = self.inputs[index] if index < len(self.inputs) else None
        if known is None and self.has(index):
            raise DataDependent(f"input {index} depends on data")
        return known

    def has(self, index: int) -> bool:
        """Whether input ``index`` is given."""
        return index < len(self.tensors) and self.tensors[index] is not None

    def known(self, index: int) -> np.ndarray | None:
        """As :meth:`get`, ``None`` also where the input depends on data."""
        return self.inputs[index] if index < len(self.inputs) else None

    def tensor_of(self, index: int) -> Tensor:
        """Required input ``index`` of the first run: for its shape and type, never for its values."""
        tensor = self.tensors[index] if index < len(self.tensors) else None
        if tensor is None:
            raise KernelError(f"required input {index} is missing")
        return tensor

    @property
    def rank(self) -> int:
        """Number of axes of input 0."""
        return self.tensor_of(0).ndim

    @property
    def outputs(self) -> int:
        """Number of outputs the node declares."""
        return len(self.node.outputs)

    def torch_dtype(self, onnx_type: int) -> torch.dtype:
        """Type in which a tensor of the ONNX element type is carried: floats in the twin's own."""
        declared = self.numpy_dtype(onnx_type)
        if declared.kind == "f" or (declared.kind == "V" and "float" in declared.name):
            return self.dtype
        return torch.from_numpy(np.empty(0, declared)).dtype
