"""The table-driven CTC networks: published widths, receptive fields, grouping, shapes, quantised form."""

from __future__ import annotations

import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from rubicc.models import registry
from rubicc.models.ctc_config import BlockSpec, CtcConfig
from rubicc.models.separable import Block, Cell, SeparableCtc

NAMES = ("demo-ctc", "bonito-ctc", "quartznet", "qabas", "rubicall", "rubicall-fp")
FIELDS = {"bonito-ctc": 3237, "qabas": 3219, "rubicall": 3219, "rubicall-fp": 3219}
# in channels, out channels, repeats, kernel, <weight, activation> bits, convolution weights, skip weights:
# RUBICON's published table, typed in here on its own.
RUBICALL_TABLE = [
    (1, 208, 1, 9, 16, 16, 1_872, 0),
    (208, 280, 2, 75, 16, 16, 429_440, 58_240),
    (280, 280, 1, 31, 8, 8, 147_840, 78_400),
    (280, 296, 2, 31, 8, 8, 313_344, 82_880),
    (296, 232, 1, 123, 16, 8, 359_936, 68_672),
    (232, 232, 2, 55, 16, 8, 311_808, 53_824),
    (232, 232, 2, 5, 16, 8, 126_208, 53_824),
    (232, 224, 2, 3, 8, 8, 113_088, 51_968),
    (224, 224, 2, 9, 16, 8, 132_608, 50_176),
    (224, 224, 2, 115, 16, 8, 512_512, 50_176),
    (224, 224, 2, 55, 16, 8, 297_472, 50_176),
    (224, 144, 2, 25, 16, 8, 126_592, 32_256),
    (144, 144, 2, 9, 16, 8, 62_208, 20_736),
    (144, 144, 1, 25, 8, 8, 49_536, 20_736),
    (144, 144, 2, 7, 8, 8, 57_600, 20_736),
    (144, 144, 1, 123, 8, 4, 162_432, 20_736),
    (144, 152, 1, 9, 8, 4, 32_256, 0),
    (152, 48, 1, 9, 8, 4, 65_664, 0),
]


def narrow(name: str, **changes: object) -> CtcConfig:
    """The same blocks at eight channels: same receptive field, a thousandth of the work."""
    config = registry.get(name).default
    blocks = tuple(replace(block, filters=8) for block in config.blocks)
    return replace(config, blocks=blocks, quantised=False, **changes)  # type: ignore[arg-type]


def conv_weights(module: nn.Module) -> int:
    return sum(m.weight.numel() for m in module.modules() if isinstance(m, nn.Conv1d))


@pytest.mark.parametrize("name", ["qabas", "rubicall", "rubicall-fp"])
def test_every_block_has_the_published_weights(name: str) -> None:
    model = SeparableCtc(registry.get(name).default)
    assert len(model.blocks) == len(RUBICALL_TABLE)
    for block, (_, out, repeats, _, _, _, weights, skip) in zip(model.blocks, RUBICALL_TABLE, strict=True):
        assert isinstance(block, Block)
        assert len(block.cells) == repeats
        assert conv_weights(block.cells) == weights
        assert (conv_weights(block.skip) if block.skip is not None else 0) == (skip if name == "qabas" else 0)
        assert block.cells[-1].norm.num_features == out
    assert conv_weights(model.head) + model.head.bias.numel() == 245


def test_bonito_ctc_has_the_published_block_weights_and_skips() -> None:
    model = SeparableCtc(registry.get("bonito-ctc").default)
    assert conv_weights(model.blocks[0]) == 3_096
    assert conv_weights(model.blocks[1].cells) == 1_032_192
    skips = [block.skip for block in model.blocks if block.skip is not None]
    assert sum(p.numel() for skip in skips for p in skip.parameters()) == 882_144


