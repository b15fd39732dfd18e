"""Layer normalisation and attention as integer blocks: ways to write them, their integers, mutants."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx
import pytest
from pass_graphs import graph, node, weights

from rubicc.backends.aie import net, reference
from rubicc.backends.aie.extract import extract
from rubicc.backends.aie.host import Host
from rubicc.backends.aie.numbers import Type
from rubicc.errors import Unsupported
from rubicc.ir.executor import execute
from rubicc.ir.graph import Graph
from rubicc.passes.harness import apply_and_check, assert_mutant_fails
from rubicc.passes.integer import block_bodies, blocks
from rubicc.passes.integer.blocks import Blocks
from rubicc.passes.integer.fit import Options, on_grids, quantise
from rubicc.passes.integer.fit_block import spec_of
from rubicc.passes.integer.formats import Format

TOKENS, CHANNELS, HEADS = 12, 16, 2
DEPTH = CHANNELS // HEADS


def ints(*numbers: int) -> np.ndarray:
    return np.asarray(numbers, np.int64)


def encoder(way: str = "one", tokens: int = TOKENS, mask: bool = False) -> Graph:
    """An encoder block; its heads are cut in several ways."""
    nodes: list[onnx.NodeProto] = [
        node("LayerNormalization", "x g1 b1", "n1", "enc.n1", axis=-1, epsilon=1e-5)
    ]
    rng = np.random.default_rng(3)
    constants: dict[str, Any] = {
        "b1": weights(CHANNELS) * 0.2, "b2": weights(CHANNELS, seed=1),
        "bq": weights(3 * CHANNELS, seed=2) * 0.3,
        "w": weights(CHANNELS, 3 * CHANNELS) / 2, "o": weights(CHANNELS, CHANNELS, seed=4) / 4,
        "f1": weights(CHANNELS, 32, seed=5) / 4, "f2": weights(32, CHANNELS, seed=6) / 5,
        "g1": rng.uniform(0.5, 1.5, CHANNELS).astype(np.float32),
        "g2": rng.uniform(0.1, 2.5, CHANNELS).astype(np.float32),
        "scale": np.float32(DEPTH**-0.5), "root": np.float32(DEPTH**-0.25),
        "five": ints(1, tokens, 3, HEADS, DEPTH), "four": ints(1, tokens, HEADS, DEPTH),
        "three": ints(1, tokens, CHANNELS), "axes": ints(0), "thirds": ints(CHANNELS, CHANNELS, CHANNELS),
        "mask": np.where(np.tri(tokens) > 0, 0, -9).astype(np.float32),
        **{f"i{n}": np.asarray(n, np.int64) for n in range(3)},
    }  # fmt: skip
    if way == "one":
        nodes += [node("MatMul", "n1 w", "p", "enc.qkv"), node("Add", "p bq", "r", "enc.qkv")]
        nodes += [node("Reshape", "r five", "h5"), node("Transpose", "h5", "t5", perm=[2, 0, 3, 1, 4])]
        nodes += [node("Gather", f"t5 i{n}", f"{name}4", axis=0) for n, name in enumerate("qkv")]
    else:
        for n, name in enumerate("qkv"):
            cut = slice(n * CHANNELS, (n + 1) * CHANNELS)
            constants |= {f"w{name}": constants["w"][:, cut], f"z{name}": constants["bq"][cut]}
            nodes += [node("MatMul", f"n1 w{name}", f"p{name}"), node("Add", f"z{name} p{name}", f"r{name}")]
            nodes += [node("Reshape", f"r{name} four", f"s{name}")]
            nodes += [node("Transpose", f"s{name}", f"{name}4", perm=[0, 2, 1, 3])]
    nodes.append(node("Transpose", "k4", "kt", perm=[0, 1, 3, 2]))
    if way == "roots":
        nodes += [node("Mul", "q4 root", "qs"), node("Mul", "kt root", "ks"), node("MatMul", "qs ks", "sc")]
    else:
        nodes += [node("MatMul", "q4 kt", "raw"), node("Mul", "raw scale", "sc")]
    nodes += [node("Add", "sc mask", "masked")] if mask else []
    nodes += [
        node("Softmax", "masked" if mask else "sc", "pr", "enc.softmax", axis=-1),
        node("MatMul", "pr v4", "cx"),
        node("Transpose", "cx", "ct", perm=[0, 2, 1, 3]), node("Reshape", "ct three", "at"),
        node("MatMul", "at o", "ao", "enc.o"), node("Add", "x ao", "s1"),
        node("LayerNormalization", "s1 g2 b2", "n2", "enc.n2", axis=-1, epsilon=1e-5),
        node("MatMul", "n2 f1", "m1"), node("Relu", "m1", "m2"), node("MatMul", "m2 f2", "m3"),
        node("Add", "s1 m3", "y"),
    ]  # fmt: skip
    used = {name for n in nodes for name in n.input}
    kept = {name: array for name, array in constants.items() if name in used}
    shape = {"x": [1, tokens, CHANNELS]}
    return graph(nodes, shape, {"y": shape["x"]}, kept)


def feeds(seed: int, tokens: int = TOKENS) -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(seed).normal(size=(1, tokens, CHANNELS)).astype(np.float32)}


def rewritten(way: str = "one", tokens: int = TOKENS) -> Graph:
    made = encoder(way, tokens)
    assert Blocks().run(made)
    return made


@pytest.mark.parametrize("way", ["one", "three", "roots"])
def test_float_rewrite(way: str) -> None:
    done = apply_and_check("integer.blocks", encoder(way), [feeds(1)], expect_changed=True)
    kinds = [n.metadata_props[block_bodies.BLOCK_KEY] for n in done.graph.nodes if n.op_type == "Scan"]
    assert kinds == ["norm", "attention", "norm"]
    found = [block_bodies.read_float(n) for n in done.graph.nodes if n.op_type == "Scan"]
    assert found[1] == block_bodies.Attention(HEADS, DEPTH)


def test_what_is_not_understood_stays() -> None:
    done = Blocks()
    made = encoder(mask=True)
    assert done.run(made)  # its normalisations
    assert "Softmax" in {n.op_type for n in made.nodes}
    assert [note.what for note in done.notes] == ["it has a mask"]


class _NoScale(Blocks):
    """Scores keep the scale they had."""


class _KeysFirst(Blocks):
    """Queries and keys change places: the transpose of the scores."""


@pytest.mark.parametrize("mutant", [_NoScale, _KeysFirst])
def test_wrong_attentions_fail(mutant: type[Blocks], monkeypatch: pytest.MonkeyPatch) -> None:
    right = blocks._fused

    def wrong(found: Any, scale: float) -> Any:
        if mutant is _NoScale:
            return right(found, 1.0)
        return right((found[1], found[0], found[2]), scale)

    monkeypatch.setattr(blocks, "_fused", wrong)
    assert_mutant_fails(mutant, encoder(), [feeds(1)], code="RUB-PASS-021")


def test_norms_without_their_offset_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        blocks, "Norm", lambda gain, offset, epsilon: block_bodies.Norm(gain, 0 * offset, epsilon)
    )
    assert_mutant_fails(Blocks, encoder(), [feeds(1)], code="RUB-PASS-021")


@pytest.mark.parametrize(("bits", "least"), [(8, 20.0), (16, 25.0)])
@pytest.mark.parametrize("tokens", [TOKENS, 16])
def test_the_network_computes_what_the_graph_computes(bits: int, least: float, tokens: int) -> None:
    before = rewritten(tokens=tokens)
    options = Options(bits=bits, entry_bits=bits)
    made = quantise(before, [feeds(n, tokens) for n in range(3)], options)
    assert made.evidence["snr_db"] > least and made.evidence["host"] == []
    placed = on_grids(before, [feeds(n, tokens) for n in range(3)], options)
    exact = [execute(one, feeds(9, tokens), dtype=np.float64)["y"] for one in (placed, made.graph)]
    np.testing.assert_array_equal(*exact)
    found = extract(made.graph)
    assert [type(layer).__name__ for layer in found.layers][:4] == ["Norm", "Conv", "Attention", "Conv"]
    values = reference.run(found, Host(made.graph, found).integers(feeds(9, tokens)), keep=True)
    want = execute(made.graph, feeds(9, tokens), dtype=np.float64, keep=list(found.edges))
    for name in found.edges:
        np.testing.assert_array_equal(values[name], want[name].transpose(0, 2, 1), err_msg=name)
        assert len(np.unique(values[name])) > 50
    assert ("RUB-PASS-D43" in {decision.code for decision in made.decisions}) == (bits == 16)


def half_even(value: int, shift: int, low: int = -32768, high: int = 32767) -> int:
    floor, rest = value >> shift, value & ((1 << shift) - 1)
    half = 1 << shift >> 1
    up = rest > half or (rest == half and shift > 0 and floor & 1)
    return min(max(floor + up, low), high)


def test_attention_equals_its_docstring() -> None:
    """Python integers only, written from the docstring."""
    rng = np.random.default_rng(1)
    entries = np.rint(255 * np.exp(-np.arange(1024) / 128)).astype(np.int64)
    layer = net.Attention(
        name="a", source="", inputs=("x",), output="y", heads=2, depth=8, score_shift=5, entries=entries,
        output_shift=29,
    )  # fmt: skip
    x = rng.integers(-128, 128, (1, 48, 11))
    got = reference.evaluate(layer, [x], Type(8))[0]
    for head in range(2):
        query, key, value = (x[0, (3 * head + n) * 8 : (3 * head + n + 1) * 8].T.tolist() for n in range(3))
        for at, row in enumerate(query):
            scores = [half_even(sum(a * b for a, b in zip(row, other, strict=True)), 5) for other in key]
            weight = [int(entries[min(max(scores) - s, 1023)]) for s in scores]
            inverse = (1 << 30) // sum(weight)
            sums = [sum(w * v[c] for w, v in zip(weight, value, strict=True)) for c in range(8)]
            want = [half_even(s * inverse, 29, -128, 127) for s in sums]
            assert got[head * 8 : head * 8 + 8, at].tolist() == want
    assert len(np.unique(got)) > 80


@pytest.mark.parametrize(("bits", "finer", "shift"), [(8, 6, 14), (16, 0, 9)])
def test_norm_equals_its_docstring(bits: int, finer: int, shift: int) -> None:
    rng, channels = np.random.default_rng(2), 24
    gain, offset = rng.integers(-4095, 4096, channels), rng.integers(-(1 << 22), 1 << 22, channels)
    layer = net.Norm(
        name="n",
        source="",
        inputs=("x",),
        output="y",
        gain=gain,
        offset=offset,
        finer=finer,
        floor=7,
        shift=shift,
    )
    x = rng.integers(-(1 << (bits - 1)), 1 << (bits - 1), (1, channels, 9))
    x[0, :, 0] = 5  # nothing but rounding around the mean
    got = reference.evaluate(layer, [x], Type(16))[0]
    for at in range(9):
        column = x[0, :, at].tolist()
        mean = half_even(sum(column) * round(2**15 / channels), 15 - finer)
        away = [min(max((v << finer) - mean, -32768), 32767) for v in column]
        lanes = [half_even(sum(d * d for d in away[lane::8]), 5, 0, 1 << 31) for lane in range(8)]
        inverse = (1 << 30) // math.isqrt(7 + sum(lanes))
        normal = [half_even(d * inverse, 19) for d in away]
        made = [half_even(n * int(g) + int(b), shift) for n, g, b in zip(normal, gain, offset, strict=True)]
        assert got[:, at].tolist() == made
    assert len(np.unique(got)) > 150


@pytest.mark.parametrize("change", ["entries", "axis", "spec"])
def test_changed_bodies_are_refused(change: str) -> None:
    made = quantise(rewritten(), [feeds(0)], Options()).graph
    scan = next(n for n in made.nodes if n.metadata_props.get(block_bodies.BLOCK_KEY) == "attention")
    body = scan.attributes["body"].as_graph()
    if change == "spec":
        scan.metadata_props[block_bodies.SPEC_KEY] = '{"heads": 1e9}'
    elif change == "axis":
        split = next(n for n in body if n.op_type == "Split")
        split.outputs[0].name, split.outputs[2].name = "swapped", split.outputs[0].name
        split.outputs[0].replace_all_uses_with(split.outputs[2])
    else:
        gather = next(n for n in body if n.op_type == "Gather")
        table = gather.inputs[0]
        assert table is not None and table.const_value is not None
        table.const_value = type(table.const_value)(table.const_value.numpy() + 0.5, name=table.name)
    with pytest.raises(Unsupported, match="RUB-AIE-102"):
        extract(made)


def test_qonnx_computes_the_same_integers() -> None:
    """Bodies are in float64, so only the products outside are bound to 24 bits, which their weights keep."""
    from qonnx.core.modelwrapper import ModelWrapper
    from qonnx.core.onnx_exec import execute_onnx

    made = quantise(rewritten(), [feeds(0)], Options()).graph
    names = [n.outputs[0].name or "" for n in made.nodes if n.op_type in ("Scan", "Quant")]
    want = execute(made, feeds(5), dtype=np.float64, keep=names)
    got = execute_onnx(ModelWrapper(made.to_proto()), feeds(5), return_full_exec_context=True)
    for name in names:
        np.testing.assert_array_equal(got[name], want[name], err_msg=name)


@pytest.mark.parametrize(
    ("block", "entry", "what"),
    [
        (block_bodies.Attention(4, 4), Format(-4, 8), "heads of 4 channels"),
        (block_bodies.Attention(2, 8), Format(-9, 16), "of 16 bits"),
        (block_bodies.Norm(np.ones(12), np.zeros(12), 1e-5), Format(-4, 8), "12 channels"),
        (block_bodies.Norm(np.ones(8), np.zeros(8), 1.0), Format(-30, 16), "sums are all zero"),
    ],
)
def test_sizes_without_a_kernel_are_refused(
    block: block_bodies.Norm | block_bodies.Attention, entry: Format, what: str
) -> None:
    with pytest.raises(Unsupported, match=f"RUB-PASS-032.*{what}"):
        spec_of(block, entry, Format(-4, 8))
