"""Transformers as their authors write them, exported; what tests of Neural Engine passes ask of graphs."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx_ir as ir

from rubicc.ir.graph import SOURCE_KEY, Graph
from rubicc.ir.shapes import infer_shapes

WORDS, WIDTH, HEADS, LAYERS, PLACES = 29, 24, 4, 2, 40
MOVES = ("Transpose", "Squeeze", "Unsqueeze", "Reshape", "Flatten", "Expand", "Gather", "Slice", "GatherND")
KEYS = [0, 3, 2, 1]


def export(module: Any, dynamo: bool, bind: Mapping[str, int] | None = None) -> Graph:
    """``module(ids, mask)`` with symbolic batch N and length T, or these bound."""
    import onnx
    import torch

    ids, mask = torch.randint(2, WORDS, (2, 9)), torch.ones(2, 9, dtype=torch.int64)
    mask[1, 6:] = 0
    names: dict[str, Any] = {"input_names": ["ids", "mask"], "output_names": ["y"]}
    axes = {name: {0: "N", 1: "T"} for name in ("ids", "mask", "y")}
    logging.disable(logging.WARNING)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        if dynamo:
            dims = ({0: torch.export.Dim("N"), 1: torch.export.Dim("T")},) * 2
            program = torch.onnx.export(
                module, (ids, mask), dynamo=True, dynamic_shapes=dims, verbose=False, optimize=False, **names
            )
            proto = program.model_proto
        else:
            buffer = io.BytesIO()
            torch.onnx.export(
                module, (ids, mask), buffer, dynamo=False, dynamic_axes=axes, opset_version=20,
                do_constant_folding=False, **names,
            )  # fmt: skip
            proto = onnx.load_from_string(buffer.getvalue())
    logging.disable(logging.NOTSET)
    graph = Graph.from_proto(proto)
    for node in graph.all_nodes():
        node.metadata_props.setdefault(SOURCE_KEY, node.name or node.op_type)
    return infer_shapes(graph, dict(bind or {}))


def modules() -> dict[str, tuple[Callable[[], Any], bool]]:
    """Builders by name, and whether the dynamo exporter takes them (else the tracer)."""
    import torch
    import transformers as hf
    from torch import nn

    from rubicc.models import registry

    class Wrapped(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            return self.inner(input_ids=ids, attention_mask=mask).last_hidden_state

    class Torch(nn.Module):
        """nn.TransformerEncoder, or one nn.MultiheadAttention, batch or time first."""

        def __init__(self, first: bool, **options: Any) -> None:
            super().__init__()
            self.first, self.words = first, nn.Embedding(WORDS, WIDTH)
            layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 48, 0.0, "gelu", batch_first=first, **options)
            self.body = nn.TransformerEncoder(layer, LAYERS, enable_nested_tensor=False)

        def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            x = self.words(ids)
            y = self.body(x if self.first else x.transpose(0, 1), src_key_padding_mask=mask == 0)
            return y if self.first else y.transpose(0, 1)

    class Multihead(nn.Module):
        def __init__(self, weights: bool = False) -> None:
            super().__init__()
            self.words, self.norm = nn.Embedding(WORDS, WIDTH), nn.LayerNorm(WIDTH)
            self.core, self.last = nn.MultiheadAttention(WIDTH, HEADS), nn.Linear(WIDTH, 7)
            self.weights = weights

        def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            x = self.norm(self.words(ids)).transpose(0, 1)
            y, seen = self.core(x, x, x, key_padding_mask=mask == 0, need_weights=self.weights)
            y = self.last(x + y)
            return (y + seen.sum() if self.weights else y).transpose(0, 1)

    def bert(attention: str) -> Any:
        config = hf.BertConfig(
            vocab_size=WORDS, hidden_size=WIDTH, num_hidden_layers=LAYERS, num_attention_heads=HEADS,
            intermediate_size=48, max_position_embeddings=PLACES, attn_implementation=attention,
        )  # fmt: skip
        return Wrapped(hf.BertModel(config, add_pooling_layer=False))

    def gpt(attention: str) -> Any:
        config = hf.GPT2Config(
            vocab_size=WORDS, n_embd=WIDTH, n_layer=LAYERS, n_head=HEADS, n_positions=PLACES,
            attn_implementation=attention, use_cache=False,
        )  # fmt: skip
        return Wrapped(hf.GPT2Model(config))

    def zoo(**changes: Any) -> Any:
        config = {
            "vocab_size": WORDS, "hidden_size": WIDTH, "num_hidden_layers": LAYERS,
            "num_attention_heads": HEADS, "intermediate_size": 48,
            "max_position_embeddings": PLACES, **changes,
        }  # fmt: skip
        return registry.get("dna-bert").build(config)

    return {
        "dna-bert": (zoo, False),
        "dna-bert, norm behind": (lambda: zoo(pre_layer_norm=False), False),
        "transformers BERT, eager": (lambda: bert("eager"), False),
        "transformers BERT, sdpa": (lambda: bert("sdpa"), False),
        "transformers BERT, sdpa, dynamo": (lambda: bert("sdpa"), True),
        "transformers GPT-2, eager": (lambda: gpt("eager"), False),
        "transformers GPT-2, sdpa": (lambda: gpt("sdpa"), False),
        "torch encoder, time first": (lambda: Torch(False, norm_first=True), True),
        "torch encoder, norm behind": (lambda: Torch(True, norm_first=False), True),
        "torch attention": (Multihead, True),
        "torch attention with weights": (lambda: Multihead(True), True),
    }


def made(name: str) -> tuple[Any, Graph]:
    """A network with random parameters (some gammas 0), and its graph."""
    import torch

    build, dynamo = modules()[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        module = build().eval()
        for key, value in module.named_parameters():
            with torch.no_grad():
                value.copy_(
                    torch.randn_like(value) * 0.3 + (1.0 if value.dim() == 1 and "bias" not in key else 0.0)
                )
                if value.dim() == 1 and "bias" not in key:
                    value[::5] = 0.0
        return module, export(module, dynamo)


def body_moves(graph: Graph) -> list[ir.Node]:
    """Nodes that move data, on a way from a convolution to a convolution; turning keys is attention's own."""
    convs = [node for node in graph.nodes if node.op_type in ("Conv", "ConvTranspose")]
    behind, before = _closure(convs, True), _closure(convs, False)
    inner = [node for node in graph.nodes if node in behind and node in before and node.op_type in MOVES]
    return [node for node in inner if not _turns_keys(node)]


