"""Which names of AMD's interfaces code uses, and where each is described (``names.json``)."""

from __future__ import annotations

import functools
import json
import re
from pathlib import Path

from rubicc.backends.aie.sim.tools import HOME

_COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.S)
_STRING = re.compile(r'"(?:\\.|[^"\\\n])*"')
_QUALIFIED = re.compile(r"\b(?:aie|adf)(?:::[A-Za-z_]\w*)+")
_WORD = re.compile(r"(?<![:\w.])[A-Za-z_]\w*")
_MACROS = re.compile(r"^(?:chess_\w+|__aie_\w+|REGISTER_\w+)$")


@functools.cache
def listed() -> dict[str, str]:
    """Name as C++ spells it -> title and address of the page that describes it."""
    table = json.loads((HOME / "names.json").read_text())
    pages = {key: f"{page['title']} ({page['address']})" for key, page in table["sources"].items()}
    return {name: pages[key] for name, key in table["names"].items()}


def used(text: str) -> set[str]:
    """Names of AMD's interfaces in C++ text: all below ``aie`` and ``adf``, and its macros.

    Names without a namespace count where the list has them below ``adf`` and the text uses that namespace.
    """
    text = _STRING.sub('""', _COMMENT.sub(" ", text))
    found = {_known(name) for name in _QUALIFIED.findall(text)}
    known = listed()
    for word in _WORD.findall(_QUALIFIED.sub(" ", text)):
        if word in known or _MACROS.match(word):
            found.add(word)
        elif f"adf::{word}" in known and "using namespace adf" in text:
            found.add(f"adf::{word}")
    return found


def _known(name: str) -> str:
    """The longest listed beginning of a name (``aie::rounding_mode::floor`` is of ``aie::rounding_mode``)."""
    parts = name.split("::")
    for end in range(len(parts), 1, -1):
        if "::".join(parts[:end]) in listed():
            return "::".join(parts[:end])
    return name


def undocumented(*files: Path) -> dict[str, list[str]]:
    """Names in C++ files that the list does not hold, by file."""
    wrong = {}
    for path in files:
        names = sorted(used(path.read_text(errors="replace")) - set(listed()))
        if names:
            wrong[path.name] = names
    return wrong
