"""Kernels past the Neural Engine's limit: every form against the convolution, cost, quantisers, mutants."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pass_graphs import graph, node, weights

from rubicc.ir.executor import execute
from rubicc.ir.graph import Graph
from rubicc.passes.ane import kernel_writer as module
from rubicc.passes.ane.kernel_forms import LIMIT, best, extent, forms, phase_counts, split, taps_within
from rubicc.passes.ane.wide_kernels import WideKernels, width
from rubicc.passes.harness import apply_and_check, assert_mutant_fails, relative_error
from rubicc.passes.layout.phases import Geometry
from rubicc.passes.manager import run_pass
from rubicc.passes.registry import get

PASS = "ane.wide-kernels"
FORMS = ("phases", "tall", "sum")


def wide(
    taps: int, length: int | str, groups: int = 1, inputs: int = 2, outputs: int = 3, **attrs: Any
) -> Graph:
    """A convolution over (N, C, 1, T); spatial attributes given for time only."""
    made = {"strides": [1, attrs.get("stride", 1)], "dilations": [1, attrs.get("dilation", 1)]}
    before, after = attrs.get("pads", (0, 0))
    return graph(
        [node("Conv", "x w b", "y", group=groups, pads=[0, before, 0, after], **made)],
        {"x": ["N", groups * inputs, 1, length]},
        {"y": ["N", groups * outputs, 1, None]},
        {"w": weights(groups * outputs, inputs, 1, taps), "b": weights(groups * outputs)},
    )


def widest(made: Graph) -> int:
    return max(width(n) for n in made.nodes if n.op_type == "Conv")


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(FORMS), st.integers(1, 2), st.integers(1, 2), st.integers(1, 2), st.integers(14, 60),
    st.integers(1, 5), st.integers(1, 3), st.integers(0, 40), st.integers(0, 40), st.integers(0, 30),
)  # fmt: skip
def test_any_wide_convolution(
    form: str, groups: int, inputs: int, outputs: int, taps: int, stride: int, dilation: int, before: int,
    after: int, more: int,
) -> None:  # fmt: skip
    """Groups, strides, dilations, uneven padding: float64 to rounding, and nothing wider than the limit."""
    length = max(1, dilation * (taps - 1) + 1 - before - after) + more
    plain = wide(
        taps, length, groups, inputs, outputs, stride=stride, dilation=dilation, pads=(before, after)
    )
    made = plain.clone()
    assert run_pass(get(PASS)(WideKernels.Options(form=form)), made).changed  # type: ignore[arg-type]
    x = {"x": np.random.default_rng(taps).normal(size=(2, groups * inputs, 1, length)).astype(np.float32)}
    old, new = (execute(one, x, dtype=np.float64)["y"] for one in (plain, made))
    assert relative_error(old, new) < 1e-13 and widest(made) <= LIMIT


@pytest.mark.parametrize("form", FORMS)
def test_the_longest_kernel_of_the_zoo(form: str) -> None:
    """k = 115 in one group per channel, as the widest layer of the CTC base callers."""
    before = wide(115, 200, groups=4, inputs=1, outputs=1, pads=(57, 57))
    expected = {
        "phases": {"Conv": 1, "ConvTranspose": 1},
        "tall": {"Pad": 1, "Slice": 9, "Concat": 1},
        "sum": {"Pad": 1, "Slice": 9, "Conv": 8, "Add": 8},
    }[form]
    done = apply_and_check(PASS, before, options={"form": form}, expect_ops=expected)
    assert widest(done.graph) <= LIMIT
    if form == "tall":
        conv = next(n for n in done.graph.nodes if n.op_type == "Conv")
        assert list(conv.inputs[1].shape) == [4, 1, 9, 13]  # type: ignore[union-attr, arg-type]


def test_time_may_be_symbolic_but_then_there_are_no_phases() -> None:
    before = wide(31, "T", pads=(15, 15))
    for form in ("auto", "phases", "tall", "sum"):
        done = apply_and_check(PASS, before, options={"form": form}, sizes={"T": 40})
        assert "ConvTranspose" not in done.graph.op_counts() and widest(done.graph) <= LIMIT


def test_the_cheapest_form_is_taken() -> None:
    """Long signals with few channels go into phases, a form by name is taken where it can be had."""
    shape = Geometry(groups=256, inputs=1, outputs=1, taps=115, stride=1, dilation=1, before=57, after=57)
    found = forms(shape, LIMIT, 5400)
    assert {form.name for form in found} == set(FORMS)
    chosen = best(found, "auto")
    assert chosen is not None and chosen.nanoseconds == min(form.nanoseconds for form in found)
    assert best(found, "tall").parts == 9 and best(found, "sum").parts == 9  # type: ignore[union-attr]
    assert best(forms(shape, LIMIT, None), "phases") is None
    counts = phase_counts(shape, LIMIT)
    assert counts and max(counts) <= LIMIT and all(-(-115 // count) <= LIMIT for count in counts)


@given(st.integers(1, 300), st.integers(2, 20), st.integers(1, 6))
def test_addends_cover_every_tap_once(taps: int, limit: int, dilation: int) -> None:
    parts = split(taps, limit, dilation)
    assert sum(parts) == taps and max(parts) - min(parts) <= 1
    assert len(parts) == -(-taps // taps_within(limit, dilation))
    assert all(extent(part, dilation) <= limit or part == 1 for part in parts)


def quantised() -> Graph:
    return graph(
        [
            node("Quant", "w s zero four", "q", signed=1, narrow=1),
            node("Conv", "x q b", "y", group=2, pads=[0, 20, 0, 20]),
        ],
        {"x": ["N", 4, 1, 64]}, {"y": ["N", 4, 1, None]},
        {
            "w": weights(4, 2, 1, 41), "s": np.abs(weights(4, 1, 1, 1)) / 8 + 0.05, "zero": np.float32(0),
            "four": np.float32(4), "b": weights(4),
        },
    )  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_quantised_weights_keep_their_integers(form: str) -> None:
    """What comes out of the quantisers is the same numbers as before, and zeros where taps are none."""
    before = quantised()
    done = apply_and_check(PASS, before, options={"form": form})
    makers = [n for n in done.graph.nodes if n.op_type == "Quant"]
    assert len(makers) == (4 if form == "sum" else 1)
    values = [str(n.outputs[0].name) for n in makers]
    feeds = {"x": np.zeros((1, 4, 1, 64), np.float32)}
    kept = execute(done.graph, feeds, keep=values)
    plain = execute(before, feeds, keep=["q"])["q"]
    for channel in range(4):
        have = np.concatenate([kept[name][channel::4].reshape(-1) for name in values])
        if form == "phases":  # (M * s, ...): phases of a channel lie side by side
            have = kept[values[0]].reshape(4, -1)[channel]
        assert set(have[have != 0]) == set(plain[channel][plain[channel] != 0])


def test_integer_weights_and_shared_weights() -> None:
    """DequantizeLinear per channel; one weight read by two convolutions is rearranged once."""
    integers = np.random.default_rng(1).integers(-9, 9, (4, 4, 1, 27)).astype(np.int8)
    before = graph(
        [
            node("DequantizeLinear", "i s", "d", axis=0),
            node("Conv", "x d", "a", pads=[0, 13, 0, 13]), node("Relu", "a", "r"),
            node("Conv", "r d b", "y", pads=[0, 13, 0, 13]),
        ],
        {"x": ["N", 4, 1, 50]}, {"y": ["N", 4, 1, 50]},
        {"i": integers, "s": np.abs(weights(4)) + 0.1, "b": weights(4)},
    )  # fmt: skip
    for form in FORMS:
        done = apply_and_check(PASS, before, options={"form": form})
        assert done.graph.op_counts()["DequantizeLinear"] == (3 if form == "sum" else 1)


def test_what_stays_and_what_is_narrow_enough() -> None:
    """13 taps stay without a word; a kernel that nobody knows, with a Decision."""
    apply_and_check(PASS, wide(13, 40), expect_changed=False)
    apply_and_check(PASS, wide(7, 40, dilation=2), expect_changed=False)
    done = apply_and_check(PASS, wide(8, 40, dilation=2), expect_changed=True)
    assert widest(done.graph) <= LIMIT
    square = graph(
        [node("Conv", "x w", "y", auto_pad="SAME_UPPER", strides=[1, 2])],
        {"x": ["N", 2, 5, "T"]}, {"y": ["N", 2, 5, None]}, {"w": weights(2, 2, 3, 20)},
    )  # fmt: skip
    done = apply_and_check(PASS, square, expect_changed=False, sizes={"T": 40})
    assert [d.code for d in done.record.decisions] == ["RUB-PASS-D30"]
    with pytest.raises(ValueError, match="limit"):
        WideKernels.Options(limit=1)


def test_two_dimensional_kernels_become_sums() -> None:
    before = graph(
        [node("Conv", "x w b", "y", pads=[1, 9, 1, 10], strides=[2, 1])],
        {"x": ["N", 2, 6, 40]}, {"y": ["N", 3, 3, None]}, {"w": weights(3, 2, 3, 20), "b": weights(3)},
    )  # fmt: skip
    done = apply_and_check(PASS, before)
    assert done.graph.op_counts()["Conv"] == 2 and widest(done.graph) <= LIMIT


class OneTapLate(WideKernels):
    """Mutant: padding before is one longer than it was."""

    def choose(self, node: Any) -> Any:
        shape, form = super().choose(node)
        return type(shape)(**{**vars(shape), "before": shape.before + 1, "after": shape.after - 1}), form


@pytest.mark.parametrize("form", FORMS)
def test_a_shifted_kernel_fails(form: str) -> None:
    assert_mutant_fails(OneTapLate, wide(31, 60, pads=(15, 15)), options={"form": form}, code="RUB-PASS-021")


def test_rows_in_the_wrong_order_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    right = module.stack_taps
    monkeypatch.setattr(module, "stack_taps", lambda *args: right(*args)[:, :, ::-1])
    assert_mutant_fails(
        WideKernels, wide(31, 60, pads=(15, 15)), options={"form": "tall"}, code="RUB-PASS-021"
    )


def test_a_bias_in_every_addend_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    right = module.KernelWriter._conv

    def biased(self: Any, old: Any, inputs: Any, kernel: Any) -> Any:
        return right(self, old, [*inputs[:2], *old.inputs[2:3]], kernel)

    monkeypatch.setattr(module.KernelWriter, "_conv", biased)
    assert_mutant_fails(WideKernels, wide(31, 60), options={"form": "sum"}, code="RUB-PASS-021")


def test_weights_folded_for_another_phase_count_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    right = module.repeat_channels
    monkeypatch.setattr(
        module, "repeat_channels", lambda array, *rest: np.roll(right(array, *rest), 1, axis=0)
    )
    assert_mutant_fails(WideKernels, wide(31, 60, pads=(3, 9)), options={"form": "phases"})