def _closure(start: list[ir.Node], forward: bool) -> set[ir.Node]:
    seen: set[ir.Node] = set()
    queue = list(start)
    while queue:
        node = queue.pop()
        values = node.outputs if forward else [v for v in node.inputs if v is not None]
        for value in values:
            makers = [] if value.producer() is None else [value.producer()]
            for other in [use.node for use in value.uses()] if forward else makers:
                if other is not None and other not in seen:
                    seen.add(other)
                    queue.append(other)
    return seen


def _turns_keys(node: ir.Node) -> bool:
    """Whether ``node`` is the Transpose of all keys of one attention."""
    if node.op_type != "Transpose" or list(node.attributes["perm"].value) != KEYS:
        return False
    readers = [use.node for use in node.outputs[0].uses()]
    while readers and readers[0].op_type in ("Mul", "Split"):
        readers = [use.node for reader in readers for out in reader.outputs for use in out.uses()]
    return bool(readers) and all(reader.op_type == "Einsum" for reader in readers)


def tokens(rows: int, steps: int, filled: tuple[int, ...], seed: int = 0) -> dict[str, np.ndarray]:
    """Random ids and a mask of the first ``filled`` places of every row."""
    ids = np.random.default_rng([seed, rows, steps]).integers(2, WORDS, (rows, steps))
    return {"ids": ids, "mask": (np.arange(steps) < np.asarray(filled)[:, None]).astype(np.int64)}
