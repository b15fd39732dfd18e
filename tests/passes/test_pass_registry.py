"""Registry, pipelines and manager."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from pass_graphs import conv_norm, graph, node

from rubicc import plugins
from rubicc.errors import UsageError, VerificationFailed
from rubicc.ir.graph import Graph
from rubicc.passes import registry
from rubicc.passes.manager import make_options, parse_overrides, run_pipeline
from rubicc.passes.pipelines import PIPELINES, Step, check_order
from rubicc.passes.registry import Pass, get, ids, info, register, unregister

PLUGIN_FOLDER = Path(__file__).parents[1] / "plugins"


def test_listing_ids_imports_no_pass() -> None:
    code = (
        "import sys; from rubicc.passes.registry import ids; assert len(ids()) >= 12;"
        "print([m for m in sys.modules if m.startswith(('rubicc.passes.', 'onnx', 'torch', 'numpy'))])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['rubicc.passes.registry']"


@pytest.mark.parametrize("pass_id", ids())
def test_every_pass_is_declared_and_documented(pass_id: str) -> None:
    shown = info(pass_id)
    assert shown.id == pass_id == get(pass_id).id
    assert shown.summary.endswith(".")
    assert "::" in shown.text, "docstring lacks its before/after drawing"
    assert shown.exact or shown.tolerance > 0
    assert shown.ensures


def test_unknown_pass_has_a_did_you_mean() -> None:
    with pytest.raises(UsageError, match=r"RUB-PASS-001.*cleanup.fold-constants"):
        get("cleanup.fold-constant")


def test_duplicates_and_wrong_declarations_are_refused() -> None:
    def declare(**body: object) -> type[Pass]:
        body = {"__doc__": "Does nothing.", "run": lambda self, graph: False, "__module__": "t"} | body
        return register(type("Wrong", (Pass,), body))

    @dataclass
    class Needy:
        value: int

    with pytest.raises(UsageError, match=r"is built in|is taken"):
        declare(id="cleanup.fold-constants")
    with pytest.raises(UsageError, match=r"family.name"):
        declare(id="nothing")
    with pytest.raises(UsageError, match="no docstring"):
        declare(id="t.undocumented", __doc__="")
    with pytest.raises(UsageError, match="does not override run"):
        declare(id="t.idle", run=Pass.run)
    with pytest.raises(UsageError, match="has no default"):
        declare(id="t.needy", Options=Needy)
    with pytest.raises(UsageError, match="tolerance"):
        declare(id="t.lossy", exact=False)
    declare(id="t.once")
    try:
        with pytest.raises(UsageError, match="is taken"):
            declare(id="t.once")
    finally:
        unregister("t.once")


@pytest.fixture
def entry_points(monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    """Pretend that packages announce passes."""
    monkeypatch.syspath_prepend(str(PLUGIN_FOLDER))

    def announce(**found: str) -> None:
        points = {
            name.replace("_", "-").replace("--", "."): EntryPoint(
                name.replace("_", "-").replace("--", "."), value, registry.ENTRY_POINT_GROUP
            )
            for name, value in found.items()
        }
        monkeypatch.setattr(plugins, "_scan", lambda group, path: points)

    yield announce
    unregister("example.merge-muls")


def test_plugins_load_lazily_and_can_be_switched_off(
    entry_points,
    monkeypatch: pytest.MonkeyPatch,  # type: ignore[no-untyped-def]
) -> None:
    entry_points(example__merge_muls="rubicc_example_plugin:MergeMuls")
    assert "example.merge-muls" in ids()
    assert "rubicc_example_plugin" not in sys.modules
    assert get("example.merge-muls").__name__ == "MergeMuls"
    assert [p.error for p in registry.plugins()] == [""]
    unregister("example.merge-muls")
    monkeypatch.setenv("RUBICC_PLUGINS", "0")
    assert "example.merge-muls" not in ids()
    assert registry.plugins() == ()


def test_a_broken_plugin_fails_alone_and_by_name(entry_points) -> None:  # type: ignore[no-untyped-def]
    entry_points(
        example__merge_muls="rubicc_example_plugin:MergeMuls",
        bad__import="no_such_module:Thing",
        bad__kind="json:JSONDecoder",
        bad__name="rubicc_example_plugin:MergeMuls",
        cleanup__fold_constants="rubicc_example_plugin:MergeMuls",
    )
    faults = {plugin.id: plugin.error for plugin in registry.plugins()}
    assert faults["example.merge-muls"] == ""
    assert "ModuleNotFoundError" in faults["bad.import"]
    assert "is not a Pass" in faults["bad.kind"]
    assert "announced as 'bad.name'" in faults["bad.name"]
    assert "built-in" in faults["cleanup.fold-constants"]
    assert get("cleanup.fold-constants").__module__.startswith("rubicc.")
    with pytest.raises(UsageError, match=r"RUB-PASS-004.*no_such_module") as caught:
        get("bad.import")
    assert "package" in caught.value.where
    assert get("cleanup.eliminate-dead").id == "cleanup.eliminate-dead"


@pytest.mark.parametrize("name", sorted(PIPELINES))
def test_pipelines_are_ordered_and_reasoned(name: str) -> None:
    check_order(PIPELINES[name])
    assert all(len(step.reason) > 10 for step in PIPELINES[name])


def test_a_wrong_order_is_refused() -> None:
    wrong = [step for step in PIPELINES["cleanup"] if step.id != "cleanup.infer-shapes"]
    with pytest.raises(UsageError, match=r"RUB-PASS-006.*fold-constants.*requires shapes"):
        run_pipeline(conv_norm(), wrong)


def test_records_stages_and_options() -> None:
    seen = []
    built = conv_norm()
    records = run_pipeline(
        built,
        PIPELINES["cleanup"],
        overrides={"cleanup.fold-constants": {"max_bytes": 10}},
        check=True,
        on_stage=lambda index, pass_id, one, changed, seconds: seen.append((index, pass_id, changed)),
    )
    assert [(i, r.id, r.changed) for i, r in enumerate(records)] == seen
    by_id = {record.id: record for record in records}
    assert by_id["cleanup.fuse-batchnorm"].op_diff == {"BatchNormalization": -1}
    assert by_id["cleanup.fold-constants"].options["max_bytes"] == 10
    assert all(record.seconds >= 0 for record in records)
    assert built.op_counts() == {"Conv": 1, "Relu": 1}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"cleanup.fold-constant": {}}, "RUB-PASS-001.*did you mean 'cleanup.fold-constants'"),
        ({"cleanup.fold-constants": {"max_byte": 1}}, "RUB-PASS-003.*did you mean 'max_bytes'"),
        ({"cleanup.fold-constants": {"max_bytes": "many"}}, "RUB-PASS-003.*'many'.*of type int"),
        ({"cleanup.fold-constants": {"fold_quant": 1}}, "RUB-PASS-003.*of type bool"),
        ({"lower.to-fp16": {"keep": ["a"]}}, "RUB-PASS-003.*not part of this pipeline"),
    ],
)
def test_wrong_overrides_are_refused_before_anything_runs(overrides: dict, message: str) -> None:  # type: ignore[type-arg]
    built = conv_norm()
    with pytest.raises(UsageError, match=message):
        run_pipeline(built, PIPELINES["cleanup"], overrides=overrides)
    assert "BatchNormalization" in built.op_counts()


def test_overrides_from_settings() -> None:
    assert parse_overrides(
        {
            "passes.fold-constants.max_bytes": 0,
            "passes.lower.to-fp16.keep": ["a"],
            "passes.to-fp16.overflow": "keep",
        }
    ) == {"cleanup.fold-constants": {"max_bytes": 0}, "lower.to-fp16": {"keep": ["a"], "overflow": "keep"}}
    with pytest.raises(UsageError, match="RUB-PASS-003"):
        parse_overrides({"passes.max_bytes": 0})
    with pytest.raises(UsageError, match="RUB-PASS-001"):
        parse_overrides({"passes.foldconst.max_bytes": 0})


def test_options_are_typed() -> None:
    cls = get("lower.to-fp16")
    assert make_options(cls, {"keep": ["a", "b"]}).keep == ("a", "b")
    with pytest.raises(UsageError, match="one of 'keep', 'refuse'"):
        make_options(cls, {"overflow": "saturate"})
    with pytest.raises(UsageError, match="tuple"):
        make_options(cls, {"keep": "a"})


class Restless(Pass):
    """Never comes to rest."""

    id = "t.restless"
    fixed_point = True

    def run(self, graph: Graph) -> bool:
        return True


class Breaker(Pass):
    """Leaves an illegal graph: an operator that does not exist."""

    id = "t.breaker"

    def run(self, graph: Graph) -> bool:
        graph.nodes[0].op_type = "NoSuchOperator"
        return True


class Renamer(Pass):
    """Changes the interface."""

    id = "t.renamer"

    def run(self, graph: Graph) -> bool:
        graph.outputs[0].name = "other"
        return True


@pytest.mark.parametrize(
    ("cls", "code"), [(Restless, "RUB-PASS-005"), (Breaker, "RUB-PASS-007"), (Renamer, "RUB-PASS-007")]
)
def test_faulty_passes_are_caught_and_named(cls: type[Pass], code: str) -> None:
    register(cls)
    built = graph([node("Relu", "x", "y")], {"x": ("N", 3)}, {"y": ("N", 3)})
    try:
        with pytest.raises(VerificationFailed, match=f"{code}.*{cls.id}"):
            run_pipeline(built, [Step(cls.id, "to see it fail")], check=True)
    finally:
        unregister(cls.id)


def test_a_pipeline_goes_on_from_a_saved_stage() -> None:
    """Steps that ran before the graph was saved count for the order and are not run again."""
    steps, built = PIPELINES["cleanup"], conv_norm()
    run_pipeline(built, steps[:4])
    with pytest.raises(UsageError, match="RUB-PASS-006"):
        run_pipeline(built, steps[4:])
    records = run_pipeline(built, steps[4:], resumed=steps[:4], overrides={"cleanup.fold-constants": {}})
    assert [record.id for record in records] == [step.id for step in steps[4:]]
    assert built.op_counts() == {"Conv": 1, "Relu": 1}


@pytest.mark.parametrize("pass_id", ids())
def test_every_pass_has_a_mutant(pass_id: str) -> None:
    """Some test gives the harness a wrong variant (patched, or a subclass) and sees it rejected."""
    text = "\n".join(path.read_text() for path in sorted(Path(__file__).parent.glob("test_*.py")))
    name = get(pass_id).__name__
    family = {name}
    for child, parent in re.findall(r"class (\w+)\((\w+)\)", text):
        family |= {child} if parent in family else set()
    ways = (r"assert_mutant_fails\(\s*{}\b", r'parametrize\("mutant", \[[^\]]*\b{}\b')
    assert any(re.search(way.format(member), text) for member in family for way in ways)
