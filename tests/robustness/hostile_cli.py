"""Command lines that cannot be meant, outputs that must not be touched, disks that are full."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from mounts import mount_small
from trials import COMPILE, Bench, Commands, Trial, same_calls

CPU = ("--target", "cpu", "--runtime", "onnxruntime", "--threads", "1")


def codes(*names: str) -> frozenset[str]:
    return frozenset(f"RUB-{name}" for name in names)


# name -> (flags after `compile MODEL --target cpu ... -o out`, codes); exit 2 each
COMPILE_FLAGS: dict[str, tuple[tuple[str, ...], frozenset[str]]] = {
    "unknown-flag": (("--presicion", "fp16"), codes("CLI-001")),
    "abbreviated-flag": (("--prec", "fp16"), codes("CLI-001")),
    "quiet-and-verbose": (("-q", "-v"), codes("CLI-001")),
    "precision-unknown": (("--precision", "fp61"), codes("CLI-004")),
    "runtime-unknown": (("--runtime", "tensorflow"), codes("CLI-004")),
    "seed-negative": (("--seed", "-1"), codes("CLI-004")),
    "seed-huge": (("--seed", "9" * 400), codes("CLI-004")),
    "seed-words": (("--seed", "1e3"), codes("CLI-004")),
    "threads-zero": (("--threads", "0"), codes("CLI-004")),
    "threads-absurd": (("--threads", "99999999"), codes("CLI-004")),
    "input-no-shape": (("--input", "x"), codes("CLI-003")),
    "input-question": (("--input", "x=?"), codes("CLI-003")),
    "input-zero": (("--input", "x=0x1xT"), codes("CLI-003")),
    "input-negative": (("--input", "x=-1x1xT"), codes("CLI-003")),
    "input-huge": (("--input", "x=" + "9" * 30), codes("CLI-003")),
    "input-type": (("--input", "x=Nx1xT:f99"), codes("CLI-003")),
    "input-code": (("--input", "x=__import__('os')"), codes("CLI-003")),
    "input-twice": (("--input", "x=Nx1xT", "--input", "x=Nx1xT"), codes("CLI-005")),
    "input-unknown-name": (("--input", "nobody=Nx1xT"), codes("LOW-007")),
    "input-wrong-rank": (("--input", "x=N"), codes("LOW-007")),
    "input-other-channels": (("--input", "x=Nx7xT"), codes("LOW-007")),
    "input-enormous": (("--input", f"x=1x1x{2**31 - 1}"), codes("LOW-008")),
    "set-unknown-key": (("--set", "presicion=fp16"), codes("CLI-002")),
    "set-no-value": (("--set", "precision"), codes("CLI-004")),
    "set-nothing": (("--set", "="), codes("CLI-004")),
    "set-safety": (("--set", "allow_code=true"), codes("CLI-013")),
    "set-twice": (("--set", "seed=1", "--seed", "2"), codes("CLI-005")),
    "set-unknown-pass": (("--set", "passes.os.system=1"), codes("PASS-001")),
    "set-unknown-option": (("--set", "passes.cleanup.fold-constants.max_byts=1"), codes("PASS-003")),
    "set-option-type": (("--set", "passes.cleanup.fold-constants.max_bytes=lots"), codes("PASS-003")),
    "max-gap-unknown": (("--max-gap", "loudness=3"), codes("CLI-002")),
    "max-gap-absurd": (("--max-gap", "snr=9999dB"), codes("CLI-004")),
    "budget-without-unit": (("--budget", "size=5"), codes("CLI-004")),
    "budget-negative": (("--budget", "size=-1B"), codes("CLI-004")),
    "until-stage-unknown": (("--until-stage", "os.system"), codes("DRV-002")),
    "from-stage-unknown": (("--from-stage", "99"), codes("DRV-002")),
    "reference-missing": (("--reference", "input/absent.npz"), codes("DRV-006")),
    "recipe-missing": (("--recipe", "input/absent.yaml"), codes("CLI-010")),
}

# name -> (the whole command line, exit code, codes)
LINES: dict[str, tuple[Callable[[Bench], tuple[str, ...]], int, frozenset[str]]] = {
    "verb-unknown": (lambda b: ("complie", "x"), 2, codes("CLI-001")),
    "target-unknown": (lambda b: ("check", b.onnx, "--target", "cup"), 2, codes("TGT-001")),
    "target-device": (lambda b: ("check", b.onnx, "--target", "cpu:0"), 2, codes("TGT-002")),
    "target-empty": (lambda b: ("check", b.onnx, "--target", ""), 2, codes("TGT-001", "CLI-004")),
    "target-missing": (lambda b: ("compile", b.onnx, "-o", "out"), 2, codes("CLI-006")),
    "output-missing": (lambda b: ("compile", b.onnx, *CPU), 2, codes("CLI-006")),
    "model-missing": (lambda b: ("compile", *COMPILE), 2, codes("CLI-001")),
    "model-escape-codes": (lambda b: ("inspect", "\x1b]0;owned\x07\u202e.pt"), 3, codes("READ-001")),
    "model-newlines": (lambda b: ("inspect", "a\nerror[RUB-FAKE-001]: b"), 3, codes("READ-001")),
    "model-long-name": (lambda b: ("inspect", "m" * 5000 + ".pt"), 3, codes("READ-001")),
    "model-not-utf8": (lambda b: ("inspect", os.fsdecode(b"\xff\xfe.pt")), 3, codes("READ-001")),
    "model-is-artefact": (lambda b: ("compile", str(b.artefact), *COMPILE), 2, codes("READ-004")),
    "models-unknown": (lambda b: ("models", "create", "rubical", "-o", "m.pt"), 2, codes("MODEL-001")),
    "explain-unknown": (lambda b: ("explain", "RUB-\x1b-1"), 2, codes("CLI-014")),
    "init-into-folder": (lambda b: ("init", "-o", "input"), 8, codes("ART-001")),
    "verify-no-artefact": (lambda b: ("verify", "input"), 3, codes("ART-010")),
    "diff-no-artefacts": (lambda b: ("diff", "input", "input"), 3, codes("ART-010")),
    "bench-seconds": (
        lambda b: ("bench", str(b.artefact), "--seconds", "nan"),
        2,
        codes("CLI-001", "CLI-004"),
    ),
    "basecall-no-reads": (lambda b: _call(b, "absent"), 2, codes("GEN-100")),
    "basecall-empty-folder": (lambda b: _call(b, "input"), 2, codes("GEN-100", "GEN-120", "GEN-134")),
    "basecall-format": (lambda b: _call(b, str(b.good), "calls.txt"), 2, codes("GEN-144")),
    "basecall-no-folder": (lambda b: _call(b, str(b.good), "no/calls.fasta"), 2, codes("GEN-145")),
    "basecall-batch-zero": (lambda b: (*_call(b, str(b.good)), "--batch", "0"), 2, codes("CLI-004")),
    "basecall-batch-huge": (lambda b: (*_call(b, str(b.good)), "--batch", "9" * 20), 2, codes("CLI-004")),
    "basecall-overlap": (
        lambda b: (*_call(b, str(b.good)), "--chunk", "300", "--overlap", "300"),
        2,
        codes("GEN-133"),
    ),
    "basecall-read-ids-missing": (
        lambda b: (*_call(b, str(b.good)), "--read-ids", "input/ids"),
        2,
        codes("CLI-010"),
    ),
    "basecall-read-ids-device": (
        lambda b: (*_call(b, str(b.good)), "--read-ids", "/dev/zero"),
        2,
        codes("CLI-010"),
    ),
    "basecall-not-a-basecaller": (
        lambda b: ("basecall", "input", str(b.good), "-o", "c.fasta"),
        3,
        codes("READ-004"),
    ),
    "evaluate-missing": (lambda b: ("evaluate", "no.fasta", "--reference", "no.fasta"), 2, codes("GEN-150")),
}


def _call(bench: Bench, reads: str, out: str = "calls.fasta") -> tuple[str, ...]:
    return ("basecall", str(bench.artefact), reads, "-o", out, "--threads", "1")


def _compile(bench: Bench, *flags: str) -> tuple[str, ...]:
    """Repeated flags would override each other, so a flag of the trial takes the place of the common one."""
    common = [pair for pair in zip(COMPILE[::2], COMPILE[1::2], strict=True) if pair[0] not in flags]
    return ("compile", bench.onnx, *(part for pair in common for part in pair), *flags)


def _sound(bench: Bench) -> Commands:
    """No input is wrong: nothing may be left beside the results, be it by a runtime's telemetry."""
    compiled = ("compile", bench.onnx, "--target", "cpu", "--threads", "1", "-o", "out")
    return (compiled, ("verify", "out"), ("env",), _call(bench, str(bench.good)))


