"""The lint itself: a verdict with its reasons for every operation of a package, and what it adds up to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rubicc.backends.base import Finding, Severity
from rubicc.backends.coreml.lint.costs import macs
from rubicc.backends.coreml.lint.facts import Facts, Op
from rubicc.backends.coreml.lint.hits import Verdict
from rubicc.backends.coreml.lint.on_packages import Whole
from rubicc.backends.coreml.lint.rule import Rule
from rubicc.backends.coreml.lint.rules import BY_ID, RULES, UNKNOWN_TYPE, version
from rubicc.backends.coreml.run.program import Package

Status = Literal["eligible", "not", "unknown", "weight"]
STATUSES: tuple[Status, ...] = ("eligible", "not", "unknown", "weight")
_NAMED = 3  # operations named in a finding


@dataclass(frozen=True)
class Applied:
    """A rule that holds, with its verdict here and the numbers that make it hold."""

    rule: str
    verdict: Verdict
    reason: str


@dataclass(frozen=True)
class OpVerdict:
    """One operation.

    Attributes:
        index: place in the function, counted through nested blocks.
        name: first result; Core ML's compute plan shows the same name.
        kind: MIL operator.
        path: function and the blocks it stands in.
        status: ``eligible``, ``not``, ``unknown``; ``weight`` for constants and weights unpacked at load.
        applied: rules that hold, hints included; the ones that decide first.
        macs: multiply-accumulates; ``None`` where a shape is unknown.
        results: types of its results as text.
    """

    index: int
    name: str
    kind: str
    path: str
    status: Status
    applied: tuple[Applied, ...]
    macs: int | None
    results: tuple[str, ...]

    @property
    def deciding(self) -> str:
        """The rule that decides against it, or for it; empty where none holds but hints."""
        first = self.applied[0] if self.applied else None
        return first.rule if first is not None and first.verdict != "hint" else ""

    @property
    def reason(self) -> str:
        """The reason that decides."""
        return self.applied[0].reason if self.deciding else ""


@dataclass(frozen=True)
class LintReport:
    """Verdicts over a function.

    Attributes:
        name: the package's folder name.
        function, specification: what was looked at.
        family: oldest chip that matters; ``None`` = all from the A13 and M1 on.
        rules: version of the rule table.
        ops: every operation.
        package: rules that hold for the package as a whole.
        weight_bytes: size of the weight files.
    """

    name: str
    function: str
    specification: int
    family: str | None
    rules: str
    ops: tuple[OpVerdict, ...]
    package: tuple[Applied, ...]
    weight_bytes: int

    @property
    def counts(self) -> dict[Status, int]:
        """Operations by status; those of status ``weight`` run at load and are not counted by Xcode."""
        found = Counter(op.status for op in self.ops)
        return {status: found[status] for status in STATUSES}

    @property
    def operations(self) -> int:
        """Operations at run time: the number that Xcode's performance report gives."""
        return sum(op.status != "weight" for op in self.ops)

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one run, where they are known."""
        return sum(op.macs or 0 for op in self.ops)

    @property
    def share(self) -> float:
        """Share of multiply-accumulates in eligible operations; of the operations where there are none."""
        eligible = [op for op in self.ops if op.status == "eligible"]
        if self.macs:
            return sum(op.macs or 0 for op in eligible) / self.macs
        return len(eligible) / self.operations if self.operations else 1.0

    @property
    def hints(self) -> dict[str, int]:
        """Rule -> how often it gave a hint."""
        given = (applied for op in self.ops for applied in op.applied)
        found = Counter(a.rule for a in (*given, *self.package) if a.verdict == "hint")
        return dict(sorted(found.items()))

    @property
    def outside(self) -> tuple[OpVerdict, ...]:
        """Operations that are not known to be eligible."""
        return tuple(op for op in self.ops if op.status in ("not", "unknown"))


def lint(
    package: Package,
    *,
    function: str | None = None,
    family: str | None = None,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    rules: Sequence[Rule] = RULES,
) -> LintReport:
    """A verdict for every operation of a package.

    Args:
        package: as read from disk by :func:`rubicc.backends.coreml.run.load.load`; of any origin.
        function: which function; the default one when ``None``.
        family: a chip generation of :data:`.engine.FAMILIES` to judge for; ``None`` = all of them.
        shapes: value name -> shape where the package leaves axes free.
        rules: the rule table.
    """
    facts = Facts(package, function, shapes)
    ops = tuple(_verdict(op, family, rules) for op in facts.ops)
    counted = [op.macs for op in ops]
    whole = Whole(
        facts,
        weight_bytes=weight_bytes(package.path),
        macs=None if None in counted else sum(n or 0 for n in counted),
    )
    found = []
    for rule in rules:
        hit = rule.package(whole) if rule.package is not None else None
        if hit is not None:
            found.append(Applied(rule.id, hit.verdict or rule.verdict, hit.reason))
    return LintReport(
        name=package.path.name,
        function=facts.function.name,
        specification=package.specification,
        family=family,
        rules=version(tuple(rules)),
        ops=ops,
        package=tuple(found),
        weight_bytes=whole.weight_bytes,
    )


def weight_bytes(path: Path) -> int:
    """Size of the weight files of a package."""
    return sum(file.stat().st_size for file in sorted(path.rglob("weights/*")) if file.is_file())


def _verdict(op: Op, family: str | None, rules: Sequence[Rule]) -> OpVerdict:
    found: list[Applied] = []
    for rule in rules:
        if rule.op is None or rule.weights != op.is_weight:
            continue
        hit = rule.op(op, family)
        if hit is not None:
            found.append(Applied(rule.id, hit.verdict or rule.verdict, hit.reason))
    order = ("not", "unknown", "eligible", "hint")
    found.sort(key=lambda applied: order.index(applied.verdict))
    return OpVerdict(
        index=op.operation.index,
        name=op.name,
        kind=op.kind,
        path=op.path,
        status=_status(op, found),
        applied=tuple(found),
        macs=0 if op.is_weight else macs(op),
        results=tuple(str(kind) for kind in op.results),
    )


def _status(op: Op, found: Sequence[Applied]) -> Status:
    """What decides: never eligible unless a rule says so, and no rule speaks against it."""
    verdicts = {applied.verdict for applied in found}
    if op.is_weight:
        return "not" if "not" in verdicts else "weight"
    if "not" in verdicts:
        return "not"
    return "eligible" if "eligible" in verdicts and "unknown" not in verdicts else "unknown"


def findings(report: LintReport, *, strict: bool = False) -> list[Finding]:
    """The report as rows of ``rubicc check``: one per rule that keeps operations off the engine.

    Args:
        report: of :func:`lint`.
        strict: make them errors, so that the target refuses.
    """
    held: dict[str, list[tuple[str, str]]] = {}
    for op in report.outside:
        for applied in op.applied:
            if applied.verdict in ("not", "unknown"):
                held.setdefault(applied.rule, []).append((op.name, applied.reason))
        if op.deciding == "":
            held.setdefault(UNKNOWN_TYPE, []).append((op.name, f"no rule makes {op.kind} eligible"))
    for applied in report.package:
        if applied.verdict in ("not", "unknown"):
            held.setdefault(applied.rule, []).append(("", applied.reason))
    severity: Severity = "error" if strict else "warning"
    return [
        Finding(
            rule=code,
            severity=severity,
            node=rows[0][0],
            source="",
            reason=_reason(rows),
            remedy=BY_ID[code].remedy,
        )
        for code, rows in sorted(held.items())
    ]


def _reason(rows: Sequence[tuple[str, str]]) -> str:
    if len(rows) == 1:
        return rows[0][1]
    more = ", ".join(name for name, _ in rows[1:_NAMED])
    others = f" ({more}{', ...' if len(rows) > _NAMED else ''})" if more else ""
    return f"{rows[0][1]}; the same for {len(rows) - 1} more{others}"
