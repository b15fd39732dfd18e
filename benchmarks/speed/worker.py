"""One network in all engines, in one process."""

from __future__ import annotations

import argparse
import gc
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from speed import baselines, networks, ours, results
from speed.baselines import Engine, Precision, Refused
from speed.networks import Case
from speed.peaks import peaks
from speed.turns import Watch, in_turns

COMPARED = 2**24  # output values: of larger arrays the first item of the batch is compared
PROBES = 2
LEAST_MEMORY = 4 << 30
F32 = {"INFERENCE_PRECISION_HINT": "f32"}


def network(name: str, args: argparse.Namespace) -> results.NetworkResult:
    """Build every engine, let them take turns, compare their outputs with torch's."""
    case = networks.make(networks.NETWORKS[name], args.work)
    bench = _Bench(case, args)
    bench.build()
    return bench.measure(args.rounds)


def identities(args: argparse.Namespace) -> list[results.Identity]:
    """Artefacts compiled as users do, for calling rather than for the table's batch."""
    from speed.identity import identities as found

    def compile_model(model: Path, arch: str, precision: str, calib: Path) -> Path:
        out = args.work / f"{model.stem}-{precision}"
        flags = {"arch": arch or None, "tune": args.tune}
        return ours.compile_to(model, out, precision, calib, flags)[0]

    return [item for name in args.ours for item in found(compile_model, args.work, name)]


