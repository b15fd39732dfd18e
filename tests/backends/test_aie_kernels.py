"""Kernels of the AI Engine target, emitted for random networks and emulated, against the reference."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from aie_kernel_nets import INT8, INT16, UINT8, Random, emulate

from rubicc.backends.aie import reference
from rubicc.backends.aie.kernels import write as write_kernels
from rubicc.backends.aie.net import Gru, Lstm
from rubicc.backends.aie.plan.devices import device
from rubicc.backends.aie.plan.planner import Options, plan
from rubicc.backends.aie.project import write
from rubicc.backends.aie.session import Emulated
from rubicc.errors import Unsupported

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="g++ is needed")
HOSTILE = 'a"*/\n#error x\n//\\'


def same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray], distinct: int) -> None:
    """Every integer, of a range that shows something."""
    for name, values in expected.items():
        assert len(np.unique(values)) >= distinct
        np.testing.assert_array_equal(found[name], values)


def test_convolutions_of_all_widths_are_exact(tmp_path: Path) -> None:
    made = Random(16, INT16).conv(HOSTILE, 24, 9, weight=16, to=INT16)  # 16 x 16, dense
    made.conv("b", 24, 31, 3, weight=16, to=UINT8)  # 16 x 16, groups, four taps at a time
    made.conv("c", 24, 4, 3, to=INT8, dilation=3, pads=(9, 0))  # taps that skip frames; unsigned
    made.conv("d", 40, to=UINT8).conv("e", 24, 6, weight=4)  # pointwise, an odd number of output blocks
    made.conv("f", 16, weight=16, relu=False)  # values widened to 16 bits
    planned, found, expected = emulate(made, tmp_path, sequences=3, length=77)
    assert planned.period > 77 and planned.stages[-1].lag > 0
    same(found, expected, 200)
    text = "".join(p.read_text() for p in (tmp_path / "p/src").rglob("s00.*"))
    assert "#error" not in text


def test_sums_and_tables_are_exact(tmp_path: Path) -> None:
    made = Random(16, INT8).conv("a", 24)
    made.conv("b", 24, 9, 3).conv("c", 24, relu=False).add("s", "a:y")
    made.table("t", INT16).conv("o", 8, 5, relu=False)
    planned, found, expected = emulate(made, tmp_path, sequences=2, length=90)
    assert max(max(stage.delays) for stage in planned.stages) == 4
    same(found, expected, 100)


@pytest.mark.parametrize("kind", [Gru, pytest.param(Lstm, marks=pytest.mark.slow)])
def test_cells_are_exact(kind: type[Gru] | type[Lstm], tmp_path: Path) -> None:
    made = Random(16, INT8).conv("c", 16, 3).conv("in", 24 * (3 if kind is Gru else 4), to=INT16, relu=False)
    made.cell(kind, "cell", 24, operand=INT8 if kind is Gru else INT16, to=INT16)
    planned, found, expected = emulate(made, tmp_path, sequences=6, length=21)  # the second four are two
    assert planned.lanes == 4 and planned.stages[-1].lag > 0
    same(found, expected, 200)


@pytest.mark.slow
def test_cells_of_both_directions_are_exact(tmp_path: Path) -> None:
    made = Random(1, INT8).conv("c", 16, 9, stride=5, pads=(4, 4), to=INT8)  # the host lays out its windows
    made.conv("in", 72, to=INT16, relu=False)
    made.cell(Gru, "g", 24, operand=INT16, weight=16, to=INT8, reverse=True)
    made.conv("next", 64, to=INT16, relu=False).cell(Lstm, "l", 16, to=INT16)
    planned, found, expected = emulate(made, tmp_path, sequences=5, length=30)
    assert [segment.reverse for segment in planned.segments] == [True, False]
    same(found, expected, 100)


def _encoder() -> Random:
    made = Random(16, INT8, seed=2).conv("a", 24, to=INT16, relu=False).norm("n").conv("qkv", 96, relu=False)
    made.attention("t", 2).conv("o", 24, relu=False, to=INT16).add("s", "a:y").norm("m", INT16)
    return made.conv("z", 8, 5, relu=False)


@pytest.mark.parametrize("length", [29, pytest.param(64, marks=pytest.mark.slow)])
def test_attention_and_normalisation_are_exact(length: int, tmp_path: Path) -> None:
    planned, found, expected = emulate(_encoder(), tmp_path, sequences=3, length=length)
    assert planned.block == planned.period >= length, "a sequence is one work unit"
    assert {"norm", "attention"} < {stage.variant for stage in planned.stages}
    same(found, expected, 80)


def _cascaded() -> Random:
    return Random(16, INT8, seed=3).conv("a", 16, 5).conv("b", 16, 29, 2)


@pytest.mark.slow
def test_cascades_are_exact(tmp_path: Path) -> None:
    made = _cascaded().conv("d", 64, 13).conv("p", 32)
    planned, found, expected = emulate(made, tmp_path, sequences=3, length=70, objective="throughput")
    assert max(stage.split.j for stage in planned.stages) > 2  # first, middle and last tiles
    assert max(stage.split.k for stage in planned.stages) > 1
    same(found, expected, 100)


MUTANTS = {
    "history": ("(FRAMES + t) * SLOT<M>", "(FRAMES + t - ROWS) * SLOT<M>"),
    "no blanking": ("if (!place_.whole())", "if (false)"),
    "lag": ("(PERIOD - LAG % PERIOD) % PERIOD", "(PERIOD - LAG % PERIOD + 1) % PERIOD"),
    "shift": ("(shift[o])", "(shift[0])"),
    "taps": ("w + BY * unit::size_B", "w + (ROWS - BY) * unit::size_B"),
    "windows": ("aie::shuffle_down_fill(y, z", "aie::shuffle_down_fill(y, y"),
    "rounding": ("conv_even", "positive_inf"),
    "saturation": ("saturation_mode::saturate", "saturation_mode::none"),
    "bias": ("aie::concat(row, row, row, row)", "aie::zeros<int32, ROWS * COLUMNS>()"),
    "relu": ("aie::max(v, Y(0))", "v"),
}
QUICK = ("no blanking",)
SEQUENCE_MUTANTS = {
    "keys": ("key + s * PITCH", "key"),
    "turned": ("COLUMNS, COLUMNS);", "1, COLUMNS * COLUMNS);"),
    "largest": ("top = aie::from_vector<acc32>(most_.get(), 0)", "top = aie::from_vector<acc32>(most, 0)"),
    "last keys": ("blank(score_, int16(-32768));", ""),
    "reciprocal": ("/ totals.get(r * COLUMNS)", "/ totals.get(0)"),
    "heads": ("x += 3 * PART;", ""),
    "mean": ("aie::sub(aie::from_vector<acc32>(values(x, o, t), Spec::FINER), middle)",
             "aie::from_vector<acc32>(values(x, o, t), Spec::FINER)"),
    "root": ("if (rest >= next)", "if (rest > next)"),
    "gain": ("for_all_rows(gain + o * COLUMNS)", "for_all_rows(gain)"),
    "offset": ("for_all_rows(offset + o * COLUMNS)", "aie::zeros<int32, LANES>()"),
}  # fmt: skip


def differing(
    root: Path, made: Random, mutant: tuple[str, str] | None, objective: str, length: int = 70
) -> int:
    """Integers that differ when the emitted templates are changed."""
    net, feeds = made.net(), made.feeds(3, length)
    planned = plan(net, device("vek280"), Options(frames=length, objective=objective))
    write(planned, net, root / "p", name="m", example={k: v[:1] for k, v in feeds.items()})
    changed = 0
    for path in (root / "p/src/kernels").glob("*.h"):
        text = path.read_text()
        if mutant is not None and mutant[0] in text and path.name in ("blocks.h", "convolve.h", "sequence.h"):
            changed += 1
            path.write_text(text.replace(*mutant))
    assert changed or mutant is None
    found = Emulated(root / "p", planned, net, root / "b").run(feeds)
    (expected,) = reference.run(net, feeds).values()
    (values,) = found.values()
    return int((values != expected).sum())


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in MUTANTS],
)
def test_changed_templates_are_found(name: str, tmp_path: Path) -> None:
    assert differing(tmp_path, _cascaded(), MUTANTS[name], "tiles") > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", SEQUENCE_MUTANTS)
def test_changed_attentions_and_normalisations_are_found(name: str, tmp_path: Path) -> None:
    assert differing(tmp_path, _encoder(), SEQUENCE_MUTANTS[name], "tiles", 29) > 0


@pytest.mark.slow
def test_a_cascade_that_drops_its_sums_is_found(tmp_path: Path) -> None:
    mutant = ("{ return from(in); }", "{ auto v = from(in); return aie::sub(v, v); }")
    assert differing(tmp_path, _cascaded(), mutant, "throughput") > 0


def test_a_cell_without_a_kernel_is_refused(tmp_path: Path) -> None:
    made = Random(16, INT8).conv("in", 72, to=INT16, relu=False).cell(Gru, "g", 24)
    net = made.net()
    planned = plan(net, device("vek280"), Options(frames=16))
    odd = replace(net.layers[-1], output_shift=-1)
    with pytest.raises(Unsupported, match=r"RUB-AIE-301.*-1 to"):
        write_kernels(planned, replace(net, layers=(net.layers[0], odd)), tmp_path)
