"""The trainable twin: a torch module that computes what a graph computes and writes back what it learned."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor, nn

from rubicc.errors import UsageError
from rubicc.evidence.decision import Decision
from rubicc.ir.graph import Graph
from rubicc.ir.ops.registry import carried
from rubicc.training.ops.straight import Positive
from rubicc.training.plan import Plan, Planner, numpy_float
from rubicc.training.program import analyse, refuse
from rubicc.training.roles import Use, roles, shares, uses_of

_PLANS = 16  # input shapes remembered; a plan costs little but the constants of its shapes
_SMALLEST = 2.0**-20  # of its first value: as small as a learned scale may get


class Twin(nn.Module):
    """A graph as a torch module.

    Its parameters are the float tensors of the graph that products, biases, norms and embeddings read; its
    buffers are the running statistics of BatchNormalization. What hangs on constants is folded, what hangs on
    shapes is computed once per input shape; a training step runs a flat list of torch functions.

    In train mode BatchNormalization uses and gathers the statistics of the batch and Dropout acts; in eval
    mode the twin computes what :func:`rubicc.ir.executor.execute` computes. Quantisers round in both modes
    and pass gradients straight through within their range; so do Round, Floor and Ceil, whose own gradient
    is 0.

    Args:
        graph: a legal graph, which is not changed; the cleaned form (``PIPELINES["cleanup"]``) is smaller and
            faster, any form works.
        trainable: takes the name of a tensor that could be a parameter, statistic or scale; where it says
            False, the tensor stays as it is. ``None`` leaves out nothing.
        learned_scales: scales of Quant and BipolarQuant are parameters too, with LSQ's gradient.
        second_order: gradients of gradients are wanted (Hessian products): slower recurrent layers.
        dtype: type every float is carried in; half precision is for ``torch.autocast`` around the call.

    Attributes:
        names: parameter (or buffer) name -> name of the tensor in the graph :meth:`write_back` gives.
        decisions: what was chosen for the graph, e.g. tensors that training takes apart.

    Raises:
        Unsupported: ``RUB-TRAIN-001`` the graph has operators without a trainable form, all of them listed.
    """

    def __init__(
        self,
        graph: Graph,
        *,
        trainable: Callable[[str], bool] | None = None,
        learned_scales: bool = False,
        second_order: bool = False,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        refuse(graph)
        self.source = graph
        self.dtype = dtype
        self.names: dict[str, str] = {}
        self.decisions: list[Decision] = []
        self._options = {
            "trainable": trainable,
            "learned_scales": learned_scales,
            "second_order": second_order,
        }
        self._graph = graph.clone()
        self._groups: dict[str, tuple[str, list[Use]]] = {}  # tensor name -> (stored name, its uses)
        self._floors: dict[str, str] = {}  # scale parameter -> buffer of its smallest value
        self._keep: frozenset[str] = frozenset()
        found = roles(self._graph)
        wanted = trainable if trainable is not None else lambda _: True
        for name in self._separate([n for n in (*found.learned, *found.statistics) if wanted(n)]):
            self._register(name, learned=self._groups[name][0] in found.learned)
        if learned_scales:
            for name in self._separate([n for n in found.scales if wanted(n)]):
                self._register(name, learned=True)
                self._hold_positive(name)
        self._by_name = {name: module_name for module_name, name in self.names.items()}
        self._replan()

    @property
    def stored(self) -> dict[str, str]:
        """Parameter (or buffer) name -> name of the tensor in the graph the twin was made of."""
        return {name: self._groups[own][0] for name, own in self.names.items()}

    def forward(self, feeds: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Outputs, and kept values, by name.

        Args:
            feeds: one tensor per graph input, by name; floats are converted to the twin's type.

        Raises:
            UsageError: ``RUB-TRAIN-003`` feeds do not fit the inputs.
            VerificationFailed: ``RUB-TRAIN-002`` a node cannot run on these shapes.
        """
        given = self._fitted(feeds)
        shapes = tuple((tensor.shape, tensor.dtype, tensor.device) for tensor in given.values())
        key = (self.training, shapes)
        given |= self._weights()
        plan = self._plans.get(key)
        if plan is not None:
            return plan.run(given)
        self._check(feeds)
        planner = Planner(
            self._graph,
            self._program,
            given,
            self._results,
            dtype=self.dtype,
            device=next(iter(given.values())).device,
            training=self.training,
            second_order=bool(self._options["second_order"]),
            statistics={self.names[name] for name, _ in self.named_buffers() if name in self.names},
        )
        made, outputs = planner.plan()
        if len(self._plans) >= _PLANS:
            self._plans.pop(next(iter(self._plans)))
        self._plans[key] = made
        return outputs

    def keep(self, names: Collection[str]) -> None:
        """Return these intermediate values too, by name, from now on (an empty collection ends it).

        Raises:
            UsageError: ``RUB-TRAIN-004`` the graph has no such value.
        """
        known = {value.name for node in self._graph.nodes for value in node.outputs}
        missing = sorted(set(names) - known)
        if missing:
            raise UsageError(
                "RUB-TRAIN-004",
                f"no node of the graph gives {', '.join(missing)}",
                hint="take the names of node outputs from `rubicc inspect MODEL --nodes`",
            )
        self._keep = frozenset(names)
        self._replan()

    def write_back(self) -> Graph:
        """A graph with the weights, scales and statistics as they are now; untouched tensors are shared.

        Weights are rounded to the type they are stored in. An untouched twin gives an equal graph.
        """
        graph = self.source.clone()
        nodes = graph.nodes
        arrays = {name: self._stored(name) for name in self._groups}
        changed = {
            stored
            for name, (stored, _) in self._groups.items()
            if not _same(arrays[name], _array(graph.ir.initializers[stored]))
        }
        for name, (stored, uses) in self._groups.items():
            if stored not in changed:
                continue
            old = graph.ir.initializers[stored]
            assert old.const_value is not None
            tensor = ir.Tensor(arrays[name], old.const_value.dtype, name=name)
            if name == stored:
                old.const_value = tensor
                continue
            value = ir.Value(name=name, shape=old.shape, type=old.type, const_value=tensor)
            graph.ir.register_initializer(value)
            for use in uses:
                nodes[use.node].replace_input_with(use.index, value)
        return graph

    def _stored(self, name: str) -> np.ndarray:
        """The tensor as the graph stores it."""
        module_name = self._by_name[name]
        with torch.no_grad():
            tensor = self._value(module_name)
        stored = np.dtype(self._graph.ir.initializers[name].const_value.dtype.numpy())  # type: ignore[union-attr]
        return tensor.detach().cpu().numpy().astype(stored)

    def _separate(self, names: list[str]) -> list[str]:
        """Give every module its own copy of what it does not share on purpose; the resulting names."""
        result = []
        uses = uses_of(self._graph, set(names))
        nodes, initializers = self._graph.nodes, self._graph.ir.initializers
        for name in names:
            groups = list(shares(self._graph, name, uses[name]))
            first = next((g for g in groups if name.startswith(g[0].source.partition("#")[0])), groups[0])
            if len(groups) > 1:
                self._tell(name, len(groups))
            for group in groups:
                mine = name
                if group is not first:
                    mine = self._fresh(f"{group[0].source.partition('#')[0]}.{name.rpartition('.')[2]}")
                    old = initializers[name]
                    value = ir.Value(name=mine, shape=old.shape, type=old.type, const_value=old.const_value)
                    self._graph.ir.register_initializer(value)
                    for use in group:
                        nodes[use.node].replace_input_with(use.index, value)
                self._groups[mine] = (name, group)
                result.append(mine)
        return result

    def _tell(self, name: str, count: int) -> None:
        self.decisions.append(
            Decision(
                "RUB-TRAIN-D01",
                name,
                f"trained as {count} tensors",
                "its elements are all equal and several modules read it: stored once, not shared",
            )
        )

    def _fresh(self, name: str) -> str:
        taken = {value.name for node in self._graph.nodes for value in (*node.inputs, *node.outputs) if value}
        taken |= set(self._graph.ir.initializers) | set(self.source.ir.initializers)
        wanted, count = name, 2
        while wanted in taken:
            wanted, count = f"{name}_{count}", count + 1
        return wanted

    def _register(self, name: str, *, learned: bool) -> None:
        base = re.sub(r"\W", "_", name).strip("_") or "tensor"
        module_name, count = base, 2
        while hasattr(self, module_name):
            module_name, count = f"{base}_{count}", count + 1
        array = carried(_array(self._graph.ir.initializers[name]), numpy_float(self.dtype))
        tensor = torch.from_numpy(np.array(array)).to(self.dtype)
        if learned:
            self.register_parameter(module_name, nn.Parameter(tensor))
        else:
            self.register_buffer(module_name, tensor)
        self.names[module_name] = name

    def _hold_positive(self, name: str) -> None:
        module_name = next(m for m, n in self.names.items() if n == name)
        floor = f"{module_name}_floor"
        self.register_buffer(
            floor, self.get_parameter(module_name).detach().abs() * _SMALLEST, persistent=False
        )
        self._floors[module_name] = floor

    def _weights(self) -> dict[str, Tensor]:
        return {name: self._value(module_name) for module_name, name in self.names.items()}

    def _value(self, module_name: str) -> Tensor:
        tensor: Tensor | None = self._parameters.get(module_name)
        tensor = self._buffers[module_name] if tensor is None else tensor
        assert tensor is not None
        floor = self._floors.get(module_name)
        return tensor if floor is None else Positive.apply(tensor, self._buffers[floor])

    def _fitted(self, feeds: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Feeds in the order of the inputs, floats in the twin's type."""
        if len(feeds) != len(self._inputs) or any(name not in feeds for name in self._inputs):
            missing, unknown = sorted(set(self._inputs) - set(feeds)), sorted(set(feeds) - set(self._inputs))
            raise UsageError(
                "RUB-TRAIN-003",
                f"inputs missing: {missing or 'none'}; unknown: {unknown or 'none'}",
                hint=f"give a tensor for each of {', '.join(self._inputs)}",
            )
        given = {}
        for name in self._inputs:
            tensor = feeds[name]
            given[name] = tensor.to(self.dtype) if tensor.is_floating_point() else tensor
        return given

    def _check(self, feeds: Mapping[str, Tensor]) -> None:
        for name, value in self._inputs.items():
            shape = list(value.shape) if value.shape is not None else None
            given = list(feeds[name].shape)
            fits = shape is None or (
                len(shape) == len(given)
                and all(not isinstance(d, int) or d == n for d, n in zip(shape, given, strict=True))
            )
            floats = value.dtype is None or value.dtype.is_floating_point()
            if not fits or floats != feeds[name].is_floating_point():
                raise UsageError(
                    "RUB-TRAIN-003",
                    f"input {name!r} is {feeds[name].dtype} {given}, declared {value.dtype} "
                    f"[{', '.join(map(str, shape or ()))}]",
                    hint="give what `rubicc inspect MODEL` shows",
                )

    def _replan(self) -> None:
        initializers = self._graph.ir.initializers
        weights = {initializers[name] for name in self.names.values()}
        self._program = analyse(self._graph, weights, numpy_float(self.dtype), self._keep)
        self._inputs = {value.name or "": value for value in self._graph.inputs}
        values = {v.name: v for node in self._graph.nodes for v in node.outputs if v.name in self._keep}
        self._results = {v.name or "": v for v in (*values.values(), *self._graph.outputs)}
        self._plans: dict[Any, Plan] = {}

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Twin:
        """Moved to another device or type: constants are planned anew."""
        super()._apply(fn, recurse)
        for tensor in (*self.parameters(), *self.buffers()):
            self.dtype = tensor.dtype
            break
        self._replan()
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Twin:
        """A twin of the same graph with the same weights; plans and graph are not copied."""
        twin = Twin(self.source, dtype=self.dtype, **self._options)  # type: ignore[arg-type]
        twin.to(next(iter((*self.parameters(), *self.buffers())), torch.empty(0)).device)
        twin.load_state_dict(self.state_dict())
        for mine, theirs in zip(self.parameters(), twin.parameters(), strict=True):
            theirs.requires_grad_(mine.requires_grad)
        twin.keep(self._keep)
        twin.train(self.training)
        memo[id(self)] = twin
        return twin


def _array(value: ir.Value) -> np.ndarray:
    assert value.const_value is not None
    return value.const_value.numpy()


def _same(a: np.ndarray, b: np.ndarray) -> bool:
    """Equal bit for bit, NaN included."""
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
