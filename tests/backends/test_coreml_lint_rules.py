"""Every rule: an operation that it holds for beside one that it does not, in packages read from disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lint_cases import CASES, IMAGE, OK, Case
from lint_programs import edited, half, lint, read, save, table

from rubicc.backends.coreml.lint import LintReport, engine
from rubicc.backends.coreml.lint.engine import FAMILIES
from rubicc.backends.coreml.lint.rules import BY_ID, RULES
from rubicc.backends.coreml.lint.sources import KINDS, SOURCES
from rubicc.backends.coreml.lint.view import rule_table, source_table
from rubicc.backends.coreml.run.load import load
from rubicc.backends.coreml.run.program import Package

# Rules about single operations that no program of lint_cases.py shows, with the test that does.
ELSEWHERE = {
    411: "test_what_coremltools_does_not_write",
    421: "test_what_coremltools_does_not_write",
    430: "test_what_coremltools_does_not_write",
    433: "test_what_coremltools_does_not_write",
    451: "test_enumerated_shapes",
    465: "test_a_range_of_shapes",
    410: "test_verdicts",
}


def number(rule: str) -> int:
    return int(rule[-3:])


def told(report: LintReport) -> dict[int, str]:
    """Rules that hold for the package as a whole."""
    return {number(applied.rule): applied.verdict for applied in report.package}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_verdicts(case: Case, tmp_path: Path) -> None:
    report = lint(read(tmp_path, case.inputs, case.build, **case.options))
    assert table(report, list(case.expected)) == dict(case.expected)
    for op in report.ops:
        eligible = [applied for applied in op.applied if applied.verdict == "eligible"]
        assert op.status != "eligible" or [number(applied.rule) for applied in eligible] == [410]
        assert all(applied.reason for applied in op.applied)


def test_every_rule_holds_somewhere_in_these_tests() -> None:
    seen = {rule for case in CASES for _, held in case.expected.values() for rule in held}
    about_ops = {number(rule.id) for rule in RULES if rule.op is not None}
    assert seen | set(ELSEWHERE) == about_ops and not seen & set(ELSEWHERE)
    assert all(test in globals() for test in ELSEWHERE.values())
    about_packages = {number(rule.id) for rule in RULES if rule.package is not None}
    assert about_packages == {434, 457, 466, 480, 481, 482, 483}  # the tests below


def test_what_coremltools_does_not_write(tmp_path: Path) -> None:
    """Six axes, empty tensors, unheard-of and stateful operations: a package read from disk, edited."""
    names = ("six", "empty", "new", "kept")
    package = read(tmp_path, {"x": IMAGE}, lambda mb, x: [mb.relu(x=x, name=name) for name in names])
    shapes = {"six": (1, 1, 1, 1, 4, 32), "empty": (1, 64, 1, 0)}
    kinds = {"new": "hypernorm", "kept": "write_state"}
    assert table(lint(edited(package, shapes, kinds)), names) == {
        "six": ("not", {430: "not"}),
        "empty": ("not", {433: "not"}),
        "new": ("unknown", {411: "unknown"}),
        "kept": ("unknown", {421: "unknown"}),
    }


@pytest.mark.parametrize("family", FAMILIES)
def test_a_named_chip_settles_what_depends_on_it(tmp_path: Path, family: str) -> None:
    def build(mb: Any, x: Any, long: Any, q: Any) -> list[Any]:
        return [
            mb.conv(x=x, weight=half(8, 64, 1, 14), pad_type="same", name="k14"),
            mb.conv(x=x, weight=half(8, 64, 1, 17), pad_type="same", name="k17"),
            mb.sin(x=x, name="sin"),
            mb.cumsum(x=x, axis=3, name="cumsum"),
            mb.relu(x=long, name="far"),
            mb.slice_by_index(x=x, begin=[0, 0, 0, 16], end=[1, 64, 1, 48], name="inner"),
        ]

    inputs = {"x": IMAGE, "long": ((1, 1, 1, 16385), "fp16"), "q": IMAGE}
    found = table(lint(read(tmp_path, inputs, build), family=family), ["k14", "k17", "sin", "cumsum", "far"])
    assert found["k14"][0] == ("not" if family == "M1" else "eligible")
    assert found["k17"][0] == "not" and found["cumsum"][0] == "unknown"
    assert found["sin"][0] == ("eligible" if family in ("M3", "M4") else "not")
    assert found["far"][0] == ("eligible" if family == "M4" else "not")
    inner = table(lint(load(tmp_path / "Small.mlpackage"), family=family), ["inner"])["inner"]
    assert inner == (("eligible", {458: "hint"}) if family in ("M1", "M2") else OK)


def work(mb: Any, x: Any) -> Any:
    """A product of 512^3 multiplications on its last two axes."""
    return mb.matmul(x=x, y=half(512, 512), name="y")


def test_packages_as_a_whole(tmp_path: Path) -> None:
    whole = lint(read(tmp_path, {"x": ((1, 512, 512), "fp16")}, work))
    assert told(whole) == {} and whole.macs == 512**3 and whole.share == 1.0
    several = lint(read(tmp_path, {"x": ((2, 512, 512), "fp16")}, work))
    assert told(several) == {434: "hint"}
    small = lint(read(tmp_path, {"x": ((1, 40, 512), "fp16")}, work))
    assert told(small) == {482: "hint", 483: "hint"}
    narrow = lint(
        read(tmp_path, {"x": ((1, 512, 512), "fp16")}, lambda mb, x: mb.matmul(x=x, y=half(512, 513)))
    )
    assert told(narrow) == {457: "hint"}


@pytest.mark.parametrize(
    ("nbytes", "expected"),
    [(500e6, {}), (500e6 + 1, {481: "hint"}), (1e9, {481: "hint"}), (1e9 + 1, {480: "not"})],
)
def test_size_of_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nbytes: float, expected: dict[int, str]
) -> None:
    package = read(tmp_path, {"x": ((1, 512, 512), "fp16")}, work)
    (weights,) = package.path.rglob("weights/weight.bin")
    with weights.open("r+b") as file:
        file.truncate(int(nbytes))  # sparse: takes no room
    report = lint(package)
    assert told(report) == expected and report.weight_bytes == int(nbytes)


def flexible(folder: Path, shape: Any, target: str = "iOS17", count: int = 1) -> Package:
    """layer_norm and a convolution over inputs of flexible length."""

    def build(mb: Any, **inputs: Any) -> list[Any]:
        made = []
        for name, x in inputs.items():
            weight = half(8, 64, 1, 3)
            made.append(mb.layer_norm(x=x, axes=[1], epsilon=np.float16(1e-5), name=f"{name}_norm"))
            made.append(mb.conv(x=x, weight=weight, pad_type="same", name=f"{name}_conv"))
        return made

    from coremltools.converters.mil.mil import get_new_symbol

    inputs = {f"x{i}": ((1, 64, 1, get_new_symbol()), "fp16") for i in range(count)}
    return load(save(folder, inputs, build, target=target, flexible=dict.fromkeys(inputs, shape)))


def test_a_range_of_shapes(tmp_path: Path) -> None:
    import coremltools as ct

    package = flexible(tmp_path, ct.Shape((1, 64, 1, ct.RangeDim(512, 1024, default=512))))
    report = lint(package)
    assert table(report, ["x0_norm", "x0_conv"]) == {
        "x0_norm": ("unknown", {465: "unknown"}),
        "x0_conv": ("unknown", {465: "unknown"}),
    }
    assert report.ops[-1].macs is None and report.macs == 0
    known = lint(
        package, shapes={"x0": (1, 64, 1, 512), "x0_norm": (1, 64, 1, 512), "x0_conv": (1, 8, 1, 512)}
    )
    assert known.macs == 8 * 64 * 3 * 512 and table(known, ["x0_conv"])["x0_conv"] == OK


def test_enumerated_shapes(tmp_path: Path) -> None:
    import coremltools as ct

    def shapes(count: int) -> Any:
        return ct.EnumeratedShapes([(1, 64, 1, 512 + 32 * i) for i in range(count)])

    few = lint(flexible(tmp_path, shapes(2)))
    assert table(few, ["x0_norm", "x0_conv"]) == {"x0_norm": ("unknown", {451: "unknown"}), "x0_conv": OK}
    assert told(few)[466] == "hint" and few.hints["RUB-COREML-466"] == 1
    two = flexible(tmp_path, shapes(2), target="iOS18", count=2)
    assert told(lint(two))[466] == "hint"
    older = lint(Package(**{**vars(two), "specification": 8}))
    assert told(older)[466] == "not"


def test_a_free_axis_with_fixed_inputs(tmp_path: Path) -> None:
    package = read(tmp_path, {"x": IMAGE}, lambda mb, x: mb.relu(x=x, name="free"))
    free = edited(package, {"free": (1, 64, 1, None)})
    assert table(lint(free), ["free"]) == {"free": ("not", {467: "not"})}


def test_every_rule_is_told_and_has_sources() -> None:
    assert len(BY_ID) == len(RULES) and [rule.id for rule in RULES] == sorted(BY_ID)
    for rule in RULES:
        assert (rule.op is None) != (rule.package is None)
        assert rule.title and rule.why.endswith(".") and rule.remedy.endswith(".") and rule.condition
        assert rule.sources and not set(rule.sources) & set(rule.against), rule.id
        assert {*rule.sources, *rule.against} <= set(SOURCES), rule.id
    cited = {name for rule in RULES for name in (*rule.sources, *rule.against)}
    assert cited == set(SOURCES), "a source that no rule cites"
    for source in SOURCES.values():
        assert source.address.startswith("https://") and " " not in source.address and source.says
        assert source.kind in KINDS


def test_a_rule_that_sources_contradict_does_not_forbid_by_reports_alone() -> None:
    """Where another source says otherwise, ``not`` needs Apple's word or a plan of a real device."""
    for rule in RULES:
        if rule.verdict == "not" and rule.against:
            kinds = {SOURCES[name].kind for name in rule.sources}
            assert kinds & {"apple", "plan"} or "reverse" in kinds, rule.id


def test_no_operation_is_in_two_places_of_the_table() -> None:
    listed = [kind for kinds in engine._TABLE.values() for kind in kinds.split()]
    assert len(listed) == len(set(listed)) > 120
    assert not set(listed) & engine.OWN_RULE
    assert all(len(letters) == len(FAMILIES) and set(letters) <= set("yn?") for letters in engine._TABLE)


def test_the_page_shows_the_table_as_it_is() -> None:
    page = (Path(__file__).parents[2] / "docs" / "targets" / "coreml-residency.md").read_text("utf-8")
    assert "\n".join(rule_table()) + "\n" in page and "\n".join(source_table()) + "\n" in page
