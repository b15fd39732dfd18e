"""Identity of calls: the same reads through our fp32 artefact and through the best one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from speed.baselines import Refused
from speed.networks import real_data
from speed.ours import recorded
from speed.results import Identity

HELD_OUT_SEED = 5_000_011  # of no training, validation or calibration read of the demo network
HELD_OUT_READS, HELD_OUT_BASES = 24, (500, 3000)
CALIBRATION_SEED = 6_000_011

Compile = Callable[[Path, str, str, Path], Path]  # (model, architecture or "", precision, calibration)


def identities(compile_model: Compile, home: Path, precision: str) -> list[Identity]:
    """The real network on real reads, and our own trained one on simulated reads it has never seen."""
    return [_mgru(compile_model, home, precision), _demo(compile_model, home, precision)]


def _mgru(compile_model: Compile, home: Path, precision: str) -> Identity:
    name, reads = "taiyaki-mgru", "the seven mapped R9.4.1 reads"
    data = real_data()
    if data is None:
        return Identity(name, reads, skipped="no real data beside the project (RUBICC_SHARED_DATA)")
    model = data / "weights" / "r9_mgru_flipflop_state_dict.pt"
    references: dict[str, str] = {}
    from rubicc.genomics.evaluate import read_sequences

    for path in sorted((data / "mapped").glob("references_*.fasta")):
        references.update(read_sequences(path))
    # Reads of the same chemistry, none of them among those that are judged.
    calibration = data / "r9_reads" / "multi_r9_lsk108.fast5"
    return _compared(
        name, reads, model, name, data / "mapped", references, calibration, compile_model, home, precision
    )


def _demo(compile_model: Compile, home: Path, precision: str) -> Identity:
    from importlib.resources import files

    from rubicc.genomics.simulate import simulate_reads, write_reads

    held_out = simulate_reads(HELD_OUT_READS, HELD_OUT_SEED, HELD_OUT_BASES)
    reads, calibration = home / "held-out.npz", home / "demo-calib.npz"
    write_reads(reads, held_out)
    write_reads(calibration, simulate_reads(8, CALIBRATION_SEED, 2000))
    references = {read.read_id: read.sequence for read in held_out}
    model = Path(str(files("rubicc") / "data" / "demo_ctc.pt"))
    title = f"{HELD_OUT_READS} simulated held-out reads"
    return _compared(
        "demo-ctc", title, model, "", reads, references, calibration, compile_model, home, precision
    )


def _compared(
    name: str,
    title: str,
    model: Path,
    arch: str,
    reads: Path,
    references: dict[str, str],
    calibration: Path,
    compile_model: Compile,
    home: Path,
    best: str,
) -> Identity:
    from rubicc import api

    found: dict[str, float] = {}
    missing, detail = 0, ""
    try:
        for precision in ("fp32", best):
            artefact = compile_model(model, arch, precision, calibration)
            calls = home / f"{name}-{precision}.fastq"
            api.basecall(artefact, [reads], out=calls, target="cpu", force=True)
            score = api.evaluate(calls, reference=references)  # type: ignore[arg-type]
            found[precision] = score.pooled()["matches"]
            missing, detail = len(references) - len(score.mapped), recorded(artefact)
    except Refused as err:
        return Identity(name, title, skipped=str(err))
    return Identity(name, title, found["fp32"], found[best], detail, missing)
