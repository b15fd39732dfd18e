"""Test vectors as ``.npz`` with equal bytes for equal arrays (numpy itself stamps the time of day)."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from rubicc.errors import ModelRefused

_EPOCH = (1980, 1, 1, 0, 0, 0)
MAX_BYTES = 2**30


def write_npz(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write arrays sorted by name, compressed, with a fixed time stamp."""
    with zipfile.ZipFile(path, "w") as archive:
        for name in sorted(arrays):
            buffer = io.BytesIO()
            np.lib.format.write_array(buffer, np.ascontiguousarray(arrays[name]), allow_pickle=False)
            info = zipfile.ZipInfo(f"{name}.npy", _EPOCH)
            info.compress_type = zipfile.ZIP_DEFLATED
            info.external_attr = 0o644 << 16
            archive.writestr(info, buffer.getvalue(), compresslevel=6)


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """Arrays by name; never unpickles, and refuses more than 1 GiB before unpacking.

    Raises:
        ModelRefused: ``RUB-DRV-007``.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(info.file_size for info in archive.infolist()) > MAX_BYTES:
                raise ValueError(f"unpacks to more than {MAX_BYTES} bytes")
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as err:
        raise ModelRefused("RUB-DRV-007", f"test vectors cannot be read: {err}", where=path.name) from err
