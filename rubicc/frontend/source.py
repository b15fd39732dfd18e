"""What every reader returns: a model that is read, checked and not yet lowered."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rubicc.evidence.decision import Decision
from rubicc.spec import ModelMeta, TensorSpec

if TYPE_CHECKING:
    import torch

    from rubicc.ir.graph import Graph


@dataclass
class Source:
    """Exactly one of ``module``, ``program`` and ``graph`` is set.

    Attributes:
        kind: reader id: ``checkpoint``, ``state-dict``, ``pt2``, ``hf``, ``bonito``, ``taiyaki``,
            ``onnx``, ``python``.
        name: short name for reports (never a path of this machine).
        sha256: digest of the input file, or of the sorted (name, digest) list of a folder's files.
        meta: what the model says about itself; ``None`` when it says nothing.
        module: eager module in eval mode, to be exported.
        program: an exported program (``.pt2``).
        graph: an ONNX / QONNX graph.
        inputs: input specs known to the reader, used when neither ``meta`` nor ``--input`` gives them.
        decisions: choices the reader made.
        assets: other files of the model that a target may ship, by name, unread but for their form: the
            ``tokenizer.json`` of a Hugging Face folder.
    """

    kind: str
    name: str
    sha256: str
    meta: ModelMeta | None = None
    module: torch.nn.Module | None = None
    program: torch.export.ExportedProgram | None = None
    graph: Graph | None = None
    inputs: tuple[TensorSpec, ...] = ()
    decisions: list[Decision] = field(default_factory=list)
    assets: Mapping[str, bytes] = field(default_factory=dict)
