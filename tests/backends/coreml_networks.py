"""Small PyTorch networks that coremltools' own front end converts: the interpreter's acceptance set.

None of this knows rubicc's lowering. Every case is seeded; inputs are float32 or int32 arrays.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Inputs = tuple[Tensor, ...]


@dataclass(frozen=True)
class Case:
    """One network.

    Attributes:
        build: the module, in eval mode.
        inputs: its example inputs.
        target: deployment target.
        script: convert by ``torch.jit.script`` (control flow) instead of tracing.
        half: least signal-to-noise ratio of the fp16 package under fp16 semantics, dB; ``None`` where fp16
            cannot hold the numbers.
    """

    build: Callable[[], nn.Module]
    inputs: Callable[[], Inputs]
    target: str = "iOS17"
    script: bool = False
    half: float | None = 50.0


class Of(nn.Module):
    """A function as a module."""

    def __init__(self, compute: Callable[..., Any]) -> None:
        super().__init__()
        self.compute = compute

    def forward(self, *given: Tensor) -> Any:
        return self.compute(*given)


def noise(*shape: int) -> Callable[[], Inputs]:
    """One float input."""
    return lambda: (torch.randn(shape),)


def two(first: tuple[int, ...], second: tuple[int, ...]) -> Callable[[], Inputs]:
    return lambda: (torch.randn(first), torch.randn(second))


def tokens(*shape: int, below: int = 20) -> Callable[[], Inputs]:
    return lambda: (torch.randint(0, below, shape, dtype=torch.int32),)


def settled(net: nn.Module) -> nn.Module:
    """Batch norms get statistics, scale and shift that are not 0 and 1."""
    for module in net.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d):
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.weight, 0.5, 2)
            nn.init.normal_(module.bias)
    return net


def conv1d() -> nn.Module:
    return settled(
        nn.Sequential(
            nn.Conv1d(1, 8, 5, stride=2, padding=2),
            nn.SiLU(),
            nn.Conv1d(8, 8, 7, padding=3, groups=8, bias=False),
            nn.BatchNorm1d(8),
            nn.ReLU(),
            nn.Conv1d(8, 5, 1),
            nn.LogSoftmax(1),
        )
    )


def conv2d() -> nn.Module:
    return settled(
        nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.Conv2d(8, 8, 3, padding=2, dilation=2, groups=2),
            nn.LeakyReLU(0.1),
            nn.Conv2d(8, 6, (1, 3), stride=(1, 2), padding=(0, 1)),
            nn.PReLU(6, init=0.2),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(6, 4),
        )
    )


def conv3d() -> nn.Module:
    return settled(
        nn.Sequential(nn.Conv3d(2, 4, 3, padding=1), nn.BatchNorm3d(4), nn.ReLU(), nn.AvgPool3d(2))
    )


def transposed1d() -> nn.Module:
    return nn.Sequential(
        nn.Conv1d(2, 6, 4, stride=2, padding=1),
        nn.ELU(),
        nn.ConvTranspose1d(6, 4, 4, stride=2, padding=1, groups=2),
        nn.ConvTranspose1d(4, 3, 5, stride=3, padding=2, output_padding=1),
    )


def transposed2d() -> nn.Module:
    return nn.Sequential(
        nn.ConvTranspose2d(3, 6, 3, stride=2, padding=1, output_padding=1),
        nn.ConvTranspose2d(6, 2, (2, 3), stride=(2, 1), dilation=(1, 2)),
        nn.Hardswish(),
    )


class Separable(nn.Module):
    """Depthwise and pointwise convolution with a residual sum and squeeze-and-excitation."""

    def __init__(self) -> None:
        super().__init__()
        self.depth = nn.Conv1d(8, 8, 9, padding=4, groups=8)
        self.point = nn.Conv1d(8, 8, 1)
        self.squeeze = nn.Sequential(
            nn.AdaptiveAvgPool1d(1), nn.Conv1d(8, 2, 1), nn.ReLU(), nn.Conv1d(2, 8, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        y = self.point(F.gelu(self.depth(x)))
        return x + y * torch.sigmoid(self.squeeze(y))


class Last(nn.Module):
    """A recurrent layer; its output sequence, and a sum over its states."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        made, state = self.layer(x)
        last = state[0] + state[1] if isinstance(state, tuple) else state
        return made, last


