"""Movement of weights in training, by which single weights are pruned."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from rubicc.training.network import Network
from rubicc.training.twin import Twin


class Movement:
    """How far every weight moves away from 0 in training: ``-weight x gradient``, summed over the steps.

    A weight whose steps lead towards 0 has a small or negative sum, however large it is, and goes first (Sanh
    et al., "Movement pruning: adaptive sparsity by fine-tuning", 2020). Gradients are those of the optimiser,
    after accumulation and clipping. Memory: one more float32 per weight.

    Attributes:
        sums: by name of parameter; tensors of two axes and more.
    """

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}

    @torch.no_grad()
    def add(self, network: nn.Module) -> None:
        """One step, before the optimiser takes it."""
        for name, weight in network.named_parameters():
            if weight.ndim < 2:
                continue
            if name not in self.sums:
                self.sums[name] = torch.zeros_like(weight)
            if weight.grad is not None:
                self.sums[name] -= weight * weight.grad

    def scores(self, twin: nn.Module) -> dict[str, np.ndarray]:
        """The sums by name of initializer of the graph that ``twin``, which was trained, writes back."""
        assert isinstance(twin, Twin)
        found: dict[str, np.ndarray] = {}
        for name, initializer in twin.names.items():
            moved = self.sums.get(f"{Network.INNER}{name}")
            if moved is not None:
                found[initializer] = moved.cpu().numpy()
                # Equal tensors of two modules are trained apart, and stored once where they stay equal.
                found.setdefault(twin.stored[name], found[initializer])
        return found
