"""Packages of coremltools' own torch front end, read from disk and run, give PyTorch's numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from coreml_networks import CASES
from coreml_packages import converted, flat, ran, snr

STRICT = 90.0
# Networks whose fp16 form is checked in every run; the others' are marked slow.
HALF = ("conv1d", "lstm-two-ways", "attention", "zoo-mgru", "zoo-dna-bert")
# Much like others that are checked in every run.
SLOW = ("conv3d", "gru-two-ways", "lstm-projected-input", "unet", "zoo-rubicall-fp")


def compared(name: str, folder: Path, precision: str) -> list[float]:
    """Signal-to-noise ratio of every output against PyTorch in float32."""
    case = CASES[name]
    torch.manual_seed(11)
    module, given = case.build().eval(), case.inputs()
    package = converted(folder, module, given, target=case.target, precision=precision, script=case.script)
    with torch.no_grad():
        want = flat(module(*given))
    got = ran(package, given, precision)
    assert len(got) == len(want)
    return [snr(np.asarray(one), other) for one, other in zip(got, want, strict=True)]


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in CASES]
)
def test_a_package_of_the_torch_front_end_gives_torchs_numbers(name: str, tmp_path: Path) -> None:
    assert min(compared(name, tmp_path, "fp32")) >= STRICT


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in HALF else pytest.mark.slow)
        for name, case in CASES.items()
        if case.half is not None
    ],
)
def test_a_half_precision_package_loses_what_fp16_loses(name: str, tmp_path: Path) -> None:
    found = min(compared(name, tmp_path, "fp16"))
    least = CASES[name].half
    assert least is not None
    # Exactly equal would mean that nothing was rounded at all.
    assert least <= found < 110.0


def test_there_are_as_many_networks_as_promised() -> None:
    assert len(CASES) >= 30 and len(CASES) - len(SLOW) >= 25
