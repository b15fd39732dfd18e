"""``bench``: an artefact, or a model compiled for the purpose, measured on this machine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rubicc.driver.calling import runnable
from rubicc.errors import UsageError
from rubicc.settings import Settings
from rubicc.spec import TensorSpec

if TYPE_CHECKING:
    from rubicc.backends.cpu_gpu.bench import Bench


def bench_model(
    model: Any, settings: Settings, *, seconds: float, batch: int | None, length: int | None
) -> Bench:
    """Measure in the runtime asked for, or in every runtime of the artefact, taking turns.

    Args:
        seconds: of measuring, over all runtimes.
        batch, length: numbers for the first free dimension and the others; ``None`` = as recorded.

    Raises:
        UsageError: ``RUB-DRV-007`` the artefact's target cannot be measured here.
    """
    from rubicc.backends.cpu_gpu.bench import bench

    with runnable(model, settings) as artefact:
        if artefact.backend.folder != "cpu_gpu":
            raise UsageError("RUB-DRV-007", f"target {artefact.manifest.target} cannot be measured here")
        with artefact.session() as session:
            every, inputs = tuple(session.runtimes), session.inputs
        return bench(
            artefact.folder / artefact.backend.folder,
            _sizes(inputs, batch, length),
            seconds=seconds,
            runtimes=every if settings.runtime == "auto" else (settings.runtime,),
            threads=settings.threads,
        )


def _sizes(inputs: Sequence[TensorSpec], batch: int | None, length: int | None) -> list[dict[str, int]]:
    """The free dimensions that were given a number: axis 0 is the batch, later ones the length."""
    axes = {dim: axis for spec in inputs for axis, dim in enumerate(spec.shape) if isinstance(dim, str)}
    given = {dim: batch if axis == 0 else length for dim, axis in axes.items()}
    sizes = {dim: size for dim, size in given.items() if size is not None}
    return [sizes] if sizes else []
