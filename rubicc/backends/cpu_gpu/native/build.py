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

from rubicc.backends.compiled import code_folder, compiler_identity, framed
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
    target = code_folder("native") / f"kernels-{_key(path, sources)}.so"
    if not target.is_file():
        _compile(path, sources, target)
    return ctypes.CDLL(str(target))


@functools.cache
def _sources() -> dict[str, bytes]:
    home = files("rubicc.backends.cpu_gpu.native").joinpath("kernels")
    return {item.name: item.read_bytes() for item in sorted(home.iterdir(), key=lambda item: item.name)
            if item.name.endswith((".h", ".cpp"))}  # fmt: skip


def _key(path: str, sources: dict[str, bytes]) -> str:
    digest = hashlib.sha256(framed(sources) + compiler_identity(path) + " ".join(FLAGS).encode())
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
