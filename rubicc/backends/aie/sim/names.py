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
_MEMBER = re.compile(r"(?:\.|->)\s*(?:template\s+)?([A-Za-z_]\w*)\s*(?:<[^;(){}]*>)?\s*\(")
_DEFINED = re.compile(r"(?<![\w.>])([A-Za-z_]\w*)\s*\([^;{}]*\)\s*(?:const\s*)?(?:\{|;|:[^:])")
_MACROS = re.compile(r"^(?:chess_\w+|__aie_\w+|REGISTER_\w+)$")


@functools.cache
def listed() -> dict[str, str]:
    """Name as C++ spells it -> title and address of the page that describes it."""
    table = json.loads((HOME / "names.json").read_text())
    pages = {key: f"{page['title']} ({page['address']})" for key, page in table["sources"].items()}
    return {name: pages[key] for name, key in table["names"].items()}


@functools.cache
def members() -> dict[str, str]:
    """Members of AMD's types (``mac``, ``extract``) -> title and address of the page that describes them."""
    table = json.loads((HOME / "names.json").read_text())
    pages = {key: f"{page['title']} ({page['address']})" for key, page in table["sources"].items()}
    return {name: pages[key] for name, key in table["members"].items()}


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


def called(text: str) -> set[str]:
    """Names of member functions that C++ text calls, whoever's they are."""
    return set(_MEMBER.findall(_STRING.sub('""', _COMMENT.sub(" ", text))))


def undocumented(*files: Path) -> dict[str, list[str]]:
    """Names in C++ files that the list does not hold, by file.

    Member functions (shown with a dot) are AMD's where none of the files defines one of that name.
    """
    texts = {path: path.read_text(errors="replace") for path in files}
    own: set[str] = set()
    for text in texts.values():
        own.update(_DEFINED.findall(_STRING.sub('""', _COMMENT.sub(" ", text))))
    wrong = {}
    for path, text in texts.items():
        names = sorted(used(text) - set(listed()))
        names += sorted(f".{name}" for name in called(text) - own - set(members()))
        if names:
            wrong[path.name] = names
    return wrong
