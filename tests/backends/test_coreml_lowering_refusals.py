"""What is refused, where, why, and which target would take it; nothing is written halfway."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from coreml_graphs import Build, compiled, net, node, normal
from onnx import TensorProto

from rubicc.backends.base import Finding
from rubicc.backends.coreml import tools
from rubicc.backends.coreml.lowering import findings, lower, supported
from rubicc.backends.coreml.lowering.codes import CODES
from rubicc.backends.coreml.lowering.context import Context
from rubicc.errors import Unsupported

X = normal(2, 3, 8)

FORMS: dict[str, Callable[[Build], Any]] = {
    "dilated MaxPool": lambda b: b("MaxPool", "x", kernel_shape=[2], dilations=[2]),
    "MaxPool whose indices are used": lambda b: b(
        "Cast", b("MaxPool", "x", kernel_shape=[2], outputs=2)[1], to=1
    ),
    "rounds up (ceil_mode) with uneven padding": lambda b: b(
        "MaxPool", "x", kernel_shape=[3], strides=[2], ceil_mode=1, pads=[0, 1]
    ),
    "negative padding": lambda b: b("Conv", "x", normal(2, 3, 3), pads=[-1, 0]),
    "wanted output shape": lambda b: b("ConvTranspose", "x", normal(3, 2, 3), output_shape=[12]),
    "output padding exceeds": lambda b: b(
        "ConvTranspose", "x", normal(3, 2, 3), strides=[2], output_padding=[1]
    ),
    "Pad in mode wrap": lambda b: b("Pad", "x", np.array([0, 0, 1, 0, 0, 1]), mode="wrap"),
    "Pad with negative amounts": lambda b: b("Pad", "x", np.array([0, 0, -1, 0, 0, 0])),
    "other than the last two axes": lambda b: b("Pad", "x", np.array([1, 0, 0, 0, 0, 0]), mode="reflect"),
    "sign of the dividend": lambda b: b("Mod", "x", np.float32(2), fmod=1),
    "leaves the main diagonal out": lambda b: b("Trilu", "x", np.array(1), upper=1),
    "last of equal values": lambda b: b("ArgMax", "x", axis=1, select_last_index=1),
    "ellipsis": lambda b: b("Einsum", "x", "x", equation="...i,...i->..."),
    "more than two operands": lambda b: b("Einsum", "x", "x", "x", equation="abc,abc,abc->a"),
    "different lengths": lambda b: b(
        "GRU",
        "x",
        normal(1, 6, 8),
        normal(1, 6, 2),
        None,
        np.array([2, 1, 2], np.int32),
        hidden_size=2,
        outputs=2,
    ),
    "no single numbers": lambda b: b("Clip", "x", b("Relu", "x")),
    "mean or deviation is used": lambda b: b("LayerNormalization", "x", np.float32(8 * [1]), outputs=3),
    "the repeats of Tile": lambda b: b("Tile", "x", b("Cast", b("Abs", b("Sign", "n")), to=7)),
    "kernel of ConvTranspose": lambda b: b("ConvTranspose", "x", b("Relu", "x")),
    "smaller than the data": lambda b: b("GatherElements", "x", np.array([[[0, 1]]]), axis=2),
    "indices from the end": lambda b: b("GatherND", "x", np.array([[-1, 0]])),
    "the scale of LayerNormalization": lambda b: b("LayerNormalization", "x", b("Relu", "g")),
}


@pytest.mark.parametrize("reason", FORMS)
def test_forms_that_mil_cannot_express(reason: str) -> None:
    b = Build(x=X, n=np.float32([1, 2, 3]), g=normal(8))
    FORMS[reason](b)
    found = [row for row in findings(b.graph()) if reason in row.reason]
    assert found and {row.rule for row in found} <= {"RUB-COREML-103", "RUB-COREML-104"}
    assert all(row.source.startswith("net.") and row.remedy for row in found)


@pytest.mark.parametrize("op", ["LpNormalization", "NonZero", "DynamicQuantizeLinear"])
def test_unknown_operators_name_the_module(op: str) -> None:
    b = Build(x=X)
    b("Relu", "x")
    b(op, "x", outputs=3 if op.startswith("Dynamic") else 1)
    (row,) = findings(b.graph())
    assert (row.rule, row.severity) == ("RUB-COREML-101", "error") and op in row.reason
    assert row.source.startswith(f"net.{op.lower()}")


def test_more_than_five_axes() -> None:
    b = Build(x=X)
    b("Reshape", "x", np.array([1, 2, 1, 3, 2, 4]))
    assert [row.rule for row in findings(b.graph())] == ["RUB-COREML-104"]
    wide = Build(x=normal(1, 1, 1, 1, 1, 2))
    wide("Squeeze", "x", np.array([0, 1]))
    (row,) = findings(wide.graph())
    assert row.rule == "RUB-COREML-104" and row.node == "x" and "1 to 5" in row.reason


def test_element_types_without_a_form() -> None:
    graph = net([node("Identity", "x", "y")], {"x": (2, 2)}, types=dict.fromkeys("xy", TensorProto.COMPLEX64))
    rows = findings(graph)
    assert {row.rule for row in rows} == {"RUB-COREML-105"} and any("complex64" in row.reason for row in rows)


def three_faults() -> Build:
    b = Build(x=X)
    b("NonZero", "x")
    b("MaxPool", "x", kernel_shape=[2], dilations=[2])
    b("Reshape", "x", np.array([1, 2, 1, 3, 2, 4]))
    return b


def test_all_refusals_at_once_and_nothing_is_written() -> None:
    rows = findings(three_faults().graph())
    assert [row.rule for row in rows] == ["RUB-COREML-101", "RUB-COREML-103", "RUB-COREML-104"]
    assert all(isinstance(row, Finding) and row.rule in CODES for row in rows)
    with pytest.raises(Unsupported) as caught:
        lower(three_faults().graph())
    assert caught.value.findings == tuple(rows) and "(and 2 more)" in str(caught.value)


@pytest.mark.parametrize("target", ["iOS16", "iOS17"])
def test_an_operator_newer_than_the_target_names_the_target_that_has_it(
    monkeypatch: pytest.MonkeyPatch, target: str
) -> None:
    b = Build(x=normal(4, 2, 8))
    b(
        "GRU", "x", normal(1, 6, 8), normal(1, 6, 2), hidden_size=2, linear_before_reset=1,
        activations=["Sigmoid", "Relu"], outputs=2,
    )  # fmt: skip
    (row,) = findings(b.graph(), target)
    assert row.rule == "RUB-COREML-102" and "iOS18" in row.reason and "--target coreml:iOS18" in row.remedy
    assert findings(b.graph(), "iOS18") == []
    assert compiled(b.graph(), target="iOS18").gap(b.feeds) < 2e-6


def test_every_row_of_the_table_says_its_oldest_target_and_its_operations() -> None:
    rows = supported()
    assert list(rows) == sorted(rows)
    assert all(row.since in tools.OPSETS for row in rows.values())
    assert {name for name, row in rows.items() if not row.mil} == {"Identity", "Dropout"}
    assert "Gelu" in rows and "qonnx.custom_op.general::Quant" in rows


def test_the_page_of_operators_is_the_table() -> None:
    page = (Path(__file__).parents[2] / "docs" / "targets" / "coreml-operators.md").read_text("utf-8")
    table = page.partition("| operator |")[2].partition("\n\n")[0].splitlines()[2:]
    told: dict[str, tuple[str, str]] = {}
    for line in table:
        names, operations, note = (part.strip() for part in line.strip("|").split("|"))
        told |= {name.strip(): (operations.replace("nothing", ""), note) for name in names.split(",")}
    rows = {name.rpartition("::")[2]: (" ".join(row.mil), row.note) for name, row in supported().items()}
    assert told == rows


def test_a_row_newer_than_the_target_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """No operator of the table needs more than iOS16 today: one that would is made here."""
    from dataclasses import replace

    from rubicc.backends.coreml.lowering.table import CONVERTERS

    newer = replace(CONVERTERS["Erf"], row=replace(CONVERTERS["Erf"].row, since="iOS18"))
    monkeypatch.setitem(CONVERTERS, "Erf", newer)
    b = Build(x=X)
    b("Erf", "x")
    (row,) = findings(b.graph(), "iOS17")
    assert (row.rule, row.remedy) == ("RUB-COREML-102", "compile with --target coreml:iOS18")
    assert "Erf needs iOS18" in row.reason and findings(b.graph(), "iOS18") == []


@pytest.mark.parametrize("error", [ValueError("no such shape"), AssertionError(), KeyError("axis")])
def test_what_the_builder_refuses_names_the_node(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    tools.coremltools()
    from coremltools.converters.mil.mil import Builder

    def refuse(**_: Any) -> Any:
        raise error

    monkeypatch.setattr(Builder, "erf", refuse)
    b = Build(x=X)
    b("Erf", "x")
    with pytest.raises(Unsupported) as caught:
        lower(b.graph())
    assert caught.value.code == "RUB-COREML-107" and "net.erf0" in str(caught.value)
    assert (str(error) or type(error).__name__).strip("'") in str(caught.value)


def test_a_fault_of_a_converter_is_an_error_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: Context, *_: Any, **__: Any) -> Any:
        raise IndexError("tuple index out of range")

    monkeypatch.setattr(Context, "op", broken)
    b = Build(x=X)
    b("Erf", "x")
    with pytest.raises(Unsupported) as caught:
        lower(b.graph())
    assert caught.value.code == "RUB-COREML-107" and "n_erf0" in str(caught.value)


def test_asking_what_is_supported_loads_no_heavy_library() -> None:
    code = (
        "import sys; from rubicc.backends.coreml.lowering import supported; assert supported();"
        "print([name for name in ('coremltools', 'torch') if name in sys.modules])"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"
