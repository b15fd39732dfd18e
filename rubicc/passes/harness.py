"""The one harness that proves a pass, and proves that it would notice a wrong one.

``apply_and_check`` runs a pass on a copy of a graph and compares before with after: interface, numbers (on
random and on given inputs, in the reference executor), honesty of the reported change, idempotence,
provenance, types, operator counts, and the verifier's rules. ``assert_mutant_fails`` demands that a
deliberately wrong variant is rejected. Plugin authors use it as our own tests do.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from rubicc.errors import RubiccError, VerificationFailed
from rubicc.ir.graph import MADE_BY_KEY, SOURCE_KEY, Graph, op_key
from rubicc.passes.manager import PassRecord, interface, interface_changes, make_options, run_pass
from rubicc.passes.registry import Pass, get
from rubicc.passes.rewrite import graphs_of

Feeds = Mapping[str, np.ndarray]
SYMBOL_SIZES = (7, 4, 6, 5, 9)  # numbers bound to symbols in order of appearance, differing per round


@dataclass(frozen=True)
class Checked:
    """Result of :func:`apply_and_check`: the rewritten copy, and what the pass said and did."""

    graph: Graph
    record: PassRecord


def apply_and_check(
    pass_or_id: str | type[Pass] | Pass,
    graph: Graph,
    feeds: Sequence[Feeds] = (),
    *,
    options: Mapping[str, Any] | None = None,
    expect_ops: Mapping[str, int] | None = None,
    expect_changed: bool | None = None,
    sizes: Mapping[str, int] | None = None,
    random: int = 2,
    seed: int = 0,
) -> Checked:
    """Run a pass on a copy of ``graph`` and check everything its contract promises.

    Args:
        pass_or_id: id, class or instance of a pass. ``options`` go with the first two.
        graph: stays as it is.
        feeds: real inputs to compare on, beside ``random`` rounds of random ones.
        expect_ops: exact difference of operator counts, zeros left out (``{"Conv": 0}`` is not written).
        expect_changed: what the pass must report.
        sizes: numbers for symbolic dimensions of random inputs, where the graph cannot take just any.
        seed: of the random inputs.

    Raises:
        VerificationFailed: ``RUB-PASS-020`` .. ``-025``, the promise broken; ``RUB-IR`` of the verifier.
    """
    from rubicc.ir.verify import verify

    verify(graph)
    one = _instance(pass_or_id, options)
    original = _digest(graph)
    work = graph.clone()
    known = set(work.all_nodes())
    typed = _untyped(work)
    record = run_pass(one, work)
    if _digest(graph) != original:
        raise _broken("RUB-PASS-025", one, "wrote into a graph or weights it was not given")
    verify(work)
    _check_interface(one, graph, work)
    _check_report(one, record, original != _digest(work), expect_changed)
    _check_provenance(one, work, known, _has_sources(graph))
    _check_types(one, work, typed)
    _check_ops(one, record, expect_ops)
    rounds = [random_feeds(graph, seed + index, sizes) for index in range(random)]
    for index, given in enumerate([*feeds, *rounds]):
        _check_numbers(one, graph, work, given, f"feed {index}" if index < len(feeds) else "random input")
    _check_idempotence(one, pass_or_id, options, work)
    return Checked(work, record)


def assert_mutant_fails(
    mutant: type[Pass] | Pass,
    graph: Graph,
    feeds: Sequence[Feeds] = (),
    *,
    code: str | None = None,
    **kwargs: Any,
) -> RubiccError:
    """Demand that the harness rejects ``mutant``; returns the rejection.

    Args:
        mutant: a subtly wrong variant of a pass (need not be registered).
        code: the code the rejection must have, e.g. ``RUB-PASS-021`` for wrong numbers.

    Raises:
        VerificationFailed: ``RUB-PASS-026``, the mutant survived or was rejected for another reason.
    """
    name = mutant.__name__ if isinstance(mutant, type) else type(mutant).__name__
    try:
        apply_and_check(mutant, graph, feeds, **kwargs)
    except RubiccError as err:
        if code is not None and err.code != code:
            raise VerificationFailed("RUB-PASS-026", f"mutant {name} rejected by {err}, not {code}") from err
        return err
    raise VerificationFailed("RUB-PASS-026", f"mutant {name} went through the harness")


def random_feeds(graph: Graph, seed: int, sizes: Mapping[str, int] | None = None) -> dict[str, np.ndarray]:
    """Random inputs of ``graph``: normal floats, integers below 2, booleans; symbols bound per ``seed``."""
    rng = np.random.default_rng(seed)
    bound: dict[str, int] = dict(sizes or {})
    feeds = {}
    for value in graph.inputs:
        shape = []
        for index, dim in enumerate(value.shape if value.shape is not None else ()):
            key = str(dim) if str(dim) != "None" else f"{value.name}:{index}"
            if not isinstance(dim, int) and key not in bound:
                bound[key] = SYMBOL_SIZES[(len(bound) + seed) % len(SYMBOL_SIZES)]
            shape.append(dim if isinstance(dim, int) else bound[key])
        dtype = np.dtype(value.dtype.numpy()) if value.dtype is not None else np.dtype(np.float32)
        numbers = rng.normal(size=shape) if dtype.kind not in "biu" else rng.integers(0, 2, size=shape)
        feeds[value.name or ""] = np.asarray(numbers).astype(dtype)
    return feeds


def _instance(pass_or_id: str | type[Pass] | Pass, options: Mapping[str, Any] | None) -> Pass:
    if isinstance(pass_or_id, Pass):
        return type(pass_or_id)(pass_or_id.options)
    cls = get(pass_or_id) if isinstance(pass_or_id, str) else pass_or_id
    return cls(make_options(cls, options or {}))


def _broken(code: str, one: Pass, what: str) -> VerificationFailed:
    return VerificationFailed(code, f"pass {one.id} ({type(one).__name__}) {what}")


def _digest(graph: Graph) -> str:
    """Hash of the serialised graph, weights included."""
    return hashlib.sha256(graph.to_proto().SerializeToString(deterministic=True)).hexdigest()


def _has_sources(graph: Graph) -> bool:
    """Whether any node carries a source; where none does, a pass need not pass one on."""
    return any(SOURCE_KEY in node.metadata_props for node in graph.all_nodes())


def _untyped(graph: Graph) -> int:
    values = [v for owner in graphs_of(graph) for node in owner for v in node.outputs if v.name]
    return sum(v.type is None or v.shape is None for v in values)


def _check_interface(one: Pass, before: Graph, after: Graph) -> None:
    moved = interface_changes(interface(before), interface(after))
    if moved:
        raise _broken("RUB-PASS-020", one, f"changed the interface: {'; '.join(moved)}")


def _check_report(one: Pass, record: PassRecord, differs: bool, expected: bool | None) -> None:
    if record.changed != differs:
        raise _broken("RUB-PASS-025", one, f"reported changed={record.changed} but the graph says {differs}")
    if expected is not None and record.changed != expected:
        raise _broken("RUB-PASS-025", one, f"reported changed={record.changed}, expected {expected}")


def _check_provenance(one: Pass, after: Graph, known: set[ir.Node], has_sources: bool) -> None:
    for node in after.all_nodes():
        if node in known:
            continue
        if node.metadata_props.get(MADE_BY_KEY) != one.id:
            raise _broken("RUB-PASS-024", one, f"made {op_key(node)} {node.name!r} without {MADE_BY_KEY}")
        if has_sources and SOURCE_KEY not in node.metadata_props:
            raise _broken("RUB-PASS-024", one, f"made {op_key(node)} {node.name!r} without {SOURCE_KEY}")


def _check_types(one: Pass, after: Graph, untyped_before: int) -> None:
    if _untyped(after) > untyped_before:
        raise _broken(
            "RUB-PASS-024",
            one,
            f"left {_untyped(after)} values without type or shape, {untyped_before} before",
        )


def _check_ops(one: Pass, record: PassRecord, expected: Mapping[str, int] | None) -> None:
    if expected is not None and dict(record.op_diff) != dict(expected):
        raise _broken(
            "RUB-PASS-023", one, f"changed operator counts by {dict(record.op_diff)}, not {dict(expected)}"
        )


def _check_numbers(one: Pass, before: Graph, after: Graph, feeds: Feeds, what: str) -> None:
    from rubicc.ir.executor import execute

    old, new = execute(before, feeds), execute(after, feeds)
    for name, reference in old.items():
        got = new[name]
        if reference.shape != got.shape or reference.dtype != got.dtype:
            now = f"{got.dtype}{list(got.shape)}"
            raise _broken(
                "RUB-PASS-021", one, f"output {name!r} is {now}, was {reference.dtype}{list(reference.shape)}"
            )
        error = relative_error(reference, got)
        if not error <= one.tolerance:
            moved = f"moved output {name!r} by {error:.3g} of its range on {what}"
            raise _broken("RUB-PASS-021", one, f"{moved}, allowed {one.tolerance:g}")


def relative_error(reference: np.ndarray, got: np.ndarray) -> float:
    """``max|got - reference| / max|reference|``; 0 when equal (NaN equals NaN), infinite when NaN appears."""
    if np.array_equal(reference, got, equal_nan=reference.dtype.kind in "fc"):
        return 0.0
    a, b = reference.astype(np.float64), got.astype(np.float64)
    finite = np.isfinite(a)
    if not np.array_equal(a[~finite], b[~finite], equal_nan=True) or not np.all(np.isfinite(b[finite])):
        return float("inf")
    scale = float(np.max(np.abs(a[finite]), initial=0.0))
    return float(np.max(np.abs(a[finite] - b[finite]), initial=0.0)) / scale if scale else float("inf")


def _check_idempotence(
    one: Pass, pass_or_id: str | type[Pass] | Pass, options: Mapping[str, Any] | None, graph: Graph
) -> None:
    first = _digest(graph)
    again = run_pass(_instance(pass_or_id, options), graph)
    if again.changed or _digest(graph) != first:
        raise _broken(
            "RUB-PASS-022", one, f"run again reported changed={again.changed}, by {dict(again.op_diff)}"
        )
