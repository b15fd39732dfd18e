"""A chain as it is asked for: a model, and verbs with their settings."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from rubicc.errors import RubiccError, UsageError
from rubicc.settings import Settings
from rubicc.text import did_you_mean

COMPILE = "compile"
VERBS = ("train", "skipclip", "prune", "quantize", COMPILE)
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,47}")


def wrong(what: str, where: str = "", hint: str = "") -> UsageError:
    """What is wrong with a chain or its recipe."""
    return UsageError("RUB-SHRINK-090", what, where=where, hint=hint)


def no_verb(name: str, where: str) -> UsageError:
    """A step that is called like nothing a chain can do."""
    hint = did_you_mean(name, VERBS, f"give one of {', '.join(VERBS)}")
    return wrong(f"{name[:60]!r} is no verb of a chain", where, hint)


@contextlib.contextmanager
def within(where: str) -> Iterator[None]:
    """Errors say where in a recipe they came up."""
    try:
        yield
    except RubiccError as err:
        err.where = f"{where}: {err.where}" if err.where else where
        raise


@dataclass(frozen=True)
class Step:
    """One verb of a chain.

    Attributes:
        verb: one of :data:`VERBS`.
        name: what it is called, of letters, digits, ``_`` and ``-``.
        settings: of the verb, as its function in :mod:`rubicc.api` takes them.
        given: beside these ``data``, ``validation``, ``teacher``, ``teacher_arch``, ``training`` and
            ``reading``; see :class:`rubicc.shrink.session.Asked`.
        said: the same as it was written, for the report.
    """

    verb: str
    name: str
    settings: Any
    given: Mapping[str, Any] = field(default_factory=dict)
    said: Mapping[str, str] = field(default_factory=dict)

    @property
    def reading(self) -> Settings:
        """How models are read."""
        if self.verb == COMPILE:
            return self.settings
        return self.given.get("reading") or Settings()


@dataclass(frozen=True)
class Chain:
    """A model and what is to be done with it.

    Attributes:
        reading: says of the model what it does not say itself (``arch``, ``arch_config``, ``inputs``).
        source: name of the recipe, for messages.
        sha256: of the recipe; "" where there is none.
    """

    model: Any
    steps: tuple[Step, ...]
    reading: Settings = field(default_factory=Settings)
    source: str = "chain"
    sha256: str = ""

    def __post_init__(self) -> None:
        if not self.steps:
            raise wrong("the chain has no steps", hint=f"give one or more of {', '.join(VERBS)}")
        names = [step.name for step in self.steps]
        for place, step in enumerate(self.steps, 1):
            where = f"step {place} ({step.verb})"
            if step.verb not in VERBS:
                raise no_verb(step.verb, where)
            if not NAME.fullmatch(step.name):
                what = f"name {step.name[:60]!r} cannot be that of a folder"
                raise wrong(what, where, "use at most 48 letters, digits, _ and -, such as half-size")
            if step.name in names[: place - 1]:
                raise wrong(f"two steps are called {step.name!r}", where, "give each its own name")
            if step.verb == COMPILE and place < len(self.steps):
                raise wrong(
                    "an artefact is no model for a further step", where, "put compile last, or leave it out"
                )

    @property
    def folders(self) -> tuple[str, ...]:
        """Names of the results: ``1-skipclip``."""
        return tuple(f"{number}-{step.name}" for number, step in enumerate(self.steps, 1))

    def place(self, name: str) -> int:
        """Index of a step by its name, folder or number.

        Raises:
            UsageError: ``RUB-SHRINK-094``.
        """
        for index, folder in enumerate(self.folders):
            if name in (folder, self.steps[index].name, str(index + 1)):
                return index
        what = f"{self.source} has no step {name[:60]!r}"
        raise UsageError("RUB-SHRINK-094", what, hint=f"give one of {', '.join(self.folders)}")
