"""What the host computes: from the model's inputs to integers, and from integers to the model's outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property

import numpy as np
import onnx_ir as ir

from rubicc.backends.aie.extract import AXES_KEY
from rubicc.backends.aie.net import Net
from rubicc.backends.aie.reference import run
from rubicc.ir.executor import execute
from rubicc.ir.graph import Graph

NET_AXES = "NCT"


class Host:
    """The two float ends of an integer-only graph, cut at the edges of its integer network.

    Attributes:
        graph: the whole graph.
        net: the network read out of it.
    """

    def __init__(self, graph: Graph, net: Net) -> None:
        self.graph, self.net = graph, net

    @cached_property
    def before(self) -> Graph:
        """Model inputs to integers; its outputs are the network's inputs, laid out as the graph has them."""
        return _cut(self.graph, [value.name or "" for value in self.graph.inputs], self.net.inputs)

    @cached_property
    def after(self) -> Graph:
        """Integers (in float containers) to the model's outputs; also takes the inputs it reads."""
        made = [value.name or "" for value in self.graph.inputs]
        return _cut(self.graph, [*self.net.outputs, *made], [v.name or "" for v in self.graph.outputs])

    @cached_property
    def integer_part(self) -> Graph:
        """Model inputs to the network's outputs, as the graph computes them."""
        return _cut(self.graph, [value.name or "" for value in self.graph.inputs], self.net.outputs)

    def integers(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Model inputs to what the network is fed: int64 ``(N, C, T)`` by edge name."""
        values = execute(self.before, _read(self.before, feeds))
        return {name: to_net(values[name], self.axes(name)) for name in self.net.inputs}

    def finish(
        self, values: Mapping[str, np.ndarray], feeds: Mapping[str, np.ndarray] | None = None
    ) -> dict[str, np.ndarray]:
        """The network's outputs ``(N, C, T)`` to the model's.

        Args:
            values: integers by edge name.
            feeds: the model's inputs, which some host work may read again.
        """
        made = {n: from_net(values[n], self.axes(n)).astype(np.float32) for n in self.net.outputs}
        return execute(self.after, _read(self.after, {**(feeds or {}), **made}))

    def run(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The model, its integer part by the reference."""
        return self.finish(run(self.net, self.integers(feeds)), feeds)

    def axes(self, edge: str) -> str:
        """How the graph lays ``edge`` out, a letter per axis."""
        return self.net.meta[f"{AXES_KEY}:{edge}"]


def to_net(values: np.ndarray, axes: str) -> np.ndarray:
    """A graph's value laid out as ``axes`` says, as int64 ``(N, C, T)``."""
    kept = [axis for axis, letter in enumerate(axes) if letter != "1"]
    made = values.reshape([values.shape[axis] for axis in kept])
    letters = "".join(axes[axis] for axis in kept)
    for letter in NET_AXES:
        if letter not in letters:
            made, letters = made[None], letter + letters
    return made.transpose([letters.index(letter) for letter in NET_AXES]).astype(np.int64)


def from_net(values: np.ndarray, axes: str) -> np.ndarray:
    """``(N, C, T)`` laid out as ``axes`` says; axes that are not named have one element."""
    letters = axes.replace("1", "")
    gone = tuple(axis for axis, letter in enumerate(NET_AXES) if letter not in letters)
    rest = "".join(letter for letter in NET_AXES if letter in letters)
    made = np.squeeze(values, gone).transpose([rest.index(letter) for letter in letters])
    sizes = iter(made.shape)
    return made.reshape([1 if letter == "1" else next(sizes) for letter in axes])


def _cut(graph: Graph, inputs: Sequence[str], outputs: Sequence[str]) -> Graph:
    whole = graph.clone()
    part = ir.convenience.extract(whole.ir, list(inputs), list(outputs))
    for value in list(part.inputs):
        if not value.uses() and not value.is_graph_output():
            part.inputs.remove(value)
    made = ir.Model(part, ir_version=whole.model.ir_version)
    made.opset_imports.update(whole.model.opset_imports)
    return Graph(made)


def _read(part: Graph, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {value.name or "": feeds[value.name or ""] for value in part.inputs}
