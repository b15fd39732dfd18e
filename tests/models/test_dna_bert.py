"""DNA BERT: equal weights give transformers' numbers (post-norm) and torch's encoder's numbers (pre-norm)."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from rubicc.models import registry
from rubicc.models.dna_bert import MASKED, DnaBert, attention_bias

TINY = {
    "vocab_size": 50,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 40,
}


def build(seed: int = 0, **changes: object) -> DnaBert:
    model = registry.get("dna-bert").build({**TINY, **changes}, seed=seed)
    assert isinstance(model, DnaBert)
    return model


def example() -> tuple[torch.Tensor, torch.Tensor]:
    ids = torch.randint(0, 50, (2, 17))
    mask = torch.ones(2, 17, dtype=torch.int64)
    mask[1, 12:] = 0
    return ids, mask


def test_base_configuration_is_gena_lms() -> None:
    config = registry.get("dna-bert").default
    assert (config.num_hidden_layers, config.hidden_size, config.num_attention_heads) == (12, 768, 12)
    assert (config.intermediate_size, config.vocab_size, config.max_position_embeddings) == (3072, 32000, 512)
    assert config.pre_layer_norm and not config.last_layer_norm


def test_post_norm_form_gives_transformers_numbers() -> None:
    transformers = pytest.importorskip("transformers")
    theirs = transformers.BertForMaskedLM(transformers.BertConfig(**TINY, layer_norm_eps=1e-12)).eval()
    ours = build(pre_layer_norm=False)
    ids, mask = example()
    with torch.no_grad():
        for value in theirs.parameters():
            nn.init.normal_(value, std=0.3)
        state = theirs.state_dict()
        extra = state.keys() - ours.state_dict().keys()
        assert all(key.startswith("cls.predictions.decoder.") for key in extra)  # tied to the embeddings
        ours.load_state_dict({key: state[key] for key in ours.state_dict()})
        torch.testing.assert_close(
            ours(ids, mask), theirs(input_ids=ids, attention_mask=mask).logits, rtol=1e-4, atol=1e-4
        )


@pytest.mark.parametrize("last", [False, True])
def test_pre_norm_form_gives_torch_encoders_numbers(last: bool) -> None:
    """``torch.nn.TransformerEncoder(norm_first=True)`` is an independent pre-norm stack."""
    ours = build(pre_layer_norm=True, last_layer_norm=last)
    for value in ours.parameters():
        nn.init.normal_(value, std=0.3)
    block = nn.TransformerEncoderLayer(
        32, 4, 48, activation="gelu", batch_first=True, norm_first=True, layer_norm_eps=1e-12
    )
    theirs = nn.TransformerEncoder(
        block, 3, norm=nn.LayerNorm(32, eps=1e-12) if last else None, enable_nested_tensor=False
    ).eval()
    for layer, mine in zip(theirs.layers, ours.bert.encoder.layer, strict=True):
        parts = (mine.attention.self.query, mine.attention.self.key, mine.attention.self.value)
        layer.self_attn.in_proj_weight.data = torch.cat([part.weight for part in parts])
        layer.self_attn.in_proj_bias.data = torch.cat([part.bias for part in parts])
        layer.self_attn.out_proj.load_state_dict(mine.attention.output.dense.state_dict())
        layer.linear1.load_state_dict(mine.intermediate.dense.state_dict())
        layer.linear2.load_state_dict(mine.output.dense.state_dict())
        layer.norm1.load_state_dict(mine.pre_attention_ln.state_dict())
        layer.norm2.load_state_dict(mine.post_attention_ln.state_dict())
    if last:
        theirs.norm.load_state_dict(ours.bert.encoder.last_layer_ln.state_dict())
    ids, mask = example()
    with torch.no_grad():
        x = ours.bert.embeddings(ids)
        got = ours.bert.encoder(x, attention_bias(mask))
        torch.testing.assert_close(got, theirs(x, src_key_padding_mask=mask == 0), rtol=1e-4, atol=1e-4)


def test_keys_of_the_pre_norm_form_are_gena_lms() -> None:
    model = build(last_layer_norm=True)
    keys = model.state_dict().keys()
    assert "bert.encoder.layer.2.pre_attention_ln.weight" in keys
    assert "bert.encoder.layer.2.post_attention_ln.bias" in keys
    assert "bert.encoder.last_layer_ln.weight" in keys
    assert not any("output.LayerNorm" in key for key in keys)


def test_the_norms_place_matters() -> None:
    """The mutant: pre-norm weights run through post-norm blocks give other numbers."""
    pre, post = build(), build(pre_layer_norm=False)
    renamed = {
        key.replace("pre_attention_ln", "attention.output.LayerNorm").replace(
            "post_attention_ln", "output.LayerNorm"
        ): value
        for key, value in pre.state_dict().items()
    }
    post.load_state_dict(renamed)
    ids, mask = example()
    with torch.no_grad():
        assert float((pre(ids, mask) - post(ids, mask)).abs().max()) > 0.1


def test_padding_does_not_change_the_tokens() -> None:
    model = build()
    ids, mask = example()
    with torch.no_grad():
        padded = model(ids, mask)[1, :12]
        alone = model(ids[1:, :12], mask[1:, :12])[0]
    torch.testing.assert_close(padded, alone, rtol=1e-4, atol=1e-5)


def test_a_ready_float_bias_gives_the_same_numbers() -> None:
    model = build()
    ids, mask = example()
    bias = torch.where(mask == 1, 0.0, MASKED)[:, None, None, :]
    with torch.no_grad():
        expected = model(ids, mask)
        torch.testing.assert_close(model(ids, bias), expected, rtol=0, atol=0)
        torch.testing.assert_close(model(ids, bias.expand(2, 1, 17, 17)), expected)
    assert torch.isfinite(torch.tensor(MASKED).half())
