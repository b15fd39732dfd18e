"""``chain.json``: what every result in the folder of a chain was made of."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rubicc.errors import ModelRefused, OutputExists, RubiccError, UsageError
from rubicc.evidence import manifest as manifests
from rubicc.evidence.staging import StagedFile
from rubicc.frontend.detect import CHAIN as FILE
from rubicc.shrink.fingerprint import Files

LOCK = "chain.lock"
VERSION = 1


@dataclass
class Record:
    """The record of a folder.

    Attributes:
        home: the folder.
        steps: folder of a result -> digests of what it was made of, by name. A result that is whole was made
            of these, whenever a run was killed.
        files: digests of data.
    """

    home: Path
    steps: dict[str, dict[str, str]] = field(default_factory=dict)
    files: Files = field(default_factory=Files)

    @classmethod
    def read(cls, home: Path, *, force: bool) -> Record:
        """The record of ``home``; empty where there is no such folder, or nothing in it.

        Args:
            force: take an unreadable record for an empty one.

        Raises:
            OutputExists: ``RUB-SHRINK-091``: the folder is of something else.
            UsageError: ``RUB-SHRINK-093``: the record is damaged.
        """
        if not os.path.lexists(home):
            return cls(home)
        if home.is_symlink() or not home.is_dir():
            raise _foreign("the output path is not a folder", home)
        if not (home / FILE).is_file():
            if {path.name for path in home.iterdir()} <= {LOCK}:
                return cls(home)
            raise _foreign("the output folder exists and is not that of a chain", home)
        try:
            return cls(home, *_typed(manifests.read_json(home, FILE)))
        except (ModelRefused, TypeError, KeyError, ValueError, AttributeError) as err:
            if force:
                return cls(home)
            what, hint = "the record of the chain cannot be read", "--force does every step again"
            raise UsageError("RUB-SHRINK-093", what, where=str(home / FILE), hint=hint) from err

    def write(self) -> None:
        """Put it in place, whole."""
        body = {"schema_version": VERSION, "steps": self.steps, "files": self.files.known}
        with StagedFile(self.home / FILE, force=True, mode="w") as file:
            file.write(manifests.dump_json(body))

    def made_of(self, folder: str) -> dict[str, str] | None:
        """What a result, or the unfinished run of one, was made of."""
        return self.steps.get(folder)

    def holds(self, folder: str, wanted: dict[str, str]) -> bool:
        """Whether a result is there, whole, and made of ``wanted``."""
        path = self.home / folder
        if self.steps.get(folder) != wanted or path.is_symlink() or not path.is_dir():
            return False
        try:
            return manifests.verify_files(path).ok
        except RubiccError:
            return False


def _typed(data: dict[str, Any]) -> tuple[dict[str, dict[str, str]], Files]:
    if data["schema_version"] != VERSION:
        raise ValueError(f"version {data['schema_version']!r}")
    steps = {str(name): {str(k): str(v) for k, v in parts.items()} for name, parts in data["steps"].items()}
    known = {str(path): [int(size), int(time), str(sha)] for path, (size, time, sha) in data["files"].items()}
    return steps, Files(known)


def _foreign(what: str, home: Path) -> OutputExists:
    return OutputExists("RUB-SHRINK-091", what, where=str(home), hint="choose another -o")
