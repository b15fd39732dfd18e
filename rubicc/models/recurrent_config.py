"""Configurations of the recurrent basecallers: taiyaki's flip-flop GRU and bonito's CTC-CRF family.

Importing this imports nothing heavy.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal

from rubicc.models.config import require
from rubicc.models.windows import inference_window
from rubicc.spec import QUANTILE, DecoderSpec, ModelMeta, SignalSpec, TensorSpec

ConvActivation = Literal["swish", "relu", "tanh"]


@dataclass(frozen=True)
class MgruConfig:
    """Taiyaki's ``mGru`` flip-flop network.

    Attributes:
        kernel, stride: of the convolution on the signal, followed by tanh.
        size, layers: width and number of the GRUs; the first, third, ... run backwards in time.
        scale: the head is ``scale * tanh(linear)``.
        alphabet: bases; the head has ``2 * n * (n + 1)`` transitions.
    """

    kernel: int = 19
    stride: int = 4
    size: int = 96
    layers: int = 5
    scale: float = 5.0
    alphabet: str = "ACGT"

    def __post_init__(self) -> None:
        _require_odd(self.kernel)
        for field in ("stride", "size", "layers"):
            require(getattr(self, field) >= 1, field, getattr(self, field), "at least 1")
        require(self.scale > 0, "scale", self.scale, "positive")
        _require_letters(self.alphabet, 1)

    @property
    def transitions(self) -> int:
        """Width of the head."""
        return 2 * len(self.alphabet) * (len(self.alphabet) + 1)


@dataclass(frozen=True)
class CrfConv:
    """One convolution of the stem: convolution, norm, activation, clamp, in this order.

    Attributes:
        filters, kernel, stride, bias: of the convolution (odd kernel, zero padding ``kernel // 2``).
        norm: BatchNorm after the convolution, or nothing.
        activation: after the norm, or nothing.
        clamp: ``(low, high)`` limits of the result, or nothing.
    """

    filters: int
    kernel: int
    stride: int = 1
    bias: bool = True
    norm: Literal["batchnorm"] | None = None
    norm_eps: float = 1e-5
    activation: ConvActivation | None = "swish"
    clamp: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        _require_odd(self.kernel)
        for field in ("filters", "stride"):
            require(getattr(self, field) >= 1, field, getattr(self, field), "at least 1")
        _require_limits(self.clamp)


@dataclass(frozen=True)
class CrfLstm:
    """One LSTM over time; ``reverse`` runs it backwards."""

    size: int
    reverse: bool
    bias: bool = True

    def __post_init__(self) -> None:
        require(self.size >= 1, "size", self.size, "at least 1")


@dataclass(frozen=True)
class CrfConfig:
    """Bonito's CTC-CRF basecaller: convolutional stem, LSTMs of alternating direction, linear CRF head.

    The head's scores per frame are ``n ** state_len`` states times (1 blank + ``n`` dropped bases), before
    global normalisation, ``n`` the number of bases. Head order: bottleneck, linear, activation, scale, blank,
    clamp.

    Attributes:
        convs, lstms: the encoder, first layer first.
        state_len: bases that make one CRF state.
        bottleneck, bottleneck_bias: width of a linear layer before the head's (released models with a
            decomposed head), or nothing.
        head_bias, head_activation, scale: of the head's linear layer.
        blank_score: fixed score of the blank (stay) transitions; nothing = the head computes them.
        expand_blanks: write the fixed blank column into the output, as bonito's decoder expects. Without it
            the output has ``n ** (state_len + 1)`` columns and the decoder must add the blank.
        clamp: ``(low, high)`` limits of the scores, or nothing.
        alphabet: first letter is the blank.
    """

    convs: tuple[CrfConv, ...]
    lstms: tuple[CrfLstm, ...]
    state_len: int
    bottleneck: int | None = None
    bottleneck_bias: bool = True
    head_bias: bool = True
    head_activation: ConvActivation | None = "tanh"
    scale: float | None = 5.0
    blank_score: float | None = 2.0
    expand_blanks: bool = True
    clamp: tuple[float, ...] | None = None
    alphabet: str = "NACGT"

    def __post_init__(self) -> None:
        require(len(self.convs) > 0, "convs", self.convs, "at least one convolution")
        require(len(self.lstms) > 0, "lstms", self.lstms, "at least one LSTM")
        require(1 <= self.state_len <= 6, "state_len", self.state_len, "1 to 6")
        require(self.bottleneck is None or self.bottleneck >= 1, "bottleneck", self.bottleneck, "at least 1")
        _require_limits(self.clamp)
        _require_letters(self.alphabet, 2)

    @property
    def bases(self) -> int:
        """Letters of the alphabet without the blank."""
        return len(self.alphabet) - 1

    @property
    def head_width(self) -> int:
        """Columns that the head's linear layer computes."""
        return self.bases**self.state_len * (self.bases + (self.blank_score is None))

    @property
    def columns(self) -> int:
        """Columns of the output."""
        if self.blank_score is not None and self.expand_blanks:
            return self.bases**self.state_len * (self.bases + 1)
        return self.head_width

    @property
    def stride(self) -> int:
        """Input samples per output frame."""
        stride = 1
        for conv in self.convs:
            stride *= conv.stride
        return stride


