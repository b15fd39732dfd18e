"""Writes taiyaki-like checkpoints: the legacy whole-module pickle, with classes of taiyaki's names.

The classes are ours and only hold what the published files hold; nothing of taiyaki is used.
"""

from __future__ import annotations

import copyreg
import io
import pickle
import struct
import sys
import types
from pathlib import Path
from typing import Any

import torch
from torch import nn

MAGIC = 0x1950A86A20F9469CFC6C
PROTOCOL = 1001


def _tanh(x: torch.Tensor) -> torch.Tensor:
    return torch.tanh(x)


class Serial(nn.Module):
    def __init__(self, layers: list[nn.Module]) -> None:
        super().__init__()
        self.sublayers = nn.ModuleList(layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.sublayers:
            x = layer(x)
        return x


class Convolution(nn.Module):
    def __init__(self, size: int, winlen: int, stride: int) -> None:
        super().__init__()
        self.has_bias, self.insize, self.size, self.stride, self.winlen = True, 1, size, stride, winlen
        self.padding = (winlen // 2, (winlen - 1) // 2)
        self.pad = nn.ConstantPad1d(self.padding, 0)
        self.conv = nn.Conv1d(1, size, winlen, stride=stride)
        self.activation = _tanh

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.activation(self.conv(self.pad(x.permute(1, 2, 0)))).permute(2, 0, 1)


class GruMod(nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.cudnn_gru = nn.GRU(size, size)
        nn.init.zeros_(self.cudnn_gru.bias_hh_l0)
        self.insize, self.size, self.has_bias = size, size, True

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.cudnn_gru(x)[0]


class Reverse(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x.flip(0)).flip(0)


class GlobalNormFlipFlop(nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.insize, self.nbase, self.size, self.has_bias, self.scale = size, 4, 40, True, 5.0
        self.activation = _tanh
        self.linear = nn.Linear(size, 40)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.scale * self.activation(self.linear(x))


LAYERS = (Serial, Convolution, GruMod, Reverse, GlobalNormFlipFlop)


def network(size: int = 8, layers: int = 2, winlen: int = 19, stride: int = 4) -> Any:
    """A random network; ``network()(x)`` takes ``(T, N, 1)``."""
    with torch.random.fork_rng():
        torch.manual_seed(7)
        grus = [Reverse(GruMod(size)) if i % 2 == 0 else GruMod(size) for i in range(layers)]
        return Serial([Convolution(size, winlen, stride), *grus, GlobalNormFlipFlop(size)]).eval()


class _Writer(pickle.Pickler):
    """Pickles modules as PyTorch before 1.6 did: class source and storages behind persistent ids."""

    def __init__(self, stream: io.BytesIO, source: str) -> None:
        super().__init__(stream, protocol=2)
        self.source = source
        self.storages: dict[str, torch.UntypedStorage] = {}
        self.sizes: dict[str, int] = {}
        self.written: set[type] = set()

    def persistent_id(self, obj: Any) -> Any:
        if isinstance(obj, type) and obj in LAYERS and obj not in self.written:
            self.written.add(obj)
            return ("module", obj, "layers.py", self.source)
        if isinstance(obj, torch.storage.TypedStorage):
            key = str(obj._cdata)
            self.storages[key], self.sizes[key] = obj._untyped_storage, obj._size()
            return ("storage", torch.FloatStorage, key, "cpu", obj._size(), None)
        return None

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, nn.Module):
            state = obj.__getstate__() if isinstance(obj, nn.GRU) else obj.__dict__
            kept = {k: v for k, v in state.items() if not isinstance(v, set)}
            return copyreg.__newobj__, (type(obj),), kept  # type: ignore[attr-defined]
        return NotImplemented


def write(
    path: Path, net: Any, *, source: str = "class C: pass", cut: int = 0, keep: int | None = None
) -> Path:
    """Write ``net``; ``cut`` drops bytes at the end, ``keep`` only keeps the first."""
    modules = {name: types.ModuleType(name) for name in ("taiyaki", "taiyaki.layers", "taiyaki.activation")}
    for cls in LAYERS:
        cls.__module__ = "taiyaki.layers"
        setattr(modules["taiyaki.layers"], cls.__name__, cls)
    _tanh.__module__, _tanh.__name__, _tanh.__qualname__ = "taiyaki.activation", "tanh", "tanh"
    modules["taiyaki.activation"].tanh = _tanh  # type: ignore[attr-defined]
    sys.modules.update(modules)
    try:
        stream = io.BytesIO()
        for head in (
            MAGIC,
            PROTOCOL,
            {"protocol_version": PROTOCOL, "little_endian": True, "type_sizes": {}},
        ):
            pickle.dump(head, stream, protocol=2)
        writer = _Writer(stream, source)
        writer.dump(net)
        keys = sorted(writer.storages)
        pickle.dump(keys, stream, protocol=2)
        for key in keys:
            stream.write(struct.pack("<q", writer.sizes[key]))
            stream.write(bytes(writer.storages[key].tolist()))
    finally:
        for name in modules:
            del sys.modules[name]
    data = stream.getvalue()
    path.write_bytes(data[: len(data) - cut] if keep is None else data[:keep])
    return path
