"""What is measured on the data before a cut: importance, movement, and what products read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from rubicc.errors import UsageError
from rubicc.evidence.decision import Decision
from rubicc.passes.prune.groups import groups
from rubicc.passes.prune.readers import readers
from rubicc.passes.prune.reconstruct import Known, ranked
from rubicc.shrink import fingerprint
from rubicc.shrink.scores import kept
from rubicc.training.importance import taylor
from rubicc.training.lessons import Labelled
from rubicc.training.moments import moments
from rubicc.training.movement import Movement

if TYPE_CHECKING:
    from rubicc.ir.graph import Graph
    from rubicc.passes.prune.channels import ChannelOptions
    from rubicc.passes.prune.weights import WeightOptions
    from rubicc.shrink.prune import PruneSettings
    from rubicc.shrink.session import Training
    from rubicc.training.loop import Watcher

ITEMS = 128


@dataclass(frozen=True)
class Measure:
    """What is measured in training before every cut.

    Attributes:
        taylor: items that Taylor importance of channels is averaged over; 0: ``importance`` of the options.
        reconstruction: channels go by what is lost after the others have made up for them.
        repair: items on which it is measured what products read, so that those that lose channels or weights
            make up for them with the rest (least squares); 0: the others stay as they are. Without data
            nothing is made up for.
        movement: single weights go by their movement in the training since the last cut.
        movement_steps: steps before the first cut that only measure movement, after which the weights are as
            they were; 0: the first cut of several is by magnitude.
    """

    taylor: int = 0
    reconstruction: bool = False
    repair: int = ITEMS
    movement: bool = False
    movement_steps: int = 0

    def check(self, settings: PruneSettings, *, data: bool) -> None:
        """Refuse what cannot be measured.

        Raises:
            UsageError: ``RUB-SHRINK-031``, ``RUB-SHRINK-032``.
        """
        least = min(self.taylor, self.movement_steps, self.repair)
        if least < 0:
            raise UsageError("RUB-SHRINK-031", f"{least} items or steps: give 0 or more")
        for asked, what in ((self.taylor, "Taylor importance"), (self.reconstruction, "reconstruction")):
            if asked and settings.channels is None:
                raise _contradiction(f"{what} is of channels", "give --ratio, --macs or --weight-bytes")
        if self.reconstruction and not self.repair:
            raise _contradiction("reconstruction without items to measure it on", "give --repair-items")
        if self.movement and settings.weights is None:
            raise _contradiction("movement is of single weights", "give --sparsity, --pattern or --layers")
        if self.movement_steps and not self.movement:
            raise _contradiction("--movement-steps without movement", "give --weights movement too")
        if self.movement and settings.channels is not None:
            raise _contradiction(
                "cutting channels ends what movement was measured of",
                "prune the channels first, then the single weights of the result",
            )
        if (self.taylor or self.movement or self.reconstruction) and not data:
            what = "Taylor importance" if self.taylor else "movement" if self.movement else "reconstruction"
            raise UsageError(
                "RUB-SHRINK-032",
                f"{what} is measured on data, and there are none",
                hint="give --data, or choose by l1 or l2",
            )
        trained = settings.rounds > 1 and settings.train
        if self.movement and not self.movement_steps and not trained:
            raise _contradiction(
                "movement is measured in training, and there is none before the only cut",
                "give --movement-steps, or --rounds with training",
            )

    def facts(self, *, data: bool) -> dict[str, Any]:
        """For the report."""
        found: dict[str, Any] = {}
        if self.taylor:
            found["channels: importance"] = f"taylor, mean over {self.taylor} items"
        if self.reconstruction:
            found["channels: importance"] = "reconstruction"
        if data and self.repair:
            found["items by which the rest makes up for what goes"] = self.repair
        if self.movement:
            found["weights: method"] = "movement"
            found["weights: steps of movement before the first cut"] = self.movement_steps
        return found


class Scores:
    """Measures for one run, in the order of its rounds.

    Attributes:
        moved: scores of single weights by name of initializer, for the next cut.
    """

    def __init__(self, settings: PruneSettings, run: Training | None, watcher: Watcher) -> None:
        self.measure, self.run, self.watcher = settings.measure, run, watcher
        self.asked = digest(settings)
        self.moved: dict[str, np.ndarray] = {}
        self.decisions: list[Decision] = []

    def into(self, settings: PruneSettings, number: int, graph: Graph) -> PruneSettings:
        """The options of a round with the scores of ``graph``, which it cuts."""
        channels, weights = settings.channels, settings.weights
        known = self._read(graph)
        if known and channels is not None:
            channels = replace(channels, known=known)
        if known and weights is not None:
            weights = replace(weights, known=known)
        if self.measure.reconstruction and channels is not None:
            channels = self._reconstruction(channels, number, graph)
        if self.measure.taylor and channels is not None:
            channels = self._taylor(channels, number, graph)
        if self.measure.movement and weights is not None:
            weights = self._movement(weights, number, graph)
        return replace(settings, channels=channels, weights=weights)

    def watched(self) -> Movement | None:
        """What the training after a cut gathers, where the next cut needs it."""
        return Movement() if self.measure.movement else None

    def _read(self, graph: Graph) -> Known:
        """What the products of ``graph`` read."""
        run = self.run
        if run is None or not self.measure.repair:
            return {}
        measured = None
        if run.group.rank == 0:
            measured = moments(
                graph,
                readers(graph),
                run.data.train,
                items=self.measure.repair,
                seed=run.settings.seed,
                device=run.group.device,
            )
        return run.group.agreed(measured)

    def _reconstruction(self, options: ChannelOptions, number: int, graph: Graph) -> ChannelOptions:
        run, products = self._training(), readers(graph)

        def measured() -> dict[str, np.ndarray]:
            found = groups(graph, norms=options.norms).groups
            scores = {group.name: ranked(group, products, options.known) for group in found}
            return {name: one for name, one in scores.items() if one is not None}

        return replace(options, importance="given", scores=self._kept(run, number, measured))

    def _kept(self, run: Training, number: int, measured: Callable[[], dict[str, np.ndarray]]) -> Any:
        """Scores of a round, measured once: a killed run that goes on cuts the same."""
        known = fingerprint.digest([run.known, run.settings, self.asked])
        file = run.state / f"importance{number}.safetensors"
        return run.group.agreed(kept(file, known, measured) if run.group.rank == 0 else None)

    def _taylor(self, options: ChannelOptions, number: int, graph: Graph) -> ChannelOptions:
        run = self._training()
        if run.teacher is not None:
            self._say_loss(run)

        def measured() -> dict[str, np.ndarray]:
            found = groups(graph, norms=options.norms).groups
            return taylor(
                graph,
                found,
                run.student.meta,
                run.lesson,
                run.data.train,
                items=self.measure.taylor,
                seed=run.settings.seed,
                device=run.group.device,
            )

        return replace(options, importance="given", scores=self._kept(run, number, measured))

    def _movement(self, options: WeightOptions, number: int, graph: Graph) -> WeightOptions:
        if number == 1 and self.measure.movement_steps:
            self._before(graph)
        elif number == 1:
            said = Decision(
                "RUB-SHRINK-D30",
                self._training().student.name,
                "the first cut is by magnitude (l1)",
                "movement is measured in training, and there was none yet; --movement-steps trains for it",
            )
            self.decisions.append(said)
            return replace(options, method="l1")
        return replace(options, method="given", scores=self.moved)

    def _before(self, graph: Graph) -> None:
        """Measure movement in steps of training that change nothing."""
        run, steps = self._training(), self.measure.movement_steps
        if run.teacher is not None:
            self._say_loss(run)
        warmup = min(run.settings.warmup, steps // 10)
        own = replace(run.settings, steps=steps, warmup=warmup, validate_every=steps, features=())
        moved = Movement()
        run.student.become(graph)
        state, lesson = run.state / "movement", Labelled(run.lesson)
        run.fit(own, state, self.watcher, asked=self.asked, lesson=lesson, movement=moved)
        self.moved = moved.scores(run.student.inner)
        run.student.become(graph)

    def _say_loss(self, run: Training) -> None:
        said = Decision(
            "RUB-SHRINK-D31",
            run.student.name,
            "importance is measured by the loss of bases and labels alone",
            "where a network is much like its teacher, distillation's gradient is near 0 whatever matters",
        )
        if said not in self.decisions:
            self.decisions.append(said)

    def _training(self) -> Training:
        assert self.run is not None  # Measure.check has refused
        return self.run


def digest(settings: PruneSettings) -> str:
    """Of everything that decides what a run cuts; a function that costs are by counts by its name."""
    channels = settings.channels
    if channels is None or channels.cost is None:
        return fingerprint.digest(settings)
    named = [getattr(channels.cost, "__qualname__", ""), channels.budget]
    plain = replace(channels, cost=None, budget=0.0)
    return fingerprint.digest([replace(settings, channels=plain), named])


def _contradiction(what: str, hint: str) -> UsageError:
    return UsageError("RUB-SHRINK-031", what, hint=hint)
