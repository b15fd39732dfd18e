"""Widths that targets declare: against what they really multiply, store and lower."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from coreml_weights import half, quantised

from rubicc.backends import registry
from rubicc.backends.aie.plan import devices
from rubicc.backends.coreml.compress.forms import choose
from rubicc.backends.coreml.compress.read import weight
from rubicc.ir.graph import is_quantiser
from rubicc.passes.manager import run_pass
from rubicc.passes.quantize.to_qdq import ToQdq

ROWS, COLUMNS, BLOCK = 32, 64, 32
SCALES = {"tensor": (), "channel": (ROWS, 1), "block": (ROWS, COLUMNS // BLOCK, 1)}
BITS = range(2, 9)


def layer(op: str, shape: tuple[int, ...] = (8, 16, 3), **attributes: Any) -> ir.Node:
    value = ir.Value(name="w", const_value=ir.tensor(np.ones(shape, np.float32)))
    node = ir.node(op, [ir.Value(name="x"), value], attributes, name="layer")
    ir.Graph([node.inputs[0]], node.outputs, nodes=[node], initializers=[value])
    return node


def pairs(target: str, node: ir.Node, granularity: str = "channel") -> set[tuple[int, int]]:
    backend: Any = registry.get(target)
    found = backend.widths(registry.parse_target(target), node, granularity)
    assert found.reason
    return set(found.pairs)


@pytest.mark.parametrize("board", ["vek280", "vck190", "vek385"])
def test_the_array_multiplies_what_it_declares(board: str) -> None:
    """Pairs are the device's native products; four bits need whole products of input channels."""
    shapes = devices.device(board).shapes
    native = {(w, a) for a, w in shapes}
    deep = math.lcm(*(shape.k for shape in shapes.values()))
    for op, shape in (("Conv", (8, deep, 3)), ("MatMul", (deep, 8)), ("Gemm", (deep, 8))):
        assert pairs(f"aie:{board}", layer(op, shape)) == native
        odd = tuple(deep + 8 if size == deep else size for size in shape)
        assert pairs(f"aie:{board}", layer(op, odd)) == {pair for pair in native if pair[0] > 4}
    turned = layer("Gemm", (8, deep), transB=1)
    assert pairs(f"aie:{board}", turned) == native
    cells = {(8, 8)} if board != "vek385" else set()
    assert pairs(f"aie:{board}", layer("LSTM", (1, 32, 8))) == cells
    assert not pairs(f"aie:{board}", layer("Gather", (9, 8)))


@pytest.mark.parametrize("device", ["iOS16", "iOS17", "iOS18", "iOS26"])
@pytest.mark.parametrize("granularity", SCALES)
def test_packages_store_what_is_declared(device: str, granularity: str) -> None:
    """A declared width is stored in as many bits, any other in more."""
    values = np.random.default_rng(0).normal(size=(ROWS, COLUMNS)).astype(np.float32)
    scale = half(np.random.default_rng(1).uniform(0.05, 0.2, SCALES[granularity]))
    declared = {w for w, _ in pairs(f"coreml:{device}", layer("MatMul"), granularity)}
    for bits in BITS:
        graph = quantised(values, scale, bits, block=BLOCK if granularity == "block" else 0)
        (node,) = [n for n in graph.nodes if is_quantiser(n)]
        stored = weight(graph, node.outputs[0])
        assert stored is not None
        taken = choose(stored, packed=device in ("iOS16", "iOS17"), precision="fp16").width
        assert (taken == bits) == (bits in declared), f"{bits} bits are stored in {taken}"


def test_package_activations_and_cells() -> None:
    assert pairs("coreml:iOS16", layer("Conv")) == {(8, 32)}
    assert pairs("coreml:iOS17", layer("Conv")) == {(8, 8), (8, 32)}
    assert not pairs("coreml:iOS17", layer("GRU", (1, 24, 8), linear_before_reset=1))
    assert (4, 32) in pairs("coreml:iOS18", layer("GRU", (1, 24, 8), linear_before_reset=1))


@pytest.mark.parametrize("granularity", SCALES)
def test_runtimes_get_integers_for_what_is_declared(granularity: str) -> None:
    declared = {w for w, _ in pairs("cpu", layer("MatMul"), granularity)}
    values = np.random.default_rng(0).normal(size=(ROWS, COLUMNS)).astype(np.float32)
    scale = np.random.default_rng(1).uniform(0.05, 0.2, SCALES[granularity]).astype(np.float32)
    for bits in BITS:
        graph = quantised(values, scale, bits, block=BLOCK if granularity == "block" else 0)
        run_pass(ToQdq(), graph)
        assert (not any(map(is_quantiser, graph.nodes))) == (bits in declared), bits


def test_gpus_take_integers_with_tensorrt_alone() -> None:
    assert not pairs("gpu:cuda", layer("Conv"))
    assert pairs("gpu:tensorrt", layer("Conv")) == {(8, 8)}
    assert not pairs("gpu:tensorrt", layer("GRU", (1, 24, 8)))
    assert pairs("cpu", layer("Gather", (9, 8))) == {(8, 32)}
