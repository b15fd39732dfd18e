"""A pickle interpreter that imports nothing and calls nothing.

``pickle.Unpickler`` imports every name a stream mentions, and its C version allocates what a stream
declares. This one walks the instructions with ``pickletools`` (which only tokenises) and knows just those
that ``torch.save`` writes. Names become :class:`Global`, constructed objects become :class:`Inert` records,
tensors become :class:`TensorRecord` descriptions. Dictionary keys must be plain strings or integers, so no
stream can make hashing slow.
"""

from __future__ import annotations

import io
import pickletools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from rubicc.errors import ModelRefused
from rubicc.frontend.limits import DEFAULT, Limits
from rubicc.text import printable


@dataclass(frozen=True)
class Global:
    """A name the stream refers to; never imported."""

    name: str


@dataclass(eq=False)
class Inert:
    """What would have been an instance of ``cls``."""

    cls: str
    args: tuple[Any, ...] = ()
    state: Any = None
    items: list[Any] = field(default_factory=list)


@dataclass(frozen=True)
class StorageRecord:
    """A storage named by a persistent id: ``numel`` elements of ``dtype`` (torch dtype name)."""

    key: str
    dtype: str
    numel: int


@dataclass(frozen=True, eq=False)
class TensorRecord:
    """A strided view of a storage, in elements."""

    storage: StorageRecord
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


@dataclass
class Interpreted:
    """Result of one stream.

    Attributes:
        root: the value the stream builds.
        wanted: names outside ``allowed`` in order of appearance.
        end: offset of the byte after STOP.
    """

    root: Any
    wanted: list[str]
    end: int


STORAGES = {
    "torch.DoubleStorage": "float64",
    "torch.FloatStorage": "float32",
    "torch.HalfStorage": "float16",
    "torch.BFloat16Storage": "bfloat16",
    "torch.LongStorage": "int64",
    "torch.IntStorage": "int32",
    "torch.ShortStorage": "int16",
    "torch.CharStorage": "int8",
    "torch.ByteStorage": "uint8",
    "torch.BoolStorage": "bool",
}
TENSOR_GLOBALS = frozenset(STORAGES) | {
    "collections.OrderedDict",
    "torch._utils._rebuild_tensor_v2",
    "torch._utils._rebuild_parameter",
    "torch.Size",
}
_CONSTANTS: dict[str, Any] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_PUSH_ARG = frozenset(
    {
        *(
            "BININT",
            "BININT1",
            "BININT2",
            "LONG1",
            "BINFLOAT",
            "BINUNICODE",
            "SHORT_BINUNICODE",
            "BINUNICODE8",
        ),
        *("SHORT_BINBYTES", "BINBYTES", "BINSTRING", "SHORT_BINSTRING"),
    }
)
_MARK = object()


class _Bad(Exception):
    """The stream does something torch.save never writes."""


def interpret(
    data: bytes,
    *,
    where: str,
    allowed: frozenset[str] = TENSOR_GLOBALS,
    start: int = 0,
    limits: Limits = DEFAULT,
) -> Interpreted:
    """Interpret the pickle stream at ``data[start:]``.

    Args:
        data: bytes holding the stream.
        where: file name for errors.
        allowed: names that may be mentioned; others are recorded in ``wanted`` and stay inert.
        start: offset of the first instruction.
        limits: bounds on the number of instructions.

    Raises:
        ModelRefused: RUB-READ-015 for unknown instructions or a stream that ends early, -011 for tensor
            records that cannot be.
    """
    machine = _Machine(allowed, where)
    try:
        for count, (opcode, arg, position) in enumerate(
            pickletools.genops(io.BytesIO(memoryview(data)[start : start + limits.entry_text]))
        ):
            if count > limits.opcodes:
                raise _Bad(f"more than {limits.opcodes} instructions")
            if opcode.name == "STOP":
                if len(machine.stack) != 1:
                    raise _Bad("values left over at the end")
                return Interpreted(machine.stack[0], machine.wanted, start + (position or 0) + 1)
            machine.step(opcode.name, arg)
    except ModelRefused:
        raise
    except Exception as err:  # pickletools raises ValueError, UnicodeDecodeError, struct.error and others
        raise ModelRefused(
            "RUB-READ-015",
            f"malformed pickle: {err or type(err).__name__}",
            where=where,
            hint="save the file again",
        ) from err
    raise ModelRefused("RUB-READ-015", "pickle ends early", where=where, hint="save the file again")


