"""Data for the proof of an artefact of bounded shapes: what fits is taken, what does not says how to mend."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rubicc.driver.bounded import bounded_inputs
from rubicc.errors import UsageError
from rubicc.shapes import resolve_shapes
from rubicc.spec import TensorSpec

SPECS = [TensorSpec("x", ("N", 1, "T"), "float32")]


def asked(tmp_path: Path, form: str, length: int) -> tuple[int, ...]:
    """Shape of the first case made of an .npz with two items of this length."""
    path = tmp_path / "data.npz"
    np.savez(path, x=np.zeros((2, 1, length), np.float32))
    shapes = resolve_shapes(SPECS, None, form)
    return next(iter(bounded_inputs(shapes, None, (), path, 0).cases.values()))["x"].shape


@pytest.mark.parametrize(
    ("form", "length"),
    [("x=1x1x40", 40), ("x=1x1x40,1x1x80", 80), ("x=1x1x20..80", 20), ("x=1x1x20..80", 57)],
)
def test_data_of_a_shape_that_is_taken(tmp_path: Path, form: str, length: int) -> None:
    assert asked(tmp_path, form, length) == (1, 1, length)


@pytest.mark.parametrize(
    ("form", "length"), [("x=1x1x40", 39), ("x=1x1x40,1x1x80", 60), ("x=1x1x20..80", 81)]
)
def test_other_data_are_refused_with_the_shape_to_ask_for(tmp_path: Path, form: str, length: int) -> None:
    with pytest.raises(UsageError) as error:
        asked(tmp_path, form, length)
    assert error.value.code == "RUB-DRV-006" and f"2x1x{length}" in str(error.value)
    assert f"--shapes x=1x1x{length}" in str(error.value.hint)


def test_short_chunks_are_refused_with_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "chunks.npy"
    np.save(path, np.zeros((3, 30), np.float32))
    with pytest.raises(UsageError) as error:
        bounded_inputs(resolve_shapes(SPECS, None, "x=1x1x40"), None, (), path, 0)
    assert error.value.code == "RUB-DRV-006" and "30 samples" in str(error.value)
    assert "x=1x1x30" in str(error.value.hint)
