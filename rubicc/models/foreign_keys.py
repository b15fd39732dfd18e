"""How published checkpoints name the tensors of these networks: key mappings for the front end's readers.

Each function gives ``{our key: their key}`` for every tensor of the module built from the same configuration,
so ``{ours: state[theirs] for ours, theirs in mapping.items()}`` loads strictly. Nothing here needs torch.
"""

from __future__ import annotations

from collections.abc import Iterator

from rubicc.models.ctc_config import CtcConfig
from rubicc.models.dna_bert_config import DnaBertConfig
from rubicc.models.recurrent_config import CrfConfig

_NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
_ENCODER = "encoder.encoder"


def bonito_ctc(config: CtcConfig) -> dict[str, str]:
    """Bonito's CTC models (float form): ``encoder.encoder.{block}.conv.{4 per cell}`` and the decoder."""
    pairs: list[tuple[str, str]] = []
    for index, block in enumerate(config.blocks):
        theirs = f"{_ENCODER}.{index}"
        for cell in range(block.repeat):
            ours = f"blocks.{index}.cells.{cell}"
            # convolution, norm, activation, dropout per cell in one list
            conv, norm = f"{theirs}.conv.{4 * cell}", f"{theirs}.conv.{4 * cell + 1}"
            if block.separable:
                pairs.append((f"{ours}.conv.grouped.weight", f"{conv}.depthwise.weight"))
                pairs.append((f"{ours}.conv.pointwise.weight", f"{conv}.pointwise.weight"))
            else:
                pairs.append((f"{ours}.conv.weight", f"{conv}.conv.weight"))
            pairs += _norm(f"{ours}.norm", norm)
        if block.residual:
            pairs.append((f"blocks.{index}.skip.conv.weight", f"{theirs}.residual.0.conv.weight"))
            pairs += _norm(f"blocks.{index}.skip.norm", f"{theirs}.residual.1")
    pairs += [(f"head.{kind}", f"decoder.layers.0.{kind}") for kind in ("weight", "bias")]
    return dict(pairs)


def bonito_crf(config: CrfConfig, prefix: str = "encoder", permute_layer: bool = True) -> dict[str, str]:
    """Bonito's CTC-CRF models: one flat list of layers, in which clamps and the permutation take a number.

    Args:
        config: of the network.
        prefix: of the list; ``encoder``.
        permute_layer: whether a permutation stands in the list between convolutions and LSTMs.
    """
    pairs: list[tuple[str, str]] = []
    at = 0
    for index, conv in enumerate(config.convs):
        names = ("weight", "bias") if conv.bias else ("weight",)
        pairs += [(f"stem.{index}.conv.{name}", f"{prefix}.{at}.conv.{name}") for name in names]
        if conv.norm is not None:
            pairs += _norm(f"stem.{index}.norm", f"{prefix}.{at}.norm.bn")
        at += 2 if conv.clamp is not None else 1
    at += permute_layer
    for index, lstm in enumerate(config.lstms):
        kinds = ("weight_ih_l0", "weight_hh_l0", *(("bias_ih_l0", "bias_hh_l0") if lstm.bias else ()))
        pairs += [(f"lstm.{index}.{kind}", f"{prefix}.{at}.rnn.{kind}") for kind in kinds]
        at += 1
    if config.bottleneck is not None:
        pairs += _linear("bottleneck", f"{prefix}.{at}.linear", config.bottleneck_bias)
        at += 1
    pairs += _linear("head", f"{prefix}.{at}.linear", config.head_bias)
    return dict(pairs)


def hugging_face_bert(config: DnaBertConfig) -> dict[str, str]:
    """``BertForMaskedLM`` and GENA-LM folders use the same names as the module here.

    The decoder matrix of such files is the embedding matrix stored twice; pooler and next-sentence tensors
    belong to heads that this network does not have. None of these is in the mapping.
    """
    keys = [f"bert.embeddings.{kind}_embeddings.weight" for kind in ("word", "position", "token_type")]
    keys += _both("bert.embeddings.LayerNorm")
    for index in range(config.num_hidden_layers):
        layer = f"bert.encoder.layer.{index}"
        for part in ("query", "key", "value"):
            keys += _both(f"{layer}.attention.self.{part}")
        for dense in ("attention.output", "intermediate", "output"):
            keys += _both(f"{layer}.{dense}.dense")
        norms = (
            ("pre_attention_ln", "post_attention_ln")
            if config.pre_layer_norm
            else ("attention.output.LayerNorm", "output.LayerNorm")
        )
        for norm in norms:
            keys += _both(f"{layer}.{norm}")
    if config.last_layer_norm:
        keys += _both("bert.encoder.last_layer_ln")
    keys += _both("cls.predictions.transform.dense") + _both("cls.predictions.transform.LayerNorm")
    return {key: key for key in (*keys, "cls.predictions.bias")}


def _both(key: str) -> list[str]:
    return [f"{key}.weight", f"{key}.bias"]


def _norm(ours: str, theirs: str) -> Iterator[tuple[str, str]]:
    return ((f"{ours}.{name}", f"{theirs}.{name}") for name in _NORM)


def _linear(ours: str, theirs: str, bias: bool) -> Iterator[tuple[str, str]]:
    return ((f"{ours}.{name}", f"{theirs}.{name}") for name in (("weight", "bias") if bias else ("weight",)))
