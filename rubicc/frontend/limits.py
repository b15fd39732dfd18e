"""Bounds of what a reader accepts. Real models stay far below them; bombs do not."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Sizes in bytes unless said otherwise.

    Attributes:
        file: largest model file.
        entries: most entries in an archive, most files in a folder.
        entry_text: largest JSON, TOML or pickle stream that is parsed in memory.
        opcodes: most instructions of a pickle stream.
        depth: deepest nesting of parsed data.
        dims: highest tensor rank.
        config_int: largest magnitude of an integer in a model's configuration.
        config_items: most values in a model's configuration.
        layers: largest number of repeated layers a configuration may ask for.
    """

    file: int = 16 << 30
    entries: int = 20_000
    entry_text: int = 64 << 20
    opcodes: int = 5_000_000
    depth: int = 64
    dims: int = 16
    config_int: int = 1 << 20
    config_items: int = 20_000
    layers: int = 1024


DEFAULT = Limits()
