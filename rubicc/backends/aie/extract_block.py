"""Layer normalisations and attentions of the integer network, out of the bodies of Scans."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from rubicc.backends.aie import net
from rubicc.backends.aie.extract_parts import DIMS, RERUN, NotRead, type_of
from rubicc.backends.aie.numbers import Type
from rubicc.ir.graph import source_of
from rubicc.passes.integer import block_bodies
from rubicc.passes.integer.fit_block import GAIN_BITS, LANES, LARGEST, MOST_SHIFT, OFFSET_LIMIT

if TYPE_CHECKING:
    from rubicc.backends.aie.extract import Reader


def read_block(reader: Reader, node: ir.Node) -> None:
    """Take the layer normalisation or attention of a Scan into the network.

    Raises:
        NotRead: the body is not exactly the integer block its parameters say, or its numbers fit no kernel.
    """
    x, spec = reader.tensor(node.inputs[0]), block_bodies.read_spec(node)
    if spec is None or (spec.entry, spec.exit) != (0, 0):
        raise NotRead("RUB-AIE-102", "Scan is no block of integers, or was changed", RERUN)
    if x is None or x.axes != "NTC" or x.edge.channels != spec.channels[0]:
        raise NotRead("RUB-AIE-103", "a block reads no (batch, time, channels) of its size", DIMS)
    if not 0 <= _dropped(spec) <= MOST_SHIFT:
        raise NotRead("RUB-AIE-105", f"a block drops {_dropped(spec)} bits of its result", RERUN)
    fields: dict[str, Any] = {
        "name": node.name or "", "source": source_of(node), "inputs": (x.edge.name,),
        "output": node.outputs[0].name or "",
    }  # fmt: skip
    layer = _norm(fields, spec, x.edge.type) if isinstance(spec, block_bodies.NormSpec) else None
    if isinstance(spec, block_bodies.AttentionSpec):
        layer = _attention(fields, spec, x.edge.type)
    assert layer is not None
    to = type_of(spec.output_bits, spec.output_signed)
    reader.finish(node, layer, spec.channels[1], to, "NTC", [node])


def _dropped(spec: block_bodies.NormSpec | block_bodies.AttentionSpec) -> int:
    return spec.shift if isinstance(spec, block_bodies.NormSpec) else spec.output_shift


def _norm(fields: dict[str, Any], spec: block_bodies.NormSpec, of: Type) -> net.Layer:
    limit = 1 << (GAIN_BITS - 1)
    if len(spec.gain) % LANES or not 0 <= spec.finer <= (6 if of.bits == 8 else 0) or spec.floor < 1:
        raise NotRead("RUB-AIE-105", "a normalisation of other numbers than its kernel has", RERUN)
    if np.abs(spec.gain).max() >= limit or np.abs(spec.offset).max() > OFFSET_LIMIT or spec.floor >= 1 << 30:
        raise NotRead("RUB-AIE-106", f"a normalisation with factors of {limit} or more", RERUN)
    return net.Norm(
        **fields, gain=spec.gain, offset=spec.offset, finer=spec.finer, floor=spec.floor, shift=spec.shift
    )


def _attention(fields: dict[str, Any], spec: block_bodies.AttentionSpec, of: Type) -> net.Layer:
    entries = spec.entries
    fits = entries.min() >= 0 and entries.max() <= LARGEST and entries[0] >= 1
    if of != Type(8) or spec.depth % LANES or not fits or not 0 <= spec.score_shift <= MOST_SHIFT:
        raise NotRead("RUB-AIE-105", "an attention of other numbers than its kernel has", RERUN)
    return net.Attention(
        **fields, heads=spec.heads, depth=spec.depth, score_shift=spec.score_shift, entries=entries,
        output_shift=spec.output_shift,
    )  # fmt: skip
