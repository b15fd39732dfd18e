"""One compilation in a process of its own: seconds, peak memory, sizes, gaps, operations."""

from __future__ import annotations

import json
import math
import resource
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from coreml_bench.cases import Case

MIB = 1 << 20


@dataclass(frozen=True)
class Compilation:
    """What one ``rubicc compile --target coreml`` took and gave.

    Attributes:
        error: rubicc's refusal; empty when it compiled.
        seconds: from the call to the proven artefact; ``stages`` are its parts, ``busy`` the processor's
            time (user and system, all threads), which other work on the machine changes less.
        peak: resident memory of the process at its highest, MiB, proof and report included.
        package: bytes of the ``.mlpackage``.
        snr, max_abs: runtime -> worst over all inputs, against torch.
        noise: SNR of the source in float32 against itself in float64, of quantised networks; else infinite.
        counts: operations eligible for the Neural Engine by the rules, not eligible, unknown.
    """

    name: str
    target: str
    precision: str
    error: str = ""
    seconds: float = 0.0
    busy: float = 0.0
    stages: dict[str, float] = field(default_factory=dict)
    peak: float = 0.0
    package: int = 0
    snr: dict[str, float] = field(default_factory=dict)
    max_abs: dict[str, float] = field(default_factory=dict)
    noise: float = math.inf
    counts: dict[str, int] = field(default_factory=dict)


def measured(case: Case, target: str, precision: str, home: Path) -> Compilation:
    """Compile in a child process; what it wrote stays in ``home``."""
    name, reference = case.network.name, case.reference
    answer = home / "compilation.json"
    answer.unlink(missing_ok=True)
    asked = {
        "name": name,
        "target": target,
        "precision": precision,
        "model": str(case.model),
        "arch": case.arch,
        "reference": str(reference) if reference is not None else None,
        "out": str(home / f"{name}-{target.partition(':')[2]}-{precision}"),
        "answer": str(answer),
    }
    line = [sys.executable, "-W", "ignore", __file__, json.dumps(asked)]
    done = subprocess.run(line, capture_output=True, text=True)
    if done.returncode or not answer.is_file():
        last = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        return Compilation(name, target, precision, error=f"FAULT {last}"[:300])
    return Compilation(**json.loads(answer.read_text("utf-8")))


def _compiled(asked: dict[str, Any]) -> Compilation:
    import rubicc
    from rubicc.errors import RubiccError

    keys = {key: asked[key] for key in ("name", "target", "precision")}
    flags = {key: asked[key] for key in ("arch", "reference") if asked[key]}
    start = time.perf_counter()
    try:
        made = rubicc.compile(
            asked["model"],
            out=asked["out"],
            target=keys["target"],
            precision=keys["precision"],
            force=True,
            **flags,
        )
    except RubiccError as err:
        return Compilation(**keys, error=str(err).splitlines()[0][:300])
    took = time.perf_counter() - start
    used = resource.getrusage(resource.RUSAGE_SELF)
    snr, largest, noise = _gaps(made.report.gaps)
    home = Path(asked["out"])
    (package,) = (home / "coreml").glob("*.mlpackage")
    return Compilation(
        **keys,
        seconds=took,
        stages=json.loads((home / "measured.json").read_text("utf-8"))["measured"]["seconds"],
        busy=used.ru_utime + used.ru_stime,
        peak=used.ru_maxrss / 1024,
        package=sum(path.stat().st_size for path in package.rglob("*") if path.is_file()),
        snr=snr,
        max_abs=largest,
        noise=noise,
        counts=_counts(package),
    )


def _gaps(gaps: Any) -> tuple[dict[str, float], dict[str, float], float]:
    snr: dict[str, float] = {}
    largest: dict[str, float] = {}
    noise = math.inf
    for name, gap in gaps.items():
        what = name.rpartition(": ")[2]
        if "its own noise" in what:
            noise = min(noise, gap.snr_db)
        runtime, _, against = what.partition(" against ")
        if against == "the source":
            snr[runtime] = min(snr.get(runtime, math.inf), gap.snr_db)
            largest[runtime] = max(largest.get(runtime, 0.0), gap.max_abs)
    return snr, largest, noise


def _counts(package: Path) -> dict[str, int]:
    from rubicc.backends.coreml import lint
    from rubicc.backends.coreml.run.load import load

    found = lint.lint(load(package))
    return {
        **{key: int(found.counts[key]) for key in ("eligible", "not", "unknown")},
        "all": int(found.operations),
    }


def main(argv: list[str]) -> None:
    """Compile what the JSON in ``argv[0]`` asks for, and write the answer where it says."""
    asked = json.loads(argv[0])
    Path(asked["answer"]).write_text(json.dumps(asdict(_compiled(asked))), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
