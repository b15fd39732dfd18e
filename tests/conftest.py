"""Fixtures shared by every room."""

from __future__ import annotations

import functools
import logging
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from rubicc.ir.graph import Graph

if "PYTEST_XDIST_WORKER" in os.environ:  # the workers fill the cores; more threads only wait for each other
    os.environ["OMP_NUM_THREADS"] = "1"
else:
    os.environ.setdefault("OMP_NUM_THREADS", "2")


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tests leave the user's cache alone and share one of their own."""
    before = os.environ.get("XDG_CACHE_HOME")
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))
    yield
    if before is None:
        del os.environ["XDG_CACHE_HOME"]
    else:
        os.environ["XDG_CACHE_HOME"] = before


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Weights drawn without a seed are the same whatever ran before, and on whichever worker."""
    if (torch := sys.modules.get("torch")) is not None:
        torch.manual_seed(0)


@pytest.fixture(autouse=True)
def own_logging() -> Iterator[None]:
    """A verb run in this process sets up logging for its own process; the next test starts without it."""
    loggers = [logging.getLogger(name) for name in (None, "rubicc")]
    before = [(log.handlers[:], log.level, log.propagate, log.disabled) for log in loggers]
    yield
    for log, (handlers, level, propagate, disabled) in zip(loggers, before, strict=True):
        log.handlers[:], log.propagate, log.disabled = handlers, propagate, disabled
        log.setLevel(level)


@pytest.fixture(autouse=True)
def own_threads() -> Iterator[None]:
    """A verb run in this process with ``--threads`` sets torch's; the next test starts with its own again."""
    torch = sys.modules.get("torch")
    before = int(os.environ["OMP_NUM_THREADS"]) if torch is None else torch.get_num_threads()
    yield
    torch = sys.modules.get("torch")
    if torch is not None and torch.get_num_threads() != before:
        torch.set_num_threads(before)


@pytest.fixture(scope="session")
def lowered_zoo(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Graph]:
    """Networks of the zoo with seeded random weights, after the CPU pipeline, by name; not to be edited."""
    home = tmp_path_factory.mktemp("zoo")

    @functools.cache
    def make(name: str) -> Graph:
        from rubicc.frontend import checkpoint, read_model
        from rubicc.frontend.lower import lower
        from rubicc.models import registry
        from rubicc.passes.manager import run_pipeline
        from rubicc.passes.pipelines import PIPELINES

        entry = registry.get(name)
        checkpoint.save(home / f"{name}.pt", entry.build(seed=0), entry.meta())
        graph = lower(read_model(home / f"{name}.pt"), (), 0).graph.clone()
        run_pipeline(graph, PIPELINES["cpu_gpu"])
        return graph

    return make


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real reads and weights beside the project; the test skips where it is absent."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("RUBICC_SHARED_DATA", default))
    if not folder.is_dir():
        pytest.skip(f"real data not present ({folder.name}/ beside the project, or RUBICC_SHARED_DATA)")
    return folder
