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
THREADS = int(os.environ["OMP_NUM_THREADS"])


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
    """Fixtures that draw weights without a seed draw the same, whatever ran before."""
    if (torch := sys.modules.get("torch")) is not None:
        torch.manual_seed(0)


@pytest.fixture(autouse=True)
def alike() -> None:
    """Every test starts alike, whatever a verb set for its own process in a test or a shared fixture before.

    That is where records of the logger ``rubicc`` go, torch's threads, and its global generator.
    """
    log = logging.getLogger("rubicc")
    log.handlers[:], log.propagate, log.disabled = [], True, False
    log.setLevel(logging.NOTSET)
    logging.getLogger().setLevel(logging.WARNING)
    if (torch := sys.modules.get("torch")) is not None:
        torch.manual_seed(0)
        if torch.get_num_threads() != THREADS:
            torch.set_num_threads(THREADS)


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
