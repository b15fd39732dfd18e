"""A float64 copy of a quantised module that rounds exactly where the exported graph rounds.

Quantised networks are chaotic: a difference of 1e-8 in a scale moves a value over a rounding edge, and 4-bit
activations turn that into tenths of a log-probability a few layers on. Comparing in float64 removes the
noise of float32 sums, but a plain ``module.double()`` recomputes every scale in float64, and these differ
from the float32 scales that were exported. So the scales are recorded in float32 and pinned in the copy.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def pinned_double(module: torch.nn.Module, run: Callable[[torch.nn.Module], Any]) -> torch.nn.Module:
    """A float64 copy of ``module`` whose Brevitas quantisers use the float32 scales of ``module`` itself.

    Args:
        module: in eval mode; scales of its quantisers must not depend on the input.
        run: runs a module on example inputs, so that every quantiser computes its scale once.
    """
    import torch

    class Pinned(torch.nn.Module):
        def __init__(self, scale: torch.Tensor) -> None:
            super().__init__()
            self.register_buffer("scale", scale)

        def forward(self, *_: Any) -> Any:
            return self.scale

    scales: dict[str, torch.Tensor] = {}

    def recorder(path: str) -> Callable[[Any, Any, Any], None]:
        def record(_module: Any, _inputs: Any, outputs: Any) -> None:
            scales[path] = outputs[1].detach().clone()

        return record

    quantisers = {
        path: sub
        for path, sub in module.named_modules()
        if type(sub).__module__.startswith("brevitas.core.quant") and hasattr(sub, "scaling_impl")
    }
    handles = [sub.register_forward_hook(recorder(path)) for path, sub in quantisers.items()]
    try:
        with torch.no_grad():
            run(module)
    finally:
        for handle in handles:
            handle.remove()
    double = copy.deepcopy(module).double()
    for path, scale in scales.items():
        double.get_submodule(path).scaling_impl = Pinned(scale.double())
    return double
