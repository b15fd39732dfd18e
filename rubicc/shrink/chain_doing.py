"""How a step of a chain is carried out, in one process or in several.

Under torchrun the first process decides what is to be done and writes it; the others train along, and learn
from it which step is next.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rubicc.errors import UsageError
from rubicc.settings import Settings
from rubicc.shrink.chain_steps import COMPILE, Chain, Step, within
from rubicc.training.machines import machines, several
from rubicc.training.settings import TrainSettings

if TYPE_CHECKING:
    from rubicc.training.loop import Watcher
    from rubicc.training.machines import Alone


def reading_of(chain: Chain, index: int) -> Settings:
    """How the model of a step is read: only the first needs to be told what it is."""
    about = Settings() if index else chain.reading
    own = replace(chain.steps[index].reading, force=False)
    return replace(own, arch=about.arch, arch_config=about.arch_config, inputs=about.inputs)


@dataclass(frozen=True)
class Doing:
    """Carries out the steps of a chain in a folder.

    Attributes:
        group: this process and the others; None where it is the only one.
    """

    chain: Chain
    home: Path
    watcher: Watcher | None
    group: Alone | None

    @classmethod
    def of(cls, chain: Chain, home: Path, watcher: Watcher | None) -> Doing:
        """In this process and the others that there are.

        Raises:
            UsageError: ``RUB-SHRINK-095``: the steps train on devices of several kinds.
        """
        if not several():
            return cls(chain, home, watcher, None)
        devices = sorted({_device(step) for step in chain.steps if step.given.get("data")})
        if len(devices) > 1:
            what = f"the steps train on {' and '.join(devices)}, and several processes on one kind of device"
            hint = "give all steps the same device, or run the chain without torchrun"
            raise UsageError("RUB-SHRINK-095", what, where=chain.source, hint=hint)
        return cls(chain, home, watcher, machines(devices[0] if devices else "cpu"))

    def step(self, index: int) -> None:
        """Carry out a step, in the others as well where it may train."""
        if self.group is not None and self.chain.steps[index].verb != COMPILE:
            self.group.agreed(index)
        self._step(index)

    def end(self) -> None:
        """There are no further steps."""
        if self.group is not None:
            self.group.agreed(None)

    def follow(self) -> None:
        """Carry out the steps that the first process begins, until it ends."""
        assert self.group is not None
        while (index := self.group.agreed(None)) is not None:
            self._step(index)

    def _step(self, index: int) -> None:
        folders, chain = self.chain.folders, self.chain
        model, out = self.home / folders[index - 1] if index else chain.model, self.home / folders[index]
        with within(f"{chain.source}, step {folders[index]}"):
            _verb(chain.steps[index], model, out, reading_of(chain, index), self.watcher)


def _device(step: Step) -> str:
    training = step.settings if step.verb == "train" else step.given.get("training")
    return (training or TrainSettings()).device


def _verb(step: Step, model: Any, out: Path, reading: Settings, watcher: Watcher | None) -> None:
    if step.verb == COMPILE:
        from rubicc.driver.compile import compile_model

        compile_model(model, out, reading)
        return
    from rubicc.shrink import prune, quantize, skipclip, train
    from rubicc.shrink.session import Asked

    given = {**step.given, "reading": reading} | ({} if watcher is None else {"watcher": watcher})
    if step.verb == "train":
        train.train(Asked(model, out, **given, training=step.settings))
        return
    do: dict[str, Callable[..., Any]] = {
        "skipclip": skipclip.skipclip,
        "prune": prune.prune,
        "quantize": quantize.quantize,
    }
    do[step.verb](Asked(model, out, **given), step.settings)