class Attention(nn.Module):
    """Self-attention written out, with a causal additive mask."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(16, 48)
        self.out = nn.Linear(16, 16)
        self.register_buffer("mask", torch.full((9, 9), -1e4).triu(1))

    def forward(self, x: Tensor) -> Tensor:
        n, t, _ = x.shape
        q, k, v = self.qkv(x).view(n, t, 3, 4, 4).permute(2, 0, 3, 1, 4).unbind(0)
        weights = (q @ k.transpose(-1, -2) / 2.0 + self.mask).softmax(-1)
        return self.out((weights @ v).transpose(1, 2).reshape(n, t, 16))


def fused_attention(q: Tensor, k: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, k * 0.5, is_causal=True)


def encoder() -> nn.Module:
    layer = nn.TransformerEncoderLayer(16, 4, 24, dropout=0.0, batch_first=True, activation="gelu")
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)


class Words(nn.Module):
    """Token and position embeddings, normalised, averaged."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(20, 12)
        self.places = nn.Embedding(16, 12)
        self.norm = nn.LayerNorm(12)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.words(ids) + self.places(torch.arange(ids.shape[1]))
        return self.norm(x).mean(1)


class Norms(nn.Module):
    """Layer, group and instance norm, RMS norm written out, L2 normalisation."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.LayerNorm((6, 10))
        self.group = nn.GroupNorm(3, 6)
        self.instance = nn.InstanceNorm1d(6, affine=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.instance(self.group(self.layer(x)))
        y = y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + 1e-6)
        return F.normalize(y, dim=1) + F.local_response_norm(x.unsqueeze(-1), 3).squeeze(-1)


def pools(x: Tensor) -> tuple[Tensor, ...]:
    return (
        F.max_pool2d(x, 3, stride=2, padding=1),
        F.max_pool2d(x, 2, stride=2, ceil_mode=True),
        F.avg_pool2d(x, 3, stride=2, padding=1, count_include_pad=False),
        F.avg_pool2d(x, 3, stride=1, padding=1),
        F.adaptive_max_pool2d(x, 1),
        F.avg_pool1d(x.flatten(2), 4, stride=3),
    )


def activations(x: Tensor) -> Tensor:
    made = [
        F.relu(x), F.relu6(x), F.leaky_relu(x), F.elu(x), F.gelu(x), F.gelu(x, approximate="tanh"),
        F.silu(x), F.softplus(x), F.softsign(x), F.hardtanh(x), F.hardsigmoid(x), F.hardswish(x),
        F.tanh(x), F.mish(x), F.selu(x), F.threshold(x, 0.1, 0.0), F.glu(torch.cat([x, -x], -1), -1),
        F.softmax(x, 0), F.log_softmax(x, -1), torch.clamp(x, -0.3, 0.4), torch.sigmoid(x),
    ]  # fmt: skip
    return torch.stack(made)


def arithmetic(x: Tensor, y: Tensor) -> Tensor:
    # Not torch.reciprocal: coremltools makes it `inverse` with its default epsilon, 1 / (x + 1e-4).
    p = x.abs() + 0.1
    made = [
        x + y, x - y, x * y, x / (y.abs() + 0.5), torch.maximum(x, y), torch.minimum(x, y), p**0.5, x**2,
        torch.exp(-p), torch.log(p), torch.sqrt(p), torch.rsqrt(p), torch.sin(x), torch.cos(y), torch.erf(x),
        torch.floor(x), torch.ceil(x), torch.round(x), torch.sign(x), torch.square(y),
        torch.atan(x), torch.where(x > y, x, y), (x >= 0).to(x.dtype), torch.remainder(x, p),
        torch.floor_divide(x, p), ((x < y) & ~(x == y)).float(), torch.sinh(x), torch.tan(x * 0.3),
    ]  # fmt: skip
    return torch.stack(made)


def reductions(x: Tensor) -> tuple[Tensor, ...]:
    return (
        x.sum((0, 2)), x.mean(1, keepdim=True), x.amax(-1), x.amin(0), x.var(1), x.std((0, 1)),
        x.norm(dim=1), torch.logsumexp(x, 1), x.argmax(1), x.argmin(-1), x.abs().sum(),
        torch.cumsum(x, 1), torch.topk(x, 2, dim=1).values, torch.topk(x, 2, dim=1, largest=False).indices,
        torch.sort(x, dim=-1).values, torch.argsort(x, dim=0, descending=True), x.max(1).values,
    )  # fmt: skip


def movement(x: Tensor) -> tuple[Tensor, ...]:
    first, second = x.split([2, 4], 1)
    return (
        x.reshape(3, -1), x.permute(2, 0, 1), x[:, 1:-1:2], x[..., -3:], torch.flip(x, [1]),
        torch.stack([x, x * 2], 1), torch.cat([second, first], 1), x.unsqueeze(1).expand(-1, 3, -1, -1),
        torch.roll(x, 2, 2), x.repeat(1, 2, 1), torch.tril(x), F.pad(x, (1, 2), value=0.5),
        F.pad(x, (2, 1), mode="reflect"), F.pad(x, (1, 1), mode="replicate"), x.chunk(3, 1)[2],
        x.squeeze(0), F.pixel_shuffle(x[:, :4].unsqueeze(-1), 2), x[:, 2],
    )  # fmt: skip


def picking(x: Tensor, places: Tensor) -> tuple[Tensor, ...]:
    at = places.long()
    return (
        x[at],
        x.index_select(1, at[:2]),
        x[:4].gather(1, at.unsqueeze(1).expand(-1, 2)),
        torch.zeros_like(x[:4]).scatter(1, at.unsqueeze(1).expand(-1, 2), x[:4, :2]),
        x.masked_fill(x > 0, -1.0),
        F.one_hot(at, 6).float(),
        torch.zeros_like(x).index_put((at,), x[:4]),
    )


def products(x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
    return (
        torch.einsum("bij,bjk->bik", x, y),
        torch.bmm(x, y),
        torch.einsum("bij,bjk->bki", x, y),
        torch.baddbmm(torch.ones(2, 4, 3), x, y),
        x @ y[0],
        torch.einsum("bij->bji", x),
    )


def upsampled(x: Tensor) -> tuple[Tensor, ...]:
    return (
        F.interpolate(x, scale_factor=2, mode="nearest"),
        F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False),
        F.interpolate(x, size=(9, 7), mode="bilinear", align_corners=True),
        F.interpolate(x, size=(4, 11), mode="bilinear", align_corners=False),
        F.interpolate(x[:, :, 0], scale_factor=3, mode="nearest"),
        F.pixel_unshuffle(x[..., :4], 2),
    )


class Repeated(nn.Module):
    """A loop whose number of turns depends on the input."""

    def forward(self, x: Tensor) -> Tensor:
        while bool(x.sum() < 100.0):
            x = x * 1.5 + 1.0
        return x


class Chosen(nn.Module):
    """A branch that depends on the input."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Linear(5, 3)
        self.other = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.one(x) if bool(x.mean() > 0.0) else torch.tanh(self.other(x))
        return y * 2.0


