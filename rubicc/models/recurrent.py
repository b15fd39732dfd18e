"""Recurrent basecallers: taiyaki's flip-flop GRU network and bonito's CTC-CRF family.

Both run each recurrent layer in one direction, turning the sequence around where it runs backwards. Export
them with ``torch.onnx.export(..., dynamo=False)``: torch 2.13's other exporter bakes the length into them.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from rubicc.models.recurrent_config import CrfConfig, CrfConv, MgruConfig

ACTIVATIONS: dict[str | None, type[nn.Module]] = {
    None: nn.Identity,
    "swish": nn.SiLU,
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
}


class TaiyakiMgru(nn.Module):
    """Signal to flip-flop transition scores.

    Input ``(N, 1, T)`` med/MAD signal, any ``T >= 1``; output ``(ceil(T / stride), N, 40)`` scores in
    ``[-scale, scale]``. With states 0-3 flip ACGT and 4-7 flop ACGT, column ``8 b + s`` goes from state ``s``
    to flip ``b``, ``32 + b`` from flip to flop ``b``, ``36 + b`` stays in flop ``b``.
    """

    def __init__(self, config: MgruConfig) -> None:
        super().__init__()
        self.config = config
        self.conv = nn.Conv1d(1, config.size, config.kernel, config.stride, padding=config.kernel // 2)
        self.gru = nn.ModuleList(nn.GRU(config.size, config.size) for _ in range(config.layers))
        self.head = nn.Linear(config.size, config.transitions)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        y = torch.tanh(self.conv(x)).permute(2, 0, 1)
        for index, gru in enumerate(self.gru):
            y = _directed(gru, y, backwards=index % 2 == 0)
        return self.config.scale * torch.tanh(self.head(y))


class Clamp(nn.Module):
    """Limits values to ``[low, high]``."""

    def __init__(self, limits: tuple[float, ...]) -> None:
        super().__init__()
        self.low, self.high = limits

    def forward(self, x: Tensor) -> Tensor:
        """Any shape."""
        return torch.clamp(x, self.low, self.high)


class CrfStem(nn.Module):
    """Convolution, norm, activation, clamp."""

    def __init__(self, in_channels: int, spec: CrfConv) -> None:
        super().__init__()
        self.conv = nn.Conv1d(
            in_channels, spec.filters, spec.kernel, spec.stride, padding=spec.kernel // 2, bias=spec.bias
        )
        self.norm = nn.Identity() if spec.norm is None else nn.BatchNorm1d(spec.filters, eps=spec.norm_eps)
        self.activation = ACTIVATIONS[spec.activation]()
        self.clamp = nn.Identity() if spec.clamp is None else Clamp(spec.clamp)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C_in, T) to (N, filters, ceil(T / stride))."""
        return self.clamp(self.activation(self.norm(self.conv(x))))


class BonitoCrf(nn.Module):
    """Signal to CTC-CRF transition scores, before global normalisation.

    Input ``(N, 1, T)`` quantile-scaled signal, any ``T >= 1``; output ``(ceil(T / stride), N, columns)``.
    Column ``state * (n + 1) + k``: ``k = 0`` stays in ``state`` (blank), ``k >= 1`` enters it, dropping base
    ``k - 1`` of the previous state.
    """

    def __init__(self, config: CrfConfig) -> None:
        super().__init__()
        self.config = config
        self.stem = nn.ModuleList()
        width = 1
        for conv in config.convs:
            self.stem.append(CrfStem(width, conv))
            width = conv.filters
        self.lstm = nn.ModuleList()
        for spec in config.lstms:
            self.lstm.append(nn.LSTM(width, spec.size, bias=spec.bias))
            width = spec.size
        self.bottleneck: nn.Module = nn.Identity()
        if config.bottleneck is not None:
            self.bottleneck = nn.Linear(width, config.bottleneck, bias=config.bottleneck_bias)
            width = config.bottleneck
        self.head = nn.Linear(width, config.head_width, bias=config.head_bias)
        self.activation = ACTIVATIONS[config.head_activation]()
        self.clamp = nn.Identity() if config.clamp is None else Clamp(config.clamp)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        for conv in self.stem:
            x = conv(x)
        y = x.permute(2, 0, 1)
        for lstm, spec in zip(self.lstm, self.config.lstms, strict=True):
            y = _directed(lstm, y, backwards=spec.reverse)
        scores = self.activation(self.head(self.bottleneck(y)))
        if self.config.scale is not None:
            scores = scores * self.config.scale
        if self.config.blank_score is not None and self.config.expand_blanks:
            by_state = scores.unflatten(-1, (-1, self.config.bases))
            scores = functional.pad(by_state, (1, 0), value=self.config.blank_score).flatten(-2)
        return self.clamp(scores)


def _directed(layer: nn.Module, x: Tensor, *, backwards: bool) -> Tensor:
    """Run a recurrent layer over (T, N, C) in one direction."""
    if not backwards:
        return layer(x)[0]
    return layer(x.flip(0))[0].flip(0)


def build_mgru(config: MgruConfig) -> TaiyakiMgru:
    """An initialised network; draws from torch's global generator."""
    model = TaiyakiMgru(config)
    initialise(model)
    return model


def build_crf(config: CrfConfig) -> BonitoCrf:
    """An initialised network; draws from torch's global generator."""
    model = BonitoCrf(config)
    initialise(model)
    return model


def initialise(model: nn.Module) -> None:
    """Orthogonal recurrent weights, variance-keeping others, and no second recurrent bias.

    Both families train with the hidden-state bias held at zero, so it starts there.
    """
    for module in model.modules():
        if isinstance(module, (nn.Conv1d, nn.Linear)):
            nn.init.kaiming_normal_(module.weight, nonlinearity="linear")
        elif isinstance(module, (nn.GRU, nn.LSTM)):
            for name, value in module.named_parameters():
                if name.startswith("weight"):
                    for gate in value.data.split(module.hidden_size):
                        nn.init.orthogonal_(gate)
                elif name.startswith("bias_ih"):
                    nn.init.trunc_normal_(value, std=0.5, a=-1.0, b=1.0)
                else:
                    nn.init.zeros_(value)
