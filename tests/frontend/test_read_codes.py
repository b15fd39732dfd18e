"""The catalogue and the code agree, and the room stays light to import."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import rubicc.frontend
from rubicc.frontend.codes import CODES

ROOM = Path(rubicc.frontend.__file__).parent


def test_every_code_is_catalogued_and_used() -> None:
    used: set[str] = set()
    for path in ROOM.glob("*.py"):
        if path.name != "codes.py":
            used |= set(re.findall(r'"(RUB-READ-D?\d+)"', path.read_text()))
    catalogued = {code for code in CODES if code.startswith("RUB-READ")}
    assert used == catalogued


def test_explanations_say_what_to_do() -> None:
    for code, (title, text) in CODES.items():
        assert title and not title.endswith("."), code
        assert len(text) > 60 and text.endswith("."), code


def test_importing_the_reader_imports_nothing_heavy() -> None:
    heavy = ("torch", "onnx", "numpy", "transformers", "safetensors")
    script = f"import sys, rubicc.frontend.reader; print([m for m in {heavy!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_no_reader_calls_an_unsafe_loader() -> None:
    """``torch.load`` stands once with weights_only=True; unrestricted loaders only in trusted.py."""
    for path in ROOM.glob("*.py"):
        text = re.sub(r'"""[\s\S]*?"""', "", path.read_text())
        if path.name == "trusted.py":
            continue
        assert "weights_only=False" not in text and "torch.jit.load(" not in text, path.name
        assert "pickle.load" not in text and "Unpickler(" not in text and "from_pretrained(" not in text, (
            path.name
        )
        for call in re.findall(r"torch\.load\([^)]*\)", text):
            assert "weights_only=True" in call, path.name
