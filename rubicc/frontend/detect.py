"""Telling the form of a model from its content. File names only break ties between text-free formats."""

from __future__ import annotations

import os
import re
from pathlib import Path

from rubicc.errors import ModelRefused, UsageError
from rubicc.frontend import files, zips
from rubicc.frontend.limits import DEFAULT, Limits
from rubicc.frontend.ptfile import LEGACY_MAGIC
from rubicc.text import printable

FORMS = (
    "rubicc checkpoint, result of rubicc train, state dict (--arch), .pt2, Hugging Face or bonito folder, "
    "taiyaki checkpoint, ONNX"
)
# What train, prune and their like leave: a model with evidence of how it came about.
RESULT = {"manifest.json", "model.onnx"}
# What `chain` leaves beside the results of its steps.
CHAIN = "chain.json"
_FOREIGN = (
    (b"\x89HDF\r\n\x1a\n", "HDF5 (fast5 reads or a Keras model)"),
    (b"\x8bPOD\r\n\x1a\n", "a pod5 file: reads, not a model"),
    (b"GGUF", "a GGUF file"),
    (b"\x1f\x8b", "gzip-compressed: unpack it first"),
    (b"BZh", "bzip2-compressed: unpack it first"),
    (b"\xfd7zXZ", "xz-compressed: unpack it first"),
    (b"\x93NUMPY", "a numpy array"),
    (b"\x7fELF", "an executable or library"),
    (b"#!", "a script"),
)


def detect(path: Path, limits: Limits = DEFAULT) -> str:
    """The form of a model.

    One of ``result``, ``torch``, ``torchscript``, ``pt2``, ``legacy``, ``safetensors``, ``onnx``, ``hf``,
    ``bonito``.

    Raises:
        ModelRefused: RUB-READ-001 to -007 and -004 when no form fits.
        UsageError: RUB-READ-004 for an artefact folder where a model is needed.
    """
    if os.path.isdir(path):  # Path.is_dir raises on names no file can have
        return _folder(path)
    size = files.regular_file(path, limits)
    with path.open("rb") as handle:
        head = handle.read(64)
    if head.startswith(b"PK"):
        return _archive(path)
    if head.startswith(LEGACY_MAGIC):
        return "legacy"
    if len(head) > 8 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") < max(size, 1 << 32):
        return "safetensors"
    if head[:1] == b"\x80" and head[1] <= 5:
        raise ModelRefused(
            "RUB-READ-008",
            "a bare pickle: unpickling runs code",
            where=path.name,
            hint="save it with torch.save",
        )
    for magic, name in _FOREIGN:
        if head.startswith(magic):
            raise _unknown(path, name)
    if _is_tar(path):
        raise _unknown(path, "a tar archive: unpack it and give the folder or file inside")
    if path.suffix.lower() in (".onnx", ".qonnx") or _like_onnx(head):
        return "onnx"
    raise _unknown(path, f"starts with {head[:8].hex(' ')}")


def _folder(path: Path) -> str:
    names = {entry.name for entry in path.iterdir()}
    if "config.toml" in names:
        return "bonito"
    if "config.json" in names:
        return "hf"
    if names >= RESULT:
        return "result"
    if CHAIN in names:
        raise UsageError(
            "RUB-READ-004",
            "the results of a chain, not one model",
            where=path.name,
            hint="give the folder of a step",
        )
    if "manifest.json" in names:
        raise UsageError(
            "RUB-READ-004",
            "a compiled artefact, not a model",
            where=path.name,
            hint="use verify, bench or basecall",
        )
    listed = ", ".join(sorted(names)[:5]) or "nothing"
    raise _unknown(path, f"a folder with {listed}")


def _archive(path: Path) -> str:
    names = zips.entry_names(path)
    inner = {name.partition("/")[2] for name in names}
    if any(re.match(r"code/|constants\.pkl$", name) for name in inner):
        return "torchscript"
    if "archive_format" in inner or any(name.startswith("models/") for name in inner):
        return "pt2"
    if "data.pkl" in inner:
        return "torch"
    if "serialized_exported_program.json" in names:
        raise _unknown(path, "an exported program of PyTorch 2.6 or older: export it again")
    raise _unknown(path, f"a zip archive with {', '.join(sorted(names)[:5])[:120] or 'nothing'}")


def _is_tar(path: Path) -> bool:
    with path.open("rb") as handle:
        handle.seek(257)
        return handle.read(5) == b"ustar"


def _like_onnx(head: bytes) -> bool:
    """A ModelProto starts with field 1 (IR version, a small number) and goes on with a low field."""
    return (
        len(head) > 3
        and head[0] == 0x08
        and head[1] < 0x40
        and head[2] in (0x12, 0x1A, 0x22, 0x2A, 0x32, 0x3A, 0x42)
    )


def _unknown(path: Path, what: str) -> ModelRefused:
    return ModelRefused(
        "RUB-READ-004",
        f"not a model form rubicc reads: {printable(what, 200)}",
        where=path.name,
        hint=f"forms: {FORMS}",
    )
