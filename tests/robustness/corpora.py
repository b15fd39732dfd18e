"""The corpora of the other rooms (models, ONNX files, read files) as trials of the real command."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from trials import Bench, Commands, Trial, model_commands, reading_flags, same_calls

Make = Callable[[Bench], Commands]
TESTS = Path(__file__).resolve().parents[1]
for room in ("frontend", "ir", "genomics"):
    if str(TESTS / room) not in sys.path:
        sys.path.append(str(TESTS / room))

# What frontend.read_model says of files that only the ONNX reader of the IR room calls RUB-IR-040.
NO_MODEL = frozenset({"RUB-READ-001", "RUB-READ-002", "RUB-READ-003", "RUB-READ-004"})


def model_trials() -> Iterator[Trial]:
    """Torch archives, .pt2, safetensors, bonito, taiyaki, Hugging Face, ``python:``."""
    from hostile import CASES, HARMLESS

    for case in CASES:
        form, _, what = case.name.partition("-")
        name = f"{form}/{what}"
        live = (lambda bench, case=case: case.live(_made(bench, case))) if case.live else None
        if case.code == HARMLESS:
            # What could run is dropped and the rest is a model like any other, proven as such.
            leaves = frozenset({"out"})
            yield Trial(name, _compiles(case), 0, frozenset(), live, leaves)
        else:
            assert case.exit_code is not None
            yield Trial(name, _refused(case), case.exit_code, frozenset({case.code}), live)


def _made(bench: Bench, case: Any) -> Path:
    """The case's model again, in a new folder: the first one may be a pipe, or moved."""
    folder = bench.cwd / "control"
    folder.mkdir()
    return Path(case.make(folder, bench.marker))


def _refused(case: Any) -> Make:
    def make(bench: Bench) -> Commands:
        model = case.make(bench.input, bench.marker)
        return model_commands(bench, model, reading_flags(bench, case.options))

    return make


def _compiles(case: Any) -> Make:
    def make(bench: Bench) -> Commands:
        return (model_commands(bench, case.make(bench.input, bench.marker))[0], ("verify", "out"))

    return make


def onnx_trials() -> Iterator[Trial]:
    """Malformed and hostile ONNX files."""
    from hostile_onnx import CORPUS

    for name, (writer, code) in CORPUS.items():
        codes = frozenset({code}) | (NO_MODEL if code == "RUB-IR-040" else frozenset())

        def make(bench: Bench, writer: Callable[[Path], Path] = writer) -> Commands:
            return model_commands(bench, writer(bench.input))

        yield Trial(f"onnx/{name}", make, 3, codes)


def read_trials() -> Iterator[Trial]:
    """fast5, pod5 and npz files, each beside a good one whose call must not suffer."""
    import hostile_reads

    for case in hostile_reads.CASES:
        yield Trial(
            f"{case.suffix[1:]}/{case.name.replace('_', '-')}",
            _beside_a_good_read(case),
            3,
            frozenset({case.code}),
            leaves=frozenset({"calls.fasta"}),
            after=same_calls,
        )


def _beside_a_good_read(case: Any) -> Make:
    def make(bench: Bench) -> Commands:
        case.write(bench.input / (case.name + case.suffix))
        (bench.input / "z_good.npz").write_bytes(bench.good.read_bytes())
        return (("basecall", str(bench.artefact), "input", "-o", "calls.fasta", "--threads", "1"),)

    return make


def trials() -> tuple[Trial, ...]:
    """All of them."""
    return (*model_trials(), *onnx_trials(), *read_trials())
