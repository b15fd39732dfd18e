"""Running a pipeline: options, order, verification, records."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from rubicc.errors import UsageError, VerificationFailed
from rubicc.evidence.decision import Decision
from rubicc.ir.graph import Graph
from rubicc.passes.pipelines import Step, check_order
from rubicc.passes.registry import Note, Pass, get, ids
from rubicc.text import did_you_mean

MAX_ROUNDS = 100
OnStage = Callable[[int, str, Graph, bool, float], None]
Interface = tuple[tuple[str, str, str], ...]


@dataclass(frozen=True)
class PassRecord:
    """What one step of a pipeline did.

    Attributes:
        id: pass id.
        options: every option with the value used.
        changed: whether the graph changed.
        seconds: wall time of the pass itself, verification not counted.
        op_diff: operator type to difference of its count, zeros left out.
        notes: what the pass left alone and why.
        decisions: what it did that nobody literally asked for.
    """

    id: str
    options: Mapping[str, Any]
    changed: bool
    seconds: float
    op_diff: Mapping[str, int]
    notes: tuple[Note, ...] = ()
    decisions: tuple[Decision, ...] = ()


def run_pipeline(
    graph: Graph,
    steps: Sequence[Step],
    *,
    overrides: Mapping[str, Mapping[str, Any]] | None = None,
    check: bool = False,
    on_stage: OnStage | None = None,
    resumed: Sequence[Step] = (),
) -> list[PassRecord]:
    """Run ``steps`` on ``graph`` in place.

    Args:
        graph: rewritten in place; its weights are replaced where a pass changes them, never written into.
        steps: a pipeline such as ``PIPELINES["cleanup"]``.
        overrides: options by pass id; they win over the options of every step with that id.
        check: verify the graph and its interface before the first pass and after each pass that changed it.
        on_stage: called after each step with (index, id, graph, changed, seconds).
        resumed: steps that ran before ``graph`` was saved; they count for the order and are not run again.

    Raises:
        UsageError: unknown pass or option, broken order (nothing has run then).
        VerificationFailed: ``RUB-PASS-007`` a pass left an illegal graph (only with ``check``);
            ``RUB-PASS-005`` a pass does not come to rest.
    """
    passes = resolve(steps, overrides or {}, resumed)
    if check:
        _verify(graph, None, interface(graph))
    records = []
    for index, one in enumerate(passes):
        record = run_pass(one, graph, check=check)
        records.append(record)
        if on_stage is not None:
            on_stage(index, one.id, graph, record.changed, record.seconds)
    return records


def run_pass(one: Pass, graph: Graph, *, check: bool = False) -> PassRecord:
    """Run one pass on ``graph`` in place, repeated until it rests where it asks for that."""
    counts = graph.op_counts()
    before = interface(graph) if check else ()
    start = time.perf_counter()
    changed = again = one.run(graph)
    rounds = 1
    while again and one.fixed_point:
        if rounds == MAX_ROUNDS:
            raise VerificationFailed("RUB-PASS-005", f"pass {one.id} still changes after {MAX_ROUNDS} rounds")
        again = one.run(graph)
        rounds += 1
    seconds = time.perf_counter() - start
    if check and changed:
        _verify(graph, one.id, interface(graph) if one.changes_interface() else before)
    return PassRecord(
        id=one.id,
        options={f.name: getattr(one.options, f.name) for f in fields(one.options)},
        changed=changed,
        seconds=seconds,
        op_diff=op_diff(counts, graph.op_counts()),
        notes=tuple(one.notes),
        decisions=tuple(one.decisions),
    )


def op_diff(before: Mapping[str, int], after: Mapping[str, int]) -> dict[str, int]:
    """Difference of two operator counts, sorted by name, zeros left out."""
    names = sorted({*before, *after})
    diff = {name: after.get(name, 0) - before.get(name, 0) for name in names}
    return {name: count for name, count in diff.items() if count}


def interface(graph: Graph) -> Interface:
    """(name, type, shape) of every input, then of every output: what no pass may change."""
    return tuple((v.name or "", str(v.type), str(v.shape)) for v in [*graph.inputs, *graph.outputs])


def interface_changes(before: Interface, after: Interface) -> list[str]:
    """What differs between two interfaces; a type or shape that was not declared may become known."""
    if len(before) != len(after):
        return [f"{len(before)} inputs and outputs -> {len(after)}"]
    return [
        f"{old} -> {new}"
        for old, new in zip(before, after, strict=True)
        if any(o not in (n, "None") for o, n in zip(old, new, strict=True))
    ]


def _verify(graph: Graph, pass_id: str | None, before: Interface) -> None:
    from rubicc.ir.verify import verify

    try:
        verify(graph)
    except VerificationFailed as err:
        if pass_id is None:
            raise
        raise VerificationFailed(
            "RUB-PASS-007",
            f"pass {pass_id} left an illegal graph: {err.what}",
            where=err.where,
            hint=err.hint,
        ) from err
    moved = interface_changes(before, interface(graph))
    if moved:
        raise VerificationFailed("RUB-PASS-007", f"pass {pass_id} changed the interface: {'; '.join(moved)}")


def resolve(
    steps: Sequence[Step], overrides: Mapping[str, Mapping[str, Any]], resumed: Sequence[Step] = ()
) -> list[Pass]:
    """Pass instances with their options, order checked (after the steps that already ran).

    Raises:
        UsageError: ``RUB-PASS-001``, ``RUB-PASS-003``, ``RUB-PASS-006``.
    """
    here = list(dict.fromkeys(step.id for step in (*resumed, *steps)))
    for pass_id in overrides:
        if pass_id not in here:
            get(pass_id)  # an unknown id says so, with its own did-you-mean
            raise UsageError(
                "RUB-PASS-003",
                f"options given for {pass_id!r}, which is not part of this pipeline",
                hint=f"it runs: {', '.join(here)}",
            )
    check_order([*resumed, *steps])
    return [get(s.id)(make_options(get(s.id), {**s.options, **overrides.get(s.id, {})})) for s in steps]


def parse_overrides(settings: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """``{"passes.cleanup.fold-constants.max_bytes": 0}`` as ``{"cleanup.fold-constants": {"max_bytes": 0}}``.

    The part after the family (``fold-constants``) may stand for the whole id where only one pass has it.

    Raises:
        UsageError: ``RUB-PASS-001`` no such pass; ``RUB-PASS-003`` not of the form ``passes.<id>.<option>``.
    """
    short: dict[str, list[str]] = {}
    for pass_id in ids():
        short.setdefault(pass_id.partition(".")[2], []).append(pass_id)
    parsed: dict[str, dict[str, Any]] = {}
    for key, value in settings.items():
        prefix, _, rest = key.partition(".")
        name, _, option = rest.rpartition(".")
        if prefix != "passes" or not name:
            raise UsageError("RUB-PASS-003", f"{key!r} is not of the form passes.<id>.<option>")
        full = short.get(name, [])
        parsed.setdefault(full[0] if len(full) == 1 else name, {})[option] = value
    for pass_id in parsed:
        get(pass_id)
    return parsed


def make_options(cls: type[Pass], values: Mapping[str, Any]) -> Any:
    """``values`` as the Options of ``cls``, types checked; lists become tuples, whole numbers floats.

    Raises:
        UsageError: ``RUB-PASS-003`` unknown option (with the nearest known one) or value of a wrong type.
    """
    known = get_type_hints(cls.Options)
    names = [field.name for field in fields(cls.Options)]
    checked = {}
    for key, value in values.items():
        if key not in names:
            hint = did_you_mean(key, names, f"it has: {', '.join(names) or 'no options'}")
            raise UsageError("RUB-PASS-003", f"pass {cls.id} has no option {key!r}", hint=hint)
        try:
            checked[key] = _as_type(value, known[key])
        except TypeError as err:
            raise UsageError(
                "RUB-PASS-003", f"option {key!r} of pass {cls.id} is {value!r}", hint=f"it must be {err}"
            ) from None
    try:
        return cls.Options(**checked)
    except ValueError as err:
        raise UsageError("RUB-PASS-003", f"option of pass {cls.id}: {err}") from None


def _as_type(value: Any, kind: Any) -> Any:
    """``value`` as type ``kind``, with harmless conversions; TypeError says what is wanted."""
    if kind is Any:
        return value
    origin, args = get_origin(kind), get_args(kind)
    if origin is Literal:
        if value in args:
            return value
        raise TypeError(f"one of {', '.join(map(repr, args))}")
    if origin in (Union, UnionType):
        for option in args:
            try:
                return _as_type(value, option)
            except TypeError:
                continue
        raise TypeError(f"of type {kind}")
    if kind is type(None) and value is None:
        return None
    if origin is tuple and isinstance(value, list | tuple):
        return tuple(_as_type(item, args[0]) for item in value)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(kind, type) and isinstance(value, kind) and (kind is bool or not isinstance(value, bool)):
        return value
    raise TypeError(f"of type {getattr(kind, '__name__', kind) if origin is None else kind}")
