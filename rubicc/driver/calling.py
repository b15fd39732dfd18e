"""``basecall``: an artefact as the network of a basecalling run."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rubicc.driver.artefact import Artefact, is_artefact, open_artefact
from rubicc.errors import UsageError
from rubicc.evidence.staging import scratch
from rubicc.settings import Settings

if TYPE_CHECKING:
    from rubicc.driver.cluster import Cluster
    from rubicc.genomics.settings import BasecallSummary
    from rubicc.spec import ModelMeta


def basecall_reads(
    model: Any,
    reads: Sequence[str | Path],
    out: Path,
    settings: Settings,
    progress: Any,
    on_problem: Callable[[Any], None] | None,
    options: Mapping[str, Any],
    cluster: Cluster | None = None,
) -> BasecallSummary:
    """Call ``reads`` into ``out`` with an artefact, or with a model compiled for this run.

    Args:
        cluster: call each file as a task there, instead of all in this process.

    Raises:
        UsageError: ``RUB-DRV-008`` not a basecaller; options the engine refuses.
        ToolMissing: ``RUB-DRV-012`` to ``-015``: Ray is absent or its tasks fail.
    """
    from rubicc.genomics import engine
    from rubicc.genomics.reads import find_files
    from rubicc.genomics.settings import Settings as EngineSettings
    from rubicc.genomics.writers import kind_of

    # Judged before a model is compiled, which takes seconds.
    kind_of(out)
    find_files(reads, recursive=bool(options.get("recursive", True)))
    opening = {
        "runtime": None if settings.runtime == "auto" else settings.runtime,
        "threads": settings.threads,
        "streams": None,
    }
    with runnable(model, settings) as artefact:
        if cluster is not None:
            # A task is given one core, so that files and not threads fill the machines.
            opening["threads"] = settings.threads or 1
            return _on_cluster(
                cluster, artefact, reads, out, settings, progress, on_problem, options, opening
            )
        with artefact.session(**opening) as session:
            infer, meta = network(artefact, session)
            # One stream per thread: recurrent networks gain little from several threads on one batch.
            # Sessions of other targets may know no streams.
            streams = getattr(session, "streams", 1)
            chosen: dict[str, Any] = {
                "network_threads": streams,
                "batch": max(1, EngineSettings.batch // streams),
            }
            chosen |= _windows(session) | dict(options)
            return engine.basecall(
                infer,
                meta,
                reads,
                out,
                settings=EngineSettings(**chosen),
                model_id=artefact.manifest.content_sha256,
                progress=progress,
                on_problem=on_problem,
                force=settings.force,
            )


def network(artefact: Artefact, session: Any) -> tuple[Callable[[np.ndarray], np.ndarray], ModelMeta]:
    """An artefact's session as the engine wants it: signal to scores, and what the scores mean.

    Raises:
        UsageError: ``RUB-DRV-008`` not a basecaller.
    """
    meta = session.meta
    if meta is None or meta.signal is None or meta.decoder is None:
        raise UsageError(
            "RUB-DRV-008",
            "the model does not say its signal normalisation and decoder",
            where=artefact.manifest.model.get("name", ""),
            hint="compile it from a checkpoint of a basecaller (see `rubicc models list`)",
        )
    (given,), (made,) = session.inputs, session.outputs

    def infer(signal: np.ndarray) -> np.ndarray:
        return session.run({given.name: signal})[made.name]

    return infer, meta


def _windows(session: Any) -> dict[str, Any]:
    """How reads are cut for a session that takes one length only: whole chunks, short reads padded."""
    length = getattr(session, "fixed_length", None)
    return {} if length is None else {"chunk": length, "pad_short": True}


def _on_cluster(
    cluster: Cluster,
    artefact: Artefact,
    reads: Sequence[str | Path],
    out: Path,
    settings: Settings,
    progress: Any,
    on_problem: Callable[[Any], None] | None,
    options: Mapping[str, Any],
    opening: Mapping[str, Any],
) -> BasecallSummary:
    from rubicc.driver.cluster import Work, run_shards
    from rubicc.genomics.settings import Settings as EngineSettings
    from rubicc.genomics.shards import call_sharded

    with artefact.session(**opening) as session:
        _, meta = network(artefact, session)
        streams, fixed = getattr(session, "streams", 1), _windows(session)
    model_id = artefact.manifest.content_sha256
    chosen: dict[str, Any] = {"network_threads": streams, "batch": max(1, EngineSettings.batch // streams)}
    chosen |= fixed | dict(options)
    work = Work(str(artefact.folder.absolute()), model_id, opening, chosen)
    return call_sharded(
        functools.partial(run_shards, cluster, work),
        meta,
        reads,
        out,
        settings=EngineSettings(**chosen),
        model_id=model_id,
        progress=progress,
        on_problem=on_problem,
        force=settings.force,
    )


@contextlib.contextmanager
def runnable(model: Any, settings: Settings) -> Iterator[Artefact]:
    """``model`` itself when it is an artefact, else compiled into a temporary folder."""
    from rubicc.driver.compile import compile_model

    if isinstance(model, str | Path) and is_artefact(model):
        yield open_artefact(model)
        return
    with scratch() as home:
        yield compile_model(model, home / "artefact", settings)
