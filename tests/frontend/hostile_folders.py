"""Hostile and malformed bonito, Hugging Face and taiyaki models, and ``python:`` forms."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from hostile_base import HARMLESS, Case, Payload
from taiyaki_writer import network, write

CTC_BLOCK = {
    **{"filters": 16, "repeat": 1, "kernel": [9], "stride": [3], "dilation": [1]},
    **{"dropout": 0.0, "residual": False, "separable": False},
}
CTC = {
    "model": {"package": "bonito.ctc"},
    "labels": {"labels": ["N", "A", "C", "G", "T"]},
    "input": {"features": 1},
    "encoder": {"activation": "swish"},
    "block": [CTC_BLOCK],
}
CRF = {
    "model": {"package": "bonito.crf"},
    "labels": {"labels": ["N", "A", "C", "G", "T"]},
    "input": {"features": 1},
    "encoder": {
        "stride": 5,
        "winlen": 19,
        "scale": 5.0,
        "features": 16,
        "rnn_type": "lstm",
        "activation": "swish",
    },
    "global_norm": {"state_len": 1},
}


def toml(value: dict[str, Any]) -> str:
    """TOML text of tables of plain values and one level of table arrays."""
    lines = []
    for name, table in value.items():
        for row in table if isinstance(table, list) else [table]:
            lines.append(f"[[{name}]]" if isinstance(table, list) else f"[{name}]")
            lines.extend(f"{key} = {json.dumps(item)}" for key, item in row.items())
    return "\n".join(lines) + "\n"


def ctc_tensors() -> dict[str, torch.Tensor]:
    """Weights of :data:`CTC` under bonito's names."""
    norm = {name: torch.ones(16) for name in ("weight", "bias", "running_mean", "running_var")}
    return {
        "encoder.encoder.0.conv.0.conv.weight": torch.ones(16, 1, 9),
        **{f"encoder.encoder.0.conv.1.{name}": value for name, value in norm.items()},
        "decoder.layers.0.weight": torch.ones(5, 16, 1),
        "decoder.layers.0.bias": torch.ones(5),
    }


def bonito(
    change: Callable[[dict[str, Any]], Any] = lambda c: None,
    tensors: Callable[[Path], Any] = lambda m: ctc_tensors(),
    base: dict[str, Any] = CTC,
    text: str | None = None,
) -> Callable[[Path, Path], Path]:
    """A maker of a bonito folder with a changed configuration or other weights."""

    def make(folder: Path, marker: Path) -> Path:
        target = folder / "model"
        target.mkdir()
        config = json.loads(json.dumps(base))
        change(config)
        (target / "config.toml").write_text(toml(config) if text is None else text)
        weights = tensors(marker)
        if weights is not None:
            torch.save(weights, target / "weights_1.tar")
        return target

    return make


