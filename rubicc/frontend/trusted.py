"""What ``--trust`` opens: files that are programs. Nothing else in this package runs a file's code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rubicc.errors import ModelRefused
from rubicc.evidence.decision import Decision
from rubicc.evidence.manifest import file_sha256
from rubicc.frontend.source import Source
from rubicc.text import first_line


def read(path: Path, form: str) -> Source:
    """Open a TorchScript archive, a pickled module or a ``.pt2`` with PyTorch's own loaders.

    Raises:
        ModelRefused: RUB-READ-090 when PyTorch cannot, or the pickle holds no module.
    """
    import torch

    try:
        if form == "torchscript":
            value: Any = torch.jit.load(path, map_location="cpu")
        elif form == "pt2":
            value = torch.export.load(path)
        else:
            value = torch.load(path, map_location="cpu", weights_only=False)
    except Exception as err:  # the file's code may raise anything
        raise ModelRefused(
            "RUB-READ-090",
            f"PyTorch cannot open it: {first_line(err)}",
            where=path.name,
            hint="save it again",
        ) from err
    decision = Decision("RUB-READ-D05", path.name, f"opened as {form}", "--trust was given")
    source = Source(kind="pt2" if form == "pt2" else "python", name=path.stem, sha256=file_sha256(path))
    source.decisions.append(decision)
    if form == "pt2":
        from rubicc.frontend.pt2 import user_inputs

        source.program, source.inputs = value, user_inputs(value)
    elif isinstance(value, torch.nn.Module):
        source.module = value.eval()
    else:
        raise ModelRefused(
            "RUB-READ-090",
            f"holds a {type(value).__name__}, not a module",
            where=path.name,
            hint="save the module",
        )
    return source
