"""What quantisation sees of the values in a network: ``--calib``, or simulated signal (a Decision)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rubicc.driver.inputs import ProofInputs, digest, from_files, signal_shape, simulated
from rubicc.evidence.decision import Decision
from rubicc.frontend.feeds import Feeds
from rubicc.ir.graph import spec_of

if TYPE_CHECKING:
    from rubicc.driver.compile import Build

QUANTISING = ("int8", "mixed", "auto")
CHUNKS = 16
SEED_OFFSET = 1000  # the proof's simulated signal must not be the one that was calibrated on


@dataclass(frozen=True)
class Calibration:
    """Inputs for calibration; empty where nothing is quantised after training.

    Attributes:
        sha256: of the arrays as they are used.
        decisions: where they had to be made up.
    """

    feeds: tuple[Feeds, ...] = ()
    sha256: str = ""
    decisions: tuple[Decision, ...] = ()


def calibration_of(build: Build, inputs: ProofInputs) -> Calibration:
    """Calibration inputs of a compilation.

    Raises:
        UsageError: ``RUB-DRV-006`` the calibration data cannot be read.
    """
    settings, meta = build.settings, build.graph.meta
    if settings.precision not in QUANTISING or build.quantised:
        return Calibration()
    specs = [spec_of(value) for value in build.graph.inputs]
    if settings.calib is not None:
        feeds = from_files(settings.calib, meta, specs, CHUNKS)
        return Calibration((feeds,), digest(feeds))
    if meta is not None and meta.task == "basecalling" and meta.signal is not None:
        rows, length = signal_shape(meta, specs, CHUNKS)
        feeds = {specs[0].name: simulated(meta, length, settings.seed + SEED_OFFSET, rows)}
        what = f"ranges of values taken from {CHUNKS} chunks of simulated signal"
    else:
        feeds = next(iter(inputs.cases.values()))
        what = "ranges of values taken from the inputs of the proof"
    decision = Decision(
        "RUB-DRV-D03", build.source.name, what, "quantisation needs data and no --calib was given"
    )
    return Calibration((feeds,), digest(feeds), (decision,))
