"""What a rule's test gives back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

# ``hint`` never changes where an operation counts: it says what may cost time or accuracy.
Verdict = Literal["eligible", "not", "unknown", "hint"]


@dataclass(frozen=True)
class Hit:
    """A rule that holds for an operation or a package.

    Attributes:
        reason: with the number or name that makes it hold.
        verdict: where it differs from the rule's own, e.g. for a size that only some chips take.
    """

    reason: str
    verdict: Verdict | None = None
