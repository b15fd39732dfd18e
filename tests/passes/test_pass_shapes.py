"""Shape inference as a pass."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from pass_graphs import graph, node, weights

from rubicc.ir.graph import Graph
from rubicc.passes.cleanup.infer_shapes import InferShapes
from rubicc.passes.harness import apply_and_check, assert_mutant_fails

SHAPES = "cleanup.infer-shapes"


def quantised_conv() -> Graph:
    constants = {"w": weights(6, 4, 3), "s": np.float32(0.1), "z": np.float32(0), "bits": np.float32(4)}
    nodes = [
        node("Quant", "x s z bits", "q", signed=1, narrow=1),
        node("Conv", "q w", "c", strides=[2]),
        node("Relu", "c", "y"),
    ]
    return graph(nodes, {"x": ("N", 4, 31)}, {"y": ("N", 6, "U")}, constants, infer=False)


def test_every_value_is_typed_and_the_declared_output_stays() -> None:
    done = apply_and_check(SHAPES, quantised_conv(), expect_ops={}, expect_changed=True)
    shapes = [str(n.outputs[0].shape) for n in done.graph.nodes]
    assert shapes == ["[N,4,31]", "[N,6,15]", "[N,6,U]"]
    assert {str(n.outputs[0].dtype) for n in done.graph.nodes} == {"FLOAT"}


def test_wrong_shapes_are_rejected() -> None:
    class OffByOne(InferShapes):
        """Mutant: one frame too many."""

        def run(self, one: Graph) -> bool:
            super().run(one)
            one.nodes[1].outputs[0].shape = ir.Shape(["N", 6, 16])
            return True

    class Redeclares(InferShapes):
        """Mutant: the declared output is overwritten."""

        def run(self, one: Graph) -> bool:
            super().run(one)
            one.outputs[0].shape = ir.Shape(["N", 6, 15])
            return True

    assert_mutant_fails(OffByOne, quantised_conv(), code="RUB-IR-034")
    assert_mutant_fails(Redeclares, quantised_conv(), code="RUB-PASS-020")
