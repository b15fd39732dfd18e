"""Plugins of all three groups from one installed package: found, used, recorded, isolated, switched off."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from rubicc import plugins
from rubicc.cli.main import main
from rubicc.passes.registry import unregister

MODULE = """
from rubicc.models.registry import get
from rubicc.passes.registry import Pass

ENTRY = get("demo-ctc")
BACKEND = None


class Nothing(Pass):
    '''Changes nothing.'''

    id = "example.nothing"

    def run(self, graph):
        return False
"""
ENTRY_POINTS = """[rubicc.models]
example-net = example_everything:ENTRY
gone-net = example_everything:GONE
rubicall = example_everything:ENTRY

[rubicc.passes]
example.nothing = example_everything:Nothing
example.exits = example_exits:Nothing

[rubicc.backends]
example-chip = example_everything:BACKEND
"""
RECORDED = {
    "rubicc.backends:example-chip": "example-everything 3.1",
    "rubicc.models:example-net": "example-everything 3.1",
    "rubicc.models:gone-net": "example-everything 3.1",
    "rubicc.passes:example.exits": "example-everything 3.1",
    "rubicc.passes:example.nothing": "example-everything 3.1",
}


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    """A distribution with plugins, as pip would have installed it."""
    folder = tmp_path / "site"
    info = folder / "example_everything-3.1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: example-everything\nVersion: 3.1\n")
    (info / "entry_points.txt").write_text(ENTRY_POINTS)
    (folder / "example_everything.py").write_text(MODULE)
    (folder / "example_exits.py").write_text("raise SystemExit('no licence')\n")
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.delenv("RUBICC_PLUGINS", raising=False)
    yield folder
    unregister("example.nothing")
    sys.modules.pop("example_everything", None)


def result(capsys: pytest.CaptureFixture[str], *args: str) -> dict:  # type: ignore[type-arg]
    assert main([*args, "--format", "json"]) == 0
    return json.loads(capsys.readouterr().out)["result"]


def test_versions_of_every_group_are_known_and_nothing_is_imported(
    installed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert plugins.versions() == RECORDED  # no rubicc.models:rubicall, which is built in
    assert "example_everything" not in sys.modules
    monkeypatch.setenv("RUBICC_PLUGINS", "0")
    assert plugins.versions() == {}


def test_env_names_every_plugin_and_why_it_does_not_load(
    installed: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rubicc.cli.env._providers", dict)  # loads two runtimes
    rows = {row["name"]: row for row in result(capsys, "env")["plugins"]}
    assert {name: row["origin"] for name, row in rows.items() if name in RECORDED} == RECORDED
    assert rows["rubicc.models:example-net"]["error"] == rows["rubicc.passes:example.nothing"]["error"] == ""
    assert "GONE" in rows["rubicc.models:gone-net"]["error"]
    assert "built-in" in rows["rubicc.models:rubicall"]["error"]
    assert rows["rubicc.passes:example.exits"]["error"] == "SystemExit: no licence"
    assert "offers no name" in rows["rubicc.backends:example-chip"]["error"]
    assert main(["env"]) == 0
    assert "rubicc.models:gone-net of example-everything 3.1: AttributeError" in capsys.readouterr().out


def test_lists_show_a_broken_plugin_as_a_row(installed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    models = {row["name"]: row for row in result(capsys, "models", "list")["models"]}
    assert "GONE" in models["gone-net"]["error"] and models["rubicall"]["parameters"] == 3_314_549
    passes = {row["id"]: row for row in result(capsys, "passes", "list")["passes"]}
    assert "no licence" in passes["example.exits"]["error"] and passes["example.nothing"]["exact"]
    for verb in ("models", "passes", "targets"):
        assert main([verb, "list"] if verb != "targets" else [verb]) == 0
    shown = capsys.readouterr().out
    assert "no licence" in shown and "offers no name" in shown


def test_the_manifest_records_plugins_of_all_groups(installed: Path, tmp_path: Path) -> None:
    out, model = str(tmp_path / "out"), str(tmp_path / "m.pt")
    assert main(["models", "create", "demo-ctc", "-o", model, "-q"]) == 0
    assert main(["compile", model, "--target", "cpu", "-o", out, "--runtime", "onnxruntime", "-q"]) == 0
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["plugins"] == RECORDED


def test_importing_the_module_imports_nothing_heavy() -> None:
    code = (
        "import sys; from rubicc import plugins; plugins.versions();"
        "print([m for m in ('torch', 'numpy', 'onnx', 'onnx_ir') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
