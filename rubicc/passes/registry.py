"""What a pass is, and where to find one by its id.

Listing ids imports no pass: built-in ones stand in a table, plugin ones in the entry-point group
``rubicc.passes`` (entry name = pass id, entry value = ``module:Class``). A pass is imported when it is first
asked for. A plugin that cannot be imported fails alone and by name; ``RUBICC_PLUGINS=0`` ignores all of them.
"""

from __future__ import annotations

import difflib
import functools
import os
from dataclasses import MISSING, dataclass, fields, is_dataclass
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from inspect import cleandoc
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from rubicc.errors import UsageError

if TYPE_CHECKING:
    from rubicc.evidence.decision import Decision
    from rubicc.ir.graph import Graph

ENTRY_POINT_GROUP = "rubicc.passes"

_TABLE: dict[str, str] = {
    "cleanup.batchnorm-to-affine": "rubicc.passes.cleanup.batchnorm_to_affine",
    "cleanup.deduplicate": "rubicc.passes.cleanup.deduplicate",
    "cleanup.drop-zero-states": "rubicc.passes.cleanup.drop_zero_states",
    "cleanup.eliminate-dead": "rubicc.passes.cleanup.eliminate_dead",
    "cleanup.eliminate-identity": "rubicc.passes.cleanup.eliminate_identity",
    "cleanup.fold-constants": "rubicc.passes.cleanup.fold_constants",
    "cleanup.fuse-batchnorm": "rubicc.passes.cleanup.fuse_batchnorm",
    "cleanup.infer-shapes": "rubicc.passes.cleanup.infer_shapes",
    "cleanup.lift-constants": "rubicc.passes.cleanup.lift_constants",
    "cleanup.merge-transposes": "rubicc.passes.cleanup.merge_transposes",
    "cleanup.name-nodes": "rubicc.passes.cleanup.name_nodes",
    "lower.expand-quant": "rubicc.passes.lower.expand_quant",
    "lower.to-fp16": "rubicc.passes.lower.to_fp16",
}


@dataclass(frozen=True)
class NoOptions:
    """Options of a pass that has none."""


@dataclass(frozen=True)
class Note:
    """Something a pass saw and left alone, for the report: not a change, so not a Decision.

    Attributes:
        where: provenance of the node.
        what: what was left and why.
    """

    where: str
    what: str


class Pass:
    """One rewrite. Subclass, decorate with :func:`register`, override :meth:`run`.

    Class attributes:
        id: ``family.name``, unique.
        requires: properties an earlier pass of the pipeline must ensure.
        ensures: properties that hold afterwards, whatever the graph was.
        exact: computes the same function in exact arithmetic; ``False`` for passes that trade accuracy.
        tolerance: largest allowed ``max|after - before| / max|before|`` per output. 0 with ``exact`` means
            bit for bit; above 0 with ``exact`` allows for float reassociation.
        fixed_point: the manager repeats the pass until it reports no change.
        Options: frozen dataclass, every field with a default.

    Attributes:
        options: the options of this run.
        notes: what the pass left alone and why (filled while running).
        decisions: what it did that nobody literally asked for (filled while running).
    """

    id: ClassVar[str] = ""
    requires: ClassVar[frozenset[str]] = frozenset()
    ensures: ClassVar[frozenset[str]] = frozenset()
    exact: ClassVar[bool] = True
    tolerance: ClassVar[float] = 0.0
    fixed_point: ClassVar[bool] = False
    Options: ClassVar[type] = NoOptions

    def __init__(self, options: Any = None) -> None:
        self.options: Any = self.Options() if options is None else options
        self.notes: list[Note] = []
        self.decisions: list[Decision] = []

    def run(self, graph: Graph) -> bool:
        """Rewrite ``graph`` in place; returns whether anything changed."""
        raise AssertionError(f"{type(self).__name__} does not override Pass.run")

    def note(self, where: str, what: str) -> None:
        """Record once that something at ``where`` was left alone."""
        entry = Note(where, what)
        if entry not in self.notes:
            self.notes.append(entry)


P = TypeVar("P", bound=type[Pass])
_CLASSES: dict[str, type[Pass]] = {}


def register(cls: P) -> P:
    """Class decorator: check the declaration of a pass and make it known under its id.

    Raises:
        UsageError: ``RUB-PASS-002``, the declaration is wrong or the id is taken.
    """
    fault = _fault(cls)
    taken = _CLASSES.get(cls.id)
    if fault is None and taken is not None and taken is not cls:
        fault = f"id {cls.id!r} is taken by {taken.__module__}.{taken.__qualname__}"
    if fault is None and cls.id in _TABLE and cls.__module__ != _TABLE[cls.id]:
        fault = f"id {cls.id!r} is built in ({_TABLE[cls.id]})"
    if fault is not None:
        raise UsageError("RUB-PASS-002", f"pass {cls.__qualname__}: {fault}", where=cls.__module__)
    _CLASSES[cls.id] = cls
    return cls


