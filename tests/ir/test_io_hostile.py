"""Every hostile or malformed file is refused with its own code, quickly, and touches nothing outside."""

from __future__ import annotations

import resource

import numpy as np
import pytest
from hostile_onnx import CORPUS, model, write
from ir_graphs import conv_quant

from rubicc.errors import ModelRefused
from rubicc.ir.codes import CODES
from rubicc.ir.io import load_graph
from rubicc.ir.verify import broken_rules


@pytest.mark.parametrize("name", sorted(CORPUS))
def test_refused_with_its_code(name, tmp_path, recwarn):
    writer, code = CORPUS[name]
    canary = tmp_path / "canary.txt"
    canary.write_bytes(b"SECRET-SECRET-SECRET")
    folder = tmp_path / "model"
    folder.mkdir()
    path = writer(folder)
    before = sorted(p.name for p in tmp_path.rglob("*"))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ModelRefused) as refusal:
        load_graph(path)
    assert refusal.value.code == code, str(refusal.value)
    assert refusal.value.exit_code == 3
    assert refusal.value.what and "SECRET" not in str(refusal.value)
    assert code in CODES
    assert sorted(p.name for p in tmp_path.rglob("*")) == before
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < 600 << 10, "memory grew by 600 MB"


def test_the_unbroken_model_is_read(tmp_path):
    """The corpus starts from this model; were it refused, the refusals above would prove nothing."""
    assert load_graph(write(tmp_path, model())).op_counts() == {"Relu": 1}


def test_damaged_files_are_read_or_refused(tmp_path):
    """Random damage to a legal file: flipped, dropped, doubled bytes. Nothing but a refusal may come out."""
    whole = bytearray(conv_quant().to_proto().SerializeToString())
    rng = np.random.default_rng(0)
    path, refused = tmp_path / "m.onnx", 0
    for _ in range(500):
        data = bytearray(whole)
        for _ in range(int(rng.integers(1, 4))):
            at, kind = int(rng.integers(len(data))), int(rng.integers(3))
            if kind == 0:
                data[at] = int(rng.integers(256))
            elif kind == 1:
                del data[at : at + int(rng.integers(1, 9))]
            else:
                data[at:at] = data[at : at + int(rng.integers(1, 9))]
        path.write_bytes(data)
        try:
            broken_rules(load_graph(path))
        except ModelRefused as refusal:
            refused += 1
            assert refusal.code in CODES
    assert 200 < refused < 500


def test_corpus_is_wide():
    assert len(CORPUS) >= 60
    assert {code for _, code in CORPUS.values()} == {f"RUB-IR-0{n}" for n in range(40, 49)}
