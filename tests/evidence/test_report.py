"""The report: round trip, honesty about what is missing, and hostile names."""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest

from rubicc.errors import ModelRefused
from rubicc.evidence import report as reports
from rubicc.evidence.decision import Decision
from rubicc.evidence.floor import Cell, Floor, standalone
from rubicc.evidence.gaps import Gap, failed
from rubicc.evidence.page import render
from rubicc.evidence.pictures import _apart, squares
from rubicc.evidence.report import (
    LayerRow,
    Measure,
    NotMeasured,
    Outside,
    PassRow,
    Placement,
    Report,
    SignalPicture,
)

EXACT = Gap(0.0, 0.0, 0.0, math.inf, 1.0, 10)
CLOSE = Gap(1e-6, 1e-6, 1e-7, 120.0, None, 10)
EVIL = "</style></svg><script>alert(1)</script><img src=http://x.y/z onerror=alert(2)>\"'\x1b[31m\u202e"


def floor(name: str = "array") -> Floor:
    cells = (
        Cell(0, 0, "core", 0, 0.75, name[:4], name),
        Cell(1, 0, "core", title="free"),
        Cell(0, 1, "memory", fill=1.0, title=name),
        Cell(1, 1, "port", label="2", title=name),
    )
    return Floor(name, name, 2, (name, "mem"), cells, ((0, 0, 1, 0),), ("layer", name), ((name, "50%"),))


def sample(name: str = "demo") -> Report:
    return Report(
        name=name,
        target=name,
        precision="fp32",
        runtime="openvino",
        verdict="verified",
        verdict_reason=name,
        source={name: name},
        totals={"parameters": 412345, name: name},
        gaps={f"y {name}": CLOSE, "z": failed(name)},
        shapes={name: "2x1x30"},
        layers=(
            LayerRow(name, "Conv", name, (name,), name, 4, 8, 1_000_000, 2000, 1.25, CLOSE),
            LayerRow("n2", name, "", (), "", None, None, 0, 0, None, EXACT),
            LayerRow("n3", "Add", "", (), "", None, None, 5, 0, 0.5, failed("NaN")),
        ),
        passes=(PassRow(name, True, 0.5, {name: name}, {name: -3}, name),),
        decisions=(Decision(name, name, name, name),),
        measured=(Measure(name, 1.5, name, name, 1.0, 2.0),),
        not_measured=(NotMeasured(name, name),),
        signal=SignalPicture(name, (0.1, -0.2, 0.4), ((0, name), (1, "C")), 4000, 10, name),
        placements=(
            Placement(
                name,
                name,
                {"eligible": "good", name: "bad"},
                ((name, name), ("eligible", "n2"), ("eligible", "n3")),
                (Outside(name, 1, name, name, name, name, name),),
            ),
        ),
        floors=(floor(name),),
        machine={name: name, "cores": 2},
    )


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs


def test_round_trip_through_files(tmp_path: Path) -> None:
    for report in (sample(), sample(EVIL), Report("n", "cpu", "fp32", "openvino", "not verified")):
        reports.write(tmp_path, report)
        assert reports.read(tmp_path) == report


def test_hostile_names_stay_text() -> None:
    page = render(sample(EVIL))
    parser = Tags()
    parser.feed(page)
    assert not {"script", "img", "iframe", "link", "object"} & set(parser.tags)
    assert not [name for name, _ in parser.attributes if name.startswith("on") or name in ("src", "href")]
    assert "\x1b" not in page and "\u202e" not in page
    assert sorted(set(parser.tags)) == sorted(set(tags_of(render(sample("demo")))))


def tags_of(page: str) -> list[str]:
    parser = Tags()
    parser.feed(page)
    return parser.tags


def test_page_loads_nothing_from_outside() -> None:
    page = render(sample())
    assert "default-src 'none'" in page
    assert not re.search(r"https?://|url\(|@import", page)


def test_pictures_are_well_formed_and_show_every_value() -> None:
    svgs = re.findall(r"<svg.*?</svg>", render(sample(EVIL)), re.S)
    assert len(svgs) == 6
    for svg in svgs:
        ET.fromstring(svg)
    macs, times, errors, placed, array, signal = svgs
    assert macs.count("<rect") == 2 and times.count("<rect") == 2 and errors.count("<rect") == 3
    assert "FAILED" in errors and "exact" in errors and "120.0 dB" in errors
    assert signal.count('class="move"') == 2
    assert array.count('<rect class="cell"') == 4 and array.count("<title>") == 4
    assert array.count("<rect") == 6 and array.count('class="join"') == 1
    assert placed.count("<rect") == 3 and placed.count('<rect class="bad"') == 1