def _compiled(bench: Bench, flags: tuple[str, ...]) -> Commands:
    return (_compile(bench, *flags),)


def _one(bench: Bench, line: Callable[[Bench], tuple[str, ...]]) -> Commands:
    return (line(bench),)


def flag_trials() -> Iterator[Trial]:
    """Command lines."""
    for name, (flags, wanted) in COMPILE_FLAGS.items():
        yield Trial(f"cli/{name}", partial(_compiled, flags=flags), 2, wanted)
    for name, (line, exit_code, wanted) in LINES.items():
        yield Trial(f"cli/{name}", partial(_one, line=line), exit_code, wanted)
    yield Trial("cli/sound-model", _sound, 0, leaves=frozenset({"out", "calls.fasta"}), after=same_calls)
    for name, value in (("SEED", "many"), ("PRECISION", "fp61"), ("BUDGET", "size=1"), ("STRICT", "2")):
        yield Trial(
            f"cli/env-{name.lower()}",
            lambda bench: (_compile(bench),),
            2,
            codes("CLI-004"),
            env={f"RUBICC_{name}": value},
        )


# ---- outputs


def _foreign(cwd: Path) -> None:
    (cwd / "out").mkdir()
    (cwd / "out" / "thesis.txt").write_text("years of work")


def _false_manifest(cwd: Path) -> None:
    _foreign(cwd)
    (cwd / "out" / "manifest.json").write_text('{"tool": "webpack", "files": {}}')


