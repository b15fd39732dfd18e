"""The loop: it learns, and every option does what it says."""

from __future__ import annotations

import csv
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from toy_training import META, SETTINGS, Toy, curve, run, toy

from rubicc.errors import OutputExists, UsageError, VerificationFailed
from rubicc.models import registry
from rubicc.training import state as states
from rubicc.training.data.simulated import SimulatedSet
from rubicc.training.data.stream import Batch, Item, batch
from rubicc.training.history import STEPS, StepRow, read_rows
from rubicc.training.lessons import Lesson
from rubicc.training.loop import fit
from rubicc.training.machines import machines
from rubicc.training.network import Network, as_frames, as_teacher
from rubicc.training.objective import Objective
from rubicc.training.schedule import learning_rate, optimiser
from rubicc.training.settings import TrainSettings

OBJECTIVE = Objective.of(META)


def test_it_learns_and_keeps_the_best(tmp_path: Path) -> None:
    settings = replace(SETTINGS, steps=40, validate_every=10, best="loss", ema=0.0)
    network = toy()
    history = run(tmp_path, settings, network=network)
    losses = curve(history)
    assert np.mean(losses[-10:]) < 0.93 * np.mean(losses[:5])
    assert [row.step for row in history.validations] == [10, 20, 30, 40] and history.finished == "all steps"
    best = min(history.validations, key=lambda row: row.loss)
    assert history.best == replace(best, best=True) and not network.training
    assert all(0 <= row.identity <= 1 for row in history.validations)  # type: ignore[operator]
    rows = read_rows(tmp_path / STEPS, StepRow)
    assert rows == history.steps  # floats are read back as they were


def test_schedule_warms_up_and_decays() -> None:
    rates = [learning_rate(step, 100, 1.0, 10) for step in range(100)]
    assert rates[0] == pytest.approx(0.1) and max(rates) == pytest.approx(1.0) and rates[9] == 1.0
    assert np.all(np.diff(rates[10:]) < 0) and rates[-1] == pytest.approx(0.01, abs=0.002)
    assert learning_rate(0, 10, 0.5, 0) == 0.5


def test_rate_and_clipping_reach_the_weights(tmp_path: Path) -> None:
    rows = run(tmp_path, replace(SETTINGS, steps=5)).steps
    assert [row.lr for row in rows] == [learning_rate(s, 5, 0.01, 3) for s in range(5)]
    seen: list[float] = []

    class Watched(torch.optim.AdamW):
        def step(self, closure: Any = None) -> Any:
            grads = [p.grad for g in self.param_groups for p in g["params"] if p.grad is not None]
            seen.append(float(torch.stack([g.norm() for g in grads]).norm()))
            return super().step(closure)

    import rubicc.training.schedule as schedule

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(schedule.torch.optim, "AdamW", Watched)
        rows = run(tmp_path / "clipped", replace(SETTINGS, steps=4, clip=0.01)).steps
    assert max(seen) <= 0.01 * 1.001 < min(row.grad_norm for row in rows)


def test_vectors_do_not_decay() -> None:
    groups = optimiser(Toy(), SETTINGS).param_groups
    assert [g["weight_decay"] for g in groups] == [0.01, 0.0]
    assert all(p.ndim >= 2 for p in groups[0]["params"]) and all(p.ndim < 2 for p in groups[1]["params"])


def test_accumulation_is_a_larger_batch(tmp_path: Path) -> None:
    one, four = toy(plain=True), toy(plain=True)
    settings = replace(SETTINGS, steps=6, batch=8, ema=0.0)
    first = run(tmp_path / "one", settings, network=one)
    second = run(tmp_path / "four", replace(settings, batch=2, accumulate=4), network=four)
    assert curve(second) == pytest.approx(curve(first), rel=1e-5)
    for a, b in zip(one.parameters(), four.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-5)


def test_bf16_trains_float32_weights(tmp_path: Path) -> None:
    network = toy()
    history = run(tmp_path, replace(SETTINGS, steps=6, bf16=True), network=network)
    exact = run(tmp_path / "exact", replace(SETTINGS, steps=6))
    assert all(p.dtype == torch.float32 for p in network.parameters())
    assert curve(history) != curve(exact) and curve(history) == pytest.approx(curve(exact), rel=0.05)


