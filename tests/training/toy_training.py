"""A tiny training in a process of its own (``python toy_training.py FOLDER KIND``), to kill and to share."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from rubicc.models import registry
from rubicc.spec import ModelMeta
from rubicc.training.data.augment import Augment
from rubicc.training.data.simulated import SimulatedSet
from rubicc.training.history import History, StepRow
from rubicc.training.lessons import Lesson
from rubicc.training.loop import Silent, fit
from rubicc.training.network import Network
from rubicc.training.objective import Objective
from rubicc.training.scoring import validation_items
from rubicc.training.settings import TrainSettings

META: ModelMeta = replace(registry.get("demo-ctc").meta(), arch="custom", config={})
SETTINGS = TrainSettings(
    steps=14,
    batch=4,
    chunk=150,
    lr=0.01,
    warmup=3,
    ema=0.9,
    validate_every=4,
    validation_items=4,
    save_every=0.0,
    augment=Augment(gain=0.1, noise=0.1),
    device="cpu",
)


class Toy(nn.Module):
    """Two convolutions; with batch norm and dropout, or with neither of the two."""

    def __init__(self, plain: bool = False) -> None:
        super().__init__()
        middle = [] if plain else [nn.BatchNorm1d(8), nn.Dropout(0.2)]
        self.body = nn.Sequential(nn.Conv1d(1, 8, 9, 3, 4), *middle, nn.Tanh(), nn.Conv1d(8, 5, 1))

    def forward(self, x: Tensor) -> Tensor:
        return torch.log_softmax(self.body(x).permute(2, 0, 1), 2)


class Slow(Silent):
    """Gives a killer time to hit between any two steps."""

    def step(self, row: StepRow, total: int) -> None:
        time.sleep(0.05)


def toy(plain: bool = False, seed: int = 0) -> Network:
    torch.manual_seed(seed)
    return Network(Toy(plain), META)


def run(
    folder: Path, settings: TrainSettings = SETTINGS, *, network: Network | None = None, slow: bool = False
) -> History:
    objective = Objective.of(META)
    data = SimulatedSet(objective, settings.chunk, settings.augment, bases=60)
    items = validation_items(data, settings.validation_items)
    lesson = Lesson(objective, settings)
    watcher = Slow() if slow else None
    return fit(network or toy(), data, lesson, settings, state=folder, validation=items, watcher=watcher)


def curve(history: History) -> list[float]:
    return [row.loss for row in history.steps]


def main() -> None:
    folder, kind = Path(sys.argv[1]), sys.argv[2]
    torch.set_num_threads(1)
    if kind == "killed":
        run(folder, slow=True)
        return
    settings = replace(SETTINGS, steps=5, batch=int(sys.argv[3]), accumulate=int(sys.argv[4]), ema=0.0)
    network = toy(plain=True)
    history = run(folder, settings, network=network)
    if history.validations:
        found = {n: v.numpy().tolist() for n, v in network.inner.state_dict().items()}
        (folder / f"weights-{kind}.json").write_text(json.dumps([curve(history), found]))


if __name__ == "__main__":
    np.seterr(all="raise")
    main()
