"""Small relatives of the zoo's networks, as their source module and as lowered graphs."""

from __future__ import annotations

import functools
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rubicc.frontend import checkpoint, read_model
from rubicc.frontend.lower import lower
from rubicc.ir.graph import Graph
from rubicc.models import registry
from rubicc.passes.manager import run_pipeline
from rubicc.passes.pipelines import PIPELINES

SMALL: dict[str, Any] = {
    "taiyaki-mgru": {"size": 8, "layers": 3},
    "dna-bert": {
        "vocab_size": 50,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "max_position_embeddings": 64,
    },
}
FLOAT = ("demo-ctc", "bonito-ctc", "quartznet", "taiyaki-mgru", "bonito-crf", "dna-bert")
QUANTISED = ("qabas", "rubicall")


@dataclass
class Net:
    """A network as module and graph."""

    module: nn.Module
    raw: Graph
    cleaned: Graph

    def fresh(self) -> nn.Module:
        """The module to train: in eval mode, its dropout off."""
        self.module.zero_grad()
        for part in self.module.modules():
            if isinstance(part, nn.Dropout):
                part.p = 0.0
        return self.module.eval()


@functools.cache
def net(name: str) -> Net:
    """Network ``name`` with seeded random weights and small sizes."""
    entry, config = registry.get(name), small_config(name)
    module = entry.build(config, seed=0)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{name}.pt"
        checkpoint.save(path, module, entry.meta(config))
        raw = lower(read_model(path), (), 0).graph
    cleaned = raw.clone()
    run_pipeline(cleaned, PIPELINES["cleanup"])
    return Net(module, raw, cleaned)


def small_config(name: str) -> Any:
    if name in SMALL:
        return SMALL[name]
    config = registry.get(name).default
    if name == "bonito-crf":
        convs = tuple(replace(c, filters=f) for c, f in zip(config.convs, (4, 4, 8), strict=True))
        return replace(
            config, convs=convs, lstms=tuple(replace(s, size=8) for s in config.lstms[:3]), state_len=2
        )
    count, repeat = (3, 1) if name in QUANTISED else (4, 2)  # Brevitas' layers are slow to lower
    blocks = tuple(
        replace(b, filters=16, kernel=min(b.kernel, 7), repeat=min(b.repeat, repeat))
        for b in config.blocks[:count]
    )
    return replace(config, blocks=blocks)


def feeds(graph: Graph, batch: int = 3, length: int = 60, seed: int = 0) -> dict[str, np.ndarray]:
    """Inputs of a zoo graph: noise, or tokens with a mask whose first tokens count."""
    rng = np.random.default_rng(seed)
    given = {}
    for value in graph.inputs:
        name = value.name or ""
        sizes = {"N": batch, "T": 24 if name in ("input_ids", "attention_mask") else length}
        shape = [dim if isinstance(dim, int) else sizes[str(dim.value)] for dim in value.shape or ()]
        if name == "attention_mask":
            given[name] = rng.integers(0, 2, shape)
            given[name][:, :4] = 1
        elif name == "input_ids":
            given[name] = rng.integers(0, 50, shape)
        else:
            given[name] = rng.standard_normal(shape).astype(np.float32)
    return given


def tensors(given: dict[str, np.ndarray], dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """Feeds as tensors, floats in ``dtype``."""
    made = {name: torch.from_numpy(np.array(array)) for name, array in given.items()}
    return {name: x.to(dtype) if x.is_floating_point() else x for name, x in made.items()}


def gap(got: Any, want: Any) -> float:
    """Largest difference, relative to the largest value above 1."""
    a, b = (np.asarray(x.detach() if isinstance(x, Tensor) else x, np.float64) for x in (got, want))
    assert a.shape == b.shape
    assert np.isfinite(b).all()
    return float(np.abs(a - b).max(initial=0.0) / max(1.0, np.abs(b).max(initial=0.0)))
