"""The public Python API; what the command line compiles, runs and compares goes through it.

Functions take resolved :class:`~rubicc.settings.Settings`, or keyword settings which are resolved here
(``rubicc.compile(model, out="out", target="cpu", precision="fp16")``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rubicc.driver.artefact import Artefact, open_artefact
from rubicc.driver.cluster import Cluster
from rubicc.settings import Settings, resolve

if TYPE_CHECKING:
    import torch

    from rubicc.backends.base import Checked, Finding
    from rubicc.driver.inspection import Inspection
    from rubicc.driver.verification import Verification
    from rubicc.evidence.diff import Change
    from rubicc.genomics.evaluate import Evaluation
    from rubicc.genomics.settings import BasecallSummary
    from rubicc.shrink.chain import Chain, Chained, Wish
    from rubicc.shrink.prune import PruneSettings
    from rubicc.shrink.quantize import QuantizeSettings
    from rubicc.shrink.result import Result
    from rubicc.shrink.session import Asked
    from rubicc.shrink.skip_schedule import SkipSettings
    from rubicc.training.loop import Watcher
    from rubicc.training.settings import TrainSettings

__all__ = [
    "Artefact",
    "Cluster",
    "Settings",
    "basecall",
    "bench",
    "chain",
    "check",
    "check_files",
    "compile",
    "diff",
    "evaluate",
    "inspect",
    "load",
    "open_artefact",
    "prune",
    "quantize",
    "skipclip",
    "train",
    "verify",
]


def compile(
    model: str | Path | torch.nn.Module,
    *,
    out: str | Path | None,
    settings: Settings | None = None,
    recipe: str | Path | Mapping[str, Any] | None = None,
    sets: Sequence[str] = (),
    **flags: Any,
) -> Artefact:
    """Compile a model into an artefact folder and prove it.

    Args:
        model: any MODEL form of the interface, or an eager module in eval mode.
        out: folder to write; ``None`` with ``dry_run=True``.
        settings: resolved settings; otherwise ``recipe``, ``sets`` and ``flags`` are resolved.

    Raises:
        RubiccError: with the exit code the command line would return; nothing is written then.
    """
    from rubicc.driver.compile import compile_model

    return compile_model(model, out, settings or resolve(flags, sets=sets, recipe=recipe))


def check(
    model: str | Path | torch.nn.Module, *, settings: Settings | None = None, **flags: Any
) -> list[Finding]:
    """Every refusal and warning of ``settings.target`` for ``model`` at once; writes nothing.

    Raises:
        RubiccError: the model cannot be read or lowered.
    """
    from rubicc.backends import registry
    from rubicc.driver.bounded import bound
    from rubicc.driver.compile import check_options, read_source, with_defaults
    from rubicc.frontend.lower import lower

    settings = settings or resolve(flags)
    target = registry.parse_target(settings.target)
    backend = registry.get(target)
    settings = with_defaults(settings, backend)
    check_options(settings, backend)
    lowered = lower(read_source(model, settings), settings.inputs, settings.seed)
    graph, _ = bound(lowered.graph, backend, settings)
    return backend.check(graph, target)


def check_files(
    path: str | Path,
    *,
    audit: str | Path | None = None,
    page: str | Path | None = None,
    force: bool = False,
    settings: Settings | None = None,
    **flags: Any,
) -> Checked | None:
    """What ``settings.target`` says of a file in its own form, e.g. of any ``.mlpackage``.

    Args:
        path: the file or folder.
        audit: what the target's own audit script has measured on a device.
        page: HTML file to write with pictures of it.
        force: replace ``page``.

    Returns:
        ``None`` where the target has no such form or ``path`` is none: it is then a model to be read.

    Raises:
        RubiccError: the file is damaged; the page is there already.
        UsageError: ``RUB-DRV-018``: an audit or a page, and no file it could be about.
    """
    from rubicc.driver.checking import check_files as checked

    given = (Path(item) if item is not None else None for item in (audit, page))
    return checked(Path(path), settings or resolve(flags), *given, force=force)


def inspect(
    model: str | Path | torch.nn.Module, *, settings: Settings | None = None, **flags: Any
) -> Inspection:
    """Inputs, operators, parameters, MACs, BOPs, bits and receptive field of a model or an artefact.

    Raises:
        RubiccError: the model cannot be read or lowered.
    """
    from rubicc.driver.inspection import inspect_model

    return inspect_model(model, settings or resolve(flags))


def load(folder: str | Path, **options: Any) -> Any:
    """A session over the emitted files of an artefact: ``session.run({"x": array}) -> {"y": array}``.

    Args:
        options: of the target's sessions: ``runtime``, ``threads``, ``streams`` for cpu and gpu.

    Raises:
        ModelRefused: not an artefact, or its files are damaged.
    """
    return open_artefact(folder).session(**options)


def verify(
    artefact: str | Path, *, data: str | Path | None = None, runtime: str | None = None
) -> Verification:
    """Re-hash every file, run the emitted artefact again, compare with its recorded vectors or new data.

    Raises:
        VerificationFailed: a file has changed, or the outputs differ by more than the recorded limit.
    """
    from rubicc.driver.verification import verify_artefact

    return verify_artefact(Path(artefact), Path(data) if data is not None else None, runtime)


def bench(
    model: str | Path | torch.nn.Module,
    *,
    settings: Settings | None = None,
    seconds: float = 5.0,
    length: int | None = None,
    precisions: Sequence[str] = (),
    layouts: Sequence[str] = (),
    runtimes: Sequence[str] = (),
    **flags: Any,
) -> Any:
    """Throughput, latency percentiles, memory and accuracy on this machine, alternatives interleaved.

    A model that is no artefact is compiled into a temporary folder first, once per precision and layout.
    """
    from rubicc.driver.measuring import bench_model

    return bench_model(
        model,
        settings or resolve(flags),
        seconds=seconds,
        length=length,
        precisions=precisions,
        layouts=layouts,
        runtimes=runtimes,
    )


def basecall(
    model: str | Path | torch.nn.Module,
    reads: Sequence[str | Path],
    *,
    out: str | Path,
    settings: Settings | None = None,
    progress: Any = None,
    on_problem: Callable[[Any], None] | None = None,
    options: Mapping[str, Any] | None = None,
    cluster: Cluster | None = None,
    **flags: Any,
) -> BasecallSummary:
    """Call bases from fast5, pod5 or npz reads into FASTA, FASTQ or unaligned BAM.

    Args:
        model: an artefact; anything else is compiled into a temporary folder first.
        reads: files and folders.
        out: ``.fasta``, ``.fastq`` or ``.bam``; a killed run of the same call is continued.
        options: fields of :class:`rubicc.genomics.settings.Settings` (``batch``, ``chunk``, ...).
        cluster: call the files as tasks of Ray: ``Cluster(workers=4)``.

    Raises:
        RubiccError: ``RUB-DRV-008`` not a basecaller; ``RUB-DRV-012`` no Ray; the rest see
            :mod:`rubicc.genomics.engine`.
    """
    from rubicc.driver.calling import basecall_reads

    settings = settings or resolve(flags)
    chosen = dict(options or {})
    return basecall_reads(model, reads, Path(out), settings, progress, on_problem, chosen, cluster)


def train(
    model: str | Path | torch.nn.Module,
    *,
    out: str | Path,
    settings: TrainSettings | None = None,
    **given: Any,
) -> Result | None:
    """Train a model on data, from known bases, from a teacher, or both, into a folder that is a model again.

    Args:
        model: any MODEL form, or the name of an architecture of the zoo (random weights).
        settings: of the training; a killed run of the same call goes on.
        given: ``data``, ``validation``: a bonito chunk folder, mapped-signal files, raw reads (with a
            teacher), an ``.npz`` with one array per input, or ``["simulated"]``; without ``validation`` some
            data are held out. ``teacher``: any MODEL form, and ``teacher_arch``, where it is a bare state
            dict. ``watcher``: is told of every step (:class:`rubicc.training.loop.Watcher`). ``reading``:
            settings of how models are read; what else is given are such settings by name.

    Returns:
        The result; None in processes of torchrun that are not the first.

    Raises:
        RubiccError: nothing is written to ``out`` then, ``OUT.partial`` keeps what was done.
    """
    from rubicc.shrink.train import train as run

    return run(_asked(model, out, training=settings, **given))


def prune(
    model: str | Path | torch.nn.Module, *, out: str | Path, settings: PruneSettings, **given: Any
) -> Result | None:
    """Make a model smaller, into a folder that is a model again: channels cut out, weights set to zero.

    Args:
        model: any MODEL form.
        settings: what goes, and in how many rounds.
        given: as of :func:`train`, with ``training``: settings of the training after each round; without
            data the network is cut and not trained.

    Returns, Raises:
        As :func:`train`.
    """
    from rubicc.shrink.prune import prune as run

    return run(_asked(model, out, **given), settings)


def quantize(
    model: str | Path | torch.nn.Module, *, out: str | Path, settings: QuantizeSettings, **given: Any
) -> Result | None:
    """Fewer bits for weights and activations, into a folder that is a model again.

    Args:
        model: any MODEL form.
        settings: which widths, or within which budgets.
        given: as of :func:`prune`; the training is that with quantisers.

    Returns, Raises:
        As :func:`train`.
    """
    from rubicc.shrink.quantize import quantize as run

    return run(_asked(model, out, **given), settings)


def skipclip(
    model: str | Path | torch.nn.Module, *, out: str | Path, settings: SkipSettings, **given: Any
) -> Result | None:
    """Take residual connections out of a model, into a folder that is a model again.

    Args:
        model: any MODEL form.
        settings: which skips, in which order.
        given: as of :func:`prune`; the training is that after each stage.

    Returns, Raises:
        As :func:`train`.
    """
    from rubicc.shrink.skipclip import skipclip as run

    return run(_asked(model, out, **given), settings)


def chain(
    recipe: str | Path | Chain,
    *,
    out: str | Path | None,
    wish: Wish | None = None,
    watcher: Watcher | None = None,
) -> Chained | None:
    """Carry out a chain of verbs, each on what the one before has made; what is done already is reused.

    Args:
        recipe: a YAML file, or the chain that it describes.
        out: folder of the results: ``1-skipclip``, ``2-prune`` ...; ``None`` only for a dry run.
        wish: what to do again, where to stop, or only to say what would be done.
        watcher: is told of every step of a training.

    Returns:
        What was done; None in processes of torchrun that are not the first.

    Raises:
        RubiccError: ``RUB-SHRINK-090`` to ``-095``, or that of a step, with its name; the steps before it are
            done, and the same call goes on.
    """
    from rubicc.shrink.chain import Chain, Wish, run

    if not isinstance(recipe, Chain):
        # The options of a step are the flags of its verb, so the command line reads recipes.
        from rubicc.cli.chain_recipe import read_chain

        recipe = read_chain(Path(recipe))
    return run(recipe, Path(out) if out is not None else None, wish or Wish(), watcher)


def _asked(
    model: str | Path | torch.nn.Module,
    out: str | Path,
    *,
    data: Sequence[str | Path] = (),
    teacher: str | Path | torch.nn.Module | None = None,
    teacher_arch: str | None = None,
    validation: Sequence[str | Path] = (),
    training: TrainSettings | None = None,
    reading: Settings | None = None,
    watcher: Watcher | None = None,
    **flags: Any,
) -> Asked:
    """What the verbs that change networks are asked for alike."""
    from rubicc.shrink.session import Asked
    from rubicc.training.loop import Silent
    from rubicc.training.settings import TrainSettings

    return Asked(
        model,
        Path(out),
        tuple(map(str, data)),
        teacher,
        teacher_arch,
        tuple(map(str, validation)),
        training or TrainSettings(),
        reading or resolve(flags),
        watcher or Silent(),
    )


def evaluate(calls: str | Path, *, reference: str | Path, **options: Any) -> Evaluation:
    """Identity of calls against their references: minimap2 matches over alignment columns, per read."""
    from rubicc.genomics.evaluate import evaluate as run

    return run(calls, reference, **options)


def diff(first: str | Path, second: str | Path) -> list[Change]:
    """What moved between two artefacts: files, operators, decisions, gaps, sizes."""
    from rubicc.evidence.diff import diff as run

    return run(first, second)
