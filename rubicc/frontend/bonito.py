"""bonito model folders (config.toml + weights_N.tar) of the CTC and CRF families, without bonito."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rubicc.errors import ModelRefused, UsageError
from rubicc.evidence.decision import Decision
from rubicc.frontend import files, ptfile
from rubicc.frontend.bonito_crf import crf_layout
from rubicc.frontend.bonito_ctc import ctc_layout
from rubicc.frontend.fit import as_state_dict, build_arch, check_config, prepare
from rubicc.frontend.limits import DEFAULT, Limits
from rubicc.frontend.source import Source
from rubicc.spec import QUANTILE, ModelMeta, SignalSpec
from rubicc.text import first_line, printable

if TYPE_CHECKING:
    import torch

_FAMILIES = {"bonito.ctc": ("bonito-ctc", ctc_layout), "bonito.crf": ("bonito-crf", crf_layout)}
_WEIGHTS = re.compile(r"weights_([0-9]{1,9})\.tar")


def read(folder: Path, limits: Limits = DEFAULT) -> Source:
    """The network in ``folder`` with the weights of the highest number.

    Raises:
        ModelRefused: RUB-READ-050 configuration, -051 family, -043 weights, -080 links, and what reading a
            state dict raises.
    """
    config = read_config(folder, limits)
    weights = _last_weights(folder)
    family = _table(config, "model", folder).get("package")
    if family not in _FAMILIES:
        raise ModelRefused(
            "RUB-READ-051",
            f"family {str(family)[:60]!r}",
            where=folder.name,
            hint=f"families read: {', '.join(_FAMILIES)}; export others with torch.export.save",
        )
    arch, layout = _FAMILIES[family]
    tensors, decisions = _tensors(folder / weights, limits)
    try:
        settings, names = layout(config, tensors)
    except ValueError as err:
        raise ModelRefused(
            "RUB-READ-051",
            printable(str(err), 200),
            where=folder.name,
            hint="export it with torch.export.save",
        ) from err
    except (KeyError, TypeError, IndexError, AttributeError) as err:
        raise _malformed(folder, f"lacks or misuses {printable(str(err), 150)}") from err
    renamed = _rename(tensors, names)
    try:
        module, meta = build_arch(arch, settings, renamed, f"{folder.name}/{weights}")
    except UsageError as err:
        raise ModelRefused(
            "RUB-READ-051", err.what, where=folder.name, hint=err.hint or "export it with torch.export.save"
        ) from err
    meta, assumed = _with_settings(meta, config, folder)
    return Source(
        kind="bonito",
        name=folder.name,
        sha256=files.sha256_folder(folder, ("config.toml", weights)),
        meta=meta,
        module=module,
        decisions=decisions + assumed,
    )


def read_config(folder: Path, limits: Limits = DEFAULT) -> dict[str, Any]:
    """Checked content of config.toml."""
    path = files.inside(folder, "config.toml")
    if path is None:
        raise _malformed(folder, "config.toml is missing")
    try:
        config = tomllib.loads(files.read_small(path, limits).decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as err:
        raise _malformed(folder, first_line(err)) from err
    for name in ("model", "labels", "input", "encoder", "block", "global_norm"):
        check_config(config.get(name), f"{folder.name}/config.toml", limits)
    return config


def _last_weights(folder: Path) -> str:
    found = [
        (int(match[1]), path.name) for path in folder.iterdir() if (match := _WEIGHTS.fullmatch(path.name))
    ]
    if not found:
        raise ModelRefused(
            "RUB-READ-043",
            "no weights_N.tar in the folder",
            where=folder.name,
            hint="copy the weights beside it",
        )
    name = max(found)[1]
    path = files.inside(folder, name)
    assert path is not None
    files.regular_file(path)
    return name


def _tensors(path: Path, limits: Limits) -> tuple[dict[str, torch.Tensor], list[Decision]]:
    with path.open("rb") as handle:
        start = handle.read(len(ptfile.LEGACY_MAGIC))
    if start == ptfile.LEGACY_MAGIC:
        value, wanted = ptfile.load_legacy(path, limits=limits)
        ptfile.refuse_wanted(wanted, path.name)
    else:
        value = ptfile.load_zip(path, limits)
    found, nested = as_state_dict(value, path.name)
    tensors, decisions = prepare(found, path.name)
    return tensors, nested + decisions


def _rename(tensors: Mapping[str, torch.Tensor], names: Mapping[str, str]) -> dict[str, torch.Tensor]:
    """bonito names to the zoo's, module by module; names without a counterpart stay and are reported."""
    result = {}
    for name, value in tensors.items():
        stem, _, leaf = name.rpartition(".")
        result[f"{names[stem]}.{leaf}" if stem in names else name] = value
    return result


