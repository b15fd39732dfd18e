"""``bench``: an artefact, or a model compiled for the purpose, measured on this machine."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rubicc.driver.artefact import Artefact, is_artefact, open_artefact
from rubicc.errors import RubiccError, ToolMissing, Unsupported, UsageError, VerificationFailed
from rubicc.evidence.staging import scratch
from rubicc.settings import Settings
from rubicc.spec import TensorSpec

if TYPE_CHECKING:
    from rubicc.backends.cpu_gpu.bench import Bench


def bench_model(
    model: Any,
    settings: Settings,
    *,
    seconds: float,
    length: int | None,
    precisions: Sequence[str] = (),
    layouts: Sequence[str] = (),
    runtimes: Sequence[str] = (),
) -> Bench:
    """Measure alternatives in turns: the runtimes of an artefact, or of a model compiled in several forms.

    Args:
        seconds: of measuring, over all candidates.
        length: number for the free dimensions behind the first; ``None`` = as recorded.
        precisions, layouts: forms to compile a model in; empty = as the settings say.
        runtimes: empty or ``all`` = every runtime of each artefact.

    Raises:
        UsageError: ``RUB-DRV-007`` the artefact has one form or shape only, or runs in none of these.
        RubiccError: none of the forms could be compiled: the error of the first.
    """
    from rubicc.backends.cpu_gpu.bench import bench
    from rubicc.driver.benching import bench_sessions

    with _artefacts(model, settings, precisions, layouts) as (artefacts, left_out):
        accuracy = {
            (name, runtime): snr
            for name, artefact in artefacts.items()
            for runtime, snr in _accuracy(artefact).items()
        }
        first = next(iter(artefacts.values()))
        if first.backend.folder != "cpu_gpu":
            if length is not None or settings.batch is not None:
                hint = "leave --batch and --length out; --shapes sets them when the model is compiled"
                raise UsageError(
                    "RUB-DRV-007", "the artefact takes the shapes it was compiled for", hint=hint
                )
            found = bench_sessions(artefacts, runtimes or ("all",), seconds, accuracy)
            return replace(found, left_out={**found.left_out, **left_out})
        with first.session() as session:
            inputs = session.inputs
        found = bench(
            {name: artefact.folder / artefact.backend.folder for name, artefact in artefacts.items()},
            _sizes(inputs, settings.batch, length),
            seconds=seconds,
            runtimes=runtimes or ("all",),
            threads=settings.threads,
            streams=settings.streams or 1,
            accuracy=accuracy,
        )
        return replace(found, left_out=left_out)


@contextlib.contextmanager
def _artefacts(
    model: Any, settings: Settings, precisions: Sequence[str], layouts: Sequence[str]
) -> Iterator[tuple[dict[str, Artefact], dict[str, str]]]:
    """Artefacts by name, and the forms that could not be had."""
    from rubicc.driver.compile import compile_model

    if isinstance(model, str | Path) and is_artefact(model):
        if precisions or layouts:
            hint = "give the model, or compile each and compare the artefacts"
            raise UsageError("RUB-DRV-007", "an artefact has one precision and one layout", hint=hint)
        yield {"": open_artefact(model)}, {}
        return
    forms = [(p, lay) for p in precisions or [settings.precision] for lay in layouts or [settings.layout]]
    made: dict[str, Artefact] = {}
    failed: dict[str, RubiccError] = {}
    with scratch() as home:
        for number, (precision, layout) in enumerate(forms):
            name = " ".join([precision, *([layout] if layouts else [])]) if len(forms) > 1 else ""
            own = settings.with_values("bench", precision=precision, layout=layout)
            if len(forms) > 1:  # every alternative is measured anyway
                own = own.with_values("bench", tune=0.0)
            try:
                made[name] = compile_model(model, home / str(number), own)
            except (VerificationFailed, Unsupported, ToolMissing) as err:
                failed[name] = err
        if not made:
            raise next(iter(failed.values()))
        yield made, {name: err.what for name, err in failed.items()}


def _accuracy(artefact: Artefact) -> dict[str, float]:
    """SNR in dB of each runtime against the source, the worst of all proven inputs."""
    worst: dict[str, float] = {}
    for name, gap in artefact.report.gaps.items():
        runtime, _, against = name.rpartition(": ")[2].partition(" against ")
        if against == "the source":
            worst[runtime] = min(worst.get(runtime, math.inf), gap.snr_db)
    return worst


def _sizes(inputs: Sequence[TensorSpec], batch: int | None, length: int | None) -> list[dict[str, int]]:
    """The free dimensions that were given a number: axis 0 is the batch, later ones the length."""
    axes = {dim: axis for spec in inputs for axis, dim in enumerate(spec.shape) if isinstance(dim, str)}
    given = {dim: batch if axis == 0 else length for dim, axis in axes.items()}
    sizes = {dim: size for dim, size in given.items() if size is not None}
    return [sizes] if sizes else []
