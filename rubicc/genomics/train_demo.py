"""Train the embedded demo network on simulated signal: ``python -m rubicc.genomics.train_demo --work DIR``.

Two phases over endless, seeded, simulated chunks. The simulator knows where each base lies, so phase one
learns frame labels by cross-entropy, which converges many times faster than CTC from scratch; phase two is
plain CTC. Batch ``i`` depends on the seed and ``i`` alone, so a run that was killed resumes from its last
checkpoint and sees the chunks it would have seen.
"""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from rubicc.genomics.simulate import SimulatedRead, simulate_reads

VALIDATION_SEED = 1_000_003
TRAIN_SEED = 7


@dataclass(frozen=True)
class TrainConfig:
    """What one run is. ``chunk`` in samples, ``read_bases`` per simulated read, ``reads`` per batch."""

    label_steps: int = 1500
    ctc_steps: int = 2000
    label_lr: float = 3e-3
    ctc_lr: float = 1.5e-3
    warmup: int = 100
    weight_decay: float = 0.01
    clip: float = 2.0
    chunk: int = 1200
    read_bases: int = 1050
    reads: int = 8
    seed: int = TRAIN_SEED
    bf16: bool = True


def normalise(read: SimulatedRead) -> np.ndarray:
    """Whole-read med/MAD, as the model's metadata demands at inference."""
    x = read.picoampere()
    median = np.median(x)
    return (x - median) / np.float32(1.4826 * np.median(np.abs(x - median)))


def make_batch(config: TrainConfig, step: int, stride: int) -> dict[str, torch.Tensor]:
    """Chunks of batch ``step``: ``signal`` (N, 1, chunk), ``labels`` (N, frames), ``targets``, ``lengths``.

    A frame carries a base's label when that base begins in it (the moment the signal shows); CTC targets are
    the bases whose dwell lies entirely inside the chunk.
    """
    reads = simulate_reads(config.reads, config.seed * 1_000_000 + step, config.read_bases)
    frames = config.chunk // stride
    signal, labels, targets, lengths = [], [], [], []
    for read in reads:
        x, edges = normalise(read), read.ref_to_signal
        begin = edges[:-1]
        offset = int(step * 7919) % stride
        for start in range(offset, len(x) - config.chunk + 1, config.chunk):
            inside = (begin >= start) & (begin < start + config.chunk)
            label = np.zeros(frames, np.int64)
            label[(begin[inside] - start) // stride] = read.reference[inside]
            whole = (edges[:-1] >= start) & (edges[1:] <= start + config.chunk)
            signal.append(x[start : start + config.chunk])
            labels.append(label)
            targets.append(read.reference[whole])
            lengths.append(int(whole.sum()))
    return {
        "signal": torch.from_numpy(np.stack(signal)[:, None]),
        "labels": torch.from_numpy(np.stack(labels)),
        "targets": torch.from_numpy(np.concatenate(targets).astype(np.int64)),
        "lengths": torch.tensor(lengths),
    }


def label_loss(log_probs: torch.Tensor, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Cross-entropy of frame labels; ``log_probs`` (T, N, C)."""
    return F.nll_loss(log_probs.permute(1, 2, 0), batch["labels"])


def ctc_loss(log_probs: torch.Tensor, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """CTC, mean over the batch of the loss per base."""
    frames = torch.full((log_probs.shape[1],), log_probs.shape[0])
    return F.ctc_loss(log_probs, batch["targets"], frames, batch["lengths"], zero_infinity=True)


def learning_rate(step: int, total: int, peak: float, warmup: int) -> float:
    """Linear warm-up, then cosine to 1 % of ``peak``."""
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = (step - warmup) / max(total - warmup, 1)
    return peak * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress)))


def greedy_identity(model: torch.nn.Module, reads: list[SimulatedRead]) -> float:
    """Mean edlib identity (matches / alignment columns, end to end) of greedy calls."""
    import edlib

    scores = []
    model.eval()
    with torch.inference_mode():
        for read in reads:
            best = model(torch.from_numpy(normalise(read))[None, None])[:, 0].argmax(1).numpy()
            keep = (best > 0) & np.concatenate([[True], best[1:] != best[:-1]])
            call = "".join("NACGT"[b] for b in best[keep])
            path = edlib.align(call, read.sequence, mode="NW", task="path")
            nice = edlib.getNiceAlignment(path, call, read.sequence)["matched_aligned"]
            scores.append(nice.count("|") / len(nice))
    model.train()
    return float(np.mean(scores))


def train(
    model: torch.nn.Module, stride: int, config: TrainConfig, work: Path, log: Callable[[str], None] = print
) -> None:
    """Run both phases, resuming from ``work/state.pt`` when it is there. ``model`` is trained in place."""
    optimiser = torch.optim.AdamW(model.parameters(), lr=config.label_lr, weight_decay=config.weight_decay)
    state_file = work / "state.pt"
    first = _resume(model, optimiser, state_file)
    total = config.label_steps + config.ctc_steps
    held_out = simulate_reads(4, VALIDATION_SEED, 1500)
    model.train()
    began, shown = time.perf_counter(), first
    for step in range(first, total):
        loss = _step(model, optimiser, stride, config, step)
        if (step + 1) % 50 == 0 or step + 1 == total:
            rate = (time.perf_counter() - began) / (step + 1 - shown)
            line = f"step {step + 1}/{total} loss {loss:.4f} {rate:.3f} s/step"
            began, shown = time.perf_counter(), step + 1
            if (step + 1) % 250 == 0 or step + 1 == total:
                line += f" identity {greedy_identity(model, held_out):.4f}"
                _save_state(model, optimiser, state_file, step + 1)
            log(line)
    model.eval()


def _step(
    model: torch.nn.Module,
    optimiser: torch.optim.Optimizer,
    stride: int,
    config: TrainConfig,
    step: int,
) -> float:
    in_labels = step < config.label_steps
    if in_labels:
        rate = learning_rate(step, config.label_steps, config.label_lr, config.warmup)
    else:
        rate = learning_rate(step - config.label_steps, config.ctc_steps, config.ctc_lr, config.warmup)
    for group in optimiser.param_groups:
        group["lr"] = rate
    batch = make_batch(config, step, stride)
    half = torch.autocast("cpu", torch.bfloat16) if config.bf16 else contextlib.nullcontext()
    with half:
        log_probs = model(batch["signal"])
    loss = (label_loss if in_labels else ctc_loss)(log_probs.float(), batch)
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip)
    optimiser.step()
    return float(loss.detach())


def _resume(model: torch.nn.Module, optimiser: torch.optim.Optimizer, path: Path) -> int:
    if not path.exists():
        return 0
    state: dict[str, Any] = torch.load(path, weights_only=True)
    model.load_state_dict(state["model"])
    optimiser.load_state_dict(state["optimiser"])
    return int(state["step"])


def _save_state(model: torch.nn.Module, optimiser: torch.optim.Optimizer, path: Path, step: int) -> None:
    staged = path.with_suffix(".tmp")
    torch.save({"step": step, "model": model.state_dict(), "optimiser": optimiser.state_dict()}, staged)
    os.replace(staged, path)
