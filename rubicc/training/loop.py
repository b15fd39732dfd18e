"""The training loop: any network, any data stream, any objective; a killed run goes on bit for bit.

Everything random in step ``i`` hangs on the seed and on ``i``: which items, how they are augmented, and
torch's own generator (dropout), which is seeded at the start of every step. So the state on disk holds no
generator, and the losses after a kill are those of a run that was never stopped.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from rubicc.errors import VerificationFailed
from rubicc.training import state as states
from rubicc.training.data.stream import Batch, DataSet, Item, batch
from rubicc.training.history import History, Log, StepRow, ValidationRow
from rubicc.training.lessons import Lesson
from rubicc.training.machines import Alone, machines
from rubicc.training.movement import Movement
from rubicc.training.network import Network
from rubicc.training.schedule import learning_rate, optimiser, set_rate
from rubicc.training.scoring import Score, score
from rubicc.training.settings import TrainSettings


class Watcher(Protocol):
    """Told how a run goes; must be quick."""

    def step(self, row: StepRow, total: int) -> None:
        """After every step."""

    def validated(self, row: ValidationRow, total: int) -> None:
        """After every validation."""

    def close(self) -> None:
        """At the end, also of a failed run."""


class Silent:
    """Says nothing."""

    def step(self, row: StepRow, total: int) -> None:
        """Nothing."""

    def validated(self, row: ValidationRow, total: int) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


def fit(
    network: Network,
    data: DataSet,
    lesson: Lesson,
    settings: TrainSettings,
    *,
    state: Path,
    validation: Sequence[Item] = (),
    identity: str = "",
    watcher: Watcher | None = None,
    group: Alone | None = None,
    movement: Movement | None = None,
) -> History:
    """Train ``network`` in place; it holds the best weights afterwards, in evaluation mode.

    Args:
        data: the stream of items.
        lesson: what is learned of a batch: its losses.
        state: folder of the state and the logs; a run that was killed there goes on.
        validation: items that the best weights are chosen by; without any the last ones are kept.
        identity: digest of what must not change between the parts of a run (model, data), beside settings.
        watcher: told by the first process.
        group: this process and the others; None = as the environment says.
        movement: gathers the movement of the weights in every step; saved with the state.

    Raises:
        VerificationFailed: ``RUB-TRAIN-040``: loss or gradient is not finite; the last state stays.
        OutputExists, UsageError: see :mod:`rubicc.training.state`.
    """
    identity += " movement" if movement is not None else ""
    said = hashlib.sha256(f"{identity} {replace(settings, save_every=0.0)} {lesson}".encode()).hexdigest()
    state.mkdir(parents=True, exist_ok=True)
    one = group or machines(settings.device)
    run = _Run(network, data, lesson, settings, one, state, validation, said, movement)
    watcher = watcher if watcher is not None and run.group.rank == 0 else Silent()
    try:
        return run.all(watcher)
    finally:
        watcher.close()
        run.log.close()


class _Run:
    def __init__(
        self,
        network: Network,
        data: DataSet,
        lesson: Lesson,
        settings: TrainSettings,
        group: Alone,
        folder: Path,
        validation: Sequence[Item],
        identity: str,
        movement: Movement | None,
    ) -> None:
        self.network = network
        self.data = data
        self.settings = settings
        self.group = group
        self.folder = folder
        self.identity = identity
        self.lesson = lesson.to(group.device)
        self.validation = validation
        network.to(group.device)
        self.optimiser = optimiser(network, settings)
        found = states.load(folder, identity, network, self.optimiser)
        self.progress, parts = found or (states.Progress(), {})
        there = {part: {n: v.to(group.device) for n, v in values.items()} for part, values in parts.items()}
        self.mean = there.get("mean", self._weights() if settings.ema else {})
        self.best = there.get("best", {})
        self.movement = movement
        if movement is not None:
            movement.sums = there.get("movement", {})
        self.trained = group.prepare(network)
        self.log = Log(folder if group.rank == 0 else None, self.progress.logs)
        self.on_disk = self.progress.step
        self.saved = time.monotonic()

    def _weights(self) -> dict[str, Tensor]:
        return {name: value.detach().clone() for name, value in self.network.state_dict().items()}

    def all(self, watcher: Watcher) -> History:
        """The steps that are left."""
        total = self.settings.steps
        while not self.progress.finished:
            row = self._step(self.progress.step)
            self.progress.step += 1
            self.log.step(row)
            watcher.step(row, total)
            last = self.progress.step == total
            if self.validation and (last or self.progress.step % self.settings.validate_every == 0):
                watcher.validated(self._validate(), total)
            if last and not self.progress.finished:
                self.progress.finished = "all steps"
            if self.group.agreed(self._due()):
                self._save()
        if self.best:
            self.network.load_state_dict(self.best)
        elif self.settings.ema:
            self.network.load_state_dict(self.mean)
        self.network.eval()
        history = self.log.history
        history.finished = self.progress.finished
        history.best_step = self.progress.best_step if self.best else self.progress.step
        self.group.wait()
        return history

    # ---- one step

    def _step(self, step: int) -> StepRow:
        began = time.perf_counter()
        torch.manual_seed(_mixed(self.settings.seed, step, self.group.rank))
        rate = learning_rate(
            step, self.settings.steps, self.settings.lr, self.settings.warmup, self.settings.lr_end
        )
        set_rate(self.optimiser, rate)
        self.lesson.pace = rate / self.settings.lr
        self.network.train()
        self.optimiser.zero_grad(set_to_none=True)
        sums: dict[str, Tensor] = {}
        for part in range(self.settings.accumulate):
            given = self.lesson.prepare(self._batch(step, part))
            whole = part == self.settings.accumulate - 1
            with self.group.sharing() if whole else self.group.apart(self.trained):
                losses = self._losses(given)
                (losses["loss"] / self.settings.accumulate).backward()
            for name, value in losses.items():
                share = value.detach() / self.settings.accumulate
                sums[name] = sums[name] + share if name in sums else share
        found = dict(zip(sums, self.group.mean(torch.stack(list(sums.values()))).tolist(), strict=True))
        norm = self._clipped()
        if not (math.isfinite(found["loss"]) and math.isfinite(norm)):
            self._not_finite(step, found, norm)
        if self.movement is not None:
            self.movement.add(self.network)
        self.optimiser.step()
        self.lesson.pace = 0.0
        self._average(step)
        return StepRow(
            step + 1,
            found["loss"],
            found.get("task"),
            found.get("distil"),
            found.get("features"),
            rate,
            norm,
            round(time.perf_counter() - began, 4),
        )

    def _batch(self, step: int, part: int) -> Batch:
        size, group = self.settings.batch, self.group
        first = ((step * self.settings.accumulate + part) * group.count + group.rank) * size
        return batch(self.data, range(first, first + size), self.settings.seed).to(group.device)

    def _losses(self, given: Batch) -> dict[str, Tensor]:
        with torch.autocast(self.group.device.type, torch.bfloat16, enabled=self.settings.bf16):
            scores, kept = self.trained(given.feeds)
        return self.lesson.losses(scores, kept, given)

    def _clipped(self) -> float:
        limit = self.settings.clip or math.inf
        learned = [value for value in self.network.parameters() if value.grad is not None]
        return float(torch.nn.utils.clip_grad_norm_(learned, limit))

    def _not_finite(self, step: int, found: dict[str, float], norm: float) -> None:
        parts = ", ".join(f"{name} {value:g}" for name, value in found.items())
        kept = f"the last state kept is that after step {self.on_disk}"
        raise VerificationFailed(
            "RUB-TRAIN-040",
            f"step {step + 1}: {parts}, gradient norm {norm:g}; {kept}",
            where=self.data.name,
            hint="give a smaller --lr or a larger --warmup, or leave --bf16 out; check the data for NaN",
        )

    def _average(self, step: int) -> None:
        if not self.settings.ema:
            return
        # Early on the mean would be of the random start: the fewer the steps, the more the weights count.
        decay = min(self.settings.ema, (1 + step) / (10 + step))
        for name, value in self.network.state_dict().items():
            if value.dtype.is_floating_point:
                self.mean[name].lerp_(value.detach(), 1 - decay)
            else:
                self.mean[name].copy_(value)

    # ---- validation

    def _validate(self) -> ValidationRow:
        score = self._score() if self.group.rank == 0 else None
        score = self.group.agreed(score)
        assert score is not None
        by_identity = self.settings.best != "loss" and score.identity is not None
        value = score.identity if by_identity and score.identity is not None else -score.loss
        better = value > self.progress.best_value
        if better:
            self.progress.best_value, self.progress.best_step = value, self.progress.step
            self.progress.waited = 0
            self.best = {n: v.clone() for n, v in (self.mean or self._weights()).items()}
        else:
            self.progress.waited += 1
        if self.settings.patience and self.progress.waited >= self.settings.patience:
            self.progress.finished = "no better validation"
        row = ValidationRow(self.progress.step, score.loss, score.identity, better)
        self.log.validation(row)
        return row

    def _score(self) -> Score:
        """Of the weights that would be kept."""
        with self._kept_weights():
            return score(self.network, self.lesson, self.validation, self.settings)

    @contextlib.contextmanager
    def _kept_weights(self) -> Iterator[None]:
        if not self.mean:
            yield
            return
        before = self._weights()
        self.network.load_state_dict(self.mean)
        yield
        self.network.load_state_dict(before)

    # ---- state

    def _due(self) -> bool:
        late = time.monotonic() - self.saved >= self.settings.save_every
        return late or bool(self.progress.finished)

    def _save(self) -> None:
        self.saved = time.monotonic()
        if self.group.rank == 0:
            self.progress.logs = self.log.lengths()
            moved = self.movement.sums if self.movement is not None else {}
            extra = {"mean": self.mean, "best": self.best, "movement": moved}
            states.save(self.folder, self.identity, self.progress, self.network, self.optimiser, extra)
        self.on_disk = self.progress.step
        self.group.wait()


def _mixed(*numbers: int) -> int:
    """A seed from several numbers, 63 bits."""
    text = " ".join(map(str, numbers)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little") >> 1
