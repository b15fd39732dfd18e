"""Swift packages of every kind of model, and Swift read by a real grammar."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import coreml_tokenizers
import numpy as np
import tree_sitter
import tree_sitter_swift

from rubicc.backends.coreml import swift
from rubicc.models import registry
from rubicc.spec import DecoderSpec, ModelMeta, TensorSpec

LANGUAGE = tree_sitter.Language(tree_sitter_swift.language())


def parse(source: bytes) -> tree_sitter.Node:
    """Root of the syntax tree of Swift source."""
    return tree_sitter.Parser(LANGUAGE).parse(source).root_node


def nodes(root: tree_sitter.Node) -> Iterator[tree_sitter.Node]:
    """The node and all below it, in order of the source."""
    yield root
    for child in root.children:
        yield from nodes(child)


def shape(root: tree_sitter.Node) -> str:
    """The tree's kinds of nodes without their text; what stands in a string literal is left out, except that
    an interpolation is told."""
    if root.type == "line_string_literal":
        holes = sum(node.type == "interpolated_expression" for node in nodes(root))
        return f"(literal {holes})"
    if root.type == "comment":
        return "(comment)"
    return f"({root.type}{''.join(shape(child) for child in root.children)})"


@dataclass(frozen=True)
class Made:
    """What ``swift.write`` is asked for."""

    meta: ModelMeta | None
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    name: str = "Model"
    assets: Mapping[str, bytes] = field(default_factory=dict)
    features: Mapping[str, str] = field(default_factory=dict)

    def vectors(self) -> swift.Vectors:
        """A run with drawn values."""
        draw = np.random.default_rng(0)

        def values(spec: TensorSpec) -> np.ndarray:
            dims = [dim if isinstance(dim, int) else 12 for dim in spec.shape]
            if not spec.dtype.startswith("float"):
                return draw.integers(0, 9, dims).astype(np.int32)
            drawn = draw.normal(size=dims)
            drawn -= np.log(np.exp(drawn).sum(axis=-1, keepdims=True))
            return drawn.astype(spec.dtype)

        return swift.Vectors(
            {spec.name: values(spec) for spec in self.inputs},
            {spec.name: values(spec) for spec in self.outputs},
        )

    def write(self, folder: Path, *, run: bool = True, **options: Any) -> tuple[str, ...]:
        """Write it to ``folder``."""
        return swift.write(
            folder,
            name=self.name,
            meta=self.meta,
            inputs=self.inputs,
            outputs=self.outputs,
            assets=self.assets,
            vectors=self.vectors() if run else None,
            features=self.features,
            **options,
        )

    def verify(self, folder: Path) -> tuple[str, ...]:
        """Run its vectors again."""
        return swift.verify(folder, name=self.name, meta=self.meta, inputs=self.inputs, outputs=self.outputs)

    def decisions(self) -> dict[str, str]:
        """Code -> reason of what the package leaves out."""
        found = swift.decisions(
            name=self.name, meta=self.meta, inputs=self.inputs, outputs=self.outputs, assets=self.assets
        )
        return {decision.code: decision.reason for decision in found}


def basecaller(name: str, columns: int, length: int, **changes: Any) -> Made:
    """A basecaller of the zoo at a fixed window."""
    meta = replace(registry.get(name).meta(), **changes)
    assert meta.stride is not None
    outputs = (TensorSpec("y", (length // meta.stride, 1, columns)),)
    return Made(meta, (TensorSpec("x", (1, 1, length)),), outputs, "Caller")


def tokenizer_file() -> bytes:
    """A trained tokenizer of 500 tokens as its file."""
    return coreml_tokenizers.train(coreml_tokenizers.reference()).to_str().encode()


def language_model(tokens: int | str = 32) -> Made:
    """A DNA language model with its tokenizer."""
    meta = registry.get("dna-bert").meta()
    meta = replace(meta, config={**meta.config, "vocab_size": 500, "pad_token_id": 3})
    inputs = tuple(TensorSpec(name, (1, tokens), "int32") for name in ("input_ids", "attention_mask"))
    assets = {"tokenizer.json": tokenizer_file()}
    return Made(meta, inputs, (TensorSpec("logits", (1, tokens, 500)),), "DnaBert", assets)


def float_mask() -> Made:
    """The language model as the lowering declares it where its mask is only read as numbers."""
    made = language_model()
    ids, mask = made.inputs
    return replace(made, inputs=(ids, replace(mask, dtype="float32")))


def classifier() -> Made:
    """A classifier over whole sequences, whose mask is additive and whose types are asked for."""
    made = language_model()
    assert made.meta is not None
    inputs = (
        TensorSpec("input_ids", (1, 32), "int32"),
        TensorSpec("token_type_ids", (1, 32), "int32"),
        TensorSpec("attention_mask", (1, 1, 1, 32)),
    )
    meta = replace(made.meta, task="generic", arch="bert-classifier")
    return replace(made, meta=meta, inputs=inputs, outputs=(TensorSpec("logits", (1, 3)),), name="Promoters")


CRF3 = DecoderSpec("crf", {"state_len": 3}, 1.1, -0.4)
KINDS: dict[str, Any] = {
    "ctc": lambda: basecaller("demo-ctc", 5, 3000),
    "flip-flop": lambda: basecaller("taiyaki-mgru", 40, 4000),
    "crf": lambda: basecaller("bonito-crf", 256, 4000, decoder=CRF3),
    "language model": language_model,
    "classifier": classifier,
    "float mask": float_mask,
    "free lengths": lambda: language_model("T"),
    "no metadata": lambda: Made(
        None,
        (TensorSpec("a", (1, "T"), "float16"), TensorSpec("in", (), "float32")),
        (TensorSpec("features", (2,), "float16"), TensorSpec("out-2", ("T",), "int64")),
    ),
}
