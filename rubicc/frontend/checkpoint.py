"""rubicc's own checkpoints: tensors, architecture name and metadata in one file that is read without code."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from rubicc.errors import ModelRefused, UsageError
from rubicc.evidence.manifest import file_sha256
from rubicc.evidence.staging import StagedFile
from rubicc.frontend import files, ptfile, safetensors_file
from rubicc.frontend.fit import as_state_dict, rebuilt
from rubicc.frontend.graph_tensors import GRAPH_KEY, from_tensors
from rubicc.frontend.limits import DEFAULT, Limits
from rubicc.frontend.source import Source
from rubicc.spec import ModelMeta
from rubicc.text import first_line

if TYPE_CHECKING:
    import torch

    from rubicc.ir.graph import Graph

FORMAT = "rubicc-checkpoint"
VERSION = 1
METADATA_KEY = "rubicc"


def save(path: str | Path, module: torch.nn.Module, meta: ModelMeta) -> None:
    """Write ``module``'s tensors and ``meta``; ``.safetensors`` by that suffix, a torch archive otherwise.

    The file appears complete or not at all. Equal tensors and metadata give equal bytes.

    Raises:
        UsageError: RUB-READ-034 when ``meta.arch`` is not in the zoo (nothing could read it back);
            RUB-ART-004 when it cannot be written.
        OutputExists: RUB-ART-001 when ``path`` is a folder, link or device.
    """
    from rubicc.models import registry

    if meta.arch not in registry.names():
        raise UsageError(
            "RUB-READ-034",
            f"architecture {meta.arch!r} is not in the zoo",
            where=Path(path).name,
            hint="register it",
        )
    _write(Path(path), meta, dict(module.state_dict()))


def save_graph(path: str | Path, graph: Graph) -> None:
    """Write a network that no architecture describes: its tensors by name, and its graph without them.

    Raises:
        UsageError: RUB-READ-034 when the graph has no metadata; RUB-ART-004 when it cannot be written.
        OutputExists: RUB-ART-001 when ``path`` is a folder, link or device.
    """
    from rubicc.frontend.graph_tensors import to_tensors

    if graph.meta is None:
        what = "a graph without metadata cannot be a checkpoint"
        raise UsageError("RUB-READ-034", what, where=Path(path).name, hint="save it as ONNX")
    _write(Path(path), graph.meta, to_tensors(graph))


def _write(path: Path, meta: ModelMeta, values: Mapping[str, torch.Tensor]) -> None:
    head = {"format": FORMAT, "version": VERSION, "meta": meta.to_dict()}
    tensors = {name: value.detach().cpu().contiguous() for name, value in values.items()}
    content = _to_bytes(path.suffix, head, tensors)
    with StagedFile(path, force=True) as handle:
        handle.write(content)


def _to_bytes(suffix: str, head: dict[str, Any], tensors: dict[str, torch.Tensor]) -> bytes | memoryview:
    """The whole file; torch.save hides in a RuntimeError that a disk is full, so it never sees the disk."""
    if suffix == ".safetensors":
        from safetensors.torch import save as to_bytes

        return to_bytes(tensors, {METADATA_KEY: json.dumps(head, sort_keys=True, separators=(",", ":"))})
    import torch

    buffer = io.BytesIO()
    torch.save({**head, "state_dict": tensors}, buffer)
    return buffer.getbuffer()


def load(path: str | Path, limits: Limits = DEFAULT) -> Source:
    """The checkpoint in ``path``; anything else in it is refused.

    Raises:
        ModelRefused: RUB-READ-030 when it is no usable rubicc checkpoint, and what reading its form raises.
    """
    path = Path(path)
    files.regular_file(path, limits)
    if path.open("rb").read(2) == b"PK":
        value = ptfile.load_zip(path, limits)
        if not is_checkpoint(value):
            _refuse(path, "the file is not one")
        return from_parts(path, value, value["state_dict"])
    tensors, metadata = safetensors_file.load(path, limits)
    head = parse_head(path, metadata)
    if head is None:
        _refuse(path, "the file is not one")
    return from_parts(path, head, tensors)


def is_checkpoint(value: Any) -> bool:
    """Whether an object read from a torch archive claims to be a rubicc checkpoint."""
    return isinstance(value, dict) and value.get("format") == FORMAT and "state_dict" in value


def parse_head(path: Path, metadata: Mapping[str, str]) -> dict[str, Any] | None:
    """The head in a safetensors file's metadata, ``None`` when it is no rubicc checkpoint."""
    if METADATA_KEY not in metadata:
        return None
    try:
        head = json.loads(metadata[METADATA_KEY])
    except (ValueError, RecursionError) as err:
        _refuse(path, f"metadata is not JSON: {first_line(err)}", err)
    if not isinstance(head, dict) or head.get("format") != FORMAT:
        _refuse(path, "metadata is not a rubicc head")
    return head


def from_parts(path: Path, head: Mapping[str, Any], state_dict: Any) -> Source:
    """Build the network the head names and put the tensors into it."""
    if head.get("version") != VERSION:
        _refuse(path, f"version {head.get('version')!r}, this rubicc reads {VERSION}")
    if not isinstance(head.get("meta"), dict):
        _refuse(path, "no metadata")
    try:
        meta = ModelMeta.from_dict(head["meta"])
    except UsageError as err:
        _refuse(path, err.what, err)
    tensors, nested = as_state_dict(state_dict, path.name)
    if GRAPH_KEY in tensors:
        graph = from_tensors(tensors, meta, path)
        sha256 = file_sha256(path)
        return Source("checkpoint", path.stem, sha256, meta=meta, graph=graph, decisions=nested)
    try:
        source = rebuilt("checkpoint", path, meta.arch, meta.config, tensors, decisions=nested)
    except UsageError as err:
        _refuse(path, err.what, err)
    source.meta = meta
    return source


def _refuse(path: Path, what: str, err: BaseException | None = None) -> NoReturn:
    raise ModelRefused(
        "RUB-READ-030", f"rubicc checkpoint: {what}", where=path.name, hint="save it with this rubicc"
    ) from err
