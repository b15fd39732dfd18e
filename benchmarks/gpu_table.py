"""Our artefacts on a GPU against torch in half precision, timed in turns: `make bench-gpu`.

    python benchmarks/gpu_table.py [--only rubicall-fp] [--batch 64] [--rounds 9] [--json gpu.json]

Columns: torch eager, torch.compile and a captured CUDA graph in fp16, and the fp16 artefact of `rubicc
compile --target gpu:cuda` and `gpu:tensorrt`; numpy arrays in and out everywhere, copies included. The bf16
matrix product that the fractions refer to is timed in the same turns. Where something is missing, it says
what, measures the rest, and exits with 0.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(Path(__file__).resolve().parent)]

from speed import gpu, networks, results  # noqa: E402
from speed.baselines import Engine, Refused, torch_eager  # noqa: E402
from speed.render import details, overview  # noqa: E402
from speed.turns import in_turns  # noqa: E402

NAMES = ("rubicall-fp", "bonito-ctc", "bonito-crf-fast", "bonito-crf-hac")
BATCH, ROUNDS = 64, 9


def main(argv: list[str] | None = None) -> int:
    """Measure what can be measured here."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=NAMES, default=list(NAMES), metavar="NAME")
    parser.add_argument("--batch", type=int, default=BATCH, help=f"reads per call (default {BATCH})")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"turns of each engine (default {ROUNDS})")
    parser.add_argument("--json", type=Path, help="also write everything measured into this file")
    args = parser.parse_args(argv)
    missing = gpu.lacking()
    for lack in missing:
        print(f"not measured: {', '.join(gpu.COLUMNS[key] for key in lack.columns)}: {lack.what}")
    if any("torch" in lack.columns for lack in missing):
        print(
            "Without a CUDA device that torch can use there is no baseline and no peak: nothing is measured."
        )
        return 0
    device = gpu.CudaDevice()
    absent = {key: lack.what for lack in missing for key in lack.columns}
    with tempfile.TemporaryDirectory(prefix="rubicc-gpu-") as home:
        found = [_network(name, args, device, absent, Path(home)) for name in args.only]
    print("\n\n".join([f"device: {device.name}", overview(found, gpu.COLUMNS)]), end="\n\n")
    print("\n\n".join(details(network, gpu.COLUMNS) for network in found))
    if args.json:
        text = json.dumps(results.to_json({"device": device.name}, found, []), indent=1)
        args.json.write_text(text + "\n", encoding="utf-8")
    return 0


def _network(
    name: str, args: argparse.Namespace, device: gpu.CudaDevice, absent: dict[str, str], home: Path
) -> results.NetworkResult:
    case = networks.make(replace(networks.NETWORKS[name], batch=args.batch), home)
    reference = torch_eager(case).run(case.feeds)[0]  # float32 on the CPU, before the module moves
    makers = dict(gpu.torch_engines(case, device))
    for provider in gpu.PROVIDERS:
        makers[provider] = partial(gpu.artefact, case, provider, home / f"{name}-{provider}")
    engines, refused = build(makers, absent)
    peak = gpu.peak(device)
    calls: dict[str, Callable[[], Any]] = {key: partial(e.run, case.feeds) for key, e in engines.items()}
    timings = in_turns({**calls, peak.name: peak.run}, args.rounds)
    rows = [
        row(key, engines.get(key), refused.get(key, ""), timings.get(key), case.feeds, reference)
        for key in gpu.COLUMNS
    ]
    return results.NetworkResult(
        name=name,
        shape=", ".join(f"{key} {'x'.join(map(str, value.shape))}" for key, value in case.feeds.items()),
        unit=case.network.unit,
        positions=case.network.positions,
        macs=case.macs,
        rows=tuple(rows),
        peaks=(results.PeakRow(peak.name, peak.precision, peak.macs, timings[peak.name]),),
        notes=case.notes,
    )


def build(
    makers: dict[str, Callable[[], Engine]], absent: dict[str, str]
) -> tuple[dict[str, Engine], dict[str, str]]:
    """Engines by column, and why there is none for the others."""
    engines: dict[str, Engine] = {}
    refused = dict(absent)
    for key, make in makers.items():
        if key in refused:
            continue
        try:
            engines[key] = make()
        except Refused as err:
            refused[key] = str(err)
    return engines, refused


def row(
    key: str, engine: Engine | None, why: str, timing: Any, feeds: networks.Arrays, reference: Any
) -> results.Row:
    """One row of the table, its output compared with torch's in float32 on the CPU."""
    from rubicc.evidence.gaps import gap

    if engine is None:
        return results.Row(key, refused=why)
    found = gap(reference, engine.run(feeds)[0])
    return results.Row(
        column=key,
        precision=engine.precision,
        detail=engine.detail,
        timing=timing,
        snr_db=found.snr_db,
        agreement=found.argmax_agreement,
        load_seconds=engine.load_seconds,
    )


if __name__ == "__main__":
    sys.exit(main())
