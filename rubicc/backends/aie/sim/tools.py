"""The compiler, and what is compiled once: the runtime and the precompiled headers, in the user's cache."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from rubicc.backends.compiled import code_folder, compiler_identity, framed, keep_newest
from rubicc.errors import ToolMissing, VerificationFailed

HOME = Path(__file__).parent
INCLUDE = HOME / "include"
ARCHITECTURES = {"aie": 10, "aie-ml": 20, "aie-mlv2": 22}
SECONDS = 600
MAX_PREPARED, MAX_PREPARED_BYTES = 6, 512 * 2**20  # two versions of all architectures, 60 MB each
# Sums wrap and memory is read as several types, as on the device; floats are IEEE's, never fused.
FLAGS = ("-std=c++20", "-O2", "-march=native", "-fwrapv", "-fno-strict-aliasing", "-ffp-contract=off", "-w")


def compiler() -> str:
    """Path of g++ (or ``$CXX``).

    Raises:
        ToolMissing: there is none (RUB-AIE-501).
    """
    path = shutil.which(os.environ.get("CXX") or "g++")
    if not path:
        raise ToolMissing("RUB-AIE-501", "the emulation needs g++, and it was not found", hint="install g++")
    return path


def flags(arch: int) -> list[str]:
    """Flags of every unit. ``__X86SIM__`` is how projects ask for their functional main program."""
    return [*FLAGS, f"-D__AIE_ARCH__={arch}", "-D__X86SIM__", f"-I{INCLUDE}"]


def call(command: list[str], cwd: Path, what: str) -> None:
    """Run the compiler.

    Raises:
        VerificationFailed: it refused its input (RUB-AIE-502).
        ToolMissing: it could not be run (RUB-AIE-501).
    """
    try:
        done = subprocess.run(command, cwd=cwd, capture_output=True, timeout=SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as err:
        raise ToolMissing("RUB-AIE-501", f"{Path(command[0]).name} could not be run: {err}") from err
    if done.returncode:
        text = done.stderr.decode(errors="replace")
        lines = [line for line in text.splitlines() if "error" in line or "undefined reference" in line]
        raise VerificationFailed(
            "RUB-AIE-502",
            f"{what} does not compile: {(lines or [text[:300]])[0][:400]}",
            hint="docs/targets/aie-emulation.md lists the names the emulation models",
        )


def sources() -> dict[str, bytes]:
    """Every header and runtime file of the emulation by path below ``sim/``."""
    found = [p for p in sorted(HOME.rglob("*")) if p.suffix in (".h", ".hpp", ".cpp")]
    return {str(p.relative_to(HOME)): p.read_bytes() for p in found}


def prepared(arch: int) -> Path:
    """Folder with ``runtime.o`` and the precompiled ``all.h`` for this compiler, CPU and architecture."""
    path = compiler()
    digest = hashlib.sha256(compiler_identity(path) + " ".join(flags(arch)).encode() + framed(sources()))
    target = code_folder("aie-emulation") / digest.hexdigest()[:32]
    if target.is_dir():
        os.utime(target)
    else:
        with tempfile.TemporaryDirectory(prefix="build-", dir=target.parent) as text:
            home = Path(text) / "made"
            home.mkdir()
            unit = str(HOME / "runtime" / "runtime.cpp")
            call([path, *flags(arch), "-O1", "-c", unit, "-o", "runtime.o"], home, "the emulation's runtime")
            (home / "all.h").write_text("#include <adf.h>\n#include <aie_api/aie.hpp>\n")
            header = [path, *flags(arch), "-x", "c++-header", "all.h", "-o", "all.h.gch"]
            call(header, home, "the emulation's headers")
            try:
                os.replace(home, target)
            except OSError:
                if not target.is_dir():  # else another process was first
                    raise
        keep_newest(target.parent, MAX_PREPARED, MAX_PREPARED_BYTES)
    return target