class Unet(nn.Module):
    """Down, up, skip."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Conv1d(1, 4, 4, stride=2, padding=1)
        self.mid = nn.Conv1d(4, 4, 3, padding=1)
        self.up = nn.ConvTranspose1d(8, 2, 4, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        skip = torch.relu(self.down(x))
        y = torch.relu(self.mid(skip))
        return self.up(torch.cat([skip, y], 1)) + x


def lstm(**options: Any) -> Callable[[], nn.Module]:
    return lambda: Last(nn.LSTM(6, 8, **options))


def zoo(name: str, **config: Any) -> Callable[[], nn.Module]:
    """A network of rubicc's zoo, freshly drawn: its log-probabilities stay small.

    coremltools writes log-softmax as ``log(softmax(x) + 1e-45)``, which loses every probability that fp16
    (below 6e-8) or fp32 cannot hold; PyTorch's does not.
    """

    def build() -> nn.Module:
        from rubicc.models import registry

        return registry.get(name).build(config, seed=3)

    return build


BERT = {
    "vocab_size": 40,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 24,
    "max_position_embeddings": 16,
}


def masked_tokens() -> Inputs:
    mask = torch.ones(2, 11, dtype=torch.int32)
    mask[1, 7:] = 0
    return torch.randint(0, 40, (2, 11), dtype=torch.int32), mask


CASES: dict[str, Case] = {
    "conv1d": Case(conv1d, noise(2, 1, 40)),
    "conv1d-ios16": Case(conv1d, noise(1, 1, 33), target="iOS16"),
    "conv2d": Case(conv2d, noise(2, 3, 9, 10)),
    "conv3d": Case(conv3d, noise(1, 2, 4, 6, 6)),
    "conv-transpose-1d": Case(transposed1d, noise(2, 2, 16)),
    "conv-transpose-2d": Case(transposed2d, noise(1, 3, 5, 6)),
    "separable": Case(Separable, noise(2, 8, 30)),
    "unet": Case(Unet, noise(1, 1, 32)),
    "lstm": Case(lstm(), noise(7, 2, 6)),
    "lstm-two-ways": Case(lstm(num_layers=2, bidirectional=True, batch_first=True), noise(2, 7, 6)),
    "lstm-projected-input": Case(lstm(bias=False), noise(7, 1, 6), target="iOS16"),
    "gru": Case(lambda: Last(nn.GRU(6, 8)), noise(7, 2, 6)),
    "gru-two-ways": Case(lambda: Last(nn.GRU(6, 5, bidirectional=True)), noise(6, 1, 6)),
    "rnn": Case(lambda: Last(nn.RNN(6, 8, nonlinearity="tanh")), noise(7, 2, 6)),
    "attention": Case(Attention, noise(2, 9, 16)),
    "attention-fused": Case(lambda: Of(fused_attention), two((2, 3, 7, 8), (2, 3, 7, 8)), target="iOS18"),
    "transformer-encoder": Case(encoder, noise(2, 9, 16)),
    "embedding": Case(Words, tokens(2, 9)),
    "norms": Case(Norms, noise(2, 6, 10)),
    "pooling": Case(lambda: Of(pools), noise(1, 3, 9, 11)),
    "activations": Case(lambda: Of(activations), noise(3, 8)),
    "arithmetic": Case(lambda: Of(arithmetic), two((4, 5), (4, 5)), half=None),
    "reductions": Case(lambda: Of(reductions), noise(2, 6, 5), half=None),
    "movement": Case(lambda: Of(movement), noise(1, 6, 5)),
    "picking": Case(
        lambda: Of(picking), lambda: (torch.randn(6, 6), torch.tensor([3, 0, 5, 2], dtype=torch.int32))
    ),
    "products": Case(lambda: Of(products), two((2, 4, 5), (2, 5, 3))),
    "upsampling": Case(lambda: Of(upsampled), noise(1, 4, 6, 5)),
    "while-loop": Case(Repeated, lambda: (torch.rand(3, 4),), script=True),
    "branch": Case(Chosen, noise(2, 5), script=True),
    "zoo-mgru": Case(zoo("taiyaki-mgru", size=8, layers=2), noise(1, 1, 30), half=45.0),
    "zoo-demo-ctc": Case(zoo("demo-ctc"), noise(1, 1, 90), half=45.0),
    "zoo-rubicall-fp": Case(zoo("rubicall-fp"), noise(1, 1, 120), half=40.0),
    "zoo-bonito-crf": Case(zoo("bonito-crf", preset="fast"), noise(1, 1, 60), half=45.0),
    "zoo-dna-bert": Case(zoo("dna-bert", **BERT), masked_tokens, half=45.0),
}
