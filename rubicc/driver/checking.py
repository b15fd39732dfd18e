"""Files in a target's own form, of any origin, judged without a model to compare them with."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from rubicc.errors import UsageError

if TYPE_CHECKING:
    from rubicc.backends.base import Checked
    from rubicc.settings import Settings


def check_files(
    path: Path, settings: Settings, audit: Path | None, page: Path | None, *, force: bool
) -> Checked | None:
    """See :func:`rubicc.api.check_files`."""
    from rubicc.backends import registry

    target = registry.parse_target(settings.target)
    backend: Any = registry.get(target)
    suffix = getattr(backend, "suffix", "")
    if not suffix or path.suffix != suffix:
        if audit is None and page is None:
            return None
        flag = "--audit" if audit is not None else "--page"
        what = f"{flag} goes with a file that {settings.target} has written{f' (*{suffix})' * bool(suffix)}"
        raise UsageError("RUB-DRV-018", what, where=str(path), hint="give --target coreml and a package")
    found: Checked = backend.check_files(path, target, strict=settings.strict, audit=audit)
    if page is not None:
        _write(page, path.name, str(target), found, force=force)
    return found


def _write(page: Path, name: str, target: str, found: Checked, *, force: bool) -> None:
    from rubicc.evidence.page import render_placements
    from rubicc.evidence.report import decode_placement
    from rubicc.evidence.staging import StagedFile

    refused = sum(finding.severity == "error" for finding in found.findings)
    facts = {"target": target, "refusals": refused, "warnings": len(found.findings) - refused}
    with StagedFile(page, force=force, mode="w") as file:
        file.write(render_placements(name, facts, map(decode_placement, found.placements)))
