"""Artefacts, test vectors and sequence files that were tampered with, as MODEL or as data."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import pickle
import shutil
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from trials import COMPILE, Bench, Commands, Trial

Change = Callable[[Path, Path], object]
MANIFEST = frozenset({"RUB-ART-010"})
ESCAPE = frozenset({"RUB-ART-010", "RUB-ART-012"})
RUNTIME = frozenset({"RUB-CPU-031"})
MODEL = frozenset({"RUB-CPU-030"})
VECTORS = frozenset({"RUB-DRV-007"})
CHANGED = frozenset({"RUB-ART-011"})
ALL = ("verify", "inspect", "basecall")


class Payload:
    """Unpickling makes the marker."""

    def __init__(self, marker: Path) -> None:
        self.marker = str(marker)

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.marker,)


def _json(name: str, change: Callable[[dict[str, Any]], object]) -> Change:
    def edit(folder: Path, marker: Path) -> None:
        path = folder / name
        data = json.loads(path.read_text())
        change(data)
        path.write_text(json.dumps(data))

    return edit


def _text(name: str, text: str | bytes) -> Change:
    raw = text if isinstance(text, bytes) else text.encode()
    return lambda folder, marker: (folder / name).write_bytes(raw)


def _pipe(name: str) -> Change:
    def edit(folder: Path, marker: Path) -> None:
        (folder / name).unlink()
        os.mkfifo(folder / name)

    return edit


def _link(name: str) -> Change:
    """The file becomes a link to itself moved outside the artefact."""

    def edit(folder: Path, marker: Path) -> None:
        outside = folder.parent / "outside"
        (folder / name).rename(outside)
        (folder / name).symlink_to(outside)

    return edit


def _flip(name: str) -> Change:
    def edit(folder: Path, marker: Path) -> None:
        data = bytearray((folder / name).read_bytes())
        data[len(data) // 2] ^= 1
        (folder / name).write_bytes(data)

    return edit


def _sealed(change: Change) -> Change:
    """``change``, and every hash made to fit again: only what is inside can give it away."""

    def edit(folder: Path, marker: Path) -> None:
        from rubicc.evidence import manifest as manifests

        change(folder, marker)
        path = folder / "cpu_gpu" / "runtime.json"
        data = json.loads(path.read_text())
        model = folder / "cpu_gpu" / "model.onnx"
        if isinstance(data, dict) and "model" in data:
            data["model"]["sha256"] = hashlib.sha256(model.read_bytes()).hexdigest()
            path.write_text(json.dumps(data))
        manifests.seal(folder, manifests.read(folder), manifests.read_measured(folder))

    return edit


def _vectors(content: Callable[[Path], bytes]) -> Change:
    return _sealed(lambda folder, marker: (folder / "verify/inputs.npz").write_bytes(content(marker)))


def pickled_npz(marker: Path) -> bytes:
    """An .npz whose array is an object that runs the payload."""
    header = b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }"
    return _npz(_npy(header) + pickle.dumps([Payload(marker)]))


def _npy(header: bytes) -> bytes:
    padded = header.ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(padded).to_bytes(2, "little") + padded


def _npz(member: bytes, compression: int = zipfile.ZIP_STORED) -> bytes:
    import io

    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        archive.writestr("x.npy", member)
    return buffer.getvalue()


def trillion_npz(marker: Path) -> bytes:
    """A header that declares four terabytes over sixteen bytes."""
    return _npz(_npy(b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000,), }") + bytes(16))


def literal_npz(marker: Path) -> bytes:
    """A header that is an expression."""
    return _npz(_npy(f"__import__('os').mkdir({str(marker)!r})".encode()))


def bomb_npz(marker: Path) -> bytes:
    """200 MB of zeros in 200 kB, declared as one float."""
    header = _npy(b"{'descr': '<f4', 'fortran_order': False, 'shape': (1,), }")
    return _npz(header + bytes(200 << 20), zipfile.ZIP_DEFLATED)


def other_input_npz(marker: Path) -> bytes:
    """A sound file with another input's name and shape."""
    header = _npy(b"{'descr': '<f4', 'fortran_order': False, 'shape': (2, 2), }")
    return _npz(header + bytes(16)).replace(b"x.npy", b"z.npy")


def _external_model(folder: Path, marker: Path) -> None:
    """The emitted graph takes its weights from a file outside the artefact."""
    import onnx

    path = folder / "cpu_gpu/model.onnx"
    model = onnx.load(path)
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.ClearField("float_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../../canary.txt")
    path.write_bytes(model.SerializeToString())


