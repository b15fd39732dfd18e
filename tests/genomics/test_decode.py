from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from rubicc.errors import UsageError
from rubicc.genomics.decode import decode, decode_read
from rubicc.spec import DecoderSpec, ModelMeta


def meta(kind: str, params: Mapping[str, float] | None = None, **spec: Any) -> ModelMeta:
    alphabet = "ACGT" if kind == "flipflop" else "NACGT"
    return ModelMeta(
        arch="custom",
        inputs=(),
        outputs=(),
        alphabet=alphabet,
        decoder=DecoderSpec(kind, params or {}, **spec),  # type: ignore[arg-type]
    )


METAS = {
    "flipflop": (meta("flipflop"), 40),
    "crf": (meta("crf", {"state_len": 2}), 80),
    "crf without stays": (meta("crf", {"state_len": 2, "blank_score": 2.0}), 64),
    "ctc beam": (meta("ctc"), 5),
    "ctc greedy": (meta("ctc", {"beam_size": 1}), 5),
}


def random_scores(columns: int, steps: int = 60, batch: int = 5, seed: int = 0) -> np.ndarray:
    z = 3 * np.random.default_rng(seed).normal(size=(steps, batch, columns))
    if columns == 5:
        z -= np.log(np.exp(z).sum(axis=2, keepdims=True))
    return z.astype(np.float32)


@pytest.mark.parametrize("name", METAS)
def test_calls_do_not_depend_on_the_batch(name: str) -> None:
    what, columns = METAS[name]
    scores = random_scores(columns)
    lengths = [60, 0, 1, 33, 60]
    calls = decode(scores, what, lengths)
    for n, length in enumerate(lengths):
        alone = decode_read(np.ascontiguousarray(scores[:length, n]), what)
        assert (alone.sequence, alone.qstring, alone.mean_q) == (
            calls[n].sequence,
            calls[n].qstring,
            calls[n].mean_q,
        )
        assert alone.moves.tolist() == calls[n].moves.tolist()
        assert len(alone.sequence) == len(alone.qstring) == alone.moves.sum()
        assert alone.moves.shape == (length,)
        assert set(alone.sequence) <= set("ACGT")
    reverse = decode(scores[:, ::-1], what, lengths[::-1])[::-1]
    assert [c.sequence for c in reverse] == [c.sequence for c in calls]
    assert calls[1].sequence == "" and calls[1].mean_q == 0.0


@pytest.mark.parametrize("name", METAS)
def test_half_precision_scores_are_taken(name: str) -> None:
    what, columns = METAS[name]
    scores = random_scores(columns).astype(np.float16)
    assert decode(scores, what)[0].sequence == decode(scores.astype(np.float32), what)[0].sequence


@pytest.mark.parametrize("name", METAS)
def test_threads_give_the_same_calls(name: str) -> None:
    what, columns = METAS[name]
    scores = random_scores(columns, steps=300, batch=8)
    with ThreadPoolExecutor(4) as pool:
        threaded = list(pool.map(lambda n: decode_read(scores[:, n], what).qstring, range(8)))
    assert threaded == [call.qstring for call in decode(scores, what)]


def test_calibration_moves_the_qualities_and_not_the_bases() -> None:
    scores = random_scores(40)
    plain = decode(scores, meta("flipflop"))[0]
    shifted = decode(scores, meta("flipflop", qscale=0.5, qbias=9.0))[0]
    assert plain.sequence == shifted.sequence
    assert plain.qstring != shifted.qstring
    assert min(shifted.qstring) >= chr(33 + 9)


def test_alphabet_of_the_model_is_used() -> None:
    scores = random_scores(5, batch=1)
    what = METAS["ctc beam"][0]
    rna = ModelMeta("custom", (), (), alphabet="NACGU", decoder=what.decoder)
    assert decode(scores, rna)[0].sequence == decode(scores, what)[0].sequence.replace("T", "U")


@pytest.mark.parametrize(
    ("scores", "what", "text"),
    [
        (np.zeros((4, 1, 39), np.float32), METAS["flipflop"][0], "39 score columns.*40"),
        (np.zeros((4, 1, 81), np.float32), METAS["crf"][0], "80 or 64"),
        (np.zeros((4, 1, 6), np.float32), METAS["ctc beam"][0], "6 score columns"),
        (np.zeros((4, 5), np.float32), METAS["ctc beam"][0], "rank 2"),
        (np.zeros((4, 1, 5), np.float32), meta("ctc", {"beam": 5}), "no parameter.*beam"),
        (np.zeros((4, 1, 5), np.float32), ModelMeta("custom", (), ()), "no decoder"),
        (np.zeros((4, 1, 80), np.float32), meta("crf"), "state_len"),
        (np.zeros((4, 1, 80), np.float32), meta("crf", {"state_len": 2.5}), "state_len"),
        (np.zeros((4, 1, 5), np.float32), meta("ctc", {"beam_cut": 0.3}), "beam_cut"),
    ],
)
def test_misfits_are_refused(scores: np.ndarray, what: ModelMeta, text: str) -> None:
    with pytest.raises(UsageError, match=rf"RUB-GEN-203.*{text}"):
        decode(scores, what)


def test_flipflop_needs_four_letters() -> None:
    what = ModelMeta("custom", (), (), alphabet="NACGT", decoder=DecoderSpec("flipflop"))
    with pytest.raises(UsageError, match=r"RUB-GEN-203.*four"):
        decode(np.zeros((4, 1, 40), np.float32), what)


@pytest.mark.parametrize("lengths", [[1, 2], [9], [-1]])
def test_bad_lengths_are_refused(lengths: list[int]) -> None:
    with pytest.raises(UsageError, match=r"RUB-GEN-203.*lengths"):
        decode(np.zeros((4, 1, 40), np.float32), METAS["flipflop"][0], lengths)


def test_importing_the_dispatch_is_light() -> None:
    code = (
        "import sys, rubicc.genomics.decode; "
        "print([m for m in ('numba', 'torch', 'fast_ctc_decode', 'edlib') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
