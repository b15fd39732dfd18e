"""Brevitas layers for the quantised form of the separable CTC networks."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from rubicc.models.separable import Layers

with warnings.catch_warnings():  # a transform used by neither of these lacks its optional kernels
    warnings.simplefilter("ignore", UserWarning)
    from brevitas.graph.calibrate import calibration_mode
    from brevitas.nn import QuantConv1d, QuantIdentity, QuantReLU

CALIBRATION_SAMPLES = 1200


class BrevitasLayers(Layers):
    """Per-tensor, symmetric, float-scaled integer quantisers: signed weights and identities, unsigned ReLU.

    These are Brevitas' defaults, which the published mixed-precision networks use; only the widths differ
    from layer to layer. A bias stays float.
    """

    def convolution(self, bits: int) -> Callable[..., nn.Module]:
        """See :class:`Layers`."""
        return partial(QuantConv1d, weight_bit_width=bits)

    def activation(self, bits: int) -> nn.Module:
        """ReLU with a ``bits``-wide unsigned result."""
        return QuantReLU(bit_width=bits)

    def quantiser(self, bits: int) -> nn.Module:
        """Signed ``bits``-wide quantiser."""
        return QuantIdentity(bit_width=bits)


def calibrate(model: nn.Module) -> None:
    """Set every activation scale from the values that seeded noise produces.

    A fresh Brevitas quantiser clips to [-1, 1] and keeps its scale out of the state dict until it has seen
    data: an untrained network would compute almost nothing and could not be saved and read back. Draws its
    noise from torch's global generator; BatchNorm statistics are not touched.
    """
    model.eval()
    with torch.no_grad(), calibration_mode(model):
        model(torch.randn(2, 1, CALIBRATION_SAMPLES))
