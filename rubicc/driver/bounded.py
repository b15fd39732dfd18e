"""Targets whose inputs have fixed or bounded shapes: binding the graph, and inputs that fit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rubicc.driver.inputs import ProofInputs, digest, from_files, simulated
from rubicc.errors import UsageError
from rubicc.frontend.feeds import Feeds, draw
from rubicc.ir.graph import Graph, spec_of
from rubicc.shapes import InputShape, Shapes, resolve_shapes
from rubicc.spec import ModelMeta, TensorSpec

if TYPE_CHECKING:
    from rubicc.settings import Settings

# Share of the positions that a mask leaves, case by case: a network that attends to its padding is right for
# full sequences only.
FILLED = (1.0, 0.5, 0.1)
MAX_ITEMS = 2  # of real signal, where a target says nothing else: every one is run four times, at full length


def bound(graph: Graph, backend: Any, settings: Settings) -> tuple[Graph, Shapes | None]:
    """A copy of ``graph`` (weights shared) with numbers for every size the target needs one for.

    Raises:
        UsageError: ``RUB-SPEC-003`` ``--shapes`` does not fit, or is needed; ``RUB-DRV-016`` the target
            has no use for it.
    """
    from rubicc.ir.shapes import infer_shapes

    if not getattr(backend, "bounded", False):
        if "shapes" in settings.origins and settings.shapes != "fixed":
            hint = f"leave --shapes out; --target {settings.target} takes every shape the network takes"
            raise UsageError("RUB-DRV-016", "--shapes has no meaning for this target", hint=hint)
        return graph.clone(), None
    shapes = resolve_shapes([spec_of(value) for value in graph.inputs], graph.meta, settings.shapes)
    return infer_shapes(graph, shapes.bound), shapes


def bounded_inputs(
    shapes: Shapes,
    meta: ModelMeta | None,
    small: Sequence[Feeds],
    reference: Path | None,
    seed: int,
    *,
    ranges: bool = False,
    items: int = MAX_ITEMS,
) -> ProofInputs:
    """Inputs of every shape that may be asked for (both ends of a range), real or simulated where possible.

    Signal comes in several items, each a case of its own, because a package may take one at a time. Masks
    leave all, half and a tenth of the positions.

    Args:
        small: feeds of the two-shape check: they show how large token ids may be.
        ranges: the artefact's accuracy holds for values of the kind it was calibrated on: simulated signal
            stands in every shape then, in place of white noise, and no signal twice.
        items: of real signal.

    Raises:
        UsageError: ``RUB-DRV-006``.
    """
    limits = _limits(small)
    cases: dict[str, Feeds] = {}
    sha256 = ""
    if reference is not None:
        found = from_files(reference, meta, any_batch(shapes), items * shapes.inputs[0].default[0])
        _check_fits(found, shapes, reference)
        sha256 = digest(found)
        cases |= _items(f"reference data ({reference.name})", found, shapes)
    elif meta is not None and meta.task == "basecalling" and meta.signal is not None:
        first = shapes.inputs[0]
        signal = simulated(meta, first.default[-1], seed, first.default[0])
        cases |= _items("simulated signal", {first.name: signal}, shapes)
    rounds = max(len(shapes.assignments), len(FILLED) if _has_mask(shapes.inputs) else 1 + (not cases))
    for index in range(rounds):
        row = shapes.assignments[index % len(shapes.assignments)]
        specs = [TensorSpec(item.name, _bound_shape(item, row), item.dtype) for item in shapes.inputs]
        feeds = draw(specs, {}, seed + index, limits)
        _fill_masks(feeds, FILLED[index % len(FILLED)])
        kind = "drawn values"
        if ranges and meta is not None and meta.signal is not None and len(specs) == 1:
            kind, feeds = "simulated signal", _signal_like(feeds, meta, seed + index)
            if digest(feeds) in map(digest, cases.values()):
                continue
        sizes = ", ".join(f"{name} {'x'.join(map(str, array.shape))}" for name, array in feeds.items())
        cases[f"{kind} {index + 1}, {sizes}"] = feeds
    return ProofInputs(cases, sha256)


def _check_fits(feeds: Feeds, shapes: Shapes, path: Path) -> None:
    """Arrays have a shape that the artefact takes, but for how many items they hold.

    Raises:
        UsageError: ``RUB-DRV-006``.
    """
    for item in shapes.inputs:
        given = feeds[item.name].shape
        taken = [_bound_shape(item, row) for row in shapes.assignments]
        low, high = ([pick(sizes) for sizes in zip(*taken, strict=True)] for pick in (min, max))
        between = len(given) == len(low) and all(
            a <= size <= b for a, size, b in zip(low[1:], given[1:], high[1:], strict=True)
        )
        if not between or (shapes.kind != "range" and given[1:] not in [shape[1:] for shape in taken]):
            words = ["x".join(map(str, shape)) for shape in (given, taken[0], (taken[0][0], *given[1:]))]
            raise UsageError(
                "RUB-DRV-006",
                f"{item.name} is {words[0]}, and the artefact takes {words[1]}",
                where=str(path),
                hint=f"give data of that shape, or --shapes {item.name}={words[2]}",
            )


def _signal_like(feeds: Feeds, meta: ModelMeta, seed: int) -> Feeds:
    ((name, array),) = feeds.items()
    return {name: simulated(meta, array.shape[-1], seed, len(array))}


def split_items(feeds: Feeds, shapes: Shapes) -> tuple[Feeds, ...]:
    """Feeds cut along the batch into arrays of the default shape; what does not fill a batch is left out."""
    step = shapes.inputs[0].default[0]
    count = min(len(array) for array in feeds.values()) // step
    return tuple({n: a[i * step : (i + 1) * step] for n, a in feeds.items()} for i in range(count))


def _items(name: str, feeds: Feeds, shapes: Shapes) -> dict[str, Feeds]:
    parts = split_items(feeds, shapes) or (feeds,)
    return {f"{name}, item {index + 1}" if len(parts) > 1 else name: part for index, part in enumerate(parts)}


def any_batch(shapes: Shapes) -> list[TensorSpec]:
    """Specs of the default shape whose first axis is free."""
    specs = []
    for item in shapes.inputs:
        free = item.dims[:1] if item.dims and isinstance(item.dims[0], str) else item.default[:1]
        specs.append(TensorSpec(item.name, (*free, *item.default[1:]), item.dtype))
    return specs


def _bound_shape(item: InputShape, row: Mapping[str, int]) -> tuple[int, ...]:
    return tuple(row[dim] if isinstance(dim, str) else dim for dim in item.dims)


def _limits(small: Sequence[Feeds]) -> dict[str, int]:
    """Exclusive upper bounds of integer inputs: what the check of the lowering has drawn."""
    limits: dict[str, int] = {}
    for feeds in small:
        for name, array in feeds.items():
            if array.dtype.kind in "iu" and array.size:
                limits[name] = max(limits.get(name, 2), int(array.max()) + 1)
    return limits


def _has_mask(inputs: Sequence[InputShape]) -> bool:
    return any("mask" in item.name and not item.dtype.startswith("float") for item in inputs)


def _fill_masks(feeds: Feeds, share: float) -> None:
    """Masks of ones over the first ``share`` of the positions, in place."""
    for name, array in feeds.items():
        if "mask" in name and array.dtype.kind in "iub" and array.ndim >= 2:
            filled = max(1, round(array.shape[-1] * share))
            array[...] = (np.arange(array.shape[-1]) < filled).astype(array.dtype)
