"""``manifest.json``: what an artefact is made of, deterministic to the byte.

Reproducibility is claimed for manifest.json itself and every file in ``files``: same input, same versions,
same kind of CPU, same bytes (``files`` also across CPUs). Three files are *volatile*, because they hold
times: ``measured.json``, ``report.json`` and ``report.html``. The manifest names them without a hash;
measured.json carries the hashes of the other two and of itself, so `verify` still checks every byte.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path, PurePosixPath
from typing import Any

from rubicc.errors import ModelRefused, RubiccError, VerificationFailed
from rubicc.evidence.decision import Decision

SCHEMA_VERSION = 1
MANIFEST = "manifest.json"
MEASURED = "measured.json"
VOLATILE = (MEASURED, "report.html", "report.json")
MAX_BYTES = 32 * 2**20
MAX_FILES = 100_000
_HEX = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class PassEntry:
    """A pass as it ran: its options and whether it changed the graph."""

    id: str
    options: Mapping[str, Any] = field(default_factory=dict)
    changed: bool = False


@dataclass(frozen=True)
class Manifest:
    """The typed manifest. Holds no path of the machine and no time.

    Attributes:
        target: ``T`` or ``T:device``.
        model: ``name``, ``kind`` (reader id) and ``arch`` of the source.
        inputs: role (``model``, ``calib``, ``reference``) -> sha256 of what was read.
        versions: tool and library versions; ``rubicc`` is always there.
        plugins: ``group:name`` of every entry-point plugin installed -> package and version.
        cpu: ``architecture`` and ``flags`` of the machine that compiled.
        seeds: name -> seed.
        passes: in the order they ran.
        decisions: what was chosen that nobody literally asked for.
        evidence: summary of the verification (gaps as text-safe JSON values).
        files: relative POSIX path -> sha256, without the manifest and the volatile files.
        volatile: names of the volatile files that are there.
    """

    target: str
    model: Mapping[str, str] = field(default_factory=dict)
    inputs: Mapping[str, str] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    plugins: Mapping[str, str] = field(default_factory=dict)
    cpu: Mapping[str, Any] = field(default_factory=dict)
    seeds: Mapping[str, int] = field(default_factory=dict)
    passes: tuple[PassEntry, ...] = ()
    decisions: tuple[Decision, ...] = ()
    evidence: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    volatile: tuple[str, ...] = ()
    tool: str = "rubicc"
    schema_version: int = SCHEMA_VERSION

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return json.loads(json.dumps(asdict(self), allow_nan=False))

    def to_json(self) -> str:
        """Deterministic text: sorted keys, ASCII, newline at the end."""
        return dump_json(self.to_dict())

    @classmethod
    def from_json(cls, text: str) -> Manifest:
        """Strict inverse of :meth:`to_json`.

        Raises:
            ModelRefused: ``RUB-ART-010`` wrong form or version, ``RUB-ART-012`` a path that could escape.
        """
        data = _load_json_object(text, MANIFEST)
        version = data.get("schema_version")
        if data.get("tool") != "rubicc" or type(version) is not int or version != SCHEMA_VERSION:
            raise _unreadable(
                f"manifest of {data.get('tool')!r}, schema version {version!r}; expected rubicc, 1"
            )
        known = {f.name for f in fields(cls)}
        if set(data) != known:
            odd = sorted(set(data) ^ known)
            raise _unreadable(f"unknown or missing manifest key {odd[0]!r}")
        try:
            return cls(**_typed(data))
        except (TypeError, KeyError, AttributeError, ValueError) as err:
            raise _unreadable(f"manifest has the wrong form: {err}") from err

    @property
    def content_sha256(self) -> str:
        """One digest of ``files``: two artefacts with equal digests hold the same bytes."""
        return hashlib.sha256(dump_json(dict(self.files)).encode()).hexdigest()


@dataclass(frozen=True)
class FileCheck:
    """Result of re-hashing an artefact: relative paths, sorted."""

    changed: tuple[str, ...]
    missing: tuple[str, ...]
    extra: tuple[str, ...]
    checked: int

    @property
    def ok(self) -> bool:
        """Whether the folder holds exactly what was written."""
        return not (self.changed or self.missing or self.extra)

    def require_ok(self, where: str) -> None:
        """Raise unless :attr:`ok`.

        Raises:
            VerificationFailed: ``RUB-ART-011`` naming every file.
        """
        parts = [
            f"{len(names)} {word}: {', '.join(names)}"
            for word, names in (("changed", self.changed), ("missing", self.missing), ("extra", self.extra))
            if names
        ]
        if parts:
            raise VerificationFailed(
                "RUB-ART-011", "; ".join(parts), where=where, hint="copy or compile it again"
            )


def seal(folder: Path, manifest: Manifest, measured: Mapping[str, Any]) -> Manifest:
    """Write measured.json and, last, manifest.json over the finished files of ``folder``.

    Raises:
        ModelRefused: ``RUB-ART-012`` a file's name is not acceptable or it is not a regular file.
    """
    hashes = {path: file_sha256(folder / path) for path in walk_files(folder)}
    reports = {name: hashes[name] for name in VOLATILE if name in hashes and name != MEASURED}
    body = {"schema_version": SCHEMA_VERSION, "measured": dict(measured), "files": reports}
    body["sha256"] = _digest(body)
    (folder / MEASURED).write_text(dump_json(body), encoding="utf-8")
    files = {path: digest for path, digest in hashes.items() if path not in (*VOLATILE, MANIFEST)}
    sealed = replace(manifest, files=files, volatile=tuple(sorted([*reports, MEASURED])))
    (folder / MANIFEST).write_text(sealed.to_json(), encoding="utf-8")
    return sealed


def read(folder: str | Path) -> Manifest:
    """The manifest of an artefact folder.

    Raises:
        ModelRefused: ``RUB-ART-010``, ``RUB-ART-012``.
    """
    return Manifest.from_json(_read_text(Path(folder), MANIFEST))


def read_measured(folder: str | Path) -> dict[str, Any]:
    """The ``measured`` part of measured.json: times, counts and machine facts of the run that compiled.

    Raises:
        ModelRefused: ``RUB-ART-010``.
    """
    measured = read_json(Path(folder), MEASURED).get("measured")
    if not isinstance(measured, dict):
        raise _unreadable("measured.json has the wrong form")
    return measured


def read_json(folder: Path, name: str) -> dict[str, Any]:
    """A JSON object in a regular file directly in ``folder``, read strictly (no NaN, no duplicate keys).

    Raises:
        ModelRefused: ``RUB-ART-010``.
    """
    return _load_json_object(_read_text(folder, name), name)


def is_ours(folder: Path) -> bool:
    """Whether the folder carries a manifest this tool wrote (of any schema version)."""
    try:
        data = read_json(folder, MANIFEST)
    except RubiccError:
        return False
    return data.get("tool") == "rubicc" and "schema_version" in data and isinstance(data.get("files"), dict)


def foreign_files(folder: Path) -> list[str]:
    """What stands in our folder but in no manifest of ours, read leniently (any schema version)."""
    data = read_json(folder, MANIFEST)
    try:
        return sorted(set(walk_files(folder)) - {MANIFEST, *VOLATILE, *data.get("files", ())})
    except ModelRefused as err:
        return [err.where or err.what]


def verify_files(folder: str | Path) -> FileCheck:
    """Re-hash every file of an artefact, volatile ones included.

    Raises:
        ModelRefused: ``RUB-ART-010`` unreadable manifest, ``RUB-ART-012`` symbolic link or device inside.
    """
    folder = Path(folder)
    manifest = read(folder)
    expected: dict[str, str | None] = dict(manifest.files) | dict.fromkeys(manifest.volatile)
    present = set(walk_files(folder)) - {MANIFEST}
    if MEASURED in present and MEASURED in expected:
        expected |= _measured_hashes(folder)
    changed = [
        path
        for path, digest in expected.items()
        if path in present and (digest is None or file_sha256(folder / path) != digest)
    ]
    return FileCheck(
        changed=tuple(sorted(changed)),
        missing=tuple(sorted(set(expected) - present)),
        extra=tuple(sorted(present - set(expected))),
        checked=len(present & set(expected)) + 1,
    )


def walk_files(folder: Path) -> Iterator[str]:
    """Relative POSIX paths of every file below ``folder``, sorted per folder; links are never followed.

    Raises:
        ModelRefused: ``RUB-ART-012``.
    """
    pending, count = [folder], 0
    while pending:
        for entry in sorted(os.scandir(pending.pop()), key=lambda e: e.name):
            path = Path(entry.path).relative_to(folder).as_posix()
            mode = entry.stat(follow_symlinks=False).st_mode
            if stat.S_ISDIR(mode):
                check_path(path)
                pending.append(Path(entry.path))
                continue
            count += 1
            if not stat.S_ISREG(mode) or count > MAX_FILES:
                raise ModelRefused("RUB-ART-012", "not a regular file (or far too many files)", where=path)
            yield check_path(path)


def check_path(path: str) -> str:
    """``path`` if it is relative, normal, printable and inside; used on everything a manifest names.

    Raises:
        ModelRefused: ``RUB-ART-012``.
    """
    pure = PurePosixPath(path)
    plain = path.isprintable() and "\\" not in path and len(path) <= 1024
    if not plain or not path or pure.is_absolute() or ".." in pure.parts or str(pure) != path or path == ".":
        raise ModelRefused("RUB-ART-012", f"path {path[:120]!r} is not acceptable in an artefact")
    return path


def file_sha256(path: Path) -> str:
    """Hex sha256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def dump_json(value: Any) -> str:
    """The one way artefact JSON is written: equal values give equal bytes."""
    return json.dumps(value, sort_keys=True, indent=1, allow_nan=False) + "\n"


