"""The main job on embedded data: compile, prove, call, evaluate; no file of the user's is needed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rubicc.driver.artefact import Artefact
from rubicc.errors import OutputExists, UsageError
from rubicc.settings import Settings

if TYPE_CHECKING:
    from rubicc.genomics.evaluate import Evaluation
    from rubicc.genomics.settings import BasecallSummary

MODEL, READS, REFERENCE = "demo_ctc.pt", "demo_reads.npz", "demo_reference.fasta"
ARTEFACT, CALLS = "artefact", "calls.fastq"


@dataclass(frozen=True)
class Demo:
    """What the demo made. The network is trained on simulated signal and reads simulated reads."""

    artefact: Artefact
    summary: BasecallSummary
    evaluation: Evaluation

    @property
    def report(self) -> Path:
        """Where the HTML report lies."""
        return self.artefact.folder / "report.html"


def run_demo(out: Path, settings: Settings, progress: Any = None) -> Demo:
    """Compile the embedded basecaller into ``out/artefact`` and call the embedded reads into ``out``.

    Args:
        out: created if missing; must otherwise hold nothing but an earlier demo.

    Raises:
        OutputExists: ``RUB-DRV-009`` the folder holds something else.
    """
    from rubicc import api

    _usable(out)
    with embedded(MODEL) as model, embedded(READS) as reads, embedded(REFERENCE) as reference:
        settings = settings.with_values("demo", force=True)
        artefact = api.compile(model, out=out / ARTEFACT, settings=settings)
        calls = out / CALLS
        summary = api.basecall(artefact.folder, [reads], out=calls, settings=settings, progress=progress)
        return Demo(artefact, summary, api.evaluate(calls, reference=reference))


@contextlib.contextmanager
def embedded(name: str) -> Iterator[Path]:
    """A file of ``rubicc/data`` on disk (packages may live inside a zip)."""
    with as_file(files("rubicc") / "data" / name) as path:
        yield path


def _usable(out: Path) -> None:
    try:
        out.mkdir(exist_ok=True)
        present = {path.name for path in out.iterdir() if not path.name.startswith(".")}
    except OSError as err:
        raise UsageError("RUB-DRV-010", f"cannot be written: {err.strerror}", where=str(out)) from err
    foreign = sorted(present - {ARTEFACT, CALLS, f"{CALLS}.partial"})
    if foreign:
        raise OutputExists(
            "RUB-DRV-009",
            f"holds {foreign[0]!r}, which the demo did not write",
            where=str(out),
            hint="give an empty or new folder with -o",
        )
