"""Configuration of the DNA language model. Importing this imports nothing heavy."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from rubicc.models.config import require
from rubicc.spec import ModelMeta, TensorSpec


@dataclass(frozen=True)
class DnaBertConfig:
    """A BERT masked language model; the defaults are GENA-LM's base network.

    Fields are named as in Hugging Face's ``config.json``.

    Attributes:
        pre_layer_norm: blocks are ``x + attention(norm(x))``, ``x + ffn(norm(x))`` (GENA-LM) instead of
            ``norm(x + ...)`` (the original BERT, and all that transformers' own class can build).
        last_layer_norm: one more norm after the last block (GENA-LM's ``lastln`` and large networks).
        max_position_embeddings: longest sequence in tokens.
    """

    vocab_size: int = 32000
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    layer_norm_eps: float = 1e-12
    pre_layer_norm: bool = True
    last_layer_norm: bool = False

    def __post_init__(self) -> None:
        for field in (
            "vocab_size",
            "hidden_size",
            "num_hidden_layers",
            "num_attention_heads",
            "intermediate_size",
            "max_position_embeddings",
            "type_vocab_size",
        ):
            require(getattr(self, field) >= 1, field, getattr(self, field), "at least 1")
        require(
            self.hidden_size % self.num_attention_heads == 0,
            "hidden_size",
            self.hidden_size,
            f"a multiple of num_attention_heads = {self.num_attention_heads}",
        )
        require(self.layer_norm_eps > 0, "layer_norm_eps", self.layer_norm_eps, "positive")
        require(
            self.pre_layer_norm or not self.last_layer_norm,
            "last_layer_norm",
            self.last_layer_norm,
            "false where pre_layer_norm = false",
        )


DNA_BERT = DnaBertConfig()


def dna_bert_meta(arch: str, config: DnaBertConfig) -> ModelMeta:
    """Token ids and a 0/1 mask in, one logit per vocabulary entry and position out."""
    return ModelMeta(
        arch=arch,
        inputs=(
            TensorSpec("input_ids", ("N", "T"), "int64"),
            TensorSpec("attention_mask", ("N", "T"), "int64"),
        ),
        outputs=(TensorSpec("logits", ("N", "T", config.vocab_size)),),
        task="masked-lm",
        config=asdict(config),
    )
