"""Every compile setting, typed, with where its value came from: flag > env ``RUBICC_*`` > recipe > default.

Layers are flat mappings with dotted keys (``passes.quantize.weight_bits``), so a flag can override one entry
of a recipe's mapping and each entry keeps its own origin. ``--allow-code`` and ``--trust`` are flags only: a
recipe or an inherited environment must never be able to switch a safety off.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from rubicc.errors import UsageError
from rubicc.quantities import (
    Budget,
    MaxGap,
    format_quantity,
    format_tensor,
    known_key,
    parse_boolean,
    parse_budget,
    parse_gap,
    parse_input,
    parse_number,
    parse_seconds,
    parse_tensor,
    parse_whole,
)
from rubicc.recipe import parse_yaml, read_yaml_mapping
from rubicc.shapes import parse_shapes
from rubicc.spec import TensorSpec
from rubicc.text import did_you_mean

RECIPE_VERSION = 1
PRECISIONS = ("fp32", "fp16", "bf16", "int8", "mixed", "auto")
# Of weights, and with w8a8 of activations; for targets that store them so.
COMPRESSED = ("int4", *(f"palette{bits}" for bits in range(1, 9)), "sparse", "w8a8")
# Of weights and values in integers, for targets that multiply more than 8 bits.
WIDE = ("int16", "w8a16")
RUNTIMES = ("auto", "onnxruntime", "openvino", "native")
ON_PACKAGES = ("mil", "mil-fp32", "coreml")
ON_ARRAYS = ("sim", "integer")
LAYOUTS = ("auto", "plain", "polyphase")
OBJECTIVES = ("throughput", "latency", "tiles")
MAX_TUNE = 3600.0


@dataclass(frozen=True)
class Settings:
    """Resolved settings of one compilation.

    Attributes:
        target: ``T`` or ``T:device`` as given (``cpu``, ``gpu``, ``aie:vek280``).
        inputs: ``--input`` specs, in the order given; empty = what the model says.
        arch, arch_config: architecture of a bare state dict.
        precision, runtime, layout: ``auto`` measures and records its choice.
        shapes: for targets whose inputs have fixed or bounded shapes; see :mod:`rubicc.shapes`.
        batch, streams: items in flight, and calls they are cut into; ``None`` = measured and recorded.
        tune: seconds of measuring in all; 0 = nothing is measured, every choice follows its rule.
        objective: what the measured choices are to be best at.
        cache: whether choices measured earlier on this machine are taken over, and new ones kept.
        calib, reference: data files; a recipe names them relative to its own folder.
        device_facts: numbers of the device that its table does not know, or that are to replace the table's.
        passes: options by pass id, e.g. ``{"cleanup.fold-constants": {"max_bytes": 1024}}``.
        check: verify the graph after every pass.
        threads: intra-op threads for running and measuring; ``None`` = the runtime's default.
        dump_stages, from_stage, until_stage: writing and resuming at ``stages/NN_pass.onnx``.
        allow_code, trust, dry_run, force: permissions and modes of this run; never part of a recipe.
        origins: flat key -> ``flag``, ``env RUBICC_X``, ``recipe``, ``default`` or a driver's own word.
    """

    target: str = "cpu"
    inputs: tuple[TensorSpec, ...] = ()
    arch: str | None = None
    arch_config: Mapping[str, Any] = field(default_factory=dict)
    precision: str = "fp32"
    runtime: str = "auto"
    layout: str = "auto"
    shapes: str = "fixed"
    threads: int | None = None
    batch: int | None = None
    streams: int | None = None
    tune: float = 3.0
    objective: str = "throughput"
    cache: bool = True
    calib: Path | None = None
    reference: Path | None = None
    max_gap: MaxGap = field(default_factory=MaxGap)
    budget: Budget = field(default_factory=Budget)
    device_facts: Mapping[str, float | int] = field(default_factory=dict)
    passes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    seed: int = 0
    strict: bool = False
    check: bool = False
    dump_stages: bool = False
    from_stage: str | None = None
    until_stage: str | None = None
    allow_code: bool = False
    trust: bool = False
    dry_run: bool = False
    force: bool = False
    origins: Mapping[str, str] = field(default_factory=dict)

    @property
    def backend(self) -> str:
        """Target without its device: ``aie`` of ``aie:vek280``."""
        return self.target.partition(":")[0]

    @property
    def device(self) -> str | None:
        """Device of ``target:device``, or ``None``."""
        return self.target.partition(":")[2] or None

    def with_values(self, origin: str, **values: Any) -> Settings:
        """A copy with fields replaced, e.g. ``with_values("measured", runtime="openvino")``."""
        return replace(self, origins={**self.origins, **dict.fromkeys(values, origin)}, **values)

    def to_recipe(self) -> str:
        """The resolved recipe: deterministic YAML without paths of this machine (data files by name only)."""
        import yaml

        body: dict[str, Any] = {"version": RECIPE_VERSION}
        for key, value in _flatten(self).items():
            if key in _RUN_ONLY or value is None:
                continue
            group, _, rest = key.partition(".")
            if rest:
                _nest(body, group, rest, value)
            else:
                body[key] = value
        return yaml.safe_dump(body, sort_keys=False, default_flow_style=False, allow_unicode=True, width=100)

    def describe(self) -> list[tuple[str, Any, str]]:
        """Rows (key, value, origin) for ``--print-config``; mappings appear entry by entry."""
        rows = []
        for key, value in _flatten(self, paths_in_full=True).items():
            rows.append(
                (key, value, self.origins.get(key, self.origins.get(key.partition(".")[0], "default")))
            )
        return rows


_GROUPS = ("inputs", "arch_config", "max_gap", "budget", "device_facts", "passes")
_RUN_ONLY = ("allow_code", "trust", "dry_run", "force", "cache")
_PATHS = ("calib", "reference")
_CHOICES = {
    "precision": (*PRECISIONS, *COMPRESSED, *WIDE),
    "runtime": (*RUNTIMES, *ON_PACKAGES, *ON_ARRAYS),
    "layout": LAYOUTS,
    "objective": OBJECTIVES,
}
_WHOLE = {"seed": (0, 2**63 - 1), "threads": (1, 1024), "streams": (1, 1024), "batch": (1, 65536)}
_SUBKEYS = {"max_gap": tuple(f.name for f in fields(MaxGap)), "budget": tuple(f.name for f in fields(Budget))}
KEYS = tuple(f.name for f in fields(Settings) if f.name != "origins")
RECIPE_KEYS = tuple(key for key in KEYS if key not in _RUN_ONLY)
ENV_KEYS = (*(key for key in RECIPE_KEYS if key not in ("inputs", "arch_config", "passes")), "cache")


def resolve(
    flags: Mapping[str, Any] | None = None,
    *,
    sets: Sequence[str] = (),
    recipe: str | Path | Mapping[str, Any] | None = None,
    env: Mapping[str, str] | None = None,
) -> Settings:
    """Merge the four layers into typed settings.

    Args:
        flags: by field name; ``None`` means not given. Values may be typed or text. Groups (``inputs``,
            ``max_gap``, ``budget``, ``device_facts``) take a mapping, or a list of ``KEY=VALUE`` texts
            (``inputs`` also TensorSpecs); ``arch_config`` takes a mapping or a file.
        sets: ``--set`` texts such as ``passes.quantize.weight_bits=4``.
        recipe: a YAML file or an already parsed mapping.
        env: the environment; ``None`` = ``os.environ``.

    Raises:
        UsageError: unknown key (``RUB-CLI-002``, with the nearest known one), a value of the wrong form
            (``RUB-CLI-003``/``004``), a key given twice (``RUB-CLI-005``), unreadable recipe.
    """
    layers = [
        ("recipe", _recipe_layer(recipe)),
        ("env", _env_layer(os.environ if env is None else env)),
        ("flag", _flag_layer(flags or {}, sets)),
    ]
    flat: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for layer, values in layers:
        for key, value in values.items():
            flat[key] = value
            origins[key] = f"env {env_name(key)}" if layer == "env" else layer
    return _build(flat, origins)


def env_name(key: str) -> str:
    """Environment variable of a flat key: ``budget.size`` is set through ``RUBICC_BUDGET``."""
    return "RUBICC_" + key.partition(".")[0].upper()


def _build(flat: Mapping[str, Any], origins: Mapping[str, str]) -> Settings:
    values: dict[str, Any] = {group: {} for group in _GROUPS}
    for key, raw in flat.items():
        group, _, rest = key.partition(".")
        where = f"from {origins[key]}"
        if group == "passes":
            pass_id, _, option = rest.rpartition(".")
            values["passes"].setdefault(pass_id, {})[option] = raw
        elif group == "inputs":
            values[group][rest] = raw if isinstance(raw, TensorSpec) else parse_tensor(rest, raw)
        elif group in ("max_gap", "budget"):
            values[group][rest] = (parse_gap if group == "max_gap" else parse_budget)(rest, raw)
        elif group == "device_facts":
            values[group][rest] = parse_number(key, raw)
        elif group == "arch_config":
            values[group][rest] = raw
        else:
            values[key] = _scalar(key, raw, where)
    values["inputs"] = tuple(values["inputs"].values())
    values["max_gap"] = MaxGap(**values["max_gap"])
    values["budget"] = Budget(**values["budget"])
    return Settings(**values, origins=dict(origins))


def _scalar(key: str, raw: Any, where: str) -> Any:
    if key in _CHOICES:
        if raw not in _CHOICES[key]:
            raise UsageError(
                "RUB-CLI-004",
                f"{key}: {str(raw)[:80]!r} is not one of {', '.join(_CHOICES[key])}",
                where=where,
                hint=did_you_mean(raw, _CHOICES[key], f"for example {_CHOICES[key][0]}"),
            )
        return raw
    if key in _PATHS:
        if not isinstance(raw, str | Path) or not str(raw):
            raise UsageError("RUB-CLI-004", f"{key}: {raw!r} is not a path", where=where)
        return Path(raw)
    default = next(f.default for f in fields(Settings) if f.name == key)
    if isinstance(default, bool):
        return parse_boolean(key, raw, where)
    if key in _WHOLE:
        return parse_whole(key, raw, where, *_WHOLE[key])
    if key == "tune":
        return parse_seconds(key, raw, where, MAX_TUNE)
    if not isinstance(raw, str | int) or isinstance(raw, bool) or not str(raw).strip():
        raise UsageError("RUB-CLI-004", f"{key}: {raw!r} is not a text", where=where)
    if key == "shapes":
        parse_shapes(str(raw))
    return str(raw)


def _recipe_layer(recipe: str | Path | Mapping[str, Any] | None) -> dict[str, Any]:
    if recipe is None:
        return {}
    folder, where = Path(), "recipe"
    if isinstance(recipe, Mapping):
        data = dict(recipe)
    else:
        folder, where = Path(recipe).parent, str(recipe)
        data = read_yaml_mapping(Path(recipe), "recipe")
    take_version(data, where)
    flat: dict[str, Any] = {}
    for key, value in data.items():
        if key in _RUN_ONLY:
            hint = "give it as a flag of this run" if key in ("allow_code", "trust") else "it is a flag only"
            hint = "--no-cache or RUBICC_CACHE=0" if key == "cache" else hint
            raise UsageError("RUB-CLI-013", f"a recipe may not set {key!r}", where=where, hint=hint)
        known_key(key, RECIPE_KEYS, where)
        if value is None:
            continue
        flat.update(_group_items(key, value, where) if key in _GROUPS else {key: value})
        if key in _PATHS and isinstance(value, str):
            flat[key] = folder / value
    return flat


def take_version(data: dict[str, Any], where: str) -> None:
    """Take the version out of a recipe.

    Raises:
        UsageError: ``RUB-CLI-012``: there is none, or another one.
    """
    version = data.pop("version", None)
    if version != RECIPE_VERSION:
        said = "has no version" if version is None else f"is of version {version!r}"
        raise UsageError(
            "RUB-CLI-012",
            f"recipe {said}; this rubicc reads version 1",
            where=where,
            hint="write: version: 1",
        )


def _env_layer(env: Mapping[str, str]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key in ENV_KEYS:
        text = env.get(env_name(key), "")
        if text and key in _GROUPS:
            flat.update(_group_items(key, text.split(","), env_name(key)))
        elif text:
            flat[key] = text
    return flat


def _flag_layer(flags: Mapping[str, Any], sets: Sequence[str]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in flags.items():
        known_key(key, KEYS, "settings")
        if value is None:
            continue
        flat.update(_group_items(key, value, "flag") if key in _GROUPS else {key: value})
    for text in sets:
        key, value = _parse_set(text)
        for full, item in (
            _group_items(key, value, "--set").items() if key in _GROUPS else {key: value}.items()
        ):
            if full in flat:
                raise UsageError(
                    "RUB-CLI-005", f"{full} is given twice", where=f"--set {text}", hint="give it once"
                )
            flat[full] = item
    return flat


def _parse_set(text: str) -> tuple[str, Any]:
    path, sep, raw = text.partition("=")
    group, _, rest = path.strip().partition(".")
    if not sep or not group or (group in _GROUPS) != bool(rest):
        raise UsageError(
            "RUB-CLI-004",
            f"--set: cannot read {text[:80]!r}",
            hint="write KEY=VALUE, e.g. precision=fp16",
        )
    if group in _RUN_ONLY:
        raise UsageError("RUB-CLI-013", f"--set may not change {group!r}", hint="give it as its own flag")
    known_key(group, RECIPE_KEYS, "--set")
    value = parse_yaml(raw, "--set value", where=f"--set {text[:80]}")
    if group == "passes":
        pass_id, _, option = rest.rpartition(".")
        return group, {pass_id: {option: value}}
    return group, {rest: value} if rest else value


def _group_items(group: str, value: Any, where: str) -> dict[str, Any]:
    """Flat entries of one group from a mapping, a file (``arch_config``) or ``KEY=VALUE`` texts."""
    if group == "arch_config" and isinstance(value, str | Path):
        value = read_yaml_mapping(Path(value), "architecture configuration")
    if isinstance(value, MaxGap | Budget):
        return {
            f"{group}.{f.name}": v
            for f in fields(value)
            if (v := _typed_text(group, f.name, value)) is not None
        }
    if isinstance(value, str | TensorSpec):
        value = [value]
    if isinstance(value, Sequence):
        value = _pairs(group, value, where)
    if not isinstance(value, Mapping):
        raise UsageError("RUB-CLI-004", f"{group} must be a mapping, not {value!r}"[:200], where=where)
    if group == "passes":
        return _pass_items(value, where)
    for key in value:
        if group in _SUBKEYS:
            known_key(str(key), _SUBKEYS[group], f"{group} ({where})")
    return {f"{group}.{key}": item for key, item in value.items()}


def _typed_text(group: str, key: str, value: Any) -> Any:
    number = getattr(value, key)
    return None if number is None else format_quantity(group, key, number)


def _pairs(group: str, items: Sequence[Any], where: str) -> dict[str, Any]:
    pairs: dict[str, Any] = {}
    for item in items:
        value: TensorSpec | str
        if isinstance(item, TensorSpec):
            key, value = item.name, item
        elif group == "inputs":
            spec = parse_input(str(item))
            key, value = spec.name, spec
        else:
            key, sep, value = str(item).partition("=")
            if not sep:
                raise UsageError(
                    "RUB-CLI-004", f"{group}: cannot read {str(item)[:80]!r}", hint="write KEY=VALUE"
                )
        if key in pairs:
            raise UsageError("RUB-CLI-005", f"{group}.{key} is given twice", where=where, hint="give it once")
        pairs[key] = value
    return pairs


def _pass_items(value: Mapping[str, Any], where: str) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for pass_id, options in value.items():
        if not pass_id or not isinstance(options, Mapping):
            raise UsageError(
                "RUB-CLI-004",
                f"passes.{pass_id} must be a mapping of options",
                where=where,
                hint="passes: {quantize: {weight_bits: 4}} or --set passes.quantize.weight_bits=4",
            )
        flat.update({f"passes.{pass_id}.{option}": item for option, item in options.items()})
    return flat


def _flatten(settings: Settings, *, paths_in_full: bool = False) -> dict[str, Any]:
    """Flat key -> plain YAML value; groups entry by entry (an empty group has no entry)."""
    flat: dict[str, Any] = {}
    for key in KEYS:
        value = getattr(settings, key)
        if key == "inputs":
            flat.update({f"inputs.{spec.name}": format_tensor(spec) for spec in value})
        elif key in _SUBKEYS:
            entries = ((name, getattr(value, name)) for name in _SUBKEYS[key])
            flat.update({f"{key}.{n}": format_quantity(key, n, v) for n, v in entries if v is not None})
        elif key == "passes":
            for pass_id in sorted(value):
                flat.update(
                    {f"passes.{pass_id}.{opt}": value[pass_id][opt] for opt in sorted(value[pass_id])}
                )
        elif key in ("arch_config", "device_facts"):
            flat.update({f"{key}.{name}": value[name] for name in sorted(value)})
        elif isinstance(value, Path):
            flat[key] = str(value) if paths_in_full else value.name
        else:
            flat[key] = value
    return flat


def _nest(body: dict[str, Any], group: str, rest: str, value: Any) -> None:
    target = body.setdefault(group, {})
    if group == "passes":
        pass_id, _, rest = rest.rpartition(".")
        target = target.setdefault(pass_id, {})
    target[rest] = value


__all__ = ["LAYOUTS", "OBJECTIVES", "PRECISIONS", "RUNTIMES", "Budget", "MaxGap", "Settings", "resolve"]
