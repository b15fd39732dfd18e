"""The report of a change, and its plots."""

from __future__ import annotations

import json
import math
import re
from xml.etree import ElementTree

import pytest

from rubicc.errors import ModelRefused
from rubicc.evidence.change import ChangeReport, Figure, Table, render
from rubicc.evidence.plots import MAX_POINTS, Plot, Series, svg

EVIL = '<script>alert("x")</script>\x1b[2J'


def places(plot: Plot) -> list[tuple[float, float]]:
    line = ElementTree.fromstring(svg(plot)).find("polyline")
    assert line is not None
    return [(float(a), float(b)) for a, b in (p.split(",") for p in line.attrib["points"].split())]


def test_lines_go_where_the_figures_are() -> None:
    linear = places(Plot("t", "x", "y", (Series("s", ((0, 1.0), (5, 2.0), (10, 3.0))),)))
    assert linear[1] == pytest.approx([(linear[0][i] + linear[2][i]) / 2 for i in (0, 1)], abs=0.1)
    assert linear[0][1] > linear[2][1], "larger is higher"
    log = places(
        Plot("t", "x", "y", (Series("s", ((0, 1.0), (5, 10.0), (10, 100.0), (11, -1.0))),), log_y=True)
    )
    assert len(log) == 3 and log[1][1] == pytest.approx((log[0][1] + log[2][1]) / 2, abs=0.1)


def test_many_points_become_few_means_and_odd_ones_are_left_out() -> None:
    points = tuple((i, math.nan if i % 7 == 0 else 1.0) for i in range(20_000))
    drawn = places(Plot("t", "x", "y", (Series("s", points),)))
    assert 100 < len(drawn) <= MAX_POINTS and len({y for _, y in drawn}) == 1
    assert svg(Plot("t", "x", "y", (Series("s", ()),))) == ""


def test_figures_say_what_changed() -> None:
    report = ChangeReport(
        "net", "prune", "done.", (
            Figure("parameters", 1000, 500, "count"),
            Figure("identity", 0.9, 0.88, "identity"),
            Figure("size", 2048, 2048, "B"),
            Figure("loss", None, 1.5),
        ),
        plots=(Plot("Pareto", "bytes", "identity", (Series("cuts", ((1, 0.5, EVIL),), "points"),)),),
        tables=(Table("Layers", ("layer", "MACs"), ((EVIL, 12),)),),
    )  # fmt: skip
    assert [line[1:] for line in report.lines()] == [
        ("1,000", "500", "-50.00%"),
        ("0.9000", "0.8800", "-0.0200"),
        ("2.05 kB", "2.05 kB", "same"),
        ("-", "1.5", ""),
    ]
    page = render(report)
    assert "<script" not in page and "\x1b" not in page and page.count("<svg") == 1 and "-50.00%" in page
    again = ChangeReport.from_dict(json.loads(json.dumps(report.to_dict())))
    assert again == report and render(again) == page


@pytest.mark.parametrize(
    "damage", [{"figures": [{"what": "x"}]}, {"verbs": 1}, {"schema_version": 9}, {"plots": 3}]
)
def test_damaged_reports_are_refused(damage: dict[str, object]) -> None:
    data = ChangeReport("net", "train", "done.", ()).to_dict()
    with pytest.raises(ModelRefused, match=r"RUB-ART-013"):
        ChangeReport.from_dict({**data, **damage})
    assert re.search("net", render(ChangeReport("net", "train", "done.", ())))
