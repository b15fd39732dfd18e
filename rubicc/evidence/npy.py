"""Headers of arrays in ``.npz`` archives that nobody vouches for.

numpy allocates what a header declares before it reads, and would unpickle object arrays; whoever reads a
stranger's archive looks at the header first.
"""

from __future__ import annotations

import zipfile
import zlib
from typing import IO

import numpy as np
from numpy.lib import format as npy

# What a damaged archive or array raises, depending on where the damage is.
UNREADABLE = (
    OSError,
    ValueError,
    EOFError,
    KeyError,
    RuntimeError,
    NotImplementedError,
    zipfile.BadZipFile,
    zlib.error,
)


class PickledError(ValueError):
    """The array holds Python objects: loading it would run code."""


def header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    """(shape, Fortran order, element type) of the array at the start of ``file``, leaving its data next.

    Raises:
        PickledError: see there.
        ValueError, EOFError, OSError: not an array.
    """
    version = npy.read_magic(file)
    reader = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, fortran, dtype = reader(file)
    if dtype.hasobject:
        raise PickledError("holds pickled objects, which are never loaded")
    return shape, fortran, dtype
