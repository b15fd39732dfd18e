"""What the rules look at: every operation of a function with its constants resolved and its place known."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from rubicc.backends.coreml.run.program import (
    Block,
    Function,
    Interface,
    Operation,
    Package,
    StateType,
    TensorType,
)

_SMALL = 4096  # elements of a constant that may be an attribute; larger ones are weights
FP16_BYTES = 2


class Facts:
    """One function of a package, ready to be asked.

    Args:
        package: as read from disk.
        function: its name; the default function when ``None``.
        shapes: value name -> shape, for values whose declared shape has unknown axes.
    """

    def __init__(
        self,
        package: Package,
        function: str | None = None,
        shapes: Mapping[str, tuple[int, ...]] | None = None,
    ) -> None:
        self.package = package
        self.function: Function = package.program.functions[function or package.default]
        self.interface: Interface = package.interfaces[self.function.name]
        self._shapes = dict(shapes or {})

    @cached_property
    def ops(self) -> tuple[Op, ...]:
        """Every operation in program order, constants and those of nested blocks included."""
        return tuple(self._walk(self.function.block, self.function.name, nested=False))

    def _walk(self, block: Block, path: str, *, nested: bool) -> Iterator[Op]:
        for operation in block.operations:
            yield Op(self, operation, path, nested)
            for number, inner in enumerate(operation.blocks):
                yield from self._walk(inner, f"{path}/{operation.name}[{number}]", nested=True)

    @cached_property
    def makers(self) -> Mapping[str, Operation]:
        """Value name -> operation whose result it is."""
        return {value.name: op for op in self.function.operations() for value in op.outputs}

    @cached_property
    def readers(self) -> Counter[str]:
        """Value name -> how many operations and block outputs read it."""
        found: Counter[str] = Counter(self.function.block.outputs)
        for operation in self.function.operations():
            found.update({name for argument in operation.inputs.values() for name in argument.names})
            for block in operation.blocks:
                found.update(block.outputs)
        return found

    def type(self, name: str) -> TensorType | None:
        """Type of a value with its shape as given to :class:`Facts`; ``None`` when it is no tensor."""
        declared = self.function.types.get(name)
        if isinstance(declared, StateType):
            declared = declared.wrapped
        if not isinstance(declared, TensorType):
            return None
        if (declared.variadic or None in declared.shape) and name in self._shapes:
            return TensorType(declared.dtype, tuple(self._shapes[name]))
        return declared

    def is_constant(self, name: str) -> bool:
        """Whether a value is known before running: a constant, or a weight unpacked at load."""
        maker = self.makers.get(name)
        return maker is not None and is_weight_op(maker.type)

    @property
    def form(self) -> str:
        """``fixed``, ``enumerated`` or ``range``: the most flexible of the inputs."""
        forms = {feature.shapes.form for feature in self.interface.inputs if feature.shapes is not None}
        return next((form for form in ("range", "enumerated") if form in forms), "fixed")


@dataclass(frozen=True, eq=False)
class Op:
    """One operation.

    Attributes:
        facts: the function around it.
        operation: as read.
        path: function name, and the operations whose blocks it stands in.
        nested: stands in a block of another operation.
    """

    facts: Facts
    operation: Operation
    path: str
    nested: bool

    @property
    def kind(self) -> str:
        """MIL operator, e.g. ``conv``."""
        return self.operation.type

    @property
    def name(self) -> str:
        """Name of the first result, which Core ML's compute plan shows too."""
        return self.operation.outputs[0].name if self.operation.outputs else self.operation.name

    @property
    def is_weight(self) -> bool:
        """A constant, or a weight unpacked at load: nothing that is placed on a device at run time."""
        return is_weight_op(self.kind)

    @cached_property
    def data(self) -> tuple[TensorType, ...]:
        """Types of the tensors that come in at run time."""
        names = (name for argument in self.operation.inputs.values() for name in argument.names)
        found = (self.facts.type(name) for name in names if not self.facts.is_constant(name))
        return tuple(kind for kind in found if kind is not None)

    @cached_property
    def results(self) -> tuple[TensorType, ...]:
        """Types of the tensors that come out."""
        found = (self.facts.type(value.name) for value in self.operation.outputs)
        return tuple(kind for kind in found if kind is not None)

    @property
    def tensors(self) -> tuple[TensorType, ...]:
        """Both."""
        return (*self.data, *self.results)

    def bound(self, parameter: str) -> bool:
        """Whether the parameter is given."""
        return parameter in self.operation.inputs or parameter in self.operation.attributes

    def at_run_time(self, parameter: str) -> bool:
        """Whether the parameter is bound to anything that is not known before running."""
        argument = self.operation.inputs.get(parameter)
        return argument is not None and any(not self.facts.is_constant(name) for name in argument.names)

    def type_of(self, parameter: str) -> TensorType | None:
        """Type of what the parameter is bound to, constant or not."""
        argument = self.operation.inputs.get(parameter)
        if argument is None:
            stored = self.operation.attributes.get(parameter)
            return stored.type if stored is not None and isinstance(stored.type, TensorType) else None
        if argument.names:
            return self.facts.type(argument.names[0])
        constant = self.facts.function.constant(argument)
        return constant.type if constant is not None and isinstance(constant.type, TensorType) else None

    def value(self, parameter: str, otherwise: Any = None) -> Any:
        """A small constant parameter as Python numbers, text or list; ``otherwise`` when it is none."""
        argument = self.operation.inputs.get(parameter)
        constant = (
            self.facts.function.constant(argument)
            if argument is not None
            else self.operation.attributes.get(parameter)
        )
        if constant is None:
            return otherwise
        if isinstance(constant.type, TensorType) and (constant.type.elements or 0) > _SMALL:
            return otherwise
        found = constant.value()
        return found.tolist() if isinstance(found, np.ndarray | np.generic) else found

    def values(self, parameter: str, otherwise: Any = None) -> list[Any]:
        """:meth:`value` as a list, a single number as a list of one."""
        found = self.value(parameter, otherwise)
        return list(found) if isinstance(found, list | tuple) else ([] if found is None else [found])


def is_weight_op(kind: str) -> bool:
    """Whether operations of this type hold or unpack weights."""
    return kind == "const" or kind.startswith("constexpr_")


def elements(shape: tuple[int | None, ...]) -> int | None:
    """Number of elements; ``None`` with an unknown axis."""
    return None if None in shape else math.prod(size for size in shape if size is not None)
