"""The recipe of a chain: YAML whose steps are verbs and whose options are the flags of these verbs.

No option is declared here. A step becomes the words of a command line, which the parser of its verb reads, so
a new flag of a verb is an option of its steps by itself.
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rubicc.cli.main import VERBS
from rubicc.cli.parser import Parser, add_reading
from rubicc.cli.train import add_training
from rubicc.errors import UsageError
from rubicc.shrink.chain_steps import COMPILE, Chain, Step, no_verb, within, wrong
from rubicc.shrink.chain_steps import VERBS as CHAINED
from rubicc.text import did_you_mean

if TYPE_CHECKING:
    from rubicc.settings import Settings

WHAT = "recipe of a chain"
# What all steps that train share, unless they say otherwise; `training` holds flags of the training.
SHARED = ("data", "teacher", "teacher-arch", "validation")
OF_MODEL = ("arch", "arch-config", "input")
KEYS = ("version", "model", *OF_MODEL, *SHARED, "training", "steps")
# Flags of a verb that are not of a step: of the run, of reading the first model, or made by the chain.
SAFETY = frozenset(("allow-code", "trust"))
OF_THE_RUN = frozenset(("force", "dry-run", "list", "print-config", "from-stage", "until-stage", "help"))
BY_THE_CHAIN = frozenset(("output", *OF_MODEL))
# A flag whose metavar is one of these names files or folders, or a model.
PATHS = frozenset(("FILE", "FILE.yaml", "PATH", "D"))
MODELS = frozenset(("MODEL",))
WORDS = ("simulated",)


def read_chain(path: Path, run: Sequence[str] = ()) -> Chain:
    """The chain that a recipe describes; no model and no data are read.

    Args:
        run: flags of this run, such as ``--allow-code``, for every step.

    Raises:
        UsageError: ``RUB-CLI-010`` to ``-013`` and ``RUB-SHRINK-090`` for the recipe; settings that cannot
            work, as their verb says it. File, step and key are named.
    """
    from rubicc.recipe import read_yaml_mapping
    from rubicc.settings import take_version

    data = read_yaml_mapping(path, WHAT)
    take_version(data, str(path))
    with within(str(path)):
        given = _keys(data, KEYS)
        if not isinstance(given.get("model"), str) or not given["model"]:
            raise wrong("model is missing", hint="write for example: model: model.pt")
        steps = given.get("steps")
        if not isinstance(steps, list):
            raise wrong(
                "steps is missing, or no list", hint="write for example: steps: [{prune: {macs: 50%}}]"
            )
        shared = {key: given[key] for key in SHARED if key in given}
        training = _training(given.get("training"))
        written = [_written(place, item) for place, item in enumerate(steps, 1)]
        names = _names(written)
        made = [
            _step(f"step {place} ({verb})", verb, name, options, (shared, training), (path.parent, run))
            for place, ((verb, options), name) in enumerate(zip(written, names, strict=True), 1)
        ]
        about = {key: given[key] for key in OF_MODEL if key in given}
        model = _path(given["model"], path.parent, a_model=True)
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        return Chain(model, tuple(made), _reading(about, path.parent), path.name, sha256)


def parser_of(verb: str) -> tuple[Parser, dict[str, argparse.Action]]:
    """The parser of a verb, and those of its flags that a step may give, by name."""
    parser = Parser(prog=f"rubicc {verb}")
    import_module(VERBS[verb][0]).configure(parser)
    left_out = SAFETY | OF_THE_RUN | BY_THE_CHAIN
    return parser, {name: flag for name, flag in parser.options().items() if name not in left_out}


def _written(place: int, item: Any) -> tuple[str, dict[str, Any]]:
    """Verb and options of a step as they stand in the recipe."""
    if isinstance(item, str):
        item = {item: None}
    if not isinstance(item, dict) or len(item) != 1:
        hint = "write `- prune: {macs: 50%}`, or indent the options below the verb"
        raise wrong("a step is one verb with its options", f"step {place}", hint)
    ((verb, options),) = item.items()
    if verb not in CHAINED:
        raise no_verb(verb, f"step {place}")
    if options is not None and not isinstance(options, dict):
        what, where = "options are a mapping of keys", f"step {place} ({verb})"
        raise wrong(what, where, f"write for example `- {verb}: {{name: {verb}}}`")
    return verb, dict(options or {})


def _names(written: Sequence[tuple[str, dict[str, Any]]]) -> list[str]:
    """Names of the steps; where none is given the verb, with a number from the second of its kind on."""
    given = [options.pop("name", None) for _, options in written]
    taken = {str(name) for name in given if name is not None}
    names: list[str] = []
    for (verb, _), name in zip(written, given, strict=True):
        if name is None:
            choice = (verb, *(f"{verb}-{number}" for number in range(2, len(written) + 2)))
            name = next(text for text in choice if text not in taken)
            taken.add(name)
        names.append(str(name))
    return names


def _step(
    where: str,
    verb: str,
    name: str,
    options: dict[str, Any],
    defaults: tuple[dict[str, Any], dict[str, Any]],
    context: tuple[Path, Sequence[str]],
) -> Step:
    """One step: its options over what is shared, read by the parser of its verb."""
    with within(where):
        parser, flags = parser_of(verb)
        own = _keys(options, flags)
        shared, training = defaults
        if verb != COMPILE:
            # A file of settings takes the place of those that are shared.
            own = {**shared, **({} if own.get("settings") is not None else training), **own}
        folder, run = context
        words = [word for key, value in own.items() for word in _words(key, flags[key], value, folder)]
        args = parser.parse_args(["MODEL", *run, *words])
        given = import_module(VERBS[verb][0]).given(args)
    said = {key: str(value)[:200] for key, value in own.items() if value is not None}
    settings = given.pop("settings")
    return Step(verb, name, settings, given, said)


def _reading(about: Mapping[str, Any], folder: Path) -> Settings:
    """What is said of the model."""
    from rubicc.cli.compile import resolve_settings

    parser = Parser(prog="rubicc chain")
    add_reading(parser)
    flags = parser.options()
    words = [word for key, value in about.items() for word in _words(key, flags[key], value, folder)]
    return resolve_settings(parser.parse_args(["MODEL", *words]))


def _training(given: Any) -> dict[str, Any]:
    if given is None:
        return {}
    if not isinstance(given, dict):
        raise wrong("training is no mapping of keys", hint="write for example: training: {steps: 4000}")
    parser = Parser(prog="training", add_help=False)
    add_training(parser)
    with within("training"):
        return _keys(given, parser.options())


def _keys(given: Mapping[str, Any], known: Sequence[str] | Mapping[str, Any]) -> dict[str, Any]:
    """Keys as flags are spelt, all of them known."""
    found: dict[str, Any] = {}
    for key, value in given.items():
        name = key.replace("_", "-")
        if name in SAFETY | OF_THE_RUN:
            what, hint = f"a recipe may not set {key!r}", "give it as a flag of this run"
            raise UsageError("RUB-CLI-013", what, hint=hint)
        if name not in known:
            listed = did_you_mean(name, known, f"known: {', '.join(known)}")
            raise wrong(f"unknown key {key[:60]!r}", hint=listed)
        if name in found:
            raise wrong(f"key {key!r} is given twice, with - and with _", hint="give it once")
        found[name] = value
    return found


def _words(key: str, action: argparse.Action, value: Any, folder: Path) -> list[str]:
    """Words of a command line that give a flag this value; none for null."""
    flag, kind = f"--{key}", str(action.metavar)
    if value is None:
        return []
    if action.nargs == 0:
        if isinstance(value, bool):
            return [flag] * value
        raise wrong(f"{key}: {str(value)[:60]!r} is neither true nor false", hint="write true or false")
    several = isinstance(action, argparse._AppendAction) or action.nargs == "+"
    if isinstance(value, Mapping) and several and "=" in kind:
        value = [f"{name}={_text(key, item, action)}" for name, item in value.items()]
    if not isinstance(value, list):
        value = [value]
    elif not several or not value:
        raise wrong(
            f"{key}: a list of {len(value)}", hint="give one value" if value else "give some, or null"
        )
    texts = [_text(key, item, action) for item in value]
    if kind in PATHS | MODELS:
        texts = [_path(text, folder, key, a_model=kind in MODELS) for text in texts]
    return [flag, *texts] if action.nargs == "+" else [f"{flag}={text}" for text in texts]


def _text(key: str, value: Any, action: argparse.Action) -> str:
    if isinstance(value, bool) and set(action.choices or ()) >= {"on", "off"}:
        return "on" if value else "off"  # as YAML reads these words
    if isinstance(value, bool) or not isinstance(value, str | int | float) or not str(value).strip():
        raise wrong(f"{key}: {str(value)[:60]!r} is no text or number", hint="write what the flag takes")
    return str(value)


def _path(text: str, folder: Path, key: str = "model", *, a_model: bool) -> str:
    """A path of the recipe, seen from here."""
    from rubicc.models import registry

    path = folder / text
    if a_model:
        named = text.startswith("python:") or (text in registry.names() and not path.exists())
        return text if named else str(path)
    if text in WORDS:
        return text
    try:
        there = path.exists()
    except (OSError, ValueError):
        there = False
    if not there:
        raise wrong(f"{key}: there is no {text[:200]!r} beside the recipe", hint="check the path")
    return str(path)
