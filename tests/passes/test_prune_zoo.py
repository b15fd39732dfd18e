"""Networks of the zoo, cut anywhere: the numbers of the original with zeros in place of what went."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from prune_check import check

from rubicc.ir.costs import costs
from rubicc.ir.graph import Graph
from rubicc.passes.harness import apply_and_check
from rubicc.passes.prune.groups import groups

SIZES = {"N": 1, "T": 200}
SMALL = ("taiyaki-mgru", "demo-ctc")
LARGE = ("bonito-crf", "bonito-ctc", "quartznet", "qabas", "rubicall", "rubicall-fp", "dna-bert")
ZOO = [*SMALL, *(pytest.param(name, marks=pytest.mark.slow) for name in LARGE)]


def stored(graph: Graph) -> int:
    """Bytes of all tensors."""
    return sum(value.const_value.nbytes for value in graph.ir.initializers.values())


@pytest.mark.parametrize("name", ZOO)
def test_any_cut(name: str, lowered_zoo: Callable[[str], Graph]) -> None:
    sizes = SIZES if name != "dna-bert" else {"N": 1, "T": 12}
    assert check(lowered_zoo(name), 3, tolerance=1e-9, sizes=sizes) > 50


@pytest.mark.parametrize("name", ZOO)
def test_half_of_it(name: str, lowered_zoo: Callable[[str], Graph]) -> None:
    sizes = SIZES if name != "dna-bert" else {"N": 1, "T": 12}
    graph = lowered_zoo(name)
    done = apply_and_check("prune.channels", graph, options={"ratio": 0.5}, sizes=sizes, random=1)
    before, after = costs(graph, sizes), costs(done.graph, sizes)
    assert after.macs < 0.7 * before.macs and stored(done.graph) < 0.8 * stored(graph)
    assert after.activation_bytes < before.activation_bytes


def test_what_stays_of_the_basecaller(lowered_zoo: Callable[[str], Graph]) -> None:
    """Its transitions stay, its five recurrent layers and its convolution may shrink."""
    coupling = groups(lowered_zoo("taiyaki-mgru"))
    assert [(g.name, g.size) for g in coupling.groups] == [
        ("conv (channels)", 96),
        *((f"gru.{k} (hidden units)", 96) for k in range(5)),
    ]
    assert [(p.source, p.channels) for p in coupling.protected] == [("head", 40)]
    assert "output" in coupling.protected[0].reason
