"""The emulated vector operations against numpy, lane by lane."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from math import ceil, floor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from rubicc.backends.aie import sim
from tests.backends.aie_sim_projects import build, one_kernel

LOADS = """
const unsigned char* raw = reinterpret_cast<const unsigned char*>(in.data());
const auto a = aie::load_v<64>(reinterpret_cast<const int8*>(raw));
const auto b = aie::load_v<64>(reinterpret_cast<const int8*>(raw + 64));
const auto c = aie::load_v<32>(reinterpret_cast<const int16*>(raw + 128));
const auto d = aie::load_v<32>(reinterpret_cast<const int16*>(raw + 192));
const auto e = aie::load_v<16>(reinterpret_cast<const int32*>(raw + 256));
const auto f = aie::load_v<16>(reinterpret_cast<const int32*>(raw + 320));
const auto u = aie::load_v<64>(reinterpret_cast<const uint8*>(raw));
const int8* pa = reinterpret_cast<const int8*>(raw);
"""

Values = SimpleNamespace
WIDE = np.int64


def wrapped(values: np.ndarray, kind: type) -> np.ndarray:
    return np.asarray(values, WIDE).astype(kind)


def zip_(x: np.ndarray, y: np.ndarray, n: int) -> np.ndarray:
    return np.stack([x.reshape(-1, n), y.reshape(-1, n)], 1).ravel()


def unzip(x: np.ndarray, y: np.ndarray, n: int) -> np.ndarray:
    both = np.concatenate([x, y]).reshape(-1, 2, n)
    return np.concatenate([both[:, 0].ravel(), both[:, 1].ravel()])


def slide(v: Values, lanes: int, points: int, cs: int, ds: int, step: int = 1) -> np.ndarray:
    c, d = v.c.astype(WIDE), v.d.astype(WIDE)
    return np.array(
        [
            sum(c[(cs + p * step) % 32] * d[(ds + lane + p) % 32] for p in range(points))
            for lane in range(lanes)
        ]
    )


def channels(v: Values) -> np.ndarray:
    """sliding_mul_ch of 4 outputs, 8 channels and 4 points over int8."""
    a, b = v.a.astype(WIDE), v.b.astype(WIDE)
    return np.array(
        [sum(a[p * 8 + n % 8] * b[((n // 8 + p) * 8 + n % 8) % 64] for p in range(4)) for n in range(32)]
    )


# C++ expression over the loaded vectors -> what numpy says of it.
PROBES: dict[str, Callable[[Values], np.ndarray]] = {
    "aie::add(a, b)": lambda v: wrapped(v.a.astype(WIDE) + v.b, np.int8),
    "aie::sub(c, d)": lambda v: wrapped(v.c.astype(WIDE) - v.d, np.int16),
    "aie::add(c, int16(1000))": lambda v: wrapped(v.c.astype(WIDE) + 1000, np.int16),
    "aie::max(a, b)": lambda v: np.maximum(v.a, v.b),
    "aie::max(a, int8(0))": lambda v: np.maximum(v.a, 0),
    "aie::min(e, f)": lambda v: np.minimum(v.e, v.f),
    "aie::min(u, uint8(9))": lambda v: np.minimum(v.u, 9),
    "aie::abs(c)": lambda v: wrapped(np.abs(v.c.astype(WIDE)), np.int16),
    "aie::neg(c)": lambda v: wrapped(-v.c.astype(WIDE), np.int16),
    "aie::maxdiff(c, d)": lambda v: wrapped(np.where(v.c > v.d, v.c.astype(WIDE) - v.d, 0), np.int16),
    "aie::clamp(c, int16(-5), int16(6))": lambda v: np.clip(v.c, -5, 6),
    "aie::bit_and(e, f)": lambda v: v.e & v.f,
    "aie::bit_or(e, f)": lambda v: v.e | v.f,
    "aie::bit_xor(e, int32(255))": lambda v: v.e ^ 255,
    "aie::bit_not(a)": lambda v: ~v.a,
    "aie::downshift(c, 3)": lambda v: v.c >> 3,
    "aie::upshift(c, 3)": lambda v: wrapped(v.c.astype(WIDE) << 3, np.int16),
    "aie::logical_downshift(c, 3)": lambda v: (v.c.view(np.uint16) >> 3).view(np.int16),
    "aie::mul(c, d).to_vector<int32>(0)": lambda v: wrapped(v.c.astype(WIDE) * v.d, np.int32),
    "aie::mul<acc64>(e, int32(70000)).to_vector<int32>(0)": lambda v: wrapped(
        v.e.astype(WIDE) * 70000, np.int32
    ),
    "aie::mac(aie::mul(c, d), c, int16(7)).to_vector<int32>(0)": lambda v: wrapped(
        v.c.astype(WIDE) * v.d + v.c.astype(WIDE) * 7, np.int32
    ),
    "aie::msc(aie::mul(c, d), d, d).to_vector<int32>(0)": lambda v: wrapped(
        v.c.astype(WIDE) * v.d - v.d.astype(WIDE) ** 2, np.int32
    ),
    "aie::negmul(c, d).to_vector<int32>(0)": lambda v: wrapped(-v.c.astype(WIDE) * v.d, np.int32),
    "aie::mac_square(aie::mul_square(c), d).to_vector<int32>(0)": lambda v: wrapped(
        v.c.astype(WIDE) ** 2 + v.d.astype(WIDE) ** 2, np.int32
    ),
    "aie::add(aie::from_vector<acc32>(e), f).to_vector<int32>(0)": lambda v: wrapped(
        v.e.astype(WIDE) + v.f, np.int32
    ),
    "aie::sub(aie::from_vector<acc64>(e), aie::from_vector<acc64>(f)).to_vector<int32>(1)": lambda v: wrapped(
        (v.e.astype(WIDE) - v.f) >> 1, np.int32
    ),
    "aie::from_vector<acc64>(c, 20).to_vector<int32>(4)": lambda v: wrapped(v.c.astype(WIDE) << 16, np.int32),
    "aie::select(a, b, aie::lt(a, b))": lambda v: np.where(v.a < v.b, v.b, v.a),
    "aie::select(a, int8(1), aie::ge(a, int8(3)))": lambda v: np.where(v.a >= 3, 1, v.a),
    "aie::select(c, d, ~aie::eq(c, d))": lambda v: v.d,
    "aie::shuffle_down_fill(c, d, 5)": lambda v: np.concatenate([v.c, v.d])[5:37],
    "aie::shuffle_up_fill(c, d, 5)": lambda v: np.concatenate([v.d, v.c])[27:59],
    "aie::shuffle_down_rotate(c, 3)": lambda v: np.roll(v.c, -3),
    "aie::shuffle_up_replicate(c, 3)": lambda v: np.concatenate([v.c[:1].repeat(3), v.c[:29]]),
    "aie::reverse(a)": lambda v: v.a[::-1],
    "aie::transpose(a, 4, 16)": lambda v: v.a.reshape(4, 16).T.ravel(),
    "aie::filter_even(a, 8)": lambda v: v.a.reshape(-1, 2, 8)[:, 0].ravel(),
    "aie::filter_odd(a)": lambda v: v.a[1::2],
    "aie::concat(aie::interleave_zip(c, d, 4))": lambda v: zip_(v.c, v.d, 4),
    "aie::concat(aie::interleave_unzip(c, d, 2))": lambda v: unzip(v.c, v.d, 2),
    "aie::concat(a.extract<32>(1), b.extract<32>(0))": lambda v: np.concatenate([v.a[32:], v.b[:32]]),
    "aie::vector<int8, 64>(a).insert<16>(2, b.extract<16>(3))": lambda v: np.concatenate(
        [v.a[:32], v.b[48:], v.a[48:]]
    ),
    "aie::vector_cast<int16>(a)": lambda v: v.a.view(np.int16),
    "a.cast_to<int4>().cast_to<int8>()": lambda v: v.a,
    "a.unpack()": lambda v: v.a.astype(np.int16),
    "u.unpack()": lambda v: v.u.astype(np.uint16),
    "c.pack()": lambda v: v.c.astype(np.int8),
    "aie::load_unaligned_v<32>(pa + 7)": lambda v: np.concatenate([v.a, v.b])[7:39],
    "aie::load_floor_v<32>(pa + 40)": lambda v: v.a[32:],
    "aie::broadcast<int16, 16>(-7)": lambda v: np.full(16, -7),
    "aie::zeros<acc32, 16>().to_vector<int32>(0)": lambda v: np.zeros(16),
    "*(aie::cbegin_vector<32>(pa) + 1)": lambda v: v.a[32:],
    "aie::broadcast<int32, 8>(aie::reduce_add(e))": lambda v: np.full(
        8, wrapped(v.e.astype(WIDE).sum(), np.int32)
    ),
    "aie::broadcast<int32, 8>(aie::reduce_max(c) - aie::reduce_min(c))": lambda v: np.full(
        8, int(v.c.max()) - int(v.c.min())
    ),
    "aie::sliding_mul<8, 4>(c, 1, d, 30).to_vector<int32>(0)": lambda v: wrapped(
        slide(v, 8, 4, 1, 30), np.int32
    ),
    "aie::sliding_mul_ch_ops<4, 8, 4, 1, 1, 1, int8, int8>::mul(a, 0, b, 0).to_vector<int32>(0)": channels,
}


def sample() -> Values:
    r = np.random.default_rng(5)
    v = Values(
        a=r.integers(-128, 128, 64).astype(np.int8),
        b=r.integers(-128, 128, 64).astype(np.int8),
        c=r.integers(-(2**15), 2**15, 32).astype(np.int16),
        d=r.integers(-(2**15), 2**15, 32).astype(np.int16),
        e=r.integers(-(2**31), 2**31, 16).astype(np.int32),
        f=r.integers(-(2**31), 2**31, 16).astype(np.int32),
    )
    v.c[0] = v.d[0] = 77
    v.u = v.a.view(np.uint8)
    return v


def raw(v: Values) -> bytes:
    return b"".join(x.tobytes() for x in (v.a, v.b, v.c, v.d, v.e, v.f))


@pytest.fixture(scope="module")
def operations(tmp_path_factory: pytest.TempPathFactory) -> sim.Built:
    puts = "\n".join(f"put({expression});" for expression in PROBES)
    source = f"""
    void probe(adf::input_buffer<int8>& in, adf::output_buffer<int32>& out) {{
      {LOADS}
      int32* to = out.data();
      auto put = [&](const auto& v) {{ for (unsigned i = 0; i < v.size(); ++i) *to++ = int32(v.get(i)); }};
      {puts}
      while (to < out.data() + {OUTPUTS}) *to++ = 12345;
    }}"""
    files = one_kernel("", source, "int8", 384, "int32", OUTPUTS)
    return build(tmp_path_factory.mktemp("aie-ops"), files)


OUTPUTS = 4096


def test_operations_are_numpys(operations: sim.Built) -> None:
    v = sample()
    got = sim.run(operations, {"in": raw(v)}).outputs["out"]
    at = 0
    wrong = []
    for expression, expected in PROBES.items():
        want = np.asarray(expected(v), WIDE)
        if not np.array_equal(got[at : at + len(want)], want):
            wrong.append(expression)
        at += len(want)
    assert not wrong
    assert (got[at:] == 12345).all()


def rounded(value: int, shift: int, mode: str) -> int:
    """The mode's definition in exact fractions, written apart from the emulation's bit tricks."""
    exact = Fraction(value, 1 << shift)
    low, high = floor(exact), ceil(exact)
    if low == high:
        return low
    always = {
        "floor": low,
        "ceil": high,
        "symmetric_floor": low if exact > 0 else high,
        "symmetric_ceil": high if exact > 0 else low,
    }
    if mode in always:
        return always[mode]
    if exact - low != Fraction(1, 2):
        return low if exact - low < Fraction(1, 2) else high
    ties = {
        "positive_inf": high,
        "negative_inf": low,
        "symmetric_inf": high if exact > 0 else low,
        "symmetric_zero": low if exact > 0 else high,
        "conv_even": low if low % 2 == 0 else high,
        "conv_odd": low if low % 2 else high,
    }
    return ties[mode]


MODES = (
    "floor", "ceil", "positive_inf", "negative_inf", "symmetric_inf",
    "symmetric_zero", "conv_even", "conv_odd", "symmetric_floor", "symmetric_ceil",
)  # fmt: skip
SATURATIONS = ("none", "saturate", "symmetric")
SHIFTS = (0, 1, 5, 16)
RESULTS = {"acc32": ("int8", "uint8", "int16"), "acc64": ("int16", "int32", "uint16")}


def narrowed(value: int, kind: str, saturation: str) -> int:
    info = np.iinfo(kind)
    if saturation == "none":
        return int(np.array(value & (2**info.bits - 1), np.uint64).astype(f"uint{info.bits}").astype(kind))
    low = -info.max if saturation == "symmetric" and info.min < 0 else info.min
    return min(max(value, low), info.max)


def test_every_rounding_and_saturation_mode(tmp_path: Path) -> None:
    loops = []
    for tag, kinds in RESULTS.items():
        for kind in kinds:
            loops.append(
                f"for (int s : {{0, 1, 5, 16}}) put(aie::from_vector<{tag}>(v).to_vector<{kind}>(s));"
            )
    source = f"""
    void probe(adf::input_buffer<int32>& in, adf::output_buffer<int32>& out) {{
      const auto v = aie::load_v<32>(in.data());
      int32* to = out.data();
      auto put = [&](const auto& x) {{ for (unsigned i = 0; i < 32; ++i) *to++ = int32(x.get(i)); }};
      for (auto sat : {{{", ".join(f"aie::saturation_mode::{s}" for s in SATURATIONS)}}})
        for (auto mode : {{{", ".join(f"aie::rounding_mode::{m}" for m in MODES)}}}) {{
          aie::set_saturation(sat);
          aie::set_rounding(mode);
          {" ".join(loops)}
        }}
    }}"""
    count = len(SATURATIONS) * len(MODES) * 6 * len(SHIFTS) * 32
    built = build(tmp_path, one_kernel("", source, "int32", 32, "int32", count))
    r = np.random.default_rng(1)
    ties = [n * 16 for n in range(-6, 6)] + [3 << 15, -(3 << 15), 5 << 15, -(5 << 15)]
    edges = [2**31 - 1, -(2**31), 127, -128, 255, 256, -129, 128]
    values = [*ties, *edges, *r.integers(-(2**20), 2**20, 8).tolist()]
    got = sim.run(built, {"in": np.array(values, np.int32)}).outputs["out"]
    want = [
        narrowed(rounded(v, s, mode), kind, saturation)
        for saturation in SATURATIONS
        for mode in MODES
        for kinds in RESULTS.values()
        for kind in kinds
        for s in SHIFTS
        for v in values
    ]
    assert len(set(MODES)) == 10
    np.testing.assert_array_equal(got, np.array(want, WIDE).astype(np.int32))


SHAPES = {
    ("int8", "int8"): "1,16,8 2,16,8 2,8,8 4,16,16 4,16,4 4,16,8 4,8,4 4,8,8 8,16,8 8,8,4 8,8,8",
    ("int8", "uint8"): "4,8,8",
    ("uint8", "int8"): "4,8,8 4,16,8",
    ("int16", "int8"): "2,16,8 2,8,8 4,16,8 4,4,4 4,4,8 4,8,4 8,4,4 8,4,8",
    ("int8", "int16"): "4,4,4 4,4,8",
    ("int16", "int16"): "2,4,8 2,8,16 2,8,8 4,2,8 4,4,4 4,4,8 4,8,8 8,1,8 8,2,8",
    ("int32", "int16"): "2,4,8 4,1,8 4,2,4 4,4,4 4,4,8",
    ("int16", "int32"): "2,4,8 4,4,4",
    ("int32", "int32"): "4,1,8 4,2,4 4,4,4 8,2,4",
    ("int8", "int4"): "4,16,8 4,32,8 8,16,8",
}


def test_every_mmul_shape(tmp_path: Path) -> None:
    lines, total = [], 0
    cases = [(a, b, *map(int, s.split(","))) for (a, b), text in SHAPES.items() for s in text.split()]
    for a, b, m, k, n in cases:
        lines.append(f"multiply<{a}, {b}, {m}, {k}, {n}>(raw, to);")
        total += m * n
    source = f"""
    template <class A, class B, unsigned M, unsigned K, unsigned N>
    void multiply(const int8* raw, int32*& to) {{
      aie::mmul<M, K, N, A, B> c;
      const auto a = aie::load_v<M * K>(reinterpret_cast<const A*>(raw));
      const auto b = aie::load_v<K * N>(reinterpret_cast<const B*>(raw + 512));
      c.mul(a, b);
      c.mac(a, b);
      const auto v = c.template to_vector<int32>(0);
      for (unsigned i = 0; i < M * N; ++i) *to++ = v.get(i);
    }}
    void probe(adf::input_buffer<int8>& in, adf::output_buffer<int32>& out) {{
      const int8* raw = in.data();
      int32* to = out.data();
      {" ".join(lines)}
    }}"""
    built = build(tmp_path, one_kernel("", source, "int8", 1024, "int32", total))
    data = np.random.default_rng(2).integers(-128, 128, 1024).astype(np.int8)
    got = sim.run(built, {"in": data}).outputs["out"]
    at = 0
    for a, b, m, k, n in cases:
        left = data[: m * k * np.dtype(a).itemsize].view(a).reshape(m, k).astype(WIDE)
        right = matrix(data[512:], b, k, n)
        want = wrapped(2 * (left @ right), np.int32).ravel()
        assert np.array_equal(got[at : at + m * n], want), (a, b, m, k, n)
        at += m * n
    assert at == len(got)


def matrix(data: np.ndarray, kind: str, k: int, n: int) -> np.ndarray:
    if kind != "int4":
        return data[: k * n * np.dtype(kind).itemsize].view(kind).reshape(k, n).astype(WIDE)
    pairs = data[: k * n // 2].view(np.uint8)
    nibbles = np.stack([pairs & 15, pairs >> 4], 1).ravel().astype(WIDE)
    return np.where(nibbles > 7, nibbles - 16, nibbles).reshape(k, n)


def test_tables_bfloat_and_conversions(tmp_path: Path) -> None:
    table = [(7 * i * i - 90 * i) % 4001 - 2000 for i in range(64)]
    twice = [x for i in range(0, 64, 8) for x in table[i : i + 8] * 2]
    entries = ", ".join(map(str, twice))
    source = f"""
    alignas(aie::vector_decl_align) const int16 ab[128] = {{{entries}}};
    alignas(aie::vector_decl_align) const int16 cd[128] = {{{entries}}};
    void probe(adf::input_buffer<int16>& in, adf::output_buffer<int32>& out) {{
      const auto v = aie::load_v<32>(in.data());
      int32* to = out.data();
      auto put = [&](const auto& x) {{ for (unsigned i = 0; i < x.size(); ++i) *to++ = int32(x.get(i)); }};
      const aie::lut<4, int16> table(64, ab, cd);
      aie::parallel_lookup<int16, decltype(table)> saturated(table, 2, 32);
      put(saturated.fetch(v));
      aie::parallel_lookup<int16, decltype(table), aie::lut_oor_policy::truncate> turned(table, 0, 32);
      put(turned.fetch(v));
      const auto floats = aie::to_float(v, 3);
      put(aie::to_fixed<int32>(floats, 1));
      put(aie::to_fixed<uint8>(floats, 0));
      aie::set_rounding(aie::rounding_mode::conv_even);
      aie::accum<accfloat, 32> sums(floats);
      put(aie::to_vector<bfloat16>(sums).cast_to<int16>());
    }}"""
    built = build(tmp_path, one_kernel("", source, "int16", 32, "int32", 160))
    v = np.concatenate([np.arange(-140, 140, 12), [-32768, 32767, 127, -128, 1000, -1000, 3, 5]]).astype(
        np.int16
    )
    got = sim.run(built, {"in": v}).outputs["out"].reshape(5, 32)
    t = np.array(table)
    w = v.astype(WIDE)
    np.testing.assert_array_equal(got[0], t[np.clip((w >> 2) + 32, 0, 63)])
    np.testing.assert_array_equal(got[1], t[(w + 32) % 64])
    np.testing.assert_array_equal(got[2], w >> 2)  # AIE-ML converts to 32 bits downwards
    np.testing.assert_array_equal(got[3], np.clip(np.rint(w / 8), 0, 255))
    bits = (w / 8).astype(np.float32).view(np.uint32).astype(WIDE)
    even = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    np.testing.assert_array_equal(got[4], even.astype(np.uint16).view(np.int16))
