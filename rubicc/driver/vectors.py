"""Test vectors as ``.npz`` with equal bytes for equal arrays (numpy itself stamps the time of day)."""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from rubicc.errors import ModelRefused
from rubicc.evidence.npy import UNREADABLE, header

_EPOCH = (1980, 1, 1, 0, 0, 0)
MAX_BYTES = 2**30
_LARGE = 1 << 20  # bytes of floats, of which less than a tenth would be saved


def write_npz(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write arrays sorted by name with a fixed time stamp; compressed, except where that only costs time."""
    with zipfile.ZipFile(path, "w") as archive:
        for name in sorted(arrays):
            buffer = io.BytesIO()
            np.lib.format.write_array(buffer, np.ascontiguousarray(arrays[name]), allow_pickle=False)
            info = zipfile.ZipInfo(f"{name}.npy", _EPOCH)
            floats = arrays[name].dtype.kind == "f" and arrays[name].nbytes > _LARGE
            info.compress_type = zipfile.ZIP_STORED if floats else zipfile.ZIP_DEFLATED
            info.external_attr = 0o644 << 16
            archive.writestr(info, buffer.getbuffer(), compresslevel=6)


def load_arrays(path: Path, limit: int) -> dict[str, np.ndarray]:
    """Arrays of an .npz whose headers declare what is stored; never unpickles.

    numpy allocates what a header declares before it reads, so a header that lies about 16 bytes could ask
    for terabytes.

    Raises:
        ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error: not such a file, or above ``limit``
            bytes unpacked.
    """
    arrays: dict[str, np.ndarray] = {}
    with zipfile.ZipFile(path) as archive:
        if sum(info.file_size for info in archive.infolist()) > limit:
            raise ValueError(f"unpacks to more than {limit} bytes")
        for info in archive.infolist():
            with archive.open(info) as file:
                shape, fortran, dtype = header(file)
                count = math.prod(shape) * dtype.itemsize
                if count > info.file_size:
                    raise ValueError(f"{info.filename} declares {shape} and stores {info.file_size} bytes")
                flat = np.frombuffer(file.read(count), dtype)
                array = flat.reshape(shape, order="F" if fortran else "C")
                arrays[info.filename.removesuffix(".npy")] = array.copy()
    return arrays


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """Arrays by name; never unpickles, and refuses more than 1 GiB before unpacking.

    Raises:
        ModelRefused: ``RUB-DRV-007``.
    """
    try:
        return load_arrays(path, MAX_BYTES)
    except UNREADABLE as err:
        raise ModelRefused(
            "RUB-DRV-007",
            f"test vectors cannot be read: {err}",
            where=path.name,
            hint="copy or compile the artefact again",
        ) from err
