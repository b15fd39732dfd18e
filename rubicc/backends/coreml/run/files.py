"""Finding the files of a package without ever leaving its folder."""

from __future__ import annotations

import json
from pathlib import Path, PurePosixPath

from rubicc.backends.coreml.run.limits import Limits
from rubicc.errors import ModelRefused

MODEL_PATH = "@model_path/"


def model_file(package: Path, limits: Limits) -> Path:
    """The ``model.mlmodel`` that ``Manifest.json`` names as root.

    Raises:
        ModelRefused: ``RUB-COREML-201`` missing or malformed, ``-202`` a path that leads out, ``-203`` too
            large.
    """
    manifest = package / "Manifest.json"
    if not package.is_dir() or not manifest.is_file():
        raise ModelRefused(
            "RUB-COREML-201",
            "no package here: a .mlpackage is a folder with Manifest.json",
            where=str(package),
        )
    try:
        held = json.loads(
            read_bounded(inside(package, "Manifest.json"), limits.manifest_bytes).decode("utf-8")
        )
        entry = held["itemInfoEntries"][held["rootModelIdentifier"]]["path"]
    except (ValueError, KeyError, TypeError, RecursionError) as err:
        raise ModelRefused(
            "RUB-COREML-201",
            f"Manifest.json names no root model ({type(err).__name__})",
            where=str(manifest),
            hint="copy the whole package again",
        ) from err
    if not isinstance(entry, str):
        raise ModelRefused("RUB-COREML-201", "the root model's path is no text", where=str(manifest))
    return inside(package, f"Data/{entry}")


def weight_file(package: Path, model: Path, name: str) -> Path:
    """The file behind a blob's name, ``@model_path/weights/weight.bin``, relative to the model's folder.

    Raises:
        ModelRefused: as :func:`model_file`.
    """
    if not name.startswith(MODEL_PATH):
        raise ModelRefused(
            "RUB-COREML-202",
            f"weights are referred to as {name!r}; a name beginning with {MODEL_PATH} is expected",
            where=str(model),
        )
    folder = model.parent.relative_to(package.resolve())
    return inside(package, str(PurePosixPath(folder.as_posix()) / name.removeprefix(MODEL_PATH)))


def inside(package: Path, relative: str) -> Path:
    """An existing regular file of the package, links resolved.

    Raises:
        ModelRefused: ``RUB-COREML-202`` it would lie outside, ``RUB-COREML-201`` no such file.
    """
    parts = PurePosixPath(relative)
    if parts.is_absolute() or ".." in parts.parts or "\\" in relative or "\0" in relative:
        raise ModelRefused(
            "RUB-COREML-202", f"path {relative!r} leads out of the package", where=str(package)
        )
    root = package.resolve()
    try:
        found = (root / relative).resolve(strict=True)
    except (OSError, RuntimeError, ValueError) as err:
        raise ModelRefused(
            "RUB-COREML-201", f"no file {relative!r} in the package", where=str(package)
        ) from err
    if not found.is_relative_to(root):
        raise ModelRefused("RUB-COREML-202", f"{relative!r} is a link out of the package", where=str(package))
    if not found.is_file():
        raise ModelRefused("RUB-COREML-201", f"{relative!r} is no file", where=str(package))
    return found


def read_bounded(path: Path, most: int) -> bytes:
    """The bytes of a file no larger than ``most``.

    Raises:
        ModelRefused: ``RUB-COREML-203`` larger, ``RUB-COREML-201`` unreadable.
    """
    try:
        with path.open("rb") as file:
            data = file.read(most + 1)
    except OSError as err:
        raise ModelRefused("RUB-COREML-201", f"cannot be read: {err.strerror}", where=str(path)) from err
    if len(data) > most:
        raise ModelRefused("RUB-COREML-203", f"larger than {most} bytes", where=str(path))
    return data
