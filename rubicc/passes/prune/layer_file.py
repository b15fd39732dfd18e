"""Shares of zeros per layer, from a file as Taiyaki's pruning takes them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from pathlib import Path

from rubicc.errors import UsageError
from rubicc.ir.graph import source_of
from rubicc.passes.quantize.sites import Site
from rubicc.passes.rewrite import is_standard
from rubicc.text import did_you_mean

_RECURRENT = {1: ("weight_ih_l0", "w_ih", "W"), 2: ("weight_hh_l0", "w_hh", "R")}


def read_layers(path: Path) -> dict[str, float]:
    """Layer names and shares of zeros, in turns on lines (or blanks) of their own; ``#`` begins a comment.

    Raises:
        UsageError: ``RUB-PASS-054``, a share is missing, no number, or not at least 0 and below 1.
    """
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as err:
        raise UsageError("RUB-PASS-054", f"cannot read it: {err}", where=str(path)) from err
    words = [word for line in lines for word in line.partition("#")[0].split()]
    if len(words) % 2 or not words:
        raise UsageError(
            "RUB-PASS-054",
            f"{len(words)} entries do not pair names with shares",
            where=str(path),
            hint="write each layer's name and then its share of zeros",
        )
    found: dict[str, float] = {}
    for name, text in zip(words[::2], words[1::2], strict=True):
        if name in found:
            raise UsageError("RUB-PASS-054", f"{name} stands there twice", where=str(path))
        found[name] = _share(name, text, path)
    return found


def _share(name: str, text: str, path: Path) -> float:
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not 0.0 <= share < 1.0:
        raise UsageError(
            "RUB-PASS-054",
            f"the share of {name} is {text!r}",
            where=str(path),
            hint="write a number of at least 0 and below 1",
        )
    return share


def titles(site: Site) -> tuple[str, ...]:
    """Names a weight answers to: the initializer's, PyTorch's, the layer's and the node's."""
    source, inputs = source_of(site.node), list(site.node.inputs)
    index = inputs.index(site.value) if site.value in inputs else 1  # else it is read through a quantiser
    roles = _RECURRENT.get(index, ()) if is_standard(site.node, "GRU", "LSTM") else ("weight",)
    return (site.name, *(f"{source}.{role}" for role in roles), source, site.node.name or "")


def assigned(found: Iterable[Site], layers: Mapping[str, float]) -> dict[str, float]:
    """Share of zeros by name of initializer; names may be patterns (``gru.*``), the first that fits counts.

    Raises:
        UsageError: ``RUB-PASS-050``, a name fits no weight.
    """
    result: dict[str, float] = {}
    used: set[str] = set()
    known: list[str] = []
    for site in found:
        names = titles(site)
        known += names
        for pattern, share in layers.items():
            if any(fnmatchcase(name, pattern) for name in names):
                used.add(pattern)
                result.setdefault(site.name, share)
    unknown = [pattern for pattern in layers if pattern not in used]
    if unknown:
        hint = did_you_mean(unknown[0], known, f"weights are {', '.join(dict.fromkeys(known))}")
        raise UsageError("RUB-PASS-050", f"no weight is called {unknown[0]!r}", hint=hint)
    return result
