"""Ratios, verdicts, turns and text of the speed tables, on made-up times."""

from __future__ import annotations

import json
import math
import os

import numpy as np
import pytest
from speed import results
from speed.baselines import Refused, integer_layers, refusals
from speed.peaks import convolution_model
from speed.render import aligned, render
from speed.results import Identity, NetworkResult, PeakRow, Row, Span
from speed.turns import Watch, in_turns

from rubicc.evidence.measure import Timing

MACS = 1_000


def times(median: float, spread: float = 0.0) -> Timing:
    """Five calls whose quartiles lie ``spread`` around the median."""
    return Timing(tuple(median * (1 + spread * step) for step in (-2, -1, 0, 1, 2)))


def row(column: str, median: float, precision: str = "fp32", spread: float = 0.0) -> Row:
    return Row(column, precision, "", times(median, spread), 120.0, 1.0, 0.5)


def network(name: str = "rubicall-fp", **medians: float) -> NetworkResult:
    precisions = {"best": "int8", "ort8": "int8", "ov8": "int8"}
    rows = tuple(row(column, value, precisions.get(column, "fp32")) for column, value in medians.items())
    peaks = (
        PeakRow("slow int8", "int8", MACS, times(2.0)),
        PeakRow("fast int8", "int8", MACS * 10, times(10.0)),
        PeakRow("fp32", "fp32", MACS, times(4.0)),
    )
    return NetworkResult(name, "x 8x1x3600", "samples", 28_800, MACS, rows, peaks)


def verdicts(found: NetworkResult) -> dict[str, str]:
    return {goal.what: goal.verdict for goal in results.targets([found], [])}


def test_ratio_is_of_medians_and_its_span_of_opposite_quartiles() -> None:
    span = results.ratio(times(1.0, 0.1), times(10.0, 0.1))
    assert span.middle == pytest.approx(10.0)
    assert (span.low, span.high) == (pytest.approx(9.0 / 1.1), pytest.approx(11.0 / 0.9))


@pytest.mark.parametrize(
    ("span", "verdict"),
    [
        (Span(12.5, 12.7, 12.9), "PASS"),
        (Span(12.3, 12.4, 12.5), "UNSURE"),  # within 5 % above
        (Span(11.6, 11.7, 11.8), "UNSURE"),  # within 5 % below
        (Span(11.0, 14.0, 16.0), "UNSURE"),  # noise reaches below the limit
        (Span(9.0, 11.0, 13.0), "UNSURE"),  # noise reaches above it
        (Span(10.9, 11.0, 11.1), "FAIL"),
        (None, "not measured"),
    ],
)
def test_verdicts(span: Span | None, verdict: str) -> None:
    assert results.judge(span, 12.0) == verdict


def test_a_busy_machine_decides_nothing() -> None:
    clear = Span(20.0, 20.1, 20.2)
    assert results.judge(clear, 12.0, 0.04) == "PASS" and results.judge(clear, 12.0, 0.06) == "UNSURE"
    found = results.replace(network(torch=100.0, best=5.0), disturbed=0.3)
    assert verdicts(found)["rubicall-fp: ours best over torch eager"] == "UNSURE"
    assert "BUSY MACHINE: other programs took 30%" in render({}, [found], [])


def test_other_programs_are_seen_and_own_work_is_not() -> None:
    import subprocess
    import sys
    import time

    spin = "import time\nend = time.monotonic() + 0.6\nwhile time.monotonic() < end: pass"
    with Watch() as watch:
        subprocess.run([sys.executable, "-c", spin], check=True)
    assert watch.others > 0.3 / (os.cpu_count() or 1)  # most of one core, whatever else ran
    with Watch() as own:
        end = time.monotonic() + 0.5
        while time.monotonic() < end:
            pass
    assert own.others < 1.0


