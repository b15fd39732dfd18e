"""Reads an emitted ONNX graph into a program for the native kernels, or says what stands in the way.

Two steps: :mod:`~rubicc.backends.cpu_gpu.native.parse` turns nodes into primitive operations on channels x
frames (transposes, reversals and squeezes vanish into how a value is held), and this module fuses them:
whatever follows a convolution elementwise becomes part of it, a quantiser becomes the storage of its result.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from rubicc.backends.cpu_gpu.native.operations import (
    AddOp,
    ChannelOp,
    ConvOp,
    GatherOp,
    LogSoftmaxOp,
    Op,
    Parsed,
    QuantOp,
    Reason,
    RecurrentOp,
    UnaryOp,
)
from rubicc.backends.cpu_gpu.native.parse import parse
from rubicc.backends.cpu_gpu.native.program import (
    Activation,
    Buffer,
    Conv,
    Elementwise,
    Gather,
    Kind,
    LogSoftmax,
    Program,
    Quantised,
    Recurrent,
    Step,
)
from rubicc.errors import Unsupported
from rubicc.ir.graph import Graph


def reasons(graph: Graph) -> tuple[Reason, ...]:
    """Why the kernels cannot run ``graph``; empty when they can."""
    return parse(graph).reasons


def lower(graph: Graph, *, precision: str = "fp32") -> Program:
    """The program of ``graph``.

    Args:
        precision: ``bf16`` rounds operands of products to bfloat16. Quantised convolutions and linear layers
            compute in integers under every precision, exactly as the graph says. Under ``int8`` and ``mixed``
            recurrent layers compute in bfloat16, or in 8 bits where both input and weights are quantised.

    Raises:
        Unsupported: what the kernels do not take (RUB-CPU-063), with every reason.
    """
    parsed = parse(graph)
    if parsed.reasons:
        first = parsed.reasons[0]
        more = f" (and {len(parsed.reasons) - 1} more)" if len(parsed.reasons) > 1 else ""
        where = f"{first.node} ({first.source})"
        raise Unsupported("RUB-CPU-063", f"the native kernels cannot run {first.what}{more}", where=where)
    return _Fuser(parsed, precision).program()


@dataclass
class _Fuser:
    """Walks the operations in order and emits steps; an operation absorbed by an earlier one is skipped."""

    parsed: Parsed
    precision: str
    buffers: list[Buffer] = field(default_factory=list)
    steps: list[tuple[int, Step]] = field(default_factory=list)
    held: dict[int, int] = field(default_factory=dict)  # value -> buffer
    absorbed: set[int] = field(default_factory=set)
    readers: dict[int, list[int]] = field(default_factory=dict)  # value -> operations, -1 for the output
    notes: list[str] = field(default_factory=list)

    def program(self) -> Program:
        parsed = self.parsed
        self.readers[parsed.output] = [-1]
        for index in reversed(range(len(parsed.ops))):
            op = parsed.ops[index]
            if op.y not in self.readers:
                self.absorbed.add(index)  # the output does not depend on it
                continue
            for value in _reads(op):
                self.readers.setdefault(value, []).append(index)
        self.held[parsed.input] = self.new(self.describe(parsed.input))
        # Fused steps run where their last operation stood, when all they read is there.
        for index in range(len(parsed.ops)):
            if index not in self.absorbed:
                self.emit(index)
        output = self.float_output()
        steps = tuple(step for _, step in sorted(self.steps, key=lambda item: item[0]))
        return Program(
            buffers=tuple(self.buffers),
            steps=steps,
            input=self.held[parsed.input],
            output=output,
            layout=parsed.layout,
            input_name=parsed.input_name,
            output_name=parsed.output_name,
            notes=tuple(self.notes),
        )

    def new(self, buffer: Buffer) -> int:
        self.buffers.append(buffer)
        return len(self.buffers) - 1

    def buffer_of(self, value: int) -> int:
        """Buffer of a value that may be made by a later step: kinds are settled when it is."""
        if value not in self.held:
            self.held[value] = self.new(self.describe(value))
        return self.held[value]

    def made(self, value: int, kind: Kind, quant: Quantised | None = None) -> int:
        """Settle the buffer of ``value``."""
        index = self.buffer_of(value)
        self.buffers[index] = self.describe(value, kind, quant)
        return index

    def describe(self, value: int, kind: Kind = "f32", quant: Quantised | None = None) -> Buffer:
        """The buffer of ``value``."""
        return Buffer(self.parsed.channels[value], kind, quant, self.parsed.names[value])

    def emit(self, index: int) -> None:
        op = self.parsed.ops[index]
        if isinstance(op, ConvOp):
            self.conv(index, op, "bf16" if self.precision == "bf16" else "f32")
        elif isinstance(op, ChannelOp):
            weight = np.ascontiguousarray(op.scale[:, None, None])
            by_itself = ConvOp(op.x, op.y, weight, op.shift, groups=len(weight), source=op.source)
            self.conv(index, by_itself, "f32")
        elif isinstance(op, RecurrentOp):
            self.recurrent(index, op)
        elif isinstance(op, LogSoftmaxOp):
            self.steps.append((index, LogSoftmax(self.buffer_of(op.x), self.made(op.y, "f32"), op.source)))
        elif isinstance(op, GatherOp):
            y = self.made(op.y, "f32")
            step = Gather(self.buffer_of(op.x), y, op.index, op.constant, op.source)
            self.steps.append((index, step))
        else:
            self.elementwise(index, op)

    def recurrent(self, index: int, op: RecurrentOp) -> None:
        """One layer; nothing is fused into it."""
        x, y = self.buffer_of(op.x), self.made(op.y, self.kind_for(op.y))
        reduced = self.precision != "fp32"
        step = Recurrent(
            op.cell, x, y, op.w_input, op.w_hidden, op.bias_input, op.bias_hidden, op.reverse,
            "bf16" if reduced else "f32", source=op.source,
        )  # fmt: skip
        integers = self.is_quantised(op.x) and op.scale_input is not None and op.scale_hidden is not None
        if integers and self.precision in ("int8", "mixed"):
            step = replace(
                step,
                compute="u8",
                weight_scale_input=op.scale_input,
                weight_scale_hidden=op.scale_hidden,
                x_quant=self.buffers[x].quant,
            )
        self.steps.append((index, step))

    def conv(self, index: int, op: ConvOp, otherwise: Kind) -> None:
        """A sum and all that follows; in integers if the graph has them, else as ``otherwise`` says."""
        op, last, value = self.with_bias(index, op)
        tail = self.follow(last, value, may_add=True, may_round=True)
        integers = op.weight_scale is not None and self.is_quantised(op.x)
        weight = op.weight
        if op.weight_scale is not None and not integers:
            weight = (op.weight * op.weight_scale[:, None, None]).astype(np.float32)
            self.notes.append(f"{op.source}: int8 weights meet an input that is not quantised")
        step = Conv(
            self.buffer_of(op.x), self.settle(tail), weight, op.bias,
            op.weight_scale if integers else None, op.stride, op.dilation, op.groups, op.pads,
            tail.rounding, None if tail.add is None else self.buffer_of(tail.add), tuple(tail.activations),
            "u8" if integers else otherwise, op.source,
        )  # fmt: skip
        self.steps.append((tail.last, step))

    def with_bias(self, index: int, op: ConvOp) -> tuple[ConvOp, int, int]:
        """``op`` with a bias that is added after it (where it has none: sums would be rounded)."""
        at = self.readers[op.y]
        follower = self.sole_reader(op.y)
        if not isinstance(follower, ChannelOp) or np.any(op.bias) or np.any(follower.scale != 1):
            return op, index, op.y
        self.absorbed.add(at[0])
        return replace(op, bias=follower.shift), at[0], follower.y

    def elementwise(self, index: int, op: Op) -> None:
        """An operation that no convolution took: it starts a step of its own."""
        add, first = None, op.x
        if isinstance(op, AddOp):
            add = op.other
        tail = self.follow(index, op.y, may_add=False, may_round=False)
        if isinstance(op, UnaryOp):
            tail.activations.insert(0, op.activation)
        if isinstance(op, QuantOp):
            tail = _Tail(op.y, index, quant=op.quant)
        y = self.settle(tail)
        source = getattr(op, "source", "")
        other = None if add is None else self.buffer_of(add)
        step = Elementwise(self.buffer_of(first), y, other, tuple(tail.activations), source)
        self.steps.append((tail.last, step))

    def follow(self, index: int, value: int, *, may_add: bool, may_round: bool) -> _Tail:
        """Absorb what follows ``value`` as long as nothing else reads what lies between."""
        tail = _Tail(value, index)
        while tail.quant is None:
            readers = self.readers.get(tail.value, [])
            if len(readers) != 1 or readers[0] < 0 or readers[0] in self.absorbed:
                break
            at = readers[0]
            op = self.parsed.ops[at]
            if isinstance(op, UnaryOp) and len(tail.activations) < MAX_FUSED:
                tail.activations.append(op.activation)
            elif isinstance(op, AddOp) and may_add and tail.add is None and not tail.activations:
                tail.add = op.other if op.x == tail.value else op.x
                if tail.add == tail.value:
                    tail.add = None
                    break
            elif isinstance(op, QuantOp):
                follower = self.sole_reader(op.y)
                free = isinstance(follower, UnaryOp | AddOp) and self.readers[op.y][0] not in self.absorbed
                nothing_yet = tail.add is None and not tail.activations and tail.rounding is None
                if may_round and free and nothing_yet:
                    tail.rounding = op.quant
                else:
                    tail.quant = op.quant
            else:
                break
            self.absorbed.add(at)
            tail.value, tail.last = op.y, at
        return tail

    def sole_reader(self, value: int) -> Op | None:
        readers = self.readers.get(value, [])
        return self.parsed.ops[readers[0]] if len(readers) == 1 and readers[0] >= 0 else None

    def settle(self, tail: _Tail) -> int:
        if tail.quant is not None:
            return self.made(tail.value, "u8", tail.quant)
        return self.made(tail.value, self.kind_for(tail.value))

    def kind_for(self, value: int) -> Kind:
        """Storage of a value that no quantiser rounds: bfloat16 where only products read it."""
        readers = self.readers.get(value, [])
        exact = any(at < 0 or isinstance(self.parsed.ops[at], LogSoftmaxOp | GatherOp) for at in readers)
        if self.precision == "bf16" and not exact:
            return "bf16"
        only_recurrent = all(at >= 0 and isinstance(self.parsed.ops[at], RecurrentOp) for at in readers)
        return "bf16" if self.precision != "fp32" and only_recurrent else "f32"

    def is_quantised(self, value: int) -> bool:
        return value in self.held and self.buffers[self.held[value]].kind == "u8"

    def float_output(self) -> int:
        index = self.held[self.parsed.output]
        if self.buffers[index].kind == "f32":
            return index
        y = self.new(self.describe(self.parsed.output))
        self.steps.append((len(self.parsed.ops), Elementwise(index, y)))
        return y


MAX_FUSED = 6  # as many functions as the kernels' step holds


@dataclass
class _Tail:
    """What follows a sum: [rounding], [add], activations, [storage in 8 bits]."""

    value: int
    last: int
    add: int | None = None
    rounding: Quantised | None = None
    activations: list[Activation] = field(default_factory=list)
    quant: Quantised | None = None


def _reads(op: Op) -> list[int]:
    return [op.x, op.other] if isinstance(op, AddOp) else [op.x]
