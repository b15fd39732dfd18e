"""Values known before a run: read from disk or decoded once, in the form in which kernels take them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from rubicc.backends.coreml.run.constexpr import DECODERS, DoesNotFit, decode
from rubicc.backends.coreml.run.kernels.registry import Context
from rubicc.backends.coreml.run.program import FLOATS, Constant, Operation, Package, TensorType
from rubicc.errors import ModelRefused

# Elements of a parameter that kernels take as Python numbers: shapes, pads, axes. Real ones have a few dozen.
HOST_ELEMENTS = 1 << 20
# fp16 constants of the weight file with so many elements are held in fp16 and widened for every use: half the
# memory, for a twentieth of the time that a product with them takes.
NARROW_ELEMENTS = 1 << 16
NUMPY_OF: dict[torch.dtype, np.dtype[Any]] = {
    torch.float32: np.dtype(np.float32),
    torch.float64: np.dtype(np.float64),
}


class Known:
    """One constant: where its value comes from, and the tensor once it was asked for."""

    def __init__(self, owner: Constants, type_: Any, where: str, read: Callable[[], Any], key: Any) -> None:
        self.owner = owner
        self.type = type_
        self.where = where
        self.read = read
        self.key = key
        self._tensor: torch.Tensor | None = None

    def host(self) -> Any:
        """Python number, text, or list of them; tuple for a list of constants.

        Raises:
            ModelRefused: ``RUB-COREML-233`` far too many values for a parameter.
        """
        held = self.type
        if isinstance(held, TensorType) and (held.elements or 0) > HOST_ELEMENTS:
            raise ModelRefused(
                "RUB-COREML-233", f"{held.elements} values for a parameter that takes a few", where=self.where
            )
        value = self.read()
        return value.tolist() if isinstance(value, np.ndarray) else value

    def tensor(self) -> torch.Tensor:
        """The value as kernels compute with it; decoded at the first call, widened at each.

        Raises:
            ModelRefused: ``RUB-COREML-233`` a text or list, ``-22x`` unreadable, ``-242`` too large.
        """
        if self._tensor is None:
            self._tensor = self.owner.tensor(self)
        return self._tensor.to(self.owner.context.float) if self.narrow else self._tensor

    @property
    def narrow(self) -> bool:
        """Whether it is held in fp16 between uses."""
        held = self.type
        large = isinstance(held, TensorType) and (held.elements or 0) >= NARROW_ELEMENTS
        return large and held.dtype == "fp16" and self.key is not None


class Constants:
    """The constants of one function under one semantics.

    Args:
        package: for limits and for tensors that machines of other semantics decoded already.
        context: float type and rounding of the run.
    """

    def __init__(self, package: Package, context: Context) -> None:
        self.package = package
        self.context = context
        self.bytes = 0
        self._decoded: dict[int, tuple[np.ndarray, ...]] = {}

    def plain(self, operation: Operation) -> Known:
        """The value of a ``const``."""
        return self.written(operation.attributes["val"], operation.where)

    def written(self, constant: Constant, where: str) -> Known:
        """A constant, written in place or lying in the weight file."""
        key = None
        if constant.blob is not None:
            held = constant.type
            assert isinstance(held, TensorType)
            kind = f"{held.dtype} {held.elements} {self.context.held(held.dtype)}"
            key = (constant.blob.offset, f"{constant.blob.file.path} {kind}")
        return Known(self, constant.type, where, constant.value, key)

    def compressed(self, operation: Operation, parts: Mapping[str, Known]) -> tuple[Known, ...]:
        """The results of a ``constexpr_*`` operation.

        Raises:
            ModelRefused: ``RUB-COREML-232`` not known, ``-234`` parts that do not fit, ``-242`` too large.
        """
        if operation.type not in DECODERS:
            raise ModelRefused("RUB-COREML-232", f"no decoder for {operation.type}", where=operation.where)
        for value in operation.outputs:
            if not isinstance(value.type, TensorType) or value.type.elements is None:
                raise ModelRefused(
                    "RUB-COREML-234", f"a constant of the open type {value.type}", where=operation.where
                )

        def part(place: int) -> Callable[[], np.ndarray]:
            return lambda: self._decode(operation, parts)[place]

        return tuple(
            Known(self, value.type, operation.where, part(place), None)
            for place, value in enumerate(operation.outputs)
        )

    def settle(self) -> None:
        """Forget what was decoded on the way to other constants."""
        self._decoded.clear()

    def _decode(self, operation: Operation, parts: Mapping[str, Known]) -> tuple[np.ndarray, ...]:
        if operation.index in self._decoded:
            return self._decoded[operation.index]
        declared = [value.type for value in operation.outputs if isinstance(value.type, TensorType)]
        number = NUMPY_OF[self.context.float]
        wanted = sum((held.elements or 0) * number.itemsize for held in declared)
        self.afford(wanted, operation.where)
        most = max((held.elements or 0 for held in declared), default=0)
        try:
            made = decode(operation.type, {name: _part(known) for name, known in parts.items()}, number, most)
        except (DoesNotFit, ValueError, IndexError, AttributeError, TypeError, OverflowError) as err:
            raise ModelRefused(
                "RUB-COREML-234", str(err) or type(err).__name__, where=operation.where
            ) from err
        found = [tuple(array.shape) for array in made]
        if found != [held.shape for held in declared]:
            what = f"decodes to {found}, declared {', '.join(map(str, declared))}"
            raise ModelRefused("RUB-COREML-234", what, where=operation.where)
        made = tuple(self._rounded(array, held) for array, held in zip(made, declared, strict=True))
        if len(made) > 1:
            self._decoded[operation.index] = made
        return made

    def _rounded(self, array: np.ndarray, declared: TensorType) -> np.ndarray:
        """A decoded array as its declared type stores it under this semantics."""
        if declared.dtype not in FLOATS:
            return array
        tensor = torch.from_numpy(np.ascontiguousarray(array)).to(self.context.float)
        return self.context.stored(tensor, declared.dtype).numpy()

    def afford(self, wanted: int, where: str) -> None:
        """Refuse a constant that would pass the limit, before it is made.

        Raises:
            ModelRefused: ``RUB-COREML-242``.
        """
        most = self.package.limits.constants_bytes
        if self.bytes + wanted > most:
            what = f"{wanted} more bytes of constants pass the limit of {most} bytes"
            raise ModelRefused("RUB-COREML-242", what, where=where)

    def tensor(self, known: Known) -> torch.Tensor:
        """Decode a constant for kernels, or take what another machine of the package decoded."""
        held = known.type
        if not isinstance(held, TensorType) or held.dtype == "string":
            raise ModelRefused("RUB-COREML-233", f"{held} where a tensor is needed", where=known.where)
        shared = None if known.key is None else self.package.shared.get(known.key)
        if shared is not None:
            assert isinstance(shared, torch.Tensor)
            return shared.reshape(
                [int(size or 0) for size in held.shape]
            )  # tied weights lie in the file once, in two shapes
        wanted = torch.half if known.narrow else self.context.held(held.dtype)
        size = (held.elements or 0) * torch.empty((), dtype=wanted).element_size()
        self.afford(size, known.where)
        array = np.asarray(known.read())
        if array.dtype.kind == "u" and array.dtype.itemsize > 1:
            array = array.astype(np.int64)
        made = torch.from_numpy(array).to(wanted)
        self.bytes += size
        if known.key is not None:
            self.package.shared[known.key] = made
        return made


def _part(known: Known) -> Any:
    """A part of a compressed constant: array or text."""
    value = known.read()
    if isinstance(value, tuple):
        raise DoesNotFit("a list where values are needed")
    return value
