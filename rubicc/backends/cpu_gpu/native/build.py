"""Compiles the kernels with the machine's own C++ compiler, once, into the user's cache.

Sources ship with rubicc; artefacts carry none, so opening one never runs code that came with it. The library
is named after everything it depends on: sources, compiler, flags and CPU.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import shutil
import subprocess
import tempfile
from importlib.resources import files
from pathlib import Path

from rubicc.backends.cpu_gpu.tune_cache import folder as tune_folder
from rubicc.errors import ToolMissing

FLAGS = ("-std=c++17", "-O3", "-march=native", "-fno-math-errno", "-shared", "-fPIC", "-pthread", "-w")
COMPILERS = ("g++", "clang++", "c++")
SECONDS = 300
_SOURCE = "run.cpp"


def compiler() -> str:
    """Path of the C++ compiler: ``$CXX``, else the first of g++, clang++, c++; empty when there is none."""
    named = os.environ.get("CXX")
    return next((path for name in ([named] if named else COMPILERS) if (path := shutil.which(name))), "")


@functools.cache
def library() -> ctypes.CDLL:
    """The compiled kernels, loaded; compiles them first where the cache does not hold them.

    Raises:
        ToolMissing: no compiler (RUB-CPU-060), or it failed (RUB-CPU-061).
    """
    path = compiler()
    if not path:
        hint = "install g++ or clang++, or choose --runtime openvino"
        raise ToolMissing(
            "RUB-CPU-060", "the native runtime needs a C++ compiler, and none was found", hint=hint
        )
    sources = _sources()
    target = _folder() / f"kernels-{_key(path, sources)}.so"
    if not target.is_file():
        _compile(path, sources, target)
    return ctypes.CDLL(str(target))


def _folder() -> Path:
    """A folder that only this user can write: what lies in it is loaded as code."""
    home = tune_folder().parent / "native"
    try:
        home.mkdir(parents=True, exist_ok=True, mode=0o700)
        stat = home.stat()
        if stat.st_uid == os.getuid() and not stat.st_mode & 0o022 and os.access(home, os.W_OK):
            return home
    except OSError:
        pass
    return _private()


@functools.cache
def _private() -> Path:
    import atexit

    folder = Path(tempfile.mkdtemp(prefix="rubicc-native-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


@functools.cache
def _sources() -> dict[str, bytes]:
    home = files("rubicc.backends.cpu_gpu.native").joinpath("kernels")
    return {item.name: item.read_bytes() for item in sorted(home.iterdir(), key=lambda item: item.name)
            if item.name.endswith((".h", ".cpp"))}  # fmt: skip


def _key(path: str, sources: dict[str, bytes]) -> str:
    digest = hashlib.sha256()
    for name, body in sources.items():
        digest.update(f"{name} {len(body)}\n".encode() + body)
    # What -march=native means here: a cache may be shared by machines with other CPUs.
    for arguments in (("--version",), ("-march=native", "-E", "-v", "-x", "c++", os.devnull)):
        answer = subprocess.run([path, *arguments], capture_output=True, timeout=SECONDS, check=False)
        lines = (answer.stdout + answer.stderr).splitlines()
        digest.update(b"\n".join(line for line in lines if b"-march" in line or b"version" in line))
    digest.update(" ".join(FLAGS).encode())
    return digest.hexdigest()[:32]


def _compile(path: str, sources: dict[str, bytes], target: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="rubicc-build-", dir=target.parent) as home:
        for name, body in sources.items():
            (Path(home) / name).write_bytes(body)
        made = Path(home) / "kernels.so"
        command = [path, *FLAGS, _SOURCE, "-o", made.name]
        try:
            done = subprocess.run(command, cwd=home, capture_output=True, timeout=SECONDS, check=False)
        except (OSError, subprocess.TimeoutExpired) as err:
            raise ToolMissing(
                "RUB-CPU-061", f"{Path(path).name} could not compile the kernels: {err}"
            ) from err
        if done.returncode != 0:
            text = done.stderr.decode(errors="replace")
            first = next((line for line in text.splitlines() if "error" in line), text[:200])
            raise ToolMissing(
                "RUB-CPU-061",
                f"{Path(path).name} could not compile the kernels: {first[:300]}",
                hint="try another compiler with CXX=..., or choose --runtime openvino",
            )
        os.replace(made, target)
