"""Training after a cut that keeps hidden layers like those of the network before any cut."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch

from rubicc.passes.prune.readers import readers
from rubicc.training.data.stream import batch
from rubicc.training.hidden import Hidden, spread_of
from rubicc.training.network import Maps, Network, as_teacher
from rubicc.training.twin import Twin

if TYPE_CHECKING:
    from rubicc.ir.graph import Graph
    from rubicc.shrink.session import Training

_ITEMS = 16  # by which it is measured how much the values of a layer vary


class Matching:
    """Which hidden layers are compared, through which maps, from round to round.

    Args:
        start: the network before any cut.
        weight: of the comparison, see :class:`Hidden`; 0: nothing is compared.
    """

    def __init__(self, start: Graph, weight: float) -> None:
        self.start, self.weight = start, weight
        self.maps: Maps = {}
        self.names: list[str] = []

    def cut(self, narrowed: Mapping[str, tuple[int, np.ndarray]], zeros: Mapping[str, np.ndarray]) -> None:
        """Take in what a cut did.

        Args:
            narrowed: of :class:`rubicc.passes.prune.channels.PruneChannels`.
            zeros: masks of single weights by name of initializer; what their products read is compared too.
        """
        for name, (axis, matrix) in narrowed.items():
            step = torch.from_numpy(matrix)
            self.maps[name] = (axis, self.maps[name][1].cpu() @ step if name in self.maps else step)
        inputs = {value.name for value in self.start.inputs}
        read = [one.x for one in readers(self.start) if one.index != 2 and one.name in zeros]
        self.names = list(dict.fromkeys([*self.maps, *(name for name in read if name not in inputs)]))

    def lesson(self, run: Training) -> Hidden | None:
        """What is learned after the cut; None where nothing is compared."""
        if not self.weight or not self.names:
            return None
        whole = as_teacher(Twin(self.start), run.student.meta, self.names)
        whole.to(run.group.device)
        items = batch(run.data.train, range(_ITEMS), run.settings.seed).to(run.group.device)
        spread = run.group.agreed(spread_of(whole, items))
        teaches = run.teacher is not None and run.teacher.sha256 == run.student.sha256
        return Hidden(run.lesson, whole, spread, self.weight, teaches=teaches)

    def network(self, run: Training) -> Network:
        """The student with its maps."""
        return run.network(self.names, self.maps) if self.weight else run.network()

    def trained(self, network: Network) -> None:
        """Take in what was learned: the next round begins with it."""
        self.maps = network.maps() if self.weight else self.maps
