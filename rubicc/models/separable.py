"""The time-channel separable CTC network: one class, driven by a table, serves six entries of the zoo."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from rubicc.models.ctc_config import BlockSpec, CtcConfig

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {"relu": nn.ReLU, "swish": nn.SiLU, "tanh": nn.Tanh}


class Layers:
    """Makes the layers whose form differs between the float and the quantised network.

    This one makes plain torch layers and ignores bit widths.
    """

    def __init__(self, activation: str) -> None:
        self._activation = ACTIVATIONS[activation]

    def conv(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        *,
        stride: int = 1,
        dilation: int = 1,
        groups: int = 1,
        bias: bool = False,
        bits: int,
    ) -> nn.Module:
        """Convolution over (N, C, T), zero-padded so that frames = ceil(samples / stride)."""
        return self.convolution(bits)(
            in_channels,
            out_channels,
            kernel,
            stride=stride,
            dilation=dilation,
            groups=groups,
            bias=bias,
            padding=kernel // 2 * dilation,
        )

    def convolution(self, bits: int) -> Callable[..., nn.Module]:
        """What makes a convolution with ``bits``-wide weights from torch's arguments."""
        return nn.Conv1d

    def activation(self, bits: int) -> nn.Module:
        """The network's non-linearity."""
        return self._activation()

    def quantiser(self, bits: int) -> nn.Module:
        """Quantiser of a value that no non-linearity follows; identity in the float form."""
        return nn.Identity()


class Cell(nn.Module):
    """(Grouped convolution, quantiser, pointwise convolution) or one dense convolution, then BatchNorm."""

    def __init__(self, layers: Layers, spec: BlockSpec, in_channels: int, config: CtcConfig) -> None:
        super().__init__()
        bits = spec.weight_bits
        over_time = partial(
            layers.conv,
            in_channels,
            kernel=spec.kernel,
            stride=spec.stride,
            dilation=spec.dilation,
            bits=bits,
        )
        self.conv: nn.Module
        if spec.separable:
            groups = in_channels // config.channels_per_group
            self.conv = nn.Sequential(
                OrderedDict(
                    grouped=over_time(in_channels, groups=groups),
                    quantiser=layers.quantiser(bits),
                    pointwise=layers.conv(in_channels, spec.filters, 1, bits=bits),
                )
            )
        else:
            self.conv = over_time(spec.filters)
        self.norm = nn.BatchNorm1d(spec.filters, eps=config.norm_eps)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C_in, T) to (N, filters, ceil(T / stride))."""
        return self.norm(self.conv(x))


class Skip(nn.Module):
    """Pointwise convolution + BatchNorm around a block."""

    def __init__(self, layers: Layers, spec: BlockSpec, in_channels: int, config: CtcConfig) -> None:
        super().__init__()
        self.conv = layers.conv(in_channels, spec.filters, 1, bits=spec.weight_bits)
        self.norm = nn.BatchNorm1d(spec.filters, eps=config.norm_eps)
        self.quantiser = layers.quantiser(spec.weight_bits)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C_in, T) to (N, filters, T)."""
        return self.quantiser(self.norm(self.conv(x)))


class Block(nn.Module):
    """``repeat`` cells with an activation after each; the skip joins before the last activation."""

    def __init__(self, layers: Layers, spec: BlockSpec, in_channels: int, config: CtcConfig) -> None:
        super().__init__()
        self.cells = nn.ModuleList()
        self.activations = nn.ModuleList()
        width = in_channels
        for _ in range(spec.repeat):
            self.cells.append(Cell(layers, spec, width, config))
            self.activations.append(layers.activation(spec.act_bits))
            width = spec.filters
        self.skip = Skip(layers, spec, in_channels, config) if spec.residual else None
        self.dropout = nn.Dropout(spec.dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C_in, T) to (N, filters, ceil(T / stride))."""
        y = x
        last = len(self.cells) - 1
        for index, (cell, activation) in enumerate(zip(self.cells, self.activations, strict=True)):
            y = cell(y)
            if index == last and self.skip is not None:
                y = y + self.skip(x)
            y = self.dropout(activation(y))
        return y


class SeparableCtc(nn.Module):
    """Signal to CTC log-probabilities.

    Input ``(N, 1, T)`` normalised signal, any ``T >= 1``; output ``(ceil(T / stride), N, len(alphabet))``
    log-probabilities, blank first.
    """

    def __init__(self, config: CtcConfig) -> None:
        super().__init__()
        self.config = config
        layers = _layers(config)
        self.input_quantiser = layers.quantiser(config.input_bits)
        self.blocks = nn.ModuleList()
        width = 1
        for spec in config.blocks:
            self.blocks.append(Block(layers, spec, width, config))
            width = spec.filters
        self.head = layers.conv(width, len(config.alphabet), 1, bias=True, bits=config.head_bits)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        y = self.input_quantiser(x)
        for block in self.blocks:
            y = block(y)
        return torch.log_softmax(self.head(y).permute(2, 0, 1), dim=-1)


def _layers(config: CtcConfig) -> Layers:
    if not config.quantised:
        return Layers(config.activation)
    from rubicc.models.quantised import BrevitasLayers

    return BrevitasLayers(config.activation)


def build(config: CtcConfig) -> SeparableCtc:
    """An initialised network; draws from torch's global generator."""
    model = SeparableCtc(config)
    initialise(model)
    if config.quantised:
        from rubicc.models.quantised import calibrate

        calibrate(model)
    return model


def initialise(model: SeparableCtc) -> None:
    """Random weights that keep signal variance near one through the whole depth.

    torch's default convolution initialisation loses about two thirds of the variance per layer; after thirty
    layers an untrained network would give the same output for every input, and comparing such outputs proves
    nothing. Draws from torch's global generator.
    """
    for block in model.blocks:
        assert isinstance(block, Block)
        for index, cell in enumerate(block.cells):
            joined = block.skip is not None and index == len(block.cells) - 1
            _draw(cell, gain=1.0 if joined else 2.0)
        if block.skip is not None:
            _draw(block.skip, gain=1.0)
    _draw(model.head, gain=1.0)


def _draw(module: nn.Module, gain: float) -> None:
    """Weights with variance ``gain / fan_in``, zero bias.

    A grouped convolution always takes gain 1: nothing non-linear follows it.
    """
    for name, conv in module.named_modules():
        if isinstance(conv, nn.Conv1d):
            fan_in = conv.weight.shape[1] * conv.weight.shape[2]
            nn.init.normal_(conv.weight, std=((1.0 if name.endswith("grouped") else gain) / fan_in) ** 0.5)
            if conv.bias is not None:
                nn.init.zeros_(conv.bias)
