"""bonito folders read without bonito, against models that bonito itself builds and saves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from rubicc.frontend import read_model
from rubicc.spec import SignalSpec

toml = pytest.importorskip("toml")
bonito_util = pytest.importorskip("bonito.util", reason="ont-bonito is not installed (dev extra)")

LABELS = {"labels": ["N", "A", "C", "G", "T"]}
SIGNAL = torch.randn(2, 1, 300, generator=torch.Generator().manual_seed(5))


def _block(filters: int, kernel: int, **changes: Any) -> dict[str, Any]:
    base = {
        "repeat": 1,
        "stride": [1],
        "dilation": [1],
        "dropout": 0.05,
        "residual": False,
        "separable": True,
    }
    return {"filters": filters, "kernel": [kernel], **base, **changes}


CTC = {
    "model": {"package": "bonito.ctc"},
    "labels": LABELS,
    "input": {"features": 1},
    "qscore": {"bias": 0.5, "scale": 0.9},
    "encoder": {"activation": "swish"},
    "block": [
        _block(16, 9, stride=[3], separable=False),
        _block(24, 11, repeat=3, residual=True),
        _block(24, 5, repeat=2, residual=True),
        _block(16, 7, dilation=[2]),
        _block(8, 3, separable=False),
    ],
}
CRF = {
    "model": {"package": "bonito.crf"},
    "labels": LABELS,
    "input": {"features": 1},
    "global_norm": {"state_len": 3},
    "encoder": {
        **{
            "stride": 5,
            "winlen": 19,
            "scale": 5.0,
            "features": 24,
            "rnn_type": "lstm",
            "activation": "swish",
        },
        **{"blank_score": 2.0, "first_conv_size": 16},
    },
    "run_info": {"sample_rate": 5000},
    "basecaller": {"chunksize": 10001, "overlap": 503, "batchsize": 4},
    "scaling": {"strategy": "pa"},
    "standardisation": {"standardise": 1, "mean": 93.7, "stdev": 23.5},
}


def _conv(insize: int, size: int, winlen: int, **changes: Any) -> dict[str, Any]:
    row = {"type": "convolution", "insize": insize, "size": size, "winlen": winlen, "padding": winlen // 2}
    return {**row, "bias": True, "stride": 1, "activation": "swish", **changes}


LAYERS = {
    **{key: CRF[key] for key in ("model", "labels", "input", "global_norm")},
    "encoder": {
        "type": "serial",
        "sublayers": [
            _conv(1, 16, 5, norm="batchnorm"),
            _conv(16, 16, 5),
            {"type": "clamp", "min": -0.5, "max": 3.5},
            _conv(16, 24, 19, stride=6, activation="tanh"),
            {"type": "permute", "dims": [2, 0, 1]},
            {"type": "lstm", "insize": 24, "size": 24, "bias": True, "reverse": 1},
            {"type": "lstm", "insize": 24, "size": 24, "bias": True, "reverse": 0},
            {"type": "linear", "in_features": 24, "out_features": 12, "bias": False},
            {
                **{"type": "linearcrfencoder", "insize": 12, "n_base": 4, "state_len": 3, "bias": False},
                **{"blank_score": 2.0, "expand_blanks": True},
            },
            {"type": "clamp", "min": -5.0, "max": 5.0},
        ],
    },
    "normalisation": {
        "quantile_a": 0.1,
        "quantile_b": 0.95,
        "shift_multiplier": 0.5,
        "scale_multiplier": 0.6,
    },
    "scaling": {"strategy": "quantile"},
}


def _make(config: dict[str, Any], folder: Path) -> torch.nn.Module:
    """A random network saved the way ``bonito train`` saves."""
    torch.manual_seed(11)
    model = bonito_util.load_symbol(config, "Model")(config)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm1d):
            torch.nn.init.normal_(module.running_mean, std=0.1)
            torch.nn.init.uniform_(module.running_var, 0.5, 1.5)
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias, std=0.1)
    folder.mkdir()
    with (folder / "config.toml").open("w") as handle:
        toml.dump(config, handle)
    torch.save({k: torch.zeros_like(v) for k, v in model.state_dict().items()}, folder / "weights_9.tar")
    torch.save(model.state_dict(), folder / "weights_10.tar")
    return model.eval()


@pytest.mark.parametrize("config", [CTC, CRF, LAYERS], ids=["ctc", "crf", "crf-layers"])
def test_equal_outputs(config: dict[str, Any], tmp_path: Path) -> None:
    model = _make(config, tmp_path / "net")
    source = read_model(tmp_path / "net")
    with torch.no_grad():
        theirs, ours = model(SIGNAL), source.module(SIGNAL)  # type: ignore[misc]
    assert theirs.std() > 0.01
    assert torch.allclose(ours, theirs, atol=1e-6)
    assert source.kind == "bonito" and source.name == "net" and source.meta is not None
    assert source.meta.stride == model.stride
    assert source.meta.alphabet == "NACGT"


def test_settings_travel(tmp_path: Path) -> None:
    _make(CTC, tmp_path / "ctc")
    source = read_model(tmp_path / "ctc")
    meta = source.meta
    assert meta is not None and meta.decoder is not None and meta.signal is not None
    assert (meta.decoder.qscale, meta.decoder.qbias) == (0.9, 0.5)
    assert meta.signal.normalisation == "quantile"
    assert [d.code for d in source.decisions] == ["RUB-READ-D07", "RUB-READ-D08"]

    _make(CRF, tmp_path / "crf")
    source = read_model(tmp_path / "crf")
    assert source.meta is not None
    assert source.meta.signal == SignalSpec("pa", {"mean": 93.7, "stdev": 23.5}, sampling_rate=5000)
    assert (source.meta.chunk, source.meta.overlap) == (10000, 500)  # rounded down to twice the stride
    assert source.decisions == []

    _make(LAYERS, tmp_path / "layers")
    meta = read_model(tmp_path / "layers").meta
    assert meta is not None and meta.signal == SignalSpec("quantile", LAYERS["normalisation"])


def test_every_default_configuration_of_bonito(tmp_path: Path) -> None:
    """The configurations inside the bonito package, recurrent one narrowed to keep the test quick."""
    for version in (1, 2, 3):
        config = toml.load(Path(bonito_util.__models_dir__) / f"configs/dna_r9.4.1@v{version}.toml")
        if version == 3:
            config["encoder"]["features"] = 32
            config["global_norm"]["state_len"] = 2
        model = _make(config, tmp_path / str(version))
        source = read_model(tmp_path / str(version))
        with torch.no_grad():
            assert torch.allclose(source.module(SIGNAL), model(SIGNAL), atol=1e-5)  # type: ignore[misc]


def test_wrapped_and_half_weights(tmp_path: Path) -> None:
    model = _make(CTC, tmp_path / "net").half()
    state = {f"module.{name}": value for name, value in model.state_dict().items()}
    torch.save(state, tmp_path / "net" / "weights_11.tar")
    source = read_model(tmp_path / "net")
    with torch.no_grad():
        assert torch.allclose(source.module(SIGNAL), model.float()(SIGNAL), atol=1e-6)  # type: ignore[misc]
    assert {d.code for d in source.decisions} == {f"RUB-READ-D0{i}" for i in (1, 2, 7, 8)}
