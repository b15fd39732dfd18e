"""What all verbs do alike: read, change, write the result folder."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from rubicc.errors import UsageError
from rubicc.evidence.staging import NO_ROOM, StagedDir, check_replaceable
from rubicc.genomics.journal import partial_folder
from rubicc.shrink import result as results
from rubicc.shrink import told
from rubicc.shrink.session import Asked, training_of
from rubicc.shrink.student import read_student
from rubicc.training.machines import first

if TYPE_CHECKING:
    from rubicc.shrink.session import Training
    from rubicc.shrink.student import Student

    Work = Callable[[Student, Training | None], told.Change]


def carried_out(asked: Asked, work: Work, *, needs_data: bool = False) -> results.Result | None:
    """Read what is asked for, do ``work`` and write the result folder.

    Args:
        work: changes a student; its second argument is None where there are no data.
        needs_data: whether that is refused.

    Returns:
        The result; None in the processes of torchrun that are not the first, which write nothing.

    Raises:
        RubiccError: nothing is written to ``asked.out`` then; ``OUT.partial`` keeps what was trained.
    """
    trains = bool(asked.data) or needs_data
    if not trains and not first():
        return None
    if asked.reading.threads is not None:
        torch.set_num_threads(asked.reading.threads)
    _all_used(asked)
    check_replaceable(asked.out, force=asked.reading.force)
    if not trains:
        return _written(asked, work(read_student(asked.model, asked.reading), None), None)
    with _room(partial_folder(asked.out)), training_of(asked) as run:
        change = work(run.student, run)
        if run.group.rank:
            return None
        made = _written(asked, change, run)
    shutil.rmtree(run.state, ignore_errors=True)
    return made


def _all_used(asked: Asked) -> None:
    """Refuse what has no use without data."""
    given = [name for name in ("teacher", "validation") if getattr(asked, name)]
    if given and not asked.data:
        what = f"--{given[0]} without --data: nothing would be trained or measured"
        raise UsageError("RUB-SHRINK-005", what, hint=f"give --data, or leave --{given[0]} out")


@contextlib.contextmanager
def _room(state: Path) -> Iterator[None]:
    """A full disk is told as such, whatever was being written; what ``state`` holds already stays."""
    try:
        yield
    except OSError as err:
        if err.errno not in NO_ROOM:
            raise
        raise UsageError(
            "RUB-TRAIN-041",
            f"the state of the run cannot be written: {err.strerror}",
            where=str(err.filename or state),
            hint="free space, then run the same command again: it goes on at the last state",
        ) from err


def _written(asked: Asked, change: told.Change, run: Training | None) -> results.Result:
    with StagedDir(asked.out, force=asked.reading.force) as staged:
        return results.write(
            staged,
            change.student,
            change.graph,
            told.report(change, run),
            logs=change.logs(run.state) if run is not None else {},
            inputs=run.inputs() if run is not None else {},
            seed=asked.training.seed,
            measured={"seconds": change.seconds},
        )
