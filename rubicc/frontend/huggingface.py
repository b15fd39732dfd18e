"""Hugging Face folders of the BERT family, read without running or fetching anything.

``transformers`` builds the network from a configuration that is filtered to the keys its own class knows;
the tensors are read by our readers. ``from_pretrained`` is never called: it follows ``auto_map`` code,
adapters, kernels and the hub.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rubicc.errors import ModelRefused
from rubicc.evidence.decision import Decision
from rubicc.frontend import files, ptfile, safetensors_file
from rubicc.frontend.fit import as_state_dict, build_arch, check_config, compare, prepare
from rubicc.frontend.limits import DEFAULT, Limits
from rubicc.frontend.source import Source
from rubicc.spec import ModelMeta, TensorSpec
from rubicc.text import first_line, printable

if TYPE_CHECKING:
    import torch

MODEL_TYPES = ("bert", "roberta", "distilbert", "modernbert")
# Head of the architecture name -> (transformers factory, output attribute, task).
_HEADS = {
    "ForMaskedLM": ("AutoModelForMaskedLM", "logits", "masked-lm"),
    # BERT as it was trained: the masked-language half of it.
    "ForPreTraining": ("AutoModelForMaskedLM", "logits", "masked-lm"),
    "ForSequenceClassification": ("AutoModelForSequenceClassification", "logits", "generic"),
    "ForTokenClassification": ("AutoModelForTokenClassification", "logits", "generic"),
    "Model": ("AutoModel", "last_hidden_state", "generic"),
}
# Configuration keys that steer code, devices or downloads instead of describing the network.
_IGNORED_KEYS = frozenset(
    {
        *(
            "auto_map",
            "custom_pipelines",
            "quantization_config",
            "attn_implementation",
            "experts_implementation",
        ),
        *("torch_dtype", "dtype", "architectures", "transformers_version", "model_type", "name_or_path"),
        *(
            "torchscript",
            "return_dict",
            "output_attentions",
            "output_hidden_states",
            "use_cache",
            "tokenizer_class",
        ),
    }
)
# Tensors that training keeps and inference does not use.
_UNUSED = ("position_ids", "pooler.", "cls.seq_relationship.")
_INDEXED = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
# Beside the weights: what turns text into token ids.
_ASSETS = ("tokenizer.json",)


def read(
    folder: Path,
    arch: str | None = None,
    arch_config: Mapping[str, Any] | None = None,
    limits: Limits = DEFAULT,
) -> Source:
    """The network in ``folder``; with ``arch`` as that architecture of the zoo (for models with custom code).

    Raises:
        ModelRefused: RUB-READ-040 to -043, -080, and what reading tensors raises.
    """
    config = _read_config(folder, limits)
    used = {"config.json"}
    if arch is None:
        _refuse_custom(config, folder)
    found = _read_tensors(folder, used, limits)
    tensors, decisions = prepare(_modern_names(found), folder.name)
    if arch is None:
        module, meta, more = _build(config, tensors, folder)
    else:
        module, meta, more = _build_zoo(arch, arch_config, config, tensors, folder)
    assets = _assets(folder, used, limits)
    return Source(
        kind="hf",
        name=folder.name,
        sha256=files.sha256_folder(folder, used),
        meta=meta,
        module=module,
        decisions=decisions + more,
        assets=assets,
    )


def _read_config(folder: Path, limits: Limits) -> dict[str, Any]:
    path = files.inside(folder, "config.json")
    if path is None:
        raise _malformed(folder, "config.json is missing")
    config = _json(path, folder, limits)
    check_config(config, f"{folder.name}/config.json", limits)
    return config


def _assets(folder: Path, used: set[str], limits: Limits) -> dict[str, bytes]:
    """Files that travel with the network as they are: data in JSON, which nothing here runs."""
    found = {}
    for name in _ASSETS:
        path = files.inside(folder, name)
        if path is not None:
            found[name] = files.read_small(path, limits)
            _object(found[name], path, folder)
            used.add(name)
    return found


def _json(path: Path, folder: Path, limits: Limits) -> dict[str, Any]:
    return _object(files.read_small(path, limits), path, folder)


def _object(data: bytes, path: Path, folder: Path) -> dict[str, Any]:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as err:
        raise _malformed(folder, f"{path.name} is not JSON: {first_line(err)}") from err
    if not isinstance(value, dict):
        raise _malformed(folder, f"{path.name} is not a JSON object")
    return value


def _refuse_custom(config: Mapping[str, Any], folder: Path) -> None:
    if config.get("auto_map") or config.get("custom_pipelines"):
        wanted = config.get("auto_map") or config.get("custom_pipelines")
        listed = (
            ", ".join(sorted(str(v) for v in wanted.values())) if isinstance(wanted, dict) else str(wanted)
        )
        raise ModelRefused(
            "RUB-READ-041",
            f"the model wants code from its folder: {printable(listed, 160)}",
            where=folder.name,
            hint="--arch NAME if the zoo has it (GENA-LM: --arch dna-bert), or torch.export.save it",
        )
    if config.get("model_type") not in MODEL_TYPES:
        raise ModelRefused(
            "RUB-READ-042",
            f"model type {str(config.get('model_type'))[:40]!r}",
            where=folder.name,
            hint=f"types read: {', '.join(MODEL_TYPES)}; export others with torch.export.save",
        )


def _read_tensors(folder: Path, used: set[str], limits: Limits) -> dict[str, torch.Tensor]:
    names = _weight_files(folder, used, limits)
    tensors: dict[str, torch.Tensor] = {}
    for name in names:
        path = files.inside(folder, name)
        if path is None:
            raise ModelRefused("RUB-READ-043", f"{name} is missing", where=folder.name, hint="fetch it again")
        files.regular_file(path, limits)
        used.add(name)
        if name.endswith(".safetensors"):
            part, _ = safetensors_file.load(path, limits)
        else:
            part, _ = as_state_dict(ptfile.load_zip(path, limits), f"{folder.name}/{name}")
        tensors.update(part)
    return tensors


def _weight_files(folder: Path, used: set[str], limits: Limits) -> list[str]:
    """Names of the weight files: one file, or the shards an index lists; safetensors are preferred."""
    for single, index in zip(("model.safetensors", "pytorch_model.bin"), _INDEXED, strict=True):
        if files.inside(folder, single) is not None:
            return [single]
        path = files.inside(folder, index)
        if path is not None:
            used.add(index)
            shards = _json(path, folder, limits).get("weight_map")
            names = sorted({str(v) for v in shards.values()}) if isinstance(shards, dict) else []
            suffix = Path(single).suffix
            if not names or len(names) > 1000 or any("/" in n or not n.endswith(suffix) for n in names):
                raise _malformed(folder, f"{index} lists no usable files")
            return names
    raise ModelRefused(
        "RUB-READ-043",
        "neither model.safetensors nor pytorch_model.bin",
        where=folder.name,
        hint="fetch the weights or save with model.save_pretrained",
    )


def _modern_names(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Early BERT files call a LayerNorm's weight gamma and its bias beta."""
    renamed = {}
    for name, value in tensors.items():
        for old, new in ((".gamma", ".weight"), (".beta", ".bias")):
            if name.endswith(old):
                name = name[: -len(old)] + new
        renamed[name] = value
    return renamed


