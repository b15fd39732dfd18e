"""TensorBoard events: the same figures as the CSV files, and one curve after a run that was killed."""

from __future__ import annotations

from pathlib import Path

import pytest

from rubicc.training.history import BOARD, Log, StepRow, ValidationRow

pytest.importorskip("tensorboard", reason="the extra train-logs is not installed")


def row(step: int, loss: float) -> StepRow:
    return StepRow(
        step=step, loss=loss, task=None, distil=loss, features=None, lr=0.1, grad_norm=1.0, seconds=0.5
    )


def curve(folder: Path, tag: str) -> list[tuple[int, float]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / BOARD))
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars(tag)]


def test_events_hold_what_the_files_hold(tmp_path: Path) -> None:
    log = Log(tmp_path, {})
    log.step(row(1, 0.5))
    log.step(row(2, 0.25))
    log.validation(ValidationRow(step=2, loss=0.125, identity=0.75, best=True))
    log.close()
    assert curve(tmp_path, "train/loss") == [(1, 0.5), (2, 0.25)]
    assert curve(tmp_path, "validation/identity") == [(2, 0.75)]


def test_a_resumed_run_draws_one_curve(tmp_path: Path) -> None:
    log = Log(tmp_path, {})
    log.step(row(1, 0.5))
    kept = log.lengths()
    log.step(row(2, 8.0))  # after the last checkpoint: lost with the kill
    log.close()
    again = Log(tmp_path, kept)
    again.step(row(2, 0.25))
    again.step(row(3, 0.125))
    again.close()
    assert curve(tmp_path, "train/loss") == [(1, 0.5), (2, 0.25), (3, 0.125)]