def _measured_hashes(folder: Path) -> dict[str, str | None]:
    """Hashes measured.json claims for the reports, and for itself: its real one if its own seal holds."""
    try:
        body = read_json(folder, MEASURED)
        seal_holds = body.pop("sha256", None) == _digest(body)
        files = body.get("files")
    except RubiccError:
        return {}
    if not seal_holds or not isinstance(files, dict):
        return {}
    own = {MEASURED: file_sha256(folder / MEASURED)}
    return own | {name: files.get(name) for name in VOLATILE if name in files}


def _digest(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(dump_json(dict(body)).encode()).hexdigest()


def _read_text(folder: Path, name: str) -> str:
    """Text of a small regular file directly in ``folder``; links are refused, also at the last moment."""
    path = folder / name
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with os.fdopen(fd, "rb") as file:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise _unreadable(f"{name} is not a regular file", str(folder))
            raw = file.read(MAX_BYTES + 1)
    except OSError as err:
        raise _unreadable(f"{name} cannot be opened: {err.strerror}", str(folder)) from err
    if len(raw) > MAX_BYTES:
        raise _unreadable(f"{name} is larger than {MAX_BYTES} bytes", str(folder))
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as err:
        raise _unreadable(f"{name} is not UTF-8 text", str(folder)) from err


def _load_json_object(text: str, what: str) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len({key for key, _ in pairs}) != len(pairs):
            raise ValueError("a key appears twice")
        return dict(pairs)

    def no_constant(name: str) -> Any:
        raise ValueError(f"{name} is not JSON")

    try:
        data = json.loads(text, object_pairs_hook=unique, parse_constant=no_constant)
    except (ValueError, RecursionError) as err:
        raise _unreadable(f"{what} is not acceptable JSON: {err}") from err
    if not isinstance(data, dict):
        raise _unreadable(f"{what} is not a JSON object")
    return data


def _typed(data: Mapping[str, Any]) -> dict[str, Any]:
    """Manifest fields from JSON values; raises TypeError, KeyError or ValueError on any wrong form."""
    values = dict(data)
    for key in ("model", "versions", "plugins", "inputs", "files"):
        if not all(isinstance(v, str) for v in values[key].values()):
            raise TypeError(f"{key} must map texts to texts")
    if not all(type(v) is int for v in values["seeds"].values()):
        raise TypeError("seeds must be whole numbers")
    if not (isinstance(values["cpu"], dict) and isinstance(values["evidence"], dict)):
        raise TypeError("cpu and evidence must be objects")
    if not isinstance(values["target"], str):
        raise TypeError("target must be a text")
    for path, digest in values["files"].items():
        check_path(path)
        if not _HEX.fullmatch(digest) or path in (*VOLATILE, MANIFEST):
            raise ValueError(f"file entry {path!r} is not acceptable")
    if any(name not in VOLATILE for name in values["volatile"]):
        raise ValueError("unknown volatile file")
    values["volatile"] = tuple(values["volatile"])
    values["passes"] = tuple(PassEntry(**item) for item in values["passes"])
    values["decisions"] = tuple(Decision(**item) for item in values["decisions"])
    return values


def _unreadable(what: str, where: str = "") -> ModelRefused:
    return ModelRefused("RUB-ART-010", what, where=where, hint="compile the model again")
