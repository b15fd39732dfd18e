"""How an additive mask follows from the integers a network is given, learnt by running what computes it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
import onnx_ir as ir

from rubicc.errors import RubiccError
from rubicc.ir.executor import execute
from rubicc.ir.graph import Graph, spec_of
from rubicc.passes.layout.operands import drop_unused
from rubicc.passes.rewrite import Editor, constant, is_constant, is_standard

RULE_KEY = "rubicc.mask"  # graph metadata: a MaskRule as JSON
_ROWS, _STEPS = 3, 8  # of a trial, where the sizes are symbols
_ANY_ID = 2  # an id that is a token in a trial, unless it is the padding


class Unknown(Exception):
    """Why a mask cannot be made outside."""


@dataclass(frozen=True)
class MaskRule:
    """The float input ``name`` (B, 1, 1, K) of a network whose mask is made outside.

    Attributes:
        source: integer array (B, K) it is made from.
        pad: masked where the source equals this; ``None``: masked where the source is 0.
        attend, masked: what it holds.
        dropped: whether the source is no input of the network any more.
    """

    name: str
    source: str
    pad: int | None
    attend: float
    masked: float
    dropped: bool = False

    @classmethod
    def of(cls, graph: Graph) -> MaskRule | None:
        """The rule a graph carries."""
        text = graph.ir.metadata_props.get(RULE_KEY)
        return None if text is None else cls(**json.loads(text))

    def feeds(self, given: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Inputs of the rewritten network from those of the original one."""
        made = {name: array for name, array in given.items() if name != self.source or not self.dropped}
        return made | {self.name: self.bias(given[self.source])}

    def bias(self, source: np.ndarray) -> np.ndarray:
        """(B, K) integers to float32 (B, 1, 1, K)."""
        masked = source == (0 if self.pad is None else self.pad)
        return np.where(masked, np.float32(self.masked), np.float32(self.attend))[:, None, None, :]


def ancestors(value: ir.Value) -> Iterator[ir.Node]:
    """Nodes that ``value`` is computed by."""
    seen: set[ir.Node] = set()
    queue = [value.producer()]
    while queue:
        node = queue.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        yield node
        queue += [v.producer() for v in node.inputs if v is not None]


def learn(graph: Graph, value: ir.Value, pads: Sequence[int]) -> MaskRule:
    """The rule by which the additive mask ``value`` follows from one integer input.

    Args:
        pads: ids to try as padding, beside those the graph compares with.

    Raises:
        Unknown: there is no such rule.
    """
    part, source = _part(graph, value)
    compared = [
        int(array.reshape(-1)[0])
        for node in ancestors(value)
        if is_standard(node, "Equal")
        for v in node.inputs
        if is_constant(v)
        and (array := constant(v)) is not None
        and array.size == 1
        and array.dtype.kind in "iu"
    ]
    for pad in dict.fromkeys([None, *compared, *pads]):
        held = _held(part, source, pad)
        if held is not None:
            return MaskRule("attention_bias", source, pad, *held)
    raise Unknown(f"no rule by padding found for the mask computed from {source!r}")


def _part(graph: Graph, value: ir.Value) -> tuple[Graph, str]:
    """What computes the mask, as a graph of its own with one input."""
    part = graph.clone()
    named = [v for node in part.ir for v in node.outputs if v.name == value.name]
    if not named:
        raise Unknown("the mask is not computed in the main graph")
    part.ir.outputs.clear()
    part.ir.outputs.append(named[0])
    kept = set(ancestors(named[0]))
    for node in reversed(part.nodes):
        if node not in kept:
            part.ir.remove(node, safe=True)
    for one in [v for v in part.ir.inputs if not v.uses()]:
        part.ir.inputs.remove(one)
    if len(part.ir.inputs) != 1:
        names = ", ".join(str(v.name) for v in part.ir.inputs)
        raise Unknown(f"the mask is computed from {len(part.ir.inputs)} inputs ({names})")
    source = part.ir.inputs[0]
    if (
        source.dtype is None
        or not source.dtype.is_integer()
        or source.shape is None
        or len(source.shape) != 2
    ):
        raise Unknown(f"the mask is computed from {source.name!r}, which is not integers (B, K)")
    return part, source.name or ""


def _held(part: Graph, source: str, pad: int | None) -> tuple[float, float] | None:
    """(attend, masked) if on a trial the mask is one where the source is a token and the other elsewhere."""
    value = part.ir.inputs[0]
    assert value.shape is not None and value.dtype is not None
    rows, steps = (d if isinstance(d, int) else n for d, n in zip(value.shape, (_ROWS, _STEPS), strict=True))
    if steps < 2:
        return None
    token = 1 if pad is None else (_ANY_ID if pad != _ANY_ID else _ANY_ID + 1)
    masked = np.arange(rows * steps).reshape(rows, steps) % 5 >= 3  # holes and tails; no row is masked whole
    given = np.where(masked, 0 if pad is None else pad, token).astype(value.dtype.numpy())
    try:
        (mask,) = execute(part, {source: given}).values()
    except RubiccError as err:
        raise Unknown(f"what computes the mask does not run: {err.what}") from err
    if mask.dtype.kind != "f" or mask.ndim != 4 or mask.shape[1] != 1 or mask.shape[-1] != steps:
        raise Unknown(f"the mask is {mask.dtype}{list(mask.shape)}, not floats (B, 1, 1 or Q, K)")
    whole = np.broadcast_to(masked[:, None, None, :], (rows, *mask.shape[1:]))
    spread = np.broadcast_to(mask, whole.shape)
    attend, hidden = np.unique(spread[~whole]), np.unique(spread[whole])
    if attend.size != 1 or hidden.size != 1 or not hidden[0] < attend[0]:
        return None
    return float(attend[0]), float(hidden[0])


def give_from_outside(edit: Editor, values: Iterable[ir.Value], rule: MaskRule) -> None:
    """Let the input ``rule.name`` take the place of ``values``, and drop the source if nothing needs it."""
    graph = edit.graph
    source = next(v for v in graph.inputs if v.name == rule.source)
    assert source.shape is not None
    rule = replace(rule, name=edit.fresh(rule.name))
    given = ir.Value(name=rule.name, shape=ir.Shape([source.shape[0], 1, 1, source.shape[1]]))
    given.type = ir.TensorType(ir.DataType.FLOAT)
    graph.ir.inputs.append(given)
    for value in values:
        value.replace_all_uses_with(given)
        drop_unused(edit, value)
    if not source.uses():
        graph.ir.inputs.remove(source)
        rule = replace(rule, dropped=True)
    graph.ir.metadata_props[RULE_KEY] = json.dumps(asdict(rule), sort_keys=True)
    if graph.meta is not None:
        specs = [spec for spec in graph.meta.inputs if not rule.dropped or spec.name != rule.source]
        graph.meta = replace(graph.meta, inputs=(*specs, spec_of(given)))
