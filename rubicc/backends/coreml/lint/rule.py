"""What a rule is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from rubicc.backends.coreml.lint.codes import ENTRIES
from rubicc.backends.coreml.lint.facts import Op
from rubicc.backends.coreml.lint.hits import Hit, Verdict
from rubicc.backends.coreml.lint.on_packages import Whole
from rubicc.backends.coreml.lint.sources import SOURCES, Source

OpTest = Callable[[Op, str | None], Hit | None]
PackageTest = Callable[[Whole], Hit | None]


@dataclass(frozen=True)
class Rule:
    """One rule.

    Attributes:
        id: code of its entry in ``codes.py``.
        verdict: what it says of an operation it holds for, unless the test says otherwise.
        condition: when it holds, in words.
        sources: ids of the sources it rests on.
        against: ids of sources that say otherwise.
        op: test of one operation.
        package: test of a whole package.
        weights: applies to constants and weights unpacked at load instead of operations at run time.
    """

    id: str
    verdict: Verdict
    condition: str
    sources: tuple[str, ...]
    against: tuple[str, ...] = ()
    op: OpTest | None = None
    package: PackageTest | None = None
    weights: bool = False

    @property
    def title(self) -> str:
        """Short name."""
        return ENTRIES[self.id][0]

    @property
    def why(self) -> str:
        """Why it holds."""
        return ENTRIES[self.id][1]

    @property
    def remedy(self) -> str:
        """How to mend it."""
        return ENTRIES[self.id][2]

    @property
    def cited(self) -> tuple[Source, ...]:
        """The sources it rests on."""
        return tuple(SOURCES[name] for name in self.sources)


def rule(
    code: str,
    verdict: Verdict,
    condition: str,
    sources: str,
    against: str = "",
    *,
    op: OpTest | None = None,
    package: PackageTest | None = None,
    weights: bool = False,
) -> Rule:
    """A row of the table; ``sources`` and ``against`` are ids with spaces between."""
    cited, other = tuple(sources.split()), tuple(against.split())
    return Rule(code, verdict, condition, cited, other, op=op, package=package, weights=weights)
