"""Reading ``weight.bin``: Core ML's blob storage, version 2, with numpy alone.

Layout (coremltools, mlmodel/src/MILBlob/Blob/StorageFormat.hpp and BlobDataType.hpp): a header of 64 bytes
(count, version, reserved), then records. A record is 64 bytes of metadata (sentinel 0xDEADBEEF, element
type, bytes of data, offset of data, unused bits at its end, reserved) and the data, all 64-byte aligned.
Elements of less than 8 bits are packed without gaps, the first in the lowest bits.

Bytes are read with ordinary reads, not a memory map: mapped pages of a large file would count as memory of
this process long after they were decoded.
"""

from __future__ import annotations

import struct
import threading
from pathlib import Path

import numpy as np

from rubicc.backends.coreml.run.program import BITS, TensorType
from rubicc.errors import ModelRefused

ENTRY = 64
VERSION = 2
SENTINEL = 0xDEADBEEF
# BlobDataType -> element type. 5 (bfloat16), 16 and 17 (8-bit floats) cannot be results of MIL constants.
KINDS = {
    1: "fp16",
    2: "fp32",
    3: "uint8",
    4: "int8",
    6: "int16",
    7: "uint16",
    8: "int4",
    9: "uint1",
    10: "uint2",
    11: "uint4",
    12: "uint3",
    13: "uint6",
    14: "int32",
    15: "uint32",
}
NUMPY = {
    "bool": np.dtype(np.bool_),
    "fp16": np.dtype("<f2"),
    "fp32": np.dtype("<f4"),
    "fp64": np.dtype("<f8"),
    **{
        f"{sign}int{bits}": np.dtype(f"<{sign or 'i'}{bits // 8}")
        for sign in ("", "u")
        for bits in (8, 16, 32, 64)
    },
}
# Elements unpacked at a time: a multiple of 8, so that every part begins at a whole byte.
PART = 1 << 20


class BlobFile:
    """One weight file of a package."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._size = -1
        self._spans: dict[tuple[int, int], int] = {}
        self._lock = threading.Lock()

    def read(self, offset: int, wanted: TensorType) -> np.ndarray:
        """The array of type ``wanted`` whose metadata record begins at byte ``offset``.

        Integers of less than 8 bits come as int8 or uint8.

        Raises:
            ModelRefused: ``RUB-COREML-220`` file unreadable, ``-221`` no record there or past the end,
                ``-222`` another type or size than wanted.
        """
        elements, nbytes = wanted.elements, wanted.nbytes
        assert elements is not None and nbytes is not None
        start = self._record(offset, wanted, nbytes)
        try:
            raw = np.fromfile(self.path, np.uint8, nbytes, offset=start)
        except OSError as err:
            raise self._refuse("RUB-COREML-220", f"cannot be read: {err.strerror}") from err
        if raw.size != nbytes:
            raise self._refuse("RUB-COREML-221", f"ends inside the data of the record at {offset}")
        return unpack(raw, wanted.dtype, elements).reshape(wanted.shape)  # type: ignore[arg-type]

    def check(self, offset: int, wanted: TensorType) -> None:
        """Raise as :meth:`read` would, without reading the data; remember where the record lies."""
        nbytes = wanted.nbytes
        assert nbytes is not None
        start = self._record(offset, wanted, nbytes)
        self._spans[offset, offset + ENTRY] = offset
        self._spans[start, start + nbytes] = offset

    def refuse_overlaps(self) -> None:
        """Refuse records, among those checked, that lie in each other; several constants may share one.

        Raises:
            ModelRefused: ``RUB-COREML-221``.
        """
        reached, owner = 0, 0
        for (start, end), offset in sorted(self._spans.items()):
            if start < reached and end > start:
                raise self._refuse("RUB-COREML-221", f"records at {owner} and {offset} overlap")
            if end > reached:
                reached, owner = end, offset
        self._spans.clear()

    def _record(self, offset: int, wanted: TensorType, nbytes: int) -> int:
        """Offset of the data of a record that was checked against the file and the type."""
        size = self._checked_size()
        if offset < ENTRY or offset + ENTRY > size:
            raise self._refuse("RUB-COREML-221", f"record at {offset} of a file of {size} bytes")
        sentinel, kind, held, start, unused = struct.unpack("<IIQQQ", self._bytes(offset, 32))
        if sentinel != SENTINEL:
            raise self._refuse("RUB-COREML-221", f"no record begins at {offset}")
        if KINDS.get(kind) != wanted.dtype:
            raise self._refuse(
                "RUB-COREML-222", f"record at {offset} holds {KINDS.get(kind, f'type {kind}')}, not {wanted}"
            )
        if held != nbytes:
            raise self._refuse(
                "RUB-COREML-222", f"record at {offset} has {held} bytes, {wanted} has {nbytes}"
            )
        if BITS[wanted.dtype] < 8 and unused != nbytes * 8 - (wanted.elements or 0) * BITS[wanted.dtype]:
            raise self._refuse("RUB-COREML-222", f"record at {offset} leaves {unused} bits unused")
        if start < ENTRY or start + held > size:
            raise self._refuse(
                "RUB-COREML-221", f"data of the record at {offset} end at {start + held} of {size} bytes"
            )
        return int(start)

    def _checked_size(self) -> int:
        with self._lock:
            if self._size < 0:
                try:
                    size = self.path.stat().st_size
                except OSError as err:
                    raise self._refuse("RUB-COREML-220", f"cannot be read: {err.strerror}") from err
                if size < ENTRY:
                    raise self._refuse("RUB-COREML-220", f"{size} bytes are no header")
                _, version = struct.unpack("<II", self._bytes(0, 8))
                if version != VERSION:
                    raise self._refuse("RUB-COREML-220", f"storage version {version}, not {VERSION}")
                self._size = size
            return self._size

    def _bytes(self, offset: int, count: int) -> bytes:
        try:
            with self.path.open("rb") as file:
                file.seek(offset)
                data = file.read(count)
        except OSError as err:
            raise self._refuse("RUB-COREML-220", f"cannot be read: {err.strerror}") from err
        if len(data) != count:
            raise self._refuse("RUB-COREML-221", f"ends before byte {offset + count}")
        return data

    def _refuse(self, code: str, what: str) -> ModelRefused:
        return ModelRefused(code, f"weight file: {what}", where=str(self.path))


def unpack(raw: np.ndarray, dtype: str, elements: int) -> np.ndarray:
    """Elements of type ``dtype`` from packed bytes (uint8, 1-D); flat, sub-byte integers in 8 bits."""
    bits = BITS[dtype]
    if bits >= 8:
        return raw.view(NUMPY[dtype])
    found = np.empty(elements, np.uint8)
    weights = (1 << np.arange(bits)).astype(np.uint8)
    for start in range(0, elements, PART):
        count = min(PART, elements - start)
        part = raw[start * bits // 8 : (start * bits + count * bits + 7) // 8]
        single = np.unpackbits(part, bitorder="little")[: count * bits].reshape(count, bits)
        found[start : start + count] = single @ weights
    if dtype.startswith("u"):
        return found
    # Two's complement of `bits` bits: the top bit counts negative.
    top = np.int8(1 << (bits - 1))
    return ((found.view(np.int8) ^ top) - top).astype(np.int8)
