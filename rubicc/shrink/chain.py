"""``chain``: verbs one after the other, each on what the one before has made; what is done is done once.

``OUT/1-skipclip``, ``OUT/2-prune`` ... are the results of the steps, ``OUT/chain.json`` the record of what
each was made of, ``OUT/report.html`` the report of all. A step is done again when something it is made of has
changed, and what stood there is kept as ``OUT/2-prune.old`` until the new result is whole.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from rubicc import __version__
from rubicc.errors import OutputExists, UsageError
from rubicc.evidence.staging import check_replaceable
from rubicc.genomics.journal import partial_folder
from rubicc.shrink import chain_report
from rubicc.shrink.chain_doing import Doing, reading_of
from rubicc.shrink.chain_record import LOCK, Record
from rubicc.shrink.chain_steps import COMPILE, VERBS, Chain, Step, within
from rubicc.shrink.fingerprint import digest
from rubicc.training.machines import first

if TYPE_CHECKING:
    from rubicc.evidence.change import ChangeReport
    from rubicc.training.loop import Watcher

__all__ = ["VERBS", "Chain", "Chained", "Done", "Step", "Wish", "run"]
PAST = {"reuse": "reused", "run": "ran", "go on": "went on"}
log = logging.getLogger("rubicc.chain")


@dataclass(frozen=True)
class Done:
    """What became of a step, or would.

    Attributes:
        folder: its name within OUT.
        did: ``reused``, ``ran``, ``went on``; of a plan ``reuse``, ``run``, ``go on``.
        why: in words.
    """

    folder: str
    verb: str
    did: str
    why: str


@dataclass(frozen=True)
class Chained:
    """What a chain made; of a dry run only ``steps``."""

    path: Path | None
    steps: tuple[Done, ...]
    report: ChangeReport | None = None


@dataclass(frozen=True)
class Wish:
    """How a chain is run.

    Attributes:
        dry_run: find out what would be done, and write nothing.
        force: do every step again.
        first: do this step and those after it again.
        last: stop after this step.
    """

    dry_run: bool = False
    force: bool = False
    first: str | None = None
    last: str | None = None


def run(chain: Chain, out: Path | None, wish: Wish, watcher: Watcher | None = None) -> Chained | None:
    """Carry out ``chain`` in the folder ``out``, which may be None for a dry run.

    Returns:
        What came of it; None in the processes of torchrun that are not the first, which only train along.

    Raises:
        RubiccError: of a step, with its name; the steps before it are done, ``OUT/N-NAME.partial`` keeps what
            this one has trained. ``RUB-SHRINK-091`` to ``-095``.
    """
    if wish.dry_run:
        record = Record.read(out, force=wish.force) if out is not None else Record(Path())
        return Chained(None, tuple(_Work(chain, record, wish).planned())) if first() else None
    assert out is not None
    doing = Doing.of(chain, out, watcher)
    if not first():
        doing.follow()
        return None
    work = _Work(chain, Record.read(out, force=wish.force), wish)
    with _locked(out):
        made = work.carried_out(doing)
    doing.end()
    return made


@contextlib.contextmanager
def _locked(out: Path) -> Iterator[None]:
    """The folder, made where it is not there, ours alone."""
    try:
        out.mkdir(exist_ok=True)
        lock = (out / LOCK).open("w")
    except OSError as err:
        what, hint = f"the output cannot be written: {err.strerror}", "choose another -o"
        raise UsageError("RUB-ART-004", what, where=str(out), hint=hint) from err
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            what, hint = "another chain is running in this folder", "wait for it, or choose another -o"
            raise OutputExists("RUB-SHRINK-092", what, where=str(out), hint=hint) from None
        yield


class _Work:
    """A chain in one folder: what is made of what, what is there, and the doing."""

    def __init__(self, chain: Chain, record: Record, wish: Wish) -> None:
        self.chain, self.record = chain, record
        count = len(chain.steps)
        self.again = 0 if wish.force else count if wish.first is None else chain.place(wish.first)
        self.end = count if wish.last is None else chain.place(wish.last) + 1
        if wish.first is not None and wish.last is not None and self.again >= self.end:
            what = f"--until {wish.last} stands before --from {wish.first}"
            raise UsageError("RUB-SHRINK-094", what, hint="give them in the order of the recipe")
        self.readings = [reading_of(chain, index) for index in range(count)]
        # Whatever cannot be read is found before anything is trained.
        self.parts = [self._parts(index) for index in range(count)]
        self.parts[0]["model"] = self._first_model()

    def planned(self) -> list[Done]:
        """What would be done."""
        made: list[Done] = []
        model = self.parts[0]["model"]
        for index, folder in enumerate(self.chain.folders):
            did, why = self._judged(index, model) if model else ("run", f"{made[-1].folder} comes first")
            if index >= self.end and did != "reuse":
                break
            made.append(Done(folder, self.chain.steps[index].verb, did, why))
            model = self._model_of(folder) if did == "reuse" else ""
        return made

    def carried_out(self, doing: Doing) -> Chained:
        """Do what is not done, and tell."""
        made: list[Done] = []
        model = self.parts[0]["model"]
        for index, folder in enumerate(self.chain.folders):
            did, why = self._judged(index, model)
            if index >= self.end and did != "reuse":
                break
            log.info("%s: %s (%s)", folder, did, why)
            if did == "reuse":
                self._settle(folder)
            else:
                with within(f"{self.chain.source}, step {folder}"):
                    self._clear(index, {**self.parts[index], "model": model}, fresh=did == "run")
                doing.step(index)
                self._forget(f"{folder}.old")
            made.append(Done(folder, self.chain.steps[index].verb, PAST[did], why))
            if did != "reuse":
                chain_report.tell(self.record.home, self.chain, made)
            model = self._model_of(folder)
        self.record.write()
        return Chained(self.record.home, tuple(made), chain_report.tell(self.record.home, self.chain, made))

    def _first_model(self) -> str:
        from rubicc.shrink.student import source_of

        reading = self.readings[0]
        sha256 = source_of(self.chain.model, reading).sha256
        return digest([sha256, reading.arch, reading.arch_config, reading.inputs], self.record.files)

    def _parts(self, index: int) -> dict[str, str]:
        """What a step is made of beside its model: digests by name."""
        step, files = self.chain.steps[index], self.record.files
        with within(f"{self.chain.source}, step {self.chain.folders[index]}"):
            if step.verb == COMPILE:
                said = replace(self.readings[index], arch=None, arch_config={}, inputs=())
                return self._made_of(step, digest(said, files))
            settings = digest([step.settings, step.given.get("training")], files)
            data = [[self._data(path) for path in step.given.get(k, ())] for k in ("data", "validation")]
            return self._made_of(step, settings, digest(data, files), self._teacher(index))

    def _made_of(self, step: Step, settings: str, data: str = "", teacher: str = "") -> dict[str, str]:
        found = {"verb": step.verb, "settings": settings, "data": data, "teacher": teacher}
        return found | {"version of rubicc": __version__}

    def _data(self, path: str) -> str:
        return path if path == "simulated" else self.record.files.of(path)

    def _teacher(self, index: int) -> str:
        from rubicc.shrink.student import source_of

        given = self.chain.steps[index].given
        if given.get("teacher") is None:
            return ""
        plain = replace(self.readings[index], arch=given.get("teacher_arch"), arch_config={}, inputs=())
        return source_of(given["teacher"], plain).sha256

    def _judged(self, index: int, model: str) -> tuple[str, str]:
        """What is to be done with a step whose model is known, and why."""
        folder, wanted = self.chain.folders[index], {**self.parts[index], "model": model}
        home, before = self.record.home, self.record.made_of(folder)
        if self.again <= index < self.end:
            return "run", "asked for"
        # What stands aside counts only where nothing has taken its place.
        place = folder if (home / folder).exists() else f"{folder}.old"
        if self.record.holds(place, wanted):
            return "reuse", "nothing it is made of has changed"
        if before is None:
            return "run", "not done yet"
        changed = [name for name in wanted if before.get(name) != wanted[name]]
        if changed:
            return "run", f"changed: {', '.join(changed)}"
        if (home / folder).exists():
            return "run", "its files have changed"
        unfinished = partial_folder(home / folder).is_dir()
        return ("go on", "unfinished") if unfinished else ("run", "not done yet")

    def _settle(self, folder: str) -> None:
        """A reused result stands in its place, and nothing beside it: where a recipe was changed and changed
        back before its step was done, the earlier result is put back.
        """
        home, old = self.record.home, f"{folder}.old"
        _remove_partial(home / folder)
        if not (home / folder).exists():
            self.record.steps[folder] = self.record.steps[old]
            self.record.write()
            os.rename(home / old, home / folder)
        self._forget(old)

    def _clear(self, index: int, made_of: dict[str, str], *, fresh: bool) -> None:
        """Make room for a step; what stands whole under its name is at any moment what the record says."""
        name = self.chain.folders[index]
        if fresh:
            self._move_aside(name)
            _remove_partial(self.record.home / name)
        self.record.steps[name] = made_of
        self.record.write()

    def _move_aside(self, name: str) -> None:
        folder, old = self.record.home / name, f"{name}.old"
        check_replaceable(folder, force=True)
        if folder.exists():
            self._forget(old)
            if name in self.record.steps:
                self.record.steps[old] = self.record.steps[name]
                self.record.write()
            os.rename(folder, self.record.home / old)

    def _forget(self, old: str) -> None:
        """Remove what stood aside, where there is something."""
        if self.record.steps.pop(old, None) is not None:
            self.record.write()
        if (self.record.home / old).exists():
            shutil.rmtree(self.record.home / old, ignore_errors=True)

    def _model_of(self, folder: str) -> str:
        for name in (folder, f"{folder}.old"):
            path = self.record.home / name / "model.onnx"
            if path.is_file():
                return digest(path, self.record.files)
        return ""


def _remove_partial(folder: Path) -> None:
    """What an unfinished run of other settings left; what is not ours the verb refuses."""
    partial = partial_folder(folder)
    if not (partial / "lock").is_file():
        return
    # The lock says whose it is, so it goes last.
    for inside in partial.iterdir():
        if inside.is_dir() and not inside.is_symlink():
            shutil.rmtree(inside, ignore_errors=True)
        elif inside.name != "lock":
            inside.unlink()
    shutil.rmtree(partial, ignore_errors=True)
