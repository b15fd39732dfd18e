"""Successive halving with scripted speeds and accuracies."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import pytest

from rubicc.backends.base import Judgement
from rubicc.backends.cpu_gpu.contest import Contestant, contest

RIGHT, WRONG = Judgement(50.0), Judgement(3.0, "SNR 3.0 dB is below 20 dB")


@dataclass
class Log:
    judged: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    calls: dict[str, int] = field(default_factory=dict)

    def one(
        self, name: str, ms: float, verdict: Judgement = RIGHT, rank: int = 0, items: int = 1
    ) -> Contestant:
        def call() -> None:
            self.calls[name] = self.calls.get(name, 0) + 1
            time.sleep(ms / 1e3)

        def judge() -> Judgement:
            self.judged.append(name)
            return verdict

        return Contestant(name, (rank,), call, items, judge, lambda: self.left.append(name))


def test_the_fastest_wins_and_the_slower_half_is_measured_less() -> None:
    log = Log()
    result = contest([log.one(f"c{ms}", ms) for ms in (8, 1, 4, 2, 6)], 0.4)
    assert result.winner is not None and result.winner.name == "c1"
    assert log.calls["c1"] > log.calls["c8"] and set(result.timings) == {"c1", "c2", "c4", "c6", "c8"}
    assert sorted(log.left) == ["c2", "c4", "c6", "c8"], "everybody but the winner is told to leave, once"


@pytest.mark.parametrize("count", [1, 2, 5])
def test_a_fast_but_wrong_one_never_wins(count: int) -> None:
    log = Log()
    wrong = [log.one(f"wrong{i}", 0.5, WRONG) for i in range(count)]
    result = contest([*wrong, log.one("right", 6)], 0.2)
    assert result.winner is not None and result.winner.name == "right"
    assert result.rejected and all("20 dB" in reason for reason in result.rejected.values())


def test_nobody_accurate_gives_no_winner_and_every_reason() -> None:
    log = Log()
    result = contest([log.one(name, 1, WRONG) for name in "abcd"], 0.1)
    assert result.winner is None and set(result.rejected) == set("abcd")
    assert sorted(log.left) == list("abcd")


def test_a_judge_is_asked_once_and_never_for_the_hopeless() -> None:
    log = Log()
    contest([log.one(f"c{ms}", ms) for ms in (1, 2, 3, 12, 13, 14)], 0.3)
    assert len(log.judged) == len(set(log.judged))
    assert not {"c12", "c13", "c14"} & set(log.judged)


def test_in_doubt_the_simpler_one_wins() -> None:
    log = Log()
    result = contest([log.one("complicated", 3, rank=2), log.one("simple", 3, rank=1)], 0.2)
    assert result.winner is not None and result.winner.name == "simple"
    clear = contest([log.one("complicated", 2, rank=2), log.one("simple", 6, rank=1)], 0.2)
    assert clear.winner is not None and clear.winner.name == "complicated"


def test_the_simplest_is_sent_away_early_only_where_it_is_clearly_slower() -> None:
    log = Log()
    near = [log.one(f"c{i}", 2.0, rank=1 + i) for i in range(7)]
    contest([*near, log.one("simple", 2.3, rank=0)], 0.4)
    final = min(log.calls[one.name] for one in near)
    assert log.calls["simple"] > final, "it took part in the final"
    contest([*near, log.one("slow and simple", 6, rank=0)], 0.4)
    assert log.calls["slow and simple"] <= log.calls["c0"]
    assert "slow and simple" in log.left


def test_times_are_per_item() -> None:
    log = Log()
    result = contest([log.one("one by one", 2, items=1), log.one("eight at once", 6, items=8)], 0.2)
    assert result.winner is not None and result.winner.name == "eight at once"
    assert result.timings["eight at once"].best < 0.002


def test_the_time_is_bounded() -> None:
    log = Log()
    start = time.perf_counter()
    contest([log.one(f"c{i}", 5 + i) for i in range(6)], 0.5)
    assert time.perf_counter() - start < 0.9


def test_one_alone_and_none() -> None:
    log = Log()
    result = contest([log.one("only", 1)], 0.01)
    assert result.winner is not None and result.reason == "the only one"
    assert contest([], 0.01).winner is None
