"""Property tests: whatever small network is drawn, passes keep what it computes and come to rest."""

from __future__ import annotations

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pass_graphs import graph, node, norm, norm_constants, weights

from rubicc.ir.graph import Graph
from rubicc.passes.harness import apply_and_check, relative_error
from rubicc.passes.manager import run_pipeline
from rubicc.passes.pipelines import PIPELINES

CONVS = ["conv", "grouped", "strided", "transposed", "residual", "twin"]
BLOCKS = st.sampled_from([*CONVS, "bn", "relu", "add0", "mul1", "identity", "swap"])
FAST = settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True
)


class Net:
    """Grows a chain of blocks over (N, channels, T)."""

    def __init__(self) -> None:
        self.nodes: list = []  # type: ignore[type-arg]
        self.constants: dict[str, np.ndarray] = {}
        self.value, self.channels, self.time, self.count = "x", 4, 24, 0

    def add(self, block: str) -> None:
        self.count += 1
        getattr(self, f"_{block}")(f"v{self.count}")

    def _emit(self, op: str, out: str, *others: str, **attrs: object) -> None:
        self.nodes.append(node(op, " ".join([self.value, *others]), out, **attrs))
        self.value = out

    def _convolve(self, out: str, cout: int, groups: int, stride: int = 1, bias: bool = True) -> None:
        self.constants[f"w{out}"] = weights(cout, self.channels // groups, 3, seed=self.count) / 6
        others = [f"w{out}"]
        if bias:
            self.constants[f"b{out}"] = weights(cout, seed=self.count)
            others.append(f"b{out}")
        self._emit("Conv", out, *others, group=groups, pads=[1, 1], strides=[stride])
        self.channels, self.time = cout, (self.time - 1) // stride + 1

    def _conv(self, out: str) -> None:
        self._convolve(out, 6 if self.channels == 4 else 4, 1, bias=bool(self.count % 2))

    def _grouped(self, out: str) -> None:
        self._convolve(out, self.channels, 2, bias=False)

    def _strided(self, out: str) -> None:
        self._convolve(out, self.channels, 1, stride=2)

    def _transposed(self, out: str) -> None:
        self.constants[f"w{out}"] = weights(self.channels, 2, 3, seed=self.count) / 6
        self._emit("ConvTranspose", out, f"w{out}", group=2, pads=[1, 1])
        self.channels = 4

    def _bn(self, out: str) -> None:
        self.constants |= norm_constants(self.channels, out, seed=self.count)
        self.nodes.append(norm(self.value, out, out))
        self.value = out

    def _relu(self, out: str) -> None:
        self._emit("Relu", out)

    def _add0(self, out: str) -> None:
        self.constants[f"z{out}"] = np.zeros((self.channels, 1), np.float32)
        self._emit("Add", out, f"z{out}")

    def _mul1(self, out: str) -> None:
        self.constants[f"o{out}"] = np.ones(1, np.float32)
        self._emit("Mul", out, f"o{out}")

    def _residual(self, out: str) -> None:
        kept = self.value
        self._convolve(f"{out}a", self.channels, 1)
        self._bn(f"{out}b")
        self._emit("Add", out, kept)

    def _identity(self, out: str) -> None:
        self._emit("Identity", out)

    def _swap(self, out: str) -> None:
        self._emit("Transpose", f"{out}a", perm=[0, 2, 1])
        self._emit("Transpose", out, perm=[0, 2, 1])

    def _twin(self, out: str) -> None:
        """Two equal convolutions, one of them normalised: the weight must be split or kept."""
        start, channels = self.value, self.channels
        self._convolve(f"{out}a", channels, 1)
        first, self.value = self.value, start
        self.nodes.append(node("Conv", f"{start} w{out}a b{out}a", f"{out}b", pads=[1, 1]))
        self.value = f"{out}b"
        self._bn(f"{out}c")
        self._emit("Add", out, first)

    def graph(self) -> Graph:
        self._emit("Sigmoid", "y")
        return graph(self.nodes, {"x": ("N", 4, 24)}, {"y": ("N", self.channels, self.time)}, self.constants)


def build(blocks: list[str]) -> Graph:
    net = Net()
    for block in blocks:
        net.add(block)
    return net.graph()


CHAINS = st.lists(BLOCKS, min_size=1, max_size=7)


@FAST
@given(CHAINS)
def test_fusion_on_any_chain(blocks: list[str]) -> None:
    done = apply_and_check("cleanup.fuse-batchnorm", build(blocks), random=1)
    fusable = sum(
        n.op_type == "BatchNormalization" and n.inputs[0].producer() is not None
        and n.inputs[0].producer().op_type in ("Conv", "ConvTranspose") and len(n.inputs[0].uses()) == 1
        for n in done.graph.nodes
    )  # fmt: skip
    assert fusable == 0


@FAST
@given(CHAINS)
def test_exact_passes_on_any_chain(blocks: list[str]) -> None:
    built = build(blocks)
    for pass_id in ("eliminate-identity", "merge-transposes", "deduplicate", "eliminate-dead", "name-nodes"):
        built = apply_and_check(f"cleanup.{pass_id}", built, random=1).graph
    assert not {"Identity", "Transpose"} & set(built.op_counts())


@FAST
@given(st.lists(BLOCKS, min_size=1, max_size=3))  # rounding errors grow with the chain; the pass is the same
def test_half_precision_on_any_chain(blocks: list[str]) -> None:
    apply_and_check("lower.to-fp16", build(blocks), random=1)


@FAST
@given(CHAINS, st.integers(0, 3))
def test_the_whole_clean_up_on_any_chain(blocks: list[str], seed: int) -> None:
    from rubicc.ir.executor import execute

    built = build(blocks)
    work = built.clone()
    run_pipeline(work, PIPELINES["cleanup"], check=True)
    x = np.random.default_rng(seed).normal(size=(2, 4, 24)).astype(np.float32)
    old = execute(built, {"x": x}, dtype=np.float64)["y"]
    assert relative_error(old, execute(work, {"x": x}, dtype=np.float64)["y"]) < 1e-6
    assert not [r.id for r in run_pipeline(work, PIPELINES["cleanup"]) if r.changed]