def test_squares_of_many_operations_show_the_worst_of_their_neighbours() -> None:
    kinds = ["good"] * 10_000
    kinds[5_000], kinds[7_777] = "bad", "unsure"
    svg = squares(kinds, [f"op{i}" for i in range(len(kinds))], label="all")
    ET.fromstring(svg)
    assert svg.count("<rect") == 2_500 and len(svg) < 500_000
    assert svg.count('class="bad"') == svg.count('class="unsure"') == 1
    assert "op5000 and 3 beside it" in svg and "op7777 and 3 beside it" in svg
    assert squares([], [], label="none") == ""


def test_a_broken_placement_is_refused(tmp_path: Path) -> None:
    data = sample().to_dict()
    (good,) = data["placements"]
    wrong: list[object] = [{"ops": []}, {**good, "more": 1}, {**good, "ops": [1]}, "text"]
    for broken in wrong:
        with pytest.raises(ModelRefused) as err:
            Report.from_dict(data | {"placements": [broken]})
        assert err.value.code == "RUB-ART-013"


def test_an_array_is_filled_to_scale_and_its_layers_are_named() -> None:
    page = render(replace(sample(), floors=(floor("conv"),)))
    body = page[page.index("<h2>conv</h2>") :]
    side = re.findall(r'width="([\d.]+)" height="([\d.]+)"', body)[:2]
    assert float(side[1][1]) == pytest.approx(0.75 * float(side[0][1]), abs=0.1)
    assert "<td>conv</td><td>50%</td>" in body
    alone = ET.fromstring(standalone(floor(EVIL)))
    assert {node.tag.rpartition("}")[2] for node in alone.iter()} == {
        "svg",
        "style",
        "text",
        "g",
        "title",
        "rect",
        "line",
    }
    assert not re.search(r"url\(|@import|href", standalone(floor()))


@pytest.mark.parametrize(
    "change",
    [
        {"columns": 0},
        {"columns": 1},
        {"rows": ["one"]},
        {"joins": [[0, 0, 2, 0]]},
        {"groups": [["short"]]},
        {"more": 1},
        {"cells": [{"column": 0, "row": 0, "kind": "core", "fill": 1.5}]},
        {"cells": [{"column": 0, "row": 0, "kind": "core", "fill": float("nan")}]},
        {"cells": [{"column": 0, "row": 0, "kind": "tower"}]},
        {"cells": [{"column": "0", "row": 0, "kind": "core"}]},
        {"cells": [{"column": 0, "row": -1, "kind": "core"}]},
        {"cells": [{"column": 0, "row": 0, "kind": "core", "onclick": "x"}]},
    ],
    ids=str,
)
def test_a_broken_array_is_refused(change: dict[str, object]) -> None:
    data = sample().to_dict()
    with pytest.raises(ModelRefused) as err:
        Report.from_dict(data | {"floors": [{**data["floors"][0], **change}]})
    assert err.value.code == "RUB-ART-013"


def test_failure_and_missing_measurements_are_said() -> None:
    report = replace(sample(), verdict="failed", measured=(), decisions=())
    page = render(report)
    assert 'class="verdict bad"' in page and "failed: demo" in page
    assert "Nothing was measured." in page and "Nothing was decided for you." in page
    assert "not measured" in page


def test_empty_report_has_no_empty_tables_or_pictures() -> None:
    page = render(Report("n", "cpu", "fp32", "openvino", "not verified"))
    assert "<svg" not in page and "<tbody></tbody>" not in page


def test_thousand_layers_stay_a_small_page() -> None:
    report = replace(sample(), layers=sample().layers[:1] * 1000)
    assert len(render(report)) < 2_000_000


def test_letters_are_moved_apart_within_the_picture() -> None:
    placed = _apart([0, 1, 2, 100, 101], 10, 102)
    assert placed == sorted(placed) and placed[-1] <= 102
    assert min(b - a for a, b in pairwise(placed)) >= 10


@pytest.mark.parametrize(
    "text",
    ["{}", '{"schema_version": 1}', '{"schema_version": 1, "odd": 2}', "[]", "x", '{"schema_version": 2}'],
)
def test_malformed_report_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "report.json").write_text(text)
    with pytest.raises(ModelRefused):
        reports.read(tmp_path)
