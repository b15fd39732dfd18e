"""Types and constants of the model file: MILSpec messages to the dataclasses of :mod:`.program`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from rubicc.backends.coreml.run.blobs import NUMPY, BlobFile, unpack
from rubicc.backends.coreml.run.limits import Limits
from rubicc.backends.coreml.run.program import (
    Blob,
    Constant,
    DictionaryType,
    ListType,
    StateType,
    TensorType,
    ValueType,
)
from rubicc.errors import ModelRefused

# MILSpec.DataType -> element type.
DTYPES = {
    "BOOL": "bool",
    "STRING": "string",
    "FLOAT16": "fp16",
    "FLOAT32": "fp32",
    "FLOAT64": "fp64",
    **{f"{sign}INT{bits}": f"{sign.lower()}int{bits}" for sign in ("", "U") for bits in (4, 8, 16, 32, 64)},
    **{f"UINT{bits}": f"uint{bits}" for bits in (1, 2, 3, 6)},
}
LARGEST = 1 << 48
# Field of TensorValue -> element types that may be written in it.
FIELDS = {
    "floats": frozenset({"fp32"}),
    "doubles": frozenset({"fp64"}),
    "ints": frozenset({"int8", "uint8", "int16", "uint16", "int32"}),
    "longInts": frozenset({"int64", "uint64", "uint32"}),
    "bools": frozenset({"bool"}),
    "strings": frozenset({"string"}),
}


class Values:
    """Reads types and values of one file."""

    def __init__(self, mil: Any, limits: Limits, blobs: Callable[[str], BlobFile]) -> None:
        self.mil = mil
        self.limits = limits
        self.blobs = blobs
        self.names = {number: DTYPES[name] for name, number in mil.DataType.items() if name in DTYPES}

    def type(self, message: Any, where: str) -> ValueType:
        """A ValueType message.

        Raises:
            ModelRefused: ``RUB-COREML-213``.
        """
        kind = message.WhichOneof("type")
        if kind == "tensorType":
            return self.tensor(message.tensorType, where)
        if kind == "listType":
            held = message.listType
            known = held.length.WhichOneof("dimension") == "constant"
            length = self.size(held.length.constant.size, where) if known else None
            return ListType(self.inner(held.type, where), length)
        if kind == "stateType":
            return StateType(self.inner(message.stateType.wrappedType, where))
        if kind == "dictionaryType":
            held = message.dictionaryType
            return DictionaryType(self.inner(held.keyType, where), self.inner(held.valueType, where))
        raise self.bad_type(f"type {kind or 'missing'}", where)

    def inner(self, message: Any, where: str) -> TensorType:
        """The tensor type inside another type."""
        if message.WhichOneof("type") != "tensorType":
            raise self.bad_type("a list, state or dictionary of something that is no tensor", where)
        return self.tensor(message.tensorType, where)

    def tensor(self, message: Any, where: str) -> TensorType:
        """A TensorType message, checked."""
        dtype = self.names.get(message.dataType)
        if dtype is None:
            raise self.bad_type(f"element type number {message.dataType}", where)
        sizes: list[int | None] = []
        for dimension in message.dimensions:
            kind = dimension.WhichOneof("dimension")
            if kind == "unknown" and dimension.unknown.variadic:
                return TensorType(dtype, (), variadic=True)
            sizes.append(self.size(dimension.constant.size, where) if kind == "constant" else None)
        if message.rank != len(sizes):
            raise self.bad_type(f"rank {message.rank} with {len(sizes)} dimensions", where)
        if len(sizes) > self.limits.rank:
            raise ModelRefused(
                "RUB-COREML-203", f"{len(sizes)} axes, {self.limits.rank} allowed", where=where
            )
        return TensorType(dtype, tuple(sizes))

    def size(self, size: int, where: str) -> int:
        """A dimension; unsigned in the file, so a negative one shows as very large."""
        if not 0 <= size <= LARGEST:
            raise self.bad_type(f"dimension {size - (1 << 64) if size >> 63 else size}", where)
        return int(size)

    def constant(self, message: Any, where: str, depth: int = 0) -> Constant:
        """A Value message: immediate, or a reference that was checked against the weight file.

        Raises:
            ModelRefused: ``RUB-COREML-213``, ``-214``, ``-22x``.
        """
        if depth > self.limits.depth:
            raise ModelRefused("RUB-COREML-203", "lists nested too deep", where=where)
        declared = self.type(message.type, where)
        kind = message.WhichOneof("value")
        if kind == "blobFileValue" and isinstance(declared, TensorType):
            return self.blob(message.blobFileValue, declared, where)
        held = message.immediateValue
        form = held.WhichOneof("value") if kind == "immediateValue" else None
        if form == "tensor" and isinstance(declared, TensorType):
            return Constant(declared, immediate=self.immediate(held.tensor, declared, where))
        if form == "list" and isinstance(declared, ListType):
            items = tuple(self.constant(item, where, depth + 1).value() for item in held.list.values)
            if declared.length not in (None, len(items)):
                raise self.bad_value(f"{len(items)} values for {declared.length}", where)
            return Constant(declared, immediate=items)
        raise self.bad_value(f"{form or kind or 'nothing'} for {declared}", where)

    def blob(self, message: Any, declared: TensorType, where: str) -> Constant:
        """A reference into a weight file."""
        if declared.nbytes is None or declared.dtype == "string":
            raise self.bad_value(f"{declared} in the weight file", where)
        file = self.blobs(message.fileName)
        file.check(message.offset, declared)
        return Constant(declared, blob=Blob(file, message.offset))

    def immediate(self, message: Any, declared: TensorType, where: str) -> np.ndarray | str:
        """Values written in the model file: an array of the declared shape, or one text."""
        elements, nbytes = declared.elements, declared.nbytes
        if elements is None or nbytes is None:
            raise self.bad_value(f"a value of the open type {declared}", where)
        field = message.WhichOneof("value")
        if field is None and elements == 0:
            return np.zeros(declared.shape, NUMPY.get(declared.dtype, np.uint8))  # type: ignore[arg-type]
        if field == "bytes" and declared.dtype not in ("string", "bool"):
            raw = np.frombuffer(message.bytes.values, np.uint8)
            if raw.size != nbytes:
                raise self.bad_value(f"{raw.size} bytes for {declared}", where)
            return unpack(raw.copy(), declared.dtype, elements).reshape(declared.shape)  # type: ignore[arg-type]
        if field is None or declared.dtype not in FIELDS.get(field, ()):
            raise self.bad_value(f"{field or 'no values'} for {declared}", where)
        values = getattr(message, field).values
        if len(values) != elements:
            raise self.bad_value(f"{len(values)} values for {declared}", where)
        if field == "strings":
            if declared.shape == ():
                return str(values[0])
            return np.array(list(values), dtype=object).reshape(declared.shape)  # type: ignore[arg-type]
        found = np.array(values, NUMPY["int64"] if field in ("ints", "longInts") else None)
        kept = found.astype(NUMPY[declared.dtype])
        if field in ("ints", "longInts") and not np.array_equal(kept, found):
            raise self.bad_value(f"values out of range for {declared}", where)
        return kept.reshape(declared.shape)  # type: ignore[arg-type]

    def bad_type(self, what: str, where: str) -> ModelRefused:
        """The error of a type that contradicts itself."""
        return ModelRefused("RUB-COREML-213", f"malformed type: {what}", where=where)

    def bad_value(self, what: str, where: str) -> ModelRefused:
        """The error of a constant that does not fit its type."""
        return ModelRefused("RUB-COREML-214", f"malformed constant: {what}", where=where)
