"""Train the embedded demo network on simulated signal: ``python -m rubicc.genomics.train_demo --work DIR``.

Two phases of :mod:`rubicc.training` over endless simulated chunks. The simulator knows where each base lies,
so phase one learns frame labels by cross-entropy, which converges many times faster than CTC from scratch;
phase two is plain CTC. A run that was killed goes on bit for bit.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from rubicc.errors import VerificationFailed
from rubicc.genomics.calibrate import Evidence, calibrate, evidence
from rubicc.genomics.ctc import beam
from rubicc.genomics.simulate import SimulatedRead, simulate_reads, write_reads
from rubicc.spec import ModelMeta
from rubicc.training.data.simulated import SimulatedSet
from rubicc.training.lessons import Lesson
from rubicc.training.loop import Watcher, fit
from rubicc.training.network import Network
from rubicc.training.objective import Objective
from rubicc.training.progress import Lines
from rubicc.training.scoring import validation_items
from rubicc.training.settings import TrainSettings

ARCH = "demo-ctc"
# Of the streams of training; all others must lie elsewhere.
TRAIN_SEED = 7
CALIBRATION_SEED, TEST_SEED, DEMO_SEED = 2_000_003, 3_000_017, 4_000_037
TARGET_IDENTITY = 0.90


@dataclass(frozen=True)
class TrainConfig:
    """What one run is. ``chunk`` in samples, ``read_bases`` per simulated read, ``batch`` in chunks."""

    label_steps: int = 1500
    ctc_steps: int = 1250
    label_lr: float = 3e-3
    ctc_lr: float = 1.5e-3
    warmup: int = 100
    weight_decay: float = 0.01
    clip: float = 2.0
    chunk: int = 1200
    read_bases: int = 1050
    batch: int = 60
    seed: int = TRAIN_SEED
    bf16: bool = True


def normalise(read: SimulatedRead) -> np.ndarray:
    """Whole-read med/MAD, as the model's metadata demands at inference."""
    x = read.picoampere()
    median = np.median(x)
    return (x - median) / np.float32(1.4826 * np.median(np.abs(x - median)))


def train(
    model: torch.nn.Module, meta: ModelMeta, config: TrainConfig, work: Path, watcher: Watcher | None = None
) -> None:
    """Run both phases, going on where a killed run stopped. ``model`` is trained in place."""
    objective = Objective.of(meta)
    for name, steps, lr in (
        ("labels", config.label_steps, config.label_lr),
        ("ctc", config.ctc_steps, config.ctc_lr),
    ):
        settings = TrainSettings(
            steps=steps,
            batch=config.batch,
            chunk=config.chunk,
            lr=lr,
            warmup=config.warmup,
            weight_decay=config.weight_decay,
            clip=config.clip,
            bf16=config.bf16,
            seed=config.seed,
            device="cpu",
        )
        data = SimulatedSet(objective, config.chunk, bases=config.read_bases, labels=name == "labels")
        fit(
            Network(model, meta),
            data,
            Lesson(objective, settings),
            settings,
            state=work / name,
            validation=validation_items(data, settings.validation_items),
            watcher=watcher,
        )


def calls(model: torch.nn.Module, reads: list[SimulatedRead]) -> list[Evidence | None]:
    """Whole-read beam calls of ``reads``, aligned to their truth; ``None`` for a call that does not align."""
    found = []
    with torch.inference_mode():
        for read in reads:
            log_probs = model(torch.from_numpy(normalise(read))[None, None])[:, 0].numpy()
            found.append(evidence(beam(log_probs), "ACGT", read.sequence))
    return found


def mean_identity(found: list[Evidence | None]) -> float:
    """Mean identity; a call that does not align counts 0."""
    return float(np.mean([0.0 if call is None else call.identity for call in found]))


def finish(
    model: torch.nn.Module, meta: ModelMeta, out: Path, log: Callable[[str], None] = print
) -> ModelMeta:
    """Calibrate qualities, test on genomes never seen, write checkpoint, demo reads and reference to ``out``.

    Raises:
        VerificationFailed: ``RUB-GEN-206`` when held-out identity is below 0.90; nothing is written.
    """
    from rubicc.frontend import checkpoint

    assert meta.decoder is not None
    fitted = calibrate(calls(model, simulate_reads(20, CALIBRATION_SEED, 1500)))
    held_out = calls(model, simulate_reads(20, TEST_SEED, (500, 3000)))
    identity = mean_identity(held_out)
    predicted = np.mean([c.predicted(fitted.qscale, fitted.qbias) for c in held_out if c is not None])
    log(f"held-out identity {identity:.4f}, 1 - mean predicted error {1 - predicted:.4f}, {fitted}")
    if identity < TARGET_IDENTITY:
        raise VerificationFailed(
            "RUB-GEN-206",
            f"held-out identity {identity:.4f} is below {TARGET_IDENTITY}",
            hint="train for more steps",
        )
    meta = replace(meta, decoder=replace(meta.decoder, qscale=fitted.qscale, qbias=fitted.qbias))
    genome = "".join("ACGT"[code] for code in np.random.default_rng(DEMO_SEED).integers(0, 4, 12_000))
    out.mkdir(parents=True, exist_ok=True)
    checkpoint.save(out / "demo_ctc.pt", model, meta)
    write_reads(out / "demo_reads.npz", simulate_reads(10, DEMO_SEED, (1000, 2500), genome=genome))
    lines = [genome[i : i + 80] for i in range(0, len(genome), 80)]
    (out / "demo_reference.fasta").write_text(">demo_genome simulated\n" + "\n".join(lines) + "\n")
    return meta


def main(argv: list[str] | None = None) -> None:
    """Command line: train (or resume) in ``--work``, then write the three demo files to ``--out``."""
    from rubicc.models import registry

    parser = argparse.ArgumentParser(prog="python -m rubicc.genomics.train_demo", description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="folder of the resumable state")
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "data", help="demo files")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--label-steps", type=int, default=TrainConfig.label_steps)
    parser.add_argument("--ctc-steps", type=int, default=TrainConfig.ctc_steps)
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    args.work.mkdir(parents=True, exist_ok=True)
    entry = registry.get(ARCH)
    config = TrainConfig(label_steps=args.label_steps, ctc_steps=args.ctc_steps)
    model, meta = entry.build(seed=config.seed), entry.meta()
    train(model, meta, config, args.work, Lines())
    finish(model, meta, args.out)


if __name__ == "__main__":
    main()
