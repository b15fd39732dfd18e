"""Text that becomes Swift: identifiers, literals and comments from names that strangers chose."""

from __future__ import annotations

import math
import re

from rubicc.text import printable

# Swift keywords, and the names that the wrapper's own code has for other things.
_TAKEN = frozenset(
    """
    associatedtype class deinit enum extension fileprivate func import init inout internal let open operator
    private precedencegroup protocol public rethrows static struct subscript typealias var break case catch
    continue default defer do else fallthrough for guard if in repeat return throw switch where while any as
    await false is nil self super throws true try actor async some
    array check features init model
    """.split()  # noqa: SIM905
)


def type_name(name: str) -> str:
    """``dna-bert`` as ``DnaBert``, the beginning of the names of the package's module and main type."""
    parts = re.findall(r"[A-Za-z0-9]+", name[:80])
    joined = "".join(part[0].upper() + part[1:] for part in parts) or "Model"
    return "Model" + joined if joined[0].isdigit() else joined


def property_names(names: list[str]) -> list[str]:
    """``input_ids`` as ``inputIds``, each different and no word of Swift's or the wrapper's, in order."""
    taken: set[str] = set()
    made = []
    for name in names:
        parts = re.findall(r"[A-Za-z0-9]+", name[:80])
        word = (
            "".join(part if i == 0 else part[0].upper() + part[1:] for i, part in enumerate(parts)) or "value"
        )
        word = word[0].lower() + word[1:]
        if word[0].isdigit():
            word = "value" + word
        if word in _TAKEN:
            word += "Value"
        unique, count = word, 2
        while unique in taken:
            unique, count = f"{word}{count}", count + 1
        taken.add(unique)
        made.append(unique)
    return made


def literal(text: str) -> str:
    """A Swift string literal that holds exactly ``text``; halves of surrogate pairs, which Swift's strings
    cannot hold, become U+FFFD."""
    made = []
    for letter in text:
        if letter in '\\"':
            made.append("\\" + letter)
        elif letter.isprintable():
            made.append(letter)
        elif 0xD800 <= ord(letter) <= 0xDFFF:
            made.append("\ufffd")
        else:
            made.append(f"\\u{{{ord(letter):x}}}")
    return '"' + "".join(made) + '"'


def comment(text: object) -> str:
    """Text that stays within one line of a comment."""
    return printable(str(text), 120)


def number(value: float) -> str:
    """A Swift floating-point literal.

    Raises:
        ValueError: not finite.
    """
    if not math.isfinite(value):
        raise ValueError(f"{value} has no literal")
    return repr(float(value))
