"""A transformers model as the exporters want it: two tensors in, one tensor out. Imports torch."""

from __future__ import annotations

from typing import Any

import torch


class TokenModel(torch.nn.Module):
    """Token ids ``(N, T)`` and mask ``(N, T)`` (1 = token, 0 = padding) to one output tensor."""

    def __init__(self, model: Any, attribute: str) -> None:
        super().__init__()
        self.model = model
        self.attribute = attribute

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """The model's ``attribute`` (logits or hidden states)."""
        output = self.model(input_ids=input_ids, attention_mask=attention_mask, return_dict=True)
        return getattr(output, self.attribute)
