"""What a Core ML package holds, as plain data: types, operations, blocks, functions, interface, metadata.

Read by :mod:`.load` from ``Manifest.json``, ``model.mlmodel`` (messages ``Model`` and ``MILSpec.Program`` of
Apple's published Model.proto and MIL.proto) and ``weight.bin``; the lint reads the same objects. Weights
stay on disk until :meth:`Constant.value` is called. Nothing here imports protobuf, torch or coremltools.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterator, Mapping, MutableMapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

import numpy as np

from rubicc.backends.coreml.run.value_types import (
    BITS,
    FLOATS,
    DictionaryType,
    ListType,
    StateType,
    TensorType,
    ValueType,
)

if TYPE_CHECKING:
    from rubicc.backends.coreml.run.blobs import BlobFile
    from rubicc.backends.coreml.run.limits import Limits
    from rubicc.backends.coreml.run.machine import Machine
    from rubicc.backends.coreml.run.states import State

__all__ = [
    "BITS",
    "FLOATS",
    "Argument",
    "Blob",
    "Block",
    "Constant",
    "DictionaryType",
    "Feature",
    "Function",
    "Interface",
    "ListType",
    "Metadata",
    "Operation",
    "Package",
    "Program",
    "Shapes",
    "StateType",
    "TensorType",
    "Value",
    "ValueType",
]


@dataclass(frozen=True)
class Value:
    """Something with a name and a type: an input of a function or block, or the result of an operation."""

    name: str
    type: ValueType


@dataclass(frozen=True, eq=False)
class Blob:
    """Where the values of a constant lie: ``offset`` of the metadata record in an open weight file."""

    file: BlobFile
    offset: int


@dataclass(frozen=True, eq=False)
class Constant:
    """A value known without running: written in the model file, or a reference into ``weight.bin``.

    Attributes:
        type: declared type; the stored values were checked to fit it.
        immediate: the value when it is in the model file: an array, a text, or a tuple of these (a list).
        blob: the reference when it is in the weight file.
    """

    type: ValueType
    immediate: np.ndarray | str | tuple[Any, ...] | None = None
    blob: Blob | None = None

    def value(self) -> Any:
        """The value: array of the declared shape (sub-byte integers widened to 8 bits), text, or tuple.

        Read from disk on every call for a blob; keep what you need.

        Raises:
            ModelRefused: ``RUB-COREML-22x``, the blob is not what the model file says.
        """
        if self.blob is None:
            return self.immediate
        assert isinstance(self.type, TensorType)
        return self.blob.file.read(self.blob.offset, self.type)


@dataclass(frozen=True, eq=False)
class Argument:
    """What one parameter of an operation is bound to: names of values, or constants written in place."""

    bindings: tuple[str | Constant, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The names among the bindings."""
        return tuple(binding for binding in self.bindings if isinstance(binding, str))


@dataclass(frozen=True, eq=False)
class Operation:
    """One operation.

    Attributes:
        type: MIL operator, ``conv``.
        name: attribute ``name``, or that of the first output; for messages.
        inputs: parameter -> what it is bound to.
        outputs: results with their declared types.
        attributes: compile-time values other than ``name``: ``val`` of a const, parameters of constexpr
            operations up to iOS 17.
        blocks: bodies of ``while_loop`` (condition, body) and ``cond`` (then, else).
        index: place in the whole function, counted in file order through nested blocks.
    """

    type: str
    name: str
    inputs: Mapping[str, Argument]
    outputs: tuple[Value, ...]
    attributes: Mapping[str, Constant]
    blocks: tuple[Block, ...]
    index: int

    @property
    def where(self) -> str:
        """How messages name this operation: place, operator and name."""
        return f"operation {self.index} ({self.type} {self.name!r})"


@dataclass(frozen=True, eq=False)
class Block:
    """Operations in order, with names given to what comes in and names of what goes out."""

    inputs: tuple[Value, ...]
    operations: tuple[Operation, ...]
    outputs: tuple[str, ...]

    def walk(self) -> Iterator[Operation]:
        """Every operation, those of nested blocks after the operation that owns them."""
        for operation in self.operations:
            yield operation
            for block in operation.blocks:
                yield from block.walk()


@dataclass(frozen=True, eq=False)
class Function:
    """One entry point: typed inputs (states among them) and the block of its active operator set."""

    name: str
    opset: str
    inputs: tuple[Value, ...]
    block: Block

    def operations(self) -> Iterator[Operation]:
        """Every operation in file order, nested ones included."""
        return self.block.walk()

    @cached_property
    def types(self) -> Mapping[str, ValueType]:
        """Name -> declared type, of inputs, block inputs and results, nested ones included."""
        found = {value.name: value.type for value in self.inputs}
        for operation in self.operations():
            for block in operation.blocks:
                found.update({value.name: value.type for value in block.inputs})
            found.update({value.name: value.type for value in operation.outputs})
        return found

    @cached_property
    def constants(self) -> Mapping[str, Constant]:
        """Name -> constant, for the results of ``const`` operations."""
        return {
            operation.outputs[0].name: operation.attributes["val"]
            for operation in self.operations()
            if operation.type == "const"
        }

    def constant(self, argument: Argument | None) -> Constant | None:
        """The constant that a parameter is bound to, written in place or by name; ``None`` otherwise."""
        if argument is None or len(argument.bindings) != 1:
            return None
        binding = argument.bindings[0]
        return binding if isinstance(binding, Constant) else self.constants.get(binding)


@dataclass(frozen=True, eq=False)
class Program:
    """The functions of an ML Program by name."""

    functions: Mapping[str, Function]


