"""Wheel and sdist build, and the wheel alone, in an empty environment, compiles a model."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.packaging, pytest.mark.timeout(1500)]


def run(*command: str | Path, cwd: Path, **env: str) -> str:
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "RUBICC", "VIRTUAL_ENV"))}
    done = subprocess.run([str(c) for c in command], cwd=cwd, env=clean | env, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from what git tracks, so that a file somebody forgot to add is missed here and not by users."""
    home = tmp_path_factory.mktemp("build")
    tracked = run("git", "ls-files", "-z", cwd=ROOT).split("\0")
    for name in filter(None, tracked):
        (home / "src" / name).parent.mkdir(parents=True, exist_ok=True)
        (home / "src" / name).write_bytes((ROOT / name).read_bytes())
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", home / "dist", home / "src", cwd=home)
    return home / "dist"


def test_what_is_in_them(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    (sdist,) = built.glob("*.tar.gz")
    names = set(zipfile.ZipFile(wheel).namelist())
    for wanted in (
        *("rubicc/py.typed", "rubicc/data/demo_ctc.pt", "rubicc/data/demo_reads.npz"),
        *("rubicc/evidence/page.css", "rubicc/backends/cpu_gpu/templates/run.py"),
    ):
        assert wanted in names, wanted
    assert not any(name.startswith(("tests/", "benchmarks/")) for name in names)
    with tarfile.open(sdist) as archive:
        inside = {name.partition("/")[2] for name in archive.getnames()}
    assert {"pyproject.toml", "LICENSE", "README.md", "rubicc/data/demo_ctc.pt"} <= inside
    assert (built / wheel.name).stat().st_size < 5_000_000


def test_the_wheel_compiles_a_model_in_an_empty_environment(built: Path, tmp_path: Path) -> None:
    (wheel,) = built.glob("*.whl")
    run(sys.executable, "-m", "venv", tmp_path / "env", cwd=tmp_path)
    python = tmp_path / "env" / "bin" / "python"
    install = (python, "-m", "pip", "install", "--quiet", "-c", ROOT / "constraints.txt")
    run(*install, "torch", cwd=tmp_path)
    run(*install, wheel, cwd=tmp_path)
    rubicc = tmp_path / "env" / "bin" / "rubicc"
    run(rubicc, "models", "create", "demo-ctc", "--seed", "1", "-o", "model.pt", cwd=tmp_path)
    made = run(
        rubicc, "compile", "model.pt", "--target", "cpu", "-o", "out", "--format", "json", cwd=tmp_path
    )
    assert json.loads(made)["result"]["verdict"] == "verified"
    run(rubicc, "verify", "out", cwd=tmp_path)
    shown = run(rubicc, "demo", "-o", "demo", "--format", "json", cwd=tmp_path)
    assert json.loads(shown)["result"]["evaluation"]["reads"]
    where = run(python, "-I", "-c", "import rubicc; print(rubicc.__file__)", cwd=tmp_path)
    assert str(tmp_path) in where