def test_targets_compare_the_named_columns() -> None:
    found = verdicts(
        network(torch=100.0, ort32=50.0, ort8=60.0, ov32=40.0, ov8=9.0, compile=90.0, ours32=20.0, best=5.0)
    )
    assert found["rubicall-fp: ours best over torch eager"] == "PASS"  # 20x of 12
    assert found["rubicall-fp: ours best over ORT fp32"] == "PASS"  # 10x of 6
    assert found["rubicall-fp: ours best over ORT int8"] == "PASS"  # 12x of 8
    assert found["rubicall-fp: ours best over OV int8"] == "PASS"  # 1.8x of 1.4
    (fp32,) = (v for k, v in found.items() if "the fastest" in k)
    assert fp32 == "PASS"  # 2x of 1.7 over OpenVINO, the fastest of the three
    assert found["bonito-ctc: ours best over torch eager"] == "not measured"


def test_the_fastest_default_counts() -> None:
    found = verdicts(network(torch=100.0, ort32=80.0, ov32=30.0, compile=25.0, ours32=20.0))
    (fp32,) = (v for k, v in found.items() if "the fastest" in k)
    assert fp32 == "FAIL"  # 1.25x over torch.compile, though 4x over ONNX Runtime
    assert found["rubicall-fp: ours best over torch eager"] == "not measured"


def test_fraction_is_held_to_the_faster_kernel_of_the_same_precision() -> None:
    found = network(best=2.0)
    peak = found.peak("int8")
    assert peak is not None and peak.name == "fast int8" and peak.rate == pytest.approx(1000.0)
    best = found.row("best")
    assert best is not None
    assert results.fraction(best, found.macs, peak).middle == pytest.approx(0.5)
    what = "rubicall-fp: ours best, share of the measured int8 convolution peak"
    assert verdicts(found)[what] == "FAIL"
    assert verdicts(network(best=1.5))[what] == "PASS"


def test_identity_targets_are_judged_without_doubt() -> None:
    cases = [
        Identity("a", "r", 0.9, 0.8971),
        Identity("a", "r", 0.9, 0.8969),
        Identity("a", "r", 0.9, 0.95, missing=1),
        Identity("a", "r", 0.9, 0.91),
        Identity("a", "r", skipped="no data"),
    ]
    judged = results.targets([], cases)[-5:]
    assert [goal.verdict for goal in judged] == ["PASS", "FAIL", "FAIL", "PASS", "not measured"]
    assert judged[3].value == pytest.approx(-0.01)


def test_best_is_the_fastest_of_ours_whatever_its_precision() -> None:
    rows = [row("ours auto 0", 3.0, "int8"), row("ours bf16 0", 2.0, "bf16"), Row("ours x", refused="no")]
    best = results.choose_best(rows)
    assert best is not None and (best.column, best.precision) == ("best", "bf16")
    assert results.choose_best([Row("ours x", refused="no")]) is None


def test_results_survive_json() -> None:
    found = network(torch=100.0, best=5.0)
    refused = Row("ov", refused="says why")
    found = results.replace(found, rows=(*found.rows, refused), others=(row("ours bf16 0", 6.0),))
    identities = [Identity("demo-ctc", "reads", 0.9, 0.899, "int8")]
    text = json.dumps(results.to_json({"machine": "m"}, [found], identities))
    machine, networks, back = results.from_json(json.loads(text))
    assert (machine, networks, back) == ({"machine": "m"}, [found], identities)
    with pytest.raises(ValueError, match="schema_version"):
        results.from_json({**json.loads(text), "schema_version": 99})


