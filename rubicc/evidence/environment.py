"""Facts of the machine and the installed software, without importing any of it."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

# What can change the bytes or the numbers of an artefact.
LIBRARIES = (
    "torch",
    "numpy",
    "onnx",
    "onnx-ir",
    "onnxscript",
    "onnxruntime",
    "openvino",
    "qonnx",
    "brevitas",
    "transformers",
    "safetensors",
    "protobuf",
    "numba",
)
READERS = ("h5py", "vbz-h5py-plugin", "pod5", "pysam", "mappy", "edlib", "fast-ctc-decode", "coremltools")


def library_versions(names: tuple[str, ...] = LIBRARIES) -> dict[str, str]:
    """Installed version of rubicc, Python and each library; ``absent`` where there is none."""
    from rubicc import __version__

    found = {"rubicc": __version__, "python": platform.python_version()}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "absent"
    return found


def cpu() -> dict[str, Any]:
    """Architecture, model name and sorted flags of the CPU; empty flags where the system does not say."""
    fields: dict[str, str] = {}
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            key, _, value = line.partition(":")
            fields.setdefault(key.strip(), value.strip())
    except OSError:
        fields = {}
    flags = fields.get("flags") or fields.get("Features") or ""
    name = fields.get("model name") or platform.processor() or "unknown"
    return {"architecture": platform.machine(), "model": name, "flags": sorted(flags.split())}


def machine() -> dict[str, Any]:
    """What a reader of a measurement must know about the machine."""
    memory = 0
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "system": f"{platform.system()} {platform.release()}",
        "cpu": cpu()["model"],
        "architecture": platform.machine(),
        "cores": cores,
        "memory_bytes": memory,
    }
