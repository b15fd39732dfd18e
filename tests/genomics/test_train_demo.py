from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from rubicc.errors import VerificationFailed
from rubicc.genomics import train_demo
from rubicc.genomics.normalise import normalise
from rubicc.genomics.reads import Read
from rubicc.genomics.simulate import simulate_reads
from rubicc.models import registry
from rubicc.models.ctc_config import BlockSpec, CtcConfig
from rubicc.spec import ModelMeta
from rubicc.training.data.simulated import SimulatedSet
from rubicc.training.history import STEPS, StepRow, read_rows
from rubicc.training.objective import Objective

TINY = CtcConfig(blocks=(BlockSpec(8, 9, stride=3, separable=False, dropout=0.0),))
CONFIG = train_demo.TrainConfig(
    label_steps=4, ctc_steps=3, warmup=2, chunk=300, read_bases=120, batch=4, bf16=False
)


def tiny() -> tuple[torch.nn.Module, ModelMeta]:
    entry = registry.get("demo-ctc")
    return entry.build(TINY, seed=1), entry.meta(TINY)


def test_labels_and_targets_of_a_chunk_agree() -> None:
    data = SimulatedSet(Objective.of(tiny()[1]), 300, bases=120, labels=True)
    for position in range(6):
        item = data.item(position, 7)
        assert item.labels is not None and item.target is not None
        assert item.feeds["x"].shape == (1, 300) and item.labels.shape == (100,)
        # Frame labels, read in order, contain the CTC targets of the chunk: ends may add a base that is cut.
        seen = "".join("ACGT"[c - 1] for c in item.labels[item.labels > 0])
        whole = "".join("ACGT"[c - 1] for c in item.target)
        assert abs(len(seen) - len(whole)) <= 4
        assert whole[2:8] in seen or len(set(seen)) < 4


def test_phases_run_one_after_the_other_and_are_not_run_again(tmp_path: Path) -> None:
    model, meta = tiny()
    train_demo.train(model, meta, CONFIG, tmp_path)
    labels, ctc = (read_rows(tmp_path / name / STEPS, StepRow) for name in ("labels", "ctc"))
    assert (len(labels), len(ctc)) == (4, 3)
    again, _ = tiny()
    train_demo.train(again, meta, CONFIG, tmp_path)
    for key, value in model.state_dict().items():
        assert torch.equal(value, again.state_dict()[key]), key


def test_a_few_label_steps_lower_the_loss(tmp_path: Path) -> None:
    model, meta = tiny()
    train_demo.train(model, meta, replace(CONFIG, label_steps=100, ctc_steps=1), tmp_path)
    losses = [row.loss for row in read_rows(tmp_path / "labels" / STEPS, StepRow)]
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:5])


def test_its_normalisation_is_that_of_inference() -> None:
    (read,) = simulate_reads(1, 5, 300)
    raw = Read(read.read_id, read.dac, read.offset, read.range / read.digitisation, read.sampling_rate)
    signal = tiny()[1].signal
    assert signal is not None and np.abs(normalise(raw, signal) - train_demo.normalise(read)).max() < 1e-4


def test_an_untrained_network_is_not_written(tmp_path: Path) -> None:
    entry = registry.get("demo-ctc")
    with pytest.raises(Exception, match=r"RUB-GEN-20[56]") as caught:
        train_demo.finish(entry.build(seed=0), entry.meta(), tmp_path / "out")
    assert isinstance(caught.value, VerificationFailed) or caught.value.code == "RUB-GEN-205"  # type: ignore[attr-defined]
