"""Examples of any network: an ``.npz`` with one array per input, the first axis counting examples.

An array ``labels``, where there is one, labels places of the output (negative = not labelled).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from rubicc.errors import ModelRefused, UsageError
from rubicc.evidence.npy import UNREADABLE
from rubicc.text import first_line
from rubicc.training.data.stream import Item, Shuffle
from rubicc.training.objective import Objective

LABELS = "labels"


class ArraySet:
    """Rows of arrays.

    Args:
        part: ``train`` leaves the last 3 % out, ``validation`` is these, ``all``.

    Raises:
        ModelRefused: ``RUB-TRAIN-030``: the file is damaged or its arrays do not fit each other.
        UsageError: ``RUB-TRAIN-031``: no examples.
    """

    def __init__(self, path: Path, objective: Objective, part: str = "all") -> None:
        self.name = path.name
        names = [spec.name for spec in objective.meta.inputs]
        try:
            with np.load(path, allow_pickle=False) as archive:
                self.inputs = {name: archive[name] for name in names}
                self.labels = archive[LABELS].astype(np.int64) if LABELS in archive else None
        except UNREADABLE as err:
            raise ModelRefused(
                "RUB-TRAIN-030",
                f"cannot be read: {first_line(err)}",
                where=path.name,
                hint=f"write an .npz with the arrays {', '.join(names)}",
            ) from err
        counts = {
            len(array) for array in [*self.inputs.values(), *([] if self.labels is None else [self.labels])]
        }
        if len(counts) != 1:
            raise ModelRefused(
                "RUB-TRAIN-030",
                f"arrays of {sorted(counts)} examples",
                where=path.name,
                hint="write arrays with one row per example",
            )
        (count,) = counts
        split = count - max(1, round(0.03 * count)) if count > 1 else count
        rows = {"train": np.arange(split), "validation": np.arange(split, count)}
        self.rows = rows.get(part, np.arange(count))
        if not len(self.rows):
            hint = "give a file with examples"
            raise UsageError("RUB-TRAIN-031", f"no examples among {count}", where=path.name, hint=hint)
        self.shuffle = Shuffle(len(self.rows))
        self.facts: dict[str, object] = {"examples": len(self.rows)}

    def __len__(self) -> int:
        """Examples."""
        return len(self.rows)

    def item(self, position: int, seed: int) -> Item:
        """Example at ``position``, every one once per round."""
        return self._item(int(self.rows[self.shuffle.row(position, seed)]))

    def in_order(self) -> Iterator[Item]:
        """Every example once."""
        return (self._item(int(row)) for row in self.rows)

    def _item(self, row: int) -> Item:
        labels = None if self.labels is None else self.labels[row]
        return Item({name: array[row] for name, array in self.inputs.items()}, labels=labels)


def fits(path: Path, objective: Objective) -> bool:
    """Whether ``path`` is an ``.npz`` with an array for every input."""
    import zipfile

    if not path.is_file() or not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return {f"{spec.name}.npy" for spec in objective.meta.inputs} <= set(archive.namelist())