def _ours(bench: Bench, extra: bool = False) -> None:
    shutil.copytree(bench.artefact, bench.cwd / "out")
    if extra:
        (bench.cwd / "out" / "notes.txt").write_text("mine")


OUTPUTS: dict[str, tuple[Callable[[Bench], object], tuple[str, ...], int, frozenset[str]]] = {
    "foreign-folder": (lambda b: _foreign(b.cwd), (), 8, codes("ART-001")),
    "foreign-folder-force": (lambda b: _foreign(b.cwd), ("--force",), 8, codes("ART-001")),
    "other-manifest-force": (lambda b: _false_manifest(b.cwd), ("--force",), 8, codes("ART-001")),
    "is-a-file": (lambda b: (b.cwd / "out").write_text("x"), ("--force",), 8, codes("ART-001")),
    "is-a-pipe": (lambda b: os.mkfifo(b.cwd / "out"), ("--force",), 8, codes("ART-001")),
    "is-a-link": (lambda b: (b.cwd / "out").symlink_to("input"), ("--force",), 8, codes("ART-001")),
    "is-a-dangling-link": (
        lambda b: (b.cwd / "out").symlink_to("nowhere"),
        ("--force",),
        8,
        codes("ART-001"),
    ),
    "is-a-link-to-ours": (
        lambda b: (b.cwd / "out").symlink_to(b.artefact),
        ("--force",),
        8,
        codes("ART-001"),
    ),
    "ours-without-force": (_ours, (), 8, codes("ART-002")),
    "ours-with-foreign-file": (lambda b: _ours(b, True), ("--force",), 8, codes("ART-003")),
    "no-parent": (lambda b: None, ("-o", "no/such/out"), 2, codes("ART-004")),
    "parent-is-a-file": (lambda b: None, ("-o", "canary.txt/out"), 2, codes("ART-004")),
    "in-proc": (lambda b: None, ("-o", "/proc/rubicc-out"), 2, codes("ART-004")),
    "root": (lambda b: None, ("-o", "/", "--force"), 2, codes("ART-004")),
    "empty-name": (lambda b: None, ("-o", "", "--force"), 8, codes("ART-001")),
    "current-folder": (lambda b: None, ("-o", ".", "--force"), 8, codes("ART-001")),
    "parent-folder": (lambda b: None, ("-o", "..", "--force"), 8, codes("ART-001")),
    "long-name": (lambda b: None, ("-o", "o" * 300), 2, codes("ART-004")),
}


