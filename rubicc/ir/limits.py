"""How large anything in a model file may be, and the one place where element counts are computed safely."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from rubicc.errors import ModelRefused

GIB = 1 << 30


@dataclass(frozen=True)
class Limits:
    """Budgets of the ONNX reader; every one stops a file that is small but asks for much.

    Attributes:
        file_bytes: model file, below protobuf's own 2 GiB.
        external_bytes: all external data together.
        nodes: nodes, nested graphs and inlined functions included.
        nesting: depth of nested graphs.
        rank: axes of one tensor.
        tensor_bytes: one tensor that a literal shape in the file asks for.
        name_length: characters in any name.
    """

    file_bytes: int = 2 * GIB - 1
    external_bytes: int = 64 * GIB
    nodes: int = 200_000
    nesting: int = 8
    rank: int = 16
    tensor_bytes: int = 4 * GIB
    name_length: int = 4096


DEFAULT = Limits()
MAX_ELEMENTS = DEFAULT.tensor_bytes // 4


def bounded_elements(shape: Iterable[int], limit: int = MAX_ELEMENTS, where: str = "") -> int:
    """Number of elements of ``shape``.

    Args:
        shape: dimensions, Python integers of any size (no overflow).
        limit: largest allowed product.
        where: what asks for the tensor, for the message.

    Raises:
        ModelRefused: ``RUB-IR-047``, a negative dimension or a product above ``limit``.
    """
    dims = [int(n) for n in shape]
    total = 1
    for n in dims:
        if n < 0:
            raise ModelRefused("RUB-IR-047", f"negative dimension in {dims}", where=where)
        total *= n
    if total > limit:
        raise ModelRefused(
            "RUB-IR-047",
            f"a tensor of shape {dims} has {total} elements, limit {limit}",
            where=where,
            hint="the file asks for far more memory than its own size; it is refused as unsafe",
        )
    return total
