"""The table of converters: which operator, from which target, as which MIL operations, what is refused."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import onnx_ir as ir

from rubicc.backends.coreml.lowering.facts import Facts

if TYPE_CHECKING:
    from rubicc.backends.coreml.lowering.context import Context

OLDEST = "iOS16"


class Refusal(NamedTuple):
    """Why one node cannot be written: catalogue code, reason, how to mend it."""

    code: str
    reason: str
    remedy: str


Run = Callable[["Context", ir.Node], None]
Check = Callable[[Facts, ir.Node], Iterable[Refusal]]


@dataclass(frozen=True)
class Row:
    """One operator of :func:`rubicc.backends.coreml.lowering.supported`.

    Attributes:
        since: oldest target that takes it.
        mil: MIL operations it may become.
        note: conditions and choices, for people.
    """

    since: str
    mil: tuple[str, ...]
    note: str = ""


@dataclass(frozen=True)
class Converter:
    """How one operator is written."""

    run: Run
    row: Row
    check: Check | None = None


CONVERTERS: dict[str, Converter] = {}


def convert(
    *ops: str, mil: str, since: str = OLDEST, note: str = "", check: Check | None = None
) -> Callable[[Run], Run]:
    """Register a function as the converter of operators (keys as :func:`rubicc.ir.graph.op_key` gives them).

    Args:
        mil: names of MIL operations, separated by blanks.
        check: yields refusals of a node before anything is written.
    """

    def add(run: Run) -> Run:
        for op in ops:
            CONVERTERS[op] = Converter(run, Row(since, tuple(mil.split()), note), check)
        return run

    return add


def refuse(reason: str, remedy: str = "change the layer in the source network and export again") -> Refusal:
    """A form that MIL cannot express."""
    return Refusal("RUB-COREML-103", reason, remedy)


def unknown(reason: str) -> Refusal:
    """A size or rank that must be known before running."""
    return Refusal("RUB-COREML-106", reason, "give the inputs fixed shapes: --shapes fixed")


def newer(what: str, since: str) -> Refusal:
    """Something a later target has."""
    return Refusal("RUB-COREML-102", f"{what} needs {since}", f"compile with --target coreml:{since}")


def needs_constant(facts: Facts, value: ir.Value | None, what: str) -> Iterator[Refusal]:
    """Refuse when ``value`` is given and not constant."""
    if value is not None and not facts.is_constant(value):
        yield refuse(f"{what} ({value.name}) is computed in the network, MIL wants a constant")
