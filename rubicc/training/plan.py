"""A program planned for one set of input shapes: a flat list of functions over numbered registers."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor

from rubicc.errors import RubiccError
from rubicc.ir.graph import Graph
from rubicc.ir.ops import KERNEL_FAILURES
from rubicc.ir.ops.registry import is_float
from rubicc.training.ops import BUILDERS, Builder, DataDependent, Run, Site
from rubicc.training.program import SIZES, Item, Program, evaluate, failed, no_body

Step = tuple[Run, tuple[int, ...], int | tuple[int, ...], tuple[int, ...]]
_FAILURES = (*KERNEL_FAILURES, RuntimeError, NotImplementedError)


@dataclass
class Plan:
    """What a step of training runs.

    Attributes:
        registers: constants in their places, ``None`` elsewhere; the first one, for omitted inputs, stays so.
        sources: registers filled at every call, by value name (feeds, weights).
        steps: (function, registers read, registers written, registers emptied).
        results: registers by output name.
    """

    registers: list[Tensor | None]
    sources: list[tuple[int, str]]
    steps: list[Step]
    results: dict[str, int]

    def run(self, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Run the steps; ``given`` holds feeds and weights by value name."""
        registers = self.registers.copy()
        for place, name in self.sources:
            registers[place] = given[name]
        for function, reads, writes, emptied in self.steps:
            result = function(*[registers[i] for i in reads])
            if type(writes) is int:
                registers[writes] = result
            else:
                for place, tensor in zip(writes, result, strict=False):  # type: ignore[arg-type]
                    registers[place] = tensor
            for place in emptied:
                registers[place] = None
        return {name: registers[place] for name, place in self.results.items()}  # type: ignore[misc]


class Planner:
    """Plans a program while running it once, so that every shape is read from a real tensor.

    Args:
        given: feeds and weights by value name.
        results: values wanted, by name.
        statistics: names of running statistics that train mode may update.
    """

    def __init__(
        self,
        graph: Graph,
        program: Program,
        given: Mapping[str, Tensor],
        results: Mapping[str, ir.Value],
        *,
        dtype: torch.dtype,
        device: torch.device,
        training: bool,
        statistics: Collection[str],
        second_order: bool,
    ) -> None:
        self.graph, self.program, self.given, self.wanted = graph, program, given, results
        self.dtype, self.device, self.training, self.statistics = dtype, device, training, statistics
        self.second_order = second_order
        self.floats = numpy_float(dtype)
        self.known: dict[ir.Value, np.ndarray] = dict(program.constants)
        self.live: dict[ir.Value, Tensor] = {}
        self.place: dict[ir.Value | None, int] = {None: 0}
        self.constants: dict[int, Tensor] = {}
        self.sources: list[tuple[int, str]] = []

    def plan(self) -> tuple[Plan, dict[str, Tensor]]:
        """The plan, and the results of the run it was made in.

        Raises:
            VerificationFailed: ``RUB-TRAIN-002`` naming the node that failed.
        """
        steps = []
        for item in self.program.items:
            if item.known:
                self._settle(item)
            else:
                steps.append(self._step(item))
            for value in item.last:
                self.live.pop(value, None)
        outputs = {name: self._tensor(value) for name, value in self.wanted.items()}
        results = {name: self.place[value] for name, value in self.wanted.items()}
        registers: list[Tensor | None] = [None] * len(self.place)
        for place, tensor in self.constants.items():
            registers[place] = tensor
        return Plan(registers, self.sources, steps, results), outputs

    def _settle(self, item: Item) -> None:
        """A value that hangs on shapes alone becomes a constant of this plan."""
        known: Mapping[ir.Value, np.ndarray] = self.known
        if item.key in SIZES and item.inputs[0] is not None and item.inputs[0] not in known:
            shape = tuple(self._tensor(item.inputs[0]).shape)
            known = {item.inputs[0]: np.broadcast_to(np.False_, shape)}
        arrays = evaluate(self.graph, item.node, item.inputs, known, self.floats)
        self.known.update(zip(item.outputs, arrays, strict=False))

    def _step(self, item: Item) -> Step:
        try:
            tensors = [None if value is None else self._tensor(value) for value in item.inputs]
            with torch.inference_mode(
                False
            ):  # what a builder makes outlives this call, and may meet gradients
                function = _builder(item.key)(self._site(item, tensors))
            result = function(*tensors)
        except RubiccError:
            raise
        except _FAILURES as err:
            raise failed(item.node, err) from err
        several = isinstance(result, (tuple, list))
        outputs = item.outputs[: len(result)] if several else item.outputs[:1]
        for value, tensor in zip(outputs, result if several else (result,), strict=False):
            self.place[value] = len(self.place)
            self.live[value] = tensor
        written = tuple(self.place[value] for value in outputs)
        emptied = tuple(self.place[value] for value in item.last if value in self.place)
        return (
            function,
            tuple(self.place[value] for value in item.inputs),
            written if several else written[0],
            emptied,
        )

    def _site(self, item: Item, tensors: list[Tensor | None]) -> Site:
        node = item.node
        arrays = [None if value is None else self.known.get(value) for value in item.inputs]
        opset = self.graph.model.opset_imports.get(node.domain, 1)
        names = [value.name for value in item.inputs[3:5] if value is not None]
        return Site(
            node,
            arrays,
            opset,
            self.floats,
            no_body,
            tensors,
            self.dtype,
            self.training,
            self._stored(item) if item.stored else None,
            all(name in self.statistics for name in names),
            item.consumed,
            self.second_order,
        )

    def _stored(self, item: Item) -> torch.dtype:
        """Type in which a quantiser decides: the weight's own where it reads it directly."""
        value = item.inputs[0]
        if value is None or value.const_value is None:
            return self.dtype
        declared = np.dtype(value.const_value.dtype.numpy())
        return torch.from_numpy(np.empty(0, declared)).dtype if declared.kind == "f" else torch.bfloat16

    def _tensor(self, value: ir.Value) -> Tensor:
        """The tensor of ``value``, in its register from now on."""
        tensor = self.live.get(value)
        if tensor is not None:
            return tensor
        place = self.place.setdefault(value, len(self.place))
        if value in self.known:
            if place not in self.constants:
                self.constants[place] = self._constant(self.known[value])
            return self.constants[place]
        tensor = self.live[value] = self.given[value.name or ""]
        self.sources.append((place, value.name or ""))
        return tensor

    def _constant(self, array: np.ndarray) -> Tensor:
        with torch.inference_mode(False):
            tensor = torch.from_numpy(np.array(array.astype(self.floats) if is_float(array.dtype) else array))
            return tensor.to(self.device, self.dtype if tensor.is_floating_point() else None)


def _builder(key: str) -> Builder:
    builder = BUILDERS.get(key)
    if builder is None:  # refuse() let it pass: it is fine where it hangs on shapes alone
        raise DataDependent("what it makes depends on data")
    return builder


def numpy_float(dtype: torch.dtype) -> np.dtype:
    """Type in which constants of a twin in ``dtype`` are computed."""
    return np.dtype(np.float64 if dtype == torch.float64 else np.float32)