class _Machine:
    """Stack machine over inert values."""

    def __init__(self, allowed: frozenset[str], where: str) -> None:
        self.allowed = allowed
        self.where = where
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.wanted: list[str] = []

    def step(self, op: str, arg: Any) -> None:
        stack = self.stack
        if op in _PUSH_ARG:
            stack.append(arg)
        elif op in _CONSTANTS:
            stack.append(_CONSTANTS[op])
        elif op in ("BINPUT", "LONG_BINPUT", "PUT", "MEMOIZE"):
            self.memo[len(self.memo) if op == "MEMOIZE" else arg] = stack[-1]
        elif op in ("BINGET", "LONG_BINGET", "GET"):
            if arg not in self.memo:
                raise _Bad(f"reads memo {arg} before it is written")
            stack.append(self.memo[arg])
        elif op in ("PROTO", "FRAME"):
            return
        else:
            handler: Callable[[Any], None] | None = getattr(self, f"op_{op.lower()}", None)
            if handler is None:
                raise _Bad(f"instruction {op} is never written by torch.save")
            handler(arg)

    def pop(self) -> Any:
        if not self.stack or self.stack[-1] is _MARK:
            raise _Bad("stack underflow")
        return self.stack.pop()

    def pop_mark(self) -> list[Any]:
        values: list[Any] = []
        while self.stack:
            value = self.stack.pop()
            if value is _MARK:
                return values[::-1]
            values.append(value)
        raise _Bad("no mark")

    def op_mark(self, _: Any) -> None:
        self.stack.append(_MARK)

    def op_pop(self, _: Any) -> None:
        self.pop()

    def op_empty_dict(self, _: Any) -> None:
        self.stack.append({})

    def op_empty_list(self, _: Any) -> None:
        self.stack.append([])

    def op_empty_set(self, _: Any) -> None:
        self.stack.append(Inert("builtins.set"))

    def op_empty_tuple(self, _: Any) -> None:
        self.stack.append(())

    def op_tuple(self, _: Any) -> None:
        self.stack.append(tuple(self.pop_mark()))

    def op_tuple1(self, _: Any) -> None:
        self.stack.append((self.pop(),))

    def op_tuple2(self, _: Any) -> None:
        second, first = self.pop(), self.pop()
        self.stack.append((first, second))

    def op_tuple3(self, _: Any) -> None:
        third, second, first = self.pop(), self.pop(), self.pop()
        self.stack.append((first, second, third))

    def op_append(self, _: Any) -> None:
        value = self.pop()
        self.extend([value])

    def op_appends(self, _: Any) -> None:
        self.extend(self.pop_mark())

    op_additems = op_appends

    def extend(self, values: list[Any]) -> None:
        target = self.pop()
        (target.items if isinstance(target, Inert) else _expect(target, list)).extend(values)
        self.stack.append(target)

    def op_setitem(self, _: Any) -> None:
        value, key = self.pop(), self.pop()
        self.set_items([key, value])

    def op_setitems(self, _: Any) -> None:
        self.set_items(self.pop_mark())

    def set_items(self, flat: list[Any]) -> None:
        target = self.pop()
        if len(flat) % 2:
            raise _Bad("odd number of items")
        if isinstance(target, Inert):
            target.items.extend(flat)
        else:
            mapping = _expect(target, dict)
            for key, value in zip(flat[::2], flat[1::2], strict=True):
                if not isinstance(key, str | int):
                    raise _Bad(f"dictionary key of type {type(key).__name__}")
                mapping[key] = value
        self.stack.append(target)

    def op_global(self, arg: str) -> None:
        self.push_global(arg.replace(" ", ".", 1))

    def op_stack_global(self, _: Any) -> None:
        name, module = self.pop(), self.pop()
        self.push_global(f"{_expect(module, str)}.{_expect(name, str)}")

    def push_global(self, name: str) -> None:
        name = name.replace("__builtin__.", "builtins.", 1)
        if name not in self.allowed and name not in self.wanted:
            self.wanted.append(printable(name, 200))
        self.stack.append(Global(name))

    def op_reduce(self, _: Any) -> None:
        args, function = self.pop(), self.pop()
        self.stack.append(self.construct(_expect(function, Global).name, _expect(args, tuple)))

    def op_newobj(self, _: Any) -> None:
        args, cls = self.pop(), self.pop()
        self.stack.append(Inert(_expect(cls, Global).name, _expect(args, tuple)))

    def op_inst(self, arg: str) -> None:
        self.push_global(arg.replace(" ", ".", 1))
        cls = self.pop()
        self.stack.append(Inert(cls.name, tuple(self.pop_mark())))

    def op_obj(self, _: Any) -> None:
        values = self.pop_mark()
        if not values:
            raise _Bad("object without class")
        self.stack.append(Inert(_expect(values[0], Global).name, tuple(values[1:])))

    def op_build(self, _: Any) -> None:
        state = self.pop()
        target = self.stack[-1] if self.stack else None
        if isinstance(target, Inert):
            target.state = state
        elif not isinstance(target, dict):  # state dicts carry a `_metadata` attribute, which is not needed
            raise _Bad(f"state for a {type(target).__name__}")

    def op_binpersid(self, _: Any) -> None:
        self.stack.append(self.persistent(self.pop()))

    def construct(self, name: str, args: tuple[Any, ...]) -> Any:
        if name == "collections.OrderedDict":
            return self.ordered(args)
        if name == "torch._utils._rebuild_tensor_v2":
            return tensor_record(args, self.where)
        if name == "torch._utils._rebuild_parameter" and args and isinstance(args[0], TensorRecord):
            return args[0]
        if name == "torch.Size" and len(args) == 1 and isinstance(args[0], tuple):
            return args[0]
        return Inert(name, args)

    def ordered(self, args: tuple[Any, ...]) -> dict[Any, Any]:
        result: dict[Any, Any] = {}
        for pair in _expect(args[0], list) if args else []:
            if not isinstance(pair, list | tuple) or len(pair) != 2 or not isinstance(pair[0], str | int):
                raise _Bad("ordered dictionary of something else than pairs")
            result[pair[0]] = pair[1]
        return result

    def persistent(self, pid: Any) -> Any:
        if isinstance(pid, tuple) and len(pid) >= 5 and pid[0] == "storage" and isinstance(pid[1], Global):
            if pid[1].name not in STORAGES:
                return Inert(pid[1].name)
            key, numel = str(pid[2]), pid[4]
            if len(pid) > 5 and pid[5] is not None:
                raise _Bad("storage views are not supported")
            if not isinstance(numel, int) or numel < 0:
                raise _Bad(f"storage of {numel!r} elements")
            return StorageRecord(key, STORAGES[pid[1].name], numel)
        if isinstance(pid, tuple) and len(pid) >= 2 and pid[0] == "module" and isinstance(pid[1], Global):
            return pid[1]  # ('module', class, file, source text): the class name is all that is kept
        raise _Bad("persistent id of unknown form")


