"""What one of several processes does, without starting any: the first one decides, the others follow."""

from __future__ import annotations

import types
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rubicc import api
from rubicc.errors import ToolMissing, UsageError
from rubicc.evidence import manifest
from rubicc.passes.prune.channels import ChannelOptions
from rubicc.shrink import chain_doing, prune_scores, skip_schedule, skipclip
from rubicc.shrink.chain import Chain, Step, Wish
from rubicc.shrink.prune import PruneSettings
from rubicc.shrink.prune_scores import Measure, Scores
from rubicc.shrink.skip_schedule import SkipSettings
from rubicc.training.loop import Silent
from rubicc.training.machines import Alone, Several
from rubicc.training.settings import TrainSettings

HALF = PruneSettings(ChannelOptions(ratio=0.5))


class Second(Alone):
    """A process that is not the first, and what the first one tells it."""

    rank, count = 1, 2

    def __init__(self, *told: Any) -> None:
        super().__init__("cpu")
        self.told = list(told)

    def agreed(self, value: Any) -> Any:
        assert value is None, "it has nothing to say"
        return self.told.pop(0)


def processes(monkeypatch: pytest.MonkeyPatch, rank: int) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", str(rank))


def test_without_data_only_the_first_process_writes(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    processes(monkeypatch, 1)
    assert api.prune(model, out=tmp_path / "out", settings=HALF) is None
    assert not list(tmp_path.iterdir())
    processes(monkeypatch, 0)
    assert api.prune(model, out=tmp_path / "out", settings=HALF) is not None
    assert manifest.read(tmp_path / "out").files


def test_importance_is_that_of_the_first_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def never(*args: Any, **more: Any) -> None:
        raise AssertionError("measured again")

    monkeypatch.setattr(prune_scores, "taylor", never)
    monkeypatch.setattr(skipclip, "importance", never)
    said = {"layer": np.ones(4)}
    settings = PruneSettings(ChannelOptions(ratio=0.5), measure=Measure(taylor=2, **_no_repair()))
    run: Any = types.SimpleNamespace(
        group=Second(said), teacher=None, known="", settings=TrainSettings(), state=tmp_path
    )
    chosen = Scores(settings, run, Silent()).into(settings, 1, None).channels  # type: ignore[arg-type]
    assert chosen is not None and chosen.scores is said
    plan = types.SimpleNamespace(remaining=("b", "a"), importance={})
    schedule = types.SimpleNamespace(before=plan, stages=2)
    run.group = Second(schedule)
    monkeypatch.setattr(skip_schedule, "load", never)
    removal: Any = types.SimpleNamespace(settings=SkipSettings(order="importance"), start=None, before=None)
    assert skipclip._Clip(run, removal, ["a", "b"], Silent()).schedule is schedule  # type: ignore[comparison-overlap]
    assert not list(tmp_path.iterdir())


def _no_repair() -> dict[str, int]:
    """What products read is no subject here."""
    return {"repair": 0} if "repair" in Measure.__dataclass_fields__ else {}


def chain(model: Path, *steps: Step) -> Chain:
    return Chain(model, steps)


def step(verb: str, device: str = "", settings: Any = None) -> Step:
    given = {"training": TrainSettings(device=device), "data": ("simulated",)}
    return Step(verb, f"{verb}{device}", settings, given if device else {})


def test_a_chain_trains_on_one_kind_of_device(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    processes(monkeypatch, 0)
    mixed = chain(model, step("skipclip", "cpu", SkipSettings()), step("prune", "cuda", HALF))
    with pytest.raises(UsageError, match=r"RUB-SHRINK-095.*cpu and cuda.*same device"):
        api.chain(mixed, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def followed(
    monkeypatch: pytest.MonkeyPatch, told: Sequence[int | None], asked: Chain, out: Path
) -> tuple[list[str], Second]:
    """Verbs that a second process carries out, and how it is connected."""
    did: list[str] = []

    def verb(step: Step, model: Any, out: Path, reading: Any, watcher: Any) -> None:
        did.append(f"{step.verb} of {Path(model).name} into {out.name}")

    second = Second(*told)
    monkeypatch.setattr(chain_doing, "machines", lambda device: second)
    monkeypatch.setattr(chain_doing, "_verb", verb)
    assert api.chain(asked, out=out) is None
    return did, second


def test_a_chain_is_followed(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second process does the steps that the first one begins, on the same models, and writes nothing."""
    processes(monkeypatch, 1)
    asked = chain(model, step("skipclip", settings=SkipSettings()), step("prune", "cpu", HALF))
    did, second = followed(monkeypatch, [0, 1, None], asked, tmp_path / "out")
    assert did == ["skipclip of small.pt into 1-skipclip", "prune of 1-skipclip into 2-prunecpu"]
    assert not second.told and not list(tmp_path.iterdir())
    assert followed(monkeypatch, [1, None], asked, tmp_path / "out")[0] == did[1:], "the first was reused"
    assert api.chain(asked, out=None, wish=Wish(dry_run=True)) is None


def test_a_lost_process_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("accelerate")

    def lost(*args: Any) -> None:
        raise RuntimeError("Connection closed by peer [127.0.0.1]:4242")

    group = object.__new__(Several)
    monkeypatch.setattr("accelerate.utils.broadcast_object_list", lost)
    group.accelerator = types.SimpleNamespace(wait_for_everyone=lost, reduce=lost)
    calls: list[Callable[[], Any]] = [group.wait, lambda: group.agreed(1), lambda: group.mean(None)]  # type: ignore[arg-type]
    for call in calls:
        with pytest.raises(ToolMissing, match=r"RUB-TRAIN-052.*Connection closed by peer"):
            call()


def test_a_process_lost_in_a_step_is_told_and_no_other_error_is() -> None:
    pytest.importorskip("accelerate")
    group = object.__new__(Several)
    with pytest.raises(ToolMissing, match="RUB-TRAIN-052"), group.sharing():
        raise RuntimeError("[../third_party/gloo/gloo/transport/tcp/pair.cc:538] Connection closed by peer")
    with pytest.raises(ToolMissing, match="RUB-TRAIN-052"), group.sharing():
        raise torch.distributed.DistBackendError("NCCL error")
    with pytest.raises(RuntimeError, match="size mismatch"), group.sharing():
        raise RuntimeError("size mismatch")
