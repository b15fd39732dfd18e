from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

SOURCE = """
from rubicc.genomics.jit import kernel

@kernel
def twice(x):
    return 2 * x

print(twice(21), type(twice._cache).__name__)
"""


def run(folder: Path, **env: str) -> list[str]:
    script = folder / "kernels.py"
    script.write_text(SOURCE)
    out = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, env={**os.environ, **env}
    )
    assert out.returncode == 0, out.stderr
    return out.stdout.split()


def test_kernels_work_where_nothing_can_be_cached(tmp_path: Path) -> None:
    """A locator for notebooks only leaves a script with no place: what a read-only container amounts to."""
    assert run(tmp_path, NUMBA_CACHE_LOCATOR_CLASSES="IPythonCacheLocator") == ["42", "NullCache"]


def test_kernels_are_cached_where_they_can_be(tmp_path: Path) -> None:
    assert run(tmp_path) == ["42", "FunctionCache"]
    assert list(tmp_path.rglob("*.nbi"))
