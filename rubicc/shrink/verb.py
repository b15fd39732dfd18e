"""What all verbs do alike: read, change, write the result folder."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from rubicc.evidence.staging import StagedDir, check_replaceable
from rubicc.shrink import result as results
from rubicc.shrink import told
from rubicc.shrink.session import Asked, training_of
from rubicc.shrink.student import read_student

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
    if asked.reading.threads is not None:
        torch.set_num_threads(asked.reading.threads)
    check_replaceable(asked.out, force=asked.reading.force)
    if not asked.data and not needs_data:
        return _written(asked, work(read_student(asked.model, asked.reading), None), None)
    with training_of(asked) as run:
        change = work(run.student, run)
        if run.group.rank:
            return None
        made = _written(asked, change, run)
    shutil.rmtree(run.state, ignore_errors=True)
    return made


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
