"""What a pass is, and where to find one by its id.

Listing ids imports no pass: built-in ones stand in a table, plugin ones in the entry-point group
``rubicc.passes`` (entry name = pass id, entry value = ``module:Class``). A pass is imported when it is first
asked for.
"""

from __future__ import annotations

from dataclasses import MISSING, dataclass, fields, is_dataclass
from importlib import import_module
from importlib.metadata import EntryPoint
from inspect import cleandoc
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from rubicc.errors import UsageError
from rubicc.plugins import REMEDY, Plugin, Plugins, Unfit, origin
from rubicc.text import did_you_mean

if TYPE_CHECKING:
    from rubicc.evidence.decision import Decision
    from rubicc.ir.graph import Graph

ENTRY_POINT_GROUP = "rubicc.passes"

_TABLE: dict[str, str] = {
    "ane.attention": "rubicc.passes.ane.attention",
    "ane.gelu": "rubicc.passes.ane.gelu",
    "ane.layer-norm": "rubicc.passes.ane.layer_norm",
    "ane.layout": "rubicc.passes.ane.layout",
    "ane.linear-to-conv": "rubicc.passes.ane.linear_to_conv",
    "ane.mask": "rubicc.passes.ane.mask",
    "ane.align": "rubicc.passes.ane.align",
    "ane.chunk": "rubicc.passes.ane.chunk",
    "ane.conv1d-to-conv2d": "rubicc.passes.ane.conv1d_to_conv2d",
    "ane.remove-transposes": "rubicc.passes.ane.remove_transposes",
    "ane.unflatten": "rubicc.passes.ane.unflatten",
    "ane.wide-kernels": "rubicc.passes.ane.wide_kernels",
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
    "integer.blocks": "rubicc.passes.integer.blocks",
    "integer.legalise": "rubicc.passes.integer.legalise",
    "integer.place": "rubicc.passes.integer.place",
    "integer.recurrence": "rubicc.passes.integer.recurrence",
    "integer.split-wide": "rubicc.passes.integer.split_wide",
    "integer.strip": "rubicc.passes.integer.strip",
    "layout.polyphase": "rubicc.passes.layout.polyphase",
    "lower.expand-quant": "rubicc.passes.lower.expand_quant",
    "lower.to-fp16": "rubicc.passes.lower.to_fp16",
    "prune.channels": "rubicc.passes.prune.channels",
    "prune.weights": "rubicc.passes.prune.weights",
    "quantize.bias-correction": "rubicc.passes.quantize.bias_correction",
    "quantize.bias-grid": "rubicc.passes.quantize.bias_grid",
    "quantize.equalise": "rubicc.passes.quantize.equalise",
    "quantize.insert": "rubicc.passes.quantize.insert",
    "quantize.palettize": "rubicc.passes.quantize.palettize",
    "quantize.sparsify": "rubicc.passes.quantize.sparsify",
    "quantize.to-qdq": "rubicc.passes.quantize.to_qdq",
    "quantize.weights": "rubicc.passes.quantize.weights",
    "skip.fold": "rubicc.passes.skip.fold",
    "skip.remove": "rubicc.passes.skip.remove",
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

    def changes_interface(self) -> bool:
        """Whether the options ask for other inputs or outputs; no pass may change them otherwise."""
        return False

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
    return tuple(sorted({*_TABLE, *_CLASSES, *PLUGINS.points()}))


def get(pass_id: str) -> type[Pass]:
    """The class of a pass, imported now if need be.

    Raises:
        UsageError: ``RUB-PASS-001`` unknown id; ``RUB-PASS-004`` its plugin cannot be loaded.
    """
    if pass_id not in _CLASSES:
        if pass_id in _TABLE:
            import_module(_TABLE[pass_id])
        elif pass_id in PLUGINS.points():
            _load_plugin(PLUGINS.points()[pass_id])
        else:
            hint = did_you_mean(pass_id, ids(), "`rubicc passes list` prints all ids")
            raise UsageError("RUB-PASS-001", f"unknown pass {pass_id!r}", hint=hint)
    return _CLASSES[pass_id]


def _accept(point: EntryPoint, offered: Any) -> type[Pass]:
    if not (isinstance(offered, type) and issubclass(offered, Pass)):
        raise Unfit(f"{point.value} is not a Pass")
    if offered.id != point.name:
        raise Unfit(f"announced as {point.name!r} but its id is {offered.id!r}")
    return register(offered)


PLUGINS = Plugins(ENTRY_POINT_GROUP, _TABLE, _accept)


def _load_plugin(point: EntryPoint) -> None:
    cls, error = PLUGINS.load(point.name)
    if cls is None:
        what = f"plugin pass {point.name!r} could not be loaded: {error}"
        raise UsageError("RUB-PASS-004", what, where=f"package {origin(point)}", hint=REMEDY)


def plugins() -> tuple[Plugin, ...]:
    """Every announced plugin pass, loaded, with the reason where that failed."""
    return PLUGINS.rows()


@dataclass(frozen=True)
class PassInfo:
    """What ``rubicc passes show`` prints. ``options`` maps a name to its ``type`` and ``default``."""

    id: str
    summary: str
    exact: bool
    tolerance: float
    requires: tuple[str, ...]
    ensures: tuple[str, ...]
    options: dict[str, dict[str, Any]]
    text: str


def info(pass_id: str) -> PassInfo:
    """Everything a pass declares, from its class."""
    cls = get(pass_id)
    text, defaults = cleandoc(cls.__doc__ or ""), cls.Options()
    return PassInfo(
        id=cls.id,
        summary=" ".join(text.partition("\n\n")[0].split()),
        exact=cls.exact,
        tolerance=cls.tolerance,
        requires=tuple(sorted(cls.requires)),
        ensures=tuple(sorted(cls.ensures)),
        options={
            field.name: {"type": str(field.type), "default": getattr(defaults, field.name)}
            for field in fields(cls.Options)
        },
        text=text,
    )
