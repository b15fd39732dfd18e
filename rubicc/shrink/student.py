"""Reading the network that a verb changes, training it, and turning it into a graph again."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rubicc.errors import UsageError
from rubicc.evidence.decision import Decision
from rubicc.settings import Settings
from rubicc.spec import ModelMeta

if TYPE_CHECKING:
    import torch

    from rubicc.frontend.source import Source
    from rubicc.ir.graph import Graph


@dataclass
class Student:
    """A network that can be trained.

    Attributes:
        inner: the torch module the model came as, or the trainable twin of its graph.
        meta: of the network.
        before: the graph as it was read (cleaned up, where it came as a graph).
        zoo: whether ``inner`` is of an architecture of the zoo, so that its checkpoint can be one.
    """

    name: str
    kind: str
    sha256: str
    inner: torch.nn.Module
    meta: ModelMeta
    before: Graph
    zoo: bool
    decisions: list[Decision] = field(default_factory=list)

    def graph(self) -> Graph:
        """The network as it is now, as a graph.

        Raises:
            RubiccError: it cannot be lowered any more.
        """
        write_back: Any = getattr(self.inner, "write_back", None)
        if write_back is not None:
            return write_back()
        return lowered_module(self.inner, self.meta, self.name)

    def become(self, graph: Graph, **options: Any) -> None:
        """Go on as the trainable twin of ``graph``, a changed network; ``options`` are of the twin."""
        from rubicc.training.twin import Twin

        self.inner, self.zoo = Twin(graph, **options), False


def read_student(model: Any, settings: Settings) -> Student:
    """Read any MODEL form, or make a network of the zoo by name, and make it trainable.

    Raises:
        RubiccError: it cannot be read or lowered; ``RUB-SHRINK-001``: it does not say what it is;
            ``RUB-SHRINK-004``: its weights are not numbers.
    """
    from rubicc.frontend.lower import lower

    source = source_of(model, settings)
    lowered = lower(source, settings.inputs, settings.seed)
    meta = source.meta or lowered.graph.meta
    if meta is None or not meta.inputs or not meta.outputs:
        raise UsageError(
            "RUB-SHRINK-001",
            "the model does not say what its inputs and outputs are",
            where=source.name,
            hint="save it as a rubicc checkpoint, or give --arch",
        )
    decisions = list(lowered.decisions)
    before, inner, zoo = lowered.graph, source.module, _in_zoo(meta)
    if inner is None:
        inner, zoo = twin_of(lowered.graph), False
        before, decisions = inner.source, [*decisions, *inner.decisions]
    _require_numbers(inner, source.name)
    return Student(source.name, source.kind, source.sha256, inner, meta, before, zoo, decisions)


def source_of(model: Any, settings: Settings) -> Source:
    """Read any MODEL form, or make a network of the zoo by name.

    Raises:
        RubiccError: it cannot be read.
    """
    from rubicc.driver.compile import read_source

    return _from_zoo(model, settings) or read_source(model, settings)


def _require_numbers(network: torch.nn.Module, name: str) -> None:
    """Refuse weights that are not finite, and statistics that are NaN (constants may be infinite)."""
    wrong = [n for n, value in network.named_parameters() if not value.isfinite().all()]
    wrong += [n for n, value in network.named_buffers() if value.is_floating_point() and value.isnan().any()]
    if wrong:
        what = f"{len(wrong)} tensor(s) hold NaN or infinity, the first is {wrong[0]}"
        raise UsageError("RUB-SHRINK-004", what, where=name, hint="give the last weights that were numbers")


def twin_of(graph: Graph, **options: Any) -> Any:
    """The trainable twin of a graph, cleaned up but for its batch norms, whose statistics are trained."""
    from rubicc.passes.manager import run_pipeline
    from rubicc.passes.pipelines import CLEANUP
    from rubicc.training.twin import Twin

    clean = graph.clone()
    run_pipeline(clean, [step for step in CLEANUP if step.id != "cleanup.fuse-batchnorm"])
    return Twin(clean, **options)


def cleaned(graph: Graph) -> Graph:
    """A cleaned copy to be changed: norms stay, for their scales and to be trained, and equal weights of
    different layers stay apart.
    """
    from rubicc.passes.manager import run_pipeline
    from rubicc.passes.pipelines import CLEANUP

    work = graph.clone()
    apart = ("cleanup.fuse-batchnorm", "cleanup.deduplicate")
    run_pipeline(work, [step for step in CLEANUP if step.id not in apart])
    return work


def lowered_module(module: torch.nn.Module, meta: ModelMeta, name: str) -> Graph:
    """A torch module as a graph, proven against it at two shapes."""
    from rubicc.frontend.lower import lower
    from rubicc.frontend.source import Source

    return lower(
        Source(kind="checkpoint", name=name, sha256="", meta=meta, module=module.cpu().eval()), (), 0
    ).graph


def _in_zoo(meta: ModelMeta) -> bool:
    from rubicc.models import registry

    return meta.arch in registry.names()


def _from_zoo(model: Any, settings: Settings) -> Source | None:
    """A network with random weights where ``model`` is the name of an architecture and of no file."""
    from rubicc.frontend.source import Source
    from rubicc.models import registry

    if not isinstance(model, str | Path) or os.path.exists(model) or str(model) not in registry.names():
        return None
    entry = registry.get(str(model))
    config = entry.config_from_dict(settings.arch_config)
    meta = entry.meta(config)
    said = Decision(
        "RUB-SHRINK-D01",
        entry.name,
        f"random weights from seed {settings.seed}",
        "MODEL is the name of an architecture",
    )
    module = entry.build(config, seed=settings.seed)
    sha = _sha(f"{entry.name} {meta.to_json()} {settings.seed}")
    return Source("zoo", entry.name, sha, meta=meta, module=module, decisions=[said])


def _sha(text: str) -> str:
    import hashlib

    return hashlib.sha256(text.encode()).hexdigest()