def output_trials() -> Iterator[Trial]:
    """Outputs of ``compile`` that are not ours, cannot be made, or hold somebody's work."""
    for name, (prepare, flags, exit_code, wanted) in OUTPUTS.items():

        def make(
            bench: Bench, prepare: Callable[[Bench], object] = prepare, flags: tuple[str, ...] = flags
        ) -> Commands:
            prepare(bench)
            return (_compile(bench, *flags),)

        yield Trial(f"output/{name}", make, exit_code, wanted)
    for name, flags, exit_code, wanted in (
        ("calls-folder", ("--force",), 8, codes("GEN-140")),
        ("calls-exist", (), 8, codes("GEN-140")),
        ("calls-partial-foreign", ("--force",), 8, codes("GEN-141")),
        ("calls-partial-is-a-link", ("--force",), 8, codes("GEN-141")),
        ("calls-is-a-link", (), 8, codes("GEN-140")),
    ):

        def make_calls(bench: Bench, name: str = name, flags: tuple[str, ...] = flags) -> Commands:
            _prepare_calls(bench, name)
            return ((*_call(bench, str(bench.good)), *flags),)

        yield Trial(f"output/{name}", make_calls, exit_code, wanted)


def _prepare_calls(bench: Bench, name: str) -> None:
    if name == "calls-folder":
        (bench.cwd / "calls.fasta").mkdir()
    elif name == "calls-exist":
        (bench.cwd / "calls.fasta").write_text(">mine\nACGT\n")
    elif name == "calls-is-a-link":
        (bench.cwd / "calls.fasta").symlink_to("canary.txt")
    elif name == "calls-partial-is-a-link":
        (bench.cwd / "calls.fasta.partial").symlink_to("input")
    else:
        (bench.cwd / "calls.fasta.partial").mkdir()
        (bench.cwd / "calls.fasta.partial" / "journal.jsonl").write_text('{"format": "systemd"}\n')


# ---- full and read-only disks


def disk_trials() -> Iterator[Trial]:
    """No room for the artefact, for the calls, for temporary files."""
    full = codes("ART-004", "CLI-020")
    yield Trial("disk/file-size-limit", lambda b: (_compile(b),), 2, full, file_bytes=20_000)
    yield Trial(
        "disk/models-create",
        lambda b: (("models", "create", "demo-ctc", "-o", "m.pt"),),
        2,
        full,
        file_bytes=20_000,
    )

    def calls(bench: Bench) -> Commands:
        from rubicc.genomics.simulate import simulate_reads, write_reads

        write_reads(bench.input / "long.npz", simulate_reads(1, seed=3, length=4000))
        return (_call(bench, "input"),)

    yield Trial("disk/calls-file-size-limit", calls, 2, codes("GEN-146"), file_bytes=2500)
    for name, options, out in (
        ("full", "size=64k", "small/out"),
        ("no-inodes", "nr_inodes=3", "small/out"),
        ("read-only", "ro", "small/out"),
    ):

        def make(bench: Bench, options: str = options, out: str = out) -> Commands:
            mount_small(bench.cwd / "small", options)
            return (_compile(bench, "-o", out),)

        yield Trial(f"disk/{name}", make, 2, codes("ART-004"), needs="mount")

    def no_temporary(bench: Bench) -> Commands:
        mount_small(bench.cwd / "small", "size=64k")
        return (("basecall", bench.onnx, str(bench.good), "-o", "calls.fasta", "--runtime", "onnxruntime"),)

    yield Trial("disk/temporary-full", no_temporary, 2, full, env={"TMPDIR": "{cwd}/small"}, needs="mount")


def trials() -> tuple[Trial, ...]:
    """All of them."""
    return (*flag_trials(), *output_trials(), *disk_trials())
