"""The lint itself: a verdict with its reasons for every operation of a package, and what it adds up to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rubicc.backends.base import Finding, Severity
from rubicc.backends.coreml.lint.costs import macs
from rubicc.backends.coreml.lint.facts import Facts, Op
from rubicc.backends.coreml.lint.hits import Verdict
from rubicc.backends.coreml.lint.memory import memory
from rubicc.backends.coreml.lint.on_packages import Whole
from rubicc.backends.coreml.lint.rule import Rule
from rubicc.backends.coreml.lint.rules import BY_ID, RULES, version
from rubicc.backends.coreml.run.program import Package
from rubicc.errors import UsageError

SCHEMA_VERSION = 1
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
    def reason(self) -> str:
        """The reason that decides."""
        return self.applied[0].reason if self.applied else ""


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
        if not any(applied.verdict in ("not", "unknown") for applied in op.applied):
            held.setdefault("RUB-COREML-411", []).append((op.name, f"no rule makes {op.kind} eligible"))
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


def to_dict(report: LintReport) -> dict[str, Any]:
    """``ane.json``: plain values, no times and no paths."""
    return {
        "schema_version": SCHEMA_VERSION,
        "package": report.name,
        "function": report.function,
        "specification": report.specification,
        "family": report.family or "all from A13 and M1 on",
        "rules": report.rules,
        "operations": report.operations,
        "counts": report.counts,
        "macs": report.macs,
        "share": round(report.share, 6),
        "weight_bytes": report.weight_bytes,
        "package_rules": [vars(applied) for applied in report.package],
        "hints": report.hints,
        "ops": [
            {
                "index": op.index,
                "name": op.name,
                "type": op.kind,
                "path": op.path,
                "status": op.status,
                "rules": [vars(applied) for applied in op.applied],
                "macs": op.macs,
                "results": list(op.results),
            }
            for op in report.ops
            if op.status != "weight" or op.applied
        ],
    }


def audit(package: Package, *, family: str | None = None) -> dict[str, Any]:
    """The content of ``ane.json`` for a package: :func:`to_dict` and, where shapes are fixed, the memory."""
    found = to_dict(lint(package, family=family))
    try:
        found["memory"] = {key: vars(memory(package, storage=key)) for key in ("declared", "fp16")}
    except UsageError:
        found["memory"] = None  # flexible shapes: it depends on them
    return found


def lines(report: LintReport) -> list[str]:
    """The report as text: totals, what stands outside and why, hints by rule."""
    counts = report.counts
    head = (
        f"{report.operations} operations: {counts['eligible']} eligible for the Neural Engine, "
        f"{counts['not']} not, {counts['unknown']} unknown; {report.share:.2%} of "
        f"{report.macs / 1e6:,.1f} M multiply-accumulates eligible"
    )
    told = [head]
    kinds: dict[tuple[str, str, str], list[OpVerdict]] = {}
    for op in report.outside:
        rule = op.applied[0].rule if op.applied else "RUB-COREML-411"
        kinds.setdefault((op.status, rule, op.kind), []).append(op)
    for (status, rule, kind), ops in sorted(kinds.items()):
        told.append(f"  {status:8} {len(ops):4} x {kind:12} [{rule}] {ops[0].reason} ({ops[0].name})")
    for applied in report.package:
        told.append(f"  {applied.verdict:8} package           [{applied.rule}] {applied.reason}")
    for rule, count in report.hints.items():
        told.append(f"  hint     {count:4} x [{rule}] {BY_ID[rule].title}")
    return told
