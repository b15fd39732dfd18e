"""Widths by integer programming, against every assignment there is."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from rubicc.errors import UsageError
from rubicc.passes.quantize.assign import Budgets, Layer, assign

PAIRS = ((2, 8), (4, 8), (8, 8), (8, 32))


def layers(seed: int, count: int = 5, *, smallest: float = 1e-7) -> list[Layer]:
    """Random layers; divergences span seven orders of magnitude."""
    rng = np.random.default_rng(seed)
    made = []
    for i in range(count):
        size = int(rng.integers(100, 100_000))
        noise = {pair: float(smallest * 10 ** rng.uniform(0, 7)) for pair in PAIRS}
        times = {pair: float(rng.uniform(1e-4, 1e-3)) for pair in PAIRS}
        made.append(Layer(f"l{i}", size, size * int(rng.integers(1, 900)), noise, times, 32))
    return made


def brute(found: list[Layer], budgets: Budgets, wanted: str) -> float | None:
    limits = budgets.limits(found)
    best = None
    for pairs in itertools.product(PAIRS, repeat=len(found)):
        rows = list(zip(found, pairs, strict=True))
        if all(sum(a.cost(n, p) for a, p in rows) <= limit for n, limit in limits.items()):
            cost = sum(a.cost(wanted, p) for a, p in rows)
            best = cost if best is None else min(best, cost)
    return best


@pytest.mark.parametrize("seed", range(12))
def test_no_assignment_is_better(seed: int) -> None:
    found, rng = layers(seed), np.random.default_rng(seed + 100)
    whole = sum(layer.elements for layer in found)
    most = sum(layer.cost("bops", (8, 8)) for layer in found)
    choice = [
        Budgets(mean_bits=float(rng.uniform(2.2, 7))),
        Budgets(size=whole * float(rng.uniform(0.3, 0.9)), bops=most * float(rng.uniform(0.4, 1.5))),
        Budgets(mean_bits=6, latency=0.0005 * len(found)),
        Budgets(divergence=sum(layer.divergence[(4, 8)] for layer in found)),
    ][seed % 4]
    wanted = "mean_bits" if seed % 4 == 3 else "divergence"
    best = brute(found, choice, wanted)
    if best is None:
        with pytest.raises(UsageError, match="RUB-PASS-033"):
            assign(found, choice)
        return
    made = assign(found, choice)
    rows = [(layer, made[layer.name]) for layer in found]
    assert sum(a.cost(wanted, p) for a, p in rows) == pytest.approx(best, rel=1e-9, abs=0)
    for name, limit in choice.limits(found).items():
        assert sum(a.cost(name, p) for a, p in rows) <= limit * (1 + 1e-12)


@pytest.mark.parametrize(
    "budgets",
    [Budgets(mean_bits=1.9), Budgets(size=3), Budgets(bops=-1), Budgets(divergence=0.0),
     Budgets(latency=1e-9), Budgets(mean_bits=float("nan"))],
)  # fmt: skip
def test_impossible_budgets(budgets: Budgets) -> None:
    with pytest.raises(UsageError, match="RUB-PASS-033") as told:
        assign(layers(0), budgets)
    assert "raise the budget" in str(told.value.hint)


def test_a_latency_table_with_gaps_is_refused() -> None:
    bare = [Layer("a", 10, 10, {(8, 8): 0.1})]
    with pytest.raises(UsageError, match="table lacks"):
        assign(bare, Budgets(latency=1.0))
