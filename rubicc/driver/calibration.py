"""What quantisation sees of the values in a network: ``--calib``, or simulated signal (a Decision)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rubicc.driver.bounded import any_batch, split_items
from rubicc.driver.inputs import ProofInputs, digest, from_files, signal_shape, simulated
from rubicc.evidence.decision import Decision
from rubicc.frontend.feeds import Feeds
from rubicc.ir.graph import spec_of

if TYPE_CHECKING:
    from rubicc.backends.base import Backend
    from rubicc.driver.compile import Build
    from rubicc.settings import Settings
    from rubicc.shapes import Shapes

QUANTISING = ("int8", "mixed", "auto")  # where a target says nothing else
CHUNKS = 16
SEED_OFFSET = 1000  # the proof's simulated signal must not be the one that was calibrated on


def quantising(backend: Backend) -> tuple[str, ...]:
    """Precisions of a target that need to see data."""
    return getattr(backend, "calibrated", QUANTISING)


def looks_at_data(settings: Settings, backend: Backend) -> bool:
    """Whether a compilation sees data: for its precision, or because a pass is to round for products."""
    optimised = any(options.get("rounding") == "optimised" for options in settings.passes.values())
    return optimised or settings.precision in quantising(backend)


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
    own = build.quantised and not getattr(build.backend, "requantises", False)
    if not looks_at_data(settings, build.backend) or own:
        return Calibration()
    shapes = build.shapes
    specs = [spec_of(v) for v in build.graph.inputs] if shapes is None else any_batch(shapes)
    if settings.calib is not None:
        feeds = from_files(settings.calib, meta, specs, CHUNKS)
        return Calibration(_items(feeds, shapes), digest(feeds))
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
    return Calibration(_items(feeds, shapes), digest(feeds), (decision,))


def _items(feeds: Feeds, shapes: Shapes | None) -> tuple[Feeds, ...]:
    """The feeds, cut into items of the only shape where the target has one."""
    return (feeds,) if shapes is None else split_items(feeds, shapes)
