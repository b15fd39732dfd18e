"""The zoo's table: names, published facts, and where each network is built.

Importing this does not import torch.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

from rubicc.errors import UsageError
from rubicc.models import ctc_config
from rubicc.models.config import config_from_plain
from rubicc.spec import ModelMeta

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class ModelEntry:
    """One architecture of the zoo.

    Attributes:
        name: registered name.
        summary: one line for ``rubicc models list``.
        config_cls: frozen dataclass of its configuration.
        default: the published configuration.
        parameters: published count of network parameters for ``default`` (quantiser scales not counted);
            ``None`` where nothing is published.
        source: where the facts come from.
        builder: ``module:function`` taking a config and giving an initialised module,
            imported when first used.
        describe: (name, config) to metadata.
    """

    name: str
    summary: str
    config_cls: type
    default: Any
    parameters: int | None
    source: str
    builder: str
    describe: Callable[[str, Any], ModelMeta]

    def build(self, config: Any = None, seed: int | None = None) -> torch.nn.Module:
        """The network in eval mode with random weights.

        Args:
            config: a ``config_cls`` or a mapping of its keys; ``None`` is the published configuration.
            seed: same seed, same weights; torch's global generator is left as it was. ``None`` draws from the
                global generator.
        """
        import torch

        module_name, _, function = self.builder.partition(":")
        make = getattr(import_module(module_name), function)
        if seed is None:
            return make(self._config(config)).eval()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return make(self._config(config)).eval()

    def meta(self, config: Any = None) -> ModelMeta:
        """What inference must know: inputs, outputs, stride, alphabet, normalisation, decoder, windows."""
        return self.describe(self.name, self._config(config))

    def config_from_dict(self, mapping: Mapping[str, Any]) -> Any:
        """Strict configuration from JSON or TOML values; absent keys keep the published values.

        Raises:
            UsageError: unknown key (``RUB-SPEC-001``), wrong type (``RUB-MODEL-003``), impossible value
                (``RUB-MODEL-002``).
        """
        published = {field.name: getattr(self.default, field.name) for field in fields(self.default)}
        return config_from_plain(self.config_cls, {**published, **mapping}, f"{self.name} configuration")

    def _config(self, config: Any) -> Any:
        if config is None:
            return self.default
        if is_dataclass(config):
            return config
        return self.config_from_dict(config)


_SEPARABLE = "rubicc.models.separable:build"

_ENTRIES = (
    ModelEntry(
        name="demo-ctc",
        summary="small separable CTC basecaller, trained on simulated signal for `make demo`",
        config_cls=ctc_config.CtcConfig,
        default=ctc_config.DEMO_CTC,
        parameters=None,
        source="rubicc",
        builder=_SEPARABLE,
        describe=ctc_config.ctc_meta,
    ),
    ModelEntry(
        name="bonito-ctc",
        summary="RUBICON's Bonito_CTC: 8 separable blocks, ReLU",
        config_cls=ctc_config.CtcConfig,
        default=ctc_config.BONITO_CTC,
        parameters=9_738_573,
        source="RUBICON models/configs/config.toml; bonito dna_r9.4.1@v2 with ReLU and 8 channels per group",
        builder=_SEPARABLE,
        describe=ctc_config.ctc_meta,
    ),
)

_TABLE = {entry.name: entry for entry in _ENTRIES}


def names() -> tuple[str, ...]:
    """Every registered architecture, in catalogue order."""
    return tuple(_TABLE)


def get(name: str) -> ModelEntry:
    """The entry called ``name``.

    Raises:
        UsageError: ``RUB-MODEL-001`` with the nearest known name.
    """
    entry = _TABLE.get(name)
    if entry is None:
        near = difflib.get_close_matches(name, names(), n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(names())}"
        raise UsageError("RUB-MODEL-001", f"no architecture called {name!r}", hint=hint)
    return entry
