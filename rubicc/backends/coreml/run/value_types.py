"""Types of values in an ML Program."""

from __future__ import annotations

from dataclasses import dataclass

# Name of an element type -> bits of one element as stored. Names are those of MIL's own text form.
BITS: dict[str, int] = {
    "bool": 8,
    "string": 0,
    "fp16": 16,
    "fp32": 32,
    "fp64": 64,
    "uint1": 1,
    "uint2": 2,
    "uint3": 3,
    "uint4": 4,
    "uint6": 6,
    "int4": 4,
    "int8": 8,
    "uint8": 8,
    "int16": 16,
    "uint16": 16,
    "int32": 32,
    "uint32": 32,
    "int64": 64,
    "uint64": 64,
}
FLOATS = frozenset({"fp16", "fp32", "fp64"})


@dataclass(frozen=True)
class TensorType:
    """Element type and shape of a tensor.

    Attributes:
        dtype: a key of :data:`BITS`.
        shape: one entry per axis; ``None`` is an axis known only at run time. ``()`` is a scalar.
        variadic: the number of axes is known only at run time; ``shape`` is then ``()``.
    """

    dtype: str
    shape: tuple[int | None, ...]
    variadic: bool = False

    @property
    def elements(self) -> int | None:
        """Number of elements; ``None`` when an axis is unknown."""
        if self.variadic:
            return None
        total = 1
        for size in self.shape:
            if size is None:
                return None
            total *= size
        return total

    @property
    def nbytes(self) -> int | None:
        """Bytes of the packed values; ``None`` when an axis is unknown."""
        elements = self.elements
        return None if elements is None else (elements * BITS[self.dtype] + 7) // 8

    def __str__(self) -> str:
        sizes = (
            "..." if self.variadic else ", ".join("?" if size is None else str(size) for size in self.shape)
        )
        return f"{self.dtype}[{sizes}]"


@dataclass(frozen=True)
class ListType:
    """A list of tensors of one type; ``length`` is ``None`` when it grows at run time."""

    element: TensorType
    length: int | None

    def __str__(self) -> str:
        return f"list[{self.element}]"


@dataclass(frozen=True)
class StateType:
    """A tensor that lives across calls (iOS 18)."""

    wrapped: TensorType

    def __str__(self) -> str:
        return f"state[{self.wrapped}]"


@dataclass(frozen=True)
class DictionaryType:
    """Dictionary that a classifier gives out: label to probability."""

    key: TensorType
    value: TensorType

    def __str__(self) -> str:
        return f"dictionary[{self.key}, {self.value}]"


ValueType = TensorType | ListType | StateType | DictionaryType
