"""Catalogue of RUB-TRAIN codes: code -> (title, explanation with remedy)."""

from __future__ import annotations

CODES: dict[str, tuple[str, str]] = {
    "RUB-TRAIN-001": (
        "operator without a trainable form",
        "The graph cannot be made a torch module: it has operators no gradient passes through here, such as "
        "Loop, Scan and If with nested graphs, and integer products. The message lists all of them. Run the "
        "cleanup passes first, which fold what hangs on constants; write loops as GRU, LSTM or RNN, and "
        "train before a pass has made integer kernels.",
    ),
    "RUB-TRAIN-002": (
        "a node cannot run in the trainable twin",
        "A node does not fit the shapes that reached it, or asks for a shape that hangs on data, which is "
        "not known before training. The message names the node and the module it came from. Check with "
        "`rubicc verify` that the graph runs at this shape; run the cleanup passes.",
    ),
    "RUB-TRAIN-003": (
        "inputs do not fit the graph",
        "The tensors given do not match the graph's inputs in name, rank, fixed dimension or type. Give one "
        "tensor per input; `rubicc inspect MODEL` prints them.",
    ),
    "RUB-TRAIN-004": (
        "no such intermediate value",
        "Intermediate values, such as features for distillation, are asked for by the name of a node's "
        "output, and the graph has none of that name. Names change when passes rewrite the graph: take them "
        "from the graph that is trained.",
    ),
    "RUB-TRAIN-D01": (
        "equal tensors of several modules are trained apart",
        "The graph stores one tensor, whose elements are all equal, for several modules: exporters and "
        "deduplication keep equal tensors once, as the zero biases of a fresh network. Training gives each "
        "module a copy of its own, as its source has; the written graph has them apart where they differ.",
    ),
}
