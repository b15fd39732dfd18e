"""Fixtures shared by every room."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "2")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real reads and weights beside the project; the test skips where it is absent."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("RUBICC_SHARED_DATA", default))
    if not folder.is_dir():
        pytest.skip(f"real data not present ({folder.name}/ beside the project, or RUBICC_SHARED_DATA)")
    return folder
