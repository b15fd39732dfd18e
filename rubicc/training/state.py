"""What a killed run goes on from: one safetensors file, replaced in one step, without pickle.

It holds the network, the optimiser's moments, the running mean and the best weights so far, and in its header
the step, the lengths of the logs at that step, and the identity of the run it belongs to.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rubicc.errors import OutputExists, UsageError
from rubicc.text import first_line

FILE = "state.safetensors"
_KEY = "rubicc"
VERSION = 1


@dataclass
class Progress:
    """Where a run is.

    Attributes:
        step: steps done.
        best_step, best_value: of the best validation so far; larger is better.
        waited: validations since.
        logs: file name -> bytes that belong to the steps done.
        finished: why it stopped, or "".
    """

    step: int = 0
    best_step: int = -1
    best_value: float = float("-inf")
    waited: int = 0
    logs: dict[str, int] = field(default_factory=dict)
    finished: str = ""


def save(
    folder: Path,
    identity: str,
    progress: Progress,
    network: nn.Module,
    optimiser: torch.optim.Optimizer,
    extra: dict[str, dict[str, Tensor]],
) -> None:
    """Write the state so that a kill at any moment leaves the old one or the new one.

    Raises:
        UsageError: ``RUB-TRAIN-041``: it cannot be written (a full disk); the old state stays.
    """
    from safetensors.torch import save as to_bytes

    tensors = {f"network.{name}": value for name, value in network.state_dict().items()}
    for index, moments in optimiser.state_dict()["state"].items():
        tensors |= {f"optimiser.{index}.{name}": torch.as_tensor(value) for name, value in moments.items()}
    for part, values in extra.items():
        tensors |= {f"{part}.{name}": value for name, value in values.items()}
    plain = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    body = asdict(progress)
    # JSON has no infinity.
    body["best_value"] = None if progress.best_step < 0 else progress.best_value
    head = {"version": VERSION, "identity": identity, "progress": body}
    content = to_bytes(plain, {_KEY: json.dumps(head, sort_keys=True)})
    put(folder / FILE, content)


def put(file: Path, content: bytes, what: str = "state") -> None:
    """Write a file of an unfinished run so that a kill at any moment leaves the old one or the new one.

    Raises:
        UsageError: ``RUB-TRAIN-041``.
    """
    partial = file.with_name(f"{file.name}.tmp")
    try:
        with partial.open("wb") as opened:
            opened.write(content)
            opened.flush()
            os.fsync(opened.fileno())
        os.replace(partial, file)
    except OSError as err:
        partial.unlink(missing_ok=True)
        raise UsageError(
            "RUB-TRAIN-041",
            f"the {what} of the run cannot be written: {err.strerror or err}",
            where=str(file.parent),
            hint="free space, then run the same command again: it goes on at the last state",
        ) from err


def foreign(folder: Path) -> OutputExists:
    """What is kept in ``folder`` belongs to another run."""
    return OutputExists(
        "RUB-TRAIN-042",
        "an unfinished run with another model, data or settings lies here",
        where=str(folder),
        hint="run its command again to finish it, give --force to start over, or choose another -o",
    )


def load(
    folder: Path, identity: str, network: nn.Module, optimiser: torch.optim.Optimizer
) -> tuple[Progress, dict[str, dict[str, Tensor]]] | None:
    """Put a saved state into network and optimiser; its progress and other parts, or None without one.

    Raises:
        OutputExists: ``RUB-TRAIN-042``: the state belongs to another run.
        UsageError: ``RUB-TRAIN-043``: it is damaged.
    """
    path = folder / FILE
    if not path.is_file():
        return None
    try:
        head, tensors = _read(path)
        progress = Progress(**head["progress"])
    except (ValueError, KeyError, TypeError, OSError, RuntimeError) as err:
        raise UsageError(
            "RUB-TRAIN-043",
            f"the state of the unfinished run cannot be read: {first_line(err)}",
            where=str(path),
            hint="remove the folder, or give --force, to start again",
        ) from err
    if head.get("identity") != identity:
        raise foreign(folder)
    if progress.best_step < 0:
        progress.best_value = float("-inf")
    parts: dict[str, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        part, _, rest = name.partition(".")
        parts.setdefault(part, {})[rest] = value
    network.load_state_dict(parts.pop("network"))
    _restore(optimiser, parts.pop("optimiser", {}))
    return progress, parts


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            head = json.loads((file.metadata() or {})[_KEY])
            return head, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as err:
        raise ValueError(str(err)) from err


def _restore(optimiser: torch.optim.Optimizer, moments: dict[str, Tensor]) -> None:
    state = optimiser.state_dict()
    for name, value in moments.items():
        index, _, what = name.partition(".")
        state["state"].setdefault(int(index), {})[what] = value
    optimiser.load_state_dict(state)
