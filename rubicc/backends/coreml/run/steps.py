"""A function made ready to run: names turned into slots, constants decoded, kernels found.

Everything that can be known without feeds is checked here, so that a malformed program is refused before
anything runs: names made before they are read, one kernel per operation, its parameters, loops with blocks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rubicc.backends.coreml.run.constants import Constants, Known
from rubicc.backends.coreml.run.kernels import KERNELS
from rubicc.backends.coreml.run.kernels.registry import Kernel
from rubicc.backends.coreml.run.program import Block, Function, Operation, TensorType, Value, ValueType
from rubicc.errors import ModelRefused

# Where a value comes from: a slot of the frame, or a constant known beforehand.
Source = int | Known
CONTROL = frozenset({"while_loop", "cond"})


@dataclass(slots=True)
class Step:
    """One operation to execute.

    Attributes:
        operation: for messages, and its type.
        kernel: what computes it; ``None`` for ``while_loop`` and ``cond``.
        fixed: parameters known beforehand, in the form the kernel wants.
        wide: parameter -> constant that is widened for every use.
        given: parameter -> slot.
        several: parameter -> sources, for parameters that take several values.
        results: slots of the results.
        types: declared types of the results.
        blocks: bodies of ``while_loop`` and ``cond``.
        free: slots whose values are not read after this step.
    """

    operation: Operation
    kernel: Kernel | None
    fixed: dict[str, Any]
    given: dict[str, int]
    several: dict[str, tuple[Source, ...]]
    results: tuple[int, ...]
    types: tuple[ValueType, ...]
    blocks: tuple[Body, ...]
    free: tuple[int, ...] = ()
    wide: dict[str, Known] = field(default_factory=dict)


@dataclass(slots=True)
class Body:
    """A block to execute: slots of what comes in, steps, sources of what goes out.

    ``own`` are all slots of the block itself; they are emptied when it ends.
    """

    inputs: tuple[int, ...]
    types: tuple[ValueType, ...]
    steps: list[Step]
    outputs: tuple[Source, ...]
    own: tuple[int, ...] = ()


class Resolver:
    """Turns the blocks of one function into bodies.

    Attributes:
        names: name -> source, of the outermost block when :meth:`function` has run.
        types: declared type of every slot of a frame.
    """

    def __init__(self, function: Function, constants: Constants) -> None:
        self.source = function
        self.constants = constants
        self.types: list[ValueType] = []
        self.scopes: list[dict[str, Source]] = []
        self.names: Mapping[str, Source] = {}

    def function(self) -> Body:
        """The outermost block.

        Raises:
            ModelRefused: ``RUB-COREML-217``, ``-23x``, ``-242``.
        """
        self._refuse_unknown()
        self.scopes.append({})
        inputs = tuple(self._new(value, f"function {self.source.name!r}") for value in self.source.inputs)
        types = tuple(value.type for value in self.source.inputs)
        body = self._body(self.source.block, inputs, types, f"function {self.source.name!r}")
        self.names = self.scopes[-1]
        return body

    def _refuse_unknown(self) -> None:
        unknown: dict[str, Operation] = {}
        for operation in self.source.operations():
            known = operation.type in KERNELS or operation.type in CONTROL or operation.type == "const"
            if not known and not operation.type.startswith("constexpr_"):
                unknown.setdefault(operation.type, operation)
        if unknown:
            first = next(iter(unknown.values()))
            listed = ", ".join(sorted(unknown)[:10])
            raise ModelRefused("RUB-COREML-232", f"no kernel for {listed}", where=first.where)

    def _new(self, value: Value, where: str) -> int:
        """A slot for a new value of the innermost scope."""
        slot = len(self.types)
        self._name(value.name, slot, where)
        self.types.append(value.type)
        return slot

    def _name(self, name: str, source: Source, where: str) -> None:
        if name in self.scopes[-1]:
            raise ModelRefused("RUB-COREML-231", f"{name!r} is made twice", where=where)
        self.scopes[-1][name] = source

    def _find(self, name: str, where: str) -> Source:
        for scope in reversed(self.scopes):
            if name in scope:
                return scope[name]
        raise ModelRefused("RUB-COREML-230", f"{name!r} is read before anything makes it", where=where)

    def _body(self, block: Block, inputs: tuple[int, ...], types: tuple[ValueType, ...], where: str) -> Body:
        """A block whose inputs stand in the innermost scope already."""
        steps = [step for operation in block.operations if (step := self._step(operation)) is not None]
        outputs = tuple(self._find(name, where) for name in block.outputs)
        _decode(outputs, False)
        body = Body(inputs, types, steps, outputs)
        body.own = tuple(source for source in self.scopes[-1].values() if isinstance(source, int))
        _free_early(body)
        return body

    def _nested(self, block: Block, where: str) -> Body:
        self.scopes.append({})
        inputs = tuple(self._new(value, where) for value in block.inputs)
        body = self._body(block, inputs, tuple(value.type for value in block.inputs), where)
        self.scopes.pop()
        return body

    def _step(self, operation: Operation) -> Step | None:
        """What to execute for an operation; ``None`` for constants, which are known from here on."""
        if operation.type == "const" or operation.type.startswith("constexpr_"):
            for value, known in zip(operation.outputs, self._known(operation), strict=True):
                self._name(value.name, known, operation.where)
            return None
        if operation.attributes:
            odd = ", ".join(sorted(operation.attributes)[:5])
            raise ModelRefused("RUB-COREML-233", f"attributes {odd}", where=operation.where)
        kernel = KERNELS.get(operation.type)
        step = Step(operation, kernel, {}, {}, {}, (), (), ())
        self._bind(step)
        if kernel is None:
            step.blocks = tuple(self._nested(block, operation.where) for block in operation.blocks)
            _check_control(step)
        elif operation.blocks:
            raise ModelRefused("RUB-COREML-217", "blocks in an operation without any", where=operation.where)
        step.results = tuple(self._new(value, operation.where) for value in operation.outputs)
        step.types = tuple(value.type for value in operation.outputs)
        return step

    def _known(self, operation: Operation) -> tuple[Known, ...]:
        if operation.type == "const":
            held = operation.outputs[0]
            if operation.attributes["val"].type != held.type:
                raise ModelRefused(
                    "RUB-COREML-214",
                    f"a value of type {operation.attributes['val'].type} declared as {held.type}",
                    where=operation.where,
                )
            return (self.constants.plain(operation),)
        parts: dict[str, Known] = {
            name: self.constants.written(constant, operation.where)
            for name, constant in operation.attributes.items()
        }
        for name, argument in operation.inputs.items():
            if len(argument.bindings) != 1:
                raise ModelRefused("RUB-COREML-233", f"{name} has several values", where=operation.where)
            parts[name] = self._constant(argument.bindings[0], name, operation.where)
        return self.constants.compressed(operation, parts)

    def _constant(self, binding: Any, name: str, where: str) -> Known:
        if not isinstance(binding, str):
            return self.constants.written(binding, where)
        found = self._find(binding, where)
        if isinstance(found, int):
            raise ModelRefused("RUB-COREML-233", f"{name} must be a constant", where=where)
        return found

    def _bind(self, step: Step) -> None:
        """Sort the parameters of an operation into what is known, what comes from a slot, what is several."""
        operation, kernel = step.operation, step.kernel
        where = operation.where
        required, known = WANTED.get(operation.type) or _signature(kernel)
        given = set(operation.inputs)
        if not required <= given <= known:
            odd = sorted((required - given) | (given - known))
            what = f"parameters {', '.join(odd)} missing or not known"
            raise ModelRefused("RUB-COREML-233", what, where=where)
        kinds: set[str] = set()
        for name, argument in operation.inputs.items():
            sources = tuple(self._source(binding, where) for binding in argument.bindings)
            if kernel is not None and name in kernel.same:
                kinds |= {self._element(source) for source in sources}
            many = name == "loop_vars" if kernel is None else name in kernel.many
            if many:
                step.several[name] = sources
                _decode(sources, kernel is not None and name in kernel.host)
                continue
            if len(sources) != 1:
                raise ModelRefused("RUB-COREML-233", f"{name} has {len(sources)} values", where=where)
            (source,) = sources
            if isinstance(source, int):
                step.given[name] = source
            elif kernel is not None and name in kernel.host:
                step.fixed[name] = source.host()
            elif source.narrow:
                step.wide[name] = source
                _decode((source,), host=False)
            else:
                step.fixed[name] = source.tensor()
        if len(kinds) > 1:
            raise ModelRefused("RUB-COREML-233", f"{' and '.join(sorted(kinds))} together", where=where)

    def _element(self, source: Source) -> str:
        """Declared element type of a value."""
        held = self.types[source] if isinstance(source, int) else source.type
        return held.dtype if isinstance(held, TensorType) else str(held)

    def _source(self, binding: Any, where: str) -> Source:
        return (
            self._find(binding, where) if isinstance(binding, str) else self.constants.written(binding, where)
        )


# Parameters of the operations that own blocks: required ones, all. The functions of a cond are its blocks.
WANTED: dict[str, tuple[frozenset[str], frozenset[str]]] = {
    "while_loop": (frozenset({"loop_vars"}), frozenset({"loop_vars"})),
    "cond": (frozenset({"pred"}), frozenset({"pred"})),
}


def _decode(sources: tuple[Source, ...], host: bool) -> None:
    """Make constants ready, so that what is wrong with them is known before anything runs."""
    for source in sources:
        if isinstance(source, Known):
            _ = source.host() if host else source.tensor()


def _signature(kernel: Kernel | None) -> tuple[frozenset[str], frozenset[str]]:
    assert kernel is not None, "unknown operations were refused before"
    return kernel.required, kernel.known


def _check_control(step: Step) -> None:
    """Refuse loops and branches whose blocks do not fit their values.

    Raises:
        ModelRefused: ``RUB-COREML-217``.
    """
    results = len(step.operation.outputs)
    if len(step.blocks) != 2:
        raise ModelRefused("RUB-COREML-217", f"{len(step.blocks)} blocks, not 2", where=step.operation.where)
    first, second = step.blocks
    if step.operation.type == "cond":
        good = not first.inputs and not second.inputs and len(first.outputs) == len(second.outputs) == results
    else:
        count = len(step.several["loop_vars"])
        good = len(first.inputs) == len(second.inputs) == len(second.outputs) == count == results
        good = good and len(first.outputs) == 1
    if not good:
        raise ModelRefused(
            "RUB-COREML-217", "blocks take or give another number of values", where=step.operation.where
        )


def _read(step: Step) -> set[int]:
    """Slots that a step reads, nested blocks included."""
    found = set(step.given.values())
    for sources in step.several.values():
        found.update(source for source in sources if isinstance(source, int))
    for body in step.blocks:
        found.update(source for source in body.outputs if isinstance(source, int))
        for inner in body.steps:
            found |= _read(inner)
    return found


def _free_early(body: Body) -> None:
    """Give every step the slots of this block that nothing reads after it."""
    needed = {source for source in body.outputs if isinstance(source, int)}
    own = set(body.own)
    for step in reversed(body.steps):
        ended = ((_read(step) | set(step.results)) & own) - needed
        needed |= ended
        step.free = tuple(sorted(ended))
