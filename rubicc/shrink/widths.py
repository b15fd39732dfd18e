"""The layers of a network, the widths each may have, and the network at any of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from rubicc.errors import UsageError, VerificationFailed
from rubicc.evidence.decision import Decision
from rubicc.ir.graph import is_quantiser
from rubicc.passes.manager import run_pass
from rubicc.passes.quantize import insert, observers, post_training
from rubicc.passes.quantize.assign import Layer, Pair
from rubicc.passes.quantize.sites import Site, sites
from rubicc.passes.quantize.weights import QuantiseWeights, WeightOptions, rounding_error, scale_bits
from rubicc.shrink import result as results
from rubicc.text import did_you_mean
from rubicc.training.sensitivity import Reference, fisher_traces, sensitivity

if TYPE_CHECKING:
    from rubicc.ir.graph import Graph
    from rubicc.shrink.quantize import QuantizeSettings

FLOAT = 32
Feeds = Mapping[str, np.ndarray]
Widths = Mapping[str, int]


@dataclass(frozen=True)
class Choices:
    """What the layers of a network may become.

    Attributes:
        sites: float weights by layer.
        widths: bits that each layer's weights may have, rising.
        activations: bits of the layers' inputs; 32 is float.
        kept: quantisers that the model brought along.
        decisions: what was left out, and why.
    """

    sites: Mapping[str, Sequence[Site]]
    widths: Mapping[str, tuple[int, ...]]
    activations: int
    kept: int
    decisions: tuple[Decision, ...]

    def nearest(self, width: int) -> dict[str, int]:
        """One width for all: each layer's own one that is nearest, the wider of two."""
        return {name: min(own, key=lambda w: (abs(w - width), -w)) for name, own in self.widths.items()}


def layers_of(graph: Graph) -> dict[str, list[Site]]:
    """All float weights by name of the node that multiplies by them."""
    found: dict[str, list[Site]] = defaultdict(list)
    for site in sites(graph, least=1):
        found[site.node.name or ""].append(site)
    return dict(found)


def choices(
    graph: Graph, settings: QuantizeSettings, asked: Sequence[int], found: Mapping[str, Sequence[Site]]
) -> Choices:
    """What each of the layers that ``settings`` mean may become of the widths ``asked``.

    Args:
        found: all layers of ``graph``, as :func:`layers_of` gives them.

    Raises:
        UsageError: ``RUB-SHRINK-072`` no such layer; ``RUB-SHRINK-073`` nothing that the target takes.
    """
    known(found, {*settings.layers, *settings.skip, *settings.latency.seconds})
    kept = sum(map(is_quantiser, graph.all_nodes()))
    chosen = {n: s for n, s in found.items() if n in (settings.layers or found) and n not in settings.skip}
    if not chosen and (settings.mixed or not kept):
        hint = "give a network with some, or leave --skip out"
        raise UsageError("RUB-SHRINK-072", "no layer has float weights to quantise", hint=hint)
    told: list[Decision] = []
    if kept:
        what = f"{kept} quantisers of the model kept as they are"
        told.append(Decision("RUB-SHRINK-D12", "model", what, "it came quantised"))
    activations = settings.activations or FLOAT
    widths = {name: tuple(sorted(set(asked))) for name in chosen}
    if settings.target:
        activations, widths = _taken(chosen, settings, asked, told)
    if activations != FLOAT:
        settings.with_rounded_inputs()
        nodes = [*post_training.products(graph, keep_ends=False), *post_training.layers_of(graph)]
        left = [name for name in widths if chosen[name][0].node not in nodes]
        widths = {name: own for name, own in widths.items() if name not in left}
        told += _left(left, "inputs of 8 bits are for products and recurrent layers with weights in float")
    if chosen and not widths:
        raise UsageError(
            "RUB-SHRINK-072",
            f"no layer takes inputs of {activations} bits",
            hint="leave --activations out",
        )
    return Choices({name: chosen[name] for name in widths}, widths, activations, kept, tuple(told))


