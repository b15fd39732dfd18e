"""Identity of the real R9 network's calls: fp32 on the CPU against the package in the interpreter."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path

from speed.networks import real_data

LOSS = 0.003  # of identity, that the issue allows


@dataclass(frozen=True)
class Identity:
    """Pooled identity of one set of calls with the reference genomes.

    Attributes:
        what: engine and precision.
        skipped: why there is no figure.
        value: matches over alignment columns; 0 to 1.
        unmapped: reads without an alignment.
        seconds: of calling.
    """

    what: str
    skipped: str = ""
    value: float = 0.0
    unmapped: int = 0
    seconds: float = 0.0


def identities(targets: tuple[str, ...], home: Path) -> list[Identity]:
    """The first is fp32 through ONNX Runtime, the others are fp16 packages run by the interpreter."""
    data = real_data()
    if data is None:
        return [Identity("taiyaki-mgru", skipped="no real data beside the project (RUBICC_SHARED_DATA)")]
    jobs = [("cpu", "fp32", "onnxruntime"), *((target, "fp16", "mil") for target in targets)]
    return [_called(*job, data, home) for job in jobs]


def _called(target: str, precision: str, runtime: str, data: Path, home: Path) -> Identity:
    from rubicc import api
    from rubicc.errors import RubiccError
    from rubicc.genomics.evaluate import read_sequences

    what = f"{target} {precision}, {runtime}"
    print(f"identity: {what} ...", file=sys.stderr, flush=True)
    references: dict[str, str] = {}
    for path in sorted((data / "mapped").glob("references_*.fasta")):
        references.update(read_sequences(path))
    name = what.replace(":", "-").replace(",", "").replace(" ", "-")
    try:
        model = data / "weights" / "r9_mgru_flipflop_state_dict.pt"
        own = {"runtime": runtime} if target == "cpu" else {}
        made = api.compile(
            model, out=home / name, arch="taiyaki-mgru", target=target, precision=precision, force=True, **own
        )
        start = time.perf_counter()
        calls = home / f"{name}.fastq"
        api.basecall(made.folder, [data / "mapped"], out=calls, target=target, runtime=runtime, force=True)
        took = time.perf_counter() - start
        score = api.evaluate(calls, reference=references)  # type: ignore[arg-type]
    except RubiccError as err:
        return Identity(what, skipped=str(err).splitlines()[0][:300])
    return Identity(what, "", score.pooled()["matches"], len(references) - len(score.mapped), took)