def test_the_running_mean_is_what_is_kept(tmp_path: Path) -> None:
    """Against the mean computed beside, from the weights after every step."""
    network, wanted = toy(), {}
    seen: list[dict[str, Tensor]] = []

    class Keeper:
        def step(self, row: StepRow, total: int) -> None:
            seen.append({n: v.detach().clone() for n, v in network.state_dict().items()})

        def validated(self, row: Any, total: int) -> None:
            pass

        def close(self) -> None:
            pass

    settings = replace(SETTINGS, steps=7, ema=0.9)
    mean = {n: v.clone() for n, v in network.state_dict().items()}
    data = SimulatedSet(OBJECTIVE, 150)
    fit(network, data, Lesson(OBJECTIVE, settings), settings, state=tmp_path, watcher=Keeper())
    for step, weights in enumerate(seen):
        decay = min(0.9, (1 + step) / (10 + step))
        mean = {
            n: decay * mean[n] + (1 - decay) * v if v.is_floating_point() else v for n, v in weights.items()
        }
    wanted = dict(network.state_dict())
    assert all(torch.allclose(wanted[n], v, atol=1e-6) for n, v in mean.items())
    assert any(not torch.equal(wanted[n], v) for n, v in seen[-1].items())


def test_early_stopping(tmp_path: Path) -> None:
    settings = replace(SETTINGS, steps=60, validate_every=2, patience=3, lr=1e-12, ema=0.0, best="loss")
    history = run(tmp_path, settings, network=toy(plain=True))
    assert history.finished == "no better validation" and len(history.steps) < 60
    assert not any(row.best for row in history.validations[-3:])
    again = run(tmp_path, settings, network=toy(plain=True))  # finished runs stay finished
    assert curve(again) == curve(history)


def test_seeds(tmp_path: Path) -> None:
    first, again = (curve(run(tmp_path / name, replace(SETTINGS, steps=3))) for name in ("a", "b"))
    other = curve(run(tmp_path / "c", replace(SETTINGS, steps=3, seed=1)))
    assert first == again != other


# ---- lessons


