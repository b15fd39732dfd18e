"""Hugging Face folders of the BERT family, against transformers' own forward."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from rubicc.frontend import read_model
from rubicc.models import registry

SMALL = {
    **{"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2},
    **{"intermediate_size": 32, "max_position_embeddings": 64},
}
SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2}
NETWORKS = {
    "bert": lambda: transformers.BertForMaskedLM(transformers.BertConfig(**SMALL)),
    "classifier": lambda: transformers.BertForSequenceClassification(
        transformers.BertConfig(**SMALL, num_labels=3)
    ),
    "backbone": lambda: transformers.BertModel(transformers.BertConfig(**SMALL)),
    "roberta": lambda: transformers.RobertaForMaskedLM(transformers.RobertaConfig(**SMALL)),
    "modernbert": lambda: transformers.ModernBertForMaskedLM(
        transformers.ModernBertConfig(**SMALL, **SPECIAL)
    ),
    "distilbert": lambda: transformers.DistilBertForMaskedLM(
        transformers.DistilBertConfig(vocab_size=40, dim=16, n_layers=2, n_heads=2, hidden_dim=32)
    ),
}


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("the reader opened a connection")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def _inputs() -> tuple[torch.Tensor, torch.Tensor]:
    ids = torch.randint(3, 40, (2, 12), generator=torch.Generator().manual_seed(0))
    mask = torch.ones(2, 12, dtype=torch.long)
    mask[1, 8:] = 0
    return ids, mask


@pytest.mark.parametrize("name", NETWORKS)
def test_family(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model: Any = NETWORKS[name]().eval()
    model.save_pretrained(tmp_path / "m")
    source = read_model(tmp_path / "m")
    ids, mask = _inputs()
    with torch.no_grad():
        ours = source.module(ids, mask)  # type: ignore[misc]
        output = model(input_ids=ids, attention_mask=mask)
    theirs = output.logits if hasattr(output, "logits") else output.last_hidden_state
    if theirs.dim() == 3:
        ours, theirs = ours[mask.bool()], theirs[mask.bool()]
    assert torch.allclose(ours, theirs, atol=1e-6)
    assert source.kind == "hf" and source.name == "m" and source.meta is not None
    assert source.meta.outputs[0].shape[-1] == theirs.shape[-1]
    assert [spec.name for spec in source.meta.inputs] == ["input_ids", "attention_mask"]


def test_old_names_pooler_and_torch_file(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = transformers.BertForMaskedLM(transformers.BertConfig(**SMALL)).eval()
    state = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): value
        for name, value in model.state_dict().items()
    }
    state["bert.pooler.dense.weight"] = torch.ones(16, 16)
    model.config.save_pretrained(tmp_path)
    torch.save(state, tmp_path / "pytorch_model.bin")
    source = read_model(tmp_path)
    ids, mask = _inputs()
    with torch.no_grad():
        expected = model(input_ids=ids, attention_mask=mask).logits
        assert torch.allclose(source.module(ids, mask)[mask.bool()], expected[mask.bool()], atol=1e-6)  # type: ignore[misc]
    assert [d.code for d in source.decisions] == ["RUB-READ-D06"]


def test_shards(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = transformers.BertForMaskedLM(transformers.BertConfig(**SMALL)).eval()
    model.save_pretrained(tmp_path, max_shard_size="8KB")
    assert (tmp_path / "model.safetensors.index.json").exists()
    source = read_model(tmp_path)
    ids, mask = _inputs()
    with torch.no_grad():
        expected = model(input_ids=ids, attention_mask=mask).logits
        assert torch.allclose(source.module(ids, mask)[mask.bool()], expected[mask.bool()], atol=1e-6)  # type: ignore[misc]
    digest = source.sha256
    shard = next(tmp_path.glob("model-00001*"))
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)
    assert read_model(tmp_path).sha256 != digest


def test_custom_code_model_through_the_zoo(tmp_path: Path) -> None:
    """GENA-LM ships code; with --arch dna-bert its weights go into the zoo's own network instead."""
    entry = registry.get("dna-bert")
    module = entry.build(entry.config_from_dict(SMALL), seed=1)
    state = dict(module.state_dict())
    state["cls.predictions.decoder.weight"] = state["bert.embeddings.word_embeddings.weight"].clone()
    state["bert.embeddings.position_ids"] = torch.arange(64)
    torch.save(state, tmp_path / "pytorch_model.bin")
    config = SMALL | {"model_type": "bert", "auto_map": {"AutoModel": "modeling_bert.BertModel"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    source = read_model(tmp_path, arch="dna-bert")
    with torch.no_grad():
        assert torch.equal(source.module(*_inputs()), module(*_inputs()))  # type: ignore[misc]
    assert source.meta is not None and source.meta.arch == "dna-bert"
    assert {d.code for d in source.decisions} == {"RUB-READ-D06"}
