"""A compiled artefact on disk: typed manifest and report, sessions, verification."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rubicc.errors import ModelRefused
from rubicc.evidence import manifest as manifests
from rubicc.evidence import report as reports

if TYPE_CHECKING:
    from rubicc.backends.base import Backend
    from rubicc.spec import ModelMeta


@dataclass(frozen=True)
class Artefact:
    """What ``compile`` returns and ``open_artefact`` reads.

    Attributes:
        path: its folder; ``None`` after a dry run.
        manifest: what it is made of.
        report: what was proven, measured and decided.
    """

    path: Path | None
    manifest: manifests.Manifest
    report: reports.Report

    @property
    def folder(self) -> Path:
        """Its folder.

        Raises:
            ModelRefused: ``RUB-DRV-007`` after a dry run.
        """
        if self.path is None:
            raise ModelRefused("RUB-DRV-007", "a dry run leaves no artefact")
        return self.path

    @property
    def backend(self) -> Backend:
        """The backend that made it."""
        from rubicc.backends import registry

        return registry.get(self.manifest.target)

    def session(self, **options: Any) -> Any:
        """Run the emitted files: ``session.run({"x": array}) -> {"y": array}``.

        Args:
            options: of the backend's ``open_session`` (``runtime``, ``threads`` for cpu and gpu).

        Raises:
            ModelRefused: ``RUB-DRV-007`` when compilation stopped before anything was emitted.
        """
        home = self.folder / self.backend.folder
        if not home.is_dir():
            raise ModelRefused(
                "RUB-DRV-007",
                "compilation stopped at --until-stage: nothing was emitted",
                where=self.folder.name,
            )
        return self.backend.open_session(home, **options)

    @property
    def meta(self) -> ModelMeta | None:
        """Metadata of the emitted model."""
        with self.session() as session:
            return session.meta


def is_artefact(path: str | Path) -> bool:
    """Whether ``path`` is the folder of a compilation; that of another verb (``train``) is a model."""
    return os.path.isdir(path) and manifests.is_ours(Path(path)) and not _made_by_another(path)


def _made_by_another(path: str | Path) -> tuple[str, str] | None:
    """What the folder of another verb is, and what to do with it; None for any other."""
    from rubicc.frontend.detect import CHAIN, RESULT

    names = set(os.listdir(path)) if os.path.isdir(path) else set()
    if CHAIN in names:
        return "the results of a chain, not one artefact", "give the folder of a step"
    if names >= RESULT:
        return "a model that another verb has made, not an artefact", "compile it first"
    return None


def open_artefact(path: str | Path) -> Artefact:
    """Read the manifest and report of a folder.

    Raises:
        ModelRefused: ``RUB-ART-010`` no or unreadable manifest; ``RUB-DRV-007`` it is a model.
    """
    path = Path(path)
    other = _made_by_another(path)
    if other is not None:
        raise ModelRefused("RUB-DRV-007", other[0], where=path.name, hint=other[1])
    return Artefact(path, manifests.read(path), reports.read(path))
