"""What a trial of the real command is, and the folder it happens in."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CANARY = b"SECRET-SECRET-SECRET"
COMPILE = ("--target", "cpu", "--runtime", "onnxruntime", "--threads", "1", "-o", "out")
Commands = Sequence[Sequence[str]]


@dataclass(frozen=True)
class Bench:
    """Where one trial happens: ``cwd`` is the command's current folder, everything else is beside it.

    Attributes:
        cwd: holds ``input/`` (what is hostile) and ``canary.txt`` (what it may not reach).
        marker: the folder a payload would make.
        artefact: a good artefact of the demo network, compiled once for all trials; never written to.
        good: a read file with one sound read.
        calls: what ``basecall artefact good -o x.fasta`` writes.
    """

    cwd: Path
    artefact: Path
    good: Path
    calls: bytes

    @property
    def input(self) -> Path:
        """Folder of the hostile files."""
        return self.cwd / "input"

    @property
    def marker(self) -> Path:
        """What exists only if a payload ran."""
        return self.cwd / "executed"

    @property
    def onnx(self) -> str:
        """A sound MODEL that needs no torch."""
        return str(self.artefact / "cpu_gpu" / "model.onnx")

    def name(self, path: Path | str) -> str:
        """``path`` as the command is given it: relative to its folder where it lies inside."""
        if isinstance(path, Path) and path.is_relative_to(self.cwd):
            return str(path.relative_to(self.cwd))
        return str(path)


@dataclass(frozen=True)
class Trial:
    """One hostile or malformed input.

    Attributes:
        name: unique, ``form/what``.
        make: writes the input into an empty folder; returns the command lines (without ``rubicc``) to run.
        exit_code: of every command line.
        codes: one of them must be printed by every command line; empty = any error is wrong.
        live: proves the payload: opens the input the unsafe way.
        leaves: names in ``cwd`` a command may make, since they are its result.
        after: looks at the results; returns what is wrong, or nothing.
        env: extra environment; ``{cwd}`` is filled in.
        file_bytes: RLIMIT_FSIZE, as a full disk.
        needs: what the machine must allow (``mount``); skipped and counted where it does not.
    """

    name: str
    make: Callable[[Bench], Commands]
    exit_code: int
    codes: frozenset[str] = frozenset()
    live: Callable[[Bench], Any] | None = None
    leaves: frozenset[str] = frozenset()
    after: Callable[[Bench], str] = lambda bench: ""
    env: Mapping[str, str] = field(default_factory=dict)
    file_bytes: int | None = None
    needs: str = ""

    @property
    def form(self) -> str:
        """Kind of input."""
        return self.name.partition("/")[0]


def model_commands(bench: Bench, model: Path | str, flags: Sequence[str] = ()) -> Commands:
    """Every verb of the issue on a hostile MODEL."""
    name = bench.name(model)
    return (
        ("compile", name, *flags, *COMPILE),
        ("check", name, *flags, "--target", "cpu"),
        ("basecall", name, str(bench.good), *flags, "-o", "calls.fasta"),
    )


def reading_flags(bench: Bench, options: Mapping[str, Any]) -> list[str]:
    """Keyword arguments of ``read_model`` as flags; an architecture's configuration goes through a file."""
    flags: list[str] = []
    if "arch" in options:
        flags += ["--arch", options["arch"]]
    if "arch_config" in options:
        (bench.cwd / "arch.json").write_text(json.dumps(options["arch_config"]))
        flags += ["--arch-config", "arch.json"]
    flags += [f"--{key.replace('_', '-')}" for key in ("allow_code", "trust") if options.get(key)]
    return flags


def same_calls(bench: Bench) -> str:
    """``after`` of basecalling hostile reads beside a good one: the good one is called as ever."""
    path = bench.cwd / "calls.fasta"
    if not path.is_file():
        return "no calls of the good read"
    return "" if path.read_bytes() == bench.calls else "the good read's call changed"
