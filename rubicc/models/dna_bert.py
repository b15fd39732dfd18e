"""BERT masked language model for DNA, with the pre-norm blocks that transformers' own class cannot build.

GENA-LM ships its own model code because its blocks normalise before attention and feed-forward, not after.
transformers' ``BertForMaskedLM`` loads such a checkpoint with every block norm freshly initialised, behind a
warning. This module has both forms under one flag and names its parameters as those checkpoints do; the tests
hold the post-norm form to transformers and the pre-norm form to ``torch.nn.TransformerEncoder``.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from rubicc.models.dna_bert_config import DnaBertConfig

MASKED = -1e4
"""Added to the scores of masked keys: zero after softmax, and still finite in float16."""


class Embeddings(nn.Module):
    """Token + position + type-0 embedding, normalised."""

    def __init__(self, config: DnaBertConfig) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        self.position_embeddings = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.token_type_embeddings = nn.Embedding(config.type_vocab_size, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, input_ids: Tensor) -> Tensor:
        """(N, T) ids to (N, T, hidden)."""
        positions = torch.arange(input_ids.shape[1], device=input_ids.device)
        x = self.word_embeddings(input_ids) + self.position_embeddings(positions)
        return self.LayerNorm(x + self.token_type_embeddings.weight[0])


class SelfAttention(nn.Module):
    """Multi-head attention without the output projection."""

    def __init__(self, config: DnaBertConfig) -> None:
        super().__init__()
        self.heads = config.num_attention_heads
        self.scale = (config.hidden_size // config.num_attention_heads) ** -0.5
        self.query = nn.Linear(config.hidden_size, config.hidden_size)
        self.key = nn.Linear(config.hidden_size, config.hidden_size)
        self.value = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """(N, T, hidden) and additive bias (N, 1, 1 or T, T) to (N, T, hidden)."""
        query, key, value = (
            layer(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        weights = torch.softmax(query @ key.transpose(-1, -2) * self.scale + bias, dim=-1)
        return (weights @ value).transpose(1, 2).flatten(-2)


class Projection(nn.Module):
    """Linear layer that closes a branch, with the residual sum's norm in the post-norm form."""

    def __init__(self, width: int, config: DnaBertConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(width, config.hidden_size)
        if not config.pre_layer_norm:
            self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.pre_layer_norm = config.pre_layer_norm

    def forward(self, branch: Tensor, residual: Tensor) -> Tensor:
        """``residual + dense(branch)``, normalised in the post-norm form."""
        x = self.dense(branch) + residual
        return x if self.pre_layer_norm else self.LayerNorm(x)


class Attention(nn.Module):
    """Self-attention and its output projection, named as in the checkpoints."""

    def __init__(self, config: DnaBertConfig) -> None:
        super().__init__()
        self.self = SelfAttention(config)
        self.output = Projection(config.hidden_size, config)

    def forward(self, x: Tensor, bias: Tensor, residual: Tensor) -> Tensor:
        """(N, T, hidden) to (N, T, hidden)."""
        return self.output(self.self(x, bias), residual)


class Intermediate(nn.Module):
    """First half of the feed-forward branch."""

    def __init__(self, config: DnaBertConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.intermediate_size)

    def forward(self, x: Tensor) -> Tensor:
        """(N, T, hidden) to (N, T, intermediate)."""
        return functional.gelu(self.dense(x))


class Layer(nn.Module):
    """One transformer block."""

    def __init__(self, config: DnaBertConfig) -> None:
        super().__init__()
        self.attention = Attention(config)
        self.intermediate = Intermediate(config)
        self.output = Projection(config.intermediate_size, config)
        if config.pre_layer_norm:
            self.pre_attention_ln = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
            self.post_attention_ln = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.pre_layer_norm = config.pre_layer_norm

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """(N, T, hidden) to (N, T, hidden)."""
        x = self.attention(self.pre_attention_ln(x) if self.pre_layer_norm else x, bias, x)
        return self.output(self.intermediate(self.post_attention_ln(x) if self.pre_layer_norm else x), x)


class Encoder(nn.Module):
    """The blocks, and the norm after them where the configuration has one."""

    def __init__(self, config: DnaBertConfig) -> None:
        super().__init__()
        self.layer = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))
        if config.last_layer_norm:
            self.last_layer_ln = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.last_layer_norm = config.last_layer_norm

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """(N, T, hidden) to (N, T, hidden)."""
        for layer in self.layer:
            x = layer(x, bias)
        return self.last_layer_ln(x) if self.last_layer_norm else x


class Backbone(nn.Module):
    """Embeddings and encoder."""

    def __init__(self, config: DnaBertConfig) -> None:
        super().__init__()
        self.embeddings = Embeddings(config)
        self.encoder = Encoder(config)

    def forward(self, input_ids: Tensor, bias: Tensor) -> Tensor:
        """(N, T) ids to (N, T, hidden)."""
        return self.encoder(self.embeddings(input_ids), bias)


class Transform(nn.Module):
    """What the masked-language head does before it compares with the embeddings."""

    def __init__(self, config: DnaBertConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, x: Tensor) -> Tensor:
        """(N, T, hidden) to (N, T, hidden)."""
        return self.LayerNorm(functional.gelu(self.dense(x)))


class Predictions(nn.Module):
    """Logits against the token embeddings, whose matrix it shares."""

    def __init__(self, config: DnaBertConfig) -> None:
        super().__init__()
        self.transform = Transform(config)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))

    def forward(self, x: Tensor, embeddings: Tensor) -> Tensor:
        """(N, T, hidden) and (vocab, hidden) to (N, T, vocab)."""
        return functional.linear(self.transform(x), embeddings, self.bias)


class Head(nn.Module):
    """The masked-language head under the name that the checkpoints give it."""

    def __init__(self, config: DnaBertConfig) -> None:
        super().__init__()
        self.predictions = Predictions(config)

    def forward(self, x: Tensor, embeddings: Tensor) -> Tensor:
        """(N, T, hidden) and (vocab, hidden) to (N, T, vocab)."""
        return self.predictions(x, embeddings)


class DnaBert(nn.Module):
    """Token ids to masked-language logits.

    ``input_ids`` ``(N, T)`` integers, ``T <= max_position_embeddings``. ``attention_mask`` is either
    ``(N, T)`` with 1 for tokens and 0 for padding, or a ready additive float bias ``(N, 1, 1 or T, T)``
    (0 = attend, ``MASKED`` = not), which keeps integer arithmetic out of the exported graph. Output
    ``(N, T, vocab)``.
    """

    def __init__(self, config: DnaBertConfig) -> None:
        super().__init__()
        self.config = config
        self.bert = Backbone(config)
        self.cls = Head(config)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """See the class."""
        x = self.bert(input_ids, attention_bias(attention_mask))
        return self.cls(x, self.bert.embeddings.word_embeddings.weight)


def attention_bias(mask: Tensor) -> Tensor:
    """Additive bias of a mask in either form; see :class:`DnaBert`."""
    if mask.dim() == 4:
        return mask
    return (1.0 - mask.to(torch.float32))[:, None, None, :] * MASKED


def build(config: DnaBertConfig) -> DnaBert:
    """An initialised network; draws from torch's global generator.

    Linear weights keep the variance of their input instead of BERT's fixed 0.02: blocks of an untrained
    network then contribute to its output, so a wrong block shows when outputs are compared.
    """
    model = DnaBert(config)
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=module.in_features**-0.5)
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=config.hidden_size**-0.5)
    return model
