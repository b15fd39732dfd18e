"""Fixtures shared by every room."""

from __future__ import annotations

import functools
import gc
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
# Commands are started as processes of their own, again and again: they find rubicc's modules compiled.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
MANY_MODULES = 150
_settled = 0  # modules there were when the collector last set everything aside


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tests leave the user's cache alone and share one of their own, which all workers of a run have."""
    before = os.environ.get("XDG_CACHE_HOME")
    run = tmp_path_factory.getbasetemp()
    cache = (run.parent if "PYTEST_XDIST_WORKER" in os.environ else run) / "cache"
    cache.mkdir(exist_ok=True)
    os.environ["XDG_CACHE_HOME"] = str(cache)
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
    _set_modules_aside()


def _set_modules_aside() -> None:
    """Take what imports have made out of the garbage collector's sight.

    Torch, transformers and their like are half a million objects that live as long as the process. Each full
    collection, and Core ML's writer asks for some itself, walked them all: 40 % of those tests' time.
    """
    global _settled
    if len(sys.modules) > _settled + MANY_MODULES:
        gc.collect()
        gc.freeze()
        _settled = len(sys.modules)


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
