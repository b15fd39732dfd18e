"""Sound packages with bytes or parts of the program changed: a result or a catalogued error, nothing else."""

from __future__ import annotations

import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from coreml_bare import main_block, messages
from coreml_packages import converted, feeds
from torch import nn

from rubicc.backends.coreml.run.limits import MIB, Limits
from rubicc.backends.coreml.run.load import load
from rubicc.errors import RubiccError

TIGHT = Limits(live_bytes=64 * MIB, constants_bytes=64 * MIB, steps=20_000, iterations=200, products=10**9)
MODEL, WEIGHTS = "Data/com.apple.CoreML/model.mlmodel", "Data/com.apple.CoreML/weights/weight.bin"


class Mixed(nn.Module):
    """Something of every kind: a convolution, a recurrent layer, a loop (the GRU), products."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(2, 6, 3, padding=1)
        self.lstm = nn.LSTM(6, 4, bidirectional=True, batch_first=True)
        self.gru = nn.GRU(8, 3, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.lstm(torch.relu(self.conv(x)).transpose(1, 2))[0]
        y = y + (y @ y.transpose(1, 2)).softmax(-1) @ y
        return self.gru(y)[0]


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, np.ndarray]]:
    """A package and its feeds."""
    torch.manual_seed(8)
    folder, given = tmp_path_factory.mktemp("sound"), (torch.randn(1, 2, 7),)
    package = converted(folder, Mixed(), given)
    return package.path, feeds(given)


def damaged(data: bytes, draw: random.Random) -> bytes:
    """One to four places changed."""
    made = bytearray(data)
    for _ in range(draw.randint(1, 4)):
        at = draw.randrange(len(made))
        match draw.randrange(4):
            case 0:
                made[at] = draw.randrange(256)
            case 1:
                made[at] ^= 1 << draw.randrange(8)
            case 2:
                del made[at : at + draw.randint(1, 8)]
            case _:
                made[at:at] = made[at : at + draw.randint(1, 16)]
    return bytes(made)


def rewritten(data: bytes, draw: random.Random) -> bytes:
    """One to three parts of the program changed: what bytes alone seldom reach."""
    model_pb, _ = messages()
    model = model_pb.Model.FromString(data)
    block = main_block(model)
    for _ in range(draw.randint(1, 3)):
        every = list(block.operations)
        every += [inner for operation in every for held in operation.blocks for inner in held.operations]
        draw.choice(CHANGES)(draw.choice(every), draw.choice(every), block, draw)
    return model.SerializeToString()


def numbers(message: Any) -> Any:
    """The list of numbers in a Value, if it has one."""
    held = message.immediateValue.tensor
    kind = held.WhichOneof("value")
    return getattr(held, kind).values if kind in ("ints", "floats", "bools") else None


def other_number(one: Any, other: Any, block: Any, draw: random.Random) -> None:
    held = numbers(one.attributes["val"]) if one.type == "const" else None
    if held:
        held[draw.randrange(len(held))] = draw.choice((0, 1, -1, 2, 3, 7, 1000, 2**31 - 1, -(2**31)))


def more_numbers(one: Any, other: Any, block: Any, draw: random.Random) -> None:
    held = numbers(one.attributes["val"]) if one.type == "const" else None
    if held:
        held.append(held[0])
        for message in (one.attributes["val"].type, one.outputs[0].type):
            if message.tensorType.rank == 1:
                message.tensorType.dimensions[0].constant.size += 1


def other_name(one: Any, other: Any, block: Any, draw: random.Random) -> None:
    if one.inputs and other.outputs:
        argument = one.inputs[draw.choice(sorted(one.inputs))]
        argument.arguments[0].name = other.outputs[0].name


def other_operator(one: Any, other: Any, block: Any, draw: random.Random) -> None:
    if "const" not in (one.type, other.type):
        one.type = other.type


def other_size(one: Any, other: Any, block: Any, draw: random.Random) -> None:
    sizes = one.outputs[0].type.tensorType.dimensions if one.outputs else ()
    if sizes:
        draw.choice(sizes).constant.size = draw.choice((0, 1, 2, 5, 1 << 20, 1 << 40))


def other_type(one: Any, other: Any, block: Any, draw: random.Random) -> None:
    if one.outputs:
        one.outputs[0].type.tensorType.dataType = draw.choice((1, 2, 10, 11, 12, 21, 23, 24, 31))


def without_parameter(one: Any, other: Any, block: Any, draw: random.Random) -> None:
    if one.inputs:
        del one.inputs[draw.choice(sorted(one.inputs))]


def without_operation(one: Any, other: Any, block: Any, draw: random.Random) -> None:
    del block.operations[draw.randrange(len(block.operations))]


def other_order(one: Any, other: Any, block: Any, draw: random.Random) -> None:
    first, second = draw.sample(range(len(block.operations)), 2)
    held = block.operations[first].SerializeToString()
    block.operations[first].CopyFrom(block.operations[second])
    block.operations[second].ParseFromString(held)


def other_blocks(one: Any, other: Any, block: Any, draw: random.Random) -> None:
    loops = [operation for operation in block.operations if operation.blocks]
    if loops:
        first, second = draw.choice(loops).blocks[:2]
        held = first.SerializeToString()
        first.CopyFrom(second)
        second.ParseFromString(held)


CHANGES = (
    other_number, more_numbers, other_name, other_operator, other_size, other_type, without_parameter,
    without_operation, other_order, other_blocks,
)  # fmt: skip


WAYS = (*[(MODEL, rewritten)] * 5, *[(MODEL, damaged)] * 3, (WEIGHTS, damaged), ("Manifest.json", damaged))


def outcomes(sound: tuple[Path, dict[str, np.ndarray]], folder: Path, seeds: range) -> dict[str, int]:
    """How often a damaged package ran, and how often each code was raised."""
    path, given = sound
    copy = folder / "copy.mlpackage"
    shutil.copytree(path, copy)
    found: dict[str, int] = {}
    for seed in seeds:
        draw = random.Random(seed)
        name, change = draw.choice(WAYS)
        whole = (path / name).read_bytes()
        (copy / name).write_bytes(change(whole, draw))
        try:
            load(copy, TIGHT).run(given, semantics="fp32")
            code = "ran"
        except RubiccError as err:
            code = err.code
        found[code] = found.get(code, 0) + 1
        (copy / name).write_bytes(whole)
    return found


def test_damaged_bytes_give_a_result_or_a_code(
    sound: tuple[Path, dict[str, np.ndarray]], tmp_path: Path
) -> None:
    found = outcomes(sound, tmp_path, range(150))
    assert len(found) >= 12, "the damage is too much of one kind to say anything"


@pytest.mark.slow
def test_much_more_damage(sound: tuple[Path, dict[str, np.ndarray]], tmp_path: Path) -> None:
    assert sum(outcomes(sound, tmp_path, range(1000, 5000)).values()) == 4000
