"""Notes of passes in a graph's metadata, which anybody may have written."""

from __future__ import annotations

import json

import numpy as np
import pytest
from pass_graphs import graph, node

from rubicc.errors import UsageError
from rubicc.passes.prune import record
from rubicc.passes.prune.channels import ChannelOptions, PruneChannels
from rubicc.passes.skip.removing import RECORD_KEY, gone

DAMAGED = {
    "no JSON": "{",
    "no object": "[1]",
    "deep": "[" * 100_000,
    "numbers for names": '{"weights": [1], "removed": [1]}',
    "words for numbers": '{"channels": {"a": "x"}, "removed": "x"}',
    "infinity": '{"costs": {"macs": Infinity}, "folded": {}}',
    "null": '{"channels": null, "modules": null}',
    "truth": '{"costs": {"macs": true}, "folded": [true]}',
}


@pytest.mark.parametrize("what", DAMAGED)
def test_damaged_notes_are_refused(what: str) -> None:
    made = graph([node("Relu", "x", "y")], {"x": ("N", 4)}, {"y": ("N", 4)})
    for key, read in ((record.PRUNED_KEY, record.read), (RECORD_KEY, gone)):
        made.ir.metadata_props[key] = DAMAGED[what]
        with pytest.raises(UsageError, match="RUB-PASS-055"):
            read(made)


def test_notes_are_read_as_written() -> None:
    weights = {"a": np.ones((4, 3), np.float32), "b": np.ones((2, 4), np.float32)}
    nodes = [node("Gemm", "x a", "h", transB=1), node("Gemm", "h b", "y", transB=1)]
    made = graph(nodes, {"x": ("N", 3)}, {"y": ("N", 2)}, weights)
    assert record.read(made) == {"channels": {}, "costs": {}, "weights": []}
    PruneChannels(ChannelOptions(0.5)).run(made)
    stored = json.loads(made.ir.metadata_props[record.PRUNED_KEY])
    assert record.read(made) == stored and list(stored["channels"].values()) == [4]
