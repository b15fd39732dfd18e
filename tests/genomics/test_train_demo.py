from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from rubicc.errors import VerificationFailed
from rubicc.genomics import train_demo
from rubicc.genomics.simulate import simulate_reads
from rubicc.models import registry
from rubicc.models.ctc_config import BlockSpec, CtcConfig

TINY = CtcConfig(blocks=(BlockSpec(8, 9, stride=3, separable=False, dropout=0.0),))
CONFIG = train_demo.TrainConfig(
    label_steps=4, ctc_steps=3, warmup=2, chunk=300, read_bases=120, reads=2, bf16=False
)


def tiny() -> torch.nn.Module:
    return registry.get("demo-ctc").build(TINY, seed=1)


def test_batches_are_reproducible_and_true() -> None:
    a, b = (train_demo.make_batch(CONFIG, 5, 3) for _ in range(2))
    assert all(torch.equal(a[key], b[key]) for key in a)
    other = train_demo.make_batch(CONFIG, 6, 3)
    assert not torch.equal(a["signal"][0], other["signal"][0])
    count, _, samples = a["signal"].shape
    assert samples == 300 and a["labels"].shape == (count, 100)
    assert a["targets"].shape[0] == int(a["lengths"].sum())
    # Frame labels, read in order, contain the CTC targets of the chunk: ends may add a base that is cut.
    labels = a["labels"][0]
    seen = "".join("ACGT"[c - 1] for c in labels[labels > 0].tolist())
    first = "".join("ACGT"[c - 1] for c in a["targets"][: int(a["lengths"][0])].tolist())
    assert abs(len(seen) - len(first)) <= 4


def test_schedule_warms_up_and_decays() -> None:
    rates = [train_demo.learning_rate(step, 100, 1.0, 10) for step in range(100)]
    assert rates[0] == pytest.approx(0.1) and max(rates) == pytest.approx(1.0)
    assert rates[9] <= rates[10] >= rates[11] and rates[-1] == pytest.approx(0.01, abs=0.002)


def test_a_killed_run_resumes_to_the_same_weights(tmp_path: Path) -> None:
    whole = tiny()
    (tmp_path / "a").mkdir()
    train_demo.train(whole, 3, CONFIG, tmp_path / "a", lambda _: None)

    (tmp_path / "b").mkdir()
    first = tiny()
    # Killed after five steps, inside the CTC phase: the schedule still is that of the whole run.
    optimiser = torch.optim.AdamW(first.parameters(), lr=CONFIG.label_lr, weight_decay=CONFIG.weight_decay)
    first.train()
    for step in range(5):
        train_demo._step(first, optimiser, 3, CONFIG, step)
    train_demo._save_state(first, optimiser, tmp_path / "b" / "state.pt", 5)
    second = tiny()
    train_demo.train(second, 3, CONFIG, tmp_path / "b", lambda _: None)
    for key, value in whole.state_dict().items():
        assert torch.allclose(value, second.state_dict()[key], atol=1e-6), key


def test_a_few_label_steps_lower_the_loss(tmp_path: Path) -> None:
    model, config = tiny(), replace(CONFIG, label_steps=100, ctc_steps=0)
    optimiser = torch.optim.AdamW(model.parameters())
    model.train()
    losses = [train_demo._step(model, optimiser, 3, config, step) for step in range(100)]
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:5])


def test_an_untrained_network_is_not_written(tmp_path: Path) -> None:
    entry = registry.get("demo-ctc")
    reads = simulate_reads(1, 5, 300)
    assert train_demo.greedy_identity(tiny().eval(), reads) < 0.7
    with pytest.raises(Exception, match=r"RUB-GEN-20[56]") as caught:
        train_demo.finish(entry.build(seed=0), entry.meta(), tmp_path / "out")
    assert isinstance(caught.value, VerificationFailed) or caught.value.code == "RUB-GEN-205"  # type: ignore[attr-defined]
    assert not (tmp_path / "out").exists()
