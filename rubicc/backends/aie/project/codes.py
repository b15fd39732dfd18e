"""Catalogue of the AI Engine target's codes 4xx: the emitted project."""

from __future__ import annotations

CODES: dict[str, tuple[str, str]] = {
    "RUB-AIE-401": (
        "A plan with impossible names",
        "Tiles, buffers and ports of a plan are called as C++ wants it, because their names go into the "
        "project's sources. The plan was changed or made elsewhere. Compile again, and report it if the "
        "plan is rubicc's own.",
    ),
}
