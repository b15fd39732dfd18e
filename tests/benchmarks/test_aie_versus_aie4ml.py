"""The comparison with aie4ml: the same integers on both sides, and what the table says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import aie_versus_aie4ml as both
import numpy as np
import pytest
from aie_versus_aie4ml import CASES, Row, Side

from rubicc.backends.aie import reference

ONE_AXIS = [case for case in CASES if len(case["input"]) == 2 or case["input"][1] == 1]


@pytest.mark.parametrize("case", ONE_AXIS, ids=lambda case: case["name"])
def test_rubicc_is_given_the_integers_that_numpy_computes(case: dict[str, Any], tmp_path: Path) -> None:
    case = case | {"seed": 5}
    data = both.weights(case, tmp_path)  # nothing of aie4ml's there: of the same kind
    net = both.network(case, data)
    assert net is not None
    wanted, facts = both.theirs.expected(tmp_path, case)
    (found,) = reference.run(net, {"x": both.over_frames(data["x"].astype(np.int64))}).values()
    np.testing.assert_array_equal(found, both.over_frames(wanted))
    assert facts["ties"] > 50 and np.unique(wanted).size > 30
    assert net.macs(case["input"][-2]) == both.macs(case)


def test_two_axes_are_not_rubiccs(tmp_path: Path) -> None:
    (image,) = [case for case in CASES if case not in ONE_AXIS]
    assert both.network(image, {}) is None


def test_the_table_says_who_takes_what() -> None:
    taken = Side("", 4, 500.0, (400.0, 700.0), "PLIO pin0", 0, 64)
    wrong = Side("", 2, 250.0, None, "", 3, 64)
    row = Row("a", "all of it", 8_000, Side(refused="too | wide"), taken, wrong, 7, 1)
    text = both.table([row])
    assert "| all of it | aie4ml 0.2.1 | no: too / wide |" in text
    assert "| rubicc | yes | 4 | 500 (400 to 700) | 4 | 0 of 64 |" in text
    assert "| rubicc, busy or not | yes | 2 | 250 | 16 | 3 of 64 |" in text
    assert "a: PLIO pin0" in text and "a 7 and 1" in text


def test_it_says_so_without_aie4ml(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def absent() -> str:
        pytest.skip("aie4ml is not installed")

    monkeypatch.setattr(both.theirs, "interpreter", absent)
    assert both.main([]) == 0
    assert "not compared: aie4ml is not installed" in capsys.readouterr().out
