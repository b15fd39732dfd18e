"""The lint's results: what decides, totals, strict findings, ane.json, the picture of the report."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lint_cases import IMAGE
from lint_programs import half, lint, read, verdicts

from rubicc.backends.coreml.lint import RULES, audit, findings, lines, placement, to_dict
from rubicc.backends.coreml.lint.report import Applied, LintReport, OpVerdict
from rubicc.backends.coreml.lint.rules import BY_ID, version
from rubicc.backends.coreml.run.program import Package
from rubicc.evidence.report import Report, decode_placement


def mixed(mb: Any, x: Any, ids: Any) -> list[Any]:
    """Four operations for the engine, three that stay outside, two of unknown place, one loaded weight."""
    weight = mb.constexpr_affine_dequantize(
        quantized_data=np.ones((8, 64, 1, 1), np.int8),
        zero_point=np.int8(0),
        scale=np.float16(0.1),
        axis=0,
        name="weight8",
    )
    wide = mb.cast(x=x, dtype="fp32", name="wide")
    return [
        mb.conv(x=x, weight=weight, pad_type="valid", name="first"),
        mb.conv(x=x, weight=half(8, 64, 1, 3), pad_type="same", name="second"),
        mb.conv(x=x, weight=half(8, 64, 1, 17), pad_type="same", name="wide_kernel"),
        mb.conv(x=x, weight=half(8, 64, 1, 15), pad_type="same", name="chip_kernel"),
        mb.gather(x=half(100, 64), indices=ids, axis=0, name="look_up"),
        mb.relu(x=wide, name="float32"),
        mb.sin(x=x, name="sine"),
        mb.gelu(x=x, mode="EXACT", name="gelu"),
    ]


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Package:
    return read(tmp_path_factory.mktemp("mixed"), {"x": IMAGE, "ids": ((1, 16), "int32")}, mixed)


@pytest.fixture(scope="module")
def report(package: Package) -> LintReport:
    return lint(package)


def test_totals(report: LintReport) -> None:
    found = {op.name: op.status for op in report.ops if op.kind != "const"}
    assert found == {
        "weight8": "weight",
        "wide": "eligible",
        "first": "eligible",
        "second": "eligible",
        "gelu": "eligible",
        "wide_kernel": "not",
        "look_up": "not",
        "float32": "not",
        "chip_kernel": "unknown",
        "sine": "unknown",
    }
    assert report.operations == 9  # as Xcode counts: no constants, no weights unpacked at load
    assert {key: report.counts[key] for key in ("eligible", "not", "unknown")} == {
        "eligible": 4,
        "not": 3,
        "unknown": 2,
    }
    taps = {"first": 1, "second": 3, "wide_kernel": 17, "chip_kernel": 15}
    assert {name: verdicts(report)[name].macs for name in taps} == {
        name: 8 * 64 * 512 * count for name, count in taps.items()
    }
    assert report.macs == 8 * 64 * 512 * 36 and report.share == pytest.approx(4 / 36)


def test_what_decides_stands_first(report: LintReport) -> None:
    order = ("not", "unknown", "eligible", "hint")
    for op in report.ops:
        places = [order.index(applied.verdict) for applied in op.applied]
        assert places == sorted(places)
    kernel = verdicts(report)["wide_kernel"]
    assert kernel.deciding == "RUB-COREML-440" and "17" in kernel.reason
    assert verdicts(report)["gelu"].deciding == "RUB-COREML-410"
    assert [op.name for op in report.outside] == [
        op.name for op in report.ops if op.status in ("not", "unknown")
    ]


def test_an_operation_is_eligible_only_by_a_rule(package: Package) -> None:
    """Without the positive rule nothing is eligible; with a rule against it, it is not."""
    without = lint(package, rules=[rule for rule in RULES if rule.id != "RUB-COREML-410"])
    assert without.counts["eligible"] == 0 and without.counts["not"] == 3
    bare = [op for op in without.outside if not op.deciding]
    assert {op.name for op in bare} == {"wide", "first", "second", "gelu"}
    (row,) = [f for f in findings(without, strict=True) if f.rule == "RUB-COREML-411"]
    assert "no rule makes" in row.reason and "3 more" in row.reason
    assert without.rules != lint(package).rules


def test_findings_are_one_row_per_rule_and_errors_under_strict(report: LintReport) -> None:
    rows = findings(report)
    assert [row.rule[-3:] for row in rows] == ["412", "418", "425", "440"]
    assert {row.severity for row in rows} == {"warning"}
    assert {row.severity for row in findings(report, strict=True)} == {"error"}
    kernels = rows[-1]
    assert kernels.node == "wide_kernel" and "the same for 1 more (chip_kernel)" in kernels.reason
    assert all(row.remedy == BY_ID[row.rule].remedy for row in rows)


def test_a_package_for_the_engine_passes_strict(tmp_path: Path) -> None:
    inputs = {"x": ((1, 512, 1, 512), "fp16")}
    build = lambda mb, x: mb.conv(x=x, weight=half(512, 512, 1, 3), pad_type="same", name="y")  # noqa: E731
    report = lint(read(tmp_path, inputs, build))
    assert findings(report, strict=True) == [] and report.share == 1.0 and not report.outside


def test_package_rules_reach_findings() -> None:
    empty = LintReport(
        "n", "main", 8, None, "v", (), (Applied("RUB-COREML-480", "not", "2 GB of weights"),), 0
    )
    (row,) = findings(empty, strict=True)
    assert (row.rule, row.severity, row.reason) == ("RUB-COREML-480", "error", "2 GB of weights")
    assert empty.share == 1.0 and empty.operations == 0


def test_ane_json_tells_rules_with_their_sources(package: Package, report: LintReport) -> None:
    found = audit(package)
    text = json.dumps(found, sort_keys=True, allow_nan=False)
    assert json.loads(text)["counts"] == {
        "eligible": 4,
        "not": 3,
        "unknown": 2,
        "weight": report.counts["weight"],
    }
    assert str(package.path.parent) not in text
    assert audit(package) == found
    for op in found["ops"]:
        for applied in op["rules"]:
            told = found["legend"][applied["rule"]]
            assert told["remedy"] and told["why"] and told["condition"]
            assert all(source["address"].startswith("https://") for source in told["sources"])
    assert {op["name"] for op in found["ops"]} == {op.name for op in report.ops if op.kind != "const"}
    assert found["memory"]["inputs"] == {"x": [1, 64, 1, 512], "ids": [1, 16]}
    assert found["memory"]["fp16"]["peak"] < found["memory"]["declared"]["peak"]


def test_version_of_the_rules_follows_what_they_say() -> None:
    assert version() == version(RULES) and len(version()) == 12
    changed = tuple(
        replace(rule, sources=rule.sources[:1]) if rule.id == "RUB-COREML-440" else rule for rule in RULES
    )
    assert version(changed) != version()


def test_text(report: LintReport) -> None:
    head, *rest = lines(report)
    assert head.startswith(
        "9 operations: 4 eligible for the Neural Engine, 3 not, 2 unknown; 11.11% of 9.4 M"
    )
    assert [line.split()[0] for line in rest] == sorted(
        (line.split()[0] for line in rest), key=("not", "unknown", "hint").index
    )
    for name in ("wide_kernel", "look_up", "float32", "sine", "chip_kernel"):
        assert sum(f"({name})" in line for line in rest) == 1
    shown = [line for line in rest if "[RUB-COREML-482]" in line]
    assert len(shown) == 1  # a hint about the package is told once, with its number


def test_picture(report: LintReport) -> None:
    placed = decode_placement(json.loads(json.dumps(placement(report))))
    assert [status for status, _ in placed.ops] == [op.status for op in report.ops if op.status != "weight"]
    assert {row.op for row in placed.outside} == {"conv", "gather", "relu", "sin"}
    assert sum(row.count for row in placed.outside) == len(report.outside) == 5
    assert [row.status for row in placed.outside] == ["not"] * 3 + ["unknown"] * 2
    assert all(row.source.startswith("https://") and row.remedy for row in placed.outside)
    from rubicc.evidence.page import render

    page = render(Report("n", "coreml", "fp16", "mil", "verified", placements=(placed,)))
    squares = page.split("<figure>")[-1]
    assert squares.count("<rect") == 9 and squares.count('<rect class="bad"') == 3
    assert "wide_kernel" in page and "RUB-COREML-440" in page and "3 not" in page


def test_a_foreign_operation_without_results_is_judged(package: Package) -> None:
    """Names and counts of a package that nobody here has written."""
    first = next(op for op in package.main.block.operations if op.type == "relu")
    bare = replace(first, outputs=(), type="new_thing")
    block = replace(package.main.block, operations=(*package.main.block.operations, bare))
    main = replace(package.main, block=block)
    found = lint(replace(package, program=replace(package.program, functions={"main": main})))
    last: OpVerdict = found.ops[-1]
    assert last.status == "not" and last.deciding == "RUB-COREML-425" and last.name == first.name
    assert to_dict(found)["operations"] == 10
