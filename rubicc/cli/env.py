"""``rubicc env``: the block a bug report needs."""

from __future__ import annotations

import argparse
import os

from rubicc.cli.console import Console, facts


def configure(parser: argparse.ArgumentParser) -> None:
    """The verb has no arguments of its own."""


def run(args: argparse.Namespace, console: Console) -> int:
    """Print versions, machine, runtimes' providers and RUBICC_* variables."""
    from rubicc.evidence import environment

    value = {
        "versions": environment.library_versions(environment.LIBRARIES + environment.READERS),
        "machine": environment.machine(),
        "cpu": environment.cpu(),
        "providers": _providers(),
        "variables": {key: os.environ[key] for key in sorted(os.environ) if key.startswith("RUBICC_")},
    }
    flags = set(value["cpu"]["flags"])
    telling = [
        name
        for name in ("avx2", "fma", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8", "asimd")
        if name in flags
    ]
    lines = [
        *facts(value["versions"]),
        "",
        *facts(value["machine"] | {"cpu flags": " ".join(telling)}),
        "",
        *facts(value["providers"]),
    ]
    if value["variables"]:
        lines += ["", *facts(value["variables"])]
    console.result(value, lines)
    return 0


def _providers() -> dict[str, str]:
    """Execution providers and devices the runtimes offer here; a failure is reported in place."""
    found = {}
    try:
        import onnxruntime

        found["onnxruntime"] = ", ".join(onnxruntime.get_available_providers())
    except Exception as error:  # a broken runtime is what a bug report is about
        found["onnxruntime"] = f"not usable: {type(error).__name__}: {error}"
    try:
        from rubicc.backends.cpu_gpu.templates.run import import_openvino

        found["openvino"] = ", ".join(import_openvino().Core().available_devices)
    except Exception as error:
        found["openvino"] = f"not usable: {type(error).__name__}: {error}"
    return found
