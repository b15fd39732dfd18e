"""Configuration and layer tables of the convolutional CTC basecallers. Importing this imports nothing heavy.

Every network here is one shape of thing, a row of time-channel separable blocks, so it is *data*:
a tuple of :class:`BlockSpec`. The tables are facts of the published networks (RUBICON's source tables and
bonito's public model configurations), each stated once.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from typing import Literal

from rubicc.models.config import require
from rubicc.models.windows import inference_window
from rubicc.spec import DecoderSpec, ModelMeta, SignalSpec, TensorSpec

Activation = Literal["relu", "swish", "tanh"]


@dataclass(frozen=True)
class BlockSpec:
    """One block: ``repeat`` convolution cells, an optional skip around them, one activation after the sum.

    Attributes:
        filters: output channels.
        kernel: taps of each cell's convolution over time (odd; zero padding ``kernel // 2 * dilation``).
        repeat: number of cells. The first takes the block's input width, all give ``filters`` channels.
        stride: of every cell's convolution; only meaningful for single-cell blocks.
        residual: pointwise convolution + BatchNorm around the block, also where widths agree.
        separable: grouped convolution over time followed by a pointwise one; else one dense convolution.
        weight_bits, act_bits: widths in the quantised form; unused in the float form.
        dropout: after each activation, in training.
    """

    filters: int
    kernel: int
    repeat: int = 1
    stride: int = 1
    dilation: int = 1
    residual: bool = False
    separable: bool = True
    weight_bits: int = 8
    act_bits: int = 8
    dropout: float = 0.05

    def __post_init__(self) -> None:
        for field in ("filters", "kernel", "repeat", "stride", "dilation"):
            require(getattr(self, field) >= 1, field, getattr(self, field), "at least 1")
        require(self.kernel % 2 == 1, "kernel", self.kernel, "odd, so that frames = ceil(samples / stride)")
        require(self.stride == 1 or self.dilation == 1, "dilation", self.dilation, "1 where stride > 1")
        require(
            self.stride == 1 or (self.repeat == 1 and not self.residual),
            "stride",
            self.stride,
            "1 in blocks with repeats or a skip",
        )
        for field in ("weight_bits", "act_bits"):
            require(2 <= getattr(self, field) <= 16, field, getattr(self, field), "2 to 16")
        require(0 <= self.dropout < 1, "dropout", self.dropout, "in [0, 1)")


@dataclass(frozen=True)
class CtcConfig:
    """A convolutional CTC basecaller.

    Attributes:
        blocks: the encoder, first block first.
        activation: after every cell; only ``relu`` has a quantised form.
        channels_per_group: of the grouped convolutions. 8 in RUBICON; 1 (depthwise) in released bonito.
        quantised: build the Brevitas form, with each block's bit widths.
        input_bits, head_bits: width of the input quantiser and of the head's weights in that form.
        alphabet: first letter is the CTC blank.
        norm_eps: epsilon of every BatchNorm.
    """

    blocks: tuple[BlockSpec, ...]
    activation: Activation = "relu"
    channels_per_group: int = 8
    quantised: bool = False
    input_bits: int = 16
    head_bits: int = 8
    alphabet: str = "NACGT"
    norm_eps: float = 1e-3

    def __post_init__(self) -> None:
        require(len(self.blocks) > 0, "blocks", self.blocks, "at least one block")
        require(self.channels_per_group >= 1, "channels_per_group", self.channels_per_group, "at least 1")
        require(
            len(self.alphabet) >= 2 and len(set(self.alphabet)) == len(self.alphabet),
            "alphabet",
            self.alphabet,
            "a blank and at least one base, all different",
        )
        require(self.norm_eps > 0, "norm_eps", self.norm_eps, "positive")
        require(
            not self.quantised or self.activation == "relu",
            "activation",
            self.activation,
            "relu where quantised = true",
        )
        for before, block in pairwise((BlockSpec(1, 1), *self.blocks)):
            widths = (before.filters, block.filters) if block.repeat > 1 else (before.filters,)
            for width in widths if block.separable else ():
                require(
                    width % self.channels_per_group == 0,
                    "filters",
                    width,
                    f"a multiple of channels_per_group = {self.channels_per_group} before a grouped conv",
                )

    @property
    def stride(self) -> int:
        """Input samples per output frame."""
        stride = 1
        for block in self.blocks:
            stride *= block.stride
        return stride

    @property
    def receptive_field(self) -> int:
        """Input samples that one output frame depends on."""
        field, jump = 1, 1
        for block in self.blocks:
            field += (block.kernel - 1) * block.dilation * block.repeat * jump
            jump *= block.stride
        return field


def ctc_meta(arch: str, config: CtcConfig) -> ModelMeta:
    """What inference must know about a convolutional CTC basecaller."""
    chunk, overlap = inference_window(config.stride, config.receptive_field)
    return ModelMeta(
        arch=arch,
        inputs=(TensorSpec("x", ("N", 1, "T")),),
        outputs=(TensorSpec("y", ("T_out", "N", len(config.alphabet))),),
        task="basecalling",
        config=asdict(config),
        stride=config.stride,
        alphabet=config.alphabet,
        signal=SignalSpec("med-mad"),
        decoder=DecoderSpec("ctc"),
        receptive_field=config.receptive_field,
        chunk=chunk,
        overlap=overlap,
    )


def _residual(filters: int, kernel: int, repeat: int, dropout: float = 0.05) -> BlockSpec:
    return BlockSpec(filters, kernel, repeat, residual=True, dropout=dropout)


# Mostly dense convolutions: on a CPU they train three times faster than grouped ones of the same accuracy.
DEMO_CTC = CtcConfig(
    blocks=(
        BlockSpec(64, 9, stride=3, separable=False, dropout=0.0),
        BlockSpec(80, 9, 2, residual=True, separable=False, dropout=0.0),
        BlockSpec(80, 9, 2, residual=True, separable=False, dropout=0.0),
        _residual(80, 15, 1, dropout=0.0),
        BlockSpec(48, 1, separable=False, dropout=0.0),
    )
)

BONITO_CTC = CtcConfig(
    blocks=(
        BlockSpec(344, 9, stride=3, separable=False),
        _residual(424, 115, 2),
        _residual(464, 5, 7),
        _residual(456, 123, 4),
        _residual(440, 9, 9),
        _residual(280, 31, 6),
        BlockSpec(384, 67),
        BlockSpec(48, 15, separable=False),
    )
)

QUARTZNET = CtcConfig(
    blocks=(
        BlockSpec(256, 33, stride=3, separable=False, dropout=0.0),
        _residual(256, 33, 5, dropout=0.0),
        _residual(256, 39, 5, dropout=0.0),
        _residual(512, 51, 5, dropout=0.0),
        _residual(512, 63, 5, dropout=0.0),
        _residual(512, 75, 5, dropout=0.0),
        BlockSpec(512, 87, dropout=0.0),
        BlockSpec(1024, 1, separable=False, dropout=0.0),
    )
)

# RUBICALL's searched residual blocks: filters, repeat, kernel, weight bits, activation bits.
_RUBICALL_ROWS = (
    (280, 2, 75, 16, 16),
    (280, 1, 31, 8, 8),
    (296, 2, 31, 8, 8),
    (232, 1, 123, 16, 8),
    (232, 2, 55, 16, 8),
    (232, 2, 5, 16, 8),
    (224, 2, 3, 8, 8),
    (224, 2, 9, 16, 8),
    (224, 2, 115, 16, 8),
    (224, 2, 55, 16, 8),
    (144, 2, 25, 16, 8),
    (144, 2, 9, 16, 8),
    (144, 1, 25, 8, 8),
    (144, 2, 7, 8, 8),
    (144, 1, 123, 8, 4),
)

QABAS = CtcConfig(
    blocks=(
        BlockSpec(208, 9, stride=3, separable=False, weight_bits=16, act_bits=16),
        *(
            BlockSpec(filters, kernel, repeat, residual=True, weight_bits=weight_bits, act_bits=act_bits)
            for filters, repeat, kernel, weight_bits, act_bits in _RUBICALL_ROWS
        ),
        BlockSpec(152, 9, weight_bits=8, act_bits=4),
        BlockSpec(48, 9, separable=False, weight_bits=8, act_bits=4),
    ),
    quantised=True,
)

# SkipClip removes every skip of the searched network and changes nothing else.
RUBICALL = replace(QABAS, blocks=tuple(replace(block, residual=False) for block in QABAS.blocks))
RUBICALL_FP = replace(RUBICALL, quantised=False)
