"""What crosses the border of a run: feeds in, results out, states between runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from rubicc.backends.coreml.run.blobs import NUMPY
from rubicc.backends.coreml.run.kernels.registry import Context
from rubicc.backends.coreml.run.program import (
    FLOATS,
    Feature,
    Function,
    Interface,
    StateType,
    TensorType,
    Value,
    ValueType,
)
from rubicc.backends.coreml.run.states import Cell, State
from rubicc.errors import ModelRefused, UsageError


def fed(
    context: Context, function: Function, interface: Interface | None, feeds: Mapping[str, np.ndarray]
) -> dict[str, torch.Tensor]:
    """Feeds as tensors, checked against the description and the program.

    Raises:
        UsageError: ``RUB-COREML-261``.
        ModelRefused: ``RUB-COREML-242`` larger than the memory limit.
    """
    wanted = {value.name: value for value in function.inputs if not isinstance(value.type, StateType)}
    features = {feature.name: feature for feature in (interface.inputs if interface else ())}
    for name in sorted(set(feeds) - set(wanted)):
        raise _misfit(function, f"no input {name!r}; inputs are {', '.join(sorted(wanted)) or 'none'}")
    made = {}
    for name, value in wanted.items():
        feature = features.get(name)
        array = feeds[name] if name in feeds else _default(function, value, feature)
        made[name] = _tensor(context, function, value, feature, np.asarray(array))
    return made


def _default(function: Function, value: Value, feature: Feature | None) -> np.ndarray:
    """Value of an optional input that was left out: its default everywhere, 0 without one."""
    if feature is None or not feature.optional or feature.shapes is None:
        raise _misfit(function, f"input {value.name!r} is missing")
    dtype = NUMPY[_declared(value).dtype]
    return np.full(feature.shapes.default, feature.default or 0.0, dtype)


def _declared(value: Value) -> TensorType:
    if not isinstance(value.type, TensorType):
        raise ModelRefused("RUB-COREML-217", f"input {value.name!r} is of type {value.type}")
    return value.type


def _tensor(
    context: Context, function: Function, value: Value, feature: Feature | None, array: np.ndarray
) -> torch.Tensor:
    declared = _declared(value)
    if declared.dtype not in NUMPY:
        raise ModelRefused("RUB-COREML-217", f"input {value.name!r} is of type {value.type}")
    if array.dtype != NUMPY[declared.dtype]:
        raise _misfit(function, f"input {value.name!r} is {array.dtype}, not {declared.dtype}")
    allowed = feature.shapes if feature is not None and feature.kind == "array" else None
    if not _fits(array.shape, declared) or (allowed is not None and not _allowed(allowed, array.shape)):
        takes = declared if allowed is None else allowed
        raise _misfit(function, f"input {value.name!r} is {array.shape}; it takes {takes}")
    context.reserve(array.shape)
    if array.dtype.kind == "u" and array.dtype.itemsize > 1:
        array = array.astype(np.int64)
    return torch.from_numpy(np.array(array)).to(context.held(declared.dtype))


def _allowed(shapes: Any, shape: tuple[int, ...]) -> bool:
    # A scalar of the program is described as one element.
    return bool(shapes.allows(shape)) or (shape == () and shapes.allows((1,)))


def _fits(shape: tuple[int, ...], declared: TensorType) -> bool:
    if declared.variadic:
        return True
    return len(shape) == len(declared.shape) and all(
        size is None or size == given for given, size in zip(shape, declared.shape, strict=True)
    )


def _misfit(function: Function, what: str) -> UsageError:
    hint = "give every input the element type and a shape of the model description"
    return UsageError("RUB-COREML-261", what, where=f"function {function.name!r}", hint=hint)


def fresh_state(context: Context, function: Function) -> State:
    """Zero tensors for the states of a function.

    Raises:
        ModelRefused: ``RUB-COREML-213`` a state of open shape, ``-242`` larger than the memory limit.
    """
    made = {}
    for name, held in states_of(function).items():
        if held.elements is None or held.dtype == "string":
            raise ModelRefused("RUB-COREML-213", f"state {name!r} of the open type or text {held}")
        shape = [size or 0 for size in held.shape]
        context.reserve(shape)
        made[name] = torch.zeros(shape, dtype=context.held(held.dtype))
    return State(made)


def states_of(function: Function) -> dict[str, TensorType]:
    """Name -> type of the states of a function."""
    return {value.name: value.type.wrapped for value in function.inputs if isinstance(value.type, StateType)}


def cells(context: Context, function: Function, state: State) -> dict[str, Cell]:
    """States as operations see them.

    Raises:
        UsageError: ``RUB-COREML-260`` the state was made for another function or semantics.
    """
    wanted = states_of(function)
    for name in sorted(set(wanted) ^ set(state.names())):
        raise UsageError(
            "RUB-COREML-260",
            f"state {name!r} stands on one side only",
            where=f"function {function.name!r}",
            hint="take the state from new_state() of this function and semantics",
        )
    for name, held in wanted.items():
        tensor = state.tensors[name]
        if tensor.dtype != context.held(held.dtype) or not _fits(tuple(tensor.shape), held):
            raise UsageError(
                "RUB-COREML-260",
                f"state {name!r} holds {tensor.dtype} {tuple(tensor.shape)}, not {held}",
                where=f"function {function.name!r}",
                hint="take the state from new_state() of this function and semantics",
            )
    return {name: Cell(state, name, held.dtype) for name, held in wanted.items()}


def given_out(context: Context, value: Any, declared: ValueType | None) -> Any:
    """A result as the caller gets it: numpy array, or what a classifier gives."""
    if isinstance(value, list):
        return [given_out(context, item, None) for item in value]
    if not isinstance(value, torch.Tensor):
        return value
    array = value.detach().contiguous().numpy()
    if not isinstance(declared, TensorType):
        return array.copy()
    if declared.dtype in FLOATS and not context.half:
        return array.copy()
    return array.astype(NUMPY.get(declared.dtype, array.dtype))