@dataclass(frozen=True)
class Shapes:
    """Which shapes an input takes: one, some, or a range on every axis.

    Attributes:
        default: the shape written first.
        enumerated: all shapes allowed; empty when not enumerated.
        ranges: smallest and largest size of every axis, ``None`` for no largest; empty when not ranged.
    """

    default: tuple[int, ...]
    enumerated: tuple[tuple[int, ...], ...] = ()
    ranges: tuple[tuple[int, int | None], ...] = ()

    @property
    def form(self) -> str:
        """``fixed``, ``enumerated`` or ``range``."""
        return "enumerated" if self.enumerated else "range" if self.ranges else "fixed"

    def allows(self, shape: tuple[int, ...]) -> bool:
        """Whether an array of this shape may be fed."""
        if self.ranges:
            return len(shape) == len(self.ranges) and all(
                low <= size and (high is None or size <= high)
                for size, (low, high) in zip(shape, self.ranges, strict=True)
            )
        return shape in (self.enumerated or (self.default,))

    def __str__(self) -> str:
        if self.enumerated:
            return " or ".join("x".join(map(str, shape)) for shape in self.enumerated)
        if self.ranges:
            return "x".join(
                str(low) if low == high else f"{low}..{'' if high is None else high}"
                for low, high in self.ranges
            )
        return "x".join(map(str, self.default)) or "scalar"


@dataclass(frozen=True)
class Feature:
    """One input, output or state in the model description, as an app sees it.

    Attributes:
        name: name.
        kind: ``array``, ``image``, ``dictionary``, ``int64``, ``double``, ``string``, ``sequence``, ``none``.
        dtype: element type of an array, ``fp32``; empty for other kinds.
        shapes: shapes allowed; ``None`` when the file gives none (outputs of flexible models).
        optional: may be left out of the feeds.
        description: text shown by Xcode.
        default: value taken when an optional input is left out; ``None`` when the file has none.
    """

    name: str
    kind: str
    dtype: str
    shapes: Shapes | None
    optional: bool = False
    description: str = ""
    default: float | None = None


@dataclass(frozen=True)
class Interface:
    """The description of one function."""

    inputs: tuple[Feature, ...]
    outputs: tuple[Feature, ...]
    states: tuple[Feature, ...] = ()


@dataclass(frozen=True)
class Metadata:
    """Texts of the model description; ``user`` are the creator-defined keys."""

    description: str = ""
    version: str = ""
    author: str = ""
    licence: str = ""
    user: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Package:
    """A saved ``.mlpackage``, read and checked; see :func:`rubicc.backends.coreml.run.load.load`.

    Attributes:
        path: the package's folder.
        specification: ``specificationVersion`` of the model file: 6 is iOS 15, 10 is iOS 26.
        program: the functions.
        default: name of the function that runs when none is named.
        interfaces: function name -> description.
        metadata: texts.
        limits: bounds on running it.
        shared: decoded constants that machines of several semantics have in common; the machines own them.
    """

    path: Path
    specification: int
    program: Program
    default: str
    interfaces: Mapping[str, Interface]
    metadata: Metadata
    limits: Limits
    shared: MutableMapping[tuple[int, str], Any] = field(default_factory=WeakValueDictionary, repr=False)
    _machines: dict[tuple[str, str], Machine] = field(default_factory=dict, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @property
    def main(self) -> Function:
        """The default function."""
        return self.program.functions[self.default]

    @property
    def interface(self) -> Interface:
        """Description of the default function."""
        return self.interfaces[self.default]

    def machine(self, semantics: str = "fp16", function: str | None = None) -> Machine:
        """The function made ready to run: names resolved, constants decoded. Made once per semantics.

        Raises:
            ModelRefused: ``RUB-COREML-2xx``: unknown operation, undefined name, constants that do not fit.
            UsageError: ``RUB-COREML-260``: no such semantics or function.
        """
        from rubicc.backends.coreml.run.machine import Machine

        name = self.default if function is None else function
        with self._lock:
            if (name, semantics) not in self._machines:
                self._machines[name, semantics] = Machine(self, name, semantics)
            return self._machines[name, semantics]

    def run(
        self,
        feeds: Mapping[str, np.ndarray],
        semantics: str = "fp16",
        keep: Collection[str] | None = None,
        *,
        function: str | None = None,
        state: State | None = None,
        sink: Callable[[str, Any], None] | None = None,
    ) -> dict[str, Any]:
        """Run a function.

        Args:
            feeds: input name -> array of the declared type and an allowed shape.
            semantics: ``fp16``: tensors of type fp16 are rounded to fp16 when stored, sums are in fp32, fp32
                tensors stay fp32. ``fp32`` and ``fp64``: every floating tensor is held in that type.
            keep: names of values inside the function's outermost block to give back too.
            function: which function; the default one when ``None``.
            state: state from :meth:`new_state`, changed by the call; a fresh one when ``None``.
            sink: is given each kept value (constants excepted) when it is made, instead of their being held
                and returned together.

        Returns:
            Output name -> array, and kept name -> array. Floating results have the declared type under
            ``fp16``, and the type of the semantics otherwise.

        Raises:
            UsageError: ``RUB-COREML-260``, ``RUB-COREML-261``: feeds, names or semantics do not fit.
            ModelRefused: ``RUB-COREML-2xx``: the program contradicts itself or passes a limit.
        """
        return self.machine(semantics, function).run(feeds, keep=keep or (), state=state, sink=sink)

    def close(self) -> None:
        """Let go of decoded constants; the next run decodes them again."""
        with self._lock:
            self._machines.clear()

    def new_state(self, semantics: str = "fp16", function: str | None = None) -> State:
        """Zero state for :meth:`run`; empty for functions without states."""
        return self.machine(semantics, function).new_state()
