"""Writes a QONNX ``Quant`` node: the one place where passes make one."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from rubicc.ir.graph import QONNX_DOMAIN, source_of
from rubicc.passes.rewrite import Editor


def quantiser(
    edit: Editor,
    like: ir.Node,
    value: ir.Value,
    scale: np.ndarray | np.float32 | float,
    bits: int,
    *,
    signed: bool,
    narrow: bool = False,
    zero: np.ndarray | int = 0,
    name: str = "",
    source: ir.Node | None = None,
    after: bool = False,
) -> ir.Value:
    """``value`` rounded half to even onto a grid; the result of the new node.

    Args:
        like: the node it is put before, or ``after``.
        scale, zero: grid; ``scale`` broadcasts against the value.
        name: what the node is called after; by default ``like``.
        source: the node it stands for; by default ``like``.

    Raises:
        ValueError: ``like`` is in no graph.
    """
    if like.graph is None:
        raise ValueError(f"{source_of(like)} is in no graph")
    stem = edit.fresh_node(f"{name or like.name or like.op_type}/Quant")
    numbers = {"scale": scale, "zero": zero, "bits": bits}
    inputs = [
        edit.initializer(f"{stem}_{what}", np.asarray(number, np.float32), like.graph)
        for what, number in numbers.items()
    ]
    attributes: dict[str, int | str] = {
        "signed": int(signed),
        "narrow": int(narrow),
        "rounding_mode": "ROUND",
    }
    node = ir.node("Quant", [value, *inputs], attributes, domain=QONNX_DOMAIN, num_outputs=1, name=stem)
    out = node.outputs[0]
    out.name = edit.fresh(f"{stem}_out")
    out.shape = value.shape.copy() if value.shape is not None else None
    out.type = ir.TensorType(ir.DataType.FLOAT)
    edit.stamp(node, source if source is not None else like)
    (like.graph.insert_after if after else like.graph.insert_before)(like, node)
    return out
