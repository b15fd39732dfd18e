"""The verdicts for people and for other tools: the picture of the report, and rules with their sources."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rubicc.backends.coreml.lint.report import LintReport, OpVerdict
from rubicc.backends.coreml.lint.rules import BY_ID, UNKNOWN_TYPE
from rubicc.backends.coreml.lint.sources import KINDS, SOURCES

TITLE = "Where it would run"
SHOWN_AS = {"eligible": "good", "unknown": "unsure", "not": "bad"}
_ORDER = tuple(reversed(SHOWN_AS))


def placement(report: LintReport) -> dict[str, Any]:
    """Every operation in order, and what is outside: :class:`rubicc.evidence.report.Placement` as values."""
    shown = [op for op in report.ops if op.status != "weight"]
    chips = f"the {report.family}" if report.family else "every chip from the A13 and M1 on"
    held = sorted(outside(report).items(), key=lambda row: (_ORDER.index(row[0][0]), -len(row[1])))
    return {
        "title": TITLE,
        "caption": (
            f"Eligible for the Neural Engine of {chips}, by {len(BY_ID)} rules with sources "
            f"(version {report.rules}); {report.share:.2%} of the multiply-accumulates. Nothing here was "
            "measured on a device: ane_audit.py, beside the package, does that on a Mac."
        ),
        "statuses": SHOWN_AS,
        "ops": [[op.status, _words(op)] for op in shown],
        "outside": [
            {
                "status": status,
                "count": len(ops),
                "op": kind,
                "code": rule,
                "reason": f"{ops[0].reason or BY_ID[rule].title} ({ops[0].name})",
                "remedy": BY_ID[rule].remedy,
                "source": BY_ID[rule].cited[0].address,
            }
            for (status, rule, kind), ops in held
        ],
    }


def outside(report: LintReport) -> dict[tuple[str, str, str], list[OpVerdict]]:
    """Operations that are not known to be eligible, by status, deciding rule and operator."""
    found: dict[tuple[str, str, str], list[OpVerdict]] = {}
    for op in report.outside:
        rule = op.deciding or UNKNOWN_TYPE
        found.setdefault((op.status, rule, op.kind), []).append(op)
    return found


def legend(rules: Iterable[str]) -> dict[str, Any]:
    """What each of the rules says: title, why, condition, remedy, sources for and against it."""
    return {
        code: {
            "title": BY_ID[code].title,
            "why": BY_ID[code].why,
            "condition": BY_ID[code].condition,
            "remedy": BY_ID[code].remedy,
            "sources": [_source(name) for name in BY_ID[code].sources],
            "against": [_source(name) for name in BY_ID[code].against],
        }
        for code in sorted(set(rules))
    }


def lines(report: LintReport) -> list[str]:
    """The report as text: totals, what stands outside and why, hints by rule."""
    counts = report.counts
    told = [
        f"{report.operations} operations: {counts['eligible']} eligible for the Neural Engine, "
        f"{counts['not']} not, {counts['unknown']} unknown; {report.share:.2%} of "
        f"{report.macs / 1e6:,.1f} M multiply-accumulates eligible"
    ]
    for (status, rule, kind), ops in sorted(outside(report).items()):
        told.append(f"  {status:8} {len(ops):4} x {kind:12} [{rule}] {ops[0].reason} ({ops[0].name})")
    for applied in report.package:
        told.append(f"  {applied.verdict:8} package           [{applied.rule}] {applied.reason}")
    whole = {applied.rule for applied in report.package}
    for rule, count in report.hints.items():
        if rule not in whole:
            told.append(f"  hint     {count:4} x [{rule}] {BY_ID[rule].title}")
    return told


def _words(op: OpVerdict) -> str:
    named = f"{op.name} ({op.kind})"
    return f"{named} [{op.deciding}] {op.reason}" if op.status != "eligible" and op.deciding else named


def _source(name: str) -> dict[str, str]:
    source = SOURCES[name]
    return {"kind": KINDS[source.kind], "address": source.address, "says": source.says}


def rule_table() -> list[str]:
    """The rules as a Markdown table: code, verdict, condition, sources for and against by their ids."""
    told = ((rule, ", ".join(rule.sources), ", ".join(rule.against)) for rule in BY_ID.values())
    rows = [f"| `{rule.id}` | {rule.verdict} | {rule.condition} | {a} | {b} |" for rule, a, b in told]
    return ["| rule | verdict | when | sources | against |", "|---|---|---|---|---|", *rows]


def source_table() -> list[str]:
    """The sources as a Markdown table: id, kind, what they say, address."""
    rows = [f"| {s.id} | {s.kind} | {s.says} | <{s.address}> |" for s in SOURCES.values()]
    return ["| source | kind | says | address |", "|---|---|---|---|", *rows]
