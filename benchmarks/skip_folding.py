"""Folding skips against removing them: the loss at that moment, and after equal training.

    python benchmarks/skip_folding.py [FOLDER]

A small residual network whose four identity skips can be folded exactly (each stands beside one convolution
and its norm) learns from the embedded demo network on simulated reads. Then its skips are kept, removed or
folded, and all three are trained the same number of steps on the same items. FOLDER keeps what is done; a
second call goes on.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

import rubicc
from rubicc.evidence import change
from rubicc.evidence.change import ChangeReport
from rubicc.ir.io import save_graph
from rubicc.models import registry
from rubicc.shrink.skip_schedule import SkipSettings
from rubicc.shrink.student import lowered_module
from rubicc.training.settings import TrainSettings

TEACHER = Path(rubicc.__file__).parent / "data" / "demo_ctc.pt"
SEEDS = (0, 1, 2)
BLOCKS, WIDTH = 4, 32
TRAINING = TrainSettings(
    batch=4, chunk=900, warmup=20, validate_every=10_000, validation_items=16, save_every=600
)
FIRST, LATER = 400, 150
ARMS = ("kept", "removed", "folded")


class Block(nn.Module):
    """A convolution with its norm beside an identity; an activation behind the sum."""

    def __init__(self, width: int, taps: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(width, width, taps, padding=taps // 2, bias=False)
        self.norm = nn.BatchNorm1d(width)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, C, T)`` as it was."""
        return torch.relu(self.norm(self.conv(x)) + x)


class Foldable(nn.Module):
    """``(N, 1, T)`` to ``(T / 3, N, 5)`` log-probabilities, as the demo network gives them."""

    def __init__(self, width: int = WIDTH, blocks: int = BLOCKS) -> None:
        super().__init__()
        self.stem = nn.Conv1d(1, width, 15, stride=3, padding=7)
        self.blocks = nn.Sequential(*(Block(width, 9) for _ in range(blocks)))
        self.head = nn.Conv1d(width, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return self.head(self.blocks(torch.relu(self.stem(x)))).permute(2, 0, 1).log_softmax(-1)


@dataclass(frozen=True)
class Row:
    """Losses on the held-out items of one seed and arm.

    Attributes:
        before: of the trained network with its skips.
        at: when the skips have just gone.
        after: after the later training.
    """

    before: float
    at: float
    after: float


def main(folder: Path) -> None:
    """Run what is not done, and print the table."""
    rows: dict[str, list[Row]] = {arm: [] for arm in ARMS}
    for seed in SEEDS:
        for arm, row in study(folder / f"seed{seed}", seed).items():
            rows[arm].append(row)
            print(f"seed {seed} {arm}: {row.before:.6f} {row.at:.6f} {row.after:.6f}", file=sys.stderr)
    print("\n".join(table(rows)))


def study(
    folder: Path, seed: int, training: TrainSettings = TRAINING, steps: tuple[int, int] = (FIRST, LATER)
) -> dict[str, Row]:
    """All arms of one seed."""
    folder.mkdir(parents=True, exist_ok=True)
    first, later = (replace(training, steps=count, seed=seed + k) for k, count in enumerate(steps))
    if not (folder / "base").exists():
        torch.manual_seed(seed)
        meta = replace(registry.get("demo-ctc").meta(), arch="custom", config={})
        save_graph(lowered_module(Foldable().eval(), meta, "foldable"), folder / "foldable.onnx")
        rubicc.train(folder / "foldable.onnx", out=folder / "base", settings=first, **given())
    return {arm: _arm(folder, arm, later) for arm in ARMS}


def given() -> dict[str, object]:
    """Data and teacher of every run."""
    return {"data": ["simulated"], "teacher": TEACHER}


def _arm(folder: Path, arm: str, training: TrainSettings) -> Row:
    base, trained, untrained = folder / "base", folder / arm, folder / f"{arm}-untrained"
    if arm == "kept":
        if not trained.exists():
            rubicc.train(base, out=trained, settings=training, **given())
        found = change.read(trained)
        return Row(loss(found)[0], loss(found)[0], loss(found)[1])
    all_at_once = SkipSettings(stride=BLOCKS, fold=arm == "folded")
    for out, settings in ((untrained, replace(all_at_once, train=False)), (trained, all_at_once)):
        if not out.exists():
            rubicc.skipclip(base, out=out, settings=settings, training=training, **given())
    before, at = loss(change.read(untrained))
    return Row(before, at, loss(change.read(trained))[1])


def loss(report: ChangeReport) -> tuple[float, float]:
    """Before and after, on the held-out items."""
    figure = report.figure("loss")
    assert figure is not None and figure.before is not None and figure.after is not None
    return figure.before, figure.after


def table(rows: Mapping[str, Sequence[Row]]) -> list[str]:
    """Markdown: means over seeds with the least and the most."""
    words = {"kept": "skips kept", "removed": "skips removed", "folded": "skips folded"}
    lines = ["| | change of the loss at that moment | loss after training |", "|---|---|---|"]
    for arm, found in rows.items():
        at = _spread([row.at - row.before for row in found], "+.2g")
        lines.append(f"| {words[arm]} | {at} | {_spread([row.after for row in found], '.4f')} |")
    return lines


def _spread(values: Sequence[float], form: str) -> str:
    mean = sum(values) / len(values)
    return f"{mean:{form}} ({min(values):{form}} to {max(values):{form}})"


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as home:
            main(Path(home))
