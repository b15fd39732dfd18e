"""Parts of compression on their own: blocks, moves, packing, what a graph's constants are, decisions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from coreml_weights import computed, half, net, node, quantised, stored, write
from hypothesis import given, settings
from hypothesis import strategies as st

from rubicc.backends.coreml import tools
from rubicc.backends.coreml.compress import Stored, decisions
from rubicc.backends.coreml.compress.pack import pack
from rubicc.backends.coreml.compress.parameters import share
from rubicc.backends.coreml.compress.read import origin, weight
from rubicc.backends.coreml.compress.weight import Dense, Grid, Palette, aligned, compact, spread
from rubicc.backends.coreml.package import MODEL_FILE
from rubicc.backends.coreml.run.blobs import unpack
from rubicc.ir.graph import Graph

RNG = np.random.default_rng(8)
WEIGHT = RNG.normal(size=(8, 4, 6)).astype(np.float32)
SCALE = half(RNG.uniform(0.05, 0.2, (8, 1, 1)))


# Blocks ----------------------------------------------------------------------------------------------------


@st.composite
def blocks(draw: st.DrawFn) -> tuple[np.ndarray, tuple[int, ...]]:
    """Distinct numbers per block, and the shape of the whole."""
    rank = draw(st.integers(1, 4))
    counts = tuple(draw(st.integers(1, 3)) for _ in range(rank))
    shape = tuple(n * draw(st.integers(1, 3)) for n in counts)
    return np.arange(np.prod(counts), dtype=np.float32).reshape(counts), shape


@given(blocks())
@settings(max_examples=60, deadline=None)
def test_compact_undoes_spread(case: tuple[np.ndarray, tuple[int, ...]]) -> None:
    part, shape = case
    full = np.array(spread(part, shape))
    assert full.shape == shape
    again = compact(full)
    assert again.shape == part.shape and np.array_equal(again, part)


@given(blocks(), st.data())
@settings(max_examples=60, deadline=None)
def test_moves_keep_code_and_scale_together(
    case: tuple[np.ndarray, tuple[int, ...]], data: st.DataObject
) -> None:
    part, shape = case
    codes = np.random.default_rng(len(shape)).integers(-7, 8, shape).astype(np.int8)
    grid = Grid(codes, part + 1, np.zeros_like(part), -7, 7, 4)
    order = data.draw(st.permutations(range(len(shape))))
    start = data.draw(st.integers(0, shape[0] - 1))

    def move(array: np.ndarray) -> np.ndarray:
        return array[start:].transpose(order)

    moved = grid.moved(move)
    assert np.array_equal(moved.array(), move(grid.array()))
    assert all(n % count == 0 for n, count in zip(moved.shape, moved.scale.shape, strict=True))
    flat = grid.moved(lambda array: array.reshape(-1))
    assert np.array_equal(flat.array(), grid.array().reshape(-1))


def test_blocks_of_two_kinds_meet_in_the_finer() -> None:
    scale, zero = np.arange(2.0).reshape(1, 2), np.arange(3.0).reshape(1, 3)
    one, other = aligned((4, 12), scale, zero)
    assert one.shape == other.shape == (1, 6)
    assert np.array_equal(spread(one, (4, 12)), spread(scale, (4, 12)))
    assert np.array_equal(spread(other, (4, 12)), spread(zero, (4, 12)))


@given(st.integers(1, 8), st.lists(st.integers(0, 255), max_size=70))
@settings(max_examples=60, deadline=None)
def test_packed_codes_come_back(bits: int, numbers: list[int]) -> None:
    codes = np.asarray(numbers, np.int64) % 2**bits
    raw = pack(codes.astype(np.uint8), bits)
    assert raw.size == -(-len(numbers) * bits // 8)
    if bits not in (5, 7):
        assert np.array_equal(unpack(raw, f"uint{bits}", len(numbers)), codes)
    whole = sum(int(code) << (bits * place) for place, code in enumerate(codes))
    assert raw.tobytes() == whole.to_bytes(raw.size, "little")


def test_codes_that_do_not_fit_are_no_codes() -> None:
    with pytest.raises(ValueError, match="more than 2 bits"):
        pack(np.array([0, 4], np.uint8), 2)


# Reading ---------------------------------------------------------------------------------------------------


def read_of(
    nodes: list[Any], constants: dict[str, Any], name: str, shape: tuple[int, ...]
) -> tuple[Any, Graph]:
    graph = net(nodes, constants, name, shape)
    value = next(v for n in graph.nodes for v in n.outputs if v.name == name)
    return weight(graph, value), graph


QUANT = {"w": WEIGHT, "s": SCALE, "z": np.float32(0), "b": np.float32(4)}
PLAIN: dict[str, Any] = {"signed": 1, "narrow": 1, "rounding_mode": "ROUND"}
MOVED: list[tuple[str, str, dict[str, Any], dict[str, Any], tuple[int, ...]]] = [
    ("Transpose", "q", {}, {"perm": [2, 0, 1]}, (6, 8, 4)),
    ("Reshape", "q to", {"to": np.array([8, 24])}, {}, (8, 24)),
    ("Unsqueeze", "q ax", {"ax": np.array([2])}, {}, (8, 4, 1, 6)),
    ("Slice", "q a b_ c", {"a": np.array([1]), "b_": np.array([5]), "c": np.array([0])}, {}, (4, 4, 6)),
    ("Gather", "q i", {"i": np.array([3, 1, 1])}, {"axis": 0}, (3, 4, 6)),
    ("Flatten", "q", {}, {"axis": 1}, (8, 24)),
    ("Identity", "q", {}, {}, (8, 4, 6)),
]


@pytest.mark.parametrize(
    ("op", "inputs", "more", "attributes", "shape"), MOVED, ids=[row[0] for row in MOVED]
)
def test_what_only_moves_keeps_the_form(
    op: str,
    inputs: str,
    more: dict[str, Any],
    attributes: dict[str, Any],
    shape: tuple[int, ...],
    tmp_path: Path,
) -> None:
    nodes = [node("Quant", "w s z b", "q", **PLAIN), node(op, inputs, "m", **attributes)]
    found, graph = read_of(nodes, {**QUANT, **more}, "m", shape)
    assert isinstance(found, Grid) and found.bits == 4
    assert np.array_equal(found.array(), computed(graph, shape))
    made = stored(graph, tmp_path, "iOS18")
    assert made.records[0].initializer == "w"
    if made.kinds:  # the smallest ones do not pay
        assert np.array_equal(made.values[0], computed(graph, shape).astype(np.float16))


@pytest.mark.parametrize("signed", [True, False])
def test_integer_initializers_are_codes(signed: bool, tmp_path: Path) -> None:
    codes = (
        RNG.integers(-128, 128, (16, 32)).astype(np.int8)
        if signed
        else RNG.integers(0, 256, (16, 32)).astype(np.uint8)
    )
    constants = {"w": codes, "s": half(RNG.uniform(0.1, 1, 32)), "z": np.zeros(32, codes.dtype) + 3}
    nodes = [node("DequantizeLinear", "w s z", "q", axis=1)]
    graph = net(nodes, {**constants, "z": constants["z"].astype(codes.dtype)}, "q", (16, 32))
    made = stored(graph, tmp_path, "iOS18")
    assert made.kinds == ("constexpr_blockwise_shift_scale",)
    assert made.types[0]["data"] == ("int8" if signed else "uint8")
    assert np.array_equal(made.parts[0]["data"], codes)
    assert np.array_equal(made.values[0], computed(graph, (16, 32)).astype(np.float16))


def test_computing_with_a_quantised_weight_makes_floats_and_is_told(tmp_path: Path) -> None:
    nodes = [node("Quant", "w s z b", "q", **PLAIN), node("Mul", "q f", "m")]
    graph = net(nodes, {**QUANT, "f": np.full((1, 4, 1), 3, np.float32)}, "m", WEIGHT.shape)
    made = stored(graph, tmp_path, "iOS18")
    assert made.kinds == () and made.codes == {"RUB-COREML-D32"}
    assert "Mul computes with it" in next(
        one.reason for one in made.decisions if one.code == "RUB-COREML-D32"
    )
    assert np.array_equal(made.run("fp16"), computed(graph, WEIGHT.shape).astype(np.float16))


def test_plain_and_computed_values_are_no_compressed_weights() -> None:
    graph = net([node("Identity", "w", "q")], {"w": WEIGHT}, "q", WEIGHT.shape)
    values = {v.name: v for n in graph.nodes for v in (*n.inputs, *n.outputs) if v is not None}
    found = weight(graph, values["w"])
    assert isinstance(found, Dense) and not found.sparse and not found.lost
    assert weight(graph, values["y"]) is None and weight(graph, values["x"]) is None
    assert origin(values["q"]) == "w"


@pytest.mark.parametrize(
    "broken",
    [
        {"o": np.array([[0], [0], [2], [2]], np.int32)},  # tables that overlap
        {"o": np.array([[4], [4], [4], [4]], np.int32)},  # the first table is never used
        {"t": np.arange(7, dtype=np.float32)},  # no power of two
    ],
)
def test_look_ups_that_are_no_palettes_are_computed(broken: dict[str, np.ndarray], tmp_path: Path) -> None:
    constants = {
        "t": half(RNG.normal(size=8)),
        "i": np.array([[0, 1], [2, 3], [0, 1], [1, 2]], np.uint8),
        "o": np.array([[0], [0], [4], [4]], np.int32),
    }
    nodes = [node("Cast", "i", "c", to=6), node("Add", "c o", "p"), node("Gather", "t p", "q", axis=0)]
    found, graph = read_of(nodes, constants, "q", (4, 2))
    assert isinstance(found, Palette) and found.tables.shape == (2, 4)
    assert np.array_equal(found.array(), computed(graph, (4, 2)))
    other, graph = read_of(nodes, {**constants, **broken, "i": constants["i"] % 2}, "q", (4, 2))
    assert not isinstance(other, Palette)
    made = stored(graph, tmp_path, "iOS18")
    assert made.kinds == () and np.array_equal(made.run("fp16"), computed(graph, (4, 2)))


# Account ---------------------------------------------------------------------------------------------------


def record(name: str, **other: Any) -> Stored:
    given = {
        "initializer": name, "stored": "int8 per channel", "form": "scaled", "bits": 8, "width": 8,
        "elements": 100, "nbytes": 128, "least": 100, "rounding": 0.0, "cause": "",
    }  # fmt: skip
    return Stored(**{**given, **other})


def test_one_decision_per_kind_with_counts() -> None:
    records = [
        record("a", bits=3),
        record("b", bits=3, nbytes=256, least=44),
        record("c", rounding=1e-4),
        record("d", rounding=3e-4),
        record("e", form="plain", stored="fp16", bits=16, cause="it has 16 bits", rounding=2e-4, nbytes=200),
        record("f", form="plain", stored="fp16", bits=0),  # always was floats
        record("g"),
    ]
    made = decisions([object(), *records])
    assert [one.code for one in made] == ["RUB-COREML-D30", "RUB-COREML-D31", "RUB-COREML-D32"]
    wider, rounded, floats = made
    assert wider.where == "a and 1 more" and "384 bytes instead of 144 (2.67x)" in wider.what
    assert rounded.where == "d and 1 more" and "0.0003" in rounded.what
    assert floats.where == "e" and "it has 16 bits" in floats.reason
    assert decisions([object(), record("g")]) == ()


# Parameters ------------------------------------------------------------------------------------------------


def test_equal_parameters_are_written_once(tmp_path: Path) -> None:
    """Two convolutions of one kind read one set of strides, pads and groups; nothing else changes."""
    kernel = RNG.normal(size=(2, 4, 4, 3)).astype(np.float32)
    nodes = [node("Conv", "x k", "h", pads=[1, 1]), node("Conv", "h l", "q", pads=[1, 1])]
    graph = net(nodes, {"k": kernel[0], "l": kernel[1]}, "q", (1, 4, 9))
    write(graph, tmp_path, "iOS17")
    tools.coremltools()
    from coremltools.proto import Model_pb2

    model = Model_pb2.Model.FromString((tmp_path / "Net.mlpackage" / MODEL_FILE).read_bytes())
    main = model.mlProgram.functions["main"]
    block = main.block_specializations[main.opset]
    consts = [op for op in block.operations if op.type == "const"]
    values = [
        (op.outputs[0].type.SerializeToString(), op.attributes["val"].SerializeToString()) for op in consts
    ]
    assert len(set(values)) == len(values)
    held = {op.outputs[0].name for op in block.operations} | {value.name for value in main.inputs}
    read = {b.name for op in block.operations for a in op.inputs.values() for b in a.arguments if b.name}
    assert read <= held
    convs = [op for op in block.operations if op.type == "conv"]
    for key in ("strides", "pad", "dilations", "groups", "pad_type"):
        assert len({op.inputs[key].arguments[0].name for op in convs}) == 1
    assert len({op.inputs["weight"].arguments[0].name for op in convs}) == 2
    assert share(block) == 0
    package = stored(graph, tmp_path / "again", "iOS17").package
    x = RNG.normal(size=(1, 4, 9)).astype(np.float32)
    from rubicc.ir.executor import execute

    (wanted,) = execute(graph, {"x": x}).values()
    (got,) = package.run({"x": x}, semantics="fp32").values()
    assert np.abs(got - wanted).max() < 0.01 * np.abs(wanted).max()


def test_names_that_nested_blocks_read_are_followed() -> None:
    tools.coremltools()
    from coremltools.proto import MIL_pb2

    def const(block: Any, name: str, number: int) -> None:
        op = block.operations.add(type="const")
        out = op.outputs.add(name=name)
        out.type.tensorType.dataType = MIL_pb2.INT32
        op.attributes["val"].type.tensorType.dataType = MIL_pb2.INT32
        op.attributes["val"].immediateValue.tensor.ints.values.append(number)

    block = MIL_pb2.Block()
    for name, number in (("a", 1), ("b", 1), ("c", 2), ("out", 1)):
        const(block, name, number)
    loop = block.operations.add(type="while_loop")
    loop.inputs["loop_vars"].arguments.add(name="b")
    inner = loop.blocks.add()
    inner.operations.add(type="add").inputs["x"].arguments.add(name="b")
    inner.outputs.append("b")
    block.outputs.append("out")
    assert share(block) == 1
    assert [op.outputs[0].name for op in block.operations if op.type == "const"] == ["c0", "c", "out"]
    again = block.operations[-1]
    assert again.inputs["loop_vars"].arguments[0].name == "c0"
    assert again.blocks[0].operations[0].inputs["x"].arguments[0].name == "c0"
    assert list(again.blocks[0].outputs) == ["c0"]


def test_records_name_the_initializer_and_the_form(tmp_path: Path) -> None:
    made = stored(quantised(WEIGHT.reshape(8, 24), SCALE.reshape(8, 1), 4), tmp_path, "iOS18")
    (found,) = made.records
    assert (found.initializer, found.stored, found.bits, found.elements) == ("w", "int4 per channel", 4, 192)
    assert found.least == 192 // 2 + 8 * 2