class Fixed(nn.Module):
    def __init__(self, value: float) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(value))
        self.layer = nn.Conv1d(1, 5, 3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return torch.log_softmax((self.layer(x) * self.scale).permute(2, 0, 1), 2)


def given() -> Batch:
    return batch(SimulatedSet(OBJECTIVE, 150), range(3), 0)


def test_alpha_shares_the_loss() -> None:
    torch.manual_seed(0)
    student, teacher = Network(Fixed(1.0), META), as_teacher(Fixed(2.0), META)
    parts = {}
    for alpha in (0.0, 0.3, 1.0):
        lesson = Lesson(OBJECTIVE, TrainSettings(alpha=alpha, temperature=2.0), teacher)
        scores, kept = student(given().feeds)
        parts[alpha] = lesson.losses(scores, kept, lesson.prepare(given()))
    mixed = 0.3 * parts[1.0]["loss"] + 0.7 * parts[0.0]["loss"]
    assert torch.allclose(parts[0.3]["loss"], mixed) and set(parts[1.0]) == {"loss", "distil"}
    assert set(parts[0.0]) == {"loss", "task"} and not any(p.requires_grad for p in teacher.parameters())


def test_features_are_compared() -> None:
    torch.manual_seed(0)
    student, teacher = Network(Fixed(1.0), META, ("layer",)), as_teacher(Fixed(2.0), META, ("layer",))
    settings = TrainSettings(features=(("layer", "layer"),), feature_weight=2.0, alpha=1.0)
    lesson = Lesson(OBJECTIVE, settings, teacher)
    scores, kept = student(given().feeds)
    found = lesson.losses(scores, kept, lesson.prepare(given()))
    assert torch.allclose(found["loss"], found["distil"] + 2 * found["features"]) and found["features"] > 0
    found["features"].backward()
    assert student.inner.layer.weight.grad.abs().sum() > 0  # type: ignore[union-attr]
    with pytest.raises(UsageError, match=r"RUB-TRAIN-022.*layer"):
        Network(Fixed(1.0), META, ("lyer",))
    with pytest.raises(UsageError, match="RUB-TRAIN-022"):
        as_frames(torch.zeros(3, 5, 7), 3, 9)
    assert as_frames(torch.zeros(3, 5, 9), 3, 9).shape == (3, 9, 5)
    assert as_frames(torch.zeros(9, 3, 5), 3, 9).shape == (3, 9, 5)


def test_calls_of_a_teacher_of_another_stride_are_targets() -> None:
    """A flip-flop teacher at stride 4 teaches a CTC student at stride 3: by bases, not by frames."""
    entry = registry.get("taiyaki-mgru")
    teacher = as_teacher(entry.build({"size": 8, "layers": 1}, seed=0), entry.meta())
    lesson = Lesson(OBJECTIVE, TrainSettings(), teacher)
    assert lesson.by_calls
    made = lesson.prepare(replace(given(), targets=None, lengths=None))
    assert made.teacher is None and made.targets is not None and made.usable is not None
    scores, _ = teacher(given().feeds)
    call = Objective.of(teacher.meta).decode(scores.detach().numpy())[1]
    assert "".join(" ACGT"[c] for c in made.targets[1, : made.lengths[1]]) == call  # type: ignore[index]
    with pytest.raises(UsageError, match=r"RUB-TRAIN-025.*stride.*--labels calls"):
        Lesson(OBJECTIVE, TrainSettings(labels="scores"), teacher)
    with pytest.raises(UsageError, match="RUB-TRAIN-025"):
        Lesson(OBJECTIVE, TrainSettings(features=(("a", "b"),)))


def test_items_that_cannot_be_learned_do_not_count() -> None:
    student = Network(Fixed(1.0), META)
    lesson, whole = Lesson(OBJECTIVE, TrainSettings()), given()
    assert whole.lengths is not None
    scores, kept = student(whole.feeds)
    each = OBJECTIVE.task(scores, whole.targets, whole.lengths)  # type: ignore[arg-type]
    part = replace(whole, usable=torch.tensor([True, False, True]))
    assert torch.allclose(lesson.losses(scores, kept, part)["loss"], (each[0] + each[2]) / 2)


def test_nothing_to_learn_from_is_refused_before_training() -> None:
    item = Item({"x": np.zeros((1, 150), np.float32)})
    with pytest.raises(UsageError, match="RUB-TRAIN-026"):
        Lesson(OBJECTIVE, TrainSettings()).check(item)


# ---- what goes wrong


class Poison(SimulatedSet):
    """The signal of one step is not a number."""

    def item(self, position: int, seed: int) -> Item:
        found = super().item(position, seed)
        if position // SETTINGS.batch == 6:
            found.feeds["x"][:] = np.nan
        return found


def test_nan_stops_and_keeps_the_last_state(tmp_path: Path) -> None:
    network, settings = toy(), replace(SETTINGS, save_every=0.0)
    with pytest.raises(VerificationFailed) as caught:
        fit(network, Poison(OBJECTIVE, 150), Lesson(OBJECTIVE, settings), settings, state=tmp_path)
    assert caught.value.code == "RUB-TRAIN-040" and caught.value.exit_code == 5
    assert "step 7" in str(caught.value) and "after step 6" in str(caught.value)
    fresh = toy(seed=3)
    progress, _ = states.load(tmp_path, _identity(tmp_path), fresh, optimiser(fresh, settings)) or (
        None,
        None,
    )
    assert progress is not None and progress.step == 6
    assert all(torch.isfinite(p).all() for p in fresh.parameters())


def _identity(folder: Path) -> str:
    return str(states._read(folder / states.FILE)[0]["identity"])


def test_infinite_loss_stops(tmp_path: Path) -> None:
    """More bases than frames."""
    settings = replace(SETTINGS, chunk=150)
    data = SimulatedSet(OBJECTIVE, 150)
    crowded = replace(data.item(0, 0), target=np.ones(60, np.int64))
    data.item = lambda position, seed: crowded  # type: ignore[method-assign]
    with pytest.raises(VerificationFailed, match=r"RUB-TRAIN-040.*inf"):
        fit(toy(), data, Lesson(OBJECTIVE, settings), settings, state=tmp_path)


def test_a_state_of_another_run_is_refused(tmp_path: Path) -> None:
    run(tmp_path, replace(SETTINGS, steps=2))
    with pytest.raises(OutputExists, match="RUB-TRAIN-042"):
        run(tmp_path, replace(SETTINGS, steps=3))
    content = (tmp_path / states.FILE).read_bytes()
    for damaged in (content[:100], b"", content[:8] + b"x" * 50 + content[58:]):
        (tmp_path / states.FILE).write_bytes(damaged)
        with pytest.raises(UsageError, match=r"RUB-TRAIN-043.*--force"):
            run(tmp_path, replace(SETTINGS, steps=2))


def test_a_full_disk_keeps_the_old_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno
    import os

    run(tmp_path, replace(SETTINGS, steps=2))
    before = (tmp_path / states.FILE).read_bytes()

    def full(fd: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    network = toy()
    monkeypatch.setattr(states.os, "fsync", full)
    with pytest.raises(UsageError, match=r"RUB-TRAIN-041.*No space"):
        states.save(tmp_path, "x", states.Progress(), network, optimiser(network, SETTINGS), {})
    assert (tmp_path / states.FILE).read_bytes() == before and len(list(tmp_path.glob("*.tmp"))) == 0


@pytest.mark.parametrize(
    "change",
    [{"steps": 0}, {"lr": 0.0}, {"ema": 1.0}, {"alpha": 1.5}, {"features": (("a",),)}, {"temperature": 0.0}],
)
def test_impossible_settings_are_named(change: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=r"RUB-TRAIN-024") as caught:
        TrainSettings(**change)
    assert next(iter(change)) in str(caught.value)


def test_a_missing_gpu_is_named() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(UsageError, match="RUB-TRAIN-051"):
        machines("cuda")


def test_logs_are_tables(tmp_path: Path) -> None:
    run(tmp_path, replace(SETTINGS, steps=5))
    with (tmp_path / STEPS).open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == [1, 2, 3, 4, 5]
    assert all(math.isfinite(float(row["loss"])) and row["distil"] == "" for row in rows)
