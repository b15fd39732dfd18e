"""From a prepared graph to a plan of the array; nothing is measured here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from rubicc.backends.aie.extract import extract
from rubicc.backends.aie.net import Conv, Net
from rubicc.backends.aie.numbers import Type
from rubicc.backends.aie.plan.devices import device
from rubicc.backends.aie.plan.model import AiePlan
from rubicc.backends.aie.prepare import device_of
from rubicc.backends.aie.project.write import host_work
from rubicc.backends.aie.session import INTEGER, SIM
from rubicc.backends.base import Plan, Target
from rubicc.evidence.decision import Decision
from rubicc.ir.graph import Graph
from rubicc.shapes import Shapes

Arrays = Mapping[str, np.ndarray]
Example = tuple[Arrays, Arrays]


@dataclass(frozen=True, kw_only=True)
class AieTargetPlan(Plan):
    """What is going to be emitted.

    Attributes:
        array: the mapping onto the array.
        net: the integer network it maps.
        name: of the model.
        precision, objective: as asked.
        example: inputs and outputs that become the simulations' files; ``None`` = zeros.
    """

    array: AiePlan
    net: Net
    name: str
    precision: str
    objective: str
    shapes: Shapes | None = None
    example: Callable[[], Example] | None = field(default=None, compare=False)

    def resolved(self) -> dict[str, Any]:
        """See :class:`rubicc.backends.base.Plan`."""
        return {"runtime": SIM, "precision": self.precision, "objective": self.objective}


def plan(
    graph: Graph,
    target: Target,
    *,
    precision: str = "int8",
    objective: str = "throughput",
    shapes: Shapes | None = None,
    name: str = "model",
    example: Callable[[], Example] | None = None,
    device_facts: Mapping[str, float | int] | None = None,
    **_: Any,
) -> AieTargetPlan:
    """The plan for a prepared graph.

    Args:
        device_facts: numbers that replace those of the table of devices.

    Raises:
        UsageError: ``RUB-AIE-203`` no such fact.
        Unsupported: ``RUB-AIE-10x`` no integer network, ``RUB-AIE-2xx`` no legal mapping, with the numbers.
    """
    from rubicc.backends.aie.plan.planner import Options
    from rubicc.backends.aie.plan.planner import plan as planned

    net, widened = with_whole_bytes(extract(graph, target))
    frames = frames_of(net, steps_of(graph, net))
    board = device(device_of(target), device_facts)
    array = planned(net, board, Options(frames=frames, objective=objective))
    decisions = [Decision(note.code, note.where, note.what, note.reason) for note in array.notes]
    decisions += widened
    if board.given:
        facts = ", ".join(f"{fact} {board.facts[fact]}" for fact in board.given)
        decisions.append(Decision("RUB-AIE-D03", board.name, facts, "given by --device-fact, not checked"))
    work = host_work(array, net)
    decisions.append(Decision("RUB-AIE-D01", name, "on the host: " + "; ".join(work), "the array is integer"))
    return AieTargetPlan(
        target=target,
        runtimes=(SIM, INTEGER),
        decisions=tuple(decisions),
        array=array,
        net=net,
        name=name,
        precision=precision,
        objective=objective,
        shapes=shapes,
        example=example,
    )


def with_whole_bytes(net: Net) -> tuple[Net, list[Decision]]:
    """``net`` with weights of at least 8 bits, as the kernels store and multiply them; what was widened."""
    layers, decisions = [], []
    for layer in net.layers:
        if isinstance(layer, Conv) and layer.weight_type.bits < 8:
            what = f"{layer.weight_type} weights stored and multiplied in 8 bits"
            decisions.append(
                Decision("RUB-AIE-D02", layer.source or layer.name, what, "no kernel takes fewer")
            )
            layer = replace(layer, weight_type=Type(8))
        layers.append(layer)
    return replace(net, layers=tuple(layers)), decisions


def frames_of(net: Net, steps: int) -> int:
    """Frames of a sequence as the array is fed: a strided first layer reads windows."""
    for layer in net.consumers(net.inputs[0]):
        if isinstance(layer, Conv) and layer.stride > 1:
            return layer.frames(steps)
    return steps


def steps_of(graph: Graph, net: Net) -> int:
    """Time steps of an input of the network, which the graph's own shapes say."""
    from rubicc.backends.aie.extract import AXES_KEY

    name = net.inputs[0]
    value = next(v for node in graph.nodes for v in node.outputs if v.name == name)
    dim = (value.shape or ())[net.meta[f"{AXES_KEY}:{name}"].index("T")]
    if not isinstance(dim, int):
        raise AssertionError("the graph is bound to one length before it is planned")
    return dim
