"""Flip-flop GRU and CTC-CRF networks: golden tensors, directions, the head's columns, bonito's numbers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from rubicc.models import registry
from rubicc.models.recurrent import BonitoCrf
from rubicc.models.recurrent_config import CrfConfig, CrfConv, CrfLstm, MgruConfig, crf_preset

SMALL = crf_preset(12, 2, 5, first_conv=4)


def test_mgru_keys_are_those_of_the_published_state_dict() -> None:
    state = registry.get("taiyaki-mgru").build(seed=0).state_dict()
    shapes = {key: tuple(value.shape) for key, value in state.items()}
    expected = {"conv.weight": (96, 1, 19), "conv.bias": (96,), "head.weight": (40, 96), "head.bias": (40,)}
    for layer in range(5):
        for kind, shape in (("weight", (288, 96)), ("bias", (288,))):
            for side in ("ih", "hh"):
                expected[f"gru.{layer}.{kind}_{side}_l0"] = shape
    assert shapes == expected
    assert all(float(state[f"gru.{layer}.bias_hh_l0"].abs().max()) == 0 for layer in range(5))


@pytest.mark.real_data
@pytest.mark.parametrize("suffix", ["_state_dict.pt", ".safetensors"])
def test_mgru_gives_the_golden_scores(shared_data: Path, suffix: str) -> None:
    path = shared_data / "weights" / f"r9_mgru_flipflop{suffix}"
    if suffix.endswith(".pt"):
        state = torch.load(path, weights_only=True)
    else:
        state = pytest.importorskip("safetensors.torch").load_file(path)
    model = registry.get("taiyaki-mgru").build(seed=0)
    model.load_state_dict(state)
    golden = np.load(shared_data / "expected" / "r9_mgru_golden.npz")
    with torch.no_grad():
        scores = model(torch.from_numpy(golden["x"]))
    np.testing.assert_allclose(scores.numpy(), golden["scores"], rtol=0, atol=1e-4)


def test_mgru_layers_alternate_and_the_first_runs_backwards() -> None:
    """With one layer, a frame answers to later frames only; with two, to everything."""
    entry = registry.get("taiyaki-mgru")
    config = MgruConfig(kernel=1, stride=1, size=8, layers=1)
    assert _moved(entry.build(config, seed=0), 10, at=4) == [0, 1, 2, 3, 4]
    assert _moved(entry.build(replace(config, layers=2), seed=0), 10, at=4) == list(range(10))


def test_crf_directions_follow_the_configuration() -> None:
    stem = (CrfConv(6, 1),)
    for reverse, expected in ((True, [0, 1, 2, 3]), (False, [3, 4, 5, 6, 7, 8])):
        config = CrfConfig(convs=stem, lstms=(CrfLstm(6, reverse),), state_len=1)
        assert _moved(registry.get("bonito-crf").build(config, seed=0), 9, at=3) == expected
    assert [lstm.reverse for lstm in SMALL.lstms] == [True, False, True, False, True]


def _moved(model: nn.Module, samples: int, at: int) -> list[int]:
    """Frames that move when one sample does (stride 1)."""
    x = torch.randn(1, 1, samples)
    changed = x.clone()
    changed[0, 0, at] += 3.0
    with torch.no_grad():
        moved = (model(changed) - model(x)).abs().amax(dim=(1, 2)) > 0
    return moved.nonzero().flatten().tolist()


@pytest.mark.parametrize("name", ["taiyaki-mgru", "bonito-crf"])
def test_any_length_and_batch(name: str) -> None:
    entry = registry.get(name)
    config = SMALL if name == "bonito-crf" else MgruConfig(size=12)
    model, meta = entry.build(config, seed=0), entry.meta(config)
    assert meta.stride is not None
    with torch.no_grad():
        for batch, samples in ((1, 1), (3, 2), (2, 60), (2, 61)):
            y = model(torch.randn(batch, 1, samples))
            assert y.shape == (-(-samples // meta.stride), batch, meta.outputs[0].shape[-1])


def test_items_of_a_batch_do_not_mix() -> None:
    for name, config in (("taiyaki-mgru", MgruConfig(size=12)), ("bonito-crf", SMALL)):
        model = registry.get(name).build(config, seed=0)
        x = torch.randn(3, 1, 100)
        with torch.no_grad():
            torch.testing.assert_close(model(x)[:, 1:2], model(x[1:2]), rtol=1e-4, atol=1e-5)


def test_crf_blank_columns_are_the_fixed_score_and_the_rest_is_the_unexpanded_output() -> None:
    entry = registry.get("bonito-crf")
    full, bare = entry.build(SMALL, seed=0), entry.build(replace(SMALL, expand_blanks=False), seed=0)
    x = torch.randn(2, 1, 100)
    with torch.no_grad():
        scores, moves = full(x), bare(x)
    assert scores.shape == (20, 2, 80) and moves.shape == (20, 2, 64)
    by_state = scores.unflatten(-1, (16, 5))
    assert bool((by_state[..., 0] == 2.0).all())
    torch.testing.assert_close(by_state[..., 1:], moves.unflatten(-1, (16, 4)), rtol=0, atol=0)
    assert float(moves.abs().max()) <= 5.0 < 2 * float(moves.abs().max())


def test_crf_options_of_the_newer_models() -> None:
    """BatchNorm and clamps in the stem, decomposed head, learned blank, clamped scores instead of tanh."""
    config = CrfConfig(
        convs=(
            CrfConv(4, 5, norm="batchnorm", clamp=(-0.5, 3.5)),
            CrfConv(8, 19, 6, bias=False, activation="tanh"),
        ),
        lstms=(CrfLstm(8, True, bias=False), CrfLstm(6, False)),
        state_len=1,
        bottleneck=3,
        bottleneck_bias=False,
        head_bias=False,
        head_activation=None,
        scale=None,
        blank_score=None,
        clamp=(-0.25, 0.25),
    )
    model = registry.get("bonito-crf").build(config, seed=0)
    with torch.no_grad():
        y = model(torch.randn(2, 1, 61))
        assert y.shape == (11, 2, 20)
        assert float(y.max()) == 0.25 and float(y.min()) == -0.25
        stem = model.stem[0](torch.randn(1, 1, 50) * 9)
        assert float(stem.max()) == 3.5 and float(stem.min()) >= -0.5


@pytest.mark.parametrize(
    ("preset", "parameters"), [("fast", 427_728), ("hac", 6_426_352), ("sup", 46_496_112)]
)
def test_crf_presets_have_the_size_their_shape_says(preset: str, parameters: int) -> None:
    config = registry.get("bonito-crf").config_from_dict({"preset": preset})
    size, states = config.lstms[0].size, 4**config.state_len
    stem = (16 * 5 + 16) + (16 * 16 * 5 + 16) + (size * 16 * 19 + size)
    recurrent = 5 * (2 * 4 * size * size + 2 * 4 * size)
    head = size * 4 * states + (4 * states if config.head_bias else 0)
    with torch.device("meta"):
        counted = sum(value.numel() for value in BonitoCrf(config).parameters())
    assert counted == stem + recurrent + head == parameters


OLD_STYLE = {
    "stride": 5,
    "winlen": 19,
    "scale": 5.0,
    "features": 12,
    "rnn_type": "lstm",
    "activation": "swish",
}


@pytest.mark.parametrize(
    "extra",
    [
        {},
        {"blank_score": 2.0},
        {"blank_score": 2.0, "expand_blanks": False, "num_layers": 4},
        {"first_conv_size": 16, "norm": "batchnorm", "activation": "tanh"},
    ],
)
def test_equal_weights_give_bonitos_numbers(extra: dict) -> None:
    bonito = pytest.importorskip("bonito.crf.model")
    theirs = bonito.Model(
        {
            "labels": {"labels": list("NACGT")},
            "input": {"features": 1},
            "global_norm": {"state_len": 2},
            "encoder": {**OLD_STYLE, **extra},
        }
    ).eval()
    preset = crf_preset(
        12, 2, 5, layers=extra.get("num_layers", 5), first_conv=extra.get("first_conv_size", 4)
    )
    stem = {"norm": extra.get("norm"), "activation": extra.get("activation", "swish")}
    config = replace(
        preset,
        convs=tuple(replace(conv, **stem) for conv in preset.convs),
        blank_score=extra.get("blank_score"),
        expand_blanks=extra.get("expand_blanks", True),
    )
    _compare(theirs, config)


def test_equal_weights_give_bonitos_numbers_for_layer_lists() -> None:
    """The newer form of bonito's configuration: a list of layers, with clamps and a linear layer."""
    bonito = pytest.importorskip("bonito.crf.model")
    conv = {"type": "convolution", "bias": True, "activation": "swish", "norm": "batchnorm"}
    clamp = {"type": "clamp", "min": -0.5, "max": 3.5}
    layers = [
        {**conv, "insize": 1, "size": 4, "winlen": 5, "stride": 1, "padding": 2},
        clamp,
        {**conv, "insize": 4, "size": 12, "winlen": 19, "stride": 6, "padding": 9},
        clamp,
        {"type": "permute", "dims": [2, 0, 1]},
        {"type": "lstm", "size": 12, "insize": 12, "bias": True, "reverse": True},
        {"type": "lstm", "size": 12, "insize": 12, "bias": True, "reverse": False},
        {"type": "linear", "in_features": 12, "out_features": 6, "bias": False},
        {
            "type": "linearcrfencoder",
            "insize": 6,
            "n_base": 4,
            "state_len": 2,
            "bias": False,
            "blank_score": 2.0,
        },
        {"type": "clamp", "min": -5.0, "max": 5.0},
    ]
    theirs = bonito.Model(
        {
            "labels": {"labels": list("NACGT")},
            "input": {"features": 1},
            "global_norm": {"state_len": 2},
            "encoder": {"type": "serial", "sublayers": layers},
        }
    ).eval()
    config = CrfConfig(
        convs=(
            CrfConv(4, 5, norm="batchnorm", clamp=(-0.5, 3.5)),
            CrfConv(12, 19, 6, norm="batchnorm", clamp=(-0.5, 3.5)),
        ),
        lstms=(CrfLstm(12, True), CrfLstm(12, False)),
        state_len=2,
        bottleneck=6,
        bottleneck_bias=False,
        head_bias=False,
        head_activation=None,
        scale=None,
        clamp=(-5.0, 5.0),
    )
    _compare(theirs, config)


def _compare(theirs: nn.Module, config: CrfConfig) -> None:
    ours = registry.get("bonito-crf").build(config, seed=0)
    with torch.no_grad():
        for value in theirs.parameters():
            nn.init.normal_(value, std=0.4)
        for name, value in theirs.named_buffers():
            if name.endswith(("running_mean", "running_var")):
                value.uniform_(0.5, 2.0)
        # same tensors in the same order under other names
        pairs = zip(ours.state_dict(), theirs.state_dict().values(), strict=True)
        ours.load_state_dict(dict(pairs))
        x = torch.randn(3, 1, 203)
        expected = theirs(x)
        assert float(expected.std()) > 0.1
        torch.testing.assert_close(ours(x), expected, rtol=1e-5, atol=1e-5)
