"""Scores by which a run cuts, kept in ``OUT.partial``: a killed run that goes on cuts the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from rubicc.errors import UsageError
from rubicc.text import first_line
from rubicc.training.state import foreign, put

_KEY = "rubicc"


def kept(file: Path, known: str, measure: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The scores in ``file``; measured and written there where it is missing.

    Args:
        known: what they hang on (model, data, settings).

    Raises:
        OutputExists: ``RUB-TRAIN-042``: they belong to another run.
        UsageError: ``RUB-TRAIN-041`` they cannot be written; ``RUB-TRAIN-043`` they cannot be read.
    """
    from safetensors import SafetensorError, safe_open
    from safetensors.numpy import save

    if not file.is_file():
        found = measure()
        content = save({n: np.ascontiguousarray(a) for n, a in found.items()}, {_KEY: known})
        put(file, content, "scores")
        return found
    try:
        with safe_open(file, "np") as stored:
            said = (stored.metadata() or {}).get(_KEY)
            found = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as err:
        raise UsageError(
            "RUB-TRAIN-043",
            f"the scores of the unfinished run cannot be read: {first_line(err)}",
            where=str(file),
            hint="remove the file, or give --force, to start again",
        ) from err
    if said != known:
        raise foreign(file.parent)
    return found
