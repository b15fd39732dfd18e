"""The zoo's networks as files, and what they are proven on: real signal, real sequence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from speed.networks import real_data

SPECIAL = ("[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]")  # GENA-LM's order
LENGTHS = (512, 300, 130, 20)  # tokens of the four sequences, [CLS] and [SEP] counted; the rest is padding


@dataclass(frozen=True)
class Network:
    """One row group of the table.

    Attributes:
        name: as on the command line.
        arch, config: of the zoo.
        goal: fp16 SNR in dB that the issue asks for.
        quantised: judged by its own float32 noise.
    """

    name: str
    arch: str
    config: Mapping[str, Any] = field(default_factory=dict)
    goal: float = 50.0
    quantised: bool = False


NETWORKS = {
    network.name: network
    for network in (
        Network("demo-ctc", "demo-ctc"),
        Network("taiyaki-mgru", "taiyaki-mgru"),
        Network("bonito-ctc", "bonito-ctc"),
        Network("quartznet", "quartznet"),
        Network("rubicall-fp", "rubicall-fp"),
        Network("rubicall", "rubicall", quantised=True),
        Network("qabas", "qabas", quantised=True),
        Network("bonito-crf-fast", "bonito-crf", {"preset": "fast"}),
        Network("bonito-crf-hac", "bonito-crf", {"preset": "hac"}),
        Network("dna-bert", "dna-bert", goal=45.0),
    )
}


@dataclass(frozen=True)
class Case:
    """A network made concrete.

    Attributes:
        model: checkpoint that ``rubicc compile`` is given.
        arch: what ``--arch`` says; empty where the file knows.
        reference: what ``--reference`` is given; ``None`` = rubicc's own input.
        notes: where weights and input come from.
    """

    network: Network
    model: Path
    arch: str
    reference: Path | None
    notes: tuple[str, ...]


def make(network: Network, home: Path) -> Case:
    """Files of ``network`` in ``home``; those already there are used again."""
    data = real_data()
    model, arch, weights = _weights(network, home, data)
    if network.arch == "dna-bert":
        reference, note = _tokens(home / "tokens.npz", data)
        return Case(network, model, arch, reference, (weights, note))
    if data is None:
        return Case(network, model, arch, None, (weights, "simulated signal (no real data here)"))
    return Case(network, model, arch, data / "mapped", (weights, "real R9.4.1 signal"))


def _weights(network: Network, home: Path, data: Path | None) -> tuple[Path, str, str]:
    from importlib.resources import files

    from rubicc.frontend import checkpoint
    from rubicc.models import registry

    if network.arch == "demo-ctc":
        return Path(str(files("rubicc") / "data" / "demo_ctc.pt")), "", "trained weights"
    if network.arch == "taiyaki-mgru" and data is not None:
        return data / "weights" / "r9_mgru_flipflop_state_dict.pt", network.arch, "real weights"
    path = home / f"{network.name}.pt"
    if not path.is_file():
        entry, config = registry.get(network.arch), dict(network.config) or None
        checkpoint.save(path, entry.build(config, seed=0), entry.meta(config))
    return path, "", "random weights"


def _tokens(path: Path, data: Path | None) -> tuple[Path | None, str]:
    """Four windows of genome as a byte-pair tokenizer trained on it cuts them, padded to 512 tokens."""
    text, origin = _genome(data)
    try:
        tokens = _tokenised(text)
    except ImportError as err:
        return None, f"random tokens, masks of three lengths ({err})"
    longest = max(LENGTHS)
    ids = np.full((len(LENGTHS), longest), SPECIAL.index("[PAD]"), np.int64)
    mask = np.zeros_like(ids)
    for row, length in enumerate(LENGTHS):
        start = row * longest
        cut = [SPECIAL.index("[CLS]"), *tokens[start : start + length - 2], SPECIAL.index("[SEP]")]
        ids[row, : len(cut)], mask[row, : len(cut)] = cut, 1
    np.savez(path, input_ids=ids, attention_mask=mask)
    return path, f"{origin}, {', '.join(map(str, mask.sum(1)))} tokens padded to {longest}"


def _genome(data: Path | None) -> tuple[str, str]:
    from importlib.resources import files

    from rubicc.genomics.evaluate import read_sequences

    paths: list[Path] = []
    origin = "real genome"
    if data is not None:
        paths = sorted((data / "mapped").glob("references_*.fasta"))
    if not paths:
        paths, origin = [Path(str(files("rubicc") / "data" / "demo_reference.fasta"))], "the demo genome"
    return "".join(text for path in paths for _, text in read_sequences(path)), origin


def _tokenised(text: str) -> list[int]:
    """Ids of a whole genome, cut into pieces as long as a read."""
    import tokenizers
    from tokenizers import models, trainers

    pieces = [text[start : start + 2000] for start in range(0, len(text), 2000)]
    made = tokenizers.Tokenizer(models.BPE(unk_token="[UNK]"))
    trainer = trainers.BpeTrainer(vocab_size=4000, special_tokens=list(SPECIAL), show_progress=False)
    made.train_from_iterator(pieces, trainer)
    return [token for piece in made.encode_batch(pieces) for token in piece.ids]