def _build(
    config: Mapping[str, Any], tensors: dict[str, torch.Tensor], folder: Path
) -> tuple[torch.nn.Module, ModelMeta, list[Decision]]:
    import torch
    import transformers
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    listed = config.get("architectures")
    name = str(listed[0]) if isinstance(listed, list) and listed else "ForMaskedLM"
    head = next((key for key in _HEADS if name.endswith(key)), None)
    if head is None:
        raise ModelRefused(
            "RUB-READ-042",
            f"architecture {name[:60]!r}",
            where=folder.name,
            hint=f"heads read: {', '.join(_HEADS)}",
        )
    factory_name, attribute, task = _HEADS[head]
    factory = getattr(transformers, factory_name)
    config_cls = CONFIG_MAPPING[config["model_type"]]
    try:
        known = config_cls().to_dict()
        given = {
            k: v for k, v in config.items() if k in known and k not in _IGNORED_KEYS and not k.startswith("_")
        }
        settings = config_cls(**given)
        with torch.device("meta"):
            sketch = factory.from_config(settings, attn_implementation="eager", trust_remote_code=False)
    except Exception as err:  # transformers validates with many exception types
        raise _malformed(folder, f"transformers refuses config.json: {first_line(err)}") from err
    tensors, decisions = _drop_unused(tensors, sketch.state_dict(), folder)
    _complete_tied(sketch, tensors)
    compare(sketch.state_dict(), tensors, folder.name, name)
    model = factory.from_config(settings, attn_implementation="eager", trust_remote_code=False)
    model.load_state_dict(tensors, strict=False)
    from rubicc.frontend.token_model import TokenModel

    module = TokenModel(model.eval(), attribute)
    return module, _meta(settings, factory_name, attribute, task, config["model_type"]), decisions


