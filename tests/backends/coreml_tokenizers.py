"""Real byte-pair tokenizers for tests: trained by `tokenizers` on sequence made by our simulator."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import models, normalizers, pre_tokenizers, processors, trainers

import rubicc
from rubicc.genomics.simulate import simulate_reads

SPECIAL = ["[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]"]


def reference_fasta(path: Path, reads: int = 40, bases: int = 900) -> str:
    """Write the truth of simulated reads of the demo genome as FASTA; the sequence of all of them."""
    found = reference()
    lines = (f">read{i}\n{found[i * bases : (i + 1) * bases]}\n" for i in range(reads))
    path.write_text("".join(lines))
    return "".join(line for line in path.read_text().splitlines() if not line.startswith(">"))


@functools.cache
def reference(reads: int = 40, bases: int = 900) -> str:
    """Overlapping reads of the demo genome: sequence seen several times, so that merges grow long."""
    lines = (Path(rubicc.__file__).parent / "data" / "demo_reference.fasta").read_text().splitlines()
    genome = "".join(line for line in lines if not line.startswith(">"))
    return "".join(read.sequence for read in simulate_reads(reads, 11, bases, genome=genome))


def train(
    sequence: str,
    vocabulary: int = 500,
    *,
    pre: str | None = None,
    lowercase: bool = False,
    fuse: bool = False,
    template: str = "[CLS] $A [SEP]",
) -> tokenizers.Tokenizer:
    """A GENA-LM-like tokenizer: no normalizer, no pre-tokenizer, ``[CLS] x [SEP]``."""
    made = tokenizers.Tokenizer(models.BPE(unk_token="[UNK]", fuse_unk=fuse))
    if pre is not None:
        made.pre_tokenizer = getattr(pre_tokenizers, pre)()
    if lowercase:
        made.normalizer = normalizers.Lowercase()
    trainer = trainers.BpeTrainer(vocab_size=vocabulary, special_tokens=SPECIAL, show_progress=False)
    made.train_from_iterator([sequence[i : i + 800] for i in range(0, len(sequence), 800)], trainer)
    ids = [(token, made.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    made.post_processor = processors.TemplateProcessing(single=template, special_tokens=ids)
    return made


def as_json(made: tokenizers.Tokenizer) -> dict[str, Any]:
    """The tokenizer's file as data."""
    return json.loads(made.to_str())


def as_bytes(data: dict[str, Any]) -> bytes:
    """Data as a tokenizer file."""
    return json.dumps(data).encode()
