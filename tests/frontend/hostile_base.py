"""What a hostile case is, and the payload every executing one carries: making one empty folder."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HARMLESS = ""


@dataclass(frozen=True)
class Case:
    """One bad model.

    Attributes:
        name: unique, ``group-what``.
        make: writes the file or folder into the given (empty) folder and returns what to give as MODEL; the
            second argument is the path a payload would create.
        code: expected error code; :data:`HARMLESS` where the dangerous part is dropped and the rest reads.
        options: keyword arguments of ``read_model`` (``arch`` and so on).
        wanted: text the error must contain.
        live: opens the file the unsafe way, to prove that the payload works.
    """

    name: str
    make: Callable[[Path, Path], Path | str]
    code: str
    options: Mapping[str, Any] = field(default_factory=dict)
    wanted: str = ""
    live: Callable[[Path], Any] | None = None

    @property
    def group(self) -> str:
        """Format the case belongs to."""
        return self.name.partition("-")[0]

    @property
    def exit_code(self) -> int | None:
        """Exit code of the command line; ``None`` when the model reads."""
        if self.code == HARMLESS:
            return None
        usage = (
            "RUB-READ-031",
            "RUB-READ-032",
            "RUB-READ-070",
            "RUB-READ-071",
            "RUB-MODEL-001",
            "RUB-SPEC-001",
        )
        return 2 if self.code in usage else 3


class Payload:
    """Unpickling an instance makes the folder ``marker``."""

    def __init__(self, marker: Path) -> None:
        self.marker = str(marker)

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return os.mkdir, (self.marker,)


MGRU = {"arch": "taiyaki-mgru", "arch_config": {"size": 8, "layers": 2}}


def mgru(**changes: Any) -> Any:
    """A tiny taiyaki-mgru network."""
    from rubicc.models import registry

    entry = registry.get("taiyaki-mgru")
    return entry.build(entry.config_from_dict({"size": 8, "layers": 2, **changes}), seed=0)
