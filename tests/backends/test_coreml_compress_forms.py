"""Each form of a compressed weight: what a package holds on disk is what the graph's quantisers say."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from coreml_weights import computed, half, integers, net, node, quantised, read, stored, write

from rubicc.backends.coreml import lowering, tools
from rubicc.backends.coreml.compress.read import weight
from rubicc.backends.coreml.package import WEIGHTS_FILE
from rubicc.errors import Unsupported
from rubicc.ir.graph import Graph

RNG = np.random.default_rng(4)
ROWS, COLUMNS, BLOCK = 32, 64, 32
WEIGHT = RNG.normal(size=(ROWS, COLUMNS)).astype(np.float32)
AFFINE, SHIFT, LUT = (
    "constexpr_affine_dequantize",
    "constexpr_blockwise_shift_scale",
    "constexpr_lut_to_dense",
)
SPARSE, SPARSE_LUT = "constexpr_sparse_to_dense", "constexpr_lut_to_sparse"
SPARSE_SHIFT = "constexpr_sparse_blockwise_shift_scale"
TENSOR, CHANNEL, IN_BLOCKS = "tensor", "channel", "block"

# (bits, granularity) -> operator and bits stored; None: no form is smaller than fp16.
OLD: dict[tuple[int, str], tuple[str, int] | None] = {
    (1, TENSOR): (LUT, 1),
    (2, TENSOR): (LUT, 2),
    (3, TENSOR): (LUT, 4),
    (4, TENSOR): (LUT, 4),
    (5, TENSOR): (LUT, 6),
    (6, TENSOR): (LUT, 6),
    (7, TENSOR): (AFFINE, 8),
    (8, TENSOR): (AFFINE, 8),
    (1, CHANNEL): (LUT, 6),
    **{(bits, CHANNEL): (AFFINE, 8) for bits in range(2, 9)},
    (1, IN_BLOCKS): (LUT, 8),
    (2, IN_BLOCKS): (LUT, 8),
    **{(bits, IN_BLOCKS): None for bits in range(3, 9)},
}
NEW: dict[tuple[int, str], tuple[str, int] | None] = {
    **{(bits, TENSOR): (LUT, bits) for bits in (1, 2, 3)},
    (4, TENSOR): (SHIFT, 4),
    (5, TENSOR): (LUT, 6),
    (6, TENSOR): (LUT, 6),
    (7, TENSOR): (SHIFT, 8),
    (8, TENSOR): (SHIFT, 8),
    **{(bits, part): (LUT, bits) for bits in (1, 2) for part in (CHANNEL, IN_BLOCKS)},
    **{(bits, part): (SHIFT, 4) for bits in (3, 4) for part in (CHANNEL, IN_BLOCKS)},
    **{(bits, part): (SHIFT, 8) for bits in (5, 6, 7, 8) for part in (CHANNEL, IN_BLOCKS)},
}
FORMS: dict[str, dict[tuple[int, str], tuple[str, int] | None]] = {
    "iOS16": OLD,
    "iOS17": OLD,
    "iOS18": NEW,
    "iOS26": NEW,
}


def scales(part: str) -> np.ndarray:
    shape = {TENSOR: (), CHANNEL: (ROWS, 1), IN_BLOCKS: (ROWS, COLUMNS // BLOCK, 1)}[part]
    return half(np.random.default_rng(1).uniform(0.05, 0.2, shape))


def grid(bits: int, part: str) -> Graph:
    return quantised(
        WEIGHT, scales(part), bits, block=BLOCK if part == IN_BLOCKS else 0, narrow=int(bits > 1)
    )


@pytest.mark.parametrize(("target", "part"), list(product(["iOS16", "iOS18"], [TENSOR, CHANNEL, IN_BLOCKS])))
def test_integers_are_stored_bit_for_bit(target: str, part: str, tmp_path: Path) -> None:
    for bits in range(1, 9):
        graph = grid(bits, part)
        (tmp_path / str(bits)).mkdir()
        made = stored(graph, tmp_path / str(bits), target)
        expected = FORMS[target][bits, part]
        (record,) = made.records
        wanted = computed(graph, WEIGHT.shape)
        if expected is None:
            assert made.kinds == () and record.form == "plain" and made.codes == {"RUB-COREML-D32"}
            assert np.array_equal(made.run("fp16"), wanted.astype(np.float16))
            continue
        assert made.kinds == (expected[0],) and record.width == expected[1]
        # fp16 of the graph's value: one rounding of an exact product of a code and an fp16 scale
        assert np.array_equal(made.values[0], wanted.astype(np.float16))
        assert np.array_equal(made.run("fp16"), wanted.astype(np.float16).astype(np.float32))
        assert np.array_equal(made.run("fp64"), wanted.astype(np.float64)) or expected[0] == LUT
        assert made.codes == ({"RUB-COREML-D30"} if expected[1] > bits else set())


@pytest.mark.parametrize("target", ["iOS16", "iOS18"])
def test_in_fp32_every_scale_is_exact(target: str, tmp_path: Path) -> None:
    scale = np.random.default_rng(2).uniform(0.05, 0.2, (ROWS, 1)).astype(np.float32)
    for bits in (2, 4, 8):
        graph = quantised(WEIGHT, scale, bits)
        (tmp_path / str(bits)).mkdir()
        made = stored(graph, tmp_path / str(bits), target, "fp32")
        assert np.array_equal(made.values[0], computed(graph, WEIGHT.shape))
        assert np.array_equal(made.run("fp32"), computed(graph, WEIGHT.shape))
        assert not made.codes - {"RUB-COREML-D30"}


def test_targets_of_one_generation_store_the_same(tmp_path: Path) -> None:
    for older, newer in (("iOS16", "iOS17"), ("iOS18", "iOS26")):
        for target in (older, newer):
            (tmp_path / target).mkdir()
            write(grid(4, CHANNEL), tmp_path / target, target)
        first, second = (tmp_path / t / "Net.mlpackage" / WEIGHTS_FILE for t in (older, newer))
        assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize(
    ("bits", "columns", "kind", "width"),
    [(3, 64, SHIFT, 4), (3, 512, LUT, 3), (6, 512, SHIFT, 8), (6, 2048, LUT, 6)],
)
def test_the_smallest_exact_form_is_taken(
    bits: int, columns: int, kind: str, width: int, tmp_path: Path
) -> None:
    """A table per channel pays from a certain length on; below, the next wider integers are smaller."""
    weight = RNG.normal(size=(8, columns)).astype(np.float32)
    graph = quantised(weight, half(RNG.uniform(0.05, 0.2, (8, 1))), bits)
    made = stored(graph, tmp_path, "iOS18")
    assert made.kinds == (kind,) and made.records[0].width == width
    assert np.array_equal(made.values[0], computed(graph, weight.shape).astype(np.float16))


@pytest.mark.parametrize(
    ("target", "signed", "narrow", "bits", "zero", "types"),
    [
        ("iOS16", 0, 0, 8, 128, {"quantized_data": "uint8", "zero_point": "uint8"}),
        ("iOS16", 1, 0, 8, -3, {"quantized_data": "int8", "zero_point": "int8"}),
        ("iOS18", 0, 0, 8, 131, {"data": "uint8", "offset": "uint8"}),
        ("iOS18", 1, 0, 8, -128, {"data": "int8", "offset": "int8"}),
        ("iOS18", 0, 0, 4, 7, {"data": "uint4", "offset": "uint4"}),
        ("iOS18", 1, 1, 4, 3, {"data": "int4", "offset": "int4"}),
        ("iOS16", 0, 0, 7, 100, {"quantized_data": "uint8", "zero_point": "uint8"}),
        ("iOS18", 0, 0, 7, 100, {"data": "uint8", "offset": "uint8"}),
        ("iOS18", 0, 1, 8, 9, {"data": "uint8", "offset": "uint8"}),
    ],
)
def test_zero_points_and_unsigned_codes(
    target: str, signed: int, narrow: int, bits: int, zero: int, types: dict[str, str], tmp_path: Path
) -> None:
    scale = half(RNG.uniform(0.02, 0.2, (ROWS, 1)))
    graph = quantised(WEIGHT, scale, bits, zero=zero, signed=signed, narrow=narrow)
    made = stored(graph, tmp_path, target)
    low = -(2 ** (bits - 1)) + narrow if signed else 0
    high = 2 ** (bits - 1) - 1 if signed else 2**bits - 1 - narrow
    codes = made.parts[0]["data" if target == "iOS18" else "quantized_data"]
    assert np.array_equal(codes, integers(WEIGHT, scale, low, high, zero))
    assert types.items() <= made.types[0].items()
    assert np.array_equal(made.values[0], computed(graph, WEIGHT.shape).astype(np.float16))


def test_zero_point_outside_the_integers_is_no_offset(tmp_path: Path) -> None:
    """Core ML's offsets have the codes' type; a fraction needs a table, or floats."""
    graph = quantised(WEIGHT, 0.125, 4, zero=0.5, narrow=0)
    made = stored(graph, tmp_path, "iOS18")
    assert made.kinds == (LUT,)
    assert np.array_equal(made.values[0], computed(graph, WEIGHT.shape).astype(np.float16))
    (tmp_path / "channel").mkdir()
    rows = quantised(WEIGHT, scales(CHANNEL), 8, zero=0.5, narrow=0)
    made = stored(rows, tmp_path / "channel", "iOS18")
    assert made.kinds == () and made.codes == {"RUB-COREML-D32"}
    assert "zero points" in next(one.reason for one in made.decisions if one.code == "RUB-COREML-D32")


@pytest.mark.parametrize("mode", ["ROUND", "FLOOR", "CEIL", "ROUND_TO_ZERO", "HALF_UP"])
def test_rounding_modes_are_the_graphs(mode: str, tmp_path: Path) -> None:
    graph = quantised(WEIGHT, 0.125, 4, rounding_mode=mode)
    made = stored(graph, tmp_path, "iOS18")
    assert np.array_equal(made.values[0], computed(graph, WEIGHT.shape).astype(np.float16))


@pytest.mark.parametrize("target", ["iOS16", "iOS18"])
def test_one_bit_is_minus_and_plus(target: str, tmp_path: Path) -> None:
    constants = {"w": WEIGHT, "s": np.float32(0.25)}
    graph = net([node("BipolarQuant", "w s", "q")], constants, "q", WEIGHT.shape)
    made = stored(graph, tmp_path, target)
    assert made.kinds == (LUT,) and made.records[0].width == 1
    assert np.array_equal(made.values[0], np.where(WEIGHT >= 0, np.float16(0.25), np.float16(-0.25)))
    assert made.nbytes < WEIGHT.size / 8 + 256


def palette(bits: int, groups: int, *, sparse: bool = False) -> Graph:
    """``x + Gather(tables, indices)``, rows in ``groups`` groups."""
    rng = np.random.default_rng([bits, groups])
    tables = np.sort(half(rng.normal(size=(groups, 2**bits))), axis=1)
    indices = rng.integers(0, 2**bits, (ROWS, COLUMNS)).astype(np.uint8)
    if sparse:  # what the mark promises: entry 0 is 0
        tables[:, 0] = 0
        indices[rng.random(indices.shape) < 0.8] = 0
    constants: dict[str, np.ndarray] = {"t": tables.reshape(-1), "i": indices}
    nodes = [node("Cast", "i", "wide", to=6)]
    if groups > 1:
        number = np.arange(ROWS, dtype=np.int32) // (ROWS // groups)
        constants["o"] = (number * 2**bits).reshape(ROWS, 1).astype(np.int32)
        nodes.append(node("Add", "wide o", "place"))
    nodes.append(node("Gather", f"t {'place' if groups > 1 else 'wide'}", "q", axis=0))
    graph = net(nodes, constants, "q", (ROWS, COLUMNS))
    if sparse:
        graph.ir.initializers["i"].metadata_props["rubicc.sparse"] = "0.5000"
    return graph


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 5, 6, 7, 8])
@pytest.mark.parametrize("target", ["iOS16", "iOS18"])
def test_palettes_of_every_width(target: str, bits: int, tmp_path: Path) -> None:
    graph = palette(bits, 1)
    made = stored(graph, tmp_path, target)
    width = min(w for w in ((1, 2, 4, 6, 8) if target == "iOS16" else (1, 2, 3, 4, 6, 8)) if w >= bits)
    assert made.kinds == (LUT,) and made.records[0].width == width
    assert made.codes == ({"RUB-COREML-D30"} if width > bits else set())
    wanted = computed(graph, (ROWS, COLUMNS))
    assert np.array_equal(made.values[0], wanted) and np.array_equal(made.run("fp16"), wanted)
    if target == "iOS18":
        assert np.array_equal(made.parts[0]["indices"], graph.ir.initializers["i"].const_value.numpy())  # type: ignore[union-attr]
        assert made.types[0]["indices"] == f"uint{width}"


@pytest.mark.parametrize(("target", "width", "tables"), [("iOS16", 6, 1), ("iOS18", 2, 8)])
def test_grouped_channels(target: str, width: int, tables: int, tmp_path: Path) -> None:
    """iOS18 has a table per group; before, few small tables stand one behind the other in a single one."""
    graph = palette(2, 8)
    made = stored(graph, tmp_path, target)
    assert made.kinds == (LUT,) and made.records[0].width == width
    assert made.parts[0]["lut"].size == tables * 2**width
    assert np.array_equal(made.values[0], computed(graph, (ROWS, COLUMNS)))
    assert np.array_equal(made.run("fp16"), computed(graph, (ROWS, COLUMNS)))


def zeros(share: float) -> np.ndarray:
    rng = np.random.default_rng(9)
    return np.where(
        rng.random((ROWS, COLUMNS)) < share, np.float32(0), half(rng.normal(size=(ROWS, COLUMNS)))
    )


@pytest.mark.parametrize("target", ["iOS16", "iOS18"])
@pytest.mark.parametrize("precision", ["fp16", "fp32"])
@pytest.mark.parametrize("share", [0.3, 0.75, 1.0])
def test_floats_without_their_zeros(target: str, precision: str, share: float, tmp_path: Path) -> None:
    graph = net([node("Identity", "w", "q")], {"w": zeros(share)}, "q", (ROWS, COLUMNS))
    graph.ir.initializers["w"].metadata_props["rubicc.sparse"] = f"{share}"
    made = stored(graph, tmp_path, target, precision)
    assert made.kinds == (SPARSE,)
    assert np.array_equal(made.values[0], zeros(share)) and np.array_equal(made.run(precision), zeros(share))
    kept = max(1, int(np.count_nonzero(zeros(share))))
    assert made.parts[0]["nonzero_data"].size == kept
    assert made.records[0].nbytes < ROWS * COLUMNS / 8 + kept * (2 if precision == "fp16" else 4) + 256


def test_too_few_zeros_are_no_gain(tmp_path: Path) -> None:
    graph = net([node("Identity", "w", "q")], {"w": zeros(0.02)}, "q", (ROWS, COLUMNS))
    graph.ir.initializers["w"].metadata_props["rubicc.sparse"] = "0.02"
    made = stored(graph, tmp_path, "iOS16")
    assert made.kinds == () and not made.codes and np.array_equal(made.run("fp16"), zeros(0.02))


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("part", [TENSOR, CHANNEL])
def test_integers_without_their_zeros(bits: int, part: str, tmp_path: Path) -> None:
    graph = quantised(zeros(0.8), scales(part), bits)
    graph.ir.initializers["w"].metadata_props["rubicc.sparse"] = "0.8"
    (tmp_path / "old").mkdir()
    made, old = stored(graph, tmp_path, "iOS18"), stored(graph, tmp_path / "old", "iOS16")
    assert made.kinds == (SPARSE_SHIFT, SPARSE) and made.types[0]["nonzero_data"] == f"int{bits}"
    wanted = computed(graph, (ROWS, COLUMNS)).astype(np.float16)
    assert np.array_equal(made.values[-1], wanted) and np.array_equal(made.run("fp16"), wanted)
    limit = 2 ** (bits - 1) - 1
    codes = integers(zeros(0.8), scales(part), -limit, limit)
    assert np.array_equal(made.parts[0]["nonzero_data"], codes[codes != 0])
    assert np.array_equal(old.values[-1], wanted) and made.records[0].nbytes < old.records[0].nbytes


@pytest.mark.parametrize(("bits", "groups"), [(2, 1), (4, 1), (4, 4), (8, 1)])
def test_palettes_without_their_zeros(bits: int, groups: int, tmp_path: Path) -> None:
    graph = palette(bits, groups, sparse=True)
    index = graph.ir.initializers["i"].const_value.numpy()  # type: ignore[union-attr]
    made = stored(graph, tmp_path, "iOS18")
    assert made.kinds == (SPARSE_LUT, SPARSE) and made.types[0]["indices_nonzero_data"] == f"uint{bits}"
    wanted = computed(graph, (ROWS, COLUMNS))
    assert np.array_equal(made.values[-1], wanted) and np.array_equal(made.run("fp16"), wanted)
    assert np.array_equal(made.parts[0]["indices_nonzero_data"], index[index != 0])


CASES: dict[str, Callable[[], Graph]] = {
    "grid 4 tensor": lambda: grid(4, TENSOR),
    "grid 8 channel": lambda: grid(8, CHANNEL),
    "grid 3 block": lambda: grid(3, IN_BLOCKS),
    "palette 4": lambda: palette(4, 1),
    "palette 2 x 8": lambda: palette(2, 8),
    "palette 6": lambda: palette(6, 1),
}


@pytest.mark.parametrize("target", ["iOS16", "iOS18"])
def test_coremltools_decodes_to_the_same(target: str) -> None:
    """The reference that comes with the format, on the program before it is saved."""
    for name, make in CASES.items():
        lowered = lowering.lower(make(), target=target)
        ops = [
            op for op in lowered.program.functions["main"].operations if op.op_type.startswith("constexpr")
        ]
        if ops:
            with tools.quiet():
                value = ops[-1].materialized_val_inference()
            assert np.array_equal(value, computed(make(), WEIGHT.shape).astype(np.float16)), name
    assert ops


@pytest.mark.parametrize("name", ["grid 4 tensor", "grid 8 channel", "palette 6"])
@pytest.mark.parametrize("target", ["iOS16", "iOS18"])
def test_a_changed_bit_on_disk_is_seen(target: str, name: str, tmp_path: Path) -> None:
    """The comparison of this file can fail: one bit in the middle of the codes, one weight differs."""
    graph = CASES[name]()
    lowered = write(graph, tmp_path, target)
    file = tmp_path / "Net.mlpackage" / WEIGHTS_FILE
    before = read(tmp_path / "Net.mlpackage", lowered, "fp16").values[0]
    data = bytearray(file.read_bytes())
    data[64 + 64 + 500] ^= 1  # header, record, codes
    file.write_bytes(bytes(data))
    after = read(tmp_path / "Net.mlpackage", lowered, "fp16").values[0]
    assert np.count_nonzero(before != after) == 1


@pytest.mark.parametrize("target", ["iOS16", "iOS18"])
@pytest.mark.parametrize("precision", ["fp16", "fp32"])
def test_the_size_foretold_is_the_size_on_disk(target: str, precision: str, tmp_path: Path) -> None:
    for number, make in enumerate(CASES.values()):
        (tmp_path / str(number)).mkdir()
        made = stored(make(), tmp_path / str(number), target, precision)
        small = sum(np.asarray(v).nbytes for part in made.parts for v in part.values() if np.size(v) < 10)
        unfilled = 63  # the last record is not padded
        assert 0 <= 64 + made.records[0].nbytes - made.nbytes <= small + unfilled


def test_scales_that_fp16_lacks_are_rounded_and_told(tmp_path: Path) -> None:
    scale = np.random.default_rng(5).uniform(0.05, 0.2, (ROWS, 1)).astype(np.float32)
    made = stored(quantised(WEIGHT, scale, 8), tmp_path, "iOS18")
    assert made.codes == {"RUB-COREML-D31"}
    assert np.array_equal(made.parts[0]["data"], integers(WEIGHT, scale, -127, 127))
    assert np.array_equal(made.parts[0]["scale"], scale.astype(np.float16))
    moved = np.abs(half(scale) / scale - 1).max()
    assert made.records[0].rounding == pytest.approx(moved, rel=1e-3) and 0 < moved < 2**-11


@pytest.mark.parametrize("scale", [1e-9, 3e-8, 1e6])
def test_scales_out_of_reach_of_fp16_make_floats(scale: float, tmp_path: Path) -> None:
    graph = quantised(WEIGHT * np.float32(20 * scale), scale, 8)
    if scale > 1:
        graph = quantised(WEIGHT * 100, scale, 8)
    made = stored(graph, tmp_path, "iOS18")
    assert made.kinds == () and made.codes == {"RUB-COREML-D32"}
    (tmp_path / "fp32").mkdir()
    exact = stored(graph, tmp_path / "fp32", "iOS18", "fp32")
    assert exact.kinds == (SHIFT,) and np.array_equal(exact.values[0], computed(graph, WEIGHT.shape))


@pytest.mark.parametrize(("bits", "precision"), [(12, "fp32"), (16, "fp32"), (16, "fp16"), (24, "fp32")])
def test_more_than_8_bits_are_floats_of_the_same_values(bits: int, precision: str, tmp_path: Path) -> None:
    graph = quantised(WEIGHT, 2.0 ** (3 - bits), bits)
    made = stored(graph, tmp_path, "iOS18", precision)
    assert made.kinds == () and made.codes == {"RUB-COREML-D32"}
    dtype = np.float16 if precision == "fp16" else np.float32
    assert np.array_equal(made.run(precision), computed(graph, WEIGHT.shape).astype(dtype))
    assert f"{bits} bits" in next(one.reason for one in made.decisions if one.code == "RUB-COREML-D32")


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"b": np.float32(4.5)}, "bit width"),
        ({"b": np.ones(3, np.float32)}, "bit width"),
        ({"s": np.ones(7, np.float32)}, "does not fit|another shape"),
        ({"w": np.where(WEIGHT > 2, np.float32(np.nan), WEIGHT)}, "not finite"),
    ],
)
def test_integers_that_cannot_be_known_are_refused(change: dict[str, np.ndarray], what: str) -> None:
    constants = {"w": WEIGHT, "s": np.float32(0.1), "z": np.float32(0), "b": np.float32(4), **change}
    quant = node("Quant", "w s z b", "q", signed=1, narrow=1, rounding_mode="ROUND")
    graph = net([quant], constants, "q", WEIGHT.shape)
    with pytest.raises(Unsupported, match=what) as caught:
        weight(graph, next(n for n in graph.nodes if n.op_type == "Quant").outputs[0])
    assert caught.value.code == "RUB-COREML-301" and "m.q" in str(caught.value)
