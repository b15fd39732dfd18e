"""Learning rate over a run, and which tensors the optimiser treats how."""

from __future__ import annotations

import math

import torch
from torch import nn

from rubicc.training.settings import TrainSettings


def learning_rate(step: int, total: int, peak: float, warmup: int, end: float = 0.01) -> float:
    """Linear warm-up over ``warmup`` steps, then cosine to ``end * peak``."""
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = (step - warmup) / max(total - warmup, 1)
    return peak * (end + (1 - end) * 0.5 * (1 + math.cos(math.pi * progress)))


def optimiser(network: nn.Module, settings: TrainSettings) -> torch.optim.AdamW:
    """AdamW over what can be trained; tensors of rank below 2 do not decay."""
    learned = [value for value in network.parameters() if value.requires_grad]
    groups = [
        {"params": [value for value in learned if value.ndim >= 2], "weight_decay": settings.weight_decay},
        {"params": [value for value in learned if value.ndim < 2], "weight_decay": 0.0},
    ]
    betas = (settings.beta1, settings.beta2)
    return torch.optim.AdamW([g for g in groups if g["params"]], settings.lr, betas, settings.epsilon)


def set_rate(optimiser: torch.optim.Optimizer, rate: float) -> None:
    """The same rate for every group."""
    for group in optimiser.param_groups:
        group["lr"] = rate
