"""How kernels are registered, and what they may ask of the run that calls them."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch

from rubicc.backends.coreml.run.limits import Limits
from rubicc.backends.coreml.run.program import FLOATS, Operation, TensorType, ValueType
from rubicc.errors import ModelRefused

# Element type -> how it is held during a run; floats are held in the float type of the run. Types that
# torch computes with poorly (uint16, uint32) are held in the next wider signed type.
HELD: dict[str, torch.dtype] = {
    "bool": torch.bool,
    "int8": torch.int8,
    "uint8": torch.uint8,
    "int16": torch.int16,
    "uint16": torch.int32,
    "int32": torch.int32,
    "uint32": torch.int64,
    "int64": torch.int64,
    "uint64": torch.int64,
    "int4": torch.int8,
    **{f"uint{bits}": torch.uint8 for bits in (1, 2, 3, 4, 6)},
}


@dataclass(frozen=True)
class Kernel:
    """One operator.

    Attributes:
        run: ``run(context, **parameters)``: a tensor (or other value), or a tuple of them.
        required: parameters that must be there.
        known: all parameters.
        host: parameters given as Python numbers, texts, or lists of them instead of tensors.
        many: parameters that take several values, given as lists.
        moves: results hold values of the inputs only, so they need no rounding.
        same: parameters that must have one element type.
    """

    run: Callable[..., Any]
    required: frozenset[str]
    known: frozenset[str]
    host: frozenset[str]
    many: frozenset[str]
    moves: bool
    same: frozenset[str]


KERNELS: dict[str, Kernel] = {}


def kernel(
    *types: str, host: str = "", many: str = "", moves: bool = False, same: str = ""
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register a function for operators; its keyword parameters are those of the operator."""

    def register(run: Callable[..., Any]) -> Callable[..., Any]:
        parameters = list(inspect.signature(run).parameters.values())[1:]
        made = Kernel(
            run=run,
            required=frozenset(p.name for p in parameters if p.default is inspect.Parameter.empty),
            known=frozenset(p.name for p in parameters),
            host=frozenset(host.split()),
            many=frozenset(many.split()),
            moves=moves,
            same=frozenset(same.split()),
        )
        for type_ in types:
            assert type_ not in KERNELS, f"two kernels for {type_}"
            KERNELS[type_] = made
        return run

    return register


class Context:
    """One run: what kernels may ask, and what the run has used up so far.

    Attributes:
        opset: 5 for CoreML5 (iOS 15) to 9 for CoreML9 (iOS 26).
        float: torch type that holds every floating tensor.
        half: whether tensors of type fp16 are rounded to fp16 when stored.
        operation: the operation that runs now.
        types: its declared results.
        live: bytes of values alive.
        peak: most bytes of values alive at one moment.
    """

    def __init__(self, opset: int, float_type: torch.dtype, half: bool, limits: Limits) -> None:
        self.opset = opset
        self.float = float_type
        self.half = half
        self.limits = limits
        self.operation: Operation | None = None
        self.types: tuple[ValueType, ...] = ()
        self.live = self.peak = 0
        self.steps = self.products = 0
        self.deadline = time.monotonic() + limits.seconds

    @property
    def dtype(self) -> str:
        """Declared element type of the first result."""
        first = self.types[0]
        return first.dtype if isinstance(first, TensorType) else ""

    def held(self, dtype: str) -> torch.dtype:
        """The torch type that holds an element type."""
        return self.float if dtype in FLOATS else HELD[dtype]

    def stored(self, tensor: torch.Tensor, dtype: str) -> torch.Tensor:
        """A floating tensor as it is after being stored in ``dtype``: rounded when that is fp16."""
        if self.half and dtype == "fp16":
            return tensor.half().to(self.float)
        return tensor

    def reserve(self, shape: Sequence[int] | torch.Size, bytes_each: int = 8) -> None:
        """Ask before making a tensor of this shape.

        Raises:
            ModelRefused: ``RUB-COREML-242``, it would pass the memory limit.
        """
        if any(size < 0 for size in shape):
            raise ValueError(f"shape {tuple(shape)} has a negative size")
        wanted = prod(shape) * bytes_each
        if self.live + wanted > self.limits.live_bytes:
            raise ModelRefused(
                "RUB-COREML-242",
                f"{wanted} bytes for a value of shape {tuple(shape)} pass the limit of "
                f"{self.limits.live_bytes} bytes alive at once",
                where=self.operation.where if self.operation else "",
            )

    def broadcast(self, *tensors: torch.Tensor) -> torch.Size:
        """Common shape of tensors, asked for before it is made."""
        shape = torch.broadcast_shapes(*(tensor.shape for tensor in tensors))
        self.reserve(shape)
        return shape

    def turn(self, count: int = 1) -> None:
        """Count operations, or steps of a recurrent layer, before they are done.

        Raises:
            ModelRefused: ``RUB-COREML-243``.
        """
        self.steps += count
        if self.steps > self.limits.steps:
            raise self.too_long(f"more than {self.limits.steps} operations executed")
        if time.monotonic() > self.deadline:
            raise self.too_long(f"more than {self.limits.seconds:g} seconds")

    def multiply(self, count: int) -> None:
        """Ask before an operation that multiplies this often.

        Raises:
            ModelRefused: ``RUB-COREML-243``, the run would pass its limit.
        """
        self.products += count
        if self.products > self.limits.products:
            raise self.too_long(f"more than {self.limits.products:.0e} multiplications")

    def too_long(self, what: str) -> ModelRefused:
        """The error of a run that passes a limit of time."""
        return ModelRefused(
            "RUB-COREML-243",
            what,
            where=self.operation.where if self.operation else "",
            hint="raise Limits(...) when you trust the file",
        )


def axis_of(axis: int, rank: int) -> int:
    """An axis counted from the front.

    Raises:
        IndexError: no such axis.
    """
    if not -rank <= axis < rank:
        raise IndexError(f"axis {axis} of a tensor with {rank} axes")
    return axis % rank


def axes_of(axes: Sequence[int] | int | None, rank: int) -> tuple[int, ...]:
    """Axes counted from the front, in order; all of them for ``None``."""
    if axes is None:
        return tuple(range(rank))
    listed = [axes] if isinstance(axes, int) else axes
    return tuple(sorted({axis_of(axis, rank) for axis in listed}))