def _with_settings(
    meta: ModelMeta, config: Mapping[str, Any], folder: Path
) -> tuple[ModelMeta, list[Decision]]:
    """Signal scaling, windows and quality calibration as the configuration has them."""
    signal, decisions = _signal(config, folder)
    rate = config.get("run_info", {}).get("sample_rate") if isinstance(config.get("run_info"), dict) else None
    if isinstance(rate, int) and 0 < rate <= 100_000:
        signal = replace(signal, sampling_rate=rate)
    decoder = meta.decoder
    qscore = config.get("qscore")
    if decoder is not None and isinstance(qscore, dict):
        scale, bias = _number(qscore, "scale", 1.0, folder), _number(qscore, "bias", 0.0, folder)
        decoder = replace(decoder, qscale=scale, qbias=bias)
        decisions.append(
            Decision(
                "RUB-READ-D08",
                folder.name,
                f"quality calibration taken over: q' = {scale:g} q {bias:+g}",
                "it was fitted to the qualities of bonito's decoder, not to those of ours",
            )
        )
    chunk, overlap = meta.chunk, meta.overlap
    window = config.get("basecaller")
    if isinstance(window, dict) and meta.stride and isinstance(window.get("chunksize"), int):
        grid = 2 * meta.stride
        wanted = window["chunksize"] - window["chunksize"] % grid
        kept = int(_number(window, "overlap", 500, folder))
        kept -= kept % grid
        if 0 <= kept < wanted <= 1 << 24:
            chunk, overlap = wanted, kept
    return replace(meta, signal=signal, decoder=decoder, chunk=chunk, overlap=overlap), decisions


def _signal(config: Mapping[str, Any], folder: Path) -> tuple[SignalSpec, list[Decision]]:
    scaling = config.get("scaling")
    strategy = scaling.get("strategy") if isinstance(scaling, dict) else None
    if strategy == "pa":
        section = _table(config, "standardisation", folder)
        if section.get("standardise") == 1:
            values = {key: _number(section, key, None, folder) for key in ("mean", "stdev")}
            return SignalSpec("pa", values), []
        return SignalSpec("pa", {"mean": 0.0, "stdev": 1.0}), []
    if strategy not in (None, "quantile"):
        raise _malformed(folder, f"signal scaling {str(strategy)[:40]!r} is unknown")
    section = config.get("normalisation") or QUANTILE
    if not isinstance(section, dict):
        raise _malformed(folder, "normalisation is not a table")
    values = {key: _number(section, key, default, folder) for key, default in QUANTILE.items()}
    decisions = []
    if strategy is None:
        what = "quantile scaling, as bonito 0.6 and later do without a [scaling] section"
        decisions.append(Decision("RUB-READ-D07", folder.name, what, "config.toml names no scaling"))
    return SignalSpec("quantile", values), decisions


def _table(config: Mapping[str, Any], name: str, folder: Path) -> dict[str, Any]:
    value = config.get(name)
    if not isinstance(value, dict):
        raise _malformed(folder, f"no [{name}] section")
    return value


def _number(table: Mapping[str, Any], key: str, default: float | None, folder: Path) -> float:
    value = table.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e9:
        raise _malformed(folder, f"{key} is {value!r:.40}")
    return float(value)


def _malformed(folder: Path, what: str) -> ModelRefused:
    return ModelRefused(
        "RUB-READ-050", f"config.toml: {what}", where=folder.name, hint="copy the folder as bonito wrote it"
    )
