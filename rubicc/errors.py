"""The one error hierarchy. Every refusal a user can meet is a :class:`RubiccError` with a code.

A code (``RUB-READ-003``) names its entry in the room's ``codes.py``; ``rubicc explain CODE`` prints it.
Exit codes are the contract in README: 0 ok, 1 internal, 2 usage, 3 unreadable or unsafe model,
4 unsupported by the target, 5 verification failed, 6 budget exceeded, 7 external tool missing or failed,
8 output exists and is not ours, 130 interrupted.
"""

from __future__ import annotations

from typing import ClassVar


class RubiccError(Exception):
    """Something the user can act on: what happened, where, and how to mend it.

    Attributes:
        code: catalogue code such as ``RUB-READ-003``.
        what: one sentence with the number or name that broke the rule.
        where: file, node or module path; empty when there is none.
        hint: how to mend it; empty when nothing sensible can be said.
        exit_code: the process exit code this error maps to.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, code: str, what: str, *, where: str = "", hint: str = "") -> None:
        super().__init__(code, what, where, hint)
        self.code = code
        self.what = what
        self.where = where
        self.hint = hint

    def __str__(self) -> str:
        parts = [self.what] + [part for part in (self.where, self.hint) if part]
        return f"error[{self.code}]: " + " · ".join(parts)

    def to_dict(self) -> dict[str, object]:
        """The JSON form printed under ``--format json``."""
        return {
            "code": self.code,
            "what": self.what,
            "where": self.where,
            "hint": self.hint,
            "exit_code": self.exit_code,
        }


class UsageError(RubiccError):
    """Wrong flags, unknown keys, impossible configuration."""

    exit_code = 2


class ModelRefused(RubiccError):
    """The model (or read) file is unreadable, malformed, or refused as unsafe."""

    exit_code = 3


class Unsupported(RubiccError):
    """The target cannot take this graph. ``findings`` holds the whole table, never only the first row."""

    exit_code = 4

    def __init__(
        self,
        code: str,
        what: str,
        *,
        where: str = "",
        hint: str = "",
        findings: tuple[object, ...] = (),
    ) -> None:
        super().__init__(code, what, where=where, hint=hint)
        self.findings = findings


class VerificationFailed(RubiccError):
    """The artefact, a pass or the lowering does not compute what its source computes."""

    exit_code = 5


class BudgetExceeded(RubiccError):
    """A latency, size or accuracy budget does not hold."""

    exit_code = 6


class ToolMissing(RubiccError):
    """An external tool, runtime or device is missing or failed."""

    exit_code = 7


class OutputExists(RubiccError):
    """The output path holds something rubicc did not write."""

    exit_code = 8
