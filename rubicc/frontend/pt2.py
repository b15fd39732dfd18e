"""Exported programs (``.pt2``): opened by us, judged, rewritten, and only then given to torch.

``torch.export.load`` executes what a doctored file asks for in at least nine ways (pickled example inputs,
``use_pickle`` payloads, custom and opaque objects, legacy pickles, size expressions, node targets, generated
names, tree descriptions, guard code) and loads compiled libraries. The rewritten archive holds none of them.
"""

from __future__ import annotations

import io
import json
import re
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from rubicc.errors import ModelRefused
from rubicc.evidence.decision import Decision
from rubicc.evidence.manifest import file_sha256
from rubicc.frontend import zips
from rubicc.frontend.fit import finite
from rubicc.frontend.limits import DEFAULT, Limits
from rubicc.frontend.pickles import check_view
from rubicc.frontend.pt2_program import clean_program
from rubicc.frontend.source import Source
from rubicc.spec import TensorSpec
from rubicc.text import first_line

if TYPE_CHECKING:
    import torch

_HINT = "export again with torch.export.save from plain tensors"
_SMALL = re.compile(
    r"archive_format|archive_version|byteorder|version|\.format_version|\.storage_alignment"
    r"|\.data/(version|serialization_id)"
)
_PAYLOAD = re.compile(r"data/(weights/weight|constants/tensor)_[0-9]{1,6}")
_IN_MEMORY = 64 << 20  # archives above this are rewritten to an unnamed temporary file instead
# torch's serialised scalar type ids (schema 8): bytes per element of those that are read.
_ITEM_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 2, 7: 4, 8: 8, 12: 1, 13: 2}
_STRIDED = 7


@dataclass(frozen=True)
class _Names:
    """Entries of one program, without the archive's root folder."""

    program: str
    weights: str
    constants: str
    samples: str
    payloads: tuple[str, ...]
    small: tuple[str, ...]
    extra: tuple[str, ...]


def read(path: Path, limits: Limits = DEFAULT) -> Source:
    """The exported program in ``path``.

    Raises:
        ModelRefused: RUB-READ-005, -006, -007, -011, -014, -020 to -025.
    """
    with zips.open_zip(path, limits) as archive:
        buffer, removed = _rewrite(archive, path, limits)
    import torch

    try:
        with buffer:
            program = torch.export.load(buffer)
    except Exception as err:  # torch wraps many kinds of errors in its own
        raise ModelRefused(
            "RUB-READ-025", f"torch refused it: {first_line(err)}", where=path.name, hint=_HINT
        ) from err
    _check_values(program, path.name)
    decisions = []
    if removed:
        reason = "not needed to compute the outputs"
        decisions.append(Decision("RUB-READ-D04", path.name, "replaced " + ", ".join(removed), reason))
    return Source(
        kind="pt2",
        name=path.stem,
        sha256=file_sha256(path),
        program=program,
        inputs=user_inputs(program),
        decisions=decisions,
    )


def _rewrite(archive: zipfile.ZipFile, path: Path, limits: Limits) -> tuple[IO[bytes], list[str]]:
    root = archive.namelist()[0].partition("/")[0] + "/"
    names = _classify(archive, root, path.name)
    program, removed = clean_program(
        zips.read_entry(archive, root + names.program, limits), path.name, limits
    )
    configs = {
        name: _check_payloads(archive, root, name, path.name, limits)
        for name in (names.weights, names.constants)
    }
    if names.extra:
        removed.append(f"{len(names.extra)} extra files by nothing")
    total = sum(info.file_size for info in archive.infolist())
    buffer: IO[bytes] = io.BytesIO() if total <= _IN_MEMORY else tempfile.TemporaryFile()  # noqa: SIM115
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as target:
        target.writestr(root + names.program, program)
        target.writestr(root + names.samples, b"")
        for name, text in configs.items():
            target.writestr(root + name, text)
        for name in names.small:
            target.writestr(root + name, zips.read_entry(archive, root + name, limits))
        for name in names.payloads:
            _copy(archive, target, root + name, path.name)
    buffer.seek(0)
    return buffer, removed


def _copy(archive: zipfile.ZipFile, target: zipfile.ZipFile, name: str, where: str) -> None:
    """Move one payload in blocks; its checksum is verified while reading."""
    try:
        with archive.open(name) as source, target.open(zipfile.ZipInfo(name), "w", force_zip64=True) as sink:
            while block := source.read(1 << 20):
                sink.write(block)
    except (zipfile.BadZipFile, OSError, EOFError) as err:
        raise ModelRefused(
            "RUB-READ-006", f"entry {name!r} is damaged: {err}", where=where, hint="fetch or save it again"
        ) from err


