"""``basecall --engine ray``: the files of a run as Ray tasks, each called by the ordinary engine.

Ray moves file names only. Artefact, reads and the folder of the output must be visible under the same paths
on every machine. A task whose worker dies is started again by Ray and goes on at its file's last commit.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rubicc import errors
from rubicc.errors import RubiccError, ToolMissing

if TYPE_CHECKING:
    from rubicc.genomics.shards import Shard

RETRIES = 5


@dataclass(frozen=True)
class Cluster:
    """Where files are called.

    Attributes:
        workers: files called at the same time; None = one per core that Ray counts.
        address: of a running Ray cluster (``ray start --head`` prints it); None starts one on this machine.
    """

    workers: int | None = None
    address: str | None = None


@dataclass(frozen=True)
class Work:
    """What every task of a run needs to know.

    Attributes:
        artefact: its folder, absolute.
        opening: options of the artefact's session.
        options: fields of :class:`rubicc.genomics.settings.Settings`.
    """

    artefact: str
    model_id: str
    opening: Mapping[str, Any]
    options: Mapping[str, Any]


@contextlib.contextmanager
def connected(cluster: Cluster) -> Iterator[Any]:
    """Ray, ready for tasks; a cluster started here is stopped again.

    Raises:
        ToolMissing: ``RUB-DRV-012`` Ray is not installed, ``-013`` the cluster cannot be reached.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
    except ImportError as err:
        hint = "pip install 'rubicc[ray]'"
        raise ToolMissing("RUB-DRV-012", "--engine ray needs Ray, which is not installed", hint=hint) from err
    ours = not ray.is_initialized()
    try:
        if ours and cluster.address is not None:
            ray.init(address=cluster.address, log_to_driver=False, logging_level=logging.ERROR)
        elif ours:
            ray.init(
                address="local",
                num_cpus=cluster.workers,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
    except (OSError, RuntimeError, ValueError) as err:
        what = f"the Ray cluster cannot be reached or started: {str(err).partition(chr(10))[0]}"
        raise ToolMissing("RUB-DRV-013", what, where=cluster.address or "this machine") from err
    try:
        yield ray
    finally:
        if ours:
            ray.shutdown()


def run_shards(cluster: Cluster, work: Work, shards: Sequence[Shard]) -> Iterator[Shard]:
    """Call ``shards`` as tasks, started in their order; each is yielded when it is finished.

    Raises:
        RubiccError: what a task raised; ``RUB-DRV-014`` when one was lost more often than Ray retries.
    """
    if not shards:
        return
    # Ray tells of dead workers on stdout, which is the result's.
    with contextlib.redirect_stdout(sys.stderr), connected(cluster) as ray:
        workers = cluster.workers or max(1, int(ray.cluster_resources().get("CPU", 1)))
        task = ray.remote(num_cpus=1, max_retries=RETRIES)(call_file)
        waiting = list(reversed(shards))
        running: dict[Any, Shard] = {}
        while waiting or running:
            while waiting and len(running) < workers:
                shard = waiting.pop()
                running[task.remote(work, shard)] = shard
            for reference in ray.wait(list(running), num_returns=1)[0]:
                shard = running.pop(reference)
                try:
                    failure = ray.get(reference)
                except ray.exceptions.RayError as err:
                    what = f"a file's task was lost {RETRIES + 1} times: {type(err).__name__}"
                    hint = "run the same command again: files that are called are not called again"
                    raise ToolMissing("RUB-DRV-014", what, where=shard.reads, hint=hint) from err
                if failure is not None:
                    raise _error(failure)
                yield shard


def call_file(work: Work, shard: Shard) -> dict[str, str] | None:
    """The task: call one file; a refusal comes back as plain values, as not every error can be pickled."""
    from rubicc.genomics.settings import Settings
    from rubicc.genomics.shards import call_shard

    try:
        infer, meta = _network(work.artefact, work.model_id, tuple(sorted(work.opening.items())))
        call_shard(shard, infer, meta, settings=Settings(**work.options), model_id=work.model_id)
    except RubiccError as err:
        return {
            "kind": type(err).__name__,
            "code": err.code,
            "what": err.what,
            "where": err.where or shard.reads,
            "hint": err.hint,
        }
    return None


@functools.lru_cache(maxsize=1)
def _network(folder: str, model_id: str, opening: tuple[tuple[str, Any], ...]) -> tuple[Any, Any]:
    """Opened once in each worker process and kept until the process ends."""
    from rubicc.driver.artefact import open_artefact
    from rubicc.driver.calling import network

    artefact = open_artefact(folder)
    if artefact.manifest.content_sha256 != model_id:
        what = "this worker sees another artefact than the driver"
        raise ToolMissing(
            "RUB-DRV-015", what, where=folder, hint="put it on a folder that all machines share"
        )
    return network(artefact, artefact.session(**dict(opening)))


def _error(failure: Mapping[str, str]) -> RubiccError:
    kind = getattr(errors, failure["kind"], RubiccError)
    made: RubiccError = kind(failure["code"], failure["what"], where=failure["where"], hint=failure["hint"])
    return made
