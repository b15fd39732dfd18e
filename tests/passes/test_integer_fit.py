"""Power-of-two formats, what calibration chooses, and what may never overflow."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from integer_graphs import LENGTH, Net, signal, small
from pass_graphs import graph
from pass_graphs import node as op

from rubicc.ir.executor import execute
from rubicc.ir.graph import Graph, is_quantiser
from rubicc.passes.harness import apply_and_check, assert_mutant_fails
from rubicc.passes.integer.fit import ACCUMULATOR, Options, on_grids, quantise
from rubicc.passes.integer.formats import BLOCK, FINER, Format, covering, fit, fit_weight
from rubicc.passes.integer.legalise import EXPONENT_KEY, format_of
from rubicc.passes.integer.strip import RESULT_KEY, WEIGHT_KEY, Strip
from rubicc.passes.quantize.islands import snr_db
from rubicc.passes.rewrite import Editor, constant, is_standard


@given(bits=st.sampled_from([4, 8, 16]), signed=st.booleans(), exponent=st.integers(-20, 6))
def test_formats_hold_their_own_integers(bits: int, signed: bool, exponent: int) -> None:
    form = Format(exponent, bits, signed)
    assert form.high - form.low == 2**bits - 1
    grid = np.asarray([form.low, -1 if signed else 0, 0, 1, form.high]) * 2.0**exponent
    np.testing.assert_array_equal(form.rounded(grid), grid)
    beyond = form.rounded(np.asarray([1e9, -1e9]))
    assert beyond.tolist() == [form.high * 2.0**exponent, form.low * 2.0**exponent]


@given(peak=st.floats(1e-9, 1e9), high=st.sampled_from([7, 127, 255, 32767]))
def test_covering_is_the_least_that_reaches(peak: float, high: int) -> None:
    exponent = covering(peak, high)
    assert high * 2.0**exponent >= peak * (1 - 1e-6)
    assert high * 2.0 ** (exponent - 1) < peak


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 2**20), bits=st.sampled_from([4, 8]), heavy=st.booleans())
def test_fit_has_the_least_error(seed: int, bits: int, heavy: bool) -> None:
    """No exponent from far finer to the covering one does better."""
    rng = np.random.default_rng(seed)
    values = rng.standard_t(2, 400) if heavy else rng.normal(size=400)
    form = fit(values, float(values.min()), float(values.max()), bits)

    def error(exponent: int) -> float:
        return float(np.square(Format(exponent, bits, True).rounded(values) - values).sum())

    top = covering(float(np.abs(values).max()), form.high)
    assert error(form.exponent) <= min(error(top - finer) for finer in range(FINER)) + 1e-12
    assert form.signed


def test_signs_follow_values_and_width() -> None:
    values = np.linspace(0, 3, 50)
    assert not fit(values, 0, 3, 8).signed
    assert fit(values, 0, 3, 16).signed, "the matrix units have no unsigned 16 bits"
    assert fit(-values, -3, 0, 8).signed


def test_weights_share_exponents_by_blocks_of_eight() -> None:
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(20, 3, 5)) * np.repeat([1.0, 2.0**-6, 2.0**4], BLOCK)[:20, None, None]
    exponents = fit_weight(weight, 8)
    blocks = [set(exponents[start : start + BLOCK]) for start in range(0, 20, BLOCK)]
    assert [len(block) for block in blocks] == [1, 1, 1]
    assert exponents[8] < exponents[0] < exponents[16]
    assert fit_weight(weight, 8, floor=1).min() == 1


def loud(seed: int = 0) -> Graph:
    """Weights all of one sign and size, many taps: the worst for accumulators."""
    net = Net(seed, 8)
    for _ in range(2):
        net.conv(8, 9)
        net.add("Relu", net.value)
    for name, array in net.constants.items():
        if array.ndim == 3:
            net.constants[name] = np.abs(array) * 0 + np.float32(0.9)
        else:
            net.constants[name] = array * np.float32(3e4)
    return net.head(5, linear=False)


@pytest.mark.parametrize("widths", [(8, 8), (16, 8), (8, 16)])
def test_no_input_makes_a_sum_leave_32_bits(widths: tuple[int, int]) -> None:
    options = Options(bits=widths[0], weight_bits=widths[1], entry_bits=widths[0])
    made = quantise(loud(), [signal(0, 8)], options).graph
    seen = 0
    for node in made.nodes:
        weight = constant(node.inputs[1]) if is_standard(node, "Conv") else None
        if weight is None:
            continue
        bias = constant(node.inputs[2])
        largest = 2.0 ** (widths[0] - (widths[0] == 16))
        assert bias is not None
        gain = np.abs(weight.astype(np.float64)).sum(axis=(1, 2)) * largest + np.abs(bias)
        assert gain.max() < ACCUMULATOR
        seen = max(seen, int(gain.max()))
    assert seen > 2**26 or widths == (8, 8), "weights were not made smaller than need be"


def test_equalisation_is_worth_its_name() -> None:
    """Channels of very unlike size share one exponent, unless the weights behind take the scale over."""
    net = Net(5, 3)
    net.conv(16, 5)
    net.constants["w0"] *= np.exp2(np.arange(16) % 7 - 3.0).astype(np.float32)[:, None, None]
    net.constants["w1"] *= np.exp2(np.arange(16) % 7 - 3.0).astype(np.float32)
    net.add("Relu", net.value)
    net.conv(16, 3)
    net.constants["w2"] /= np.exp2(np.arange(16) % 7 - 3.0).astype(np.float32)[None, :, None]
    net.add("Relu", net.value)
    whole = net.head(6, linear=False)
    feeds, test = [signal(1, 3, 4, 200)], signal(9, 3, 2, 200)
    want = execute(whole, test)["y"]

    def snr(**options: object) -> float:
        made = quantise(whole, feeds, Options(**options)).graph  # type: ignore[arg-type]
        return snr_db(want, execute(made, test, dtype=np.float64)["y"])

    plain, equal = snr(equalise=False), snr()
    assert equal > plain + 3, (plain, equal)
    assert snr(rounding="optimised", weight_bits=4) > snr(weight_bits=4) + 1


def test_the_mean_error_of_weights_goes_into_biases() -> None:
    """Behind a ReLU values have a mean, so rounded weights would shift every sum by a constant."""
    net = Net(2, 3)
    net.conv(8, 5)
    net.add("Relu", net.value)
    net.conv(8, 5)
    net.constants["w2"] = (np.abs(net.constants["w2"]) * 0 + 0.3).astype(np.float32)  # all err the same way
    net.constants["w2"][:, 0] = 1.0
    whole = net.head(6, linear=False)
    second = whole.nodes[2].outputs[0].name or ""
    feeds = signal(1, 3, 4, 300)
    placed = on_grids(whole, [feeds], Options(weight_bits=4, bits=16, equalise=False))
    want = execute(whole, feeds, keep=[second])[second].mean(axis=(0, 2))
    got = execute(placed, feeds, keep=[second])[second].mean(axis=(0, 2))
    assert np.abs(got - want).max() < 0.02 * np.abs(want).max()
    bare = np.asarray(constant(whole.nodes[2].inputs[2]))
    moved = np.asarray(constant(next(n for n in placed.nodes if n.outputs[0].name == second).inputs[2]))
    assert np.abs(moved - bare).min() > 0.05, "without the correction the mean would be wrong"


def test_results_are_not_finer_than_their_sums() -> None:
    made = quantise(small(), [signal(0, 3)], Options(bits=16, weight_bits=4, entry_bits=8))
    assert any(decision.code == "RUB-PASS-D41" for decision in made.decisions)
    for node in made.graph.nodes:
        factor = constant(node.inputs[1]) if is_standard(node, "Mul") else None
        if factor is not None and "rubicc.edge" not in node.metadata_props:
            assert node.outputs[0].uses()
            quantised = all(is_quantiser(use.node) for use in node.outputs[0].uses())
            assert not quantised or np.all(factor <= 1), "a shift to the left invents bits"


def test_functions_get_the_range_where_they_are_not_flat() -> None:
    """tanh of values up to 60: 16 bits that cover them would waste twelve of thirteen levels of the table."""
    net = Net(3, 1)
    net.conv(8, 5)
    net.constants["w0"] *= 25
    net.add("Tanh", net.value)
    whole = net.head(4, linear=False)
    feeds, test = [signal(0, 1, 4, 200)], signal(7, 1, 2, 200)
    made = quantise(whole, feeds, Options(bits=16, weight_bits=16, entry_bits=16)).graph
    argument = next(n for n in made.nodes if is_quantiser(n) and EXPONENT_KEY in n.metadata_props)
    exponent = int(argument.metadata_props[EXPONENT_KEY])
    assert 3 < 2.0**15 * 2.0**exponent <= 16
    assert snr_db(execute(whole, test)["y"], execute(made, test, dtype=np.float64)["y"]) > 40


def quantised_net() -> Graph:
    """As a model trained with quantisers comes: scales that are no powers of two."""
    rng = np.random.default_rng(0)
    constants = {
        "s": np.float32(0.013), "r": np.float32(0.07), "z": np.float32(0), "b8": np.float32(8),
        "b16": np.float32(16), "sw": np.float32(0.007), "w": rng.normal(size=(8, 2, 3)).astype(np.float32),
    }  # fmt: skip
    form = {"signed": 1, "narrow": 0, "rounding_mode": "ROUND"}
    nodes = [
        op("Quant", "x s z b16", "q", **form),
        op("Quant", "w sw z b8", "v", **form),
        op("Conv", "q v", "c", kernel_shape=[3]),
        op("Quant", "c r z b8", "d", **form),
        op("Relu", "d", "y"),
    ]
    return graph(nodes, {"x": ["N", 2, "T"]}, {"y": ["N", 8, "S"]}, constants)


def test_strip_remembers_widths() -> None:
    done = apply_and_check(
        "integer.strip", quantised_net(), [signal(0, 2)], expect_changed=True, sizes={"N": 2, "T": LENGTH},
        expect_ops={"qonnx.custom_op.general::Quant": -3},
    )  # fmt: skip
    product = done.graph.nodes[0]
    assert (product.metadata_props[WEIGHT_KEY], product.metadata_props[RESULT_KEY]) == ("8", "8")
    assert product.metadata_props["rubicc.entry_bits"] == "16"
    assert [d.code for d in done.record.decisions] == ["RUB-PASS-D40"]
    made = quantise(done.graph, [signal(0, 2)]).graph
    kinds = [form.bits for n in made.nodes if (form := format_of(n)) is not None]
    assert kinds == [16, 16], "the input as the model had it; the result goes to the host"


def test_strip_keeps_the_weights_training_made() -> None:
    class KeepsRaw(Strip):
        """Mutant: the weights as they were before their quantiser, ten times too large."""

        def _weight(self, graph, edit, node, bits):  # type: ignore[no-untyped-def]
            super()._weight(graph, edit, node, bits)
            product = graph.nodes[0]
            if is_standard(product, "Conv"):
                wrong = edit.initializer("wrong", np.asarray(constant(product.inputs[1])) * 10)
                product.replace_input_with(1, wrong)

    error = assert_mutant_fails(KeepsRaw, quantised_net(), [signal(0, 2)], sizes={"N": 2, "T": LENGTH})
    assert error.code in ("RUB-PASS-021", "RUB-PASS-022", "RUB-PASS-025")


def test_widening_is_a_decision() -> None:
    """Values of 4 bits and weights of 2 are computed with 8 and 4."""
    net = quantised_net()
    for node, bits in ((net.nodes[0], 4.0), (net.nodes[1], 2.0)):
        node.replace_input_with(3, Editor(net, "test").initializer("bits", np.asarray(bits, np.float32)))
    assert Strip().run(net)
    made = quantise(net, [signal(0, 2)])
    told = [d.what for d in made.decisions if d.code == "RUB-PASS-D42"]
    assert told == [
        "1 tensors of values of 4 bits computed with 8", "1 tensors of weights of 2 bits computed with 4",
    ]  # fmt: skip


def test_no_calibration_data() -> None:
    with pytest.raises(ValueError, match="needs calibration data"):
        quantise(small(), [])
