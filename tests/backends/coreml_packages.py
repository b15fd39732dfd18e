"""Packages for the interpreter's tests: converted by coremltools, built with its MIL builder."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rubicc.backends.coreml import tools
from rubicc.backends.coreml.run.load import load
from rubicc.backends.coreml.run.program import Package


def converted(
    folder: Path,
    module: torch.nn.Module,
    given: Sequence[torch.Tensor],
    *,
    target: str = "iOS17",
    precision: str = "fp32",
    script: bool = False,
    shapes: Sequence[Any] | None = None,
    states: Mapping[str, tuple[int, ...]] | None = None,
    change: Callable[[Any, Any], Any] = lambda ct, model: model,
) -> Package:
    """A module through coremltools' torch front end, saved, read back by the interpreter.

    Inputs are named ``x0``, ``x1``, ... and are float32 or int32. ``change(ct, model)`` works on the
    converted model before it is saved.
    """
    path = folder / "net.mlpackage"
    ct = tools.coremltools()
    module = module.eval()
    with tools.quiet():
        held = (
            torch.jit.script(module) if script else torch.jit.trace(module, tuple(given), check_trace=False)
        )
        inputs = [
            ct.TensorType(
                name=f"x{place}",
                shape=tensor.shape if shapes is None else shapes[place],
                dtype=np.float32 if tensor.is_floating_point() else np.int32,
            )
            for place, tensor in enumerate(given)
        ]
        more = {}
        if states:
            more["states"] = [
                ct.StateType(wrapped_type=ct.TensorType(shape=shape, dtype=np.float16), name=name)
                for name, shape in states.items()
            ]
        model = ct.convert(
            held,
            convert_to="mlprogram",
            inputs=inputs,
            minimum_deployment_target=getattr(ct.target, target),
            compute_precision=ct.precision.FLOAT32 if precision == "fp32" else ct.precision.FLOAT16,
            skip_model_load=True,
            **more,
        )
        change(ct, model).save(str(path))
    return load(path)


def feeds(given: Sequence[torch.Tensor]) -> dict[str, np.ndarray]:
    """Feeds of a package made by :func:`converted`."""
    return {f"x{place}": tensor.numpy() for place, tensor in enumerate(given)}


def ran(
    package: Package, given: Sequence[torch.Tensor], semantics: str = "fp32", **options: Any
) -> list[Any]:
    """Outputs in the program's order."""
    made = package.run(feeds(given), semantics=semantics, **options)
    return [made[name] for name in package.main.block.outputs]


def flat(made: Any) -> list[np.ndarray]:
    """Outputs of a module, nested or not, as arrays."""
    if isinstance(made, torch.Tensor):
        return [made.detach().numpy()]
    return [array for item in made for array in flat(item)]


def snr(got: np.ndarray, want: np.ndarray) -> float:
    """Signal-to-noise ratio in dB; of whole numbers infinite or 0."""
    assert got.shape == want.shape, f"{got.shape} for {want.shape}"
    if want.dtype.kind != "f":
        return math.inf if np.array_equal(got, want) else 0.0
    noise = float(np.sum((got.astype(np.float64) - want) ** 2))
    signal = float(np.sum(want.astype(np.float64) ** 2))
    return math.inf if noise == 0 else 10 * math.log10(max(signal, 1e-300) / noise)


def built(
    folder: Path, program: Any, target: str = "iOS17", change: Callable[[Any], None] | None = None
) -> Path:
    """A program of the MIL builder saved as it stands: no pass of coremltools runs over it.

    ``change`` works on the message of the model file before it is written.
    """
    ct = tools.coremltools()
    with tools.quiet():
        model = ct.convert(
            program,
            convert_to="mlprogram",
            minimum_deployment_target=getattr(ct.target, target),
            compute_precision=ct.precision.FLOAT32,
            pass_pipeline=ct.PassPipeline.EMPTY,
            skip_model_load=True,
        )
        if change is not None:
            change(model._spec)
        model.save(str(folder / "net.mlpackage"))
    return folder / "net.mlpackage"
