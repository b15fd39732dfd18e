"""Small networks of the zoo's families, compiled for Core ML as far as a test wants."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rubicc.backends import registry as targets
from rubicc.driver import compile as driver
from rubicc.driver.compile import Build
from rubicc.frontend import checkpoint
from rubicc.models import registry
from rubicc.models.ctc_config import BlockSpec, CtcConfig
from rubicc.models.dna_bert_config import DnaBertConfig
from rubicc.models.recurrent_config import CrfConfig, CrfConv, CrfLstm, MgruConfig
from rubicc.settings import resolve

_BLOCKS = (
    BlockSpec(16, 9, stride=3, separable=False),
    BlockSpec(16, 15, repeat=2, residual=True),
    BlockSpec(24, 3, separable=False, weight_bits=4, act_bits=8),
)


@dataclass(frozen=True)
class Small:
    """An architecture of the zoo with a small configuration, and the shape it is compiled for."""

    arch: str
    config: Any
    shapes: str


NETS = {
    "conv": Small("rubicall-fp", CtcConfig(_BLOCKS), "x=1x1x240"),
    "quantised": Small("rubicall", CtcConfig(_BLOCKS, quantised=True), "x=1x1x240"),
    "gru": Small("taiyaki-mgru", MgruConfig(kernel=5, size=12, layers=2), "x=1x1x120"),
    "lstm": Small(
        "bonito-crf",
        CrfConfig(
            (CrfConv(4, 5), CrfConv(8, 9, stride=3)),
            (CrfLstm(8, reverse=True), CrfLstm(8, reverse=False)),
            state_len=1,
        ),
        "x=1x1x150",
    ),
    "bert": Small(
        "dna-bert",
        DnaBertConfig(60, 32, 2, 4, 48, 40),
        "input_ids=1x24;attention_mask=1x24",
    ),
}


def model(name: str, home: Path) -> Path:
    """The checkpoint of a network, with seeded weights of usual size."""
    import torch

    path = home / f"{name}.pt"
    if not path.is_file():
        net, entry = NETS[name], registry.get(NETS[name].arch)
        module = entry.build(net.config, seed=0)
        with torch.random.fork_rng(), torch.no_grad():
            torch.manual_seed(1)
            for key, tensor in module.state_dict().items():
                # Fresh networks hide faults: norms that do nothing, biases of zero.
                plain = tensor.is_floating_point() and tensor.dim() == 1
                if plain and key.endswith("bias"):
                    tensor.uniform_(-0.2, 0.2)
                elif plain and any(part in key for part in ("Norm", "norm", "_ln", "bn")):
                    tensor.uniform_(0.5, 1.5)
        checkpoint.save(path, module, entry.meta(net.config))
    return path


def build(name: str, home: Path, target: str = "coreml:iOS17", **flags: Any) -> Build:
    """A compilation up to the end of the pipeline; :func:`finish` does the rest, as often as wanted."""
    chosen: Mapping[str, Any] = {"shapes": NETS[name].shapes, "target": target, **flags}
    parsed = targets.parse_target(target)
    backend = targets.get(parsed)
    settings = driver.with_defaults(resolve(chosen), backend)
    made = driver._read_and_lower(model(name, home), settings, parsed, backend)
    driver._rewrite(made, home, None)
    return made


def finish(made: Build, folder: Path) -> Build:
    """Emit and prove a copy of a compilation into ``folder``.

    Raises:
        RubiccError: as ``rubicc compile``.
    """
    folder.mkdir(parents=True)
    copy = dataclasses.replace(made, decisions=list(made.decisions), evidence={}, seconds={})
    driver._emit(copy, folder)
    driver._prove(copy, folder)
    return copy
