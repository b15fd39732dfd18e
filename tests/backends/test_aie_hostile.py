"""Bad input to the AI Engine target from Python: every case is refused with its exit code, and nothing is
written. The command line has a file of its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import rubicc
from rubicc.backends.aie import artefact
from rubicc.backends.aie.project.text import identifier, project_name, template, words
from rubicc.errors import ModelRefused, RubiccError, Unsupported, UsageError


def conv(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Conv1d(1, 8, 5, padding=2), nn.ReLU(), *layers).eval()


class Images(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x)


class Attention(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.softmax(x.transpose(1, 2) @ x, -1) @ x.transpose(1, 2)


class Middle(nn.Module):
    """A softmax over time between two convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv1d(1, 8, 3, padding=1), nn.Conv1d(8, 256, 9, padding=4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(torch.softmax(self.first(x), -1))


class Tokens(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table, self.head = nn.Embedding(16, 8), nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.table(x))


class Nothing(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.cumsum(-1)


GOOD = lambda: conv(nn.Conv1d(8, 8, 3, padding=1))  # noqa: E731
SIGNAL = ["x=1x1x64"]
MODELS: dict[str, tuple[Callable[[], nn.Module], list[str]]] = {
    "images": (Images, ["x=1x1x16x16"]),
    "attention": (Attention, ["x=1x8x16"]),
    "host work in the middle": (Middle, SIGNAL),
    "tokens": (Tokens, ["x=1x16:int64"]),
    "nothing to compute": (Nothing, SIGNAL),
    "stride behind the first layer": (lambda: conv(nn.Conv1d(8, 64, 9, stride=2)), SIGNAL),
    "pooling between layers": (lambda: conv(nn.MaxPool1d(2), nn.Conv1d(8, 64, 5)), SIGNAL),
    "transposed convolution": (lambda: conv(nn.ConvTranspose1d(8, 64, 5)), SIGNAL),
    "instance norm": (lambda: conv(nn.InstanceNorm1d(8, affine=True), nn.Conv1d(8, 64, 5)), SIGNAL),
    "odd groups": (lambda: conv(nn.Conv1d(8, 12, 3, groups=4)), SIGNAL),
    "reflected padding": (
        lambda: conv(nn.Conv1d(8, 64, 9, padding=4, padding_mode="reflect")),
        SIGNAL,
    ),
    "padding beyond the kernel": (lambda: conv(nn.Conv1d(8, 64, 3, padding=7)), SIGNAL),
}


def refused(tmp_path: Path, model: Any, **flags: Any) -> RubiccError:
    out = tmp_path / "out"
    with pytest.raises(RubiccError) as caught:
        rubicc.compile(model, out=out, **{"target": "aie:vek280", **flags})
    assert caught.value.exit_code in (2, 4)
    assert not out.exists() and not list(tmp_path.iterdir())
    return caught.value


@pytest.mark.parametrize("name", MODELS)
def test_models_the_array_cannot_take(name: str, tmp_path: Path) -> None:
    make, inputs = MODELS[name]
    torch.manual_seed(0)
    error = refused(tmp_path, make(), inputs=inputs)
    assert isinstance(error, Unsupported) and error.code.startswith(("RUB-AIE-", "RUB-PASS-", "RUB-LOW-")), (
        error
    )
    assert error.hint or error.findings


@pytest.mark.parametrize(
    "flags",
    [{"target": "aie:vck5000"}, {"precision": "bf16"}, {"objective": "glory"}, {"shapes": "x=2x0x64"}],
    ids=str,
)
def test_options_that_cannot_be(flags: dict[str, str], tmp_path: Path) -> None:
    assert refused(tmp_path, GOOD(), inputs=SIGNAL, **flags).exit_code == 2


@pytest.mark.slow
def test_a_device_without_memory_tiles_or_facts_says_which(tmp_path: Path) -> None:
    error = refused(
        tmp_path,
        conv(nn.Conv1d(8, 512, 9, padding=4), nn.Conv1d(512, 512, 31)),
        inputs=SIGNAL,
        target="aie:vck190",
    )
    assert error.code.startswith("RUB-AIE-2")


@pytest.mark.parametrize(
    "name",
    [
        "x*/ int main() { system(0); } /*",
        "a\nb",
        "end\\",
        "$(shell touch hacked)",
        "`touch hacked`",
        "??/",
        'quote" #include "/etc/passwd',
        "// comment",
        "@NAME@",
        "\u202eevil",
        "",
    ],
)
def test_names_never_reach_sources_as_they_are(name: str) -> None:
    shown = words(name)
    assert (
        shown and not set(shown) & set("*\\\n$`\"'#@?{};<>\u202e") and "//" not in shown and len(shown) <= 120
    )
    made = project_name(name)
    assert made[0].isalpha() and set(made) <= set(
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_"
    )
    with pytest.raises(Unsupported):
        identifier(name)


def test_templates_want_exactly_their_values() -> None:
    with pytest.raises(AssertionError):
        template("mover.cfg.tmpl", {"KERNEL": "mm2s"})


@pytest.mark.parametrize(
    "index", [None, "", "{", "[]", '{"schema_version": 9, "sha256": {}, "batch_axes": {}}']
)
def test_folders_that_are_no_artefact(index: str | None, tmp_path: Path) -> None:
    if index is not None:
        (tmp_path / artefact.INDEX).write_text(index)
    with pytest.raises(ModelRefused) as caught:
        artefact.opened(tmp_path)
    assert caught.value.code == "RUB-AIE-005"


def test_runtimes_that_do_not_exist(tmp_path: Path) -> None:
    from rubicc.backends.aie.session import AieSession

    with pytest.raises(UsageError) as caught:
        AieSession(artefact.Emitted(tmp_path, {}, "", "", {}), "x86sim")
    assert caught.value.code == "RUB-AIE-001"
