"""BatchNormalization becomes Mul and Add."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from rubicc.ir.graph import Graph, source_of
from rubicc.passes.cleanup.batchnorm import Affine, inference_affine
from rubicc.passes.registry import Pass, register
from rubicc.passes.rewrite import Editor, nodes_of, rank


@register
class BatchnormToAffine(Pass):
    """A BatchNormalization that could not be fused becomes a Mul and an Add with constants per channel.

    ::

        BatchNormalization(x:[N,C,T]) -> y      =>      Mul(x, a:[1,C,1]) -> m;  Add(m, b:[1,C,1]) -> y

    For targets without the operator, and before integer legalisation, which merges such scales into
    quantisers. Not part of clean-up: runtimes execute one BatchNormalization faster than two operators.
    """

    id = "cleanup.batchnorm-to-affine"
    requires = frozenset({"constants-are-initializers", "shapes"})
    ensures = frozenset({"no-batchnorm"})
    tolerance = 2e-5

    def run(self, graph: Graph) -> bool:
        """See :class:`BatchnormToAffine`."""
        edit = Editor(graph, self.id)
        changed = False
        for node in nodes_of(graph, "BatchNormalization"):
            changed |= self._rewrite(edit, node)
        return changed

    def _rewrite(self, edit: Editor, norm: ir.Node) -> bool:
        affine, dims, source = inference_affine(norm), rank(norm.inputs[0]), norm.inputs[0]
        if not isinstance(affine, Affine) or dims is None or source is None or source.dtype is None:
            why = "its rank is unknown" if isinstance(affine, Affine) else affine
            self.note(source_of(norm), f"BatchNormalization not rewritten: {why}")
            return False
        value, stem = source, norm.name or "batchnorm"
        for op, array in (("Mul", affine.a), ("Add", affine.b)):
            shaped = array.reshape(-1, *[1] * (dims - 2)) if dims > 1 else array
            constant = edit.initializer(f"{stem}_{op.lower()}", _cast(shaped, source), norm.graph)
            out = norm.outputs[0]
            value = edit.node(op, [value, constant], like=norm, shape=out.shape, dtype=source.dtype).outputs[
                0
            ]
        edit.replace_value(norm.outputs[0], value)
        edit.remove(norm)
        return True


def _cast(array: np.ndarray, like: ir.Value) -> np.ndarray:
    return np.ascontiguousarray(array, like.dtype.numpy() if like.dtype is not None else np.float32)