class _Bench:
    """Engines by name, and the refusals of those that are none."""

    def __init__(self, case: Case, args: argparse.Namespace) -> None:
        self.case, self.home, self.threads = case, args.work, args.threads
        self.tune, self.precisions = args.tune, args.ours
        self.engines: dict[str, Engine] = {}
        self.refused: dict[str, str] = {}

    def build(self) -> None:
        """Every engine, ours first: its compiler wants the machine for itself."""
        self._ours()
        self._add("torch", lambda: baselines.torch_eager(self.case))
        self._add("compile", lambda: baselines.torch_compiled(self.case))
        self._runtimes()

    def _add(self, key: str, make: Callable[[], Engine]) -> None:
        start = time.perf_counter()
        try:
            _need_memory()
            self.engines[key] = make()
        except Refused as err:
            self.refused[key] = str(err)
        said = self.refused.get(key) or f"ready {self.engines[key].detail}"
        print(f"  {key}: {said} ({time.perf_counter() - start:.1f} s)", file=sys.stderr, flush=True)

    def _ours(self) -> None:
        for precision in dict.fromkeys(["fp32", *self.precisions]):
            self._add(f"ours {precision}", partial(self._artefact, precision))

    def _artefact(self, precision: str) -> Engine:
        """Compiled, opened as recorded, and where that is several streams, also with one."""
        case, threads = self.case, self.threads
        home = self.home / f"{case.network.name}-{precision}"
        out, seconds = ours.compiled(case, precision, home, self.tune, threads)
        one = [1] if ours.recorded_streams(out, threads) > 1 else []
        return self._fastest(
            partial(ours.opened, case, out, threads, streams, seconds) for streams in (None, *one)
        )

    def _runtimes(self) -> None:
        files = self._exports()
        if not files:
            return
        case, threads = self.case, self.threads
        makers: dict[str, Callable[[Path, str], Engine]] = {
            "ort32": lambda path, said: baselines.ort(case, path, "fp32", threads, said),
            "ov32": lambda path, said: baselines.openvino(case, path, "fp32", threads, F32, said),
            "ov": lambda path, said: baselines.openvino(case, path, "bf16", threads, None, said),
        }
        for key, make in makers.items():
            ways = [partial(make, path, f"torch.onnx {title}") for title, path in files.items()]
            self._add(key, partial(self._fastest, ways))
        plain = next(iter(files.values()))
        how = case.network.quantise
        try:
            path = baselines.quantised(case, plain, self.home / f"{case.network.name}-{how}.onnx", how)
        except Refused as err:
            self.refused |= dict.fromkeys(("ort8", "ov8"), f"ONNX Runtime's quantiser: {err}")
            return
        layers = baselines.integer_layers(path)
        precision: Precision = "int8" if "stays" not in layers else "fp32"
        self._add("ort8", lambda: baselines.ort(case, path, precision, threads, f"{how}: {layers}"))
        # OpenVINO multiplies weights of dynamically quantised files in float: bf16 is its default.
        rest: Precision = "bf16" if how == "dynamic" else "int8"
        self._add("ov8", lambda: baselines.openvino(case, path, rest, threads, None, f"{how}: {layers}"))

    def _exports(self) -> dict[str, Path]:
        """The network as torch's two exporters write it."""
        files: dict[str, Path] = {}
        for title, dynamo in (("dynamo", True), ("TorchScript", False)):
            path = self.home / f"{self.case.network.name}-{title}.onnx"
            try:
                files[title] = baselines.export(self.case, path, dynamo=dynamo)
            except Refused as err:
                self.refused[f"export {title}"] = str(err)
        if not files:
            columns = ("ort32", "ort8", "ov32", "ov", "ov8")
            self.refused |= dict.fromkeys(columns, f"torch.onnx.export: {next(iter(self.refused.values()))}")
        return files

    def _fastest(self, ways: Iterable[Callable[[], Engine]]) -> Engine:
        """Of several ways to the same engine the one that runs fastest; never more than two are held."""
        best: tuple[float, Engine] | None = None
        reasons: list[str] = []
        for make in ways:
            try:
                engine = make()
            except Refused as err:
                reasons.append(str(err))
                continue
            seconds = self._probe(engine)
            if best is None or seconds < best[0]:
                best = seconds, engine
            del engine
            gc.collect()
        if best is None:
            raise Refused("; ".join(reasons))
        return best[1]

    def _probe(self, engine: Engine) -> float:
        times = []
        for _ in range(PROBES):
            start = time.perf_counter()
            engine.run(self.case.feeds)
            times.append(time.perf_counter() - start)
        return min(times)

    def measure(self, rounds: int) -> results.NetworkResult:
        """Engines and peaks in the same turns."""
        case = self.case
        dense = {peak.name: peak for peak in peaks(self.threads)}
        calls: dict[str, Callable[[], object]] = {
            key: partial(engine.run, case.feeds) for key, engine in self.engines.items()
        }
        with Watch() as watch:
            timings = in_turns(calls | {name: peak.run for name, peak in dense.items()}, rounds)
        self.reference = _part(self.engines["torch"].run(case.feeds)[0]).copy()
        rows = {key: self._row(key, engine, timings[key]) for key, engine in self.engines.items()}
        mine = [row for key, row in rows.items() if key.startswith("ours fp32")]
        others = [row for key, row in rows.items() if key.startswith("ours") and row not in mine]
        table = [rows.get(key) or self._absent(key) for key in list(results.COLUMNS)[:-2]]
        exact = results.choose_best(mine)
        table.append(replace(exact, column="ours32") if exact else self._absent("ours32", "ours fp32"))
        # The best precision is fp32 itself where nothing is faster; a precision that was refused is said.
        best = results.choose_best([*others, *mine])
        said = [f"{key.removeprefix('ours ')} refused: {why}" for key, why in self._refusals()]
        if best is not None and said:
            best = replace(best, detail="; ".join([best.detail, *said]))
        table.append(best or self._absent("best", "ours fp32"))
        return results.NetworkResult(
            name=case.network.name,
            shape=" + ".join(f"{k} {'x'.join(map(str, v.shape))}" for k, v in case.feeds.items()),
            unit=case.network.unit,
            positions=case.network.positions,
            macs=case.macs,
            rows=tuple(table),
            peaks=tuple(
                results.PeakRow(p.name, p.precision, p.macs, timings[p.name]) for p in dense.values()
            ),
            others=tuple(row for row in [*mine, *others] if len(mine + others) > 2),
            notes=case.notes,
            disturbed=watch.others,
        )

    def _refusals(self) -> list[tuple[str, str]]:
        return [(key, why) for key, why in self.refused.items() if key.startswith("ours")]

    def _absent(self, column: str, key: str = "") -> results.Row:
        return results.Row(column, refused=self.refused.get(key or column, "not built"))

    def _row(self, key: str, engine: Engine, timing: Any) -> results.Row:
        from rubicc.evidence.gaps import gap

        found = gap(self.reference, _part(engine.run(self.case.feeds)[0]))
        return results.Row(
            column=key,
            precision=engine.precision,
            detail=engine.detail,
            timing=timing,
            snr_db=found.snr_db,
            agreement=found.argmax_agreement,
            load_seconds=engine.load_seconds,
        )


def _need_memory() -> None:
    """Refuse before the machine runs out of memory, which would cost every row and other programs too."""
    import psutil

    left = psutil.virtual_memory().available
    if left < LEAST_MEMORY:
        raise Refused(f"only {left / 2**30:.1f} GiB of memory are left")


def _part(array: np.ndarray) -> np.ndarray:
    return array if array.size <= COMPARED else array[:1]