def _fault(cls: type[Pass]) -> str | None:
    family, _, name = cls.id.partition(".")
    if not family or not name:
        return f"id {cls.id!r} is not of the form 'family.name'"
    if not (cls.__doc__ or "").strip():
        return "has no docstring"
    if cls.run is Pass.run:
        return "does not override run"
    if not is_dataclass(cls.Options):
        return "Options is not a dataclass"
    for field in fields(cls.Options):
        if field.default is MISSING and field.default_factory is MISSING:
            return f"option {field.name!r} has no default"
    if cls.tolerance < 0 or (not cls.exact and cls.tolerance == 0):
        return "an inexact pass must declare a tolerance above 0"
    return None


def unregister(pass_id: str) -> None:
    """Forget a class registered at run time (tests and notebooks that redefine a pass)."""
    _CLASSES.pop(pass_id, None)


def ids() -> tuple[str, ...]:
    """Ids of all passes, sorted; imports none of them."""
    return tuple(sorted({*_TABLE, *_CLASSES, *_plugins()}))


def get(pass_id: str) -> type[Pass]:
    """The class of a pass, imported now if need be.

    Raises:
        UsageError: ``RUB-PASS-001`` unknown id; ``RUB-PASS-004`` its plugin cannot be loaded.
    """
    if pass_id not in _CLASSES:
        if pass_id in _TABLE:
            import_module(_TABLE[pass_id])
        elif pass_id in _plugins():
            _load_plugin(_plugins()[pass_id])
        else:
            near = difflib.get_close_matches(pass_id, ids(), n=1)
            hint = f"did you mean {near[0]!r}?" if near else "`rubicc passes list` prints all ids"
            raise UsageError("RUB-PASS-001", f"unknown pass {pass_id!r}", hint=hint)
    return _CLASSES[pass_id]


@functools.cache
def _scan() -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=ENTRY_POINT_GROUP)}


def _plugins() -> dict[str, EntryPoint]:
    return {} if os.environ.get("RUBICC_PLUGINS") == "0" else _scan()


def _load_plugin(entry: EntryPoint) -> None:
    owner = entry.dist.name if entry.dist is not None else entry.value
    try:
        cls = entry.load()
        if not (isinstance(cls, type) and issubclass(cls, Pass)):
            raise TypeError(f"{entry.value} is not a Pass")
        if cls.id != entry.name:
            raise TypeError(f"announced as {entry.name!r} but its id is {cls.id!r}")
        register(cls)
    except Exception as err:  # whatever a plugin raises must not look like a fault of rubicc
        raise UsageError(
            "RUB-PASS-004",
            f"plugin pass {entry.name!r} could not be loaded: {type(err).__name__}: {err}",
            where=f"package {owner}",
            hint="upgrade or remove the package, or set RUBICC_PLUGINS=0",
        ) from err


@dataclass(frozen=True)
class Plugin:
    """A pass announced by an installed package. ``error`` is empty when it loads."""

    id: str
    package: str
    version: str
    error: str


def plugins() -> tuple[Plugin, ...]:
    """Every announced plugin pass, loaded, with the reason where that failed (for manifest and ``env``)."""
    rows = []
    for name, entry in sorted(_plugins().items()):
        error = "shadowed by the built-in pass of this id" if name in _TABLE else ""
        if not error:
            try:
                get(name)
            except UsageError as err:
                error = err.what
        dist = entry.dist
        rows.append(Plugin(name, dist.name if dist else "?", dist.version if dist else "?", error))
    return tuple(rows)


@dataclass(frozen=True)
class PassInfo:
    """What ``rubicc passes show`` prints. ``options`` holds (name, type, default) as text."""

    id: str
    summary: str
    text: str
    requires: tuple[str, ...]
    ensures: tuple[str, ...]
    exact: bool
    tolerance: float
    options: tuple[tuple[str, str, str], ...]


def info(pass_id: str) -> PassInfo:
    """Everything a pass declares, from its class."""
    cls = get(pass_id)
    text = cleandoc(cls.__doc__ or "")
    options, defaults = [], cls.Options()
    for field in fields(cls.Options):
        options.append((field.name, str(field.type), repr(getattr(defaults, field.name))))
    return PassInfo(
        id=cls.id,
        summary=text.split("\n\n")[0].replace("\n", " "),
        text=text,
        requires=tuple(sorted(cls.requires)),
        ensures=tuple(sorted(cls.ensures)),
        exact=cls.exact,
        tolerance=cls.tolerance,
        options=tuple(options),
    )
