"""Text that goes into C++, Make and configuration files; names of a model never reach them as they are."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.resources import files

from rubicc.errors import Unsupported

_WORDS = re.compile(r"[^A-Za-z0-9 _.:,()=+\-/]")
_IDENTIFIER = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,79}")
_MARK = re.compile(r"@([A-Z_]+)@")
MOST = 120


def words(text: str) -> str:
    """``text`` for a comment: one line without anything that ends or continues one."""
    shown = _WORDS.sub("_", text)[:MOST]
    return shown.replace("//", "_/").rstrip(" .") or "_"


def identifier(text: str) -> str:
    """``text``, which must be a name in C++ and Make.

    Raises:
        Unsupported: ``RUB-AIE-401``.
    """
    if not _IDENTIFIER.fullmatch(text):
        raise Unsupported("RUB-AIE-401", f"{text[:80]!r} is no C++ name", where="the plan")
    return text


def project_name(text: str) -> str:
    """A model's name as a name of files and of the project."""
    made = re.sub(r"[^A-Za-z0-9_]", "_", text)[:48].strip("_")
    return made if made[:1].isalpha() else f"model_{made}".rstrip("_")


def template(name: str, values: Mapping[str, object]) -> str:
    """A file of ``templates/`` with every ``@NAME@`` replaced; marks and values must be the same."""
    text = files("rubicc.backends.aie.project.templates").joinpath(name).read_text(encoding="utf-8")
    marks = set(_MARK.findall(text))
    if marks != set(values):
        odd = ", ".join(sorted(marks ^ set(values)))
        raise AssertionError(f"template {name} and its values differ in {odd}")
    return _MARK.sub(lambda match: str(values[match[1]]), text)
