"""Turns a program into the structs and packed arrays that the kernels read."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from rubicc.backends.cpu_gpu.native import structs
from rubicc.backends.cpu_gpu.native.pack import LANES, Packed, aligned, pack, unsupported, zero_corrected
from rubicc.backends.cpu_gpu.native.program import (
    Activation,
    Buffer,
    Conv,
    Elementwise,
    Gather,
    Program,
    Quantised,
    Recurrent,
    Step,
)
from rubicc.errors import Unsupported


@dataclass(eq=False)
class Assembled:
    """``spec`` and everything its pointers refer to."""

    spec: structs.ProgramSpec
    kept: list[Any] = field(default_factory=list)


def assemble(program: Program) -> Assembled:
    """Pack the weights, place the buffers, fill in the structs.

    Raises:
        Unsupported: a step that the kernels do not take (RUB-CPU-063).
    """
    program = converted(program)
    packed = {id(step): _packed(step, program) for step in program.steps if isinstance(step, Conv)}
    buffers = (structs.BufferSpec * len(program.buffers))(*_buffer_specs(program, packed))
    steps = (structs.StepSpec * len(program.steps))()
    parts = Assembled(structs.ProgramSpec(), [buffers, steps])
    for spec, step in zip(steps, program.steps, strict=True):
        _fill(spec, step, program, packed.get(id(step)), parts.kept)
    parts.spec.buffers = ctypes.addressof(buffers)
    parts.spec.steps = ctypes.addressof(steps)
    parts.spec.n_buffers, parts.spec.n_steps = len(buffers), len(steps)
    parts.spec.n_slots = 1 + max(spec.slot for spec in buffers)
    parts.spec.input, parts.spec.output = program.input, program.output
    parts.spec.layout_nct = program.layout == "NCT"
    parts.spec.recurrent = program.recurrent
    return parts


def converted(program: Program) -> Program:
    """``program`` with a change of storage wherever a step computes in another kind than its input has.

    The first convolution of a network in bf16 reads single samples, computed in float32: it is cheap, and no
    rounding of the signal beats any.
    """
    buffers = list(program.buffers)
    steps: list[Step] = []
    made: dict[tuple[int, str, Quantised | None], int] = {}
    for step in program.steps:
        if isinstance(step, Conv | Recurrent):
            x = buffers[step.x]
            if isinstance(step, Conv) and step.compute == "bf16" and x.channels == 1 and x.kind == "f32":
                step = replace(step, compute="f32")
            quant = getattr(step, "x_quant", None) if step.compute == "u8" else None
            if x.kind != step.compute and not (step.compute == "u8" and quant is None):
                key = (step.x, step.compute, quant)
                if key not in made:
                    buffers.append(Buffer(x.channels, step.compute, quant, x.name))
                    made[key] = len(buffers) - 1
                    steps.append(Elementwise(step.x, made[key]))
                step = replace(step, x=made[key])
        steps.append(step)
    return replace(program, buffers=tuple(buffers), steps=tuple(steps))


def _packed(step: Conv, program: Program) -> Packed:
    x = program.buffers[step.x]
    why = unsupported(step)
    if step.compute == "u8" and (x.kind != "u8" or step.weight_scale is None):
        why = "int8 weights over an input that is not stored in 8 bits"
    if len(step.activations) > structs.MAX_ACTIVATIONS:
        why = f"{len(step.activations)} functions in a row"
    if why:
        raise Unsupported("RUB-CPU-063", f"the native kernels cannot run {why}", where=step.source)
    return pack(step, x.channels)


def _buffer_specs(program: Program, packed: dict[int, Packed]) -> list[structs.BufferSpec]:
    sequences = {b for step in program.steps if isinstance(step, Recurrent) for b in (step.x, step.y)}
    slots = _slots(program)
    specs = []
    for index, buffer in enumerate(program.buffers):
        quant = buffer.quant or Quantised(1.0, 0)
        specs.append(
            structs.BufferSpec(
                channels=buffer.channels,
                kind=structs.KINDS[buffer.kind],
                slot=slots[index],
                sequence=index in sequences,
                zero_point=quant.zero_point,
                scale=quant.scale,
            )
        )
    for step in program.steps:
        if isinstance(step, Conv):
            span = step.dilation * (step.weight.shape[2] - 1) + 1
            spec = specs[step.x]
            spec.pad_before = max(spec.pad_before, step.pads[0])
            # Beyond the convolution's own padding: words that hold no tap of the last frame meet zero
            # weights,
            # but zero times what is no number is no number.
            after = step.pads[1] + packed[id(step)].reach - span + 1
            spec.pad_after = max(spec.pad_after, after, 0)
    return specs


def _slots(program: Program) -> list[int]:
    """A piece of memory per buffer, used again by buffers that live later, the warmest first."""
    last = dict.fromkeys(range(len(program.buffers)), -1)
    for n, step in enumerate(program.steps):
        for b in _reads(step):
            last[b] = n
    last[program.output] = len(program.steps)
    slots, count = [0] * len(program.buffers), 1
    free: list[int] = []
    for n, step in enumerate(program.steps):
        if free:
            slots[step.y] = free.pop()
        else:
            slots[step.y], count = count, count + 1
        done = {b for b in (*_reads(step), step.y) if last[b] <= n}
        free += [slots[b] for b in sorted(done)]
    return slots


def _reads(step: Step) -> list[int]:
    add = getattr(step, "add", None)
    return [step.x] if add is None else [step.x, add]


def _fill(
    spec: structs.StepSpec, step: Step, program: Program, packed: Packed | None, kept: list[Any]
) -> None:
    spec.op = structs.OPS[type(step).__name__]
    spec.x, spec.y = step.x, step.y
    add = getattr(step, "add", None)
    spec.add = -1 if add is None else add
    spec.phases = 1
    functions: Sequence[Activation] = getattr(step, "activations", ())
    spec.activations = len(functions)
    for place, f in enumerate(functions):
        spec.functions[place].function = structs.FUNCTIONS[f.function]
        spec.functions[place].a, spec.functions[place].b = f.a, f.b
    if isinstance(step, Conv):
        assert packed is not None
        _fill_conv(spec, step, program.buffers[step.x], packed, kept)
    elif isinstance(step, Gather):
        spec.index = _pointer(step.index.astype(np.int32), kept)
        spec.constant = step.constant
    elif isinstance(step, Recurrent):
        from rubicc.backends.cpu_gpu.native.pack_rnn import fill

        spec.recurrent = fill(step, program, kept)


def _fill_conv(spec: structs.StepSpec, step: Conv, x: Buffer, packed: Packed, kept: list[Any]) -> None:
    outputs, _, taps = step.weight.shape
    made = outputs // step.groups
    spec.compute = structs.KINDS[step.compute]
    spec.phases, spec.vectors, spec.panels = packed.phases, packed.vectors, packed.panels
    spec.panels_per_group, spec.words = packed.panels_per_group, packed.words
    spec.channels_out = outputs
    spec.group_out = -(-made // LANES) * LANES if step.groups == 1 else made
    spec.stride, spec.pad = step.stride, step.pads[0]
    spec.taps_first = sum(step.pads) - (step.dilation * (taps - 1) + 1)
    if step.output_quant is not None:
        spec.requantise = 1
        spec.output_scale, spec.output_zero = step.output_quant.scale, step.output_quant.zero_point
    bias = packed.bias
    if step.compute == "u8":
        assert x.quant is not None
        bias = zero_corrected(packed, x.quant.scale, x.quant.zero_point)
    spec.weights = _pointer(packed.weights, kept)
    for name in ("word_frame", "word_channel", "panel_channel", "scale"):
        setattr(spec, name, _pointer(getattr(packed, name), kept))
    spec.bias = _pointer(bias, kept)


def _pointer(array: np.ndarray, kept: list[Any]) -> int:
    array = array if array.ctypes.data % 64 == 0 else aligned(array)
    kept.append(array)
    return int(array.ctypes.data)
