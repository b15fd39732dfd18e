"""Which layer gets which width: the assignment of least divergence within budgets, exactly.

A multiple-choice knapsack with several budgets, solved as an integer program by HiGHS (scipy). Divergences of
layers are taken to add up, which holds for small, independent errors; what a joint assignment really does is
measured by whoever uses it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from rubicc.errors import UsageError

Pair = tuple[int, int]  # bits of weights, bits of activations
_SPREAD = 1e6  # costs are scaled so that the solver's absolute tolerances lie far below their differences
_REPAIRS = 64


@dataclass(frozen=True)
class Layer:
    """A layer and what each pair of widths costs it.

    Attributes:
        elements: weights.
        macs: multiply-accumulates of one item.
        divergence: by (weight bits, activation bits): what the output loses; the pairs are the choices.
        latency: seconds by pair, where a table is given.
        overhead: bits stored beside the weights, such as scales.
    """

    name: str
    elements: int
    macs: int
    divergence: Mapping[Pair, float]
    latency: Mapping[Pair, float] = field(default_factory=dict)
    overhead: int = 0

    def cost(self, budget: str, pair: Pair) -> float:
        """What ``pair`` takes of a budget."""
        if budget == "mean_bits":
            return self.elements * pair[0]
        if budget == "size":
            return self.elements * pair[0] + self.overhead
        if budget == "bops":
            return self.macs * pair[0] * pair[1]
        return self.divergence[pair] if budget == "divergence" else self.latency[pair]


@dataclass(frozen=True)
class Budgets:
    """What an assignment may take; None: any.

    Attributes:
        mean_bits: mean width of the weights.
        size: bytes of the layers' weights and scales.
        bops: bit operations of one item.
        divergence: sum of the layers' divergences, a proxy of what identity loses.
        latency: seconds, from the layers' tables.
    """

    mean_bits: float | None = None
    size: float | None = None
    bops: float | None = None
    divergence: float | None = None
    latency: float | None = None

    @property
    def smallest(self) -> bool:
        """Whether the smallest network is wanted: where the divergence is all that is limited."""
        return [name for name, value in vars(self).items() if value is not None] == ["divergence"]

    def limits(self, layers: Sequence[Layer]) -> dict[str, float]:
        """The limits given, in the units of :meth:`Layer.cost`."""
        found = {name: value for name, value in vars(self).items() if value is not None}
        if "mean_bits" in found:
            found["mean_bits"] *= sum(layer.elements for layer in layers)
        if "size" in found:
            found["size"] *= 8
        return found


def assign(layers: Sequence[Layer], budgets: Budgets, *, smallest: bool | None = None) -> dict[str, Pair]:
    """The widths of each layer.

    Args:
        smallest: whether the smallest network is wanted, or that of least divergence; by default
            :attr:`Budgets.smallest`.

    Raises:
        UsageError: ``RUB-PASS-033``: no assignment keeps the budgets; the message says what each would take
            at least.
    """
    possible(layers, budgets)
    limits = budgets.limits(layers)
    wanted = "size" if (budgets.smallest if smallest is None else smallest) else "divergence"
    choices = [(i, pair) for i, layer in enumerate(layers) for pair in sorted(layer.divergence)]
    cost = np.array([layers[i].cost(wanted, pair) for i, pair in choices])
    rows = {name: np.array([layers[i].cost(name, pair) for i, pair in choices]) for name in limits}
    one_each = np.array([[float(i == at) for i, _ in choices] for at in range(len(layers))])
    forbidden: list[np.ndarray] = []
    for _ in range(_REPAIRS):
        taken = _solve(cost, one_each, rows, limits, forbidden)
        if taken is None:
            break
        if all(rows[name][taken].sum() <= limit * (1 + 1e-12) for name, limit in limits.items()):
            return {layers[i].name: pair for (i, pair), on in zip(choices, taken, strict=True) if on}
        forbidden.append(taken.astype(float))  # within the solver's tolerance, yet above the budget
    raise _impossible(layers, limits, "each budget alone can be kept, all together cannot")


def _solve(
    cost: np.ndarray,
    one_each: np.ndarray,
    rows: Mapping[str, np.ndarray],
    limits: Mapping[str, float],
    forbidden: Sequence[np.ndarray],
) -> np.ndarray | None:
    """Which choices are taken; None where the program has no solution."""
    from scipy.optimize import Bounds, LinearConstraint, milp

    positive = cost[cost > 0]
    scale = 1.0 / max(float(positive.min()), float(positive.max()) / _SPREAD) if positive.size else 1.0
    constraints = [LinearConstraint(one_each, 1, 1)]
    for name, row in rows.items():
        unit = max(float(np.abs(row).max()), 1e-300)
        constraints.append(LinearConstraint(row / unit, -np.inf, limits[name] / unit))
    constraints += [LinearConstraint(row, -np.inf, len(one_each) - 1) for row in forbidden]
    found = milp(
        cost * scale,
        integrality=np.ones(len(cost)),
        bounds=Bounds(0, 1),
        constraints=constraints,
        options={"mip_rel_gap": 0.0},
    )
    return None if found.x is None else found.x > 0.5


def possible(layers: Sequence[Layer], budgets: Budgets) -> None:
    """Refuse budgets that cannot be kept, each taken alone.

    Raises:
        UsageError: ``RUB-PASS-033``.
    """
    limits = budgets.limits(layers)
    for name, limit in limits.items():
        if not np.isfinite(limit) or limit < 0:
            raise _impossible(layers, limits, f"{name} is {limit:g}")
        if name == "latency":
            lacking = [(a.name, p) for a in layers for p in a.divergence if p not in a.latency]
            if lacking:
                (layer_name, pair), more = lacking[0], len(lacking) - 1
                why = f"the latency table lacks w{pair[0]}a{pair[1]} of {layer_name} and {more} more"
                raise _impossible(layers, {}, why, "add them to the table, or allow fewer widths")
        least = sum(min(layer.cost(name, pair) for pair in layer.divergence) for layer in layers)
        if least > limit:
            raise _impossible(layers, limits, f"{name} cannot be kept")


def _impossible(
    layers: Sequence[Layer],
    limits: Mapping[str, float],
    why: str,
    hint: str = "raise the budget, or allow narrower widths",
) -> UsageError:
    least = {n: sum(min(layer.cost(n, p) for p in layer.divergence) for layer in layers) for n in limits}
    units = {"mean_bits": 1 / max(sum(layer.elements for layer in layers), 1), "size": 1 / 8}
    told = ", ".join(
        f"{n} {limits[n] * units.get(n, 1):.6g} (at least {v * units.get(n, 1):.6g})"
        for n, v in least.items()
    )
    return UsageError(
        "RUB-PASS-033",
        f"no assignment of widths keeps the budgets: {why}" + (f"; {told}" if told else ""),
        hint=hint,
    )