def _classify(archive: zipfile.ZipFile, root: str, where: str) -> _Names:
    """Sort entries into roles; anything without a role refuses the file (RUB-READ-020)."""
    inner = []
    for name in archive.namelist():
        if not name.startswith(root):
            _refuse_entry(name, where)
        inner.append(name[len(root) :])
    programs = [n for n in inner if re.fullmatch(r"models/[A-Za-z0-9_]{1,64}\.json", n)]
    if len(programs) != 1:
        raise ModelRefused(
            "RUB-READ-025", f"{len(programs)} programs in the archive", where=where, hint=_HINT
        )
    model = programs[0][len("models/") : -len(".json")]
    weights, constants = (
        f"data/weights/{model}_weights_config.json",
        f"data/constants/{model}_constants_config.json",
    )
    samples = f"data/sample_inputs/{model}.pt"
    known = {programs[0], weights, constants, samples}
    payloads, small, extra = [], [], []
    for name in inner:
        if name in known:
            continue
        if _PAYLOAD.fullmatch(name):
            payloads.append(name)
        elif _SMALL.fullmatch(name):
            small.append(name)
        elif name.startswith("extra/") and not name.endswith((".pt", ".pkl", ".so", ".py")):
            extra.append(name)
        elif re.match(r"data/constants/(custom_obj|opaque_obj)_", name):
            raise ModelRefused("RUB-READ-022", f"pickled object {name!r}", where=where, hint=_HINT)
        else:
            _refuse_entry(name, where)
    for name in (weights, constants):
        if name not in inner:
            raise ModelRefused("RUB-READ-025", f"entry {name!r} is missing", where=where, hint=_HINT)
    return _Names(programs[0], weights, constants, samples, tuple(payloads), tuple(small), tuple(extra))


def _refuse_entry(name: str, where: str) -> None:
    raise ModelRefused(
        "RUB-READ-020", f"entry {name[:120]!r} is not part of an exported program", where=where, hint=_HINT
    )


def _check_payloads(archive: zipfile.ZipFile, root: str, name: str, where: str, limits: Limits) -> bytes:
    """The payload table ``name``, every row judged: raw tensors only, each within its entry."""
    text = zips.read_entry(archive, root + name, limits)
    sizes = {info.filename: info.file_size for info in archive.infolist()}
    folder = name.rpartition("/")[0]
    dtypes: dict[str, int] = {}
    try:
        table = json.loads(text)
        rows = table["config"]
        if set(table) != {"config"} or not isinstance(rows, dict):
            raise ValueError("unknown form")
        for tensor, row in rows.items():
            _check_row(tensor, row, where)
            entry = f"{folder}/{row['path_name']}"
            if not _PAYLOAD.fullmatch(entry) or root + entry not in sizes:
                _refuse_entry(entry, where)
            meta = row["tensor_meta"]
            dtype = meta["dtype"]
            if (
                dtypes.setdefault(entry, dtype) != dtype
                or meta["layout"] != _STRIDED
                or dtype not in _ITEM_BYTES
            ):
                raise ModelRefused(
                    "RUB-READ-017",
                    f"tensor {tensor[:80]!r}: type {dtype}",
                    where=where,
                    hint="export it dense",
                )
            _check_extent(tensor, meta, sizes[root + entry], where)
            meta["device"] = {"type": "cpu", "index": None}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as err:
        raise ModelRefused(
            "RUB-READ-025", f"malformed table {name!r}: {first_line(err)}", where=where, hint=_HINT
        ) from err
    return json.dumps(table).encode()


def _check_row(tensor: str, row: dict[str, Any], where: str) -> None:
    path_name = row["path_name"]
    if str(path_name).startswith(("custom_obj_", "opaque_obj_")):
        raise ModelRefused(
            "RUB-READ-022", f"constant {tensor[:80]!r} is a pickled object", where=where, hint=_HINT
        )
    if row["use_pickle"] is not False:
        raise ModelRefused("RUB-READ-021", f"tensor {tensor[:80]!r} is pickled", where=where, hint=_HINT)
    if (
        set(row) != {"path_name", "is_param", "use_pickle", "tensor_meta"}
        or type(row["is_param"]) is not bool
    ):
        raise ValueError("unknown row")


def _check_extent(tensor: str, meta: dict[str, Any], nbytes: int, where: str) -> None:
    """The declared view must lie within the entry's bytes (RUB-READ-011)."""
    item = _ITEM_BYTES[meta["dtype"]]
    size, stride = ([n["as_int"] for n in meta[key]] for key in ("sizes", "strides"))
    offset = meta["storage_offset"]["as_int"]
    numbers = (*size, *stride, offset)
    if len(size) != len(stride) or not all(type(n) is int and 0 <= n < 1 << 62 for n in numbers):
        raise ValueError(f"tensor {tensor[:80]!r} has no valid shape")
    if nbytes % item:
        raise ModelRefused(
            "RUB-READ-011",
            f"tensor {tensor[:80]!r}: {nbytes} bytes of {item}-byte values",
            where=where,
            hint=_HINT,
        )
    check_view(nbytes // item, offset, tuple(size), tuple(stride), where)


def _check_values(program: torch.export.ExportedProgram, where: str) -> None:
    for name, value in program.state_dict.items():
        if value.is_floating_point() and not finite(value):
            raise ModelRefused(
                "RUB-READ-014",
                f"tensor {name!r} holds NaN or infinite values",
                where=where,
                hint="use another file",
            )


def user_inputs(program: torch.export.ExportedProgram) -> tuple[TensorSpec, ...]:
    """Names, shapes (symbols as text) and types of the user inputs."""
    wanted = set(program.graph_signature.user_inputs)
    specs = []
    for node in program.graph.nodes:
        value = node.meta.get("val")
        if node.op == "placeholder" and node.name in wanted and hasattr(value, "shape"):
            shape = tuple(n if isinstance(n, int) else str(n) for n in value.shape)
            specs.append(TensorSpec(node.name, shape, str(value.dtype).removeprefix("torch.")))
    return tuple(specs)
