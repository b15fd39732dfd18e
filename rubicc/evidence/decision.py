"""A Decision: one thing rubicc changed or chose that the user did not literally ask for."""

from __future__ import annotations

from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Decision:
    """One recorded choice. Under ``--strict`` any Decision is an error.

    Attributes:
        code: catalogue code, e.g. ``RUB-CPU-D02`` (``-D`` marks decisions).
        where: node name, module path or file the choice concerns.
        what: what was done, with numbers.
        reason: why.
    """

    code: str
    where: str
    what: str
    reason: str

    def to_dict(self) -> dict[str, str]:
        """Plain JSON values."""
        return asdict(self)
