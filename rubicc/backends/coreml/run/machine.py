"""Executes one function of a package, operation after operation, under one semantics.

Semantics. Under ``fp16`` every tensor that the program declares fp16 is rounded to fp16 once, when an
operation stores it; inside an operation all arithmetic and all sums are in fp32 (the documented behaviour of
Core ML's CPU path; for the Neural Engine and the GPU it is an assumption: Apple documents neither the width
of their accumulators nor the order of their sums). Tensors declared fp32 stay fp32. A value beyond 65504
becomes infinite. Under ``fp32`` and ``fp64`` nothing is rounded but constants, which are what the file
stores.

Memory. A value is dropped after the operation that reads it last. Before an operation makes something larger
than its inputs it asks (:meth:`Context.reserve`); what is alive is counted, views of one tensor as often as
they have names.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from rubicc.backends.coreml.run.constants import Constants, Known
from rubicc.backends.coreml.run.feeds import cells, fed, fresh_state, given_out
from rubicc.backends.coreml.run.kernels.registry import Context
from rubicc.backends.coreml.run.program import FLOATS, ListType, Package, TensorType, ValueType
from rubicc.backends.coreml.run.states import State
from rubicc.backends.coreml.run.steps import Body, Resolver, Source, Step
from rubicc.errors import ModelRefused, RubiccError, UsageError

# Semantics -> torch type that holds floats, whether fp16 tensors are rounded.
SEMANTICS: dict[str, tuple[torch.dtype, bool]] = {
    "fp16": (torch.float32, True),
    "fp32": (torch.float32, False),
    "fp64": (torch.float64, False),
}
# Called with name, element type and shape of every value when it is made.
Observer = Callable[[str, str, tuple[int, ...]], None]
Sink = Callable[[str, Any], None]
Frame = list[Any]


class Machine:
    """One function ready to run; :meth:`run` may be called from several threads at once.

    Args:
        package: as read from disk.
        function: name of the function.
        semantics: ``fp16``, ``fp32`` or ``fp64``.

    Raises:
        ModelRefused: ``RUB-COREML-2xx``: the program contradicts itself; nothing was run.
        UsageError: ``RUB-COREML-260``.
    """

    def __init__(self, package: Package, function: str, semantics: str) -> None:
        functions = package.program.functions
        if semantics not in SEMANTICS or function not in functions:
            what = f"semantics {semantics!r}, function {function!r}"
            hint = f"semantics: {', '.join(SEMANTICS)}; functions: {', '.join(sorted(functions)[:10])}"
            raise UsageError("RUB-COREML-260", what, where=package.path.name, hint=hint)
        self.package = package
        self.function = functions[function]
        self.interface = package.interfaces.get(function)
        self.semantics = semantics
        constants = Constants(package, self._context())
        resolver = Resolver(self.function, constants)
        with torch.inference_mode():
            self.body = resolver.function()
        constants.settle()
        self.names = resolver.names
        self.slots = len(resolver.types)
        self.constants_bytes = constants.bytes

    def _context(self) -> Context:
        float_type, half = SEMANTICS[self.semantics]
        return Context(int(self.function.opset.removeprefix("CoreML")), float_type, half, self.package.limits)

    def new_state(self) -> State:
        """Zero state for :meth:`run`."""
        return fresh_state(self._context(), self.function)

    def run(
        self,
        feeds: Mapping[str, np.ndarray],
        *,
        keep: Collection[str] = (),
        state: State | None = None,
        observe: Observer | None = None,
        sink: Sink | None = None,
    ) -> dict[str, Any]:
        """Run once; see :meth:`Package.run`.

        Args:
            observe: called with name, element type and shape of every value of every block when it is made;
                it should not raise.
        """
        for name in keep:
            if name not in self.names:
                what = f"no value {name!r} in the outermost block"
                raise UsageError("RUB-COREML-260", what, where=f"function {self.function.name!r}")
        run = _Run(self, self._context(), observe, keep, sink)
        with torch.inference_mode():
            tensors: dict[str, Any] = dict(fed(run.context, self.function, self.interface, feeds))
            tensors |= cells(run.context, self.function, state or self.new_state())
            values = [tensors[value.name] for value in self.function.inputs]
            made = run.body(self.body, values, [value.name for value in self.function.inputs])
            names = self.function.block.outputs
            found = dict(zip(names, made, strict=True)) | ({} if sink else run.kept(self.names))
            types = self.function.types
            return {name: given_out(run.context, value, types.get(name)) for name, value in found.items()}


class _Run:
    """One execution: the frame of values and what was used up."""

    def __init__(
        self,
        machine: Machine,
        context: Context,
        observe: Observer | None,
        keep: Collection[str],
        sink: Sink | None,
    ) -> None:
        self.frame: Frame = [None] * machine.slots
        self.context = context
        self.observe = observe
        self.limits = machine.package.limits
        self.keeping: dict[int, Any] = {
            source: None for name in keep if isinstance(source := machine.names[name], int)
        }
        self.keep, self.sink = tuple(keep), sink

    def kept(self, names: Mapping[str, Source]) -> dict[str, Any]:
        """The values asked for besides the outputs."""
        sources = {name: names[name] for name in self.keep}
        return {
            name: self.keeping[source] if isinstance(source, int) else source.tensor()
            for name, source in sources.items()
        }

    def body(self, body: Body, values: Sequence[Any], names: Sequence[str]) -> list[Any]:
        """Execute a block on values for its inputs; gives its outputs and empties its slots."""
        for slot, value, type_, name in zip(body.inputs, values, body.types, names, strict=True):
            self.enter(slot, value, type_, name)
        for step in body.steps:
            self.step(step)
            for slot in step.free:
                self.drop(slot)
        made = [self.value(source) for source in body.outputs]
        for slot in body.own:
            self.drop(slot)
        return made

    def value(self, source: Source) -> Any:
        return source.tensor() if isinstance(source, Known) else self.frame[source]

    def number(self, source: Source) -> Any:
        """A value as Python numbers, or a text."""
        return source.host() if isinstance(source, Known) else _host(self.frame[source])

    def enter(self, slot: int, value: Any, type_: ValueType, name: str) -> None:
        """Store what comes into a block; a loop may not change the type that its block declares.

        Raises:
            ModelRefused: ``RUB-COREML-241``.
        """
        tensor = isinstance(value, torch.Tensor)
        if tensor != isinstance(type_, TensorType) or (tensor and not self.enters(value, type_)):
            where = self.context.operation.where if self.context.operation else ""
            found = f"{value.dtype} {tuple(value.shape)}" if tensor else type(value).__name__
            raise ModelRefused("RUB-COREML-241", f"{name!r} is {found}, declared {type_}", where=where)
        self.put(slot, value, type_, name)

    def enters(self, value: torch.Tensor, type_: ValueType) -> bool:
        """Whether a tensor is of the type that a block declares for its input."""
        fits = isinstance(type_, TensorType) and type_.dtype != "string" and _fits(value, type_)
        return fits and value.dtype == self.context.held(type_.dtype)  # type: ignore[union-attr]

    def put(self, slot: int, value: Any, type_: ValueType, name: str) -> None:
        """Store a value, counted."""
        self.frame[slot] = value
        self.context.live += _bytes(value)
        self.context.peak = max(self.context.peak, self.context.live)
        if slot in self.keeping and self.sink is not None:
            self.sink(name, given_out(self.context, value, type_))
        elif slot in self.keeping:
            self.keeping[slot] = value
        if self.observe is not None and isinstance(value, torch.Tensor):
            dtype = type_.dtype if isinstance(type_, TensorType) else str(type_)
            self.observe(name, dtype, tuple(value.shape))

    def drop(self, slot: int) -> None:
        self.context.live -= _bytes(self.frame[slot])
        self.frame[slot] = None

    def step(self, step: Step) -> None:
        """Execute one operation and store its results."""
        context = self.context
        context.operation, context.types = step.operation, step.types
        context.turn()
        if step.kernel is None:
            made = self.loop(step) if step.operation.type == "while_loop" else self.branch(step)
            context.operation, context.types = step.operation, step.types
        else:
            made = self.compute(step)
        if len(made) != len(step.results):
            what = f"{len(made)} results, declared {len(step.results)}"
            raise ModelRefused("RUB-COREML-241", what, where=step.operation.where)
        for slot, value, declared in zip(step.results, made, step.operation.outputs, strict=True):
            self.put(slot, self.fitted(step, value, declared.type), declared.type, declared.name)
        if context.live > self.limits.live_bytes:
            what = f"{context.live} bytes alive pass the limit of {self.limits.live_bytes}"
            raise ModelRefused("RUB-COREML-242", what, where=step.operation.where)

    def compute(self, step: Step) -> tuple[Any, ...]:
        """Call the kernel of an operation; whatever torch raises becomes ours."""
        assert step.kernel is not None
        given = dict(step.fixed)
        host = step.kernel.host
        try:
            for name, known in step.wide.items():
                given[name] = known.tensor()
            for name, slot in step.given.items():
                given[name] = _host(self.frame[slot]) if name in host else self.frame[slot]
            for name, sources in step.several.items():
                wanted = self.number if name in host else self.value
                given[name] = [wanted(source) for source in sources]
            made = step.kernel.run(self.context, **given)
        except RubiccError:
            raise
        except MemoryError as err:
            raise ModelRefused(
                "RUB-COREML-242", "no memory left for its result", where=step.operation.where
            ) from err
        except Exception as err:
            raise ModelRefused(
                "RUB-COREML-240", f"{_first_line(err)} ({_described(given)})", where=step.operation.where
            ) from err
        return made if isinstance(made, tuple) else (made,)

    def fitted(self, step: Step, value: Any, declared: ValueType) -> Any:
        """A result as its declared type stores it.

        Raises:
            ModelRefused: ``RUB-COREML-241``.
        """
        if not isinstance(value, torch.Tensor) or not isinstance(declared, TensorType):
            if isinstance(value, torch.Tensor) or (isinstance(value, list) != isinstance(declared, ListType)):
                raise _differs(step, type(value).__name__, declared)
            return value
        value = self.typed(step, value, declared)
        if not _fits(value, declared):
            raise _differs(step, str(tuple(value.shape)), declared)
        if step.kernel is not None and not step.kernel.moves and declared.dtype in FLOATS:
            return self.context.stored(value, declared.dtype)
        return value

    def typed(self, step: Step, value: torch.Tensor, declared: TensorType) -> torch.Tensor:
        """A result as its declared element type is held; whole numbers may be widened or narrowed.

        Raises:
            ModelRefused: ``RUB-COREML-241`` a number for a condition, a float for a whole number or a text.
        """
        wanted = self.context.held(declared.dtype) if declared.dtype != "string" else None
        if value.dtype == wanted:
            return value
        whole = not value.is_floating_point() and value.dtype != torch.bool
        if wanted is None or not whole or wanted == torch.bool or wanted.is_floating_point:
            raise _differs(step, str(value.dtype), declared)
        return value.to(wanted)

    def loop(self, step: Step) -> tuple[Any, ...]:
        """``while_loop``: the body as long as the condition holds."""
        condition, body = step.blocks
        values = [self.value(source) for source in step.several["loop_vars"]]
        names = [[value.name for value in block.inputs] for block in step.operation.blocks]
        turns = 0
        while self.truth(step, self.body(condition, values, names[0])[0]):
            turns += 1
            if turns > self.limits.iterations:
                self.context.operation = step.operation
                raise self.context.too_long(f"more than {self.limits.iterations} turns")
            values = self.body(body, values, names[1])
        return tuple(values)

    def branch(self, step: Step) -> tuple[Any, ...]:
        """``cond``: the first block when the predicate holds, else the second."""
        held = step.fixed["pred"] if "pred" in step.fixed else self.frame[step.given["pred"]]
        return tuple(self.body(step.blocks[0 if self.truth(step, held) else 1], (), ()))

    def truth(self, step: Step, value: Any) -> bool:
        if not isinstance(value, torch.Tensor) or value.dtype != torch.bool or value.numel() != 1:
            raise ModelRefused(
                "RUB-COREML-240", "a condition that is no single bool", where=step.operation.where
            )
        return bool(value)


def _bytes(value: Any) -> int:
    if isinstance(value, torch.Tensor):
        return value.numel() * value.element_size()
    return int(getattr(value, "nbytes", 0))


def _host(value: Any) -> Any:
    """A value of the run as Python numbers, for kernels that ask for them."""
    return value.tolist() if isinstance(value, torch.Tensor) else value


def _fits(value: torch.Tensor, declared: TensorType) -> bool:
    """Whether the shape is one that the declared type allows."""
    if declared.variadic:
        return True
    return len(value.shape) == len(declared.shape) and all(
        size is None or size == made for made, size in zip(value.shape, declared.shape, strict=True)
    )


def _differs(step: Step, found: str, declared: ValueType) -> ModelRefused:
    return ModelRefused("RUB-COREML-241", f"made {found}, declared {declared}", where=step.operation.where)


def _first_line(err: Exception) -> str:
    """The cause without torch's stack of C++ names."""
    return (str(err).strip() or type(err).__name__).splitlines()[0][:300]


def _described(given: Mapping[str, Any]) -> str:
    """Shapes of tensors and values of numbers that an operation got."""
    return ", ".join(f"{name} {_short(value)}" for name, value in given.items())[:300]


def _short(value: Any) -> str:
    """Shape of a tensor, beginning of a list, anything else as it is."""
    if isinstance(value, torch.Tensor):
        return "x".join(map(str, value.shape)) or "scalar"
    if isinstance(value, list):
        more = ", ..." if len(value) > 6 else ""
        return f"[{', '.join(map(_short, value[:6]))}{more}]"
    return repr(value)[:60]