def tensor_record(args: tuple[Any, ...], where: str) -> TensorRecord:
    """The tensor described by ``_rebuild_tensor_v2`` arguments, its bounds checked against the storage.

    Raises:
        ModelRefused: RUB-READ-011 when it reaches outside its storage or repeats elements to look larger.
    """
    if len(args) < 4 or not isinstance(args[0], StorageRecord):
        if args and isinstance(args[0], Inert):
            return TensorRecord(StorageRecord("", args[0].cls, 0), 0, (0,), (1,))
        raise _Bad("tensor without storage")
    storage, offset, size, stride = args[:4]
    numbers = (offset, *_expect(size, tuple), *_expect(stride, tuple))
    if not all(isinstance(n, int) and 0 <= n < 1 << 62 for n in numbers) or len(size) != len(stride):
        raise ModelRefused(
            "RUB-READ-011", f"tensor of size {size!r:.80}", where=where, hint="save the file again"
        )
    if len(size) > DEFAULT.dims:
        raise ModelRefused(
            "RUB-READ-011", f"tensor of rank {len(size)}", where=where, hint="save the file again"
        )
    check_view(storage.numel, offset, size, stride, where)
    return TensorRecord(storage, offset, tuple(size), tuple(stride))


def check_view(numel: int, offset: int, size: tuple[int, ...], stride: tuple[int, ...], where: str) -> None:
    """Refuse (RUB-READ-011) a view that leaves its storage of ``numel`` elements or multiplies it."""
    count = 1
    last = offset
    for extent, step in zip(size, stride, strict=True):
        count *= extent
        last += max(extent - 1, 0) * step
    if count and (last >= numel or count > numel):
        raise ModelRefused(
            "RUB-READ-011",
            f"tensor of shape {list(size)} needs {max(last + 1, count)} elements, its storage has {numel}",
            where=where,
            hint="the file is damaged or hostile",
        )


def _expect(value: Any, kind: type) -> Any:
    if not isinstance(value, kind):
        raise _Bad(f"{type(value).__name__} where {kind.__name__} is needed")
    return value