def _require_odd(kernel: int) -> None:
    require(kernel >= 1 and kernel % 2 == 1, "kernel", kernel, "odd, so that frames = ceil(samples / stride)")


def _require_limits(limits: tuple[float, ...] | None) -> None:
    require(limits is None or (len(limits) == 2 and limits[0] < limits[1]), "clamp", limits, "(low, high)")


def _require_letters(alphabet: str, least: int) -> None:
    require(
        len(alphabet) >= least and len(set(alphabet)) == len(alphabet),
        "alphabet",
        alphabet,
        f"at least {least} letters, all different",
    )


def crf_preset(
    size: int, state_len: int, stride: int, *, layers: int = 5, first_conv: int = 16, head_bias: bool = True
) -> CrfConfig:
    """The published family: three swish convolutions, ``layers`` LSTMs of which the last runs backwards."""
    return CrfConfig(
        convs=(CrfConv(first_conv, 5), CrfConv(16, 5), CrfConv(size, 19, stride)),
        lstms=tuple(CrfLstm(size, reverse=(layers - index) % 2 == 1) for index in range(layers)),
        state_len=state_len,
        head_bias=head_bias,
    )


MGRU = MgruConfig()
CRF_PRESETS = {
    "fast": crf_preset(96, 3, 5, head_bias=False),
    "hac": crf_preset(384, 4, 5),
    "sup": crf_preset(1024, 5, 6),
}

# bonito >= 0.6: shift = max(10, 0.51 * (q20 + q90)), scale = max(1, 0.53 * (q90 - q20)).


def mgru_meta(arch: str, config: MgruConfig) -> ModelMeta:
    """What inference must know about taiyaki's network: med/MAD signal, flip-flop posterior decoding."""
    return _meta(
        arch,
        config,
        config.stride,
        config.transitions,
        signal=SignalSpec("med-mad"),
        # Fitted on six mapped R9.4.1 reads by genomics/calibrate.py; the figures stand in docs/qualities.md.
        decoder=DecoderSpec("flipflop", qscale=1.223, qbias=-0.529),
    )


def crf_meta(arch: str, config: CrfConfig) -> ModelMeta:
    """What inference must know about a CTC-CRF network: quantile-scaled signal, CRF decoding over states."""
    params: dict[str, float] = {"state_len": config.state_len}
    if config.blank_score is not None and not config.expand_blanks:
        params["blank_score"] = config.blank_score
    return _meta(
        arch,
        config,
        config.stride,
        config.columns,
        signal=SignalSpec("quantile", QUANTILE),
        decoder=DecoderSpec("crf", params),
    )


def _meta(
    arch: str,
    config: MgruConfig | CrfConfig,
    stride: int,
    columns: int,
    *,
    signal: SignalSpec,
    decoder: DecoderSpec,
) -> ModelMeta:
    chunk, overlap = inference_window(stride, None)
    return ModelMeta(
        arch=arch,
        inputs=(TensorSpec("x", ("N", 1, "T")),),
        outputs=(TensorSpec("y", ("T_out", "N", columns)),),
        task="basecalling",
        config=asdict(config),
        stride=stride,
        alphabet=config.alphabet,
        signal=signal,
        decoder=decoder,
        receptive_field=None,
        chunk=chunk,
        overlap=overlap,
    )
