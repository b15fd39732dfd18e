"""Small networks that the tests of several verbs begin with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rubicc import api
from rubicc.frontend import checkpoint, read_model
from rubicc.frontend.lower import lower
from rubicc.ir.graph import Graph
from rubicc.ir.io import load_graph, save_graph
from rubicc.models import registry
from rubicc.shrink.skip_schedule import SkipSettings

SKIPS = ["blocks.1/Add", "blocks.2/Add", "blocks.3/Add"]  # of demo_ctc


def demo_ctc(folder: Path) -> Path:
    """The embedded network with random weights: three blocks with skips."""
    path = folder / "small.pt"
    entry = registry.get("demo-ctc")
    checkpoint.save(path, entry.build(seed=0), entry.meta())
    return path


def flipflop(folder: Path) -> Path:
    """A small flip-flop network with random weights, as a graph, which is read faster."""
    path = folder / "small.pt"
    entry = registry.get("taiyaki-mgru")
    config = {"size": 8, "layers": 2}
    checkpoint.save(path, entry.build(config, seed=0), entry.meta(config))
    save_graph(lower(read_model(path), (), 0).graph, path.with_suffix(".onnx"))
    return path.with_suffix(".onnx")


def clipped(model: Any, out: Path, **options: Any) -> tuple[Any, Graph]:
    """Result and graph; options of ``SkipSettings``, or of ``skipclip`` itself."""
    names = SkipSettings.__dataclass_fields__
    own = {name: options.pop(name) for name in list(options) if name in names}
    made = api.skipclip(model, out=out, settings=SkipSettings(**own), **options)
    assert made is not None
    return made, load_graph(out / "model.onnx")
