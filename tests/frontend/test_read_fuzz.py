"""Randomly damaged files: the reader either reads them or raises one of our errors, nothing else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hostile_base import MGRU, mgru
from hostile_pt2 import doctored
from safetensors.torch import save_file
from taiyaki_writer import network, write

from rubicc.errors import RubiccError
from rubicc.frontend import read_model


def _torch(path: Path) -> Path:
    torch.save(mgru().state_dict(), path / "m.pt")
    return path / "m.pt"


def _legacy(path: Path) -> Path:
    torch.save(mgru().state_dict(), path / "m.pt", _use_new_zipfile_serialization=False)
    return path / "m.pt"


def _safetensors(path: Path) -> Path:
    save_file(mgru().state_dict(), path / "m.safetensors")
    return path / "m.safetensors"


def _pt2(path: Path) -> Path:
    return doctored()(path, path)


def _taiyaki(path: Path) -> Path:
    return write(path / "m.checkpoint", network())


MAKERS: dict[str, tuple[Callable[[Path], Path], dict[str, object], int]] = {
    "pt": (_torch, MGRU, 150),
    "legacy": (_legacy, MGRU, 150),
    "safetensors": (_safetensors, MGRU, 150),
    "pt2": (_pt2, {}, 100),
    "taiyaki": (_taiyaki, {}, 100),
}


@pytest.mark.parametrize("form", MAKERS)
def test_damaged_files(form: str, tmp_path: Path) -> None:
    make, options, rounds = MAKERS[form]
    path = make(tmp_path)
    good = np.frombuffer(path.read_bytes(), np.uint8)
    rng = np.random.default_rng(20)
    refused = 0
    for round_ in range(rounds):
        data = good.copy()
        # Structure sits at both ends and tensors in the middle; aim most damage at the structure.
        span = len(data) if round_ % 4 == 0 else min(2500, len(data))
        places = rng.integers(0, span, size=rng.integers(1, 6))
        places = np.where(rng.random(len(places)) < 0.5, places, len(data) - 1 - places)
        data[places] = rng.integers(0, 256, size=len(places))
        if round_ % 5 == 0:
            data = data[: rng.integers(1, len(data))]
        path.write_bytes(data.tobytes())
        try:
            read_model(path, **options)  # type: ignore[arg-type]
        except RubiccError as err:
            refused += 1
            assert err.code.startswith("RUB-")
    assert refused > rounds // 5
