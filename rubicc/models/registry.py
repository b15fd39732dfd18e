"""The zoo's table: names, published facts, and where each network is built.

Importing this does not import torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from importlib import import_module
from importlib.metadata import EntryPoint
from typing import TYPE_CHECKING, Any

from rubicc.errors import UsageError
from rubicc.models import ctc_config, dna_bert_config, recurrent_config
from rubicc.models.config import config_from_plain, require
from rubicc.plugins import REMEDY, Plugins, Unfit
from rubicc.spec import ModelMeta
from rubicc.text import did_you_mean

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
        presets: named configurations, chosen by the key ``preset`` of a configuration mapping.
    """

    name: str
    summary: str
    config_cls: type
    default: Any
    parameters: int | None
    source: str
    builder: str
    describe: Callable[[str, Any], ModelMeta]
    presets: Mapping[str, Any] = field(default_factory=dict)

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
        changes = dict(mapping)
        base = self._preset(changes.pop("preset")) if self.presets and "preset" in changes else self.default
        published = {item.name: getattr(base, item.name) for item in fields(base)}
        return config_from_plain(self.config_cls, {**published, **changes}, f"{self.name} configuration")

    def _preset(self, name: Any) -> Any:
        require(name in self.presets, "preset", name, f"one of {', '.join(self.presets)}")
        return self.presets[name]

    def _config(self, config: Any) -> Any:
        if config is None:
            return self.default
        if isinstance(config, self.config_cls):
            return config
        if not isinstance(config, Mapping):
            what = f"{self.name} takes {self.config_cls.__name__} or a mapping, not {type(config).__name__}"
            raise UsageError("RUB-MODEL-003", what, where=self.name)
        return self.config_from_dict(config)


def _separable(
    name: str, config: ctc_config.CtcConfig, parameters: int | None, summary: str, source: str
) -> ModelEntry:
    return ModelEntry(
        name=name,
        summary=summary,
        config_cls=ctc_config.CtcConfig,
        default=config,
        parameters=parameters,
        source=source,
        builder="rubicc.models.separable:build",
        describe=ctc_config.ctc_meta,
    )


_RUBICON = "RUBICON (Singh et al., Genome Biology 25:49, 2024), public source tables"

_ENTRIES = (
    _separable(
        "demo-ctc",
        ctc_config.DEMO_CTC,
        None,
        "small separable CTC basecaller, trained on simulated signal for `make demo`",
        "rubicc",
    ),
    _separable(
        "bonito-ctc",
        ctc_config.BONITO_CTC,
        9_738_573,
        "Bonito_CTC, the teacher network of RUBICON",
        f"{_RUBICON}; bonito dna_r9.4.1@v2 with ReLU and 8 channels per group",
    ),
    _separable(
        "quartznet",
        ctc_config.QUARTZNET,
        10_930_949,
        "QuartzNet 5x5 at stride 3, bonito's first network",
        "bonito dna_r9.4.1@v1 model configuration",
    ),
    _separable(
        "qabas",
        ctc_config.QABAS,
        4_034_421,
        "the network QABAS found, skips kept, mixed precision",
        _RUBICON,
    ),
    _separable(
        "rubicall",
        ctc_config.RUBICALL,
        3_314_549,
        "RUBICALL: the QABAS network after SkipClip, mixed precision (RUBICALL-MP)",
        _RUBICON,
    ),
    _separable(
        "rubicall-fp",
        ctc_config.RUBICALL_FP,
        3_314_549,
        "RUBICALL in float32",
        _RUBICON,
    ),
    ModelEntry(
        name="taiyaki-mgru",
        summary="taiyaki's mGru flip-flop network: convolution, five GRU(96) of alternating direction",
        config_cls=recurrent_config.MgruConfig,
        default=recurrent_config.MGRU,
        parameters=285_160,
        source="nanoporetech/taiyaki, models/mGru_flipflop_remapping_model_r9_DNA.checkpoint",
        builder="rubicc.models.recurrent:build_mgru",
        describe=recurrent_config.mgru_meta,
    ),
    ModelEntry(
        name="bonito-crf",
        summary="bonito's CTC-CRF family: convolutions, five LSTMs of alternating direction, linear CRF head",
        config_cls=recurrent_config.CrfConfig,
        default=recurrent_config.CRF_PRESETS["hac"],
        parameters=None,
        source="nanoporetech/bonito public model definitions; presets fast, hac, sup",
        builder="rubicc.models.recurrent:build_crf",
        describe=recurrent_config.crf_meta,
        presets=recurrent_config.CRF_PRESETS,
    ),
    ModelEntry(
        name="dna-bert",
        summary="GENA-LM base: 12 pre-norm BERT blocks over 32,000 BPE tokens, masked-language head",
        config_cls=dna_bert_config.DnaBertConfig,
        default=dna_bert_config.DNA_BERT,
        parameters=110_650_880,
        source="GENA-LM (AIRI-Institute), gena-lm-bert-base configuration",
        builder="rubicc.models.dna_bert:build",
        describe=dna_bert_config.dna_bert_meta,
    ),
)

_TABLE = {entry.name: entry for entry in _ENTRIES}


def _accept(point: EntryPoint, offered: Any) -> ModelEntry:
    if not isinstance(offered, ModelEntry):
        raise Unfit(f"gives {type(offered).__name__}, not ModelEntry")
    return offered


PLUGIN_GROUP = "rubicc.models"
PLUGINS = Plugins(PLUGIN_GROUP, _TABLE, _accept)


def names() -> tuple[str, ...]:
    """Every architecture: the zoo in catalogue order, then those of installed plugins."""
    return (*_TABLE, *PLUGINS.points())


def get(name: str) -> ModelEntry:
    """The entry called ``name``.

    Raises:
        UsageError: ``RUB-MODEL-001`` with the nearest known name; ``RUB-MODEL-004`` when a plugin announces
            it and cannot be loaded.
    """
    if name in _TABLE:
        return _TABLE[name]
    point = PLUGINS.points().get(name)
    if point is None:
        hint = did_you_mean(name, names(), f"known: {', '.join(names())}")
        raise UsageError("RUB-MODEL-001", f"no architecture called {name!r}", hint=hint)
    entry, error = PLUGINS.load(name)
    if entry is None:
        what = f"model plugin {name!r} could not be loaded: {error}"
        raise UsageError("RUB-MODEL-004", what, where=point.value, hint=REMEDY)
    return entry


def network_parameters(module: torch.nn.Module) -> int:
    """Parameters as published counts have them: everything trainable but the quantisers' learned scales."""
    return sum(
        value.numel() for name, value in module.named_parameters() if ".scaling_impl." not in f".{name}."
    )
