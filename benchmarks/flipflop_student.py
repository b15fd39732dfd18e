"""Convolutional students of flip-flop basecallers: ``python:flipflop_student:with_skips``, ``without_skips``.

Five residual blocks of two separable convolutions, width 96, stride 4, a flip-flop head: the network of the
skip-removal experiments. Weights are random from seed 0.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rubicc.models import registry
from rubicc.models.ctc_config import BlockSpec, CtcConfig
from rubicc.models.separable import Block, Layers, initialise
from rubicc.spec import ModelMeta


class Student(nn.Module):
    """``(N, 1, T)`` to ``(T / 4, N, 40)`` transition scores."""

    def __init__(self, residual: bool, width: int = 96) -> None:
        super().__init__()
        stem = BlockSpec(width, 19, stride=4, separable=False, dropout=0.0)
        rest = [BlockSpec(width, 9 + 6 * (i % 3), repeat=2, residual=residual, dropout=0.0) for i in range(5)]
        config = CtcConfig(blocks=(stem, *rest), channels_per_group=1)
        layers, before = Layers("relu"), 1
        self.blocks = nn.ModuleList()
        for spec in config.blocks:
            self.blocks.append(Block(layers, spec, before, config))
            before = spec.filters
        self.head = layers.conv(width, 40, 1, bias=True, bits=8)
        initialise(self)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        for block in self.blocks:
            x = block(x)
        return 5.0 * torch.tanh(self.head(x).permute(2, 0, 1))


def meta() -> ModelMeta:
    """That of the teacher, whose frames and transitions are the student's."""
    from dataclasses import replace

    return replace(registry.get("taiyaki-mgru").meta(), arch="custom", config={})


def with_skips() -> tuple[nn.Module, ModelMeta]:
    """160,264 parameters."""
    torch.manual_seed(0)
    return Student(residual=True).eval(), meta()


def without_skips() -> tuple[nn.Module, ModelMeta]:
    """The same without its skips."""
    torch.manual_seed(0)
    return Student(residual=False).eval(), meta()
