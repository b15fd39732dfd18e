"""Plugins: targets, passes and networks that installed packages announce as entry points.

The three registries hold one :class:`Plugins` each. Listing names imports nothing; a plugin is imported when
it is asked for, and one that fails does so alone and by name. ``RUBICC_PLUGINS=0`` ignores all of them.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Collection
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Generic, TypeVar

T = TypeVar("T")
VARIABLE = "RUBICC_PLUGINS"
REMEDY = f"update or uninstall that package, or set {VARIABLE}=0"


class Unfit(Exception):
    """A plugin loads, but offers something its group cannot use; the text says why."""


@dataclass(frozen=True)
class Plugin:
    """One announced plugin, for ``rubicc env``.

    Attributes:
        origin: distribution and version that announce it.
        error: why it cannot be used; empty when it loads.
    """

    id: str
    origin: str
    error: str


@functools.cache
def _scan(group: str, path: tuple[str, ...]) -> dict[str, EntryPoint]:
    """Name -> entry point of a group; reading the folders of ``path`` (sys.path) takes a while."""
    return {point.name: point for point in entry_points(group=group)}


def origin(point: EntryPoint) -> str:
    """``distribution version`` of the package that announces a plugin."""
    return f"{point.dist.name} {point.dist.version}" if point.dist is not None else "unknown package"


class Plugins(Generic[T]):
    """The plugins of one entry-point group.

    Args:
        group: name of the entry-point group.
        builtin: names that no plugin can take.
        accept: turns what a plugin offers into what the registry hands out; raises :class:`Unfit`.
    """

    def __init__(self, group: str, builtin: Collection[str], accept: Callable[[EntryPoint, Any], T]) -> None:
        self.group = group
        self._builtin = builtin
        self._accept = accept

    def points(self) -> dict[str, EntryPoint]:
        """Name -> entry point of every plugin that can be asked for; imports none of them."""
        return {name: point for name, point in self._announced().items() if name not in self._builtin}

    def _announced(self) -> dict[str, EntryPoint]:
        return {} if os.environ.get(VARIABLE) == "0" else _scan(self.group, tuple(sys.path))

    def load(self, name: str) -> tuple[T | None, str]:
        """What the plugin ``name`` offers, imported now; or ``None`` and why it cannot be used."""
        point = self.points()[name]
        try:
            return self._accept(point, point.load()), ""
        except Unfit as err:
            return None, str(err)
        except (Exception, SystemExit) as err:  # a foreign package may raise anything
            return None, f"{type(err).__name__}: {err}"

    def versions(self) -> dict[str, str]:
        """Name -> ``distribution version`` of every plugin, sorted; imports none (for the manifest)."""
        return {name: origin(point) for name, point in sorted(self.points().items())}

    def rows(self) -> tuple[Plugin, ...]:
        """Every announced plugin, loaded, with the reason where that fails."""
        return tuple(
            Plugin(
                name,
                origin(point),
                "shadowed by the built-in one of this name" if name in self._builtin else self.load(name)[1],
            )
            for name, point in sorted(self._announced().items())
        )


def groups() -> tuple[Plugins[Any], ...]:
    """The plugins of every registry; imports the registries, which are light."""
    from rubicc.backends.registry import PLUGINS as targets
    from rubicc.models.registry import PLUGINS as models
    from rubicc.passes.registry import PLUGINS as passes

    return (targets, models, passes)


def versions() -> dict[str, str]:
    """``group:name`` -> package and version of every plugin of every group (for the manifest)."""
    return {f"{g.group}:{name}": version for g in groups() for name, version in g.versions().items()}
