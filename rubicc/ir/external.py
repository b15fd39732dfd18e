"""External tensor data: every path component is opened without following links, then mapped read-only.

The path in the file is an instruction from a stranger. onnx and runtimes check it in several places and have
been wrong in several CVEs, so rubicc opens the data itself, relative to the model's folder, and hands out
arrays; nobody resolves the path a second time.
"""

from __future__ import annotations

import mmap
import os
import stat
from pathlib import Path

import numpy as np
import onnx_ir as ir
from onnx import TensorProto

from rubicc.errors import ModelRefused
from rubicc.ir.limits import Limits
from rubicc.ir.scan import tensor_bytes

_KEYS = {"location", "offset", "length", "checksum"}


class ExternalData:
    """Maps the external files of one model, each once."""

    def __init__(self, folder: Path, limits: Limits) -> None:
        self._folder = folder
        self._limits = limits
        self._maps: dict[str, mmap.mmap] = {}
        self._total = 0

    def tensor(self, proto: TensorProto) -> ir.TensorProtocol:
        """The tensor as a view of the mapped file.

        Raises:
            ModelRefused: ``RUB-IR-042`` with what is wrong about the reference.
        """
        where = f"initializer {proto.name!r}"
        needed = tensor_bytes(proto, self._limits, where)
        entries: dict[str, str] = {}
        for entry in proto.external_data:
            if entry.key not in _KEYS or entry.key in entries or not isinstance(entry.value, str):
                raise ModelRefused("RUB-IR-042", f"external data key {entry.key!r:.40}", where=where)
            entries[entry.key] = entry.value
        offset = _number(entries.get("offset", "0"), "offset", where)
        length = _number(entries.get("length", str(needed)), "length", where)
        if length != needed:
            raise ModelRefused(
                "RUB-IR-042", f"external length {length}, dims and type need {needed}", where=where
            )
        dtype = ir.DataType(proto.data_type)
        shape = ir.Shape(list(proto.dims))
        if needed == 0:
            return ir.Tensor(np.empty(tuple(proto.dims), dtype.numpy()), dtype, shape=shape, name=proto.name)
        data = self._mapped(entries.get("location", ""), where)
        if offset + length > len(data):
            raise ModelRefused(
                "RUB-IR-042",
                f"external data at {offset}+{length} is beyond the file's {len(data)} bytes",
                where=where,
            )
        self._total += length
        if self._total > self._limits.external_bytes:
            raise ModelRefused(
                "RUB-IR-041", f"more than {self._limits.external_bytes} bytes of external data"
            )
        if dtype.bitwidth < 8:
            inline = TensorProto()
            inline.CopyFrom(proto)
            inline.ClearField("external_data")
            inline.data_location = TensorProto.DEFAULT
            inline.raw_data = data[offset : offset + length]
            return ir.serde.deserialize_tensor(inline)
        little = np.dtype(dtype.numpy()).newbyteorder("<")
        array = np.frombuffer(data, np.uint8, length, offset).view(little).reshape(tuple(proto.dims))
        return ir.Tensor(array, dtype, shape=shape, name=proto.name)

    def _mapped(self, location: str, where: str) -> mmap.mmap:
        if location not in self._maps:
            self._maps[location] = _map_beneath(self._folder, location, where)
        return self._maps[location]


def _number(text: str, what: str, where: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        raise ModelRefused("RUB-IR-042", f"external {what} {text!r:.40} is not a size", where=where)
    return int(text)


def _map_beneath(folder: Path, location: str, where: str) -> mmap.mmap:
    parts = location.split("/")
    if not location or "\0" in location or "\\" in location or any(p in ("", ".", "..") for p in parts):
        raise ModelRefused(
            "RUB-IR-042",
            f"external data path {location!r:.80} leaves the model's folder or is not plain",
            where=where,
            hint="external data must lie beside the model, named without '..' or a leading '/'",
        )
    opened: list[int] = []
    try:
        opened.append(os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
        for part in parts[:-1]:
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
            opened.append(os.open(part, flags, dir_fd=opened[-1]))
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        opened.append(os.open(parts[-1], flags, dir_fd=opened[-1]))
        status = os.fstat(opened[-1])
        if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
            raise ModelRefused(
                "RUB-IR-042", f"{location!r} is not a plain file or has hard links", where=where
            )
        if status.st_size == 0:
            raise ModelRefused("RUB-IR-042", f"external data file {location!r} is empty", where=where)
        return mmap.mmap(opened[-1], 0, prot=mmap.PROT_READ)
    except OSError as err:
        raise ModelRefused(
            "RUB-IR-042",
            f"external data {location!r:.80} cannot be opened: {err.strerror or err}",
            where=where,
            hint="missing files must be placed beside the model; symbolic links are not followed",
        ) from err
    finally:
        for descriptor in opened:
            os.close(descriptor)
