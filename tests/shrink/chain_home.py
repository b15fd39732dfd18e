"""A recipe of four steps, and what a run of it does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from rubicc import api
from rubicc.evidence import manifest
from rubicc.shrink.chain import Wish

CONFIG = {
    "blocks": [
        {"filters": 16, "kernel": 9, "stride": 3, "separable": False, "dropout": 0.0},
        {"filters": 16, "kernel": 5, "repeat": 2, "residual": True, "dropout": 0.0},
    ],
    "channels_per_group": 1,
}
RECIPE = """\
version: 1
model: model.pt
data: chunks
training: {batch: 2, steps: 4, warmup: 1, validate-every: 4, validation_items: 2, save_every: 0, augment: off}
steps:
  - skipclip
  - prune: {name: half, ratio: 50%, steps: 6}
  - quantize: {bits: 6, teacher: model.pt}
  - compile: {target: cpu, runtime: onnxruntime, tune: 0}
"""
FOLDERS = ["1-skipclip", "2-half", "3-quantize", "4-compile"]


def chunk_folder(folder: Path, seed: int = 0) -> None:
    """A bonito folder of noise."""
    rng = np.random.default_rng(seed)
    folder.mkdir(exist_ok=True)
    np.save(folder / "chunks.npy", rng.normal(size=(40, 150)).astype(np.float16))
    np.save(folder / "references.npy", rng.integers(1, 5, (40, 20)).astype(np.uint8))
    np.save(folder / "reference_lengths.npy", np.full(40, 10, np.uint16))


def rewrite(home: Path, old: str = "", new: str = "") -> Path:
    """The recipe with a text changed."""
    assert old in RECIPE
    (home / "chain.yaml").write_text(RECIPE.replace(old, new))
    return home / "chain.yaml"


def done(home: Path, **wish: Any) -> list[str]:
    """What a run does, or a dry run would: one word for each step."""
    out = api.chain(home / "chain.yaml", out=home / "out", wish=Wish(**wish))
    return [step.did for step in out.steps]


def plan(home: Path, **wish: Any) -> list[str]:
    return done(home, dry_run=True, **wish)


def hashes(out: Path) -> dict[str, Any]:
    """Everything that does not hold times, by step and file."""
    found = {name: manifest.read(out / name).to_dict() for name in FOLDERS}
    return found | {"chain": manifest.read(out).to_dict()}
