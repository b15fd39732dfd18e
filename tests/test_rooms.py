"""The walls between rooms (ARCHITECTURE.md): nothing imports what it must not know."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "rubicc"
HEAVY = (
    *("torch", "onnx", "onnx_ir", "onnxruntime", "openvino", "transformers", "brevitas", "qonnx"),
    *("numba", "pod5", "h5py", "pysam", "mappy", "numpy", "yaml"),
)


def rooms(names: str) -> tuple[str, ...]:
    return tuple(f"rubicc.{name}" for name in names.split())


FORBIDDEN: dict[str, tuple[str, ...]] = {
    "ir": ("torch", *rooms("frontend passes backends models genomics training driver shrink cli")),
    "frontend": rooms("passes backends training driver shrink cli"),
    "passes": ("torch", *rooms("frontend backends models genomics training driver shrink cli")),
    "backends": rooms("frontend models genomics training driver shrink cli"),
    "models": rooms("ir frontend passes backends genomics training driver shrink cli"),
    "genomics": rooms("ir passes backends training driver shrink cli"),
    "evidence": rooms("ir frontend passes backends training driver shrink cli"),
    "training": rooms("frontend backends models driver shrink cli"),
    "driver": rooms("training shrink cli"),
    "shrink": rooms("cli"),
}
# One door each, with its reason.
DOORS = {
    ("genomics/train_demo.py", "rubicc.frontend"): "the training script saves a checkpoint",
    ("genomics/train_demo.py", "rubicc.training"): "the training script trains",
}


def imports(path: Path, top_level: bool = False) -> Iterator[str]:
    tree = ast.parse(path.read_text("utf-8"))
    nodes = tree.body if top_level else ast.walk(tree)
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def crosses(name: str, wall: str) -> bool:
    return name == wall or name.startswith(wall + ".")


def test_backends_do_not_know_each_other() -> None:
    rooms = sorted(path.parent for path in (ROOT / "backends").glob("*/__init__.py"))
    assert len(rooms) > 2
    broken = [
        f"{path.relative_to(ROOT)} imports {name}"
        for room in rooms
        for path in sorted(room.rglob("*.py"))
        for name in imports(path)
        for other in rooms
        if other != room and crosses(name, f"rubicc.backends.{other.name}")
    ]
    assert not broken, "\n".join(broken)


@pytest.mark.parametrize("room", FORBIDDEN)
def test_walls(room: str) -> None:
    broken = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in sorted((ROOT / room).rglob("*.py"))
        for name in imports(path)
        for wall in FORBIDDEN[room]
        if crosses(name, wall) and (str(path.relative_to(ROOT)), wall) not in DOORS
    ]
    assert not broken, "\n".join(broken)


def test_the_check_sees_an_import(tmp_path: Path) -> None:
    file = tmp_path / "x.py"
    file.write_text("def f():\n    from rubicc.backends.base import Plan\n")
    assert [name for name in imports(file) if crosses(name, "rubicc.backends")]
    assert not list(imports(file, top_level=True))


def test_start_up_imports_nothing_heavy() -> None:
    light = [
        *ROOT.glob("*.py"),
        *(ROOT / "cli").glob("*.py"),
        *ROOT.rglob("codes.py"),
        ROOT / "models" / "registry.py",
        ROOT / "backends" / "registry.py",
        ROOT / "backends" / "base.py",
        ROOT / "passes" / "registry.py",
    ]
    broken = [
        f"{path.relative_to(ROOT)}: {name}"
        for path in light
        for name in imports(path, top_level=True)
        if name.partition(".")[0] in HEAVY
    ]
    assert not broken, "\n".join(broken)
