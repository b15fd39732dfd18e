"""Entry point: find the verb, run it, map whatever happens to the exit codes of the contract."""

from __future__ import annotations

import os
import signal
import sys
import threading
import traceback
from collections.abc import Sequence
from importlib import import_module
from itertools import pairwise
from types import FrameType

from rubicc import __version__
from rubicc.cli.console import Console
from rubicc.cli.parser import Parser, add_common
from rubicc.errors import RubiccError

VERBS: dict[str, tuple[str, str]] = {
    "demo": ("rubicc.cli.demo", "compile the embedded basecaller, prove it, call the embedded reads"),
    "compile": ("rubicc.cli.compile", "compile a model for a target into a verified artefact"),
    "check": ("rubicc.cli.check", "list everything a target would refuse or warn about"),
    "train": ("rubicc.cli.train", "train a network, from data or from a teacher"),
    "skipclip": ("rubicc.cli.skipclip", "take residual connections out, train in between"),
    "prune": ("rubicc.cli.prune", "cut channels or weights out of a network, train between the cuts"),
    "quantize": ("rubicc.cli.quantize", "fewer bits for weights and activations, by layer within budgets"),
    "chain": ("rubicc.cli.chain", "carry out a recipe of these verbs, each on the last one's result"),
    "inspect": ("rubicc.cli.inspect", "inputs, operators, shapes, costs of a model or artefact"),
    "verify": ("rubicc.cli.verify", "re-hash an artefact, re-run it, compare with its evidence"),
    "bench": ("rubicc.cli.bench", "measure speed and memory on this machine"),
    "basecall": ("rubicc.cli.basecall", "call DNA from fast5 or pod5 reads"),
    "evaluate": ("rubicc.cli.evaluate", "identity of calls against a reference"),
    "diff": ("rubicc.cli.diff", "what moved between two artefacts"),
    "models": ("rubicc.cli.models", "list, show or create the models of the zoo"),
    "targets": ("rubicc.cli.targets", "targets and whether this machine can run them"),
    "passes": ("rubicc.cli.passes", "list or show the graph passes"),
    "env": ("rubicc.cli.env", "versions and machine, for bug reports"),
    "explain": ("rubicc.cli.explain", "what an error or decision code means"),
    "init": ("rubicc.cli.init", "write a commented recipe"),
}

EXIT_CODES = """exit codes:
  0 ok   1 internal error   2 usage or configuration   3 model unreadable or refused as unsafe
  4 unsupported by the target   5 verification failed   6 budget exceeded
  7 external tool missing or failed   8 output exists and is not ours   130 interrupted"""


class Interrupted(RubiccError):
    """Stopped by a signal."""

    exit_code = 130


class _Pressed(KeyboardInterrupt):
    """Stopped by Ctrl-C.

    A class of its own: where a plain KeyboardInterrupt passes through an ``exec`` (every dataclass that is
    imported has one), the interpreter ends itself by SIGINT afterwards, whatever we return.
    """


class _Terminated(KeyboardInterrupt):
    """SIGTERM, unwound like Ctrl-C so that staged outputs are removed."""


_stopped_by: list[KeyboardInterrupt] = []  # signals of the run at hand


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code and never raises."""
    args = list(sys.argv[1:] if argv is None else argv)
    console = Console(
        _verb_of(args) or "", as_json=_wants_json(args), verbosity=min(args.count("-vv") * 2, 2)
    )
    in_main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, _terminate) if in_main else None
    # Ctrl-C that the shell has switched off (a job in the background) stays off.
    heard = in_main and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if heard:
        signal.signal(signal.SIGINT, _interrupt)
    _stopped_by.clear()
    try:
        try:
            return _run(args, console)
        finally:
            sys.stdout.flush()
            if in_main:
                signal.signal(signal.SIGTERM, before)
            if heard:
                signal.signal(signal.SIGINT, signal.default_int_handler)
    except BrokenPipeError:
        # The reader of our output (head, less) has had enough; keep the interpreter from complaining.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except SystemExit as stop:  # argparse --help and --version
        return int(stop.code or 0)
    except BaseException as error:
        # A module whose import is interrupted may make another error of it; what stopped us is the signal.
        return _fail(_stopped_by[0] if _stopped_by else error, console)


def _run(args: list[str], console: Console) -> int:
    parsed = build_parser(_verb_of(args)).parse_args(args)
    if not parsed.verb:
        build_parser(None).print_help(sys.stderr)
        return 2
    console.as_json = parsed.format == "json"
    console.verbosity = -1 if parsed.quiet else min(parsed.verbose, 2)
    console.log_json = parsed.log_json
    console.start_logging()
    return int(import_module(VERBS[parsed.verb][0]).run(parsed, console))


def build_parser(verb: str | None) -> Parser:
    """The parser; only ``verb``'s own module is imported, the others appear by name."""
    parser = Parser(
        prog="rubicc",
        description="From PyTorch genomic networks to the hardware they must run on.",
        epilog=EXIT_CODES,
    )
    parser.add_argument("--version", action="version", version=f"rubicc {__version__}")
    parser.set_defaults(verb=None)
    sub = parser.add_subparsers(dest="verb", metavar="VERB", parser_class=Parser)
    for name, (module, text) in VERBS.items():
        child = sub.add_parser(
            name, help=text, description=text[0].upper() + text[1:] + ".", epilog=EXIT_CODES
        )
        if name == verb:
            import_module(module).configure(child)
            add_common(child)
            child.set_defaults(known_flags=child.flags())
    return parser


def _verb_of(args: Sequence[str]) -> str | None:
    return next((arg for arg in args if not arg.startswith("-")), None)


def _wants_json(args: Sequence[str]) -> bool:
    return "--format=json" in args or ("--format", "json") in pairwise(args)


def _terminate(signum: int, frame: FrameType | None) -> None:
    _stopped_by.append(_Terminated())
    raise _stopped_by[-1]


def _interrupt(signum: int, frame: FrameType | None) -> None:
    _stopped_by.append(_Pressed())
    raise _stopped_by[-1]


def _fail(error: BaseException, console: Console) -> int:
    """Print any exception as the contract says; returns its exit code."""
    code, known = _classify(error)
    if not known.hint and known.code != "RUB-CLI-022":
        known.hint = f"`rubicc explain {known.code}` says what helps"
    try:
        if console.verbosity >= 2:
            traceback.print_exception(error, file=sys.stderr)
        console.error(known)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return code


def _classify(error: BaseException) -> tuple[int, RubiccError]:
    if isinstance(error, RubiccError):
        return error.exit_code, error
    if isinstance(error, KeyboardInterrupt):
        how = "SIGTERM" if isinstance(error, _Terminated) else "SIGINT"
        return 130, Interrupted("RUB-CLI-022", f"interrupted by {how}", hint="older outputs are as they were")
    if isinstance(error, MemoryError):
        return 1, RubiccError("RUB-CLI-021", "out of memory", hint="a smaller --batch or --chunk needs less")
    if isinstance(error, OSError) and error.errno is not None:
        where = str(error.filename) if error.filename is not None else ""
        hint = "check the path, its permissions and the space there"
        return 1, RubiccError("RUB-CLI-020", f"the system refused: {error.strerror}", where=where, hint=hint)
    what = f"internal error: {type(error).__name__}: {error}"
    hint = "please report it with the output of `rubicc env`; -vv shows the traceback"
    return 1, RubiccError("RUB-CLI-900", what[:500], hint=hint)
