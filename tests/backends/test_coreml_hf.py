"""A Hugging Face folder goes in by its path, and out comes a package whose Swift tokenizes for it.

The weights are drawn here and the tokenizer is trained here, by `tokenizers` on a FASTA file. The check goes
the whole way of an app: text, the emitted Swift (run by :mod:`swift_machine`), the package on disk (run by
our interpreter), against text, `tokenizers`, `transformers` in PyTorch.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import coreml_tokenizers
import numpy as np
import pytest
import tokenizers
import torch
import transformers
from swift_machine import Machine
from swift_packages import nodes, parse
from swift_values import Int

from rubicc import api
from rubicc.backends.coreml import swift
from rubicc.backends.coreml.description import package_name
from rubicc.backends.coreml.session import opened, package_in

ALGORITHMS = ("DNA", "Heap", "ModelError", "Tokenizer", "TokenizerFile")


def snr(found: np.ndarray, wanted: np.ndarray) -> float:
    noise = float(np.square(found - wanted, dtype=np.float64).sum())
    return 10 * float(np.log10(np.square(wanted, dtype=np.float64).sum() / max(noise, 1e-300)))


def folder_of(folder: Path, head: str, sequence: str) -> tuple[Any, tokenizers.Tokenizer]:
    """A saved model with drawn weights, and the tokenizer trained for it."""
    trained = coreml_tokenizers.train(sequence, 400)
    torch.manual_seed(8)
    config = transformers.BertConfig(
        vocab_size=trained.get_vocab_size(),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=48,
        pad_token_id=trained.token_to_id("[PAD]"),
        num_labels=3,
        initializer_range=0.3,
    )
    model = getattr(transformers, head)(config).eval()
    model.save_pretrained(folder)
    trained.save(str(folder / "tokenizer.json"))
    return model, trained


def result(package: Any, description: Any, feeds: dict[str, np.ndarray]) -> np.ndarray:
    """The one output of the package with fp16 storage."""
    (output,) = description.outputs
    found = package.run(feeds, semantics="fp16")[description.names.get(output.name, output.name)]
    return np.asarray(found, np.float32)


def _feeds(window: Any, description: Any) -> dict[str, np.ndarray]:
    """What ``Sequences.swift`` hands to the model for a window."""
    held = {"input_ids": window.ids, "attention_mask": window.mask}
    return {
        description.names.get(spec.name, spec.name): np.array([list(held[spec.name])], spec.dtype)
        for spec in description.inputs
    }


def check_vectors(artefact: Path) -> None:
    """The vectors of the Swift test of the model hold for the package beside it."""
    (path,) = (artefact / "coreml/Swift/Tests").glob("*/Vectors/model_vectors.json")
    recorded = json.loads(path.read_text())
    package, description = opened(package_in(artefact))
    feeds = {
        description.names.get(spec.name, spec.name): np.array(
            recorded["inputs"][spec.name]["values"], spec.dtype
        ).reshape(recorded["inputs"][spec.name]["shape"])
        for spec in description.inputs
    }
    held = recorded["outputs"][description.outputs[0].name]
    values = result(package, description, feeds).ravel()
    assert recorded["snr"] >= 30
    assert snr(values[held["places"]], np.array(held["values"])) > recorded["snr"]


@pytest.mark.parametrize("head", ["BertForMaskedLM", "BertForSequenceClassification"])
def test_text_to_logits_as_in_transformers(head: str, tmp_path: Path) -> None:
    sequence = coreml_tokenizers.reference_fasta(tmp_path / "reference.fasta")
    model, trained = folder_of(tmp_path / "dna-model", head, sequence)
    artefact = tmp_path / "out"
    api.compile(tmp_path / "dna-model", out=artefact, target="coreml:iOS17")

    home = artefact / "coreml"
    package, description = opened(package_in(artefact))
    name = package_name("dna-model")
    sources = home / "Swift" / "Sources" / f"{name}Package"
    for path in (home / "Swift").rglob("*.swift"):
        assert not any(n.type == "ERROR" or n.is_missing for n in nodes(parse(path.read_bytes()))), path
    assert (sources / "tokenizer.json").read_bytes() == (tmp_path / "dna-model/tokenizer.json").read_bytes()

    run = Machine((sources / f"{part}.swift").read_text() for part in ALGORITHMS)
    data = (sources / "tokenizer.json").read_bytes()
    tokenizer = run.new(run.types["Tokenizer"], ("contentsOf", "pad"), data, None)
    tokens = int(description.inputs[0].shape[1])
    assert f"public static let tokens = {tokens}\n" in (sources / "Facts.swift").read_text()

    trained.enable_truncation(tokens, stride=4)
    trained.enable_padding(pad_id=trained.token_to_id("[PAD]"), pad_token="[PAD]", length=tokens)
    ours, wanted = [], []
    for text in (sequence[5000:5500], sequence[300:330], "ACGNNT"):
        windows = run.call(tokenizer, "windows", (None, "length", "overlap"), text, Int(tokens), Int(4))
        first = trained.encode(text)
        theirs = [first, *first.overflowing]
        assert [list(window.ids) for window in windows] == [piece.ids for piece in theirs]
        for window, piece in zip(windows, theirs, strict=True):
            ids, mask = (torch.tensor([given]) for given in (piece.ids, piece.attention_mask))
            with torch.no_grad():
                logits = model(input_ids=ids, attention_mask=mask).logits[0].numpy()
            found = result(package, description, _feeds(window, description))[0]
            kept = np.array(piece.attention_mask, bool) if logits.ndim == 2 else slice(None)
            ours.append(found[kept].ravel())
            wanted.append(logits[kept].ravel())
    assert len(ours) >= 5 and snr(np.concatenate(ours), np.concatenate(wanted)) > 45
    check_vectors(artefact)
    assert swift.verify(
        home,
        name=name,
        meta=description.meta,
        inputs=description.inputs,
        outputs=description.outputs,
    ) == ("tokenizer_vectors.json",)
    assert api.verify(artefact)
