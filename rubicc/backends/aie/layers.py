"""What is known of single layers of an emitted project, for the report."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from rubicc.backends.base import LayerProfile
from rubicc.evidence.report import NotMeasured
from rubicc.ir.graph import Graph


def profile_layers(folder: Path, feeds: Mapping[str, np.ndarray], reference: Graph | None) -> LayerProfile:
    """Nothing is measured by layer: the emulation knows no time, and its integers are proven equal."""
    missing = (
        NotMeasured("time by layer", "the emulation knows no cycles; plan.json holds estimates by layer"),
        NotMeasured("error by layer", "the emulated integers are those of the integer graph; see the proof"),
        NotMeasured(
            "the device", "no AI Engine and no Vitis here; README.md of the project says what to run"
        ),
    )
    return LayerProfile({}, {}, missing)
