"""A float64 copy of a quantised module that rounds exactly where the exported graph rounds.

Quantised networks are chaotic: a difference of 1e-8 in a scale moves a value over a rounding edge, and 4-bit
activations turn that into tenths of a log-probability a few layers on. Comparing in float64 removes the
noise of float32 sums, but a plain ``module.double()`` recomputes every scale and decides again, in float64,
which integer each weight is; both differ from the float32 network that was exported. So the scales and the
integer weights of the float32 network are recorded and pinned in the copy.
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

    class PinnedScale(torch.nn.Module):
        def __init__(self, scale: torch.Tensor) -> None:
            super().__init__()
            self.register_buffer("scale", scale)

        def forward(self, *_: Any) -> Any:
            return self.scale

    class PinnedWeight(torch.nn.Module):
        """(weight, scale, zero point, bit width), whatever the input."""

        def __init__(self, made: tuple[torch.Tensor, ...]) -> None:
            super().__init__()
            value, scale, zero, bits = (part.double() for part in made)
            self.made = (((value / scale + zero).round() - zero) * scale, scale, zero, bits)

        def forward(self, *_: Any) -> Any:
            return self.made

    made: dict[str, tuple[torch.Tensor, ...]] = {}

    def recorder(path: str) -> Callable[[Any, Any, Any], None]:
        def record(_module: Any, _inputs: Any, outputs: Any) -> None:
            made[path] = tuple(part.detach().clone() for part in outputs)

        return record

    handles = [
        sub.register_forward_hook(recorder(path))
        for path, sub in module.named_modules()
        if type(sub).__module__.startswith("brevitas.core.quant") and hasattr(sub, "scaling_impl")
    ]
    try:
        with torch.no_grad():
            run(module)
    finally:
        for handle in handles:
            handle.remove()
    double = copy.deepcopy(module).double()
    for path, outputs in made.items():
        parent, _, name = path.rpartition(".")
        if parent.endswith("weight_quant"):
            setattr(double.get_submodule(parent), name, PinnedWeight(outputs))
        else:
            double.get_submodule(path).scaling_impl = PinnedScale(outputs[1].double())
    for sub in double.modules():
        if isinstance(
            getattr(sub, "eps", None), float
        ):  # a graph holds it in float32: 5e-8 of a norm's output
            sub.eps = torch.tensor(sub.eps, dtype=torch.float32).item()  # type: ignore[assignment]
    return double