@pytest.mark.parametrize("name", NAMES)
def test_grouped_convolutions_have_eight_channels_per_group(name: str) -> None:
    model = SeparableCtc(replace(registry.get(name).default, quantised=False))
    grouped = [m for path, m in model.named_modules() if path.endswith(".grouped")]
    separable = sum(block.repeat for block in model.config.blocks if block.separable)
    assert len(grouped) == separable > 0
    for conv in grouped:
        assert conv.in_channels == conv.out_channels == 8 * conv.groups
        assert conv.weight.shape[1] == 8 and conv.bias is None


@pytest.mark.parametrize("name", NAMES)
def test_receptive_field_is_what_a_gradient_sees(name: str) -> None:
    """Perturbation probe: which samples move the middle frame, in float64 and with an activation that never
    goes flat, so no path vanishes by luck."""
    expected = registry.get(name).meta().receptive_field
    assert expected is not None
    assert expected == FIELDS.get(name, expected)
    model = registry.get(name).build(narrow(name, activation="swish"), seed=1).double()
    samples = (expected + 60) // 3 * 3
    x = torch.randn(1, 1, samples, dtype=torch.float64, requires_grad=True)
    frames = model(x)
    assert frames.shape[0] == samples // 3
    frames[frames.shape[0] // 2, 0, 1].backward()
    assert x.grad is not None
    seen = x.grad[0, 0].nonzero().flatten()
    assert seen[0] > 0 and seen[-1] < samples - 1
    assert int(seen[-1] - seen[0]) + 1 == expected


@pytest.mark.parametrize("name", NAMES)
def test_receptive_field_from_the_modules(name: str) -> None:
    model = SeparableCtc(replace(registry.get(name).default, quantised=False))
    field, jump = 1, 1
    for path, conv in model.named_modules():
        if isinstance(conv, nn.Conv1d) and ".skip." not in path:
            field += (conv.kernel_size[0] - 1) * conv.dilation[0] * jump
            jump *= conv.stride[0]
    assert field == registry.get(name).meta().receptive_field
    assert jump == registry.get(name).meta().stride == 3


@pytest.mark.parametrize("name", NAMES)
def test_any_length_and_batch(name: str) -> None:
    model = registry.get(name).build(narrow(name), seed=0)
    with torch.no_grad():
        for batch, samples in ((1, 1), (1, 2), (3, 3), (2, 100), (2, 101)):
            y = model(torch.randn(batch, 1, samples))
            assert y.shape == (-(-samples // 3), batch, 5)
            torch.testing.assert_close(y.exp().sum(-1), torch.ones(y.shape[:2]))


@pytest.mark.parametrize("name", ["demo-ctc", "rubicall-fp", "rubicall"])
def test_an_untrained_network_answers_its_input(name: str) -> None:
    """Outputs that ignore the input would make every comparison of artefacts pass."""
    model = registry.get(name).build(seed=0)
    with torch.no_grad():
        y = model(torch.randn(1, 1, 900))
    assert float(y.std(0).mean()) > 0.05


def test_items_of_a_batch_do_not_mix() -> None:
    model = registry.get("demo-ctc").build(seed=0)
    x = torch.randn(3, 1, 200)
    with torch.no_grad():
        torch.testing.assert_close(model(x)[:, 1:2], model(x[1:2]), rtol=1e-4, atol=1e-5)


def test_the_skip_joins_before_the_last_activation() -> None:
    config = CtcConfig(blocks=(BlockSpec(8, 3), BlockSpec(8, 3, 2, residual=True)), channels_per_group=1)
    block = registry.get("demo-ctc").build(config, seed=0).blocks[1]
    x = torch.randn(2, 8, 20)
    first, second = block.cells
    assert isinstance(first, Cell) and isinstance(second, Cell)
    with torch.no_grad():
        expected = torch.relu(second(torch.relu(first(x))) + block.skip.norm(block.skip.conv(x)))
        torch.testing.assert_close(block(x), expected)
        assert not torch.allclose(block(x), torch.relu(second(torch.relu(first(x)))))


def test_demo_is_small_and_sees_16_bases() -> None:
    entry = registry.get("demo-ctc")
    count = registry.network_parameters(entry.build(seed=0))
    assert count == 258_965
    assert entry.meta().receptive_field == 147


def test_quantised_widths_are_the_published_ones() -> None:
    for name in ("qabas", "rubicall"):
        model = registry.get(name).build(seed=0)
        assert _bits(model.input_quantiser) == 16
        assert _bits(model.head) == 8
        for block, row in zip(model.blocks, RUBICALL_TABLE, strict=True):
            weight_bits, act_bits = row[4], row[5]
            assert [_bits(activation) for activation in block.activations] == [act_bits] * row[2]
            for cell in block.cells:
                parts = cell.conv if isinstance(cell.conv, nn.Sequential) else [cell.conv]
                assert [_bits(part) for part in parts] == [weight_bits] * len(parts)
            if block.skip is not None:
                assert _bits(block.skip.conv) == _bits(block.skip.quantiser) == weight_bits


def test_quantised_weights_take_few_values_and_batchnorm_stays_untouched() -> None:
    model = registry.get("rubicall").build(seed=0)
    last = model.blocks[-1].cells[0]
    weight = last.conv.quant_weight().value
    assert weight.unique().numel() <= 2**8
    assert bool((last.norm.running_mean == 0).all()) and bool((last.norm.running_var == 1).all())
    y = model.blocks[-1].activations[0](torch.randn(1, 48, 500) * 5)
    assert y.unique().numel() <= 2**4


def test_quantised_state_round_trips() -> None:
    entry = registry.get("rubicall")
    config = narrow("rubicall")
    config = replace(config, quantised=True)
    first, second = entry.build(config, seed=0), entry.build(config, seed=1)
    x = torch.randn(1, 1, 200)
    with torch.no_grad():
        expected = first(x)
        assert not torch.allclose(second(x), expected)
        second.load_state_dict(first.state_dict())
        torch.testing.assert_close(second(x), expected, rtol=0, atol=0)


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_equal_weights_give_bonitos_numbers(version: str) -> None:
    """bonito's own configuration and class; released bonito groups by single channels and v2 uses swish."""
    bonito = pytest.importorskip("bonito.ctc.model")
    configs = Path(bonito.__file__).parents[1] / "models" / "configs"
    table = tomllib.loads((configs / f"dna_r9.4.1@{version}.toml").read_text())
    for block in table["block"]:
        block["filters"] //= 8
    theirs = bonito.Model(table).eval()
    config = CtcConfig(
        blocks=tuple(
            BlockSpec(
                b["filters"], b["kernel"][0], b["repeat"], b["stride"][0], b["dilation"][0], b["residual"],
                b["separable"],
            )
            for b in table["block"]
        ),
        activation=table["encoder"]["activation"],
        channels_per_group=1,
    )  # fmt: skip
    entry = registry.get("bonito-ctc" if version == "v2" else "quartznet")
    full = entry.default.blocks
    assert [(b.filters // 8, b.kernel, b.repeat, b.residual, b.separable) for b in full] == [
        (b.filters, b.kernel, b.repeat, b.residual, b.separable) for b in config.blocks
    ]
    ours = entry.build(config, seed=0)
    with torch.no_grad():
        for value in theirs.parameters():
            nn.init.normal_(value, std=0.3)
        for name, value in theirs.named_buffers():
            if name.endswith("running_mean"):
                value.normal_()
            elif name.endswith("running_var"):
                value.uniform_(0.5, 2.0)
        # same tensors in the same order under other names
        pairs = zip(ours.state_dict(), theirs.state_dict().values(), strict=True)
        ours.load_state_dict(dict(pairs))
        x = torch.randn(2, 1, 301)
        torch.testing.assert_close(ours(x), theirs(x), rtol=1e-5, atol=1e-5)


def _bits(layer: nn.Module) -> int:
    if hasattr(layer, "weight_quant"):
        return int(layer.weight_quant.bit_width())
    return int(layer.act_quant.bit_width())