def test_every_engine_gets_its_turn_first_and_time_of_its_own() -> None:
    now, order = [0.0], []

    def call(name: str, seconds: float) -> None:
        order.append(name)
        now[0] += seconds

    timings = in_turns(
        {"slow": lambda: call("slow", 1.0), "fast": lambda: call("fast", 0.1)},
        rounds=2,
        turn=0.3,
        settle=0.5,
        clock=lambda: now[0],
        sleep=lambda seconds: now.__setitem__(0, now[0] + seconds),
    )
    assert timings["slow"].count == 2 and timings["fast"].count >= 6
    assert timings["slow"].median == pytest.approx(1.0) and timings["fast"].median == pytest.approx(0.1)
    assert order[:3] == ["slow", "fast", "slow"]  # one untimed call each, then the first round
    second = order[3:]
    assert second.index("slow") > second.index("fast")
    # the second round begins with the other engine
    assert order[-1] == "slow"
    with pytest.raises(ValueError, match="round"):
        in_turns({"a": lambda: None}, 0)


def test_text_says_figures_refusals_and_verdicts() -> None:
    found = network(torch=100.0, ort32=50.0, best=5.0)
    rows = (*found.rows, Row("ov8", refused="operator X is unknown"))
    text = render(
        {"machine": "a CPU"},
        [results.replace(found, rows=rows, notes=("random weights",))],
        [
            Identity("demo-ctc", "24 reads", 0.9, 0.898, "int8 native plain"),
            Identity("m", "7", skipped="none"),
        ],
    )
    assert "0 (20.0x)" in text or "6 (20.0x)" in text
    assert "none: operator X is unknown" in text
    assert "random weights" in text and "skipped: none" in text
    assert "20% int8" in text  # 200 of 1,000 MAC/s
    assert "+0.0020" in text and "0.8980" in text
    line = next(line for line in text.splitlines() if line.startswith("rubicall-fp: ours best over torch"))
    assert line.split()[-2:] == ["20.00", "PASS"]
    assert all(line == line.rstrip() for line in text.splitlines())


def test_columns_are_aligned() -> None:
    first, rule, second = aligned([["name", "ms", ""], ["a", "1.25", "x"]]).splitlines()
    assert first.index("ms") + 2 == second.index("1.25") + 4
    assert set(rule) <= {"-", " "}


def test_foreign_failures_become_refusals_with_their_first_line() -> None:
    with pytest.raises(Refused, match="KeyError: 'x'"), refusals():
        raise KeyError("x")
    with pytest.raises(Refused, match=r"^own$"), refusals():
        raise Refused("own")


def test_peak_model_computes_in_integers_when_quantised(tmp_path) -> None:
    import onnx

    for quantised, said in ((True, "3 Conv"), (False, "nothing in int8")):
        path = tmp_path / f"{quantised}.onnx"
        path.write_bytes(convolution_model(quantised=quantised))
        onnx.checker.check_model(str(path))
        assert integer_layers(path) == said


def test_details_of_a_failed_comparison_are_not_a_small_number() -> None:
    broken = Row("ov", "bf16", "", times(1.0), -math.inf, 0.0)
    text = render({}, [results.replace(network(torch=2.0), rows=(row("torch", 2.0), broken))], [])
    assert "-inf" in text and "exact" not in text


def test_networks_of_the_targets_exist() -> None:
    from speed.networks import NETWORKS

    assert {name for name, *_ in results.RATIOS} == set(NETWORKS)
    assert all(
        column in results.COLUMNS for _, ours, others, _ in results.RATIOS for column in (ours, *others)
    )


def test_inputs_to_measure_and_to_calibrate_share_nothing(tmp_path, monkeypatch) -> None:
    from speed import networks

    monkeypatch.setenv("RUBICC_SHARED_DATA", str(tmp_path / "absent"))
    assert networks.real_data() is None
    case = networks.make(networks.Network("tiny", "demo-ctc", 2, 900, "static"), tmp_path)
    (x,) = case.feeds.values()
    assert x.shape == (2, 1, 900) and x.dtype == np.float32
    seen = {chunk.tobytes() for batch in (case.feeds, *case.calibration) for chunk in batch["x"]}
    assert len(seen) == 2 * (1 + networks.CALIBRATION_BATCHES)
    assert case.meta.chunk == 900 and case.macs > 1e6 and case.calib_path.is_file()
    assert "simulated" in " ".join(case.notes)