def known(layers: Mapping[str, Any], names: Iterable[str]) -> None:
    """Refuse names that are no layer's.

    Raises:
        UsageError: ``RUB-SHRINK-072``.
    """
    unknown = sorted(set(names) - set(layers))
    if unknown:
        hint = did_you_mean(unknown[0], layers, f"choose from {', '.join(list(layers)[:8])}")
        what = f"no layer with float weights is called {', '.join(unknown)[:200]}"
        raise UsageError("RUB-SHRINK-072", what, hint=hint)


def _taken(
    layers: Mapping[str, Sequence[Site]],
    settings: QuantizeSettings,
    asked: Sequence[int],
    told: list[Decision],
) -> tuple[int, dict[str, tuple[int, ...]]]:
    """Activations and widths by layer as the target takes them; what it does not take is told."""
    from rubicc.backends import registry

    target = registry.parse_target(settings.target)
    declared = getattr(registry.get(target), "widths", None)
    if declared is None:
        raise _refused(target, "it does not say which widths it keeps")
    rows = {name: declared(target, found[0].node, settings.granularity) for name, found in layers.items()}
    every = {pair for row in rows.values() for pair in row.pairs}
    wanted = (settings.activations,) if settings.activations else (FLOAT, 8)
    activations = next((act for act in wanted if any(pair[1] == act for pair in every)), None)
    if activations is None:
        why = "; ".join(sorted({row.reason for row in rows.values()})[:3])
        raise _refused(target, f"no layer with {' or '.join(map(str, wanted))}-bit inputs ({why})")
    if activations not in (settings.activations, FLOAT):
        told.append(
            Decision(
                "RUB-SHRINK-D10", "model", "inputs of 8 bits", f"{target} takes no layer with float inputs"
            )
        )
    widths, nothing = {}, defaultdict(list)
    less: dict[tuple[tuple[int, ...], str], list[str]] = defaultdict(list)
    for name, row in rows.items():
        own = sorted({weights for weights, act in row.pairs if act == activations})
        within = (
            tuple(w for w in sorted(set(asked)) if w in own) or tuple(w for w in own if w > max(asked))[:1]
        )
        if within:
            widths[name] = within
        else:
            nothing[row.reason].append(name)
        if within and within != tuple(sorted(set(asked))):
            less[within, row.reason].append(name)
    if not {w for own in widths.values() for w in own} & set(asked):
        why = "; ".join(sorted({row.reason for row in rows.values()})[:3])
        raise _refused(target, f"no layer in {', '.join(map(str, sorted(set(asked))))} bits ({why})")
    for (within, why), names in less.items():
        what = f"{', '.join(map(str, within))} bits instead of {', '.join(map(str, sorted(set(asked))))}"
        told.append(Decision("RUB-SHRINK-D10", _some(names), what, f"{target}: {why}"))
    for why, names in nothing.items():
        told += _left(names, f"{target}: {why}")
    return activations, widths


def _refused(target: object, why: str) -> UsageError:
    return UsageError(
        "RUB-SHRINK-073",
        f"target {target} keeps nothing of what was asked for: {why}",
        hint="choose other widths, another --granularity or --target",
    )


def _left(names: Sequence[str], why: str) -> list[Decision]:
    return (
        [Decision("RUB-SHRINK-D11", _some(names), f"{len(names)} layers stay in float", why)] if names else []
    )


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