def _block(**changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda config: config["block"][0].update(changes)


def _linked(name: str) -> Callable[[Path, Path], Path]:
    """A folder whose file ``name`` is a link to a file outside."""

    def make(folder: Path, marker: Path) -> Path:
        target = bonito()(folder, marker)
        outside = folder / "outside"
        (target / name).rename(outside)
        (target / name).symlink_to(outside)
        return target

    return make


def _pipe(folder: Path, marker: Path) -> Path:
    target = bonito()(folder, marker)
    (target / "config.toml").unlink()
    os.mkfifo(target / "config.toml")
    return target


BONITO_CASES = (
    Case(
        "bonito-pickle",
        bonito(tensors=lambda m: {"a": Payload(m)}),
        "RUB-READ-008",
        {},
        "posix.mkdir",
        lambda p: torch.load(p / "weights_1.tar", weights_only=False),
    ),
    Case("bonito-no-weights", bonito(tensors=lambda m: None), "RUB-READ-043"),
    Case("bonito-not-toml", bonito(text="= = ="), "RUB-READ-050"),
    Case("bonito-not-utf8-huge", bonito(text="a = [" * 3000), "RUB-READ-050"),
    Case("bonito-no-sections", bonito(text="x = 1"), "RUB-READ-050", {}, "[model]"),
    Case(
        "bonito-foreign-package",
        bonito(lambda c: c["model"].update(package="os")),
        "RUB-READ-051",
        {},
        "'os'",
    ),
    Case(
        "bonito-transformer",
        bonito(lambda c: c["model"].update(package="bonito.transformer")),
        "RUB-READ-051",
    ),
    Case("bonito-missing-block", bonito(lambda c: c.pop("block")), "RUB-READ-050", {}, "block"),
    Case("bonito-absurd-filters", bonito(_block(filters=1 << 40)), "RUB-READ-033"),
    Case("bonito-even-kernel", bonito(_block(kernel=[8])), "RUB-READ-051", {}, "odd"),
    Case("bonito-wrong-type", bonito(_block(filters="many")), "RUB-READ-051"),
    Case("bonito-other-shape", bonito(_block(filters=24)), "RUB-READ-013"),
    Case("bonito-many-labels", bonito(lambda c: c["labels"].update(labels=["N"] * 50)), "RUB-READ-051"),
    Case(
        "bonito-unknown-scaling",
        bonito(lambda c: c.update(scaling={"strategy": "magic"})),
        "RUB-READ-050",
        {},
        "magic",
    ),
    Case(
        "bonito-nan-mean",
        bonito(lambda c: c.update(scaling={"strategy": "pa"}, standardisation={"standardise": 1})),
        "RUB-READ-050",
        {},
        "mean",
    ),
    Case("bonito-linked-weights", _linked("weights_1.tar"), "RUB-READ-080", {}, "weights_1.tar"),
    Case("bonito-linked-config", _linked("config.toml"), "RUB-READ-080", {}, "config.toml"),
    Case("bonito-pipe", _pipe, "RUB-READ-002"),
    Case(
        "bonito-crf-unknown-layer",
        bonito(lambda c: c["encoder"].update(rnn_type="gru"), base=CRF),
        "RUB-READ-051",
        {},
        "gru",
    ),
    Case(
        "bonito-crf-unknown-setting",
        bonito(lambda c: c["encoder"].update(magic=1), base=CRF),
        "RUB-READ-051",
        {},
        "magic",
    ),
    Case("bonito-crf-other-tensors", bonito(base=CRF), "RUB-READ-013"),
    Case("bonito-with-arch", bonito(), "RUB-READ-032", {"arch": "bonito-ctc"}),
)

BERT = {
    **{"model_type": "bert", "architectures": ["BertForMaskedLM"], "vocab_size": 12, "hidden_size": 8},
    **{
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 8,
        "max_position_embeddings": 64,
    },
}


def bert(
    config: dict[str, Any] | str | None = None, *, weights: bool = True, **files: Callable[[Path], Any]
) -> Callable[[Path, Path], Path]:
    """A maker of a Hugging Face folder; ``files`` are extra files saved with torch."""

    def make(folder: Path, marker: Path) -> Path:
        import transformers

        target = folder / "model"
        target.mkdir()
        if weights:
            torch.manual_seed(0)
            known = {k: v for k, v in BERT.items() if k not in ("model_type", "architectures")}
            model = transformers.BertForMaskedLM(transformers.BertConfig(**known))
            torch.save(model.state_dict(), target / "pytorch_model.bin")
        text = config if isinstance(config, str) else json.dumps(BERT | (config or {}))
        (target / "config.json").write_text(text)
        for name, value in files.items():
            torch.save(value(marker), target / name.replace("__", "."))
        return target

    return make


def _index(shard: str) -> Callable[[Path, Path], Path]:
    def make(folder: Path, marker: Path) -> Path:
        target = bert(weights=False)(folder, marker)
        (target / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": {"a": shard}}))
        return target

    return make


def _hf_linked(folder: Path, marker: Path) -> Path:
    target = bert()(folder, marker)
    (target / "pytorch_model.bin").rename(folder / "outside.bin")
    (target / "pytorch_model.bin").symlink_to(folder / "outside.bin")
    return target


def _code_beside(folder: Path, marker: Path) -> Path:
    """A folder whose code makes the marker when imported, as ``trust_remote_code`` would."""
    target = bert({"auto_map": {"AutoConfig": "evil.C", "AutoModel": "evil.M"}})(folder, marker)
    (target / "evil.py").write_text(f"import os\nos.mkdir({str(marker)!r})\n")
    return target


HF_CASES = (
    Case(
        "hf-pickle",
        bert(weights=False, pytorch_model__bin=lambda m: {"a": Payload(m)}),
        "RUB-READ-008",
        {},
        "posix.mkdir",
        lambda p: torch.load(p / "pytorch_model.bin", weights_only=False),
    ),
    Case("hf-code", _code_beside, "RUB-READ-041", {}, "evil.M"),
    Case(
        "hf-hub-kernel",
        bert({"attn_implementation": "nobody/kernel", "_attn_implementation_internal": "x/y"}),
        HARMLESS,
    ),
    Case("hf-model-type", bert({"model_type": "llama"}), "RUB-READ-042", {}, "llama"),
    Case("hf-head", bert({"architectures": ["BertForSomething"]}), "RUB-READ-042", {}, "BertForSomething"),
    Case("hf-not-json", bert("{"), "RUB-READ-040"),
    Case("hf-deep-json", bert("[" * 100_000), "RUB-READ-040"),
    Case("hf-list", bert("[]"), "RUB-READ-040"),
    Case("hf-absurd-size", bert({"hidden_size": 1 << 40}), "RUB-READ-033"),
    Case("hf-endless-layers", bert({"num_hidden_layers": 1 << 19}), "RUB-READ-033", {}, "num_hidden_layers"),
    Case("hf-wrong-type", bert({"hidden_size": "wide"}), "RUB-READ-040"),
    Case("hf-other-shape", bert({"intermediate_size": 16}), "RUB-READ-013"),
    Case("hf-no-weights", bert(weights=False), "RUB-READ-043"),
    Case("hf-escaping-shard", _index("../outside.bin"), "RUB-READ-040"),
    Case("hf-missing-shard", _index("part.bin"), "RUB-READ-043", {}, "part.bin"),
    Case("hf-linked-weights", _hf_linked, "RUB-READ-080"),
)


def _taiyaki(
    change: Callable[[Any], None] = lambda net: None, **options: Any
) -> Callable[[Path, Path], Path]:
    def make(folder: Path, marker: Path) -> Path:
        net = network(size=8, layers=2)
        change(net)
        return write(folder / "m.checkpoint", net, **options)

    return make


def _hidden(folder: Path, marker: Path) -> Path:
    """A payload inside an otherwise good network."""
    net = network(size=8, layers=2)
    net.note = Payload(marker)
    return write(folder / "m.checkpoint", net)


def _source(folder: Path, marker: Path) -> Path:
    """Class source text beside the class that would run the payload if it were ever compiled."""
    return write(
        folder / "m.checkpoint", network(size=8, layers=2), source=f"import os; os.mkdir({str(marker)!r})"
    )


TAIYAKI_CASES = (
    Case("taiyaki-hidden-payload", _hidden, "RUB-READ-008", {}, "posix.mkdir"),
    Case("taiyaki-source-text", _source, HARMLESS),
    Case(
        "taiyaki-unknown-layer",
        _taiyaki(lambda n: setattr(n.sublayers[1], "alien", torch.nn.ReLU())),
        "RUB-READ-008",
        {},
        "ReLU",
    ),
    Case(
        "taiyaki-two-strides",
        _taiyaki(lambda n: setattr(n.sublayers[0], "stride", 3)),
        "RUB-READ-060",
        {},
        "stride",
    ),
    Case("taiyaki-two-windows", _taiyaki(lambda n: setattr(n.sublayers[0], "winlen", 21)), "RUB-READ-060"),
    Case(
        "taiyaki-other-order",
        _taiyaki(lambda n: n.sublayers.insert(1, n.sublayers[2])),
        "RUB-READ-060",
        {},
        "Reverse",
    ),
    Case("taiyaki-only-head", _taiyaki(lambda n: n.sublayers.__delitem__(slice(0, 3))), "RUB-READ-060"),
    Case("taiyaki-absurd-stride", _taiyaki(lambda n: _stride(n, 1 << 40)), "RUB-READ-033"),
    Case("taiyaki-truncated", _taiyaki(cut=99), "RUB-READ-006"),
    Case("taiyaki-truncated-pickle", _taiyaki(keep=400), "RUB-READ-015"),
    Case(
        "taiyaki-nan",
        _taiyaki(lambda n: n.sublayers[-1].linear.bias.data.fill_(float("nan"))),
        "RUB-READ-014",
    ),
    Case("taiyaki-with-arch", _taiyaki(), "RUB-READ-032", {"arch": "taiyaki-mgru"}),
)


def _stride(net: Any, stride: int) -> None:
    net.sublayers[0].stride = stride
    net.sublayers[0].conv.stride = (stride,)


def _module(text: str, factory: str = "make") -> Callable[[Path, Path], str]:
    """A maker of an importable module; the caller's current folder is not used, ``sys.path`` is."""

    def make(folder: Path, marker: Path) -> str:
        name = f"rubicc_hostile_{abs(hash((text, str(folder)))) % 10**8}"
        (folder / f"{name}.py").write_text(text.replace("MARKER", repr(str(marker))))
        if str(folder) not in sys.path:
            sys.path.append(str(folder))
        return f"python:{name}:{factory}"

    return make


ALLOW = {"allow_code": True}
PYTHON_CASES = (
    Case("python-not-allowed", _module("import os\nos.mkdir(MARKER)"), "RUB-READ-070", {}, "--allow-code"),
    Case("python-injection", lambda f, m: f"python:os;os.mkdir('{m}'):x", "RUB-READ-071", ALLOW),
    Case("python-no-factory", lambda f, m: "python:os", "RUB-READ-071", ALLOW),
    Case(
        "python-unknown-module",
        lambda f, m: "python:no_such_package.x:make",
        "RUB-READ-071",
        ALLOW,
        "no_such_package",
    ),
    Case("python-unknown-name", _module("x = 1"), "RUB-READ-071", ALLOW, "make is missing"),
    Case("python-not-callable", _module("make = 3"), "RUB-READ-071", ALLOW, "int"),
    Case("python-import-fails", _module("1 / 0"), "RUB-READ-071", ALLOW, "division"),
    Case(
        "python-factory-fails", _module("def make(): raise KeyError('lost')"), "RUB-READ-072", ALLOW, "lost"
    ),
    Case("python-no-module", _module("def make(): return 3"), "RUB-READ-072", ALLOW, "int"),
)
CASES = BONITO_CASES + HF_CASES + TAIYAKI_CASES + PYTHON_CASES
