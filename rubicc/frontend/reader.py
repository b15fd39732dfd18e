"""One door for every MODEL form."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rubicc.errors import ModelRefused, UsageError
from rubicc.evidence.manifest import file_sha256
from rubicc.frontend import ptfile, python_factory
from rubicc.frontend.detect import detect
from rubicc.frontend.limits import DEFAULT, Limits
from rubicc.frontend.source import Source
from rubicc.text import first_line

if TYPE_CHECKING:
    import torch


def read_model(
    model: str | Path | torch.nn.Module,
    *,
    arch: str | None = None,
    arch_config: Mapping[str, Any] | None = None,
    allow_code: bool = False,
    trust: bool = False,
    limits: Limits = DEFAULT,
) -> Source:
    """Read a model without running anything of it.

    Args:
        model: path, ``python:pkg.module:factory`` or an eager module.
        arch: architecture of a bare state dict, or of a Hugging Face folder that ships its own code.
        arch_config: its configuration; absent keys keep the published values.
        allow_code: let ``python:`` forms import and run code.
        trust: let files that are programs (TorchScript, pickled modules, any ``.pt2``) run their code.
        limits: size limits.

    Raises:
        UsageError: the command is wrong (exit code 2).
        ModelRefused: the file is unreadable or unsafe (exit code 3); it names what the file wanted.
    """
    if not isinstance(model, str | Path):
        return python_factory.from_module(model, name=type(model).__name__, where=type(model).__name__)
    if str(model).startswith(python_factory.PREFIX):
        _no_arch(arch, str(model))
        return python_factory.read(str(model), allow_code=allow_code)
    path = Path(model)
    try:
        form = detect(path, limits)
        return _read(path, form, arch, arch_config, trust, limits)
    except (OSError, MemoryError) as err:
        raise ModelRefused(
            "RUB-READ-001",
            f"cannot read: {first_line(err)}",
            where=path.name,
            hint="check file and disk",
        ) from err


def _read(
    path: Path, form: str, arch: str | None, config: Mapping[str, Any] | None, trust: bool, limits: Limits
) -> Source:
    if form == "torch":
        return _torch(path, arch, config, trust, limits)
    if form == "legacy":
        return _legacy(path, arch, config, trust, limits)
    if form == "safetensors":
        return _safetensors(path, arch, config, limits)
    if form == "hf":
        from rubicc.frontend import huggingface

        return huggingface.read(path, arch, config, limits)
    _no_arch(arch, path.name)
    if trust and form in ("torchscript", "pt2"):
        from rubicc.frontend import trusted

        return trusted.read(path, form)
    if form == "torchscript":
        raise ModelRefused(
            "RUB-READ-009",
            "a TorchScript archive is a program (it wants torch.jit.load)",
            where=path.name,
            hint="convert it with torch.export.save or torch.onnx.export where it was made, or --trust",
        )
    if form == "pt2":
        from rubicc.frontend import pt2

        return pt2.read(path, limits)
    if form == "result":
        return replace(_onnx(path / "model.onnx"), name=path.name)
    if form == "bonito":
        from rubicc.frontend import bonito

        return bonito.read(path, limits)
    return _onnx(path)


def _torch(
    path: Path, arch: str | None, config: Mapping[str, Any] | None, trust: bool, limits: Limits
) -> Source:
    from rubicc.frontend import checkpoint, state_dict, trusted

    try:
        value = ptfile.load_zip(path, limits)
    except ModelRefused as err:
        if trust and err.code in ("RUB-READ-008", "RUB-READ-010"):
            return trusted.read(path, "pickled module")
        raise
    if checkpoint.is_checkpoint(value):
        _no_arch(arch, path.name)
        return checkpoint.from_parts(path, value, value["state_dict"])
    return state_dict.read(path, value, arch, config)


def _legacy(
    path: Path, arch: str | None, config: Mapping[str, Any] | None, trust: bool, limits: Limits
) -> Source:
    from rubicc.frontend import state_dict, taiyaki, trusted

    value, wanted = ptfile.load_legacy(path, limits=limits)
    if not wanted:
        return state_dict.read(path, value, arch, config)
    if any(name.startswith("taiyaki.") for name in wanted):
        _no_arch(arch, path.name)
        return taiyaki.read(path, limits)
    if trust:
        return trusted.read(path, "pickled module")
    ptfile.refuse_wanted(wanted, path.name)
    raise AssertionError("refuse_wanted returns only when nothing is wanted")


def _safetensors(path: Path, arch: str | None, config: Mapping[str, Any] | None, limits: Limits) -> Source:
    from rubicc.frontend import checkpoint, safetensors_file, state_dict

    tensors, metadata = safetensors_file.load(path, limits)
    head = checkpoint.parse_head(path, metadata)
    if head is None:
        return state_dict.read(path, tensors, arch, config)
    _no_arch(arch, path.name)
    return checkpoint.from_parts(path, head, tensors)


def _onnx(path: Path) -> Source:
    from rubicc.ir.io import load_graph

    graph = load_graph(path)
    return Source(kind="onnx", name=path.stem, sha256=file_sha256(path), meta=graph.meta, graph=graph)


def _no_arch(arch: str | None, where: str) -> None:
    if arch is not None:
        raise UsageError(
            "RUB-READ-032",
            f"--arch {arch}: the model names its own architecture",
            where=where,
            hint="leave it out",
        )