def _complete_tied(sketch: torch.nn.Module, tensors: dict[str, torch.Tensor]) -> None:
    """Tied parameters are saved once; give their other names the same tensor."""
    groups: dict[int, list[str]] = {}
    for name, parameter in sketch.named_parameters(remove_duplicate=False):
        groups.setdefault(id(parameter), []).append(name)
    for names in groups.values():
        stored = next((tensors[n] for n in names if n in tensors), None)
        if stored is not None:
            for name in names:
                tensors.setdefault(name, stored)


def _drop_unused(
    tensors: dict[str, torch.Tensor], expected: Mapping[str, Any], folder: Path
) -> tuple[dict[str, torch.Tensor], list[Decision]]:
    unused = [n for n in tensors if n not in expected and any(part in n for part in _UNUSED)]
    if not unused:
        return tensors, []
    decision = Decision(
        "RUB-READ-D06",
        folder.name,
        f"left out {printable(', '.join(sorted(unused)), 200)}",
        "the outputs do not depend on them",
    )
    return {n: v for n, v in tensors.items() if n not in unused}, [decision]


def _build_zoo(
    arch: str,
    arch_config: Mapping[str, Any] | None,
    config: Mapping[str, Any],
    tensors: dict[str, torch.Tensor],
    folder: Path,
) -> tuple[torch.nn.Module, ModelMeta, list[Decision]]:
    """The zoo's ``arch``, configured from the keys of config.json that it knows and ``arch_config``."""
    import torch

    from rubicc.models import registry

    entry = registry.get(arch)
    known = {item.name for item in fields(entry.config_cls)}
    settings = {k: v for k, v in config.items() if k in known} | dict(arch_config or {})
    with torch.device("meta"):
        expected = entry.build(entry.config_from_dict(settings)).state_dict()
    tensors, decisions = _drop_unused(tensors, expected, folder)
    tensors, tied = _drop_tied(tensors, expected, folder)
    module, meta = build_arch(arch, settings, tensors, folder.name, chosen=True)
    return module, meta, decisions + tied


def _drop_tied(
    tensors: dict[str, torch.Tensor], expected: Mapping[str, Any], folder: Path
) -> tuple[dict[str, torch.Tensor], list[Decision]]:
    """Leave out extra copies of tensors the network does use (a decoder equal to the embeddings)."""
    import torch

    extra = []
    for name, value in tensors.items():
        if name in expected:
            continue
        twins = (v for n, v in tensors.items() if n in expected and v.shape == value.shape)
        if any(torch.equal(value, twin) for twin in twins):
            extra.append(name)
    if not extra:
        return tensors, []
    decision = Decision(
        "RUB-READ-D06", folder.name, f"left out {printable(', '.join(extra), 200)}", "copies of tied tensors"
    )
    return {n: v for n, v in tensors.items() if n not in extra}, [decision]


def _meta(settings: Any, factory: str, attribute: str, task: Any, model_type: str) -> ModelMeta:
    ids = TensorSpec("input_ids", ("N", "T"), "int64")
    mask = TensorSpec("attention_mask", ("N", "T"), "int64")
    width = {
        "AutoModelForMaskedLM": settings.vocab_size,
        "AutoModel": settings.hidden_size,
    }.get(factory, settings.num_labels)
    shape = ("N", width) if factory == "AutoModelForSequenceClassification" else ("N", "T", width)
    plain = json.loads(settings.to_json_string(use_diff=True))
    return ModelMeta(
        arch="custom",
        inputs=(ids, mask),
        outputs=(TensorSpec(attribute, shape),),
        task=task,
        config={
            "model_type": model_type,
            **{k: v for k, v in plain.items() if isinstance(v, int | float | str | bool)},
        },
    )


def _malformed(folder: Path, what: str) -> ModelRefused:
    return ModelRefused("RUB-READ-040", what, where=folder.name, hint="save it with model.save_pretrained")
