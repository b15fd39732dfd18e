"""Text that strangers wrote, made safe to show; and numbers made readable."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def clean(text: object) -> str:
    """``text`` with control and format characters written as escapes (terminal escapes, newlines, bidi)."""
    value = str(text)
    if value.isprintable():
        return value
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in value)


def printable(text: str, length: int = 80) -> str:
    """The first ``length`` characters of a text from a file, without any that could drive a terminal."""
    return "".join(c if c.isprintable() else "\ufffd" for c in text[:length])


def first_line(err: BaseException, length: int = 200) -> str:
    """A library's complaint in one printable line; its type where it says nothing."""
    text = str(err).strip() or type(err).__name__
    return printable(text.splitlines()[0], length)


def did_you_mean(word: object, known: Iterable[str], otherwise: str, cutoff: float = 0.6) -> str:
    """The hint of an error about an unknown ``word``: the nearest known one, or ``otherwise``."""
    near = difflib.get_close_matches(str(word)[:80], list(known), n=1, cutoff=cutoff)
    return f"did you mean {near[0]!r}?" if near else otherwise


def si(value: float, unit: str = "") -> str:
    """Three significant digits with a decimal prefix: ``1234567`` is ``1.23 M``."""
    for factor, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= factor:
            return f"{value / factor:.3g} {prefix}{unit}"
    return f"{value:.3g} {unit}".rstrip()