class Variants:
    """One float graph at any widths of its layers.

    Args:
        feeds: what ranges of rounded inputs are taken from.

    Attributes:
        facts: costs of the graph in float.
    """

    def __init__(
        self, graph: Graph, choices: Choices, settings: QuantizeSettings, feeds: Sequence[Feeds]
    ) -> None:
        self.graph, self.choices, self.settings = graph, choices, settings
        self.options = WeightOptions(granularity=settings.granularity, least=1, symmetric=settings.symmetric)
        self.facts = results.facts(graph)
        self.formats: dict[str, tuple[float, int]] = {}
        if choices.activations != FLOAT:
            nodes = [found[0].node for found in choices.sites.values()]
            for name, observer in post_training.observe(graph, nodes, feeds, outputs=False).items():
                scale, zero = observers.unsigned_format(observer, "mse", 99.99)
                self.formats[name] = float(scale), zero

    def at(self, widths: Widths, *, check: bool = False) -> Graph:
        """A copy with these layers quantised, the others in float; ``check`` verifies the graph."""
        copy = self.graph.clone()
        others = tuple(node.name or "" for node in copy.all_nodes() if node.name not in widths)
        if self.choices.activations != FLOAT:
            asked = insert.InsertOptions(self.formats, {}, "inputs", frozenset(others), widths)
            run_pass(insert.InsertQuantisers(asked), copy, check=check)
            return copy
        options = replace(self.options, skip=others, widths=widths)
        run_pass(QuantiseWeights(options), copy, check=check)
        return copy

    def nbytes(self, widths: Widths) -> float:
        """Bytes of all weights of the network, packed, without scales."""
        saved = 0
        for name, width in widths.items():
            saved += sum(4 * s.array.size - -(-s.array.size * width // 8) for s in self.choices.sites[name])
        return self.facts["bytes of weights"] - saved

    def costs(self) -> list[Layer]:
        """What every layer costs at each width it may have; no divergences yet."""
        from rubicc.ir.costs import costs

        macs = {row.name: row.macs for row in costs(self.graph, results.bound(self.graph)).rows}
        return [
            Layer(
                name,
                sum(site.array.size for site in rows),
                macs.get(name, 0),
                dict.fromkeys(
                    ((width, self.choices.activations) for width in self.choices.widths[name]), 0.0
                ),
                self.settings.latency.seconds.get(name, {}),
                sum(scale_bits(site, self.options) for site in rows),
            )
            for name, rows in self.choices.sites.items()
        ]

    def measured(self, layers: Sequence[Layer], reference: Reference) -> list[Layer]:
        """The layers with the divergence that each width of each alone makes.

        Raises:
            VerificationFailed: ``RUB-SHRINK-075``: a layer has no width with finite outputs.
        """
        pairs = {layer.name: list(layer.divergence) for layer in layers}
        if self.settings.sensitivity == "fisher":
            found = _predicted(self, reference, pairs)
        else:
            found = sensitivity(reference, pairs, lambda name, pair: self.at({name: pair[0]}))
        return [replace(layer, divergence=_finite(layer.name, found[layer.name])) for layer in layers]


def _finite(name: str, found: Mapping[Pair, float]) -> dict[Pair, float]:
    good = {pair: value for pair, value in found.items() if np.isfinite(value)}
    if not good:
        raise VerificationFailed(
            "RUB-SHRINK-075",
            "the network's outputs are not finite, in float or with this layer quantised",
            where=name,
            hint="check the weights and the data for NaN, or leave the layer out with --skip",
        )
    return good


def _predicted(
    variants: Variants, reference: Reference, pairs: Mapping[str, Sequence[Pair]]
) -> dict[str, dict[Pair, float]]:
    """Divergence from the curvature: mean trace per weight x squared rounding error."""
    layers = variants.choices.sites
    traces = fisher_traces(
        variants.graph, [s.name for rows in layers.values() for s in rows], reference.feeds
    )
    made: dict[str, dict[Pair, float]] = {name: dict.fromkeys(own, 0.0) for name, own in pairs.items()}
    for name, rows in layers.items():
        for site in rows:
            part = traces.get(site.name, 0.0) / site.array.size
            for pair in pairs[name]:
                made[name][pair] += part * rounding_error(site, pair[0], variants.options)
    return made
