"""The one door to coremltools: imported when needed, without its import noise."""

from __future__ import annotations

import importlib
import logging
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from rubicc.errors import ToolMissing

DEFAULT_OPSET = "iOS17"
# coremltools imports these, where installed, for converters that are not used here: 140 MiB, half the time.
_UNUSED = ("sklearn", "transformers")
_LOCK = threading.Lock()


@dataclass(frozen=True)
class Opset:
    """What one deployment target can hold.

    Attributes:
        name: ``iOS17``: device of ``--target coreml:iOS17`` and attribute of ``coremltools.target``.
        specification: ``specificationVersion`` of the model file.
        dialect: name of the MIL operator set inside the file, ``CoreML7``.
        macos: the macOS release with the same operator set.
        swift: platform in ``Package.swift``, ``.v17``.
    """

    name: str
    specification: int
    dialect: str
    macos: str
    swift: str

    @property
    def target(self) -> Any:
        """``coremltools.target.iOS17``."""
        return getattr(coremltools().target, self.name)

    def __ge__(self, other: Opset) -> bool:
        """Whether everything in ``other`` is in this one."""
        return self.specification >= other.specification


# Oldest first: a newer target takes everything that an older one takes.
OPSETS: dict[str, Opset] = {
    "iOS16": Opset("iOS16", 7, "CoreML6", "macOS 13", ".v16"),
    "iOS17": Opset("iOS17", 8, "CoreML7", "macOS 14", ".v17"),
    "iOS18": Opset("iOS18", 9, "CoreML8", "macOS 15", ".v18"),
    "iOS26": Opset("iOS26", 10, "CoreML9", "macOS 26", ".v26"),
}


def opset(device: str) -> Opset:
    """The operator set of a target's device; an empty name is the default.

    Raises:
        KeyError: no such device; the target registry has refused it before.
    """
    return OPSETS[device or DEFAULT_OPSET]


def coremltools() -> Any:
    """The module ``coremltools``.

    Its import logs seven warnings about macOS libraries and one for every other framework whose version it
    was not tested with; they are held back during the import, and its loggers are as before afterwards.
    In a process where rubicc imports it first, its converters for scikit-learn are switched off.

    Raises:
        ToolMissing: ``RUB-COREML-001``.
    """
    with _LOCK:
        if "coremltools" in sys.modules:
            return sys.modules["coremltools"]
        try:
            with quiet(), _hidden(_UNUSED):
                return importlib.import_module("coremltools")
        except ImportError as err:
            raise ToolMissing(
                "RUB-COREML-001",
                f"coremltools cannot be imported: {err}",
                hint="pip install 'coremltools>=9.0,<10'",
            ) from err


@contextmanager
def _hidden(names: tuple[str, ...]) -> Iterator[None]:
    """Packages that are not loaded yet cannot be imported inside."""
    absent: Any = None  # what the import system takes for "there is no such package"
    added = [name for name in names if name not in sys.modules]
    sys.modules.update(dict.fromkeys(added, absent))
    try:
        yield
    finally:
        for name in added:
            sys.modules.pop(name, None)


@contextmanager
def quiet() -> Iterator[None]:
    """Hold back what coremltools logs and warns inside; errors are raised as ever."""
    logger = logging.getLogger("coremltools")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
