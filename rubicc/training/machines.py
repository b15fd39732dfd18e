"""One process or several: what a step must know of the others.

Several processes are started by ``torchrun``; Hugging Face accelerate (the extra ``train-distributed``) sets
up their group, on GPUs or (gloo) on CPUs. Every process holds the network and takes its own positions of the
one stream of items, so that ``n`` processes with a batch of ``b`` do what one does with a batch of ``n * b``.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor, nn

from rubicc.errors import ToolMissing, UsageError
from rubicc.text import first_line

# The others wait while the first process labels reads or measures networks. If it fails, torchrun ends them.
WAIT = timedelta(days=7)


class Alone:
    """The only process."""

    rank = 0
    count = 1

    def __init__(self, device: str) -> None:
        self.device = torch.device(_chosen(device))

    def prepare(self, network: nn.Module) -> nn.Module:
        """The network on this process's device."""
        return network.to(self.device)

    def apart(self, network: nn.Module) -> Any:
        """Context in which gradients are not exchanged yet."""
        return contextlib.nullcontext()

    def sharing(self) -> Any:
        """Context of passes in which the wrapped network reaches the others by itself."""
        return contextlib.nullcontext()

    def mean(self, values: Tensor) -> Tensor:
        """Mean over the processes."""
        return values

    def agreed(self, value: Any) -> Any:
        """What the first process says."""
        return value

    def wait(self) -> None:
        """Until every process is here."""

    @contextlib.contextmanager
    def first_alone(self) -> Iterator[None]:
        """The first process does the body before the others, which then find its files."""
        if self.rank:
            self.wait()
        yield
        if not self.rank:
            self.wait()


class Several(Alone):
    """One of several processes under torchrun.

    Raises:
        ToolMissing: ``RUB-TRAIN-050``: accelerate is not installed.
    """

    def __init__(self, device: str) -> None:
        try:
            from accelerate import Accelerator, DistributedDataParallelKwargs, InitProcessGroupKwargs
        except ImportError as err:
            raise ToolMissing(
                "RUB-TRAIN-050",
                "several processes need the package accelerate",
                hint="install it: pip install 'rubicc[train-distributed]'",
            ) from err
        # Networks may hold parameters that no output hangs on, such as biases of fused recurrent layers.
        options = [
            DistributedDataParallelKwargs(find_unused_parameters=True),
            InitProcessGroupKwargs(timeout=WAIT),
        ]
        cpu = _chosen(device) == "cpu"
        with _together():
            self.accelerator = Accelerator(cpu=cpu, kwargs_handlers=options)
        self.device = self.accelerator.device
        self.rank = self.accelerator.process_index
        self.count = self.accelerator.num_processes

    def prepare(self, network: nn.Module) -> nn.Module:
        """The network, wrapped so that gradients are averaged over the processes."""
        with _together():
            return self.accelerator.prepare(network)

    def apart(self, network: nn.Module) -> Any:
        """Context in which gradients are not exchanged yet."""
        return self.accelerator.no_sync(network)

    def sharing(self) -> Any:
        """See :meth:`Alone.sharing`: only failures to reach the others are told as such."""
        return _together(all_errors=False)

    def mean(self, values: Tensor) -> Tensor:
        """Mean over the processes."""
        with _together():
            return self.accelerator.reduce(values, "mean")

    def agreed(self, value: Any) -> Any:
        """What the first process says."""
        from accelerate.utils import broadcast_object_list

        with _together():
            return broadcast_object_list([value])[0]

    def wait(self) -> None:
        """Until every process is here."""
        with _together():
            self.accelerator.wait_for_everyone()


def machines(device: str) -> Alone:
    """This process and the others, as the environment says (``WORLD_SIZE``, set by torchrun)."""
    return Several(device) if several() else Alone(device)


def several() -> bool:
    """Whether torchrun has started more processes than this one."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def first() -> bool:
    """Whether this process is the only one, or the first: the one that writes results."""
    return not several() or int(os.environ.get("RANK", "0")) == 0


@contextlib.contextmanager
def _together(*, all_errors: bool = True) -> Iterator[None]:
    """What the processes do together fails in all of them where one has ended."""
    try:
        yield
    except RuntimeError as err:
        # gloo has no type of error of its own, but names its source file.
        if not (all_errors or isinstance(err, torch.distributed.DistError) or "gloo/" in str(err)):
            raise
        raise ToolMissing(
            "RUB-TRAIN-052",
            f"the processes no longer reach each other: {first_line(err)}",
            hint="see what the process that ended first has said",
        ) from err


def _chosen(device: str) -> str:
    there = torch.cuda.is_available()
    if device == "cuda" and not there:
        raise UsageError("RUB-TRAIN-051", "no GPU is usable here", hint="leave --device out, or give cpu")
    return device if device != "auto" else "cuda" if there else "cpu"
