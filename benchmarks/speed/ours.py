"""Our artefacts: compiled through the public API, opened as a user opens them."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from speed.baselines import Engine, Precision, Refused, quiet
from speed.networks import Arrays, Case

COMPUTED_IN: dict[str, Precision] = {"fp32": "fp32", "fp16": "fp32", "bf16": "bf16"}  # others: int8


def compiled(case: Case, precision: str, out: Path, tune: float, threads: int) -> tuple[Path, float]:
    """An artefact for the table's batch and length; see :func:`compile_to`."""
    flags = {"batch": case.network.batch, "tune": tune, "threads": threads}
    return compile_to(case.path, out, precision, case.calib_path, flags)


def compile_to(
    model: Path, out: Path, precision: str, calib: Path, flags: dict[str, Any]
) -> tuple[Path, float]:
    """``rubicc.compile`` into ``out``; an artefact already there is used again.

    Returns:
        The folder, and the seconds it took (0 when it was there).

    Raises:
        Refused: with rubicc's own words.
    """
    import rubicc
    from rubicc.errors import RubiccError

    if (out / "manifest.json").is_file():
        return out, 0.0
    if precision in ("int8", "mixed", "auto"):
        flags = {**flags, "calib": calib}
    start = time.perf_counter()
    try:
        with quiet():
            rubicc.compile(model, out=out, target="cpu", precision=precision, **flags)
    except RubiccError as err:
        raise Refused(str(err).splitlines()[0][:300]) from err
    except Exception as err:  # a fault of ours must not cost the other engines' rows
        raise Refused(f"FAULT {type(err).__name__}: {err}"[:300]) from err
    return out, time.perf_counter() - start


def opened(case: Case, folder: Path, threads: int, streams: int | None, seconds: float) -> Engine:
    """The artefact in a session of ``streams``; ``None`` = as recorded.

    Streams cut the batch: every engine of the table is given the same arrays and returns them whole.

    Args:
        seconds: that compiling took; 0 = it was there.
    """
    import rubicc
    from rubicc.errors import RubiccError

    start = time.perf_counter()
    try:
        session = rubicc.load(folder, threads=threads, streams=streams)
        run = _caller(session)
        run(case.feeds)
    except RubiccError as err:
        raise Refused(str(err).splitlines()[0][:300]) from err
    detail = _detail(session) + (f", compiled in {seconds:.0f} s" if seconds else "")
    return Engine(run, _precision(session.description), detail, time.perf_counter() - start)


def recorded_streams(folder: Path, threads: int) -> int:
    """Streams that the artefact runs in."""
    said = json.loads((folder / "cpu_gpu" / "runtime.json").read_text(encoding="utf-8"))
    return int(said.get("streams") or threads)


def _caller(session: Any) -> Callable[[Arrays], list[np.ndarray]]:
    names = [spec.name for spec in session.outputs]

    def run(feeds: Arrays) -> list[np.ndarray]:
        made = session.run_split(feeds)
        return [made[name] for name in names]

    return run


def _precision(description: dict[str, Any]) -> Precision:
    return COMPUTED_IN.get(str(description["precision"]), "int8")


def _detail(session: Any) -> str:
    said = session.description
    layout = said.get("layout") or "plain"
    streams = f"{session.streams} stream" + "s" * (session.streams != 1)
    return f"{said['precision']} {session.runtime} {layout} {streams}"


def recorded(folder: Path) -> str:
    """``precision runtime layout`` of an artefact."""
    said = json.loads((folder / "cpu_gpu" / "runtime.json").read_text(encoding="utf-8"))
    return f"{said['precision']} {said['runtime']} {said.get('layout') or 'plain'}"
