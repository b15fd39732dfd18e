"""The zoo's table: names, strict configurations, published counts, plugins, and no import of torch."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import FrozenInstanceError
from importlib import import_module
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import torch

from rubicc import plugins
from rubicc.errors import UsageError
from rubicc.models import registry
from rubicc.models.codes import CODES
from rubicc.models.windows import inference_window
from rubicc.spec import ModelMeta

PUBLISHED = {
    "bonito-ctc": 9_738_573,
    "quartznet": 10_930_949,
    "qabas": 4_034_421,
    "rubicall": 3_314_549,
    "rubicall-fp": 3_314_549,
    "taiyaki-mgru": 285_160,
    "dna-bert": 110_650_880,
}
DOCUMENTED = {**PUBLISHED, "demo-ctc": 258_965, "bonito-crf": 6_426_352}
BASECALLERS = [name for name in registry.names() if name != "dna-bert"]


def test_the_zoo_holds_what_it_must() -> None:
    assert set(registry.names()) >= {*PUBLISHED, "demo-ctc", "bonito-crf"}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_parameter_count(name: str) -> None:
    entry = registry.get(name)
    if name == "dna-bert":  # 440 MB of weights are not needed to count them
        with torch.device("meta"):
            model = import_module("rubicc.models.dna_bert").DnaBert(entry.default)
    else:
        model = entry.build(seed=0)
    assert registry.network_parameters(model) == PUBLISHED[name] == entry.parameters


def test_quantiser_scales_are_not_network_parameters() -> None:
    model = registry.get("rubicall").build(seed=0)
    every = sum(value.numel() for value in model.parameters())
    # one learned scale per activation quantiser: 29 activations, 27 grouped convolutions, the input
    assert every - registry.network_parameters(model) == 29 + 27 + 1


def test_unknown_name_says_the_nearest() -> None:
    with pytest.raises(UsageError) as caught:
        registry.get("rubical-fp")
    assert caught.value.code == "RUB-MODEL-001"
    assert "'rubicall-fp'" in caught.value.hint


@pytest.mark.parametrize("name", registry.names())
def test_metadata_round_trips_and_rebuilds_the_configuration(name: str) -> None:
    entry = registry.get(name)
    meta = entry.meta()
    assert ModelMeta.from_json(meta.to_json()) == ModelMeta.from_dict(meta.to_dict())
    assert meta.arch == name
    assert entry.config_from_dict(json.loads(json.dumps(meta.to_dict()["config"]))) == entry.default


@pytest.mark.parametrize("name", BASECALLERS)
def test_basecaller_metadata(name: str) -> None:
    meta = registry.get(name).meta()
    assert meta.task == "basecalling" and meta.inputs[0].shape == ("N", 1, "T")
    assert meta.stride and meta.chunk and meta.overlap
    assert meta.chunk % (2 * meta.stride) == 0 and meta.overlap % (2 * meta.stride) == 0
    assert meta.overlap >= (meta.receptive_field or 1) - 1
    assert meta.signal is not None and meta.decoder is not None
    expected = {
        "taiyaki-mgru": ("med-mad", "flipflop", "ACGT", 4),
        "bonito-crf": ("quantile", "crf", "NACGT", 5),
    }.get(name, ("med-mad", "ctc", "NACGT", 3))
    assert (meta.signal.normalisation, meta.decoder.kind, meta.alphabet, meta.stride) == expected


def test_crf_metadata_carries_the_state_length_and_an_unexpanded_blank() -> None:
    entry = registry.get("bonito-crf")
    config = entry.config_from_dict({"preset": "sup"})
    meta = entry.meta(config)
    assert meta.decoder is not None and meta.decoder.params == {"state_len": 5}
    assert meta.outputs[0].shape[-1] == 5 * 4**5 and meta.stride == 6
    meta = entry.meta(entry.config_from_dict({"preset": "fast", "expand_blanks": False}))
    assert meta.decoder is not None and meta.decoder.params == {"state_len": 3, "blank_score": 2.0}
    assert meta.outputs[0].shape[-1] == 4**4


@pytest.mark.parametrize(
    ("name", "changes", "code", "word"),
    [
        ("rubicall", {"activatoin": "relu"}, "RUB-SPEC-001", "'activation'"),
        ("rubicall", {"activation": "gelu"}, "RUB-MODEL-003", "activation"),
        ("rubicall", {"activation": "swish"}, "RUB-MODEL-002", "relu"),
        ("rubicall", {"blocks": [{"filters": 8, "kernal": 3}]}, "RUB-SPEC-001", "'kernel'"),
        ("rubicall", {"blocks": [{"filters": 8}]}, "RUB-MODEL-003", "kernel"),
        ("rubicall", {"blocks": [{"filters": 8, "kernel": "3"}]}, "RUB-MODEL-003", "kernel"),
        ("rubicall", {"blocks": [{"filters": 8, "kernel": 4}]}, "RUB-MODEL-002", "kernel"),
        ("rubicall", {"blocks": [{"filters": 8, "kernel": 3}]}, "RUB-MODEL-002", "channels_per_group"),
        ("rubicall", {"blocks": []}, "RUB-MODEL-002", "blocks"),
        ("rubicall", {"quantised": 1}, "RUB-MODEL-003", "quantised"),
        ("demo-ctc", {"alphabet": "NAACT"}, "RUB-MODEL-002", "alphabet"),
        ("taiyaki-mgru", {"stride": 0}, "RUB-MODEL-002", "stride"),
        ("taiyaki-mgru", {"stride": True}, "RUB-MODEL-003", "stride"),
        ("bonito-crf", {"preset": "hacc"}, "RUB-MODEL-002", "hac"),
        ("bonito-crf", {"clamp": [5.0, -5.0]}, "RUB-MODEL-002", "clamp"),
        ("bonito-crf", {"state_len": 9}, "RUB-MODEL-002", "state_len"),
        ("dna-bert", {"hidden_size": 100}, "RUB-MODEL-002", "num_attention_heads"),
        ("dna-bert", {"preset": "base"}, "RUB-SPEC-001", "preset"),
    ],
)
def test_configurations_are_strict(name: str, changes: dict, code: str, word: str) -> None:
    with pytest.raises(UsageError) as caught:
        registry.get(name).config_from_dict(changes)
    assert caught.value.code == code
    assert word in str(caught.value)


def test_another_networks_configuration_is_refused() -> None:
    with pytest.raises(UsageError) as caught:
        registry.get("demo-ctc").build(registry.get("taiyaki-mgru").default)
    assert caught.value.code == "RUB-MODEL-003" and "MgruConfig" in str(caught.value)


def test_configurations_are_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        registry.get("demo-ctc").default.alphabet = "NACGU"


def test_integers_are_taken_where_a_float_is_meant() -> None:
    config = registry.get("taiyaki-mgru").config_from_dict({"scale": 4})
    assert config.scale == 4.0 and isinstance(config.scale, float)


@pytest.mark.parametrize("name", ["demo-ctc", "rubicall", "taiyaki-mgru"])
def test_same_seed_same_weights_and_the_global_generator_is_left_alone(name: str) -> None:
    entry = registry.get(name)
    torch.manual_seed(7)
    before = torch.get_rng_state()
    first, second, other = entry.build(seed=3), entry.build(seed=3), entry.build(seed=4)
    assert torch.equal(torch.get_rng_state(), before)
    assert not first.training
    states = [model.state_dict() for model in (first, second, other)]
    assert states[0].keys() == states[1].keys() == states[2].keys()
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    assert any(not torch.equal(states[0][key], states[2][key]) for key in states[0])
    for value in states[0].values():
        assert bool(torch.isfinite(value).all())


def test_importing_the_table_does_not_import_torch() -> None:
    code = (
        "import sys, rubicc.models.registry as r; [r.get(n).meta() for n in r.names()]; "
        "print([m for m in ('torch', 'numpy', 'onnx', 'brevitas', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_plugins_are_listed_unloaded_and_fail_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    points = [
        EntryPoint("plug-good", "tests_plugin:GOOD", registry.PLUGIN_GROUP),
        EntryPoint("plug-bad", "no_such_module_here:ENTRY", registry.PLUGIN_GROUP),
        EntryPoint("plug-odd", "json:dumps", registry.PLUGIN_GROUP),
    ]
    monkeypatch.setattr(plugins, "_scan", lambda group, path: {point.name: point for point in points})
    module = type(sys)("tests_plugin")
    module.GOOD = registry.get("demo-ctc")  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "tests_plugin", module)
    assert registry.names()[-3:] == ("plug-good", "plug-bad", "plug-odd")
    assert registry.get("plug-good") is module.GOOD
    for name, value in (("plug-bad", "no_such_module_here:ENTRY"), ("plug-odd", "json:dumps")):
        with pytest.raises(UsageError) as caught:
            registry.get(name)
        assert caught.value.code == "RUB-MODEL-004"
        assert caught.value.where == value
    monkeypatch.setenv("RUBICC_PLUGINS", "0")
    assert "plug-good" not in registry.names()


@pytest.mark.parametrize(("stride", "field"), [(1, 1), (3, 3237), (5, None), (6, 412), (4, 4001)])
def test_windows_keep_the_frame_grid_and_the_whole_context(stride: int, field: int | None) -> None:
    chunk, overlap = inference_window(stride, field)
    assert chunk % (2 * stride) == 0 and overlap % (2 * stride) == 0
    assert overlap >= (field or 1) - 1
    assert chunk >= 4000 and overlap / (chunk - overlap) <= 0.25


def test_codes_have_a_title_and_a_remedy() -> None:
    assert sorted(CODES) == [f"RUB-MODEL-00{n}" for n in range(1, 5)]
    assert all(title and len(text) > 60 for title, text in CODES.values())


def test_the_documented_table_says_what_the_zoo_says() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "models.md").read_text()
    rows = {cells[0]: cells for line in page.splitlines() if len(cells := _cells(line)) == 7}
    for name in registry.names():
        meta, row = registry.get(name).meta(), rows[name]
        assert int(row[1].replace(",", "")) == DOCUMENTED[name]
        field = "unbounded" if meta.stride else "-"
        assert row[2] == (f"{meta.receptive_field:,}" if meta.receptive_field else field)
        assert row[3] == str(meta.stride or "-")
        assert row[4] == (meta.signal.normalisation if meta.signal else "-")
        assert row[5] == (meta.decoder.kind if meta.decoder else "-")


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


@pytest.mark.parametrize("name", ["demo-ctc", "rubicall", "taiyaki-mgru", "bonito-crf"])
def test_building_on_the_meta_device_gives_the_same_names_and_shapes(name: str) -> None:
    """Readers compare a file with this sketch before they allocate anything."""
    entry = registry.get(name)
    config = {"preset": "fast"} if name == "bonito-crf" else None
    with torch.device("meta"):
        sketch = entry.build(config).state_dict()
    real = entry.build(config, seed=0).state_dict()
    assert [(k, v.shape) for k, v in sketch.items()] == [(k, v.shape) for k, v in real.items()]
    assert all(value.is_meta for value in sketch.values())
