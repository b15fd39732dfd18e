"""Hostile and malformed torch archives, legacy streams, rubicc checkpoints and safetensors files."""

from __future__ import annotations

import builtins
import gzip
import json
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hostile_base import MGRU, Case, Payload, mgru


def _save(value: Callable[[Path], Any], name: str = "m.pt", **options: Any) -> Callable[[Path, Path], Path]:
    def make(folder: Path, marker: Path) -> Path:
        torch.save(value(marker), folder / name, **options)
        return folder / name

    return make


def _bytes(content: bytes | Callable[[Path], bytes], name: str = "m.pt") -> Callable[[Path, Path], Path]:
    def make(folder: Path, marker: Path) -> Path:
        (folder / name).write_bytes(content if isinstance(content, bytes) else content(marker))
        return folder / name

    return make


class Eval:
    """Unpickling evaluates Python text."""

    def __init__(self, marker: Path) -> None:
        self.marker = str(marker)

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return builtins.eval, (f"__import__('os').mkdir({self.marker!r})",)


def _unsafe(path: Path) -> Any:
    return torch.load(path, weights_only=False)


def edited_zip(
    source: Path, target: Path, change: Callable[[zipfile.ZipInfo, bytes], bytes | None], **extra: bytes
) -> Path:
    """Copy an archive entry by entry; ``change`` returns new content or ``None`` to drop the entry."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for info in old.infolist():
            content = change(info, old.read(info))
            if content is not None:
                new.writestr(info.filename, content)
        for name, content in extra.items():
            new.writestr(name, content)
    return target


def _state_zip(folder: Path) -> Path:
    path = folder / "good.pt"
    torch.save(mgru().state_dict(), path)
    return path


def _rewritten(change: Callable[[zipfile.ZipInfo, bytes], bytes | None]) -> Callable[[Path, Path], Path]:
    return lambda folder, marker: edited_zip(_state_zip(folder), folder / "m.pt", change)


def _append(name: str, content: bytes, compression: int = zipfile.ZIP_STORED) -> Callable[[Path, Path], Path]:
    def make(folder: Path, marker: Path) -> Path:
        path = _state_zip(folder)
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr(name, content, compression)
        return path

    return make


def _shrunk_storage(info: zipfile.ZipInfo, content: bytes) -> bytes:
    return content[:4] if info.filename.endswith("/data/0") else content


def _encrypted(folder: Path, marker: Path) -> Path:
    data = bytearray(_state_zip(folder).read_bytes())
    position = data.find(b"PK\x01\x02")
    data[position + 8] |= 1
    (folder / "m.pt").write_bytes(data)
    return folder / "m.pt"


def _truncated(folder: Path, marker: Path) -> Path:
    path = _state_zip(folder)
    path.write_bytes(path.read_bytes()[:-200])
    return path


def _pickle_zip(stream: bytes) -> Callable[[Path, Path], Path]:
    def make(folder: Path, marker: Path) -> Path:
        with zipfile.ZipFile(folder / "m.pt", "w") as archive:
            archive.writestr("m/data.pkl", stream)
            archive.writestr("m/version", "3")
        return folder / "m.pt"

    return make


def _slow_hash() -> bytes:
    """A dictionary whose key is a tuple doubled eighty times: hashing it would take 2**80 steps."""
    doubled = b"".join(b"q\x00h\x00\x86" for _ in range(80))
    return b"\x80\x02})" + doubled + b"K\x01s."


def _script(folder: Path, marker: Path) -> Path:
    path = folder / "m.pt"
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), path)
    return path


def _legacy_lie(folder: Path, marker: Path) -> Path:
    """The storage says it has a million elements, its block holds four."""
    path = folder / "m.pt"
    torch.save({"a": torch.arange(4.0)}, path, _use_new_zipfile_serialization=False)
    data = path.read_bytes()
    path.write_bytes(data.replace(struct.pack("<q", 4), struct.pack("<q", 1 << 40)))
    return path


def _fifo(folder: Path, marker: Path) -> Path:
    os.mkfifo(folder / "m.pt")
    return folder / "m.pt"


def _folder(folder: Path, marker: Path) -> Path:
    (folder / "model").mkdir()
    return folder / "model"


def _weights(change: Callable[[dict[str, torch.Tensor]], Any]) -> Callable[[Path], Any]:
    def value(marker: Path) -> Any:
        state = dict(mgru().state_dict())
        result = change(state)
        return state if result is None else result

    return value


def _set(name: str, value: Any) -> Callable[[dict[str, torch.Tensor]], None]:
    return lambda state: state.__setitem__(name, value)


def _poison(value: float) -> Callable[[dict[str, torch.Tensor]], None]:
    def change(state: dict[str, torch.Tensor]) -> None:
        state["head.bias"] = torch.full_like(state["head.bias"], value)

    return change


def _checkpoint(**changes: Any) -> Callable[[Path], Any]:
    def value(marker: Path) -> Any:
        from rubicc.models import registry

        entry = registry.get("taiyaki-mgru")
        meta = entry.meta(entry.config_from_dict({"size": 8, "layers": 2})).to_dict()
        meta |= changes.pop("meta", {})
        head = {"format": "rubicc-checkpoint", "version": 1, "meta": meta, "state_dict": mgru().state_dict()}
        return head | changes

    return value


ABSURD = {"config": {"size": 1 << 40}}
ZIP_CASES = (
    Case("pt-pickle-mkdir", _save(lambda m: {"a": Payload(m)}), "RUB-READ-008", MGRU, "posix.mkdir", _unsafe),
    Case("pt-pickle-eval", _save(lambda m: {"a": Eval(m)}), "RUB-READ-008", MGRU, "builtins.eval", _unsafe),
    Case(
        "pt-payload-behind-tensors",
        _save(lambda m: {**mgru().state_dict(), "z": Payload(m)}),
        "RUB-READ-008",
        MGRU,
        "posix.mkdir",
        _unsafe,
    ),
    Case(
        "pt-whole-module",
        _save(lambda m: torch.nn.Linear(2, 2)),
        "RUB-READ-010",
        {},
        "torch.nn.modules.linear",
    ),
    Case("pt-numpy-scalar", _save(lambda m: {"a": np.float64(1)}), "RUB-READ-008", MGRU, "numpy"),
    Case(
        "pt-sparse", _save(lambda m: {"a": torch.eye(3).to_sparse()}), "RUB-READ-008", MGRU, "_rebuild_sparse"
    ),
    Case("pt-torchscript", _script, "RUB-READ-009", {}, "torch.jit.load"),
    Case("pt-truncated", _truncated, "RUB-READ-006", MGRU),
    Case("pt-storage-too-small", _rewritten(_shrunk_storage), "RUB-READ-011", MGRU, "data/0"),
    Case(
        "pt-expanded-tensor", _save(_weights(_set("x", torch.zeros(1).expand(1 << 40)))), "RUB-READ-011", MGRU
    ),
    Case(
        "pt-bomb",
        _append("good/zeros", bytes(1 << 20), zipfile.ZIP_DEFLATED),
        "RUB-READ-007",
        MGRU,
        "compressed",
    ),
    Case("pt-duplicate-entry", _append("good/data/0", b"x"), "RUB-READ-007", MGRU, "twice"),
    Case("pt-escaping-entry", _append("../../x", b"x"), "RUB-READ-007", MGRU, "../../x"),
    Case("pt-absolute-entry", _append("/etc/x", b"x"), "RUB-READ-007", MGRU, "/etc/x"),
    Case("pt-encrypted", _encrypted, "RUB-READ-007", MGRU, "encrypted"),
    Case(
        "pt-huge-string",
        _pickle_zip(b"\x80\x04\x8e" + struct.pack("<Q", 1 << 40) + b"."),
        "RUB-READ-015",
        MGRU,
    ),
    Case("pt-slow-hash", _pickle_zip(_slow_hash()), "RUB-READ-015", MGRU),
    Case("pt-stack-underflow", _pickle_zip(b"\x80\x02R."), "RUB-READ-015", MGRU),
    Case(
        "pt-deep-lists",
        _pickle_zip(b"\x80\x02" + b"]" * 20_000 + b"a" * 19_999 + b"."),
        "RUB-READ-012",
        MGRU,
    ),
    Case("pt-two-pickles", _append("good2/data.pkl", b"."), "RUB-READ-006", MGRU),
    Case("pt-nan", _save(_weights(_poison(float("nan")))), "RUB-READ-014", MGRU, "head.bias"),
    Case("pt-infinite", _save(_weights(_poison(float("inf")))), "RUB-READ-014", MGRU, "head.bias"),
    Case(
        "pt-complex",
        _save(_weights(_set("head.bias", torch.ones(40, dtype=torch.complex64)))),
        "RUB-READ-008",
        MGRU,
    ),
    Case("pt-terminal-codes", _save(_weights(_set("a\x1b[2J\nb", torch.ones(1)))), "RUB-READ-013", MGRU),
    Case(
        "pt-global-with-newline", _pickle_zip(b"\x80\x04\x8c\x02o\n\x8c\x02\x1bx\x93."), "RUB-READ-008", MGRU
    ),
    Case("pt-no-tensors", _save(lambda m: ["a", "b"]), "RUB-READ-012", MGRU),
    Case(
        "pt-missing-keys",
        _save(_weights(lambda s: {k: v for k, v in s.items() if k != "conv.weight"})),
        "RUB-READ-013",
        MGRU,
        "conv.weight",
    ),
    Case(
        "pt-extra-keys", _save(_weights(_set("conv.wait", torch.ones(1)))), "RUB-READ-013", MGRU, "conv.wait"
    ),
    Case("pt-other-shape", _save(_weights(_set("head.bias", torch.ones(7)))), "RUB-READ-013", MGRU, "[7]"),
    Case("pt-no-arch", _save(_weights(lambda s: None)), "RUB-READ-031", {}, "--arch"),
    Case(
        "pt-unknown-arch",
        _save(_weights(lambda s: None)),
        "RUB-MODEL-001",
        {"arch": "taiyaki-mgruu"},
        "did you mean",
    ),
    Case(
        "pt-absurd-config",
        _save(_weights(lambda s: None)),
        "RUB-READ-033",
        {**MGRU, "arch_config": ABSURD["config"]},
    ),
    Case("pt-empty-pickle", _pickle_zip(b""), "RUB-READ-015", MGRU),
    Case("pt-foreign-zip", lambda f, m: _npz(f), "RUB-READ-004", MGRU, "zip archive"),
)


def _npz(folder: Path) -> Path:
    np.savez(folder / "m.npz", a=np.zeros(3))
    return folder / "m.npz"


LEGACY = {"_use_new_zipfile_serialization": False}
OTHER_CASES = (
    Case(
        "legacy-pickle-mkdir",
        _save(lambda m: {"a": Payload(m)}, **LEGACY),
        "RUB-READ-008",
        MGRU,
        "posix.mkdir",
        _unsafe,
    ),
    Case(
        "legacy-whole-module",
        _save(lambda m: torch.nn.Linear(2, 2), **LEGACY),
        "RUB-READ-010",
        {},
        "torch.nn.modules",
    ),
    Case("legacy-storage-lie", _legacy_lie, "RUB-READ-011", MGRU),
    Case(
        "legacy-truncated",
        lambda f, m: _cut(_save(lambda m: mgru().state_dict(), **LEGACY)(f, m), 64),
        "RUB-READ-006",
        MGRU,
    ),
    Case(
        "pickle-bare",
        _bytes(lambda m: pickle.dumps(Payload(m))),
        "RUB-READ-008",
        MGRU,
        "",
        lambda p: pickle.loads(p.read_bytes()),
    ),
    Case("file-empty", _bytes(b""), "RUB-READ-003", MGRU),
    Case("file-missing", lambda f, m: f / "absent.pt", "RUB-READ-001", MGRU),
    Case("file-pipe", _fifo, "RUB-READ-002", MGRU),
    Case("file-device", lambda f, m: Path("/dev/zero"), "RUB-READ-002", MGRU),
    Case("file-folder", _folder, "RUB-READ-004", MGRU),
    Case("file-random", _bytes(bytes(range(200, 256)) * 9), "RUB-READ-004", MGRU),
    Case("file-gzip", _bytes(gzip.compress(b"x" * 99)), "RUB-READ-004", MGRU, "gzip"),
    Case("file-hdf5", _bytes(b"\x89HDF\r\n\x1a\n" + bytes(99)), "RUB-READ-004", MGRU, "HDF5"),
    Case("checkpoint-version", _save(_checkpoint(version=99)), "RUB-READ-030", {}, "99"),
    Case("checkpoint-no-meta", _save(lambda m: {**_checkpoint()(m), "meta": None}), "RUB-READ-030"),
    Case("checkpoint-unknown-key", _save(_checkpoint(meta={"strid": 4})), "RUB-READ-030", {}, "strid"),
    Case(
        "checkpoint-unknown-arch", _save(_checkpoint(meta={"arch": "nothing"})), "RUB-READ-030", {}, "nothing"
    ),
    Case("checkpoint-absurd-config", _save(_checkpoint(meta=ABSURD)), "RUB-READ-033"),
    Case(
        "checkpoint-other-config",
        _save(_checkpoint(meta={"config": {"size": 16, "layers": 2}})),
        "RUB-READ-013",
    ),
    Case("checkpoint-with-arch", _save(_checkpoint()), "RUB-READ-032", MGRU),
    Case(
        "checkpoint-payload",
        _save(lambda m: {**_checkpoint()(m), "x": Payload(m)}),
        "RUB-READ-008",
        {},
        "posix.mkdir",
        _unsafe,
    ),
)


def _cut(path: Path, count: int) -> Path:
    path.write_bytes(path.read_bytes()[:-count])
    return path


def _safetensors(header: Any, data: bytes = b"", length: int | None = None) -> Callable[[Path, Path], Path]:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    size = len(text) if length is None else length
    return _bytes(struct.pack("<Q", size) + text + data, "m.safetensors")


def _row(shape: list[int], begin: int, end: int, dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


SAFETENSORS_CASES = (
    Case(
        "safetensors-header-beyond-file",
        _safetensors({"a": _row([1], 0, 4)}, bytes(4), 1 << 31),
        "RUB-READ-016",
        MGRU,
    ),
    Case("safetensors-not-json", _safetensors(b"{not json}"), "RUB-READ-016", MGRU),
    Case("safetensors-deep-json", _safetensors(b'{"a":' + b"[" * 200_000), "RUB-READ-016", MGRU),
    Case("safetensors-duplicate", _safetensors(b'{"a":{},"a":{}}'), "RUB-READ-016", MGRU, "twice"),
    Case(
        "safetensors-overlap",
        _safetensors({"a": _row([2], 0, 8), "b": _row([1], 4, 8)}, bytes(8)),
        "RUB-READ-016",
        MGRU,
        "overlap",
    ),
    Case("safetensors-hole", _safetensors({"a": _row([1], 4, 8)}, bytes(8)), "RUB-READ-016", MGRU, "hole"),
    Case("safetensors-overflow", _safetensors({"a": _row([1 << 62, 4], 0, 0)}), "RUB-READ-011", MGRU),
    Case("safetensors-negative", _safetensors({"a": _row([-1], 0, 4)}, bytes(4)), "RUB-READ-016", MGRU),
    Case("safetensors-truncated", _safetensors({"a": _row([4], 0, 16)}, bytes(8)), "RUB-READ-011", MGRU),
    Case(
        "safetensors-unknown-type",
        _safetensors({"a": _row([1], 0, 4, "Q99")}, bytes(4)),
        "RUB-READ-017",
        MGRU,
        "Q99",
    ),
    Case("safetensors-metadata", _safetensors({"__metadata__": {"a": 3}}), "RUB-READ-016", MGRU),
    Case("safetensors-bad-head", _safetensors({"__metadata__": {"rubicc": "{"}}), "RUB-READ-030"),
    Case("safetensors-no-arch", _safetensors({"a": _row([1], 0, 4)}, bytes(4)), "RUB-READ-031"),
)
CASES = ZIP_CASES + OTHER_CASES + SAFETENSORS_CASES
