"""Legal graphs pass; for every rule there is a graph that breaks it and no other."""

from __future__ import annotations

import onnx_ir as ir
import pytest
from ir_graphs import conv_quant
from verify_mutants import MUTANTS, batch_norm, convolution, linear, lstm, quantiser, small, with_weight

from rubicc.errors import VerificationFailed
from rubicc.ir.codes import CODES
from rubicc.ir.verify import RULES, broken_rules, verify

CASES = [(code, make) for code, makes in sorted(MUTANTS.items()) for make in makes]


@pytest.mark.parametrize(("code", "make"), CASES, ids=[f"{c}-{m.__name__}" for c, m in CASES])
def test_mutant_breaks_its_rule_and_no_other(code, make):
    found = {b.rule for b in broken_rules(make())}
    assert found == {code}
    with pytest.raises(VerificationFailed) as error:
        verify(make())
    assert error.value.code == code and error.value.exit_code == 5 and error.value.where


def test_every_rule_has_a_mutant_and_a_catalogue_entry():
    assert {rule.id for rule in RULES} == set(MUTANTS)
    assert {rule.id for rule in RULES} <= set(CODES)
    assert len({rule.id for rule in RULES}) == len(RULES)


@pytest.mark.parametrize(
    "make",
    [conv_quant, small, with_weight, convolution, lstm, quantiser, linear, lambda: batch_norm([1, 2, 0, 1])],
)
def test_legal_graphs_pass(make):
    g = make()
    for value in g.outputs:
        if value.shape is None:
            value.shape = ir.Shape([2, 4])
    assert broken_rules(g) == []


def test_all_broken_rules_are_listed():
    g = quantiser(scale=-1.0, bits=0.5, rounding_mode="X")
    with pytest.raises(VerificationFailed) as error:
        verify(g)
    assert all(part in str(error.value) for part in ("3 findings", "scale", "bit width", "rounding mode"))
