"""The integer network's reference: rounding, convolution against torch, cells against a loop of Python
integers."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rubicc.backends.aie.net import Add, Conv, Edge, Gru, Layer, Lookup, Lstm, Net, Table
from rubicc.backends.aie.numbers import Type, requantise, shift_round
from rubicc.backends.aie.reference import evaluate, run
from rubicc.errors import VerificationFailed

INT8, INT16 = Type(8), Type(16)


@given(value=st.integers(-(2**40), 2**40), shift=st.integers(-8, 30))
def test_shift_rounds_half_to_even(value: int, shift: int) -> None:
    assert int(shift_round(np.asarray(value), shift)) == round(Fraction(value) / Fraction(2) ** shift)


def test_ties_go_to_even_and_ends_saturate() -> None:
    made = requantise(np.asarray([1, 3, 5, -1, -3, -5, 2000, -2000]), 1, INT8)
    assert made.tolist() == [0, 2, 2, 0, -2, -2, 127, -128]
    assert requantise(np.asarray([-3, 700]), 1, Type(8, signed=False)).tolist() == [0, 255]


@pytest.mark.parametrize(
    ("bits", "low", "high", "block"), [(8, -128, 127, 8), (16, -32768, 32767, 4), (4, -8, 7, 16)]
)
def test_types(bits: int, low: int, high: int, block: int) -> None:
    made = Type(bits)
    assert (made.low, made.high, made.block, made.cpp) == (low, high, block, f"int{bits}")
    with pytest.raises(ValueError, match="no integers of 5 bits"):
        Type(5)


def conv(weight: np.ndarray, **options: object) -> Conv:
    shift = np.full(len(weight), options.pop("shift", 0), np.int64)  # type: ignore[arg-type]
    fields = {"name": "c", "source": "", "inputs": ("x",), "output": "y", "weight_type": INT8, "shift": shift}
    return Conv(weight=weight, **(fields | options))  # type: ignore[arg-type]


@settings(max_examples=60, deadline=None)
@given(
    data=st.data(), groups=st.sampled_from([1, 2, 4]), taps=st.integers(1, 9), stride=st.integers(1, 3),
    dilation=st.integers(1, 2), pads=st.tuples(st.integers(0, 5), st.integers(0, 5)), relu=st.booleans(),
)  # fmt: skip
def test_convolution_equals_torch(
    data: st.DataObject, groups: int, taps: int, stride: int, dilation: int, pads: tuple[int, int], relu: bool
) -> None:
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    length = dilation * (taps - 1) + 1 + data.draw(st.integers(0, 20))
    x = rng.integers(-128, 128, (2, 4 * groups, length))
    weight, bias = rng.integers(-128, 128, (2 * groups, 4, taps)), rng.integers(-999, 999, 2 * groups)
    layer = conv(
        weight, bias=bias, groups=groups, stride=stride, dilation=dilation, pads=pads, relu=relu, shift=7
    )
    want = torch.nn.functional.conv1d(
        torch.nn.functional.pad(torch.from_numpy(x), pads).double(), torch.from_numpy(weight).double(),
        torch.from_numpy(bias).double(), stride=stride, dilation=dilation, groups=groups,
    )  # fmt: skip
    if relu:
        want = want.relu()
    got = evaluate(layer, [x], INT8)
    np.testing.assert_array_equal(got, (want / 128).round().clamp(-128, 127).numpy())
    assert got.shape[2] == layer.frames(length)


def test_sums_beyond_float64_stay_exact() -> None:
    """2**31 * 2**31 * 2 is above 2**53; a float64 sum would lose its last bit."""
    x = np.asarray([[[2**31 - 1], [1]]])
    layer = conv(np.asarray([[[2**31 - 1], [1]]]))
    assert int(evaluate(layer, [x], INT16)[0, 0, 0]) == 32767
    odd = conv(np.asarray([[[2**31 - 1], [1]]]), shift=61)
    assert int(evaluate(odd, [x], INT16)[0, 0, 0]) == 2
    with pytest.raises(VerificationFailed, match="leave 64 bits"):
        evaluate(conv(np.full((1, 2, 1), 2**40)), [x], INT16)


def lookup(function: np.ufunc, shift: int, bits: int, exponent: int) -> Lookup:
    half = 1 << (bits - 1)
    at = np.arange(-half, half) * 2.0 ** (shift + exponent)
    values = 1 / (1 + np.exp(-at)) if function is np.exp else function(at)
    entries = np.clip(np.rint(values * 32768), -32768, 32767).astype(np.int64)
    return Lookup(shift=shift, bits=bits, entries=entries)


def cell(kind: type[Gru] | type[Lstm], hidden: int, seed: int, **options: object) -> Gru | Lstm:
    rng, gates = np.random.default_rng(seed), 3 if kind is Gru else 4
    fields: dict[str, object] = {
        "name": "r", "source": "", "inputs": ("x",), "output": "y", "recurrent_type": INT8, "operand": INT8,
        "operand_shift": 8, "output_shift": 8, "recurrent": rng.integers(-128, 128, (gates * hidden, hidden)),
        "bias": rng.integers(-500, 500, gates * hidden), "gate_shift": np.full(gates * hidden, 3),
        "sigmoid": lookup(np.exp, 4, 12, -11), "tanh": lookup(np.tanh, 4, 12, -11),
    }  # fmt: skip
    if kind is Lstm:
        fields |= {"cell_bits": 12, "tanh_cell": lookup(np.tanh, 4, 12, -12)}
    return kind(**(fields | options))  # type: ignore[arg-type]


def slow_gru(layer: Gru, x: np.ndarray) -> list[list[int]]:
    """One sequence, Python integers and fractions only: written from the docstring, not from the
    reference."""

    def q(value: int, shift: int, low: int = -32768, high: int = 32767) -> int:
        return min(max(round(Fraction(value, 2**shift)), low), high)

    def table(of: Lookup, value: int) -> int:
        half = 2 ** (of.bits - 1)
        return int(of.entries[min(max(q(value, of.shift), -half), half - 1) + half])

    def sat(value: int) -> int:
        return min(max(value, -32768), 32767)

    assert layer.bias is not None
    size, state, rows = layer.hidden, [0] * layer.hidden, []
    for frame in range(x.shape[1])[:: -1 if layer.reverse else 1]:
        operand = [q(h, layer.operand_shift, layer.operand.low, layer.operand.high) for h in state]
        sums = [sum(int(w) * h for w, h in zip(row, operand, strict=True)) for row in layer.recurrent]
        g = [q(s + int(b), int(n)) for s, b, n in zip(sums, layer.bias, layer.gate_shift, strict=True)]
        into = [int(v) for v in x[:, frame]]
        for unit in range(size):
            r = table(layer.sigmoid, sat(into[unit] + g[unit]))
            z = table(layer.sigmoid, sat(into[size + unit] + g[size + unit]))
            n = table(layer.tanh, sat(into[2 * size + unit] + q(r * g[2 * size + unit], 15)))
            state[unit] = q((n << 15) + z * state[unit] - z * n, 15)
        rows.append([q(h, layer.output_shift, -128, 127) for h in state])
    return rows[::-1] if layer.reverse else rows


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize(("operand", "shift"), [(INT8, 8), (INT16, 0)])
def test_gru_equals_its_docstring(reverse: bool, operand: Type, shift: int) -> None:
    gate_shift = np.full(15, 3 if operand == INT8 else 11)
    layer = cell(Gru, 5, 3, reverse=reverse, operand=operand, operand_shift=shift, gate_shift=gate_shift)
    x = np.random.default_rng(4).integers(-9000, 9000, (2, 15, 12))
    got = evaluate(layer, [x], INT8)
    for row, sequence in zip(got, x, strict=True):
        assert row.T.tolist() == slow_gru(layer, sequence)  # type: ignore[arg-type]
    assert len(np.unique(got)) > 40, "a test in saturation proves nothing"


@pytest.mark.parametrize("kind", [Gru, Lstm])
@pytest.mark.parametrize("reverse", [False, True])
def test_cells_approximate_torch(kind: type[Gru] | type[Lstm], reverse: bool) -> None:
    """16-bit cells on the grid of a float network differ from torch by rounding in tables and state."""
    hidden, gates, rng = 8, 3 if kind is Gru else 4, np.random.default_rng(5)
    recurrent = rng.integers(-100, 101, (gates * hidden, hidden))  # weights of 2**-7
    layer = cell(
        kind, hidden, 0, recurrent=recurrent, bias=None, operand=INT16, operand_shift=0, output_shift=0,
        gate_shift=np.full(gates * hidden, 11), reverse=reverse,
    )  # fmt: skip
    x = rng.integers(-4000, 4001, (2, gates * hidden, 30))
    kinds = {Gru: torch.nn.GRU, Lstm: torch.nn.LSTM}
    twin = kinds[kind](gates * hidden, hidden, bias=False, batch_first=True)
    with torch.no_grad():
        twin.weight_ih_l0.copy_(torch.eye(gates * hidden))
        twin.weight_hh_l0.copy_(torch.from_numpy(recurrent / 128))
        fed = torch.from_numpy(x * 2.0**-11).float().transpose(1, 2)
        want = twin(fed.flip(1) if reverse else fed)[0]
        want = (want.flip(1) if reverse else want).transpose(1, 2).numpy()
    assert np.abs(evaluate(layer, [x], INT16) * 2.0**-15 - want).max() < 0.01
    other = evaluate(cell(kind, hidden, 0, **(vars(layer) | {"reverse": not reverse})), [x], INT16)
    assert np.abs(other * 2.0**-15 - want).max() > 0.1


def net() -> Net:
    """x -> conv (stride 2) -> a; a -> table -> b; a + b -> y."""
    edges = [Edge("x", 2, INT8, -4), Edge("a", 3, INT8, -3), Edge("b", 3, INT8, -5), Edge("y", 3, INT8, -2)]
    weight = np.random.default_rng(0).integers(-60, 60, (3, 2, 3))
    layers: list[Layer] = [
        conv(weight, stride=2, pads=(1, 1), shift=5, output="a"),
        Table(
            name="t", source="", inputs=("a",), output="b", lookup=lookup(np.tanh, 0, 8, -3), function="tanh"
        ),
        Add(name="s", source="", inputs=("a", "b"), output="y", left=(2, 0), shift=3),
    ]
    return Net(("x",), ("y",), {edge.name: edge for edge in edges}, tuple(layers))


def test_a_net_runs_and_knows_its_frames() -> None:
    made = net()
    x = np.random.default_rng(1).integers(-128, 128, (2, 2, 9))
    values = run(made, {"x": x}, keep=True)
    assert {name: array.shape[2] for name, array in values.items()} == made.frames(9)
    np.testing.assert_array_equal(values["y"], requantise((values["a"] << 2) + values["b"], 3, INT8))
    assert list(run(made, {"x": x})) == ["y"]
    assert made.macs(9) == 18 * 5
    assert [layer.name for layer in made.consumers("a")] == ["t", "s"]


def test_inputs_that_do_not_fit_are_refused() -> None:
    with pytest.raises(VerificationFailed) as raised:
        run(net(), {"x": np.full((1, 2, 9), 128)})
    assert raised.value.code == "RUB-AIE-101"