def _drop_output(folder: Path, marker: Path) -> None:
    """Another network under the same name: shapes contradict runtime.json."""
    import onnx
    from onnx import helper

    node = helper.make_node("Relu", ["x"], ["y"])
    info = [helper.make_tensor_value_info(name, 1, ["N", 1, "T"]) for name in ("x", "y")]
    graph = helper.make_graph([node], "g", info[:1], info[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    (folder / "cpu_gpu/model.onnx").write_bytes(model.SerializeToString())
    assert onnx


# name -> (change, verbs, exit code, codes)
CHANGES: dict[str, tuple[Change, tuple[str, ...], int, frozenset[str]]] = {
    "manifest-not-json": (_text("manifest.json", "{"), ("verify",), 3, MANIFEST),
    "manifest-deep": (_text("manifest.json", "[" * 200_000), ("verify",), 3, MANIFEST),
    "manifest-not-utf8": (_text("manifest.json", b"\xff\xfe{}"), ("verify",), 3, MANIFEST),
    "manifest-huge": (_text("manifest.json", b" " * (33 << 20)), ("verify",), 3, MANIFEST),
    "manifest-nan": (_text("manifest.json", '{"tool": NaN}'), ("verify",), 3, MANIFEST),
    "manifest-duplicate-key": (
        _text("manifest.json", '{"tool":"rubicc","tool":"x"}'),
        ("verify",),
        3,
        MANIFEST,
    ),
    "manifest-pipe": (_pipe("manifest.json"), ("verify",), 3, MANIFEST),
    "manifest-link": (_link("manifest.json"), ("verify",), 3, MANIFEST),
    "manifest-version": (_json("manifest.json", lambda d: d.update(schema_version=99)), ALL, 3, MANIFEST),
    "manifest-unknown-key": (_json("manifest.json", lambda d: d.update(run="rm -rf")), ALL, 3, MANIFEST),
    "manifest-files-list": (_json("manifest.json", lambda d: d.update(files={"a": 3})), ALL, 3, MANIFEST),
    "manifest-escaping-path": (
        _json("manifest.json", lambda d: d["files"].update({"../canary.txt": "0" * 64})),
        ALL,
        3,
        ESCAPE,
    ),
    "manifest-absolute-path": (
        _json("manifest.json", lambda d: d["files"].update({"/etc/passwd": "0" * 64})),
        ALL,
        3,
        ESCAPE,
    ),
    "manifest-target": (
        _json("manifest.json", lambda d: d.update(target="os.system")),
        ALL,
        2,
        frozenset({"RUB-TGT-001"}),
    ),
    "file-changed": (_flip("cpu_gpu/model.onnx"), ("verify",), 5, CHANGED),
    "file-missing": (lambda f, m: (f / "cpu_gpu/run.py").unlink(), ("verify",), 5, CHANGED),
    "file-added": (_text("cpu_gpu/run2.py", "import os"), ("verify",), 5, CHANGED),
    "file-link": (_link("cpu_gpu/model.onnx"), ("verify",), 3, ESCAPE),
    "file-pipe": (_pipe("cpu_gpu/model.onnx"), ("verify",), 3, ESCAPE),
    "measured-changed": (_flip("measured.json"), ("verify",), 5, CHANGED),
    "model-changed": (_flip("cpu_gpu/model.onnx"), ("basecall",), 3, MODEL),
    "model-pipe": (_pipe("cpu_gpu/model.onnx"), ("basecall",), 3, MODEL),
    "model-missing": (lambda f, m: (f / "cpu_gpu/model.onnx").unlink(), ("basecall",), 3, MODEL),
    "model-garbage-sealed": (
        _sealed(_text("cpu_gpu/model.onnx", b"\xff" * 400)),
        ("basecall", "verify"),
        7,
        frozenset({"RUB-CPU-008"}),
    ),
    "model-external-data-sealed": (
        _sealed(_external_model),
        ("basecall", "verify"),
        7,
        frozenset({"RUB-CPU-008"}),
    ),
    "model-swapped-sealed": (
        _sealed(_drop_output),
        ("basecall", "verify"),
        3,
        frozenset({"RUB-CPU-030", "RUB-CPU-031", "RUB-CPU-036"}),
    ),
    "runtime-not-json": (_text("cpu_gpu/runtime.json", "{"), ("basecall",), 3, RUNTIME),
    "runtime-deep": (_text("cpu_gpu/runtime.json", "[" * 200_000), ("basecall",), 3, RUNTIME),
    "runtime-not-utf8": (_text("cpu_gpu/runtime.json", b"\xff"), ("basecall",), 3, RUNTIME),
    "runtime-huge": (_text("cpu_gpu/runtime.json", b" " * (5 << 20)), ("basecall",), 3, RUNTIME),
    "runtime-pipe": (_pipe("cpu_gpu/runtime.json"), ("basecall",), 3, RUNTIME),
    "runtime-version": (
        _json("cpu_gpu/runtime.json", lambda d: d.update(schema_version=9)),
        ("basecall",),
        3,
        RUNTIME,
    ),
    "runtime-escaping-model": (
        _json("cpu_gpu/runtime.json", lambda d: d["model"].update(file="../../x.onnx")),
        ("basecall",),
        3,
        RUNTIME,
    ),
    "runtime-threads": (
        _json("cpu_gpu/runtime.json", lambda d: d.update(threads=10**9)),
        ("basecall",),
        3,
        RUNTIME,
    ),
    "runtime-batch": (
        _json("cpu_gpu/runtime.json", lambda d: d.update(batch=-1)),
        ("basecall",),
        3,
        RUNTIME,
    ),
    "runtime-meta-wrong": (
        _json("cpu_gpu/runtime.json", lambda d: d["meta"].update(stride="three")),
        ("basecall",),
        3,
        RUNTIME,
    ),
    "runtime-meta-unknown-key": (
        _json("cpu_gpu/runtime.json", lambda d: d["meta"].update(strid=3)),
        ("basecall",),
        3,
        RUNTIME | {"RUB-SPEC-001"},
    ),
    "runtime-other-runtime": (
        _json("cpu_gpu/runtime.json", lambda d: d.update(runtime="os")),
        ("basecall",),
        2,
        frozenset({"RUB-CPU-020"}),
    ),
    "vectors-pickle": (_vectors(pickled_npz), ("verify",), 3, VECTORS),
    "vectors-trillion": (_vectors(trillion_npz), ("verify",), 3, VECTORS),
    "vectors-expression": (_vectors(literal_npz), ("verify",), 3, VECTORS),
    "vectors-bomb": (_vectors(bomb_npz), ("verify",), 2, frozenset({"RUB-CPU-034"})),
    "vectors-not-zip": (_vectors(lambda m: b"hello"), ("verify",), 3, VECTORS),
    "vectors-other-input": (_vectors(other_input_npz), ("verify",), 2, frozenset({"RUB-CPU-032"})),
    "report-garbage": (_text("report.json", "{"), ("inspect",), 3, MANIFEST | {"RUB-ART-013"}),
}


def _live(bench: Bench) -> None:
    bench.marker.parent.mkdir(exist_ok=True)
    with contextlib.suppress(Exception):
        path = bench.cwd / "control.npz"
        path.write_bytes(pickled_npz(bench.marker))
        np.load(path, allow_pickle=True)["x"]


def artefact_trials() -> Iterator[Trial]:
    """Every change, under every verb that must notice it."""
    for name, (change, verbs, exit_code, codes) in CHANGES.items():

        def make(bench: Bench, change: Change = change, verbs: tuple[str, ...] = verbs) -> Commands:
            folder = bench.input / "artefact"
            shutil.copytree(bench.artefact, folder)
            change(folder, bench.marker)
            rest = {"basecall": (str(bench.good), "-o", "calls.fasta"), "diff": (str(bench.artefact),)}
            return [(verb, "input/artefact", *rest.get(verb, ())) for verb in verbs]

        live = _live if name == "vectors-pickle" else None
        yield Trial(f"artefact/{name}", make, exit_code, codes, live)


DATA: dict[str, Callable[[Path], bytes]] = {
    "pickle": pickled_npz,
    "trillion": trillion_npz,
    "expression": literal_npz,
    "not-zip": lambda marker: b"hello",
    "empty": lambda marker: b"",
    "other-input": other_input_npz,
}


def data_trials() -> Iterator[Trial]:
    """``--reference`` and ``verify --data`` with arrays that are no arrays."""
    codes = frozenset({"RUB-DRV-006"})
    for name, content in DATA.items():

        def make(bench: Bench, content: Callable[[Path], bytes] = content) -> Commands:
            (bench.input / "data.npz").write_bytes(content(bench.marker))
            return _data_lines(bench)

        yield Trial(f"data/{name}", make, 2, codes)

    def pipe(bench: Bench) -> Commands:
        os.mkfifo(bench.input / "data.npz")
        return _data_lines(bench)

    yield Trial("data/pipe", pipe, 2, codes)


def _data_lines(bench: Bench) -> Commands:
    return (
        ("verify", str(bench.artefact), "--data", "input/data.npz"),
        ("compile", bench.onnx, *COMPILE, "--reference", "input/data.npz"),
    )


SEQUENCES: dict[str, bytes] = {
    "empty": b"",
    "binary": bytes(range(256)) * 20,
    "no-header": b"ACGT\n" * 9,
    "bam-truncated": b"BAM\x01" + b"\xff" * 40,
    "gzip-truncated": b"\x1f\x8b\x08\x00" + bytes(20),
    "fastq-cut": b"@a\nACGT\n+\n!!",
}


def sequence_trials() -> Iterator[Trial]:
    """``evaluate`` on calls and references that are neither."""
    codes = frozenset(f"RUB-GEN-15{n}" for n in range(10))
    for name, content in SEQUENCES.items():

        def make(bench: Bench, content: bytes = content) -> Commands:
            (bench.input / "bad.fastq").write_bytes(content)
            (bench.input / "good.fasta").write_text(">r\n" + "ACGTTGCA" * 200 + "\n")
            return (
                ("evaluate", "input/bad.fastq", "--reference", "input/good.fasta"),
                ("evaluate", "input/good.fasta", "--reference", "input/bad.fastq"),
            )

        yield Trial(f"sequence/{name}", make, 2 if name == "empty" else 3, codes)

    def pipe(bench: Bench) -> Commands:
        os.mkfifo(bench.input / "bad.fastq")
        return (("evaluate", "input/bad.fastq", "--reference", "input/bad.fastq"),)

    yield Trial("sequence/pipe", pipe, 2, codes)


def trials() -> tuple[Trial, ...]:
    """All of them."""
    return (*artefact_trials(), *data_trials(), *sequence_trials())
